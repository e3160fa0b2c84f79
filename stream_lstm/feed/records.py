"""The records of the protocol as they lie in a payload, and the limits on them.

Every record is a map with short field names, in msgpack or JSON, and opens with the protocol
version `v`; what stream it is of stands in the topic. So a publisher in any language is

```python
socket = zmq.Context().socket(zmq.PUB)
socket.bind("tcp://127.0.0.1:5555")
socket.send_multipart([b"tick/AAPL/", msgpack.packb({"v": 1, "values": {"price": 189.5}})])
```

| topic | fields besides `v` |
|---|---|
| `tick/NAME/` | `values`; optional `session`, `seq`, `t_ns`, `rows` |
| `label/NAME/` | `n`, `y` (0 or 1; a number where there is a threshold); optional `t_ns` |
| `prediction/NAME/` | those of `events.Prediction` but for `stream`, in order |
| `score/NAME/` | those of `events.Score` but for `stream`, in order |
| `heartbeat/NAME/` | `seq` (the NEXT one); optional `session`, `t_ns`, `end`, `stale` |

`values` is one tick (an array in the order of the columns, or a map of names to numbers) or a
block (an array of such arrays, or a map of names to arrays, or row-major little-endian float64
bytes with their number of `rows`). `t_ns` of a block is an array, or little-endian int64 bytes.
A null in `values` is a value that is missing, read as NaN. In JSON bytes are base64.

The requests and replies of recovery travel without a topic, told apart by the field `kind`: HELLO
asks who publishes (answered by WELCOME), SNAPSHOT where the streams stand (SNAPSHOT), and REPLAY
for a range of ticks. Each request has one reply. That to REPLAY is a BLOCK with the ticks that the
range begins with, as many as fit, so that who wants the rest asks on from its end; or GONE, where
the ring no longer has what the range begins with. BUSY means later.

The first frame of a message: `KIND/NAME/`.

The closing slash keeps a subscription to AAPL from matching AAPLX. Both directions are cached:
a stream's topic is looked at once and not with every tick.

Events become messages: the inverse of `wire`, for publishers.
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
32-fold as Python floats, so that decoding one takes a quarter of a gigabyte at most."""

MAX_FRAME_BYTES = 8 * MAX_PAYLOAD_BYTES
"""What a socket takes in at all. libzmq drops a connection that sends more, and what was underway
with it, so this lies far above what decoding refuses and counts: only an attack reaches it."""

MAX_MESSAGE_BYTES = MAX_FRAME_BYTES + MAX_PAYLOAD_BYTES
"""Of all frames of a message together: libzmq has no limit of its own, and the guard of a socket
cuts off who sends more."""

MAX_BLOCK_ROWS = 65_536
"""Larger blocks make nothing faster, and the element that is due waits for the whole block."""

MAX_NAME_BYTES = 200
"""Of a stream's name in UTF-8: it becomes a topic, a metric's label and a key in the store."""

MAX_TOPIC_BYTES = len("prediction//") + MAX_NAME_BYTES

MAX_COLUMNS = 4096
"""Far more than a feed has; publishers with more numbers send them on several streams."""

MAX_COLUMN_BYTES = 250
"""Of a column's name in UTF-8: it is printed, and is a key in every tick that names its values."""

MAX_EXPERT_CHARS = 1000
"""Of the name of a member of a bank, which each prediction may carry."""

MAX_SNAPSHOT_STREAMS = 100_000
"""As many streams as a subscriber may take; see `max_streams`."""

Rows: TypeAlias = Annotated[int, Meta(ge=1, le=MAX_BLOCK_ROWS)]
Name: TypeAlias = Annotated[str, Meta(min_length=1, max_length=MAX_NAME_BYTES)]
Column: TypeAlias = Annotated[str, Meta(max_length=MAX_COLUMN_BYTES)]
Columns: TypeAlias = Annotated[tuple[Column, ...], Meta(max_length=MAX_COLUMNS)]

Number: TypeAlias = float | None
Times: TypeAlias = Time | list[Time] | bytes


class TickRecord(msgspec.Struct, omit_defaults=True):
    """One tick or a block, as this program writes it; `wire.TickDecoder` reads more forms."""

    v: int
    values: list[float] | list[list[float]] | bytes
    session: Session | None = None
    seq: Seq | None = None
    t_ns: Times = NO_TIME
    rows: Rows | None = None


class LabelRecord(msgspec.Struct):
    """The truth `y` for prediction `n`: 0 or 1, or a number where there is a threshold."""

    v: int
    n: Seq
    y: float
    t_ns: Time = NO_TIME


def wire_record(kind: type[Prediction | Score]) -> type[msgspec.Struct]:
    """Return how an output travels: `v` and its declared fields but for the stream.

    A value that is None or () is left out.
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


class HeartbeatRecord(msgspec.Struct):
    """`seq` is the next sequence number; `end` says that nothing more will come.

    `columns` are the names of a tick's values, in their order. `stale`, of predictions, says that
    the feed that they are made from has fallen silent.
    """

    v: int
    seq: Seq
    session: Session | None = None
    t_ns: Time = NO_TIME
    end: bool = False
    stale: bool | msgspec.UnsetType = msgspec.UNSET
    columns: Columns | msgspec.UnsetType = msgspec.UNSET


class Heartbeat(msgspec.Struct, frozen=True):
    """A heartbeat of a stream; see `HeartbeatRecord`."""

    stream: str
    seq: int
    session: str = ""
    t_ns: int = NO_TIME
    end: bool = False
    stale: bool = False
    columns: tuple[str, ...] = ()

    @property
    def announces(self) -> bool:
        """Whether it comes before a stream's first tick, and promises no others."""
        return self.seq == 1 and bool(self.columns) and not self.end


