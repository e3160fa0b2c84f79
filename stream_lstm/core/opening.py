"""What a stream starts from, at its first tick and again after a reset."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ..config import Config
from ..model.engine import Engine
from ..model.scaling import check_scaler
from .elements import Memory
from .mixture import Mixture
from .recalibration import Recalibration
from .scoring import Scoreboard
from .stream import StreamState, first_due
from .tape import Tape
from .twins import names

Floats = npt.NDArray[np.float32]


class Opening:
    """Opens the streams of a session, and starts them afresh.

    columns: names of the values of a tick. scaler: the state (1 + 2F,) that each scaler starts
    from, if not from nothing; ConfigurationError where it does not fit.
    """

    def __init__(
        self,
        config: Config,
        engine: Engine,
        columns: Sequence[str],
        scaler: npt.ArrayLike | None,
    ) -> None:
        self._config, self._engine, self._columns = config, engine, len(columns)
        features = engine.shape.features
        self._scaler = None if scaler is None else check_scaler(features, scaler)
        self._external = config.stream.labels == "external"
        self._learned = engine.tape_length if config.learning.learn else 0
        self._window = config.stream.window if engine.windowed else 0

    def open(self, name: str) -> StreamState:
        """Return the state of a new stream."""
        return StreamState(
            name=name,
            carry=self._carry(),
            memory=Memory.empty(self._columns),
            next_due=self._first_due(0),
            tape=self._tape(0),
            trace=self._trace(),
            mixture=self._mixture(),
            twin=self._twin(),
            recalibration=Recalibration() if self._config.scoring.calibrate else None,
            scores=Scoreboard.empty(self._config.scoring.score_window, names(self._config)),
        )

    def reset(self, stream: StreamState) -> None:
        """Start a stream afresh: its carry, its tape and its warm-up, but not its count."""
        stream.carry, stream.twin = self._carry(), self._twin()
        stream.memory = Memory.empty(self._columns)
        stream.tape = self._tape(stream.n)
        stream.trace = self._trace()
        stream.fresh = stream.n
        stream.next_due = self._first_due(stream.n)

    def _first_due(self, fresh: int) -> int:
        return first_due(fresh, self._config.stream.window, self._config.stream.stride)

    def _carry(self) -> Floats:
        """Return the carry before a stream's first element, its scaler warm where it can be."""
        carry = self._engine.init_carry()
        if self._scaler is not None:
            carry = np.concatenate([self._scaler, carry[len(self._scaler) :]])
        return carry

    def _twin(self) -> Floats | None:
        frozen = "frozen" in self._config.scoring.twins
        return self._carry() if frozen and self._config.model.mode == "carry" else None

    def _trace(self) -> Floats | None:
        return self._engine.init_trace() if self._learned else None

    def _mixture(self) -> Mixture | None:
        if self._engine.members is None:
            return None
        return Mixture.uniform(len(self._engine.names), self._config.learning.share)

    def _tape(self, n: int) -> Tape | None:
        length = max(self._learned, self._window)
        if not length:
            return None
        return Tape.start(
            n,
            keep=length + (0 if self._external else self._config.stream.horizon) + 1,
            block=self._engine.block_size,
            features=self._engine.shape.features,
            state=0 if self._config.model.mode == "window" else self._engine.state,
        )
