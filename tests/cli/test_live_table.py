"""The live table: what it shows, that it fits, and that nothing drives the terminal."""

import io
import sys

import numpy as np
import pytest
from rich.console import Console

from stream_lstm.cli.live_table import MAX_ROWS, LiveTable, short
from stream_lstm.core.session import Session
from stream_lstm.events import Gap, Prediction, Ticks

from ..engines import engine_for, settings


@pytest.fixture
def session():
    config = settings()
    made = Session(config, ("x",), lambda event: None, engine=engine_for(config))
    values = np.random.default_rng(1).normal(size=(50, 1))
    made.push(Ticks("[red]:x:quotes", np.zeros(50, np.int64), values))
    made.gap(Gap("[red]:x:quotes", 60, 3))
    return made


def drawn(table, session):
    text = io.StringIO()
    Console(file=text, width=80, markup=False, highlight=False).print(table._table(session))
    return text.getvalue()


def test_a_row_has_the_figures_of_its_stream(session):
    now = [0.0]
    table = LiveTable(lambda: now[0])
    table(Prediction("[red]:x:quotes", 42, 0, 0.625))
    drawn(table, session)
    session.streams["[red]:x:quotes"].n += 30
    now[0] = 2.0
    title, row = drawn(table, session).splitlines()
    cells = dict(zip(title.split(), row.split(), strict=True))
    assert cells["stream"] == "[red]:x:q…"
    assert (cells["elements"], cells["preds"], cells["p"]) == ("80", "4", "0.625")
    assert (cells["gaps"], cells["/s"]) == ("1", "15")


def test_it_fits_into_80_columns_whatever_the_counts(session):
    stream = session.streams["[red]:x:quotes"]
    stream.n = 123_456_789_012
    stream.counters.predictions = stream.counters.updates = stream.counters.refused_ticks = 10**10
    text = drawn(LiveTable(lambda: 0.0), session)
    assert max(map(len, text.splitlines())) <= 80
    assert "123.5G" in text


def test_more_streams_than_rows_are_counted(session):
    for k in range(MAX_ROWS + 4):
        session.push(Ticks(f"s{k}", np.zeros(1, np.int64), np.ones((1, 1))))
    text = drawn(LiveTable(lambda: 0.0), session)
    assert len(text.splitlines()) == MAX_ROWS + 2
    assert "5 more" in text


def test_without_a_terminal_there_are_lines_and_nothing_else(session, capsys):
    with LiveTable(lambda: 0.0) as table:
        table.show(session)
        table.refresh()
        table.say("a line")
    assert capsys.readouterr() == ("", "a line\n")


def test_on_a_terminal_it_is_drawn_in_place(session, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    screen = Terminal()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", screen)
    with LiveTable(lambda: 0.0) as table:
        table.show(session)
        table.refresh()
        table.say("[b]said[/b]")
        table.refresh()
    text = screen.getvalue()
    assert "[b]said[/b]" in text
    assert text.count("[red]:x:q…") >= 2
    assert text.rstrip().endswith("\x1b[?25h"), "the cursor is shown again"


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0"), (99_999, "99999"), (100_000, "100.0k"), (12_345_678, "12.3M"), (5 * 10**9, "5.0G")],
)
def test_short(count, text):
    assert short(count) == text
