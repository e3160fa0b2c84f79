"""Bars of progress: on a terminal alone, on standard error, with rows, rate and time left."""

import io
import os
import re
import sys
import threading

import numpy as np
import pytest

from stream_lstm.cli.main import main

SMALL = ("--hidden", "4", "--window", "20", "--feature", "x")
ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A store of 300 ticks, and the folder that it lies in."""
    folder = tmp_path_factory.mktemp("kept")
    values = np.random.default_rng(1).normal(size=300).tolist()
    walk = folder / "walk.csv"
    walk.write_text("\n".join(["x", *map(repr, values)]) + "\n")
    with pytest.MonkeyPatch.context() as patch:
        line = "stream-lstm", "replay", str(walk), *SMALL, "--store", str(folder / "s.db")
        patch.setattr(sys, "argv", list(line))
        with pytest.raises(SystemExit) as ended:
            main()
    assert not ended.value.code
    return folder


@pytest.fixture
def terminal(monkeypatch, capsys):
    """Run `stream-lstm` with a terminal as standard error; return (what it printed, the bar)."""

    def run(*arguments):
        ours, theirs = os.openpty()
        shown = io.BytesIO()

        def read():
            try:
                while data := os.read(ours, 65536):
                    shown.write(data)
            except OSError:  # the other end is closed
                pass

        reader = threading.Thread(target=read)
        reader.start()
        try:
            with os.fdopen(theirs, "w") as stderr:
                monkeypatch.setattr(sys, "stderr", stderr)
                monkeypatch.setattr(sys, "argv", ["stream-lstm", *map(str, arguments)])
                monkeypatch.setenv("TERM", "xterm")
                monkeypatch.setenv("COLUMNS", "100")
                with pytest.raises(SystemExit) as ended:
                    main()
                monkeypatch.undo()
        finally:
            reader.join()
            os.close(ours)
        assert not ended.value.code, shown.getvalue().decode()
        return capsys.readouterr().out, ESCAPE.sub("", shown.getvalue().decode())

    return run


@pytest.mark.parametrize(
    ("words", "unit"),
    [
        (("replay", "walk.csv", *SMALL), "rows"),
        (("verify", "s.db"), "inputs"),
        (("export", "s.db", "--out", "tables"), "rows"),
        (("report", "s.db", "--out", "r.html"), "rows"),
    ],
    ids=["replay", "verify", "export", "report"],
)
def test_long_work_shows_how_far_it_is(kept, terminal, monkeypatch, words, unit):
    if words[0] == "report":
        pytest.importorskip("bokeh", reason="bokeh is not installed")
    monkeypatch.chdir(kept)
    out, shown = terminal(*words)
    last = [part for part in re.split(r"[\r\n]", shown) if "%" in part][-1]
    assert re.search(rf"100% *[1-9]\d* {unit}, [\d,]+ {unit}/s *\d:\d\d:\d\d", last), last
    assert "━" not in out, "standard output is for results"


def test_nothing_is_shown_where_nobody_looks(kept, cli):
    assert cli("export", kept / "s.db", "--out", kept / "quiet").err == ""
    done = cli("verify", kept / "s.db")
    assert (done.code, done.err) == (0, "")
