"""Promise 3: nothing that comes after element n changes a byte of what was emitted up to n."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_lstm.config import Config
from stream_lstm.core.elements import ElementMaker
from stream_lstm.events import Output, Prediction, Score, Update

from ..engines import settings as configuration
from .driving import open_session, push, ticks_of

KINDS: list[dict[str, Any]] = [
    {"scaling": "zscore"},
    {"learn": True, "stride": 3},
    {"mode": "window", "horizon": 3},
    {"mode": "window", "learn": True, "stride": 2, "horizon": 2},
]


class Peeking(ElementMaker):
    """A planted look-ahead: each element of a block is the next one's."""

    def sift(self, *args: Any) -> Iterator[Any]:
        for sifted in super().sift(*args):
            yield sifted._replace(elements=np.roll(sifted.elements, -1, axis=0))


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


def known_at(config: Config, events: list[Output], n: int) -> list[Output]:
    """Events that element n had brought about."""
    return [event for event in events if cause(config, event) <= n]


def check(config: Config, xs: np.ndarray, other: np.ndarray, n: int, **more: Any) -> int:
    """Compare runs over two futures, in one block; return how many events were compared."""
    runs = []
    for future in (xs, other):
        events: list[Output] = []
        session = open_session(config, events.append)
        if "maker" in more:
            session.maker = more["maker"](config.stream.features, ["x"])
        push(session, ticks_of(np.concatenate([xs[:n], future[n:]])))
        runs.append(known_at(config, events, n))
    assert runs[0] == runs[1]
    return len(runs[0])


@pytest.mark.parametrize("kind", KINDS, ids=str)
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), n=st.integers(1, 60), scale=st.sampled_from([1e-3, 1.0, 1e20]))
def test_another_future_changes_nothing_before_it(
    kind: dict[str, Any], seed: int, n: int, scale: float
) -> None:
    rng = np.random.default_rng(seed)
    xs, other = rng.normal(size=(2, 60)) * [[1], [scale]]
    check(configuration(**kind), xs, other, n)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_much_is_compared(kind: dict[str, Any]) -> None:
    xs, other = np.random.default_rng(0).normal(size=(2, 60))
    assert check(configuration(**kind), xs, other, 50) >= 8


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_a_planted_look_ahead_is_caught(kind: dict[str, Any]) -> None:
    xs, other = np.random.default_rng(0).normal(size=(2, 60))
    config = configuration(**kind)

    def check_all() -> None:
        for n in range(config.stream.window, 60, config.stream.stride):
            check(config, xs, other, n, maker=Peeking)

    with pytest.raises(AssertionError):
        check_all()


@pytest.mark.parametrize("learn", [False, True])
def test_what_is_emitted_is_emitted_before_the_next_tick_is_asked_for(learn: bool) -> None:
    """One by one, events cannot know what comes: those of a block must be the same ones."""
    config = configuration(learn=learn, stride=3, horizon=2)
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
