"""The live table: what it shows, that it fits, and that no terminal holds up who refreshes it."""

import io
import os
import select
import sys

import numpy as np
import pytest
from rich.console import Console

from stream_lstm.cli.console import MAX_ROWS, LiveTable, live_table, short
from stream_lstm.core.session import Session
from stream_lstm.core.table import AT, N
from stream_lstm.events import Gap, Prediction, Ticks
from stream_lstm.serve.logs import QUEUE, Pipe

from ..engines import engine_for, settings

CTRL_S, CTRL_Q = b"\x13", b"\x11"
WAIT_S = 30.0


@pytest.fixture
def session():
    config = settings()
    made = Session(config, ("x",), lambda event: None, engine=engine_for(config))
    values = np.random.default_rng(1).normal(size=(50, 1))
    made.push(Ticks("[red]:x:quotes", np.zeros(50, np.int64), values))
    made.gap(Gap("[red]:x:quotes", 60, 3))
    return made


@pytest.fixture
def pipe():
    with Pipe() as made:
        yield made


def drawn(table, session):
    text = io.StringIO()
    console = Console(file=text, width=80, markup=False, highlight=False)
    console.print(live_table(table._rows(session)))
    return text.getvalue()


def test_a_row_has_the_figures_of_its_stream(session, pipe):
    now = [0.0]
    table = LiveTable(lambda: now[0], pipe)
    table(Prediction("[red]:x:quotes", 42, 0, 0.625))
    drawn(table, session)
    session.push(Ticks("[red]:x:quotes", np.zeros(30, np.int64), np.ones((30, 1))))
    now[0] = 2.0
    title, row = drawn(table, session).splitlines()
    cells = dict(zip(title.split(), row.split(), strict=True))
    assert cells["stream"] == "[red]:x:q…"
    assert (cells["elements"], cells["preds"], cells["p"]) == ("80", "7", "0.625")
    assert (cells["gaps"], cells["/s"]) == ("1", "15")


def test_it_fits_into_80_columns_whatever_the_counts(session, pipe):
    row = session.table.ints[0]
    row[N] = 123_456_789_012
    for counter in ("predictions", "updates", "refused_ticks"):
        row[AT[counter]] = 10**10
    text = drawn(LiveTable(lambda: 0.0, pipe), session)
    assert max(map(len, text.splitlines())) <= 80
    assert "123.5G" in text


def test_more_streams_than_rows_are_counted(session, pipe):
    for k in range(MAX_ROWS + 4):
        session.push(Ticks(f"s{k}", np.zeros(1, np.int64), np.ones((1, 1))))
    text = drawn(LiveTable(lambda: 0.0, pipe), session)
    assert len(text.splitlines()) == MAX_ROWS + 2
    assert "5 more" in text


def test_without_a_terminal_there_are_lines_and_nothing_else(session, capsys):
    with Pipe() as pipe, LiveTable(lambda: 0.0, pipe) as table:
        table.show(session)
        table.refresh()
        pipe.put("a line")
    assert capsys.readouterr() == ("", "a line\n")


def test_on_a_terminal_it_is_drawn_in_place(session, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    screen = Terminal()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", screen)
    with Pipe() as pipe, LiveTable(lambda: 0.0, pipe) as table:
        pipe.put("before")
        table.show(session)
        table.refresh()
        pipe.put("[b]said[/b]")
    text = screen.getvalue()
    assert text.startswith("before\n")
    assert "[b]said[/b]\n" in text
    assert "[red]:x:q…" in text
    assert text.rstrip().endswith("\x1b[?25h"), "the cursor is shown again"


def test_a_terminal_that_is_stopped_delays_nobody_and_then_shows_the_newest(session, monkeypatch):
    """Ctrl-S, then more lines and tables than the queue has room for, then Ctrl-Q."""
    terminal, descriptor = os.openpty()
    monkeypatch.setenv("TERM", "xterm")
    seen = b""
    with open(descriptor, "w", encoding="utf-8") as screen, Pipe() as pipe:
        monkeypatch.setattr(sys, "stderr", screen)
        os.write(terminal, CTRL_S)
        while select.select((), (screen,), (), 0.0)[1]:  # the kernel stops it a moment later
            os.sched_yield()
        with LiveTable(lambda: 0.0, pipe) as table:
            table.show(session)
            pipe.put("line 0")
            while pipe._lines:  # until the writer waits for the terminal, with a line
                os.sched_yield()
            for n in range(1, 2 * QUEUE):
                session.table.ints[0, N] = 10_000 + n
                table.refresh()
                pipe.put(f"line {n}")
        os.write(terminal, CTRL_Q)
        while b"?25h" not in seen and select.select((terminal,), (), (), WAIT_S)[0]:
            seen += os.read(terminal, 65536)
    os.close(terminal)
    lines = seen.decode().splitlines()
    written = [line for line in lines if line.startswith("line ")]
    assert written[:QUEUE] == [f"line {n}" for n in range(QUEUE)]
    assert len(written) + pipe.dropped == 2 * QUEUE
    tables = [line.split()[1] for line in lines if "[red]:x:q…" in line]
    assert tables[-1] == str(10_000 + 2 * QUEUE - 1)
    assert len(tables) <= 2, "of those that waited only the newest is drawn"


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0"), (99_999, "99999"), (100_000, "100.0k"), (12_345_678, "12.3M"), (5 * 10**9, "5.0G")],
)
def test_short(count, text):
    assert short(count) == text
