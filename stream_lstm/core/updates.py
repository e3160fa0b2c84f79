"""Updates: what they are given, and what is told of them.

An update is given the tape that ends with the labelled element, targets and their share.

With labels from the series every element of the tape has its target; with labels from outside
only the last one has.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ..config import Config
from ..events import Update, UpdateReason
from ..model.engine import Engine
from ..model.forecaster import Params
from ..model.guard import ACCEPTED, NOT_FINITE, UPDATE_TOO_LARGE, WEIGHTS_TOO_LARGE
from .rollback import Guard, Learned
from .scoring import log_loss
from .stream import StreamState

Floats = npt.NDArray[np.float32]

REASONS: dict[float, UpdateReason] = {
    NOT_FINITE: "not-finite",
    UPDATE_TOO_LARGE: "update-too-large",
    WEIGHTS_TOO_LARGE: "weights-too-large",
}


class Given(NamedTuple):
    """Inputs (K, F), states (D, N) to start from, targets (K,) and the share (K,) of each."""

    inputs: Floats
    starts: Floats
    targets: Floats
    share: Floats


class Updates:
    """Makes the updates of a session; `length` is K, 0 where nothing is learned.

    initial: the weights that learning starts from, if not from random ones.
    """

    def __init__(self, config: Config, engine: Engine, initial: Params | None) -> None:
        self.guard = Guard(config, engine, initial)
        self.length = engine.tape_length if config.learning.learn else 0
        self._until = config.learning.learn_until
        self._horizon = config.stream.horizon
        self._carried = config.model.mode == "carry"
        self._offsets, self._state = engine.offsets, engine.state
        self._ones = np.ones(self.length, np.float32)
        self._last = np.zeros(self.length, np.float32)
        self._last[-1:] = 1.0

    def due(self, stream: StreamState) -> bool:
        """Return whether a label that comes now is learned from."""
        return self.length > 0 and (self._until == 0 or stream.n <= self._until)

    def tape(self, stream: StreamState, n: int) -> tuple[Floats, Floats]:
        """Return (inputs, starts) of the tape that ends with element n."""
        assert stream.tape is not None
        inputs = stream.tape.inputs(n, self.length)
        if self._carried:
            return inputs, stream.tape.states([n - back for back in self._offsets])
        return inputs, np.zeros((1, self._state), np.float32)

    def from_series(self, stream: StreamState, n: int) -> Given:
        """Return what the label of prediction n brings, the series itself being the labels."""
        assert stream.tape is not None
        targets = stream.tape.targets(n + self._horizon, self.length)
        return Given(*self.tape(stream, n), targets, self._ones)

    def from_label(self, inputs: Floats, starts: Floats, label: int) -> Given:
        """Return what a label from outside brings for a tape kept until then."""
        return Given(inputs, starts, self._last * label, self._last)

    def scored(
        self, learned: Learned, stream: StreamState, label: int, loss: float, base_p: float
    ) -> None:
        """Take a label that may be learned from, with its loss and what the base rate gave."""
        if learned.watch is not None and self.due(stream):
            learned.watch.take(label, loss, log_loss(base_p, label))

    def make(
        self,
        engine: Engine,
        learned: Learned,
        stream: StreamState,
        n: int,
        made: Given | Floats,
    ) -> Update | None:
        """Learn from the label of prediction n and return the event, None where learning rests.

        made: what the label brings, or the info (3,) of the update where it has been made already.
        """
        watch = learned.watch
        if watch is not None and watch.resting:
            stream.counters.updates_rested += 1
            return None
        if isinstance(made, Given):
            assert learned.optimizer is not None
            learned.weights, learned.optimizer, stream.trace, made = engine.update(
                learned.weights, learned.optimizer, stream.trace, *made
            )
        loss, norm, became = made.tolist()
        if became == ACCEPTED:
            stream.counters.updates += 1
            if watch is not None:
                watch.refused = 0
            return Update(stream.name, n, loss, norm, True)
        if watch is not None:
            watch.refused += 1
        return Update(stream.name, n, loss, norm, False, _refused(stream, became))


def _refused(stream: StreamState, became: float) -> UpdateReason:
    """Count an update that was refused; return why."""
    counters, reason = stream.counters, REASONS[became]
    counters.updates_refused += 1
    counters.updates_not_finite += reason == "not-finite"
    counters.updates_too_large += reason == "update-too-large"
    counters.weights_too_large += reason == "weights-too-large"
    return reason
