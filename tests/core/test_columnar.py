"""Blocks of many streams, in columns, give what the same ticks give one by one."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_lstm.config import Config
from stream_lstm.core.columnar import Arrivals
from stream_lstm.core.outcome import Outcome
from stream_lstm.core.session import Session
from stream_lstm.core.snapshot import restore, take
from stream_lstm.errors import ConfigurationError
from stream_lstm.events import Gap, Label, Output, Prediction, Refusal, Score, SessionStart, Ticks

from ..engines import engine_for
from ..engines import settings as configuration
from .driving import BAD, plain

NAMES = tuple("abcdef")
FEATURES = [
    ["x"],
    ["diff(x)"],
    ["log_return(x)", "y"],
    ["lag(lag(x))", "elapsed()", "imbalance(x, y)"],
]


def opened(config: Config, emit: Any = None, **more: Any) -> Session:
    engine = engine_for(config, len(config.stream.features))
    return Session(config, ["x", "y"], emit, engine=engine, **more)


def named(session: Session, names: Sequence[str] = NAMES) -> Session:
    for name in names:
        session.place(name)
    return session


def state(session: Session) -> dict[str, Any]:
    return {name: plain(stream.state()) for name, stream in session.streams.items()}


def by_stream(events: Sequence[Output]) -> dict[str, list[Output]]:
    """Each stream's events in order, without where in a block a refused tick was."""
    out: dict[str, list[Output]] = {}
    for event in events:
        if isinstance(event, Refusal):
            event = msgspec.structs.replace(event, index=-1)
        out.setdefault(event.stream, []).append(event)
    return out


