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
