"""What one run took in and made, kept whole, so that a second run can be held against it."""

from __future__ import annotations

import hashlib
from typing import Any

import jax
import numpy as np
import numpy.typing as npt

from ..events import Input, Notice, Output, Prediction, Refusal, Update
from .digest import Digest
from .outcome import Outcome
from .session import SHARED, Session


class Recording:
    """Observes a session of one stream, and listens to it.

    Ticks take 8 (C + 1) bytes each, a prediction 12. `refused_ticks` holds the indexes of ticks
    that made no element, `complaints` the reasons of refused messages, `updates` (n, loss, norm
    of the gradient, accepted) of each.
    """

    def __init__(self) -> None:
        self.digest = Digest()
        self.weights = ""
        self.refused_ticks: list[int] = []
        self.complaints: list[str] = []
        self.updates: list[tuple[int, float, float, bool]] = []
        self.ticks = self.lag = 0
        self.uses_time = False
        self.columns: tuple[str, ...] = ()
        self._begin = 0
        self._n: list[int] = []
        self._p: list[float] = []
        self._t_ns: list[npt.NDArray[np.int64]] = []
        self._values: list[npt.NDArray[np.float64]] = []

    def watch(self, session: Session) -> None:
        """Take note of the ticks that come to a session, and of the weights it starts from."""
        self.weights = weights_digest(session.weights_for(SHARED))
        features = session.maker.features
        self.columns, self.lag, self.uses_time = session.columns, features.lag, features.uses_time
        session.watch(self)

    def __call__(self, event: Input | Output | Notice) -> None:
        """Take an event."""
        if isinstance(event, Prediction):
            self.digest.add(event)
            self._n.append(event.n)
            self._p.append(event.p)
        elif isinstance(event, Update):
            self.updates.append((event.n, event.loss, event.grad_norm, event.accepted))
        elif isinstance(event, Refusal) and event.kind != "tick":
            self.complaints.append(event.reason)

    def deliver(self, outcome: Outcome) -> None:
        """Take what came of some ticks."""
        self.digest.add_batch(outcome.predictions)
        self._n += outcome.predictions["n"].tolist()
        self._p += outcome.predictions["p"].tolist()
        for event in outcome.others:
            self(event)

    def took(self, t_ns: npt.NDArray[np.int64], values: npt.NDArray[np.float64]) -> None:
        """Take ticks that came in."""
        self._t_ns.append(t_ns.copy())
        self._values.append(values.copy())
        self._begin, self.ticks = self.ticks, self.ticks + len(values)

    def refused(self, index: int, reason: str) -> None:
        """Take note of a tick that made no element."""
        del reason
        self.refused_ticks.append(self._begin + index)

    def made(self, elements: Any) -> None:
        """Leave elements to the digest of what came of them, as all that follows."""

    def stepped(self, before: int, weights: Any, carry: Any, xs: Any, rows: Any) -> None:
        """Leave a step."""

    def windowed(self, n: int, p: float) -> None:
        """Leave a window."""

    def updated(self, n: int, given: Any, weights: Any, info: Any) -> None:
        """Leave an update, whose event says what is compared."""

    def values(self) -> npt.NDArray[np.float64]:
        """Return the ticks' values (m, C)."""
        return np.concatenate([np.zeros((0, len(self.columns))), *self._values])

    def times(self) -> npt.NDArray[np.int64]:
        """Return the ticks' times (m,)."""
        return np.concatenate([np.zeros(0, np.int64), *self._t_ns])

    def predictions(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        """Return n (k,) and p (k,) of the predictions."""
        return np.array(self._n, np.int64), np.array(self._p, np.float32)

    def elements_of(self, ticks: int) -> int:
        """Return how many elements the first so many ticks made."""
        return max(ticks - self.lag - sum(index < ticks for index in self.refused_ticks), 0)


def weights_digest(weights: Any) -> str:
    """Return a digest of the bits of weights."""
    hashed = hashlib.sha256()
    for leaf in jax.tree.leaves(weights):
        hashed.update(np.asarray(leaf).tobytes())
    return hashed.hexdigest()