class Hello(msgspec.Struct, frozen=True, tag="hello", tag_field="kind"):
    """Ask the publisher who it is."""

    v: int = PROTOCOL_VERSION


class SnapshotRequest(msgspec.Struct, frozen=True, tag="snapshot", tag_field="kind"):
    """Ask where every stream stands."""

    v: int = PROTOCOL_VERSION


class ReplayRequest(msgspec.Struct, frozen=True, tag="replay", tag_field="kind", kw_only=True):
    """Ask for the ticks `from_seq` to `to_seq`, both included, of a stream in a session."""

    v: int = PROTOCOL_VERSION
    stream: Name
    session: Session
    from_seq: Seq
    to_seq: Seq

    def __post_init__(self) -> None:
        if self.to_seq < self.from_seq:
            raise ValueError(f"to_seq={self.to_seq} is before from_seq={self.from_seq}")


class Welcome(msgspec.Struct, frozen=True, tag="welcome", tag_field="kind", kw_only=True):
    """The publisher's session and the names of its columns."""

    v: int = PROTOCOL_VERSION
    session: Session
    columns: Columns


class SnapshotReply(msgspec.Struct, frozen=True, tag="snapshot", tag_field="kind", kw_only=True):
    """For every stream: the oldest sequence number that can be replayed, and the next one."""

    v: int = PROTOCOL_VERSION
    session: Session
    streams: Annotated[dict[Name, tuple[Seq, Seq]], Meta(max_length=MAX_SNAPSHOT_STREAMS)]


class Block(msgspec.Struct, frozen=True, tag="block", tag_field="kind", kw_only=True):
    """Ticks from `seq` on: `t_ns` little-endian int64, `values` row-major float64 bytes."""

    v: int = PROTOCOL_VERSION
    stream: Name
    session: Session
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


class Gone(msgspec.Struct, frozen=True, tag="gone", tag_field="kind", kw_only=True):
    """What was asked for is not held; replay starts at `oldest_seq`, if anywhere.

    An `oldest_seq` beyond the range that was asked for says that nothing of it is held.
    """

    v: int = PROTOCOL_VERSION
    stream: Name
    session: Session
    oldest_seq: Seq


class Busy(msgspec.Struct, frozen=True, tag="busy", tag_field="kind", kw_only=True):
    """Too many ask at once: ask again after `retry_ms` milliseconds.

    `stream` is that of the request for a replay, "" for any other request.
    """

    v: int = PROTOCOL_VERSION
    retry_ms: Annotated[int, Meta(ge=0, le=3_600_000)]
    stream: Annotated[str, Meta(max_length=MAX_NAME_BYTES)] = ""


Request: TypeAlias = Hello | SnapshotRequest | ReplayRequest
Reply: TypeAlias = Welcome | SnapshotReply | Block | Gone | Busy


KINDS = ("tick", "label", "prediction", "score", "heartbeat")

TOPIC_CACHE = 16_384
"""Topics kept parsed: some 5 MB at most. More streams than that only cost time."""

MOST_NAMED = 1000
"""Streams that are subscribed to by name. With three kinds of topics each they are as many
prefixes as our publisher grants one subscriber, and every connection sends them all again."""


class Topic(NamedTuple):
    """A topic, taken apart; `text` is the whole of it for messages."""

    kind: str
    stream: str
    text: str


def check_name(name: str) -> str:
    """Return `name` if a stream can be called so; ValueError says why not."""
    if not isinstance(name, str):
        raise ValueError(f"the name of the stream is text, not {name!r:.60}")
    if not name:
        raise ValueError("the name of the stream is empty")
    if "/" in name:
        raise ValueError(f"the name of the stream {name!r} has a '/' in it")
    if any(unicodedata.category(character) in ("Cc", "Zl", "Zp") for character in name):
        raise ValueError(f"the name of the stream {name!r} has a control character in it")
    if len(name.encode()) > MAX_NAME_BYTES:
        raise ValueError(
            f"the name of the stream {name[:20]!r}... has more than {MAX_NAME_BYTES} bytes"
        )
    return name


@lru_cache(maxsize=TOPIC_CACHE)
def parse_topic(topic: bytes) -> Topic:
    """Take a topic `KIND/NAME/` apart; raises DecodeError."""
    if len(topic) > MAX_TOPIC_BYTES:
        raise DecodeError(
            f"topic {topic[:40]!r}... has more than {MAX_TOPIC_BYTES} bytes", cause="topic"
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
    """Return the topic of a stream; raises UsageError for a name that cannot be one."""
    try:
        return f"{kind}/{check_name(stream)}/".encode()
    except ValueError as error:
        raise UsageError(str(error)) from None


def prefixes(kinds: Iterable[str], streams: Sequence[str]) -> list[bytes]:
    """Return what to subscribe to for some kinds of topics, in their order.

    Of no streams, or of more than MOST_NAMED, that is all of a kind: who subscribes then has to
    pass over the others itself.
    """
    if not 0 < len(streams) <= MOST_NAMED:
        return [f"{kind}/".encode() for kind in kinds]
    return [make_topic(kind, stream) for kind in kinds for stream in streams]


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
