"""Control characters, files of another form or kind: what commands print of them, and refuse."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from stream_lstm.feed import reader
from stream_lstm.feed.reader import other_kind

from ..hostile import BIDI, HOSTILE, raw
from .lines import ANY_PORT, write_csv

SMALL = ("--hidden", 4, "--window", 5, "--bptt", 5)
X = (*SMALL, "--feature", "x")
FILE_NAME = HOSTILE.replace("/", "")


def quoted(text: str) -> str:
    """A string of TOML."""
    return '"' + "".join(f"\\U{ord(c):08x}" for c in text) + '"'


def series(path, header="x", cells=()):
    rows = [f"{k % 7 - 3}" for k in range(60)]
    path.write_text("\n".join([header, *rows, *cells]) + "\n", encoding="utf-8", newline="")
    return path


# ---- text that would drive a terminal -------------------------------------------------------

FLAGS = {
    **dict.fromkeys(("inspect", "verify"), ()),
    **dict.fromkeys(("replay", "doctor"), X),
    "train": ("--feature", "x", "--epochs", 1, "--out", "w.safetensors"),
    "export": ("--out", "o.onnx"),
    "import": ("--out", "o.safetensors"),
    "report": ("--out", "r.html"),
}


@pytest.mark.parametrize("command", FLAGS)
@pytest.mark.parametrize("there", [False, True])
def test_the_name_of_a_file_is_not_printed_raw(cli, tmp_path, monkeypatch, command, there):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / f"{FILE_NAME}.csv"
    if there:
        series(path)
    done = cli(command, path, *FLAGS[command])
    assert "owned" in done.out + done.err or (there and done.code == 0)
    assert not raw(done.out + done.err)


@pytest.mark.slow
@pytest.mark.parametrize("command", ["replay", "doctor"])
def test_columns_and_cells_are_not_printed_raw(cli, tmp_path, command):
    named = '"' + HOSTILE.replace('"', "") + '"'
    for header, cells in ((named, ()), (f"x{BIDI}", ()), ("x", (f"1{BIDI}", f'"{HOSTILE}"'))):
        done = cli(command, series(tmp_path / "f.csv", header, cells), *X)
        assert done.out + done.err
        assert not raw(done.out + done.err)


def test_a_stream_is_not_printed_or_reported_raw(cli, tmp_path):
    pytest.importorskip("bokeh", reason="bokeh is not installed")
    file, name, store = series(tmp_path / "f.csv"), f"a{BIDI}", tmp_path / f"s{BIDI}.db"
    line = ("replay", file, *X, "--stream", name, "--store", store)
    assert cli(*line, "--json").json()["stream"] == name
    report = ("report", store, "--title", HOSTILE, "--out", tmp_path / "r.html")
    for words in (line, (*line, "--json"), ("inspect", store), ("verify", store), report):
        done = cli(*words)
        assert done.code == 0, done.err
        assert not raw(done.out + done.err)
    html = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "a\\u202egpj.exe" in html
    shown = html.split("<script")[0] + html.rsplit("</script>", 1)[-1]
    for character in (*BIDI[:1], "\u2066", "\x1b", "\x9b", "\x07"):
        assert character not in shown, ascii(character)


@pytest.mark.parametrize(
    "text",
    [
        f"[stream]\nfeatures = [{quoted(HOSTILE)}]",
        f"[stream]\nlabels = {quoted(HOSTILE)}",
        f"[stream]\n{quoted(HOSTILE)} = 1",
        f"[{quoted(HOSTILE)}]\nx = 1",
        f"[model]\nhidden = {quoted(HOSTILE)}",
        f"[learning]\noptimizer = {quoted(HOSTILE)}\nlearn = true",
        f"[learning]\nbank = {quoted(HOSTILE)}\nlearn = true",
        f"[learning.optimizer_args]\n{quoted(HOSTILE)} = 1",
        f"[feed]\nconnect = [{quoted(HOSTILE)}]\ncolumns = [{quoted(HOSTILE)}]",
        f"[serve]\nmetrics = {quoted(HOSTILE)}",
        HOSTILE,
    ],
)
def test_a_configuration_is_not_printed_raw(cli, tmp_path, text):
    path = tmp_path / f"c{BIDI}.toml"
    path.write_text(text, encoding="utf-8", newline="")
    small = series(tmp_path / "f.csv")
    for command in (("check-config", path), ("replay", small, "--config", path, "--verbose")):
        done = cli(*command)
        assert done.out + done.err
        assert not raw(done.out + done.err)


RUN = ("run", "--connect", "tcp://127.0.0.1:1", "--feature", "x")


@pytest.mark.parametrize(
    "arguments",
    [
        (HOSTILE,),
        (f"--{HOSTILE}",),
        ("replay", f"--{HOSTILE}"),
        *(("replay", "x.csv", flag, HOSTILE) for flag in ("--hidden", "--limit", "--feature")),
        ("run", "--connect", HOSTILE, "--feature", "x"),
        (*RUN, "--metrics", HOSTILE),
        (*RUN, "--log-format", HOSTILE),
    ],
    ids=ascii,
)
def test_the_command_line_is_not_printed_raw(cli, tmp_path, monkeypatch, arguments):
    series(tmp_path / "x.csv")
    monkeypatch.chdir(tmp_path)
    done = cli(*arguments)
    assert done.code
    assert not raw(done.out + done.err)


# ---- files of another form ------------------------------------------------------------------


@pytest.mark.parametrize(
    "command",
    [
        ("replay", "--feature", "bid"),
        ("replay",),
        ("publish", "--bind", ANY_PORT),
        ("publish", "--bind", ANY_PORT, "--columns", "bid,ask"),
        ("doctor", "--feature", "bid"),
    ],
    ids=" ".join,
)
def test_two_readings_of_a_table_are_refused_with_the_option_that_decides(cli, tmp_path, command):
    path = tmp_path / "semi.csv"
    path.write_text("bid\n1,5\n1,6\n1,7\n")
    done = cli(command[0], path, *command[1:])
    assert done.code == 65
    assert "semi.csv, line 1: 'bid' is one name, but the lines after it have two" in done.err
    assert "--skip-lines 1" in done.err


@pytest.mark.slow
def test_times_that_go_back_are_reported_once(cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = write_csv(
        tmp_path / "newest_first.csv",
        t=[900 - k for k in range(400)],
        x=[k % 3 - 1 for k in range(400)],
    )
    commands = (
        ("replay", path, *X, "--json"),
        ("publish", path, "--bind", ANY_PORT, "--speed", "max"),
        ("train", path, *X, "--epochs", 1, "--out", "w.safetensors"),
    )
    for command in commands:
        refused = cli(*command, "--time", "t")
        assert (refused.code, refused.out) == (65, "")
        assert "the newest row comes first (by t): --reverse reads" in refused.err
        done = cli(*command, "--time", "t", "--as-is")
        assert done.code == 0, done.err
        assert done.err.count("newest_first.csv:3: the time goes back") == 1
        assert "399 rows" in done.err
    plain, taken = (cli(*commands[0], *more) for more in ((), ("--time", "t", "--as-is")))
    assert "goes back" not in plain.err, "numbers that fall need not be times"
    for key in ("log_loss", "predictions", "digest"):
        assert taken.json()[key] == plain.json()[key]
    assert taken.json()["verdict"].startswith("no verdict: the newest row comes first")


@pytest.mark.parametrize("command", ["replay", "doctor", "publish", "inspect", "verify"])
@pytest.mark.parametrize("name", [".", "folder"])
def test_a_directory_is_reported_as_one(cli, tmp_path, monkeypatch, command, name):
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path)
    done = cli(command, name, *(("--bind", ANY_PORT) if command == "publish" else ()))
    assert (done.code, done.err) == (66, f"stream-lstm: {name} is a directory; name a file\n")


# ---- pipes, devices and sockets in place of files ---------------------------------------------


def commands(odd, file, folder):
    """Each command with an odd file in each of its places."""
    ends = {"csv": odd(".csv"), "parquet": odd(".parquet"), "npy": odd(".npy")}
    for path in ends.values():
        yield from ((command, path, *X) for command in ("replay", "doctor"))
        yield ("train", path, "--feature", "x", "--out", folder / "w.safetensors")
        yield ("publish", path, "--bind", ANY_PORT)
    toml, weights = odd(".toml"), odd(".safetensors")
    yield from ((command, ends["csv"]) for command in ("inspect", "verify"))
    yield ("report", ends["csv"], "--out", folder / "r.html")
    yield ("export", weights, "--out", folder / "o.onnx")
    for suffix in (".keras", ".h5", ".pt", ".safetensors"):
        yield ("import", odd(suffix), "--out", folder / "i.safetensors")
    yield ("check-config", toml)
    for more in (("--config", toml), ("--learn", "--bank", toml), ("--weights", weights)):
        yield ("replay", file, *X, *more)


@pytest.mark.parametrize("kind", ["fifo", "device", "socket"])
def test_each_command_names_the_kind_and_opens_nothing(cli, tmp_path, kind):
    def odd(suffix):
        path = tmp_path / f"odd{suffix}"
        if path.is_symlink() or path.exists():
            return path
        if kind == "fifo":
            os.mkfifo(path)
        elif kind == "device":
            path.symlink_to("/dev/zero")
        else:
            with socket.socket(socket.AF_UNIX) as made:
                made.bind(str(path))
        return path

    named = {"fifo": "a named pipe (FIFO)", "device": "a device", "socket": "a socket"}[kind]
    reads = "replay", "doctor", "train", "publish"
    for command in commands(odd, series(tmp_path / "x.csv"), tmp_path):
        if kind == "fifo" and command[0] in reads and "odd" in Path(command[1]).name:
            continue  # these read pipes
        done = cli(*command)
        assert done.code in (2, 66), (command, done)
        assert f" is {named}; name a file" in done.err, (command, done.err)


@pytest.mark.parametrize("name", ["server.key_secret", "client.key_secret", "server.key"])
def test_a_key_that_is_a_pipe_is_refused(cli, tmp_path, name):
    keys = tmp_path / "keys"
    assert cli("keys", keys).code == 0
    (keys / name).unlink()
    os.mkfifo(keys / name, 0o600)
    flags = (*SMALL, "--publish", ANY_PORT, "--curve-dir", keys, "--idle-timeout", 0.1)
    done = cli(*RUN, *flags)
    assert done.code == 78, done
    assert f"{name} is a named pipe (FIFO)" in done.err


def test_a_plain_file_or_none_is_no_other_kind(tmp_path):
    (tmp_path / "file").touch()
    assert other_kind(tmp_path / "file") == other_kind(tmp_path / "none") == ""
    assert other_kind(tmp_path / "nul\0l") == ""
    assert set(reader.KINDS.values()) > {other_kind(tmp_path)}
