"""The last labels alone: as if there had been no others."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_lstm.core.rolling import ROWS, Ring
from stream_lstm.core.scoring import Scoreboard

Row = tuple[int, int, float, float, float, float | None]

p = st.floats(0, 1, width=32)
row = st.tuples(st.integers(0, 1), st.integers(-1, 1), p, p, p, p | st.none())
rows = st.lists(row, max_size=40)


def board(rows: list[Row], window: int = 0) -> Scoreboard:
    found = Scoreboard.empty(window, ("raw",))
    for label, last, made, base, repeat, raw in rows:
        found.add(label, last, made, base, repeat, (raw,))
    return found


@given(rows, st.integers(1, 12))
def test_the_last_labels_are_scored_as_if_there_had_been_no_others(rows, window: int) -> None:
    rolling = board(rows, window).figures()["rolling"]
    if not rows:
        assert rolling is None
        return
    alone = board(rows[-window:])
    wanted, prefixes = alone.figures(), ("", "base_rate_", "last_label_")
    assert (rolling["labels"], rolling["window"]) == (len(rows[-window:]), window)
    for name in ("accuracy_band", "evidence", "reliability", "rolling"):
        del wanted[name]
    assert set(rolling) == {"labels", "window", *wanted}
    tied = [grades.ranking.tied() for grades in alone.grades()]
    areas = dict(zip((prefix + "auc" for prefix in prefixes), tied, strict=True))
    for name, value in wanted.items():
        close = areas.get(name, 0.0) / 2 + 1e-9
        assert rolling[name] == (None if value is None else pytest.approx(value, abs=close)), name


@given(rows, rows, st.integers(1, 12))
def test_streams_together_give_the_last_labels_of_each(one, two, window: int) -> None:
    merged, whole = board(one, window), board(one[-window:] + two[-window:], 100)
    merged.merge(board(two, window))
    found, wanted = merged.figures()["rolling"], whole.figures()["rolling"]
    assert same(found, wanted and wanted | {"window": window})


def same(one: dict[str, Any] | None, two: dict[str, Any] | None) -> bool:
    if not one or not two:
        return one == two
    return one.keys() == two.keys() and all(
        one[k] == (None if two[k] is None else pytest.approx(two[k], abs=1e-9)) for k in one
    )


def test_it_grows_with_the_labels_and_no_further() -> None:
    ring = Ring(3)
    sizes = []
    for k in range(8):
        ring.extend(ROWS[0].pack(1, -1, k / 8, 0.5, 0.5), ROWS[0].size)
        sizes.append(len(ring.rows))
    assert sizes == [26, 52, *[78] * 6]
    assert ring.figures(())["brier"] == pytest.approx(sum((1 - k / 8) ** 2 for k in (5, 6, 7)) / 3)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(ring), type=Ring) == ring


def test_no_window_keeps_nothing() -> None:
    found = board([(1, 0, 0.5, 0.5, 0.5, None)] * 9)
    assert found.so_far().recent == Ring()
    assert found.figures()["rolling"] is None
