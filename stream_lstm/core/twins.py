"""Twins: further forecasts of what is published, scored on the same labels, never published.

* `frozen` has the weights that learning started from, and carries a state of its own.
* `stateless` has the weights of the moment, and starts from a zero state at the start of the
  last W elements.

The first shows what learning brings, the second what the carried state brings.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ..config import Config
from ..model.engine import Engine
from ..model.forecaster import Params
from ..model.packing import Packed
from .stream import Stream

Floats = npt.NDArray[np.float32]


class Forecasts(NamedTuple):
    """What the twins give for one prediction; None for one that is not there."""

    frozen: float | None = None
    stateless: float | None = None


NO_FORECASTS = Forecasts()


class Twins:
    """The twins of a session's streams.

    initial: the weights that learning starts from, if not from random ones. Attributes: `frozen`,
    the weights of the frozen twin, None where there is none.
    """

    def __init__(self, config: Config, engine: Engine, initial: Params | None) -> None:
        self.frozen: Packed | None = None
        if "frozen" in config.scoring.twins:
            self.frozen = engine.pack(initial or engine.init_weights())
        self._stateless = "stateless" in config.scoring.twins
        self._engine, self._window = engine, config.stream.window
        self._windowed = config.model.mode == "window"

    @property
    def carried(self) -> bool:
        """Whether a second state is carried."""
        return self.frozen is not None and not self._windowed

    def step(self, stream: Stream, xs: Floats) -> float | None:
        """Carry the frozen twin over elements xs (m, F); return its p, None without one."""
        if stream.twin is None or self.frozen is None:
            return None
        self._engine.advance_in_place(self.frozen, stream.twin, xs)
        return float(stream.twin.host[self._engine.scaler_size])

    def forecasts(self, stream: Stream, weights: Packed, p: float | None, n: int) -> Forecasts:
        """Return what the twins give after element n; p: what the frozen one carried gave."""
        frozen, stateless = p, None
        if frozen is None and self.frozen is not None:
            frozen = self._over_window(stream, self.frozen, n)
        if self._stateless:
            stateless = self._over_window(stream, weights, n)
        return Forecasts(frozen, stateless)

    def _over_window(self, stream: Stream, weights: Packed, n: int) -> float:
        assert stream.side is not None
        assert stream.side.tape is not None
        return self._engine.window(weights, stream.side.tape.inputs(n, self._window))


def names(config: Config) -> tuple[str, ...]:
    """Return the names under which further forecasts are scored, in the scoreboard's order."""
    raw = ("raw",) if config.scoring.calibrate else ()
    return raw + tuple(n for n in ("frozen", "stateless") if n in config.scoring.twins)
