"""Control characters in files, their names and settings, and what the commands print of them."""

from __future__ import annotations

import pytest

from ..hostile import BIDI, HOSTILE, raw

SMALL = ("--hidden", 2, "--window", 5, "--bptt", 5)
FILE_NAME = HOSTILE.replace("/", "")


def quoted(text: str) -> str:
    """A string of TOML."""
    return '"' + "".join(f"\\U{ord(c):08x}" for c in text) + '"'


def series(path, header="x", cells=()):
    rows = [f"{k % 7 - 3}" for k in range(60)]
    path.write_text("\n".join([header, *rows, *cells]) + "\n", encoding="utf-8", newline="")
    return path


@pytest.mark.parametrize(
    "command", ["replay", "train", "doctor", "inspect", "verify", "export", "import", "report"]
)
@pytest.mark.parametrize("there", [False, True])
def test_the_name_of_a_file_is_not_printed_raw(cli, tmp_path, command, there):
    path = tmp_path / f"{FILE_NAME}.csv"
    if there:
        series(path)
    flags = (*SMALL, "--feature", "x") if command in ("replay", "doctor") else ()
    flags = ("--feature", "x", "--epochs", 1) if command == "train" else flags
    to = {
        "train": "w.safetensors",
        "export": "o.onnx",
        "import": "o.safetensors",
        "report": "r.html",
    }
    out = ("--out", tmp_path / to[command]) if command in to else ()
    done = cli(command, path, *flags, *out)
    assert "owned" in done.out + done.err or (there and done.code == 0)
    assert not raw(done.out + done.err)


@pytest.mark.parametrize("command", ["replay", "doctor"])
def test_columns_and_cells_are_not_printed_raw(cli, tmp_path, command):
    named = '"' + HOSTILE.replace('"', "") + '"'
    for header, cells in ((named, ()), (f"x{BIDI}", ()), ("x", (f"1{BIDI}", f'"{HOSTILE}"'))):
        done = cli(command, series(tmp_path / "f.csv", header, cells), *SMALL, "--feature", "x")
        assert done.out + done.err
        assert not raw(done.out + done.err)


def test_a_stream_is_not_printed_or_reported_raw(cli, tmp_path):
    pytest.importorskip("bokeh", reason="bokeh is not installed")
    file, name = series(tmp_path / "f.csv"), f"a{BIDI}"
    store = tmp_path / f"s{BIDI}.db"
    flags = (*SMALL, "--feature", "x", "--stream", name, "--store", store)
    for more in ((), ("--json",)):
        done = cli("replay", file, *flags, *more)
        assert done.code == 0, done.err
        assert not raw(done.out + done.err)
        assert not more or done.json()["stream"] == name
    for command in ("inspect", "verify"):
        done = cli(command, store)
        assert done.code == 0, done.err
        assert not raw(done.out + done.err)
    done = cli("report", store, "--title", HOSTILE, "--out", tmp_path / "r.html")
    assert done.code == 0, done.err
    assert not raw(done.out + done.err)
    html = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "a\\u202egpj.exe" in html
    for character in (*BIDI[:1], "\u2066", "\x1b", "\x9b", "\x07"):
        shown = html.split("<script")[0] + html.rsplit("</script>", 1)[-1]
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
    for command in (("check-config", path), ("replay", small, "--config", path)):
        done = cli(*command)
        assert done.out + done.err
        assert not raw(done.out + done.err)


@pytest.mark.parametrize(
    "arguments",
    [
        (HOSTILE,),
        (f"--{HOSTILE}",),
        ("replay", f"--{HOSTILE}"),
        ("replay", "x.csv", "--hidden", HOSTILE),
        ("replay", "x.csv", "--limit", HOSTILE),
        ("replay", "x.csv", "--feature", HOSTILE),
        ("run", "--connect", HOSTILE, "--feature", "x"),
        ("run", "--connect", "tcp://127.0.0.1:1", "--feature", "x", "--metrics", HOSTILE),
        ("run", "--connect", "tcp://127.0.0.1:1", "--feature", "x", "--log-format", HOSTILE),
    ],
    ids=ascii,
)
def test_the_command_line_is_not_printed_raw(cli, tmp_path, monkeypatch, arguments):
    series(tmp_path / "x.csv")
    monkeypatch.chdir(tmp_path)
    done = cli(*arguments)
    assert done.code
    assert not raw(done.out + done.err)
