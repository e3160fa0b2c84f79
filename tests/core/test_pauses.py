"""Pauses: what a break in time does, and that it is the same however the ticks come."""

from __future__ import annotations

import base64
import itertools
import math
import zlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_lstm.config import Config
from stream_lstm.core import columnar
from stream_lstm.core.columnar import Arrivals
from stream_lstm.core.elements import ElementMaker, Memory
from stream_lstm.core.old_ticks import NEVER
from stream_lstm.core.pauses import Pauses
from stream_lstm.core.replay import LateLabels
from stream_lstm.core.session import Session
from stream_lstm.core.snapshot import restore, take
from stream_lstm.core.stateful import maker_of
from stream_lstm.errors import ConfigurationError
from stream_lstm.events import Expiry, Label, Output, Prediction, Refusal, Ticks
from stream_lstm.schema import LIMIT, StreamConfig

from ..engines import engine_for
from ..engines import settings as configuration
from .driving import plain

NAMES = ("a", "b", "c")
PAUSE = 10
POLICIES = ("continue", "reset", "forget")
LAGS = {"x": 0, "diff(x)": 1, "lag(lag(x))": 2}
FEATURES: tuple[tuple[str, ...], ...] = (("x",), ("diff(x)",), ("lag(lag(x))", "elapsed()"))
WAYS = ("alone", "blocks", "columns")


class Tick(NamedTuple):
    stream: int
    t_ns: int
    x: float


class Told(NamedTuple):
    """What the oracle says of a stream: the due (n, after_gap), and counters."""

    predictions: list[tuple[int, bool]]
    elements: int
    refused: int
    pauses: int
    resets: int


