"""Which state machine serves a configuration: objects for a few streams, or tables for many."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy.typing as npt

from ..config import Config
from ..events import Output
from ..members import Members
from ..model.engine import Engine
from ..model.table_engine import TableEngine
from .fleet import Fleet
from .session import Session

AnySession: TypeAlias = Session | Fleet


def session_for(
    config: Config,
    columns: Sequence[str],
    emit: Callable[[Output], None],
    *,
    weights: Mapping[str, Mapping[str, Any]] | None = None,
    scaler: npt.ArrayLike | None = None,
    members: Members | None = None,
    engine: Engine | None = None,
) -> AnySession:
    """Return a `Fleet` where the configuration says `table`, else a `Session`; see there."""
    if not config.stream.table:
        return Session(
            config,
            columns,
            emit,
            weights=weights,
            scaler=scaler,
            members=members,
            engine=engine,
        )
    per_stream = config.model.sharing == "per-stream"
    tables = None if engine is None else TableEngine(engine, per_stream=per_stream)
    return Fleet(config, columns, emit, weights=weights, scaler=scaler, engine=tables)


def fallbacks(session: AnySession) -> list[str]:
    """Return what is slower than it could be, since compiled code gave other bits; mostly none."""
    engine, out = session.engine, []
    if not engine.exact_step:
        out.append("single elements go through the loop for blocks: the step gave other bits")
    strides = engine.learning and not engine.windowed
    if strides and not engine.exact_strides:
        out.append("strides are stepped and learned from call by call: one call gave other bits")
    if isinstance(session, Fleet) and not session.table_engine.exact:
        out.append("streams are stepped one by one: the loop over tables gave other bits")
    return out
