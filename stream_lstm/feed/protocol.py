"""The wire protocol: record types and their limits, topics, and the encoding of messages.

A message has two frames, topic and payload. The topic `KIND/NAME/` names the kind of record and
the stream. The payload is a record: a map with short field names, in MessagePack or JSON, that
contains the protocol version `v`. A publisher in any language is

```python
socket = zmq.Context().socket(zmq.PUB)
socket.bind("tcp://127.0.0.1:5555")
socket.send_multipart([b"tick/AAPL/", msgpack.packb({"v": 1, "values": {"price": 189.5}})])
```

| topic | fields besides `v` |
|---|---|
| `tick/NAME/` | `values`; optional `session`, `seq`, `t_ns`, `rows` |
| `label/NAME/` | `n`, `y` (0 or 1; with a threshold any number); optional `t_ns` |
| `prediction/NAME/` | the fields of `events.Prediction` without `stream`, in order |
| `score/NAME/` | the fields of `events.Score` without `stream`, in order |
| `heartbeat/NAME/` | `seq` (the NEXT one); optional `session`, `t_ns`, `end`, `stale`, `status` |

The field `session` identifies a run of a publisher; in code it is `run_id`. `values` is one tick
(an array in the order of the columns, or a map of names to numbers) or a block (an array of such
arrays, a map of names to arrays, or row-major little-endian float64 bytes with their number of
`rows`). `t_ns` of a block is an array, or little-endian int64 bytes. A null in `values` is a
missing value, read as NaN. In JSON bytes are base64.

The closing slash of a topic keeps a subscription to AAPL from matching AAPLX.

Recovery requests and replies have no topic; the field `kind` tells them apart. HELLO asks who
publishes (reply: WELCOME), SNAPSHOT asks for the sequence numbers of all streams (SNAPSHOT), and
REPLAY asks for a range of ticks. Its reply is a BLOCK with as many ticks from the start of the
range as fit, so a subscriber asks again for the rest; or GONE if the publisher does not have the
start of the range any more. BUSY means: ask again later.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Annotated, Any, NamedTuple, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Meta

from ..errors import DecodeError, UsageError
from ..events import NO_TIME, Label, Prediction, Score, Seq, Session, Time
from ..records import fields_of
from ..schema import Encoding

PROTOCOL_VERSION = 1

MAX_PAYLOAD_BYTES = 8 * 2**20
"""65,536 raw rows of 14 columns with their times. A hostile payload of one-byte numbers grows
32-fold as Python floats, so decoding one takes at most a quarter of a gigabyte."""

MAX_FRAME_BYTES = 8 * MAX_PAYLOAD_BYTES
"""Largest frame that a socket accepts. libzmq drops a connection that sends more, with everything
in transit, so this is far above the size that decoding refuses and counts."""

MAX_MESSAGE_BYTES = MAX_FRAME_BYTES + MAX_PAYLOAD_BYTES
"""Of all frames of a message. libzmq has no such limit; the guard of a socket enforces it."""

MAX_BLOCK_ROWS = 65_536
"""Larger blocks are not faster, and the next prediction waits for the whole block."""

MAX_NAME_BYTES = 200
"""Of a stream's name in UTF-8: it becomes a topic, a metric's label and a key in the store."""

MAX_TOPIC_BYTES = len("prediction//") + MAX_NAME_BYTES

MAX_COLUMNS = 4096
"""Far more than a feed has; publishers with more numbers send them on several streams."""

MAX_COLUMN_BYTES = 250
"""Of a column's name in UTF-8: it is printed, and is a key in every tick that names its values."""

MAX_EXPERT_CHARS = 1000
"""Of the name of a bank member, which each prediction may contain."""

MAX_SNAPSHOT_STREAMS = 100_000
"""The largest `max_streams` of a subscriber."""

Rows: TypeAlias = Annotated[int, Meta(ge=1, le=MAX_BLOCK_ROWS)]
Name: TypeAlias = Annotated[str, Meta(min_length=1, max_length=MAX_NAME_BYTES)]
Column: TypeAlias = Annotated[str, Meta(max_length=MAX_COLUMN_BYTES)]
Columns: TypeAlias = Annotated[tuple[Column, ...], Meta(max_length=MAX_COLUMNS)]

