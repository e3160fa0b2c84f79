"""Nothing is compiled after construction, whatever a session goes through.

JAX keeps what it compiled for as long as the process lasts. So each configuration has shapes that
no other test has, and goes through all of it in one test.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from stream_lstm.core import snapshot
from stream_lstm.core.session import Session
from stream_lstm.events import Gap, Label, Prediction, Rollback, SessionStart, Ticks, Update
from stream_lstm.interop.predictor import Predictor
from stream_lstm.serve.runtime import compilations

from ..engines import SMALL_BANK, settings

CONFIGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "per-stream": {"sharing": "per-stream"},
    "adam": {"learn": True},
    "dekf": {"learn": True, "optimizer": "dekf"},
    "a key in the optimiser": {"learn": True, "optimizer": "noisy_sgd"},
    "bank": {"learn": True, "bank": "small.toml", "publish_experts": True},
    "external labels": {"learn": True, "labels": "external"},
    "twins": {"learn": True, "twins": ["frozen", "stateless"]},
    "calibrate": {"calibrate": True},
    "window": {"mode": "window"},
    "window, learning": {"mode": "window", "learn": True},
    "per-stream, learning": {"learn": True, "sharing": "per-stream"},
    "lag": {"learn": True, "features": ["diff(x)", "lag(lag(x))", "x"]},
}

QUICK = ("plain", "adam", "calibrate")
"""Configurations that compile in a second."""

HIDDEN = {name: 3 + k for k, name in enumerate(CONFIGS)}
"""Other tests have other numbers with `FEATURES`."""

FEATURES = ["diff(x)", "log1p(x)", "x"]

SIZES = (1, 1, 1, 30, 2, 17, 1, 150, 1)


class Course:
    """A session and what it goes through, a path at a time."""

    def __init__(self, name: str) -> None:
        values = {"features": FEATURES, "hidden": HIDDEN[name], "stride": 3, "on_gap": "reset"}
        rollback = {"rollback_window": 32, "freeze_labels": 16}
        self.config = settings(**values | rollback | CONFIGS[name])
        self.members = SMALL_BANK if self.config.learning.bank != "none" else None
        self.events: list[Any] = []
        self.rng = np.random.default_rng(0)
        self.session = self.made()

    def made(self) -> Session:
        return Session(self.config, ["x"], self.events.append, members=self.members)

    def drive(self, *streams: str, session: Session | None = None) -> None:
        session = session or self.session
        for stream in streams:
            for size in SIZES:
                xs = self.rng.random((size, 1))
                session.push(Ticks(stream, np.arange(size), xs))
                due = [e.n for e in self.events[-400:] if _is(e, Prediction, stream)]
                for n in due[-2:] if self.session.external else ():
                    session.label(Label(stream, n, n % 2))

    def paths(self) -> Iterator[str]:
        """Go through each path, and yield its name behind it."""
        session = self.session
        session.tick("a", 0, [1.0])
        yield "first tick"
        self.drive("a")
        yield "blocks, labels, updates"
        self.drive("b")
        yield "new stream"
        session.gap(Gap("a", 5, 2))
        self.drive("a")
        yield "gap and reset"
        session.session_start(SessionStart("a", "restarted"))
        self.drive("a")
        yield "publisher's restart"
        data = snapshot.take(session)
        self.drive("a")
        yield "snapshot"
        snapshot.restore(session, data)
        session.tick("a", 0, [1.0])
        yield "first tick after restoring"
        self.drive("a", "b", "c")
        yield "restored"
        session.gap(Gap("a", 5, 2))
        self.drive("a")
        yield "gap after restoring"
        data = snapshot.take(session)
        weights = session.weights_for("a")
        yield "snapshot after restoring"
        if not session.shared:
            session.set_weights("a", weights)
            session.set_weights("d", weights)
            self.drive("a", "d")
            yield "weights that are set"
        if session.learning.length:
            policy = session.learning.rollback
            policy._harm = lambda *_: "base-rate"
            self.drive(*"aaaa")
            del policy._harm
            self.drive("a")
            made = [e.to for e in self.events if isinstance(e, Rollback)]
            assert {"last-good", "base-rate"} <= set(made)
            yield "roll-backs"
        other = self.made()
        yield ANOTHER
        snapshot.restore(other, data)
        self.drive("a", "e", session=other)
        other.settle()
        other.look()
        yield "restored in another session"


ANOTHER = "another session"


def _is(event: Any, kind: type, stream: str) -> bool:
    return isinstance(event, kind) and event.stream == stream


@pytest.mark.filterwarnings("ignore:Specifying a key:UserWarning")
@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[pytest.mark.slow] * (n not in QUICK)) for n in CONFIGS],
)
def test_no_path_compiles_after_construction(name: str) -> None:
    course = Course(name)
    before, found = compilations(), {}
    for path in course.paths():
        now = compilations()
        if now > before and path != ANOTHER:
            found[path] = now - before
        before = now
    assert found == {}
    learns = course.config.learning.learn
    assert any(isinstance(e, Update) for e in course.events) == learns


@pytest.mark.parametrize("learn", [False, True])
def test_a_predictor_that_is_restored_compiles_nothing(learn: bool) -> None:
    predictor = Predictor("x", window=12, bptt=5, hidden=21 + learn, learn=learn)
    before = compilations()
    xs = np.random.default_rng(0).normal(size=120).tolist()
    for x in xs:
        predictor.step([x])
    predictor.restore(predictor.snapshot())
    for x in xs:
        predictor.step([x])
    assert compilations() == before
