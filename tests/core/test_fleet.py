"""A fleet gives what a session for each stream gives, bit for bit."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_lstm.config import Config
from stream_lstm.core.fleet import Fleet
from stream_lstm.core.fleet_view import totals
from stream_lstm.core.scoring import Scoreboard
from stream_lstm.core.session import Session
from stream_lstm.core.stream import Counters
from stream_lstm.events import Gap, Output, SessionStart, Ticks
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
    (mine, counted), (theirs, wanted) = totals(fleet), merged(session)
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