Number: TypeAlias = float | None
Times: TypeAlias = Time | list[Time] | bytes

ON_WIRE = {"run_id": "session"}
"""Fields whose name on the wire is another one."""


class TickRecord(msgspec.Struct, omit_defaults=True, rename=ON_WIRE):
    """One tick or a block as this program writes it; `wire.TickDecoder` reads more forms."""

    v: int
    values: list[float] | list[list[float]] | bytes
    run_id: Session | None = None
    seq: Seq | None = None
    t_ns: Times = NO_TIME
    rows: Rows | None = None


class LabelRecord(msgspec.Struct):
    """The label `y` of prediction `n`: 0 or 1, or with a threshold any number."""

    v: int
    n: Seq
    y: float
    t_ns: Time = NO_TIME


def wire_record(kind: type[Prediction | Score]) -> type[msgspec.Struct]:
    """Return the record of an output: `v` and its fields without the stream.

    A value that is None or () is omitted.
    """
    _, *rest = fields_of(kind)
    fields: list[tuple[str, Any] | tuple[str, Any, Any]] = [("v", int)]
    for field in rest:
        if field.required:
            fields.append((field.name, field.hint))
        elif field.nullable or field.nested:
            fields.append((field.name, field.hint | msgspec.UnsetType, msgspec.UNSET))
        else:
            fields.append((field.name, field.hint, field.default))
    return msgspec.defstruct(f"{kind.__name__}Record", fields)


PredictionRecord: Any = wire_record(Prediction)
ScoreRecord: Any = wire_record(Score)


class HeartbeatRecord(msgspec.Struct, rename=ON_WIRE):
    """`seq` is the next sequence number; `end` means that no more ticks follow.

    `columns` are the names of a tick's values, in order. On predictions, `stale` means that the
    feed behind them is silent, and `status` is that of the stream: waiting, live, late or ended.
    """

    v: int
    seq: Seq
    run_id: Session | None = None
    t_ns: Time = NO_TIME
    end: bool = False
    stale: bool | msgspec.UnsetType = msgspec.UNSET
    columns: Columns | msgspec.UnsetType = msgspec.UNSET
    status: Annotated[str, msgspec.Meta(max_length=16)] | msgspec.UnsetType = msgspec.UNSET


class Heartbeat(msgspec.Struct, frozen=True):
    """A heartbeat of a stream; see `HeartbeatRecord`."""

    stream: str
    seq: int
    run_id: str = ""
    t_ns: int = NO_TIME
    end: bool = False
    stale: bool = False
    columns: tuple[str, ...] = ()
    status: str = ""

    @property
    def announces(self) -> bool:
        """Whether it precedes a stream's first tick and only announces the columns."""
        return self.seq == 1 and bool(self.columns) and not self.end


