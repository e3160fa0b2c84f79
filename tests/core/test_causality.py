"""The check of causality: it passes what is causal, and names the stage of each planted leak."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import numpy as np
import pytest

from stream_lstm.config import Config, TableMember
from stream_lstm.core.elements import ElementMaker
from stream_lstm.core.proofs.causality import FUTURES, STAGES, CausalCheck
from stream_lstm.core.session import Session
from stream_lstm.events import Output, Prediction, Score, Ticks, Update
from stream_lstm.model.engine import Engine

from ..engines import settings
from .driving import open_session, push, ticks_of

BLOCK = 40
COUNT = 5 * BLOCK
XS = np.random.default_rng(4).normal(size=(COUNT, 1))
TIMES = np.arange(COUNT) * 10**9

MEMBERS = (TableMember("base-rate"), TableMember("signs", signs=2))

WAYS: list[dict[str, Any]] = [
    {},
    {"learn": True, "stride": 4, "scaling": "zscore"},
    {"learn": True, "stride": 3, "horizon": 3, "mode": "window"},
    {"learn": True, "bank": "tiny.toml"},
    {"learn": True, "stride": 4, "features": ["zscore(x, 7)", "lag(x, 5)", "max(x, 9s)"]},
]


def nobody(_: Output) -> None:
    """Take an event, and leave it."""


def checked(
    plant: Callable[[Session], None] = lambda _: None,
    places: tuple[int, ...] = (1, 23, 39),
    **values: Any,
) -> CausalCheck:
    config = settings(**values)

    def open_planted() -> Session:
        session = open_session(config, nobody, members=MEMBERS if "bank" in values else None)
        plant(session)
        return session

    check = CausalCheck(open_planted(), open_planted(), seed=1)
    for start in range(0, COUNT, BLOCK):
        part = slice(start, start + BLOCK)
        check.push(Ticks("s", TIMES[part], XS[part]), () if start == BLOCK else places)
    return check


@pytest.mark.slow
@pytest.mark.parametrize("values", WAYS, ids=str)
def test_a_session_is_causal_in_all_its_stages(values: dict[str, Any]) -> None:
    found = checked(**values).record()
    assert found["leak"] is None
    assert found["trials"] == 12
    assert found["comparisons"] == 12 * (1 + len(FUTURES))
    assert all(part["differing"] == 0 for part in found["stages"].values())
    silent = set() if values else {"updates"}
    assert {name for name, part in found["stages"].items() if not part["bytes"]} == silent
    assert found["bytes_compared"] == sum(part["bytes"] for part in found["stages"].values())


def test_the_run_over_the_series_is_that_of_a_session_left_alone() -> None:
    alone: list[Output] = []
    open_session(settings(), alone.append).push(Ticks("s", TIMES, XS))
    events: list[Output] = []
    check = CausalCheck(open_session(settings(), events.append), open_session(settings(), nobody))
    for start in range(0, COUNT, BLOCK):
        part = slice(start, start + BLOCK)
        check.push(Ticks("s", TIMES[part], XS[part]), [7])
    assert events == alone


# ---- planted leaks --------------------------------------------------------------------


class Shifted(ElementMaker):
    """Each element of a run is the next one's."""

    def sift(self, *args: Any) -> Iterator[Any]:
        for sifted in super().sift(*args):
            rows = sifted.elements
            yield sifted._replace(elements=np.concatenate([rows[1:], rows[-1:]]))


class Fitted(ElementMaker):
    """A scaler fitted on the whole of a run, in the maker."""

    def sift(self, *args: Any) -> Iterator[Any]:
        for sifted in super().sift(*args):
            rows = sifted.elements
            yield sifted._replace(elements=rows / (1 + np.abs(rows).max(initial=0.0)))


def maker(kind: type[ElementMaker]) -> Callable[[Session], None]:
    def plant(session: Session) -> None:
        session.maker = kind(("x",), ("x",))

    return plant


class Through:
    """An engine in front of another."""

    def __init__(self, engine: Any) -> None:
        self.engine = engine

    def __getattr__(self, name: str) -> Any:
        return getattr(self.engine, name)


class Knowing(Through):
    """Raw probabilities lean towards the sign of what ends the block."""

    def advance_in_place(self, weights: Any, carry: Any, xs: Any) -> Any:
        self.sign = np.sign(xs[-1, 0])
        return self.engine.advance_in_place(weights, carry, xs)

    def rows(self, rows: Any, count: int) -> Any:
        read = self.engine.rows(rows, count)
        read[:, 0] += np.float32(1e-7) * self.sign
        return read

    def advance(self, *args: Any) -> Any:
        return Engine.advance(self, *args)  # type: ignore[arg-type]


def engine(kind: type[Through]) -> Callable[[Session], None]:
    def plant(session: Session) -> None:
        session.engine = kind(session.engine)  # type: ignore[assignment]

    return plant


