"""Bytes become events in this one module.

A message is two frames, topic and payload. The topic says what the payload is and of which
stream (see `topics`). The payload is one record (see `records`), msgpack or JSON: a payload that
opens with `{` is JSON, since in msgpack that byte is the number 123 and never opens a map.

Decoders trust nothing: whatever the bytes, they return an event or raise `DecodeError`, and
take memory in proportion to the payload and not to what it claims. They check shapes and types.
Whether a value is finite is the session's question, so that one bad row of a block is refused
alone.

The feeds of others, which know no records, are read by `foreign`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Annotated, Any, Generic, Literal, TypeAlias, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Meta

from ..config import MAX_MEMBERS
from ..errors import ConfigurationError, DecodeError
from ..events import NO_TIME, Expert, Label, Prediction, Score, Seq, Session, Ticks, Time
from .records import (
    MAX_BLOCK_ROWS,
    MAX_EXPERT_CHARS,
    MAX_PAYLOAD_BYTES,
    PROTOCOL_VERSION,
    Heartbeat,
    HeartbeatRecord,
    LabelRecord,
    Number,
    PredictionRecord,
    Reply,
    Request,
    Rows,
    ScoreRecord,
    Times,
    parse_topic,
)

FAULTS = (msgspec.MsgspecError, ValueError, ArithmeticError, RecursionError, TypeError)
"""What decoding bad bytes can raise, here and in msgspec and NumPy."""

Message: TypeAlias = Ticks | Label | Prediction | Score | Heartbeat
Column: TypeAlias = Annotated[list[Number], Meta(max_length=MAX_BLOCK_ROWS)]
Ticked: TypeAlias = Annotated[list[list[Number] | Number], Meta(max_length=MAX_BLOCK_ROWS)]
T = TypeVar("T")
E = TypeVar("E", Prediction, Score)


_BRACE = ord("{")


class _Versioned(msgspec.Struct):
    v: int


class RecordDecoder(Generic[T]):
    """Read one kind of record from msgpack or JSON; raises nothing but DecodeError."""

    def __init__(self, kind: Any) -> None:
        self._json = msgspec.json.Decoder(kind)
        self._msgpack = msgspec.msgpack.Decoder(kind)

    def decode(self, where: str, payload: bytes) -> T:
        """Return the record in `payload`; `where` opens the message of an error."""
        if len(payload) > MAX_PAYLOAD_BYTES:
            raise DecodeError(
                f"{where}: {len(payload)} bytes exceed {MAX_PAYLOAD_BYTES}", cause="size"
            )
        try:
            decoder = self._json if payload[:1] == b"{" else self._msgpack
            record = decoder.decode(payload)
        except FAULTS as error:
            _check_version(where, payload)
            raise DecodeError(f"{where}: {error}") from None
        if record.v != PROTOCOL_VERSION:
            raise _other_version(where, record.v)
        return record  # type: ignore[no-any-return]


def _other_version(where: str, version: int) -> DecodeError:
    return DecodeError(
        f"{where}: protocol version {version} is not the version {PROTOCOL_VERSION} spoken here; "
        "publisher and subscriber must run versions of one protocol",
        cause="version",
    )


def _check_version(where: str, payload: bytes) -> None:
    """Raise if it is a record of another version: its fields may differ for that reason."""
    module: Any = msgspec.json if payload[:1] == b"{" else msgspec.msgpack
    try:
        version = module.decode(payload, type=_Versioned).v
    except FAULTS:
        return
    if version != PROTOCOL_VERSION:
        raise _other_version(where, version)


def columns_struct(columns: Sequence[str], kind: Any) -> type[msgspec.Struct]:
    """Return a struct that picks `columns` by name, each a `kind`, and skips what else is there.

    Raises ConfigurationError for no columns, a name given twice, or one that cannot be a key.
    """
    if not columns or len(set(columns)) != len(columns):
        raise ConfigurationError(
            f"columns = {list(columns)}: name every column of the feed once", key="columns"
        )
    keys = {f"c{i}": name for i, name in enumerate(columns)}
    try:
        return msgspec.defstruct("Columns", [(key, kind) for key in keys], rename=keys)
    except ValueError as error:
        raise ConfigurationError(f"columns = {list(columns)}: {error}", key="columns") from None


class OneTickDecoder:
    """Read the record of one tick, as most are, in one call of msgspec and without an array.

    It knows less than `TickDecoder`, which reads the same ticks and says what is wrong with
    those that are left. Raises ConfigurationError for columns that cannot be.
    """

    def __init__(self, columns: Sequence[str]) -> None:
        listed: Any = tuple.__class_getitem__((Number,) * len(columns))
        fields: list[tuple[str, Any] | tuple[str, Any, Any]] = [
            ("v", Literal[PROTOCOL_VERSION]),
            ("values", listed | columns_struct(columns, Number)),
            ("session", Session | None, None),
            ("seq", Seq | None, None),
            ("t_ns", Time, NO_TIME),
            ("rows", None, None),
        ]
        record: Any = msgspec.defstruct("OneTick", fields)
        self._json: Callable[[bytes], Any] = msgspec.json.Decoder(record).decode
        self._msgpack: Callable[[bytes], Any] = msgspec.msgpack.Decoder(record).decode

    def decode(self, payload: bytes) -> tuple[int, Sequence[float | None], str, int | None] | None:
        """Return (t_ns, values in order, session, seq); None for anything but one good tick."""
        if len(payload) > MAX_PAYLOAD_BYTES:
            return None
        try:
            record = self._json(payload) if payload[0] == _BRACE else self._msgpack(payload)
        except (*FAULTS, IndexError):
            return None
        values = record.values
        if type(values) is not tuple:
            values = msgspec.structs.astuple(values)
        return record.t_ns, values, record.session or "", record.seq


class TickDecoder:
    """Read tick records whose values have the given columns.

    Raises ConfigurationError for columns that cannot be; see `columns_struct`.
    """

    def __init__(self, columns: Sequence[str]) -> None:
        self.columns = tuple(columns)
        named = columns_struct(self.columns, Column | Number)
        fields: list[tuple[str, Any] | tuple[str, Any, Any]] = [
            ("v", int),
            ("values", Ticked | named | bytes),
            ("session", Session | None, None),
            ("seq", Seq | None, None),
            ("t_ns", Times, NO_TIME),
            ("rows", Rows | None, None),
        ]
        self._records: RecordDecoder[Any] = RecordDecoder(msgspec.defstruct("Tick", fields))

    def decode(self, topic: bytes, payload: bytes) -> Ticks:
        """Return the ticks of a message: `values` float64 (n, C), `t_ns` int64 (n,)."""
        parsed = parse_topic(topic)
        if parsed.kind != "tick":
            raise DecodeError(f"topic {parsed.text!r} is not of ticks", cause="topic")
        record = self._records.decode(parsed.text, payload)
        try:
            values = self._values(record)
            t_ns = _times(record.t_ns, len(values))
            session = check_session(record.session)
        except FAULTS as error:
            raise DecodeError(f"{parsed.text}: {error}") from None
        return Ticks(parsed.stream, t_ns, values, session, record.seq, parsed.text)

    def _values(self, record: Any) -> npt.NDArray[np.float64]:
        values, width = record.values, len(self.columns)
        if type(values) is list and len(values) == width and type(values[0]) is not list:
            block = np.array([values], np.float64)
        elif type(values) is bytes:
            return raw_rows(values, width, record.rows)
        elif type(values) is list:
            block = _rows(values)
        else:
            block = _named(msgspec.structs.astuple(values))
        if block.shape[1] != width:
            raise ValueError(
                f"{block.shape[1]} values, but the columns are {self._names()}: name those of the "
                "feed in its order with --columns"
            )
        if record.rows not in (None, len(block)):
            raise ValueError(f"rows={record.rows}, but there are {len(block)}")
        if not 1 <= len(block) <= MAX_BLOCK_ROWS:
            raise ValueError(f"a block of {len(block)} is not between 1 and {MAX_BLOCK_ROWS}")
        return block

    def _names(self) -> str:
        return f"{len(self.columns)}: {', '.join(self.columns)}"


def check_session(session: str | None) -> str:
    """Return the session id, "" for none; ValueError if it cannot be shown."""
    if session is None:
        return ""
    if not session.isprintable():
        raise ValueError(f"session {session!r} has a control character in it")
    return session


def raw_rows(values: bytes, width: int, rows: int | None) -> npt.NDArray[np.float64]:
    """Return row-major little-endian float64 bytes as (rows, width), not copied."""
    if rows is None:
        raise ValueError("values in raw bytes need the field `rows`")
    if len(values) != rows * width * 8:
        raise ValueError(f"{len(values)} bytes of values are not {rows} rows of {width} float64")
    return np.frombuffer(values, "<f8").reshape(rows, width)


def _rows(values: list[Any]) -> npt.NDArray[np.float64]:
    nested = bool(values) and type(values[0]) is list
    if any((type(row) is list) != nested for row in values):
        raise ValueError("`values` mixes numbers and arrays")
    if not nested:
        return np.array([values], np.float64)
    if len({len(row) for row in values}) != 1:
        raise ValueError("the rows of `values` differ in length")
    return np.array(values, np.float64)


def _named(values: tuple[Any, ...]) -> npt.NDArray[np.float64]:
    """Turn one number or one array for each column into rows."""
    block = _rows(list(values))
    return np.ascontiguousarray(block.T) if type(values[0]) is list else block


def _times(t_ns: int | list[int] | bytes, n: int) -> npt.NDArray[np.int64]:
    if isinstance(t_ns, int):
        if n == 1:
            return np.array([t_ns], np.int64)
        if t_ns != NO_TIME:
            raise ValueError(f"one time for a block of {n}")
        return np.zeros(n, np.int64)
    if isinstance(t_ns, bytes):
        if len(t_ns) != 8 * n:
            raise ValueError(f"{len(t_ns)} bytes of times are not {n} int64")
        return np.frombuffer(t_ns, "<i8")
    if len(t_ns) != n:
        raise ValueError(f"{len(t_ns)} times for {n} ticks")
    return np.array(t_ns, np.int64)


class MessageDecoder:
    """Read any message of the protocol; raises nothing but DecodeError."""

    def __init__(self, columns: Sequence[str]) -> None:
        self._decode: dict[str, Callable[[bytes, bytes], Message]] = {
            "tick": TickDecoder(columns).decode,
            "label": decode_label,
            "prediction": decode_prediction,
            "score": decode_score,
            "heartbeat": decode_heartbeat,
        }

    def decode(self, topic: bytes, payload: bytes) -> Message:
        """Return what the message says."""
        return self._decode[parse_topic(topic).kind](topic, payload)


@lru_cache(maxsize=16)
def _message_decoder(columns: tuple[str, ...]) -> MessageDecoder:
    return MessageDecoder(columns)


def decode_message(topic: bytes, payload: bytes, columns: Sequence[str]) -> Message:
    """Return what a message says; ticks have the given columns. Raises DecodeError."""
    return _message_decoder(tuple(columns)).decode(topic, payload)


_LABELS: RecordDecoder[LabelRecord] = RecordDecoder(LabelRecord)
_PREDICTIONS: RecordDecoder[Any] = RecordDecoder(PredictionRecord)
_SCORES: RecordDecoder[Any] = RecordDecoder(ScoreRecord)
_HEARTBEATS: RecordDecoder[HeartbeatRecord] = RecordDecoder(HeartbeatRecord)
_REQUESTS: RecordDecoder[Request] = RecordDecoder(Request)
_REPLIES: RecordDecoder[Reply] = RecordDecoder(Reply)


def decode_label(topic: bytes, payload: bytes) -> Label:
    """Return the label of a message; raises DecodeError."""
    parsed = parse_topic(topic)
    record = _LABELS.decode(parsed.text, payload)
    return Label(parsed.stream, record.n, record.y, record.t_ns)


def decode_prediction(topic: bytes, payload: bytes) -> Prediction:
    """Return the prediction of a message; raises DecodeError."""
    return _decode_output(Prediction, _PREDICTIONS, topic, payload)


def decode_score(topic: bytes, payload: bytes) -> Score:
    """Return the score of a message; raises DecodeError."""
    return _decode_output(Score, _SCORES, topic, payload)


def _decode_output(kind: type[E], decoder: RecordDecoder[Any], topic: bytes, payload: bytes) -> E:
    parsed = parse_topic(topic)
    fields = msgspec.structs.asdict(decoder.decode(parsed.text, payload))
    del fields["v"]
    said = {name: value for name, value in fields.items() if value is not msgspec.UNSET}
    try:
        check_session(said["session"])
        _check_experts(said.get("experts", ()))
        return kind(parsed.stream, **said)
    except ValueError as error:
        raise DecodeError(f"{parsed.text}: {error}") from None


def _check_experts(experts: Sequence[Expert]) -> None:
    """Raise ValueError for what no bank has: a viewer keeps the last predictions."""
    if len(experts) > MAX_MEMBERS or any(len(e.name) > MAX_EXPERT_CHARS for e in experts):
        raise ValueError(
            f"there are more than {MAX_MEMBERS} experts, or a name has more than "
            f"{MAX_EXPERT_CHARS} characters"
        )


def decode_heartbeat(topic: bytes, payload: bytes) -> Heartbeat:
    """Return the heartbeat of a message; raises DecodeError."""
    parsed = parse_topic(topic)
    record = _HEARTBEATS.decode(parsed.text, payload)
    try:
        session = check_session(record.session)
    except ValueError as error:
        raise DecodeError(f"{parsed.text}: {error}") from None
    told = session, record.t_ns, record.end, record.stale is True, record.columns or ()
    return Heartbeat(parsed.stream, record.seq, *told)


def decode_request(payload: bytes) -> Request:
    """Return what a subscriber asks for over the side channel; raises DecodeError."""
    return _REQUESTS.decode("request", payload)


def decode_reply(payload: bytes) -> Reply:
    """Return what a publisher answers over the side channel; raises DecodeError."""
    return _REPLIES.decode("reply", payload)