class _Side(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", rename=ON_WIRE):
    """A request or reply of recovery."""

    v: int = PROTOCOL_VERSION


class Hello(_Side, frozen=True, tag="hello"):
    """Ask the publisher who it is."""


class SnapshotRequest(_Side, frozen=True, tag="snapshot"):
    """Ask for the sequence numbers of every stream."""


class ReplayRequest(_Side, frozen=True, tag="replay", kw_only=True):
    """Ask for ticks `from_seq` to `to_seq`, both included, of a stream in a run."""

    stream: Name
    run_id: Session
    from_seq: Seq
    to_seq: Seq

    def __post_init__(self) -> None:
        if self.to_seq < self.from_seq:
            raise ValueError(f"to_seq={self.to_seq} is before from_seq={self.from_seq}")


class Welcome(_Side, frozen=True, tag="welcome", kw_only=True):
    """The publisher's run id and the names of its columns."""

    run_id: Session
    columns: Columns


class SnapshotReply(_Side, frozen=True, tag="snapshot", kw_only=True):
    """For every stream: the oldest sequence number that can be replayed, and the next one."""

    run_id: Session
    streams: Annotated[dict[Name, tuple[Seq, Seq]], Meta(max_length=MAX_SNAPSHOT_STREAMS)]


class Block(_Side, frozen=True, tag="block", kw_only=True):
    """Ticks from `seq` on: `t_ns` little-endian int64, `values` row-major float64 bytes."""

    stream: Name
    run_id: Session
    seq: Seq
    rows: Rows
    t_ns: bytes
    values: bytes

    def __post_init__(self) -> None:
        if len(self.t_ns) != 8 * self.rows or not self.values or len(self.values) % len(self.t_ns):
            raise ValueError(
                f"{len(self.t_ns)} bytes of times and {len(self.values)} bytes of values "
                f"are not {self.rows} rows"
            )


class Gone(_Side, frozen=True, tag="gone", kw_only=True):
    """The requested ticks are gone; a replay can start at `oldest_seq`.

    If `oldest_seq` is beyond the requested range, none of it is left.
    """

    stream: Name
    run_id: Session
    oldest_seq: Seq


class Busy(_Side, frozen=True, tag="busy", kw_only=True):
    """Too many requests: ask again after `retry_ms` milliseconds.

    `stream` is the stream of a replay request, "" for any other request.
    """

    retry_ms: Annotated[int, Meta(ge=0, le=3_600_000)]
    stream: Annotated[str, Meta(max_length=MAX_NAME_BYTES)] = ""


Request: TypeAlias = Hello | SnapshotRequest | ReplayRequest
Reply: TypeAlias = Welcome | SnapshotReply | Block | Gone | Busy


KINDS = ("tick", "label", "prediction", "score", "heartbeat")

LARGEST = float(np.finfo(np.float64).max)

TOPIC_CACHE = 16_384
"""Parsed topics in the cache: at most some 5 MB. More streams than that only cost time."""

MAX_SUBSCRIBED_NAMES = 1000
"""Streams that are subscribed to by name. With three kinds of topics each they are as many
prefixes as our publisher grants one subscriber, and every connection sends them all again."""


class Topic(NamedTuple):
    """A parsed topic; `text` is the whole of it, for messages."""

    kind: str
    stream: str
    text: str


def check_name(name: str) -> str:
    """Return `name` if it is a valid stream name; ValueError says why not."""
    if not isinstance(name, str):
        raise ValueError(f"the stream's name must be text, not {name!r:.60}")
    if not name:
        raise ValueError("the stream's name is empty")
    if "/" in name:
        raise ValueError(f"the stream's name {name!r} contains a '/'")
    if any(unicodedata.category(character) in ("Cc", "Zl", "Zp") for character in name):
        raise ValueError(f"the stream's name {name!r} contains a control character")
    if len(name.encode()) > MAX_NAME_BYTES:
        raise ValueError(f"the stream's name {name[:20]!r}... exceeds {MAX_NAME_BYTES} bytes")
    return name


@lru_cache(maxsize=TOPIC_CACHE)
def parse_topic(topic: bytes) -> Topic:
    """Parse a topic `KIND/NAME/`; raises DecodeError."""
    if len(topic) > MAX_TOPIC_BYTES:
        raise DecodeError(
            f"topic {topic[:40]!r}... exceeds {MAX_TOPIC_BYTES} bytes", cause="topic"
        )
    try:
        text = topic.decode()
        kind, slash, rest = text.partition("/")
        if kind not in KINDS or not slash or not rest.endswith("/"):
            raise ValueError(f"it must be KIND/NAME/ with KIND one of {', '.join(KINDS)}")
        return Topic(kind, check_name(rest[:-1]), text)
    except ValueError as error:
        raise DecodeError(f"topic {topic!r}: {error}", cause="topic") from None


@lru_cache(maxsize=TOPIC_CACHE)
def make_topic(kind: str, stream: str) -> bytes:
    """Return the topic of a stream; raises UsageError for an invalid name."""
    try:
        return f"{kind}/{check_name(stream)}/".encode()
    except ValueError as error:
        raise UsageError(str(error)) from None


def prefixes(kinds: Iterable[str], streams: Sequence[str]) -> list[bytes]:
    """Return the prefixes to subscribe to for some kinds of topics, in their order.

    Without streams, or with more than MAX_SUBSCRIBED_NAMES, the prefixes cover all streams, and
    the subscriber has to skip the unwanted ones itself.
    """
    if not 0 < len(streams) <= MAX_SUBSCRIBED_NAMES:
        return [f"{kind}/".encode() for kind in kinds]
    return [make_topic(kind, stream) for kind in kinds for stream in streams]


Frames: TypeAlias = tuple[bytes, bytes]
"""Topic and payload."""

_OPTIONAL = {
    kind: min(k for k, field in enumerate(fields_of(kind)) if field.nullable or field.nested)
    for kind in (Prediction, Score)
}
"""The first field of a record that may be omitted; all later ones may be, too."""
_ENCODE: dict[str, Callable[[Any], bytes]] = {
    "msgpack": msgspec.msgpack.Encoder().encode,
    "json": msgspec.json.Encoder().encode,
}


def encode_ticks(
    stream: str,
    t_ns: npt.ArrayLike,
    values: npt.ArrayLike,
    *,
    run_id: str = "",
    seq: int | None = None,
    encoding: Encoding = "msgpack",
) -> Frames:
    """Return the frames of one tick, `values` (C,), or of a block, `values` (n, C).

    `t_ns` is nanoseconds since 1970: a number for one tick, int64 (n,) for a block. A value that
    is not finite stays as it is in msgpack. JSON has null for NaN, and for infinity the largest
    float64, which the receiver refuses too: infinity is not a missing value.
    Raises UsageError for shapes that do not fit, and for a block of more than MAX_BLOCK_ROWS.
    """
    rows = np.atleast_2d(np.asarray(values, np.float64))
    times = np.atleast_1d(np.asarray(t_ns))
    # a uint64 beyond int64 would wrap to another time
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
    if encoding == "json":
        rows = rows.clip(-LARGEST, LARGEST)
    n = len(rows)
    if n > MAX_BLOCK_ROWS:
        raise UsageError(f"ticks of {stream!r}: a block of {n} exceeds {MAX_BLOCK_ROWS}")
    record = TickRecord(PROTOCOL_VERSION, b"", run_id or None, seq)
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
    """Return the frames of an external label.

    Raises UsageError unless `n` is a whole number and `y` a number.
    """
    if not (type(label.n) is int and isinstance(label.y, int | float)):
        raise UsageError(
            f"a label of {label.stream!r}: n is the whole number of a prediction and y is 0, 1 or "
            f"another number, not {label.n!r:.60} and {label.y!r:.60}"
        )
    record = LabelRecord(PROTOCOL_VERSION, label.n, label.y, label.t_ns)
    return make_topic("label", label.stream), _ENCODE[encoding](record)


def encode_prediction(prediction: Prediction, encoding: Encoding = "msgpack") -> Frames:
    """Return the frames of a prediction."""
    return _encode_output("prediction", PredictionRecord, prediction, encoding)


def encode_score(score: Score, encoding: Encoding = "msgpack") -> Frames:
    """Return the frames of a score."""
    return _encode_output("score", ScoreRecord, score, encoding)


def _encode_output(
    kind: str, record: Any, event: Prediction | Score, encoding: Encoding
) -> Frames:
    values, first = msgspec.structs.astuple(event), _OPTIONAL[type(event)]
    rest = [msgspec.UNSET if value is None or value == () else value for value in values[first:]]
    payload = _ENCODE[encoding](record(PROTOCOL_VERSION, *values[1:first], *rest))
    return make_topic(kind, event.stream), payload


def encode_heartbeat(beat: Heartbeat, encoding: Encoding = "msgpack") -> Frames:
    """Return the frames of a heartbeat."""
    record = HeartbeatRecord(
        PROTOCOL_VERSION,
        beat.seq,
        beat.run_id or None,
        beat.t_ns,
        beat.end,
        beat.stale or msgspec.UNSET,
        beat.columns or msgspec.UNSET,
        beat.status or msgspec.UNSET,
    )
    return make_topic("heartbeat", beat.stream), _ENCODE[encoding](record)


def encode_side(record: Request | Reply, encoding: Encoding = "msgpack") -> bytes:
    """Return the payload of a recovery request or reply."""
    return _ENCODE[encoding](record)
