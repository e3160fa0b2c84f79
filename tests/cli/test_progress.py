"""Progress of long work: a bar on a terminal, and nothing where there is none."""

from __future__ import annotations

import os
import pty
import re
import sys
import threading

import pytest

from stream_lstm.cli.main import main

from ..store.stores import Kept, series, ticks

pytest.importorskip("bokeh", reason="bokeh is not installed")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("stores") / "walk.db"
    with Kept(path) as kept:
        kept.give(ticks(series(600)))
    return path


class Terminal:
    """A pseudo-terminal, and what was written to it."""

    def __init__(self) -> None:
        self._master, slave = pty.openpty()
        self.screen = os.fdopen(slave, "w")
        self._read: list[bytes] = []
        self._thread = threading.Thread(target=self._drain)
        self._thread.start()

    def _drain(self) -> None:
        try:
            while data := os.read(self._master, 65_536):
                self._read.append(data)
        except OSError:
            pass  # what Linux says once nobody has the other end any more

    def text(self) -> str:
        """Close it; return all that stood on it, without the commands to the screen."""
        self.screen.close()
        self._thread.join()
        os.close(self._master)
        return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", b"".join(self._read).decode())


def commands(store, folder):
    return {
        "report": ("report", store, "--out", folder / "r.html"),
        "verify": ("verify", store),
        "export": ("export", store, "--out", folder / "tables"),
    }


@pytest.mark.parametrize(
    ("name", "unit"), [("report", "rows"), ("verify", "inputs"), ("export", "rows")]
)
def test_on_a_terminal_there_is_a_bar_with_rate_and_time_left(
    store, tmp_path, monkeypatch, capsys, name, unit
):
    terminal = Terminal()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(
        sys, "argv", [*map(str, ("stream-lstm", *commands(store, tmp_path)[name]))]
    )
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", terminal.screen)
        with pytest.raises(SystemExit) as ended:
            main()
    text = terminal.text()
    assert not ended.value.code
    last = re.split(r"[\r\n]+", text.strip())[-1]
    assert re.search(rf"100% [\d,]+ {unit}, [\d,]+/s \d+:\d\d:\d\d", last), last
    assert max(map(len, re.split(r"[\r\n]+", text))) <= 80
    assert "100%" not in capsys.readouterr().out


@pytest.mark.parametrize("name", ["report", "verify", "export"])
def test_without_a_terminal_there_is_nothing(cli, store, tmp_path, name):
    outcome = cli(*commands(store, tmp_path)[name])
    assert (outcome.code, outcome.err) == (0, "")
