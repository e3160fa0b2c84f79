"""Events become messages: the inverse of `wire`, for publishers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt

from ..errors import UsageError
from ..events import NO_TIME, Label, Prediction, Score
from ..records import fields_of
from ..tables import Encoding
from .records import (
    MAX_BLOCK_ROWS,
    PROTOCOL_VERSION,
    Heartbeat,
    HeartbeatRecord,
    LabelRecord,
    PredictionRecord,
    Reply,
    Request,
    ScoreRecord,
    TickRecord,
)
from .topics import make_topic

Frames: TypeAlias = tuple[bytes, bytes]
"""Topic and payload."""

_MSGPACK = msgspec.msgpack.Encoder()
_JSON = msgspec.json.Encoder()
_OPTIONAL = {
    kind: min(k for k, field in enumerate(fields_of(kind)) if field.nullable or field.nested)
    for kind in (Prediction, Score)
}
"""From where on fields of a record may be left out."""
_ENCODE: dict[str, Callable[[Any], bytes]] = {"msgpack": _MSGPACK.encode, "json": _JSON.encode}


def encode_ticks(
    stream: str,
    t_ns: npt.ArrayLike,
    values: npt.ArrayLike,
    *,
    session: str = "",
    seq: int | None = None,
    encoding: Encoding = "msgpack",
) -> Frames:
    """Return the frames of one tick, `values` (C,), or of a block, `values` (n, C).

    `t_ns` is nanoseconds since 1970: a number for one tick, int64 (n,) for a block. A value that
    is not finite travels as it is in msgpack and as null in JSON; the receiver refuses its row.
    Raises UsageError for shapes that do not fit, and for a block of more than MAX_BLOCK_ROWS.
    """
    rows = np.atleast_2d(np.asarray(values, np.float64))
    times = np.atleast_1d(np.asarray(t_ns))
    # what an int64 cannot hold would come out as another time
    kind = times.dtype.kind
    if kind not in "iu" or (kind == "u" and (times > np.iinfo(np.int64).max).any()):
        raise UsageError(
            f"ticks of {stream!r}: t_ns is whole nanoseconds since 1970, such as time.time_ns(), "
            f"not {t_ns!r:.60}"
        )
    times = times.astype(np.int64, copy=False)
    if rows.ndim != 2 or 0 in rows.shape or times.shape not in ((1,), rows.shape[:1]):
        raise UsageError(
            f"ticks of {stream!r}: values must be (C,) or (n, C) and t_ns a number or (n,), "
            f"not {np.shape(values)} and {np.shape(t_ns)}"
        )
    n = len(rows)
    if n > MAX_BLOCK_ROWS:
        raise UsageError(f"ticks of {stream!r}: a block of {n} exceeds {MAX_BLOCK_ROWS}")
    record = TickRecord(PROTOCOL_VERSION, b"", session or None, seq)
    if n == 1:
        record.values = rows[0].tolist()
        record.t_ns = int(times[0])
    elif encoding == "json":
        record.values = rows.tolist()
        record.t_ns = times.tolist()
    else:
        record.rows = n
        record.values = rows.astype("<f8", copy=False).tobytes()
        record.t_ns = times.astype("<i8", copy=False).tobytes()
    if n > 1 and len(times) == 1:
        if times[0] != NO_TIME:
            raise UsageError(f"ticks of {stream!r}: a block of {n} needs {n} times")
        record.t_ns = NO_TIME
    return make_topic("tick", stream), _ENCODE[encoding](record)


def encode_label(label: Label, encoding: Encoding = "msgpack") -> Frames:
    """Return the frames of a label from outside.

    Raises UsageError for an `n` that is not a whole number, and a `y` that is not a number.
    """
    if not (type(label.n) is int and isinstance(label.y, int | float)):
        raise UsageError(
            f"a label of {label.stream!r}: n is the whole number of a prediction and y is 0, 1 or "
            f"another number, not {label.n!r:.60} and {label.y!r:.60}"
        )
    record = LabelRecord(PROTOCOL_VERSION, label.n, label.y, label.t_ns)
    return make_topic("label", label.stream), _ENCODE[encoding](record)


def encode_prediction(made: Prediction, encoding: Encoding = "msgpack") -> Frames:
    """Return the frames of a prediction."""
    return make_topic("prediction", made.stream), _encode_output(PredictionRecord, made, encoding)


def encode_score(score: Score, encoding: Encoding = "msgpack") -> Frames:
    """Return the frames of a score."""
    return make_topic("score", score.stream), _encode_output(ScoreRecord, score, encoding)


def _encode_output(record: Any, event: Prediction | Score, encoding: Encoding) -> bytes:
    values, first = msgspec.structs.astuple(event), _OPTIONAL[type(event)]
    said = [msgspec.UNSET if value is None or value == () else value for value in values[first:]]
    return _ENCODE[encoding](record(PROTOCOL_VERSION, *values[1:first], *said))


def encode_heartbeat(beat: Heartbeat, encoding: Encoding = "msgpack") -> Frames:
    """Return the frames of a heartbeat."""
    said = beat.session or None, beat.t_ns, beat.end
    more = beat.stale or msgspec.UNSET, beat.columns or msgspec.UNSET
    record = HeartbeatRecord(PROTOCOL_VERSION, beat.seq, *said, *more)
    return make_topic("heartbeat", beat.stream), _ENCODE[encoding](record)


def encode_side(record: Request | Reply, encoding: Encoding = "msgpack") -> bytes:
    """Return the payload of a request or a reply of recovery."""
    return _ENCODE[encoding](record)
