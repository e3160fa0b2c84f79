"""Driving sessions in tests: one list of actions, cut into blocks in any way."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import msgspec
import numpy as np
from hypothesis import strategies as st

from stream_lstm.config import DEFAULT_BANK, Config, Members
from stream_lstm.core.machine import Machine
from stream_lstm.core.session import Session
from stream_lstm.core.snapshot import restore, take
from stream_lstm.core.stream import Tape
from stream_lstm.events import Gap, Label, Output, Refusal, SessionStart, Ticks

from ..engines import SMALL_BANK, engine_for

POLICIES: list[dict[str, Any]] = [
    {},
    {"revisions": "last", "label_hold": 7},
    {"label_expiry": 6},
    {"label_expiry_s": 4.0, "revisions": "last", "label_hold": 2},
    {"label_expiry": 25, "label_expiry_s": 9.5, "threshold": 0.5},
]
"""What may become of labels from outside."""

REACHING_BACK: dict[str, dict[str, Any]] = {
    "published": {"targets": "published"},
    "filter": {"optimizer": "dekf"},
    "filter, published": {"optimizer": "dekf", "targets": "published", "gradient": "rtrl"},
    "filter, bptt": {"optimizer": "dekf", "gradient": "bptt"},
    "snap1": {"gradient": "snap1"},
    "rtrl, positives": {"gradient": "rtrl", "positive_weight": 3.0},
    "bank": {"bank": "small.toml", "share": 0.01, "publish_experts": True},
}
"""Ways to learn that only labels of the series serve."""


def members_of(values: dict[str, Any]) -> Members | None:
    """The members of the bank that one of these ways to learn names."""
    return SMALL_BANK if "bank" in values else None


class Tick(NamedTuple):
    """A raw tick at a time."""

    x: float
    t_ns: int


Action: TypeAlias = Tick | Label | Gap | SessionStart


class Run(NamedTuple):
    """What came out, and the session that it came from."""

    events: list[Output]
    session: Session


def open_session(
    config: Config,
    emit: Callable[[Output], None],
    *,
    members: Members | None = None,
    **more: Any,
) -> Session:
    """A session over the column x with a shared engine."""
    known = DEFAULT_BANK if config.learning.bank == "default" else members
    engine = engine_for(config, len(config.stream.features), known)
    return Session(config, ["x"], emit, members=members, engine=engine, **more)


def push(
    session: Session,
    ticks: Sequence[Tick],
    stream: str = "a",
    publisher: str = "",
    *,
    wait: bool = False,
) -> None:
    """Push ticks as one block; a silent tick waits for a later one only where it may."""
    xs, times = zip(*ticks, strict=True)
    values = np.array(xs, np.float64)[:, None]
    session.push(Ticks(stream, np.array(times, np.int64), values, session=publisher, seq=0))
    if not wait:
        session.catch_up()


def drive(
    config: Config,
    actions: Sequence[Action],
    cuts: Collection[int] | None = None,
    *,
    members: Members | None = None,
    break_at: int | None = None,
) -> Run:
    """Run one stream through `actions`; blocks end at `cuts`, or after each tick for None.

    Before action `break_at` the session is written down, and another one goes on from there.
    """
    events: list[Output] = []
    session = open_session(config, events.append, members=members)
    waiting: list[Tick] = []
    publisher = ""

    def flush() -> None:
        if waiting:
            push(session, waiting, publisher=publisher, wait=True)
            waiting.clear()

    for index, action in enumerate(actions):
        if cuts is None or index in cuts or not isinstance(action, Tick):
            flush()
        if index == break_at:
            flush()
            written = take(session)
            session = open_session(config, events.append, members=members)
            restore(session, written)
        if isinstance(action, Tick):
            waiting.append(action)
        elif isinstance(action, Label):
            session.label(action)
        elif isinstance(action, Gap):
            session.gap(action)
        else:
            session.session_start(action)
            publisher = action.session
    flush()
    session.catch_up()
    return Run(events, session)


def ticks_of(xs: Sequence[float] | np.ndarray, start: int = 0) -> list[Tick]:
    """Ticks a second apart."""
    return [Tick(float(x), (start + k) * 10**9) for k, x in enumerate(xs)]


def comparable(events: Sequence[Output]) -> list[Output]:
    """Events without the one thing that tells how they were cut: an index in a block."""
    return [msgspec.structs.replace(e, index=-1) if isinstance(e, Refusal) else e for e in events]


def state_of(session: Session) -> Any:
    """Everything that a session holds, as plain values and bytes."""
    return {name: plain(stream.state()) for name, stream in session.streams.items()}, plain(
        session.learners
    )


def plain(value: Any) -> Any:
    """`value` with its arrays as bytes and its tapes as what they must hold."""
    if isinstance(value, Tape):
        held = min(value.keep, value.used)
        last = value.first + value.used - 1
        rows = value.entries[value.used - held : value.used]
        return last, rows.tobytes(), value.targets(last, held).tobytes()
    if isinstance(value, Machine):
        return plain(value.state())
    if isinstance(value, msgspec.Struct):
        return {name: plain(getattr(value, name)) for name in value.__struct_fields__}
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, np.ndarray | jax.Array):
        return value.shape, np.asarray(value).tobytes()
    return value


BAD = (math.nan, math.inf, -math.inf, 1e300, -1e38)
"""What no feature makes an element of."""


@st.composite
def series(draw: st.DrawFn, min_size: int = 1, max_size: int = 70) -> list[Tick]:
    """Ticks of which some are bad and some repeat; prices, sometimes negative."""
    size = draw(st.integers(min_size, max_size))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    xs = rng.standard_t(3, size=size)
    for at in draw(st.lists(st.integers(0, size - 1), max_size=6)):
        xs[at] = draw(st.sampled_from([*BAD, 0.0, -1.0, 1.0]))
    return ticks_of(xs)


@st.composite
def stories(draw: st.DrawFn, *, labels: Sequence[int] = ()) -> list[Action]:
    """A series with gaps and restarts, and with labels from outside for the n of `labels`.

    Labels are prompt, early, late, left out, repeated, revised, out of order and nonsense.
    """
    events: list[tuple[int, Action]] = list(enumerate(draw(series())))
    extra: list[Action] = draw(st.lists(_interruptions, max_size=3))
    if labels:
        extra += draw(st.lists(_nonsense, max_size=3))
    events += [(draw(st.integers(0, 70)), action) for action in extra]
    if labels:
        rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
        for n in rng.choice(labels, draw(st.integers(0, 2 * len(labels)))):
            label = Label("a", int(n), int(rng.integers(2)), int(rng.integers(9)))
            events.append((int(n) + int(rng.choice([-9, 0, 1, 2, 7, 30])), label))
    return [action for _, action in sorted(events, key=lambda event: event[0])]


_nonsense: st.SearchStrategy[Action] = st.builds(
    Label, st.just("a"), st.integers(-1, 70), st.sampled_from([0, 1, 2, -1, 0.4, math.nan])
)
_interruptions: st.SearchStrategy[Action] = st.builds(
    Gap, st.just("a"), st.just(1), st.integers(1, 5)
) | st.builds(SessionStart, st.just("a"), st.sampled_from(["one", "two"]))

cuts = st.sets(st.integers(0, 100), max_size=12)
