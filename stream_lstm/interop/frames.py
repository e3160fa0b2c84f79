"""Replay of an Arrow or pandas table, through the same session as a live feed."""

from __future__ import annotations

import re
import time as clock
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ..config import build
from ..core.expressions import columns_of
from ..core.features import FeatureMonitor, check_streams
from ..core.missing import optional_columns
from ..core.outcome import Outcome
from ..core.replay import Digest, Replay, ReplayRows
from ..core.session import Session
from ..core.verdict import summarize
from ..errors import DataError, InputWarning
from ..events import Prediction, Refusal, Score
from ..feed.files import TimeOrder
from ..feed.tables import floats, is_numeric
from ..feed.times import FORMS, TimeColumn
from ..records import Gathered
from ..schema import TimeUnit
from ..store.output import table_of

STREAM = "series"

_UNNAMED = re.compile(r"__index_level_\d+__")
"""Arrow's name for a pandas index without a name."""


class Replayed(msgspec.Struct):
    """The results of a replay.

    table: an Arrow table with a row for each prediction and the columns of `replay --out`; its
    `to_pandas()` is a DataFrame. summary: the record of `replay --json`. skipped: the number of
    rejected rows.
    """

    table: pa.Table
    summary: dict[str, Any]
    skipped: int


def replay_frame(
    frame: Any,
    features: str | Sequence[str],
    *,
    time: str | None = None,
    time_unit: TimeUnit = "auto",
    stream: str = STREAM,
    skip_bad: bool = False,
    weights: Mapping[str, Mapping[str, Any]] | None = None,
    scaler: npt.ArrayLike | None = None,
    **settings: Any,
) -> Replayed:
    """Run the rows of a table, in their order, through a session, and return the results.

    frame: an Arrow table or record batch, a DataFrame of pandas or Polars, a mapping of names to
    arrays, or another argument of `pyarrow.table`. features: expressions over its columns, the
    first being the target. time: its column of times, or the name of its index in pandas; an index
    without a name is ignored. time_unit: of numbers in it. stream: the name of the stream.
    skip_bad: skip rows with a cell that is not finite, or empty without a policy of `on_missing`.
    weights, scaler: the initial ones,
    as in `Predictor`. settings: any key of the configuration's tables stream, model, scaling,
    learning and scoring. Warns (InputWarning) about rows that are old, unless `on_old_time` is
    `take` or `refuse`, and about features that the scaler clips.

    The predictions are those of `stream-lstm replay` of the same rows, to the last bit, and the
    digest is the same if `stream` is the name of the file without its suffix. Raises
    ConfigurationError for an invalid setting, feature or column, and DataError for an invalid
    table and for the first bad row.
    """
    table = _table(frame)
    named = [features] if isinstance(features, str) else list(features)
    columns = columns_of(named)
    config = build({"features": named, **settings})
    optional = optional_columns(config.stream, columns)
    values, t_ns = _values(table, columns, optional), _times(table, time, time_unit)
    if config.stream.on_old_time == "warn":
        _warn_of_order(t_ns, values)
    predictions, scores, skipped = Gathered(Prediction), Gathered(Score), 0
    digest, done = Digest(), 0

    def take(outcome: Outcome) -> None:
        nonlocal skipped
        predictions.extend(outcome.predictions)
        scores.extend(outcome.scores)
        digest.add_batch(outcome.predictions)
        for event in outcome.others:
            if not isinstance(event, Refusal):
                continue
            if not skip_bad:
                row = f"row {done + event.index} (counted from 0)"
                raise DataError(f"{row}: {event.reason}; skip_bad=True skips it")
            skipped += 1

    def piece_done(rows: ReplayRows) -> None:
        nonlocal done
        done += len(rows.t_ns)
        lines.extend(clipped.check(session))

    started = clock.perf_counter()
    clipped, lines = FeatureMonitor(config), list[str]()
    session = Session(config, columns, deliver=take, weights=weights, scaler=scaler)
    check_streams(session.others, [stream])
    compiled = clock.perf_counter()
    Replay(session, stream, numbered=True, after=piece_done).run([ReplayRows(t_ns, values)])
    for line in lines:
        warnings.warn(line, InputWarning, stacklevel=2)
    predicted, scored = predictions.join(), scores.join()
    number = {n: k for k, n in enumerate(scored["n"].tolist())}
    rows = np.array([number.get(n, -1) for n in predicted["n"].tolist()], np.int64)
    out = table_of(predicted, scored, rows)
    wall_s, compile_s = clock.perf_counter() - compiled, compiled - started
    summary = summarize(session, digest, wall_s=wall_s, compile_s=compile_s)
    return Replayed(out, summary, skipped)


def _warn_of_order(t_ns: npt.NDArray[np.int64], values: npt.NDArray[np.float64]) -> None:
    order = TimeOrder()
    order.look(t_ns, values, np.arange(len(t_ns)))
    if line := order.warning(f"row {order.first} (counted from 0)"):
        warnings.warn(line, InputWarning, stacklevel=3)


def _table(frame: Any) -> pa.Table:
    try:
        table = pa.table(frame)
    except (pa.ArrowException, TypeError, ValueError) as error:
        kind = type(frame).__name__
        if hasattr(frame, "to_frame"):
            why = "a series has no columns: pass a frame, s.to_frame('x')"
        elif isinstance(frame, np.ndarray | pa.Array | pa.ChunkedArray):
            why = 'an array has no names: pass {"x": array}, with one entry for each column'
        else:
            why = str(error)
        raise DataError(f"cannot convert {kind} to a table: {why}") from None
    if not table.num_rows:
        raise DataError("the table has no rows")
    return table


def _column(table: pa.Table, name: str) -> pa.Array:
    if name not in table.column_names:
        known = [other for other in table.column_names if not _UNNAMED.fullmatch(other)]
        raise DataError(f"the table has no column {name!r}; its columns are {', '.join(known)}")
    return table.column(name).combine_chunks()


def _values(
    table: pa.Table, columns: Sequence[str], optional: Sequence[str]
) -> npt.NDArray[np.float64]:
    out = np.empty((table.num_rows, len(columns)))
    for place, name in enumerate(columns):
        column = _column(table, name)
        unknown = pa.types.is_null(column.type) and name in optional
        if not is_numeric(column.type) and not unknown:
            raise DataError(f"column {name!r} has type {column.type}, not numbers")
        out[:, place] = floats(column)
    return out


def _times(table: pa.Table, name: str | None, unit: TimeUnit) -> npt.NDArray[np.int64]:
    if name is None:
        return np.zeros(table.num_rows, np.int64)
    try:
        t_ns, good = TimeColumn(unit).convert(_column(table, name))
    except ValueError as error:
        raise DataError(f"column {name!r}: {error}") from None
    if not good.all():
        row = int(np.argmin(good))
        cell = _column(table, name)[row].as_py()
        raise DataError(f"column {name!r}, row {row}: {cell!r} is not a time: {FORMS}")
    return t_ns