def leaking(event: type[Any]) -> Callable[[Session], None]:
    """What a session publishes, or scores, depends on the last tick of its block."""

    def plant(session: Session) -> None:
        push, seen = session.push, [0.0]

        def pushed(ticks: Ticks) -> None:
            seen[0] = abs(float(np.nan_to_num(ticks.values[-1, 0], posinf=0, neginf=0)))
            emit, told = session.emit, session.emit

            def changed(one: Output) -> None:
                if isinstance(one, event):
                    one = msgspec.structs.replace(one, p=one.p / (1.0 + min(seen[0], 1e6)))
                told(one)

            session.emit = changed
            push(ticks)
            session.emit = emit

        session.push = pushed  # type: ignore[method-assign]

    return plant


def carry(column: int) -> Callable[[Session], None]:
    """What a stream carries from block to block is the deviation of the block to come."""

    def plant(session: Session) -> None:
        push = session.push

        def pushed(ticks: Ticks) -> None:
            row = session.place(ticks.stream)
            spread = np.std(np.nan_to_num(ticks.values, posinf=0, neginf=0))
            session.table.carry[row, column] = spread
            push(ticks)

        session.push = pushed  # type: ignore[method-assign]

    return plant


def updates_of(session: Session) -> None:
    """What an update is given depends on the last tick of the block."""
    push, seen = session.push, [0.0]

    class Workload(Through):
        def update(self, weights: Any, state: Any, trace: Any, xs: Any, *rest: Any) -> Any:
            return self.engine.update(weights, state, trace, xs + np.float32(seen[0]), *rest)

    def pushed(ticks: Ticks) -> None:
        seen[0] = float(np.nan_to_num(ticks.values[-1, 0], posinf=0, neginf=0)) % 1.0
        push(ticks)

    session.push = pushed  # type: ignore[method-assign]
    session.learning._engine = Workload(session.engine)  # type: ignore[assignment]


PLANTED: dict[str, tuple[str, Callable[[Session], None], dict[str, Any]]] = {
    "a feature shifted by one": ("features", maker(Shifted), {}),
    "a scaler fitted in the maker": ("features", maker(Fitted), {}),
    "a scaler fitted on the block": ("scaler", carry(2), {}),
    "a network's state that knows the block": ("predictions", carry(5), {}),
    "updates that know the end": ("updates", updates_of, {"learn": True, "stride": 4}),
    "a network that knows the end": ("predictions", engine(Knowing), {}),
    "a calibration that does": ("calibration", leaking(Prediction), {"calibrate": True}),
    "a publication that does": ("predictions", leaking(Prediction), {}),
    "scores that do": ("scores", leaking(Score), {}),
}


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_leak_is_caught_and_its_stage_named(name: str) -> None:
    stage, plant, values = PLANTED[name]
    found = checked(plant, (23, 39), **values).record()
    assert found["leak"] is not None
    assert found["leak"]["stage"] == stage
    assert found["stages"][stage]["differing"] > 0
    before = STAGES[: 2 if stage == "updates" else STAGES.index(stage)]
    assert all(found["stages"][earlier]["differing"] == 0 for earlier in before)
    leak = found["leak"]
    assert 1 <= leak["n"] <= leak["element"] == leak["tick"]


# ---- other futures --------------------------------------------------------------------


@pytest.mark.parametrize("name", FUTURES)
@pytest.mark.parametrize("count", [1, 9])
def test_a_future_is_another_of_the_same_length_and_comes_from_its_seed(
    name: str, count: int
) -> None:
    t_ns, values = TIMES[:count], np.abs(XS[:count]) + np.array([[1.0, 2.0]])
    kept = values.copy()
    one, again = (FUTURES[name](np.random.default_rng(3), t_ns, values) for _ in range(2))
    assert one[0].shape == t_ns.shape
    assert one[1].shape == values.shape
    assert np.array_equal(values, kept)
    assert np.array_equal(one[1], again[1], equal_nan=True)
    assert count == 1 or not np.array_equal(one[1], values)


# ---- order -----------------------------------------------------------------------------


def cause(config: Config, event: Output) -> int:
    """The element that brings an event about: an update comes with the publication after it."""
    assert isinstance(event, Prediction | Score | Update)
    if isinstance(event, Prediction):
        return event.n
    known = event.n + config.stream.horizon
    return known if isinstance(event, Score) else published(config, known)


def published(config: Config, n: int) -> int:
    """The first publication at element n or after it."""
    window, stride = config.stream.window, config.stream.stride
    return max(window, n + (window - n) % stride)


@pytest.mark.parametrize("learn", [False, True])
def test_what_is_emitted_is_emitted_before_the_next_tick_is_asked_for(learn: bool) -> None:
    """One by one, events cannot know what comes: those of a block must be the same ones."""
    config = settings(learn=learn, stride=3, horizon=2)
    xs = ticks_of(np.random.default_rng(3).normal(size=60))
    events: list[Output] = []
    session, when = open_session(config, events.append), []
    for n, tick in enumerate(xs, start=1):
        push(session, [tick])
        when += [n] * (len(events) - len(when))
    whole: list[Output] = []
    push(open_session(config, whole.append), xs)
    assert whole == events
    for n, event in zip(when, events, strict=True):
        assert n == cause(config, event)
