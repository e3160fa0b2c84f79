"""What the next tick would be predicted with, while everything stays as it is.

The tick is stepped over in a copy of the carry. The result has the bits of the prediction that
`Session.tick` makes of the same tick. That holds where labels come from outside: a tick of a
series with labels of its own first brings a label, which may change what is predicted.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..errors import ConfigurationError, DataError
from ..model.buffers import Shared, aligned
from .session import Session
from .stream import Stream


class Trial:
    """Steps over ticks of a session on trial."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._carry = Shared(aligned((session.engine.width,)))

    def tick(self, name: str, t_ns: int, values: Sequence[float]) -> float | None:
        """Return the p that a tick would be predicted with, None where no prediction is due.

        Raises DataError for a tick that would be refused, and ConfigurationError for a stream
        more than there may be.
        """
        session, reasons = self._session, list[str]()
        session.catch_up()
        stream = session._stream(name)
        if stream is None:
            raise ConfigurationError(session._too_many(), key="streams")
        row, at = np.array([values], np.float64), np.array([t_ns], np.int64)
        runs = session.maker.make(stream.memory(), at, row, lambda _, why: reasons.append(why))
        elements = [made for _, made in runs]
        if reasons:
            raise DataError(f"the tick is refused: {reasons[0]}")
        if not elements or stream.n + 1 != stream.due:
            return None
        return self._step(stream, elements[0])

    def _step(self, stream: Stream, x: np.ndarray) -> float:
        session, engine = self._session, self._session.engine
        self._carry.host[:] = stream.carry.host
        out = engine.advance_in_place(stream.learned.weights, self._carry, x)
        members, start = engine.stepper.members, engine.scaler_size
        if stream.side is None:
            return float(self._carry.host[start])
        inputs = None
        if session.config.model.mode == "window":
            assert stream.side.tape is not None
            past = stream.side.tape.inputs(stream.n, session.config.stream.window - 1)
            scaled = engine.rows(out, 1)[:, members : members + x.shape[1]]
            inputs = np.concatenate([past, scaled])
        given = self._carry.host[start : start + members]
        return session._sided.combined(stream, given, inputs)[0]
