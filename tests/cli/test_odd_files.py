"""Files of another form than is read: each command says which, and what to do."""

import pytest


@pytest.mark.parametrize(
    "command",
    [
        ("replay", "--feature", "bid"),
        ("replay",),
        ("publish", "--bind", "tcp://127.0.0.1:*"),
        ("publish", "--bind", "tcp://127.0.0.1:*", "--columns", "bid,ask"),
        ("doctor", "--feature", "bid"),
    ],
    ids=" ".join,
)
def test_another_separator_is_told_with_a_way_to_convert(cli, tmp_path, command):
    path = tmp_path / "semi.csv"
    path.write_text("time;bid;ask\n2024-01-01;1.5;1.6\n")
    name, *flags = command
    done = cli(name, path, *flags)
    assert done.code == 65
    assert "semi.csv: its fields seem to be separated by ';'; only ',' is read" in done.err


def test_a_replay_tells_once_of_times_that_go_back(cli, tmp_path):
    path = tmp_path / "newest_first.csv"
    path.write_text("t,x\n" + "".join(f"{900 - k},{k % 3}\n" for k in range(40)))
    small = ("--feature", "x", "--hidden", 2, "--window", 5, "--bptt", 5, "--json")
    timed, plain = cli("replay", path, *small, "--time", "t"), cli("replay", path, *small)
    assert timed.code == 0
    assert timed.err.count("the time goes back") == 1
    assert "newest_first.csv:3: the time goes back" in timed.err
    assert "39 rows" in timed.err
    assert "goes back" not in plain.err
    for key in ("log_loss", "predictions"):
        assert timed.json()[key] == plain.json()[key]


def test_what_is_published_or_trained_on_tells_of_times_that_go_back(cli, tmp_path):
    path = tmp_path / "newest_first.csv"
    path.write_text("t,x\n" + "".join(f"{900 - k},{k % 3 - 1}\n" for k in range(400)))
    sent = cli("publish", path, "--time", "t", "--bind", "tcp://127.0.0.1:*", "--speed", "max")
    small = ("--feature", "x", "--hidden", 2, "--window", 5, "--bptt", 5, "--epochs", 1)
    trained = cli("train", path, "--time", "t", *small, "--out", tmp_path / "w.safetensors")
    for done in (sent, trained):
        assert done.code == 0, done.err
        assert "newest_first.csv:3: the time goes back" in done.err
        assert "399 rows" in done.err


@pytest.mark.parametrize("command", ["replay", "doctor", "publish", "inspect", "verify"])
@pytest.mark.parametrize("name", [".", "folder"])
def test_a_directory_is_told_as_one(cli, tmp_path, monkeypatch, command, name):
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path)
    flags = ["--bind", "tcp://127.0.0.1:*"] if command == "publish" else []
    done = cli(command, name, *flags)
    assert (done.code, done.err) == (66, f"stream-lstm: {name} is a directory; name a file\n")
