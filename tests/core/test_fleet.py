"""A fleet gives what a session for each stream gives, bit for bit."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_lstm.config import Config
from stream_lstm.core.fleet import Fleet
from stream_lstm.core.fleet_events import Arrivals
from stream_lstm.core.fleet_snapshot import restore, take
from stream_lstm.core.fleet_view import totals
from stream_lstm.core.scoring import Scoreboard
from stream_lstm.core.session import Session
from stream_lstm.core.stream import Counters
from stream_lstm.errors import ConfigurationError, SnapshotError
from stream_lstm.events import Gap, Label, Output, Prediction, Refusal, Score, SessionStart, Ticks
from stream_lstm.model.engine import Engine
from stream_lstm.model.table_engine import TableEngine

from ..engines import engine_for
from ..engines import settings as configuration
from .driving import BAD

NAMES = tuple("abcdef")
FEATURES = [
    ["x"],
    ["diff(x)"],
    ["log_return(x)", "y"],
    ["lag(lag(x))", "elapsed()", "imbalance(x, y)"],
]

Step = Ticks | Gap | SessionStart


def open_fleet(config: Config, emit: Any = None, **more: Any) -> Fleet:
    engine = engine_for(config, len(config.stream.features))
    compiled = table_engine(engine, config.model.sharing == "per-stream")
    return Fleet(config, ["x", "y"], emit, engine=compiled, **{"capacity": 50, **more})


@functools.cache
def table_engine(engine: Engine, per_stream: bool) -> TableEngine:
    return TableEngine(engine, per_stream=per_stream)


def open_session(config: Config, emit: Any, **more: Any) -> Session:
    engine = engine_for(config, len(config.stream.features))
    return Session(config, ["x", "y"], emit, engine=engine, **more)


def ticks(name: str, values: np.ndarray, start: int = 0, session: str = "one") -> Ticks:
    """Ticks a second apart."""
    t_ns = (start + np.arange(len(values))) * 10**9
    return Ticks(name, t_ns, values, session, start, f"tick/{name}/")


@st.composite
def journeys(draw: st.DrawFn) -> list[list[Step]]:
    """What comes for several streams, in the order of arrival, and how it is put together.

    Some ticks are bad, in runs too; some streams come rarely, and some all at once.
    """
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    count = draw(st.integers(1, 120))
    names = NAMES[: draw(st.integers(1, len(NAMES)))]
    longest = draw(st.sampled_from([1, 3, 40]))
    bad = draw(st.sampled_from([0.0, 0.02, 0.3]))
    extra = draw(st.sampled_from([0.0, 0.05]))
    per_batch = draw(st.sampled_from([1, 5, 200]))
    steps: list[Step] = []
    session = dict.fromkeys(names, "one")
    for k in range(count):
        name = names[int(rng.integers(len(names)) ** rng.integers(1, 3)) % len(names)]
        if rng.random() < extra:
            steps.append(Gap(name, 1, int(rng.integers(1, 5))))
        if rng.random() < extra:
            session[name] = str(k)
            if rng.random() < 0.7:
                steps.append(SessionStart(name, session[name]))
        values = rng.standard_t(3, size=(int(rng.integers(1, longest + 1)), 2))
        values[rng.random(values.shape) < bad] = rng.choice(BAD)
        values[rng.random(values.shape) < 0.05] = 0.0
        block = ticks(name, values, k, session[name])
        steps.append(msgspec.structs.replace(block, seq=None) if rng.random() < extra else block)
    batches: list[list[Step]] = [[]]
    for step in steps:
        together = isinstance(step, Ticks) and len(batches[-1]) < per_batch
        if not together:
            batches.append([])
        batches[-1].append(step)
        if not isinstance(step, Ticks):
            batches.append([])
    return [batch for batch in batches if batch]


def through_fleet(fleet: Fleet, batches: Sequence[Sequence[Step]]) -> None:
    for batch in batches:
        if isinstance(batch[0], Ticks):
            fleet.ticks([step for step in batch if isinstance(step, Ticks)])
        elif isinstance(batch[0], Gap):
            fleet.gap(batch[0])
        elif isinstance(batch[0], SessionStart):
            fleet.session_start(batch[0])


def through_session(session: Session, batches: Sequence[Sequence[Step]]) -> None:
    for step in (step for batch in batches for step in batch):
        if isinstance(step, Ticks):
            session.push(step)
        elif isinstance(step, Gap):
            session.gap(step)
        else:
            session.session_start(step)


def merged(session: Session) -> tuple[Scoreboard, Counters]:
    scores, counters = Scoreboard(), Counters()
    for stream in session.streams.values():
        scores.merge(stream.scores)
        counters.merge(stream.counters)
    return scores, counters


def figures(scores: Scoreboard) -> dict[str, Any]:
    """All figures but the rolling ones, which a fleet has of all streams together."""
    return {name: value for name, value in scores.figures().items() if name != "rolling"}


def assert_same(fleet: Fleet, session: Session) -> None:
    """What a fleet holds is what a session holds."""
    assert list(fleet.streams) == list(session.streams)
    for place, (name, stream) in enumerate(session.streams.items()):
        seen = fleet.streams[name]
        assert (seen.n, seen.session, seen.counters) == (stream.n, stream.session, stream.counters)
        assert seen.scores.means() == stream.scores.means()
        assert seen.scores.evidence == stream.scores.evidence
        assert np.array_equal(fleet.carries.rows[place], np.asarray(stream.carry))
        held = fleet.place_table.rows["remembered"][place]
        assert held == len(stream.memory.values)
        assert np.array_equal(fleet.elements.times.rows[place, :held], stream.memory.t_ns)
        remembered = fleet.elements.values.rows[place, :held]
        assert np.array_equal(remembered, stream.memory.values, equal_nan=True)
        first = int(fleet.place_table.rows["first"][place])
        assert list(fleet.book.waiting(stream.n, first)) == list(stream.ledger.waiting)
        assert fleet.place_table.rows["expired"][place] == stream.ledger.expired
    (mine, counted, *_), (theirs, wanted) = totals(fleet), merged(session)
    assert counted == wanted
    assert figures(mine) == figures(theirs)


@settings(max_examples=50, deadline=None)
@given(data=st.data(), batches=journeys())
def test_any_arrivals_in_any_blocks_are_those_of_a_session(
    data: st.DataObject, batches: list[list[Step]]
) -> None:
    config = configuration(
        features=data.draw(st.sampled_from(FEATURES)),
        window=data.draw(st.sampled_from([2, 12])),
        stride=data.draw(st.sampled_from([1, 4, 10])),
        horizon=data.draw(st.sampled_from([1, 3, 12])),
        on_gap=data.draw(st.sampled_from(["continue", "reset"])),
        score_window=data.draw(st.sampled_from([0, 7])),
    )
    one: list[Output] = []
    two: list[Output] = []
    fleet, session = open_fleet(config, one.append), open_session(config, two.append)
    through_fleet(fleet, batches)
    through_session(session, batches)
    assert [repr(event) for event in one] == [repr(event) for event in two]
    assert_same(fleet, session)


def random_arrivals(fleet: Fleet, rng: np.random.Generator, count: int) -> Arrivals:
    """Ticks of all streams of a fleet at random, some of them bad."""
    streams = rng.integers(0, len(fleet.names), count)
    values = rng.standard_t(3, size=(count, 2))
    values[rng.random(values.shape) < 0.01] = np.nan
    return Arrivals(streams, np.arange(count) * 10**9, values, "one", numbered=True)


def pieces(arrivals: Arrivals, cuts: Sequence[int]) -> list[Arrivals]:
    """Arrivals cut at some of them."""
    edges = [0, *cuts, len(arrivals.streams)]
    return [
        msgspec.structs.replace(
            arrivals,
            streams=arrivals.streams[start:stop],
            t_ns=arrivals.t_ns[start:stop],
            values=arrivals.values[start:stop],
        )
        for start, stop in itertools.pairwise(edges)
    ]


def test_columns_are_the_events_of_sessions_in_the_order_of_arrival() -> None:
    """Over more arrivals than are worked off at a time, with and without weights of their own."""
    for sharing in ("shared", "per-stream"):
        config = configuration(features=["log_return(x)", "y"], stride=3, sharing=sharing)
        fleet, told = open_fleet(config), list[Output]()
        session = open_session(config, told.append)
        for name in NAMES:
            fleet.place(name)
            session.stream(name)
        arrivals = random_arrivals(fleet, np.random.default_rng(1), 20_000)
        for at, place in enumerate(arrivals.streams):
            one = slice(at, at + 1)
            told_by = arrivals.t_ns[one], arrivals.values[one], "one", 0
            session.push(Ticks(NAMES[place], *told_by))
        events = list(fleet.push(arrivals).events())
        assert len(events) > 10_000
        assert sum(isinstance(event, Refusal) for event in events) > 200
        for mine, theirs in zip(events, told, strict=True):
            if isinstance(mine, Refusal):
                assert isinstance(theirs, Refusal)
                assert (mine.stream, mine.reason) == (theirs.stream, theirs.reason)
            else:
                assert mine == theirs
        assert_same(fleet, session)


def test_a_refusal_says_which_arrival_it_was() -> None:
    fleet = open_fleet(configuration(features=["x"]))
    places = np.array([fleet.place(name) for name in "abc"])
    values = np.array([[1.0, 0.0], [np.inf, 0.0], [1e300, 0.0]])
    outcome = fleet.push(Arrivals(places, np.zeros(3, np.int64), values, where="file"))
    assert list(outcome.events()) == [
        Refusal("b", "tick", "x is inf", 1, "file"),
        Refusal("c", "tick", "x is 1e+300", 2, "file"),
    ]


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    cuts=st.lists(st.integers(0, 400), max_size=6).map(sorted),
    break_at=st.integers(0, 6),
    horizon=st.sampled_from([1, 7]),
)
def test_a_fleet_cut_and_resumed_anywhere_goes_on_to_the_same_bits(
    seed: int, cuts: list[int], break_at: int, horizon: int
) -> None:
    config = configuration(features=["diff(x)"], stride=3, horizon=horizon, score_window=9)
    whole, fleet = open_fleet(config), open_fleet(config)
    for name in NAMES:
        whole.place(name)
        fleet.place(name)
    arrivals = random_arrivals(whole, np.random.default_rng(seed), 400)
    wanted = list(whole.push(arrivals).events())
    told: list[Output] = []
    for k, part in enumerate(pieces(arrivals, cuts)):
        if k == break_at:
            written, fleet = take(fleet), open_fleet(config)
            restore(fleet, written)
        told += fleet.push(part).events()
    unplaced = [
        [msgspec.structs.replace(e, index=-1) if isinstance(e, Refusal) else e for e in events]
        for events in (told, wanted)
    ]
    assert unplaced[0] == unplaced[1]
    assert take(fleet) == take(whole)
    assert totals(fleet) == totals(whole)


def test_a_snapshot_that_does_not_fit_is_refused_and_nothing_is_changed() -> None:
    fleet = open_fleet(configuration())
    fleet.ticks([ticks("a", np.ones((30, 2)))])
    written = take(fleet)
    other = open_fleet(configuration(stride=3))
    small = open_fleet(configuration(), capacity=0)
    fresh = open_fleet(configuration())
    damaged = written[:-1] + bytes([written[-1] ^ 1])
    for target, data, says in (
        (other, written, "another configuration"),
        (small, written, "holds 0"),
        (fleet, written, "without streams"),
        (fresh, damaged, "checksum"),
        (fresh, b"SLSTM", "not a snapshot of a fleet"),
        (fresh, written[:5] + b"\x09" + written[6:], "version 9"),
    ):
        with pytest.raises(SnapshotError, match=says):
            restore(target, data)
    assert not fresh.names
    assert take(fleet) == written


def test_the_last_labels_are_those_of_all_streams_together() -> None:
    config = configuration(stride=1, window=2, score_window=5)
    fleet, rng = open_fleet(config), np.random.default_rng(0)
    for name in NAMES:
        fleet.place(name)
    scores = [event for _ in range(3) for event in _scores(fleet, rng)]
    rolling = totals(fleet)[0].figures()["rolling"]
    assert rolling["labels"] == 5
    assert rolling["log_loss"] == pytest.approx(np.mean([s.log_loss for s in scores[-5:]]))


def _scores(fleet: Fleet, rng: np.random.Generator) -> list[Score]:
    events = fleet.push(random_arrivals(fleet, rng, 50)).events()
    return [event for event in events if isinstance(event, Score)]


def test_streams_have_weights_of_their_own_where_they_are_given_some() -> None:
    config = configuration(sharing="per-stream")
    fleet, session = open_fleet(config), open_session(config, lambda event: None)
    weights = {
        layer: {"kernel": np.asarray(kernel["kernel"]) * 2}
        for layer, kernel in fleet.engine.init_weights().items()
    }
    fleet.set_weights("b", weights)
    session.learned_for("b").weights = fleet.engine.pack(fleet.engine.check_weights(weights))
    values = np.random.default_rng(0).normal(size=(40, 2))
    told: list[Output] = []
    wanted: list[Output] = []
    session.emit = wanted.append
    for name in "ab":
        places = np.full(40, fleet.place(name))
        told += fleet.push(Arrivals(places, np.arange(40), values, numbered=True)).events()
        session.push(Ticks(name, np.arange(40), values, seq=0))
    assert told == wanted
    ps = {
        name: [e.p for e in told if isinstance(e, Prediction) and e.stream == name]
        for name in "ab"
    }
    assert ps["a"] != ps["b"]


def test_weights_for_one_stream_need_weights_that_are_not_shared() -> None:
    fleet = open_fleet(configuration())
    with pytest.raises(ConfigurationError, match="sharing=per-stream"):
        fleet.set_weights("a", fleet.weights)


def test_more_streams_than_there_is_room_for_are_refused() -> None:
    told: list[Output] = []
    fleet = open_fleet(configuration(), told.append, capacity=1)
    fleet.ticks([ticks("a", np.ones((1, 2))), ticks("b", np.ones((1, 2)))])
    fleet.gap(Gap("b", 1, 1))
    fleet.session_start(SessionStart("b", "new"))
    assert told == [Refusal("b", "tick", "1 streams are open, which is the limit", 0, "tick/b/")]
    assert list(fleet.streams) == ["a"]


def test_labels_from_outside_are_refused_as_a_session_refuses_them() -> None:
    told: list[Output] = []
    wanted: list[Output] = []
    fleet = open_fleet(configuration(), told.append)
    session = open_session(configuration(), wanted.append)
    for taker in (fleet, session):
        taker.label(Label("a", 10, 1))
        taker.session_start(SessionStart("a", "one"))
        taker.label(Label("a", 10, 1))
    assert told == wanted
    assert fleet.stray_labels == session.stray_labels == 1


@pytest.mark.parametrize(
    "values",
    [{"learn": True}, {"mode": "window"}, {"labels": "external"}, {"calibrate": True}],
    ids=str,
)
def test_what_tables_do_not_hold_is_said(values: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=f"leave out {next(iter(values))}"):
        configuration(table=True, **values)
    with pytest.raises(ConfigurationError, match=f"leave out {next(iter(values))}"):
        Fleet(configuration(**values), ["x"])


def test_arrivals_that_do_not_fit_are_refused_before_anything_is_done() -> None:
    fleet = open_fleet(configuration())
    fleet.place("a")
    one = np.zeros(1, np.int64)
    with pytest.raises(IndexError, match="0 to 0"):
        fleet.push(Arrivals(one + 1, one, np.zeros((1, 2))))
    with pytest.raises(ConfigurationError, match="3 values"):
        fleet.push(Arrivals(one, one, np.zeros((1, 3))))
    with pytest.raises(ValueError, match="must be"):
        Arrivals(one, one, np.zeros(1))
    assert fleet.streams["a"].counters.ticks == 0


def test_a_stream_takes_less_than_two_kibibytes() -> None:
    config = configuration(hidden=32, window=100, features=["log_return(mid(x, y))"])
    assert Fleet(config, ["x", "y"], capacity=1).stream_bytes() < 1200
