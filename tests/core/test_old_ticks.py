"""The same ticks are old however they come: alone, in blocks, in columns, after a restart."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_lstm.config import Config
from stream_lstm.core.columnar import Arrivals
from stream_lstm.core.old_ticks import NEVER, find_old
from stream_lstm.core.session import Session
from stream_lstm.core.snapshot import restore, take
from stream_lstm.events import OldTimes, Output, Prediction, Refusal, Ticks

from ..engines import engine_for
from ..engines import settings as configuration

NAMES = ("a", "b", "c")
FEATURES = (["x"], ["diff(x)"], ["lag(lag(x))", "elapsed()"])
POLICIES = ("take", "warn", "refuse")


class Tick:
    """What the oracle knows of a tick: its stream, time and values."""

    def __init__(self, stream: int, t_ns: int, values: list[float]) -> None:
        self.stream, self.t_ns, self.values = stream, t_ns, values

    def __repr__(self) -> str:
        return f"Tick({self.stream}, {self.t_ns}, {self.values})"


def old_ones(ticks: list[Tick], *, refuse: bool) -> list[bool]:
    """Which ticks are old, one after the other, where a tick is bad only by its own value."""
    latest: dict[int, tuple[int, list[float]]] = {}
    found = []
    for tick in ticks:
        reached, last = latest.get(tick.stream, (NEVER, []))
        earlier = tick.t_ns < reached
        repeats = tick.t_ns == reached and tick.values == last
        old, good = tick.t_ns != 0 and (earlier or repeats), math.isfinite(tick.values[0])
        found.append(old and (good or refuse))
        if good and not earlier:
            latest[tick.stream] = tick.t_ns, tick.values
    return found


@st.composite
def arrivals(draw: st.DrawFn) -> list[Tick]:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    count, streams = draw(st.integers(1, 150)), draw(st.integers(1, 3))
    jumps = draw(st.sampled_from([[1], [1, 1, 1, 0, -3], [0, 1], [-1, 1], [0]]))
    bad = draw(st.sampled_from([0.0, 0.1, 0.5]))
    clocks = [draw(st.sampled_from([0, -3, 10**18])) for _ in NAMES]
    ticks = []
    for _ in range(count):
        stream = int(rng.integers(streams))
        clocks[stream] += int(rng.choice(jumps))
        x = float(rng.choice([1.0, 2.0, 3.0]))
        x = float(rng.choice([math.nan, math.inf])) if rng.random() < bad else x
        ticks.append(Tick(stream, clocks[stream], [x, float(rng.integers(2))]))
    return ticks


def opened(config: Config, events: list[Output], old: list[OldTimes]) -> Session:
    engine = engine_for(config, len(config.stream.features))
    session = Session(config, ["x", "y"], events.append, engine=engine)
    session.on_old = old.append
    for name in NAMES:
        session.place(name)
    return session


def go(session: Session, ticks: list[Tick], way: str) -> None:
    if way == "alone":
        for tick in ticks:
            session.tick(NAMES[tick.stream], tick.t_ns, tick.values)
        return
    t_ns = np.array([tick.t_ns for tick in ticks], np.int64)
    values = np.array([tick.values for tick in ticks], np.float64).reshape(len(ticks), 2)
    rows = np.array([tick.stream for tick in ticks], np.int64)
    if way == "columns":
        session.arrive(Arrivals(rows, t_ns, values))
        return
    for row in np.unique(rows):
        session.push(Ticks(NAMES[row], t_ns[rows == row], values[rows == row]))


def told(events: list[Output]) -> Any:
    """What came out of each stream, in order; of refusals what and why."""
    out: dict[str, list[Any]] = {}
    for event in events:
        one = (event.kind, event.reason) if isinstance(event, Refusal) else event
        out.setdefault(event.stream, []).append(one)
    return out


def state(session: Session) -> Any:
    session.look()
    table = session.table.state()
    arrays = (table.ints, table.carry, table.memory_t, table.memory_v, table.last, table.pending)
    return table.names, [array.tobytes() for array in arrays]


@pytest.mark.slow
@settings(max_examples=15)
@given(
    ticks=arrivals(),
    cuts=st.lists(st.integers(0, 150), max_size=4).map(sorted),
    ways=st.lists(st.sampled_from(["alone", "columns", "blocks"]), min_size=5, max_size=5),
    policy=st.sampled_from(POLICIES),
    features=st.sampled_from(FEATURES),
    learn=st.booleans(),
    restart=st.booleans(),
)
def test_however_ticks_come_the_same_ones_are_old(
    ticks, cuts, ways, policy, features, learn, restart
):
    config = configuration(
        features=features, window=3, stride=2, on_old_time=policy, learn=learn, bptt=2
    )
    (one, two), (heard, _) = (list[Output](), list[Output]()), (list[OldTimes](), None)
    cut, singly = opened(config, one, heard), opened(config, two, [])
    edges = [0, *cuts, len(ticks)]
    for k, way in enumerate(ways[: len(edges) - 1]):
        go(cut, ticks[edges[k] : edges[k + 1]], way)
        if restart and k == 1:
            written, cut = take(cut), opened(config, one, heard)
            restore(cut, written)
    go(singly, ticks, "alone")
    singly.catch_up()
    cut.catch_up()
    if not learn or len({tick.stream for tick in ticks}) == 1:
        assert state(cut) == state(singly)
        assert told(one) == told(two)
    counted = [cut.streams[name].counters.old_ticks for name in NAMES]
    assert counted == [singly.streams[name].counters.old_ticks for name in NAMES]
    assert sum(event.count for event in heard) == sum(counted)
    if features == ["x"]:
        old = old_ones(ticks, refuse=policy == "refuse")
        assert counted == [
            sum(o for o, tick in zip(old, ticks, strict=True) if tick.stream == row)
            for row in range(len(NAMES))
        ]
    if policy == "refuse":
        refused = [e for e in two if isinstance(e, Refusal) and e.reason.startswith("it")]
        assert len(refused) == sum(counted)


@settings(max_examples=60)
@given(data=st.data())
def test_columns_of_many_streams_agree_with_each_stream_alone(data):
    counts = data.draw(st.lists(st.integers(1, 8), min_size=1, max_size=6))
    total, times = sum(counts), st.integers(-2, 4)
    t_ns = np.array(data.draw(st.lists(times, min_size=total, max_size=total)), np.int64)
    values = np.array(
        data.draw(st.lists(st.sampled_from([1.0, 2.0, math.nan]), min_size=total, max_size=total))
    )[:, None]
    starts = np.cumsum(counts) - counts
    latest = np.array(data.draw(st.lists(times, min_size=len(counts), max_size=len(counts))))
    last = np.ones((len(counts), 1))
    alone, before = [], (latest.copy(), last.copy())
    old = find_old(latest, last, starts, t_ns, values)
    for k, (start, count) in enumerate(zip(starts.tolist(), counts, strict=True)):
        of, part = slice(k, k + 1), slice(start, start + count)
        found = find_old(before[0][of], before[1][of], np.zeros(1, int), t_ns[part], values[part])
        alone += [] if found is None else (found.at + start).tolist()
    assert ([] if old is None else old.at.tolist()) == alone
    assert latest.tolist() == before[0].tolist()
    np.testing.assert_array_equal(last, before[1])


def feed(policy: str, times: list[int], values: list[float]) -> tuple[Session, list[Output]]:
    events = list[Output]()
    config = configuration(features=["x"], window=3, stride=1, on_old_time=policy)
    session = opened(config, events, [])
    go(session, [Tick(0, t, [x, 0.0]) for t, x in zip(times, values, strict=True)], "alone")
    session.catch_up()
    return session, events


@pytest.mark.parametrize("policy", POLICIES)
def test_a_feed_that_comes_twice_is_counted_whole(policy):
    """500 bars, twice; what is refused leaves the predictions of the first time alone."""
    bars = list(range(1, 501))
    values = [float(np.sin(k)) for k in bars]
    once, first = feed(policy, bars, values)
    twice, both = feed(policy, bars * 2, values * 2)
    assert once.streams["a"].counters.old_ticks == 0
    assert twice.streams["a"].counters.old_ticks == 500
    assert twice.streams["a"].n == (500 if policy == "refuse" else 1000)
    if policy == "refuse":
        predictions = [event for event in both if isinstance(event, Prediction)]
        assert predictions == [event for event in first if isinstance(event, Prediction)]


def test_ticks_of_one_moment_are_old_only_where_they_repeat():
    session, events = feed("refuse", [5, 5, 5, 5], [1.0, 2.0, 2.0, 1.0])
    refused = [event.reason for event in events if isinstance(event, Refusal)]
    assert refused == ["it repeats time and values of a tick of 1970-01-01T00:00:00.000000005Z"]
    assert session.streams["a"].n == 3


def test_ticks_without_a_time_are_never_old():
    session, _ = feed("refuse", [0] * 50, [1.0] * 50)
    assert session.streams["a"].counters.old_ticks == 0


def test_a_bad_tick_of_the_far_future_makes_none_old():
    session, events = feed("refuse", [1, 10**18, 2], [1.0, math.nan, 2.0])
    assert session.streams["a"].n == 2
    assert [event.reason for event in events if isinstance(event, Refusal)] == ["x is nan"]


def test_a_bad_tick_that_repeats_is_old_in_a_block_as_alone():
    """It is refused for that, not for its values, whichever of those before it were bad."""
    inf, nan = float("inf"), float("nan")
    rows = [(2, nan, 1.0), (5, nan, 1.0), (2, 2.0, 1.0), (2, 2.0, 0.0), (3, 1.0, 0.0),
            (4, nan, 0.0), (6, inf, 0.0), (6, inf, 0.0), (2, 2.0, 0.0)]  # fmt: skip
    ticks = [Tick(0, t, [x, y]) for t, x, y in rows]
    config = configuration(
        features=["lag(lag(x))", "elapsed()"], window=3, stride=2, on_old_time="refuse"
    )
    (one, two) = (list[Output](), list[Output]())
    block, singly = opened(config, one, []), opened(config, two, [])
    go(block, ticks, "blocks")
    go(singly, ticks, "alone")
    assert told(one) == told(two)
    assert block.streams["a"].counters.old_ticks == 2
