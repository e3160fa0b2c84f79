"""What an update is given: the tape that ends with the labelled element, targets and their share.

With labels from the series every element of the tape has its target; with labels from outside
only the last one has.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ..config import Config
from ..model.engine import Engine
from .stream import StreamState

Floats = npt.NDArray[np.float32]


class Given(NamedTuple):
    """Inputs (K, F), states (D, N) to start from, targets (K,) and the share (K,) of each."""

    inputs: Floats
    starts: Floats
    targets: Floats
    share: Floats


class Updates:
    """Puts together what updates are given; `length` is K, 0 where nothing is learned."""

    def __init__(self, config: Config, engine: Engine) -> None:
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