@st.composite
def mixtures(draw: st.DrawFn) -> Arrivals:
    """Ticks of several streams, some rare, some often in a row, some bad."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    count, streams = draw(st.integers(1, 400)), draw(st.integers(1, len(NAMES)))
    skew, bad = draw(st.integers(1, 3)), draw(st.sampled_from([0.0, 0.02, 0.3]))
    rows = (streams * rng.random(count) ** skew).astype(np.int64)
    rows = np.repeat(rows, rng.integers(1, draw(st.sampled_from([2, 9])), count))[:count]
    values = rng.standard_t(3, size=(count, 2))
    values[rng.random(values.shape) < bad] = rng.choice(BAD)
    values[rng.random(values.shape) < 0.05] = 0.0
    return Arrivals(rows, np.arange(count) * 10**9, values, "one", numbered=True)


def part(arrivals: Arrivals, start: int, stop: int) -> Arrivals:
    return msgspec.structs.replace(
        arrivals,
        streams=arrivals.streams[start:stop],
        t_ns=arrivals.t_ns[start:stop],
        values=arrivals.values[start:stop],
    )


def one_by_one(session: Session, arrivals: Arrivals) -> None:
    for k, row in enumerate(arrivals.streams.tolist()):
        values = arrivals.values[k].tolist()
        session.tick(NAMES[row], int(arrivals.t_ns[k]), values, arrivals.session, k)


@pytest.mark.slow
@settings(max_examples=25)
@given(
    data=st.data(), arrivals=mixtures(), cuts=st.lists(st.integers(0, 400), max_size=5).map(sorted)
)
def test_any_mixture_in_any_blocks_is_the_same_one_by_one(
    data: st.DataObject, arrivals: Arrivals, cuts: list[int]
) -> None:
    """With single ticks between the blocks, and gaps and restarts."""
    config = configuration(
        features=data.draw(st.sampled_from(FEATURES)),
        window=data.draw(st.sampled_from([2, 12])),
        stride=data.draw(st.sampled_from([1, 4, 10])),
        horizon=data.draw(st.sampled_from([1, 3, 12])),
        on_gap=data.draw(st.sampled_from(["continue", "reset"])),
        score_window=data.draw(st.sampled_from([0, 7])),
    )
    one, two = list[Output](), list[Output]()
    columns, singly = named(opened(config, one.append)), named(opened(config, two.append))
    edges = [0, *(cut for cut in cuts if cut < len(arrivals.streams)), len(arrivals.streams)]
    for k, (start, stop) in enumerate(itertools.pairwise(edges)):
        piece = part(arrivals, start, stop)
        if k % 3 == 2:
            one_by_one(columns, piece)
        else:
            columns.arrive(piece)
        one_by_one(singly, piece)
        event: Any = data.draw(
            st.sampled_from([None, Gap("a", 1, 2), SessionStart("b", str(k)), Gap("c", 1, 1)])
        )
        for session in (columns, singly):
            if isinstance(event, Gap):
                session.gap(event)
            elif event is not None:
                session.session_start(event)
    # Sources differ where a stream without later ticks was said to restart; all else is the same.
    assert state(columns) == state(singly)
    assert by_stream(one) == by_stream(two)
    assert columns.refused_by_feature == singly.refused_by_feature
    figures = [session.scores.total().figures() for session in (columns, singly)]
    for told in figures:
        del told["rolling"]  # of all streams, in the order in which they were stepped
        del told["auc"], told["ece"], told["reliability"]
    assert {k: v for k, v in figures[0].items() if "ece" not in k and "auc" not in k} == {
        k: v for k, v in figures[1].items() if "ece" not in k and "auc" not in k
    }


@pytest.mark.slow
def test_columns_are_the_records_in_the_order_of_arrival() -> None:
    """Over more arrivals than are worked off at a time, with and without weights of their own."""
    for sharing in ("shared", "per-stream"):
        config = configuration(features=["log_return(x)", "y"], stride=3, sharing=sharing)
        outcomes, events = list[Outcome](), list[Output]()
        columns = named(opened(config, None, deliver=outcomes.append))
        told = named(opened(config, events.append))
        rng = np.random.default_rng(1)
        values = rng.standard_t(3, size=(20_000, 2))
        values[rng.random(values.shape) < 0.01] = np.nan
        rows = rng.integers(0, len(NAMES), len(values))
        arrivals = Arrivals(rows, np.arange(len(rows)) * 10**9, values, "one", numbered=True)
        columns.arrive(arrivals)
        told.arrive(arrivals)
        for kind, mine in (
            (Prediction, [one for o in outcomes for one in o.predictions.events()]),
            (Score, [one for o in outcomes for one in o.scores.events()]),
            (Refusal, [one for o in outcomes for one in o.others]),
        ):
            assert mine == [event for event in events if isinstance(event, kind)]
            assert len(mine) > 200
        assert state(columns) == state(told)


def test_a_refusal_says_which_arrival_it_was() -> None:
    told = list[Output]()
    session = named(opened(configuration(features=["x"]), told.append), "abc")
    values = np.array([[1.0, 0.0], [np.inf, 0.0], [1e300, 0.0]])
    origins = ((0, "file"), (2, "other"))
    session.arrive(Arrivals(np.arange(3), np.zeros(3, np.int64), values, origins=origins))
    assert told == [
        Refusal("b", "tick", "x is inf", 1, "file"),
        Refusal("c", "tick", "x is 1e+300", 0, "other"),
    ]


@settings(max_examples=12)
@given(
    arrivals=mixtures(),
    cuts=st.lists(st.integers(0, 400), max_size=6).map(sorted),
    break_at=st.integers(0, 6),
    horizon=st.sampled_from([1, 7]),
)
def test_a_session_cut_and_resumed_anywhere_goes_on_to_the_same_bits(
    arrivals: Arrivals, cuts: list[int], break_at: int, horizon: int
) -> None:
    config = configuration(features=["diff(x)"], stride=3, horizon=horizon, score_window=9)
    told, wanted = list[Output](), list[Output]()
    whole, session = named(opened(config, wanted.append)), named(opened(config, told.append))
    whole.arrive(arrivals)
    edges = [0, *(cut for cut in cuts if cut < len(arrivals.streams)), len(arrivals.streams)]
    for k, (start, stop) in enumerate(itertools.pairwise(edges)):
        if k == break_at:
            written, session = take(session), opened(config, told.append)
            restore(session, written)
        session.arrive(part(arrivals, start, stop))
    assert by_stream(told) == by_stream(wanted)
    assert take(session) == take(whole)


@pytest.mark.parametrize(
    "values",
    [
        {"learn": True},
        {"learn": True, "sharing": "per-stream"},
        {"mode": "window"},
        {"labels": "external"},
        {"calibrate": True},
        {"twins": ["frozen"], "learn": True},
    ],
    ids=str,
)
def test_configurations_that_keep_more_than_a_row_take_arrivals_too(
    values: dict[str, Any],
) -> None:
    config = configuration(stride=3, **values)
    one, two = list[Output](), list[Output]()
    columns, singly = named(opened(config, one.append)), named(opened(config, two.append))
    rng = np.random.default_rng(3)
    rows = np.repeat(rng.integers(0, 3, 60), rng.choice([1, 2, 20], 60))[:300]
    xs = rng.normal(size=(300, 2))
    arrivals = Arrivals(rows, np.arange(300) * 10**9, xs, "one", numbered=True)
    columns.arrive(arrivals)
    one_by_one(singly, arrivals)
    assert state(columns) == state(singly)
    assert by_stream(one) == by_stream(two)
    assert plain(columns.learners) == plain(singly.learners)


@pytest.mark.parametrize("learn", [False, True])
def test_a_refused_tick_has_its_place_among_the_arrivals(learn: bool) -> None:
    told = list[Output]()
    session = named(opened(configuration(learn=learn, window=5, bptt=5), told.append))
    rows = np.repeat([0, 1, 0, 2], [3, 40, 2, 15])  # short runs, and a long one
    xs, bad = np.ones((60, 2)), [1, 17, 44, 59]
    xs[bad, 0] = np.nan
    session.arrive(Arrivals(rows, np.arange(60), xs, origins=((0, "one"), (20, "two"))))
    found = [(event.index, event.where) for event in told if isinstance(event, Refusal)]
    assert found == [(1, "one"), (17, "one"), (24, "two"), (39, "two")]


@pytest.mark.parametrize("second", ["x / y", "mean(x, 3) / y"])
def test_refused_ticks_are_counted_by_feature(second: str) -> None:
    config = configuration(features=["diff(x)", second, "log(x)"])
    values = np.array([[1, 1], [2, 0], [3, 0], [-4, 1], [math.nan, 1], [5, 1]], float)
    arrivals = Arrivals(np.zeros(6, np.int64), np.arange(6), values, "one")
    wanted = {second: 2, "log(x)": 1}, 4

    def counted(session: Session) -> Any:
        return session.refused_by_feature, session.table.totals().refused_ticks

    blocks, columns, singly = (named(opened(config), "a") for _ in range(3))
    blocks.push(Ticks("a", arrivals.t_ns, values))
    columns.arrive(arrivals)
    one_by_one(singly, arrivals)
    assert [counted(session) for session in (blocks, columns, singly)] == [wanted] * 3


def test_the_last_labels_are_those_of_all_streams_together() -> None:
    config = configuration(stride=1, window=2, score_window=5)
    told = list[Output]()
    session, rng = named(opened(config, told.append)), np.random.default_rng(0)
    rows = rng.integers(0, len(NAMES), 150)
    session.arrive(Arrivals(rows, np.arange(150), rng.normal(size=(150, 2))))
    scores = [event for event in told if isinstance(event, Score)]
    rolling = session.scores.total().figures()["rolling"]
    assert rolling["labels"] == 5
    assert rolling["log_loss"] == pytest.approx(np.mean([s.log_loss for s in scores[-5:]]))


def test_streams_have_weights_of_their_own_where_they_are_given_some() -> None:
    config = configuration(sharing="per-stream")
    told, wanted = list[Output](), list[Output]()
    columns, singly = opened(config, told.append), opened(config, wanted.append)
    values = np.random.default_rng(0).normal(size=(40, 2))
    for session in (columns, singly):
        weights = {
            layer: {"kernel": np.asarray(kernel["kernel"]) * 2}
            for layer, kernel in session.engine.init_weights().items()
        }
        session.set_weights("b", weights)
    for name in "ab":
        rows = np.full(40, columns.place(name))
        columns.arrive(Arrivals(rows, np.arange(40), values, numbered=True))
        singly.push(Ticks(name, np.arange(40), values, seq=0))
    assert by_stream(told) == by_stream(wanted)
    ps = {
        name: [e.p for e in told if isinstance(e, Prediction) and e.stream == name]
        for name in "ab"
    }
    assert ps["a"] != ps["b"]


def test_weights_for_one_stream_need_weights_that_are_not_shared() -> None:
    session = opened(configuration())
    with pytest.raises(ConfigurationError, match="sharing=per-stream"):
        session.set_weights("a", session.engine.init_weights())


def test_more_streams_than_there_is_room_for_are_refused() -> None:
    told = list[Output]()
    session = opened(configuration(), told.append, limit=1)
    for name in "ab":
        session.push(Ticks(name, np.zeros(1, np.int64), np.ones((1, 2)), where=f"tick/{name}/"))
    session.gap(Gap("b", 1, 1))
    session.session_start(SessionStart("b", "new"))
    assert session.place("b") == -1
    assert told == [Refusal("b", "tick", "1 streams are open, which is the limit", 0, "tick/b/")]
    assert list(session.streams) == ["a"]


def test_labels_from_outside_are_refused_where_the_series_brings_them() -> None:
    told = list[Output]()
    session = opened(configuration(), told.append)
    session.label(Label("a", 10, 1))
    session.session_start(SessionStart("a", "one"))
    session.label(Label("a", 10, 1))
    reasons = [event.reason for event in told if isinstance(event, Refusal)]
    assert "there is no stream" in reasons[0]
    assert "set labels = 'external'" in reasons[1]
    assert session.stray_labels == 1


def test_arrivals_that_do_not_fit_are_refused_before_anything_is_done() -> None:
    session = named(opened(configuration()), "a")
    one = np.zeros(1, np.int64)
    with pytest.raises(IndexError, match="0 to 0"):
        session.arrive(Arrivals(one + 1, one, np.zeros((1, 2))))
    with pytest.raises(ConfigurationError, match="3 values"):
        session.arrive(Arrivals(one, one, np.zeros((1, 3))))
    with pytest.raises(ValueError, match="must be"):
        Arrivals(one, one, np.zeros(1))
    assert session.streams["a"].counters.ticks == 0


def test_a_table_grows_and_streams_at_work_go_on_in_it() -> None:
    """The memory of a carry moves when the table does."""
    config, names = configuration(stride=2), [f"s{k}" for k in range(100)]
    session, alone = opened(config), opened(config)
    values = np.random.default_rng(5).normal(size=(30, 2)).tolist()
    for k, row in enumerate(values):
        for name in names[: 3 * k + 1]:
            session.tick(name, k, row)
        alone.tick("s0", k, row)
    assert plain(session.streams["s0"].state()) == plain(alone.streams["s0"].state())


def test_a_stream_takes_little_more_than_a_kibibyte() -> None:
    config = configuration(hidden=32, window=100, features=["log_return(mid(x, y))"])
    session = Session(config, ["x", "y"])
    assert session.table.row_bytes + session.scores.board[:1].nbytes < 1200