def oracle(ticks: Sequence[Tick], config: Config) -> Told:
    """The ticks of one stream, one after the other, from the words of the manual."""
    stream = config.stream
    feature = stream.features[0]
    latest: int | None = None
    last = math.nan
    memory: list[float] = []
    n = refused = pauses = resets = until = 0
    first, made = stream.window, []
    for tick in ticks:
        timed = tick.t_ns != 0 and latest is not None and latest != 0
        after = timed and latest is not None and tick.t_ns - latest > PAUSE
        behind = [] if after and stream.on_pause != "continue" else memory
        good = math.isfinite(tick.x)
        if feature == "diff(x)" and behind:
            good &= abs(tick.x - behind[-1]) < LIMIT
        if feature == "lag(lag(x))" and len(behind) == 2:
            good = math.isfinite(behind[0])  # the value of this tick is not read yet
        if stream.on_old_time == "refuse" and latest is not None and tick.t_ns != 0:
            good &= tick.t_ns >= latest and (tick.t_ns, tick.x) != (latest, last)
        if not good:
            refused += 1
            continue
        if after:
            pauses += 1
            until = n + stream.window
            if stream.on_pause == "reset":
                resets += 1
                first = stream.window + -(-n // stream.stride) * stream.stride
        if latest is None or tick.t_ns >= latest:
            latest, last = tick.t_ns, tick.x
        if len(behind) == LAGS[feature]:
            n += 1
            if n >= first and (n - stream.window) % stream.stride == 0:
                made.append((n, n <= until))
        memory = [*behind, tick.x][-LAGS[feature] :] if LAGS[feature] else []
    return Told(made, n, refused, pauses, resets)


@st.composite
def arrivals(draw: st.DrawFn) -> list[Tick]:
    """Ticks with pauses, times that go back or are missing, and bad ticks that may hide pauses."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    count, streams = draw(st.integers(1, 150)), draw(st.integers(1, len(NAMES)))
    jumps = draw(
        st.sampled_from([[1], [1, 1, 1, 11], [1, 10, 11, 50], [1, 2, 3, 12, -4, -30], [0, 300]])
    )
    bad, silent = draw(st.sampled_from([0.0, 0.1, 0.6])), draw(st.sampled_from([0.0, 0.2]))
    large = draw(st.sampled_from([0.0, 0.1, 0.6]))
    clocks = [draw(st.sampled_from([0, -60, 10**18])) for _ in NAMES]
    ticks = []
    for k in range(count):
        stream = int(rng.integers(streams))
        clocks[stream] += int(rng.choice(jumps))
        x, t_ns = float(rng.choice([1.0, 2.0, -1.0]) + k / 1000), clocks[stream]
        if rng.random() < large:  # the difference of two of them is bad
            x = float(rng.choice([-9e36, 9e36])) + k * 1e33
        if rng.random() < bad:
            x, t_ns = float(rng.choice([math.nan, math.inf])), t_ns + int(rng.choice([0, 200]))
        if rng.random() < silent:
            t_ns = 0
        ticks.append(Tick(stream, t_ns, x))
    return ticks


def opened(config: Config, events: list[Output]) -> Session:
    engine = engine_for(config, len(config.stream.features))
    session = Session(config, ["x"], events.append, engine=engine)
    for name in NAMES:
        session.place(name)
    return session


def go(session: Session, ticks: Sequence[Tick], way: str) -> None:
    if way == "alone":
        for tick in ticks:
            session.tick(NAMES[tick.stream], tick.t_ns, [tick.x])
        return
    rows, t_ns = (np.array([tick[k] for tick in ticks], np.int64) for k in (0, 1))
    values = np.array([[tick.x] for tick in ticks], np.float64).reshape(len(ticks), 1)
    if way == "columns":
        session.arrive(Arrivals(rows, t_ns, values))
        return
    for row in np.unique(rows):
        session.push(Ticks(NAMES[row], t_ns[rows == row], values[rows == row]))


def told(events: list[Output]) -> dict[str, list[Any]]:
    """What came out of each stream, in order; of refusals what and why."""
    out: dict[str, list[Any]] = {}
    for event in events:
        one = (event.kind, event.reason) if isinstance(event, Refusal) else event
        out.setdefault(event.stream, []).append(one)
    return out


def state(session: Session) -> Any:
    """All that is kept of streams with ticks; others have less before a restart."""
    streams = session.streams.items()
    return {name: plain(one.state()) for name, one in streams if one.counters.ticks}


KINDS: list[dict[str, Any]] = [{}, {"learn": True}, {"labels": "external"}]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS, ids=str)
@settings(max_examples=40, deadline=None)
@given(
    data=st.data(),
    ticks=arrivals(),
    cuts=st.lists(st.integers(0, 150), max_size=4).map(sorted),
    policy=st.sampled_from(POLICIES),
    old=st.sampled_from(["take", "refuse"]),
    features=st.sampled_from(FEATURES),
    restart=st.booleans(),
)
def test_pauses_are_the_oracles_in_every_way(
    kind: dict[str, Any],
    data: st.DataObject,
    ticks: list[Tick],
    cuts: list[int],
    policy: str,
    old: str,
    features: tuple[str, ...],
    restart: bool,
) -> None:
    config = configuration(
        features=list(features),
        pause=f"{PAUSE}ns",
        on_pause=policy,
        on_old_time=old,
        stride=data.draw(st.sampled_from([1, 4])),
        horizon=data.draw(st.sampled_from([1, 5])),
        sharing="per-stream",  # or the streams would meet in their updates
        **kind,
    )
    alone, mixed = list[Output](), list[Output]()
    one, two = opened(config, alone), opened(config, mixed)
    edges = [0, *(cut for cut in cuts if cut < len(ticks)), len(ticks)]
    for start, stop in itertools.pairwise(edges):
        go(one, ticks[start:stop], "alone")
        go(two, ticks[start:stop], data.draw(st.sampled_from(WAYS)))
        if restart:
            written = take(two)
            two = opened(config, mixed)
            restore(two, written)
    one.catch_up()
    two.catch_up()
    assert told(alone) == told(mixed)
    assert state(one) == state(two)
    for row, name in enumerate(NAMES):
        expected = oracle([tick for tick in ticks if tick.stream == row], config)
        stream = one.streams[name]
        made = [e for e in alone if isinstance(e, Prediction) and e.stream == name]
        assert [(e.n, e.after_gap) for e in made] == expected.predictions
        counters = stream.counters
        assert (stream.n, counters.refused_ticks) == (expected.elements, expected.refused)
        assert (counters.pauses, counters.resets) == (expected.pauses, expected.resets)


def session_of(**values: Any) -> tuple[Session, list[Output]]:
    events = list[Output]()
    return opened(configuration(**values), events), events


def ticks_at(times: Sequence[int]) -> list[Tick]:
    rng = np.random.default_rng(1)
    return [Tick(0, t, x) for t, x in zip(times, rng.normal(size=len(times)), strict=True)]


def with_a_pause(count: int = 60) -> list[Tick]:
    return ticks_at([*range(1, count + 1), *range(1000, 1000 + count)])


def by_n(events: list[Output]) -> dict[int, float]:
    return {event.n: event.p for event in events if isinstance(event, Prediction)}


def test_a_reset_is_a_new_stream_and_forget_is_not() -> None:
    ticks = with_a_pause()
    found = {}
    for policy in POLICIES:
        session, events = session_of(
            features=["diff(x)"], pause="10ns", on_pause=policy, stride=1, horizon=3
        )
        go(session, ticks, "blocks")
        found[policy] = by_n(events)
        expiries = [event.n for event in events if isinstance(event, Expiry)]
        assert expiries == ([57, 58, 59] if policy == "reset" else [])
    session, events = session_of(features=["diff(x)"], stride=1, horizon=3)
    go(session, ticks[60:], "alone")
    new = by_n(events)
    assert {n + 59: p for n, p in new.items()} == {
        n: p for n, p in found["reset"].items() if n > 59
    }
    session, events = session_of(features=["diff(x)"], stride=1, horizon=3)
    go(session, ticks, "alone")
    assert by_n(events) == found["continue"]  # which only flags and counts
    assert len(found["forget"]) == len(found["continue"]) - 1
    assert found["forget"][60] not in (found["continue"][60], found["reset"].get(60))


@pytest.mark.parametrize("way", WAYS)
def test_without_a_pause_in_the_data_nothing_changes(way: str) -> None:
    ticks = ticks_at(range(1, 200))
    runs = []
    for more in ({}, {"pause": "10ns", "on_pause": "reset"}):
        session, events = session_of(features=["diff(x)", "elapsed()"], **more)
        go(session, ticks, way)
        session.catch_up()
        runs.append((told(events), state(session)))
    assert runs[0] == runs[1]


def test_elapsed_is_at_most_the_pause() -> None:
    maker = maker_of(StreamConfig(features=("elapsed()",), pause="1s"), ["x"])
    memory = maker.empty()
    times = np.array([1, 2, 2 + 10**9, 3 + 2 * 10**9, 10**15], np.int64)
    runs = maker.make(memory, times, np.ones((5, 1)), lambda *_: None)
    assert [x for _, run in runs for x in run[:, 0]] == [np.float32(1e-9), 1.0, 1.0, 1.0]
    free = ElementMaker(["elapsed()"], ["x"])
    runs = free.make(Memory.empty(1), times, np.ones((5, 1)), lambda *_: None)
    assert max(x for _, run in runs for x in run[:, 0]) > 10**5


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("window", [1, 12])
@pytest.mark.parametrize("feature", ["x", "diff(x)"])
def test_a_look_ahead_of_one_tick_sees_the_pause(policy: str, window: int, feature: str) -> None:
    session, events = session_of(
        features=[feature], pause="10ns", on_pause=policy, stride=1, window=window, bptt=1
    )
    for tick in with_a_pause(20):
        p = session.peek("a", tick.t_ns, [tick.x])
        before = len(by_n(events))
        session.tick("a", tick.t_ns, [tick.x])
        session.catch_up()
        now = by_n(events)
        assert p == (now[max(now)] if len(now) > before else None)


def test_bad_ticks_after_a_pause_cost_little(monkeypatch: pytest.MonkeyPatch) -> None:
    """A night of bad ticks, whose values alone do not show it, is judged in a few passes."""
    maker = ElementMaker(["log_return(x)"], ["x"], pauses=Pauses(10, forgets=True))
    sift, calls = maker._sift_part, []

    def counting(*args: Any) -> Any:
        calls.append(len(args[1]))
        return sift(*args)

    monkeypatch.setattr(maker, "_sift_part", counting)
    count = 5000
    values = np.zeros((count, 1))
    values[:10] = values[-10:] = 1.0
    times = np.arange(count, dtype=np.int64) + 1
    times[10:] += 1000
    sifted = list(maker.sift(Memory.empty(1), times, values))
    assert sum(len(one.refused) for one in sifted) == count - 20
    assert [one.paused for one in sifted].count(True) == 1
    assert len(calls) < 40
    assert sum(calls) < 5 * count


@pytest.mark.parametrize("piece", [3, 5, 100])
def test_refused_ticks_of_columns_are_named_by_their_place(
    monkeypatch: pytest.MonkeyPatch, piece: int
) -> None:
    monkeypatch.setattr(columnar, "PIECE", piece)
    session, events = session_of(features=["diff(x)"], pause="10ns", on_pause="forget")
    rows = np.array([0, 1, 0, 1, 0, 1, 0, 1], np.int64)
    t_ns = np.array([1, 1, 2, 2, 100, 3, 101, 4], np.int64)
    values = np.arange(8.0)[:, None]
    values[[5, 6]] = np.nan
    session.arrive(Arrivals(rows, t_ns, values, origins=[(0, "one"), (4, "two")]))
    refused = [event for event in events if isinstance(event, Refusal)]
    named = {event.stream: (event.index, event.where) for event in refused}
    assert named == {"a": (2, "two"), "b": (1, "two")}
    assert session.streams["a"].counters.pauses == 1
    assert session.streams["b"].counters.pauses == 0


def test_late_labels_of_an_earlier_run_are_given_where_they_were() -> None:
    """The second half of a file after a restart, with a pause in each half."""
    ticks = ticks_at([*range(1, 40), *range(100, 140), *range(1000, 1060)])
    t_ns = np.array([tick.t_ns for tick in ticks], np.int64)
    values = np.array([[tick.x] for tick in ticks])
    labels = (np.arange(len(ticks)) % 3 == 0).astype(np.float64)
    config = {"features": ["diff(x)"], "labels": "external", "stride": 4, "horizon": 2}
    for policy in POLICIES:
        more = config | {"pause": "10ns", "on_pause": policy}
        (whole, expected), (first, early) = session_of(**more), session_of(**more)
        LateLabels(whole, delay=3).push(Ticks("a", t_ns, values), labels)
        given, at = list[Any](), slice(0, 60)
        late = LateLabels(first, delay=3, on_input=given.append)
        late.push(Ticks("a", t_ns[at], values[at]), labels[at])
        rest, events = session_of(**more)
        restore(rest, take(first))
        late = LateLabels(rest, delay=3)
        count = sum(isinstance(one, Label) for one in given)
        late.rehearse([(Ticks("a", t_ns[at], values[at]), labels[at])], count)
        late.push(Ticks("a", t_ns[60:], values[60:]), labels[60:])
        assert told(early + events) == told(expected)
        assert state(rest) == state(whole)
        assert whole.streams["a"].counters.pauses == 2


OLD_SNAPSHOT = """
eNoL9gkO8WW7z8DAwLY6LTMvPbWooCgzr+Smg0WqiXlaqqVpUmqqqWGKqZmFuUGqiaFRSnKaOVDA2DjZxCTNKMXIwMTS0iTF
JDnVwiQ11dgsLTHJzNjU1MLQbHlOamJRXmoKyGjGBc3Ly1Mz0zNKiic2L00pqSxIXWyTZrK0OCOxIHUi35KUxJLEIxZKi67Z
AxUzLMq6ul9vqtKeuT/s7dcwRexnYGiwR8UgAKMZGFbmF5Rk5mZWpRZNWFqeWJKccWBpSWJSTirIZq6leYm5qcWTFiYuTFpe
nF9alJxafBcozrRgwfqC1LwUoI/jkYUnLpi4YAnQ/8Ugzcwwp2ZaQJw6iUkJ7NZjQJUKsgyogAWN/x8KGBmwA14ozQqlOaE0
46OOA2xAWo6BNoCXRuay4QgPLiLDgxEHn3HPglQQm51G7maiUD/Mncxo4kuTE4uKKlHSESzJT2ISgKUjhgYGhheOYuW792yx
0rcXcI2y25ZneGBxsvv+fa4X9hPnggMOGfvt9rZXatg/Sflop7GVy+F6S/febs5wovSvyE3NzS+qjC/BkeQZ4U4VgCVNWJTA
tJah+hKqdTITI5Le5yeXKdTaPN1/YNGGro8PL+5fkpNYXIJVH4qV6NqWQ3MtLhtZ4FodiPB7wxyde9By5AKUfgGlP9gvzi/P
wxF9DHBbGJYWZ6akgosLhmXFyflFqcVNS5PyE4tSmjH9pQvWdpTpAsQKLagTRaC0EpRWQKOVcHhFxqEr+FufC6usw7RSCWn9
RBWHCjHXk33Syg5eGg0qc48yOzS4LHrfa8znsCQ3VD9agxtqDocDzP7O++0V1yQNEeYr/axX2zl1f58/7/pFyrPsCYWfjX6p
n3EVu8NVZ+dF03k+2x8oYDq+R+wNXJ/yXudlvCcW2cNogmXT20Vndf8wOOSZmi+W6ORwcKt8t3XpEn4HWJQY/Hns8PRYjb1u
VsC8V/UtcPP0BbVeHDTTxJHeP9hj5+OiMQHfLOnDy46dt39v+eufk94zON3won1C/L4VaEnoAsnmEwLXl6XNMaq8Y89ccWjG
49CTcHqwmLcsOb8UWGm2LSvPzEvJL2dYkpSZV4yRASYzM/NDcgCLBX7zJBywx5gAWgqmNYDHmAMaTU3g8tb4K3LILxBRvAHi
f5C9/AdEX5C5+c2etv7jQCuJGGgczuj2frCnT3xesD8R3GSjeuKt/bSIzqkRnX/tP+ve/6R7/xXU/h/29ElPAujh6oA/fBgo
DCdi9aGnd/LjJa7koqt47BX7Jb63gOibPX73PLHn3pbAve0BzN4f9qtXgcArDPtXFCXmZQPr/+LJzUuyUyuLj8DKniMMS9OA
lW/GEZknIqoaeao1IjeV76g1iJgrNGn+E/GWsdS+IfpEBKemGcGcYjOCNWRkJRrkOaQ3SijJzpP6KqEpo6YwIxiPJvWJJlM0
ZIT71SZySNf3cUwAaWLvzpCaEbwsJzEpNaeYD9zOOcKwvDwxswTobqApaUX5Val5EzRuxy+obYl58HX9NC3mdy1PJlyw/yuz
w9bQu2bTLPlTcpcBtJ9ZJg==
"""
"""A snapshot of before there were pauses: 30 ticks of "a", and 7 and a gap of "b"."""


def test_a_snapshot_of_before_pauses_is_restored() -> None:
    config = configuration(
        features=["diff(x)"], hidden=1, window=4, stride=2, bptt=2, score_window=0
    )
    written = zlib.decompress(base64.b64decode(OLD_SNAPSHOT))
    events = list[Output]()
    session = Session(config, ["x"], events.append)
    restore(session, written)
    counters = session.streams["a"].counters
    assert (counters.ticks, counters.predictions, counters.pauses) == (30, 13, 0)
    counters = session.streams["b"].counters
    assert (counters.ticks, counters.gaps, counters.missed, counters.pauses) == (7, 1, 3, 0)
    session.push(Ticks("b", np.arange(7, 12) * 10**9 + 1, np.sin(np.arange(7.0, 12.0))[:, None]))
    made = [(e.n, e.after_gap) for e in events if isinstance(e, Prediction)]
    assert made == [(8, True), (10, True)]
    table = session.table.state()
    broken = msgspec.structs.replace(table, ints=table.ints[:, :-2])
    with pytest.raises(ValueError, match="ints"):
        session.table.restore(broken)


@pytest.mark.parametrize(
    ("values", "what"),
    [
        ({"pause": "1"}, "'1' is not a duration"),
        ({"pause": "1w"}, "90s"),
        ({"pause": "-1s"}, "not a duration"),
        ({"pause": "0s"}, "from 1ns"),
        ({"pause": "60000d"}, "50000d"),
        ({"holidays": ["2024-12-32"]}, "'2024-12-32' is not a date; write it as 2024-12-25"),
        ({"holidays": ["20241225"]}, "not a date"),
        ({"on_pause": "restart"}, "reset"),
    ],
)
def test_wrong_settings_are_named(values: dict[str, Any], what: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        configuration(**values)
    assert what in str(caught.value)


def test_durations_in_every_unit() -> None:
    for text, ns in {
        "1ns": 1,
        "20us": 20_000,
        "500ms": 5 * 10**8,
        "90s": 90 * 10**9,
        "5 m": 300 * 10**9,
        "1.5h": 5400 * 10**9,
        "2d": 2 * 86_400 * 10**9,
    }.items():
        assert configuration(pause=text).stream.pause_ns == ns
    assert configuration().stream.pause_ns == 0


def test_a_pause_between_times_before_1970_is_possible_beside_missing_times() -> None:
    pauses, never = Pauses(PAUSE), np.array([NEVER])
    for times in ([-60, 0, -40], [0, -60, -40], [-60, -40, 0]):
        assert pauses.possible(never, np.zeros(1, np.int64), np.array(times))[0]
    for times in ([-60, 0, -50], [0, 0], [5, 0]):
        assert not pauses.possible(never, np.zeros(1, np.int64), np.array(times))[0]
