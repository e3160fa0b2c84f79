"""Decoding of messages: the only place where bytes become events.

The topic says what kind of record the payload is, and of which stream (see `protocol`). A payload
that starts with `{` is JSON, any other MessagePack: there that byte is the number 123 and never
starts a map.

Decoders trust nothing. Whatever the bytes, they return an event or raise `DecodeError`, and they
use memory in proportion to the payload, not to what it claims. They check shapes and types. The
session checks whether values are finite, so that it can refuse single rows of a block.

`declared` decodes feeds without records.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from functools import lru_cache
from typing import Annotated, Any, Generic, Literal, TypeAlias, TypeVar

import msgspec
import numpy as np
from msgspec import Meta

from ..config import MAX_MEMBERS
from ..errors import ConfigurationError, DecodeError
from ..events import NO_TIME, Expert, Label, Prediction, Score, Seq, Session, Ticks, Time
from ..typing import Float64s, Int64s
from .protocol import (
    MAX_BLOCK_ROWS,
    MAX_EXPERT_CHARS,
    MAX_PAYLOAD_BYTES,
    ON_WIRE,
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
"""What msgspec, NumPy and the code here raise for bad bytes."""

Message: TypeAlias = Ticks | Label | Prediction | Score | Heartbeat
NumberColumn: TypeAlias = Annotated[list[Number], Meta(max_length=MAX_BLOCK_ROWS)]
ListedValues: TypeAlias = Annotated[list[list[Number] | Number], Meta(max_length=MAX_BLOCK_ROWS)]
T = TypeVar("T")
E = TypeVar("E", Prediction, Score)

_BRACE = ord("{")


class _Versioned(msgspec.Struct):
    v: int


class RecordDecoder(Generic[T]):
    """Decode one kind of record from MessagePack or JSON; raises only DecodeError.

    A whole number may be a float: JavaScript and Lua have no others.
    """

    def __init__(self, kind: Any) -> None:
        self._json = msgspec.json.Decoder(kind)
        self._msgpack = msgspec.msgpack.Decoder(kind)

    def decode(self, where: str, payload: bytes) -> T:
        """Return the record in `payload`; error messages start with `where`."""
        if len(payload) > MAX_PAYLOAD_BYTES:
            raise DecodeError(
                f"{where}: {len(payload)} bytes exceed {MAX_PAYLOAD_BYTES}", cause="size"
            )
        try:
            record = self._record(payload)
        except FAULTS as error:
            _check_version(where, payload)
            raise DecodeError(f"{where}: {error}") from None
        if record.v != PROTOCOL_VERSION:
            raise _other_version(where, record.v)
        return record  # type: ignore[no-any-return]

    def _record(self, payload: bytes) -> Any:
        as_json = payload[:1] == b"{"
        decoder = self._json if as_json else self._msgpack
        try:
            return decoder.decode(payload)
        except msgspec.ValidationError:
            whole = _with_integers(payload, msgspec.json if as_json else msgspec.msgpack)
            if whole is None:
                raise
        return decoder.decode(whole)


WHOLE = ("v", "n", "seq", "t_ns", "rows")
"""Fields of integers, or of an array of them."""

Whole: TypeAlias = int | float | list[int | float]


def _with_integers(payload: bytes, module: Any) -> bytes | None:
    """Return a payload whose whole numbers are no longer floats; None where there were none.

    The other fields stay bytes: a hostile payload is not expanded. Raises ValueError for a float
    with a fraction.
    """
    try:
        fields: dict[str, msgspec.Raw] = module.decode(payload, type=dict[str, msgspec.Raw])
    except FAULTS:
        return None
    changed = False
    for key in WHOLE:
        try:
            value = module.decode(fields[key], type=Whole)
        except (*FAULTS, LookupError):
            continue
        parts = value if isinstance(value, list) else [value]
        if any(isinstance(part, float) for part in parts):
            exact = [_integer(key, part) if isinstance(part, float) else part for part in parts]
            fields[key] = msgspec.Raw(
                module.encode(exact if isinstance(value, list) else exact[0])
            )
            changed = True
    return bytes(module.encode(fields)) if changed else None


def _integer(key: str, value: float) -> int:
    if not value.is_integer():
        raise ValueError(f"`{key}` has {value!r}, and must be whole")
    return int(value)


def _other_version(where: str, version: int) -> DecodeError:
    return DecodeError(
        f"{where}: protocol version {version} is not the supported version {PROTOCOL_VERSION}; "
        "publisher and subscriber must use the same protocol version",
        cause="version",
    )


def _check_version(where: str, payload: bytes) -> None:
    """Raise if the record has another version, since its fields may differ for that reason."""
    module: Any = msgspec.json if payload[:1] == b"{" else msgspec.msgpack
    try:
        version = module.decode(payload, type=_Versioned).v
    except FAULTS:
        return
    if version != PROTOCOL_VERSION:
        raise _other_version(where, version)


def columns_struct(
    columns: Sequence[str], kind: Any, optional: Container[str] = ()
) -> type[msgspec.Struct]:
    """Return a struct that picks `columns` by name, each a `kind`, and ignores other fields.

    A column in `optional` may be absent, which gives UNSET. Raises ConfigurationError without
    columns, and for repeated or invalid names.
    """
    if not columns or len(set(columns)) != len(columns):
        raise ConfigurationError(
            f"columns = {list(columns)}: name every column of the feed once", key="columns"
        )
    keys = {f"c{i}": name for i, name in enumerate(columns)}
    fields: list[Any] = [
        (key, kind | msgspec.UnsetType, msgspec.UNSET) if name in optional else (key, kind)
        for key, name in keys.items()
    ]
    try:
        return msgspec.defstruct("Columns", fields, rename=keys, kw_only=True)
    except ValueError as error:
        raise ConfigurationError(f"columns = {list(columns)}: {error}", key="columns") from None


def _named(values: msgspec.Struct, columns: Sequence[str]) -> tuple[Any, ...]:
    """Return values by name in order, None for an absent one; ValueError if all are absent."""
    found = msgspec.structs.astuple(values)
    if msgspec.UNSET not in found:
        return found
    if all(value is msgspec.UNSET for value in found):
        raise ValueError(f"`values` has none of the columns {', '.join(columns)}")
    block = next((len(value) for value in found if type(value) is list), None)
    absent = None if block is None else [None] * block
    return tuple(absent if value is msgspec.UNSET else value for value in found)


def _tick_struct(version: Any, values: Any, times: Any, rows: Any) -> Any:
    fields: list[tuple[str, Any] | tuple[str, Any, Any]] = [
        ("v", version),
        ("values", values),
        ("run_id", Session | None, None),
        ("seq", Seq | None, None),
        ("t_ns", times, NO_TIME),
        ("rows", rows, None),
    ]
    return msgspec.defstruct("Tick", fields, rename=ON_WIRE)


class OneTickDecoder:
    """Decode the record of one tick, the usual message, in one call of msgspec without an array.

    It accepts fewer forms than `TickDecoder`, which decodes the same ticks and reports errors.
    optional: columns that a record with names may omit. Raises ConfigurationError for invalid
    columns.
    """

    def __init__(self, columns: Sequence[str], optional: Container[str] = ()) -> None:
        self._columns = tuple(columns)
        listed: Any = tuple.__class_getitem__((Number,) * len(columns))
        values = listed | columns_struct(columns, Number, optional)
        record = _tick_struct(Literal[PROTOCOL_VERSION], values, Time, None)
        self._json: Callable[[bytes], Any] = msgspec.json.Decoder(record).decode
        self._msgpack: Callable[[bytes], Any] = msgspec.msgpack.Decoder(record).decode

    def decode(self, payload: bytes) -> tuple[int, Sequence[float | None], str, int | None] | None:
        """Return (t_ns, values in order, run id, seq); None for anything but one valid tick."""
        if len(payload) > MAX_PAYLOAD_BYTES:
            return None
        try:
            record = self._json(payload) if payload[0] == _BRACE else self._msgpack(payload)
            values = record.values
            if type(values) is not tuple:
                values = _named(values, self._columns)
        except (*FAULTS, IndexError):
            return None
        return record.t_ns, values, record.run_id or "", record.seq


class TickDecoder:
    """Decode tick records whose values have the given columns.

    optional: columns that a record with names may omit. Raises ConfigurationError for invalid
    columns; see `columns_struct`.
    """

    def __init__(self, columns: Sequence[str], optional: Container[str] = ()) -> None:
        self.columns = tuple(columns)
        named = columns_struct(self.columns, NumberColumn | Number, optional)
        record = _tick_struct(int, ListedValues | named | bytes, Times, Rows | None)
        self._records: RecordDecoder[Any] = RecordDecoder(record)

    def decode(self, topic: bytes, payload: bytes) -> Ticks:
        """Return the ticks of a message: `values` float64 (n, C), `t_ns` int64 (n,)."""
        parsed = parse_topic(topic)
        if parsed.kind != "tick":
            raise DecodeError(f"topic {parsed.text!r} is not of ticks", cause="topic")
        record = self._records.decode(parsed.text, payload)
        try:
            values = self._values(record)
            t_ns = _times(record.t_ns, len(values))
            run_id = check_run_id(record.run_id)
        except FAULTS as error:
            raise DecodeError(f"{parsed.text}: {error}") from None
        return Ticks(parsed.stream, t_ns, values, run_id, record.seq, parsed.text)

    def _values(self, record: Any) -> Float64s:
        values, width = record.values, len(self.columns)
        if type(values) is bytes:
            return raw_rows(values, width, record.rows)
        if type(values) is list:
            block = _rows(values)
        else:
            columns = _named(values, self.columns)
            block = _rows(list(columns))
            if type(columns[0]) is list:
                block = np.ascontiguousarray(block.T)
        if block.shape[1] != width:
            raise ValueError(
                f"{block.shape[1]} values, but the columns are {width}: "
                f"{', '.join(self.columns)}: name the feed's columns in its order with --columns"
            )
        if record.rows not in (None, len(block)):
            raise ValueError(f"rows={record.rows}, but there are {len(block)}")
        if not 1 <= len(block) <= MAX_BLOCK_ROWS:
            raise ValueError(f"a block of {len(block)} is not between 1 and {MAX_BLOCK_ROWS}")
        return block


def check_run_id(run_id: str | None) -> str:
    """Return the run id, "" for None; ValueError if it is not printable."""
    if run_id is None:
        return ""
    if not run_id.isprintable():
        raise ValueError(f"session {run_id!r} contains a control character")
    return run_id


def raw_rows(values: bytes, width: int, rows: int | None) -> Float64s:
    """Return row-major little-endian float64 bytes as (rows, width), without a copy."""
    if rows is None:
        raise ValueError("values in raw bytes need the field `rows`")
    if len(values) != rows * width * 8:
        raise ValueError(f"{len(values)} bytes of values are not {rows} rows of {width} float64")
    return np.frombuffer(values, "<f8").reshape(rows, width)


def _rows(values: list[Any]) -> Float64s:
    """Return a list of numbers as one row, and a list of lists as rows."""
    nested = bool(values) and type(values[0]) is list
    if any((type(row) is list) != nested for row in values):
        raise ValueError("`values` mixes numbers and arrays")
    if not nested:
        return np.array([values], np.float64)
    if len({len(row) for row in values}) != 1:
        raise ValueError("the rows of `values` differ in length")
    return np.array(values, np.float64)


def _times(t_ns: int | list[int] | bytes, n: int) -> Int64s:
    if isinstance(t_ns, int):
        if n > 1 and t_ns != NO_TIME:
            raise ValueError(f"one time for a block of {n}")
        return np.full(n, t_ns, np.int64)
    if isinstance(t_ns, bytes):
        if len(t_ns) != 8 * n:
            raise ValueError(f"{len(t_ns)} bytes of times are not {n} int64")
        return np.frombuffer(t_ns, "<i8")
    if len(t_ns) != n:
        raise ValueError(f"{len(t_ns)} times for {n} ticks")
    return np.array(t_ns, np.int64)


class MessageDecoder:
    """Decode any message of the protocol; raises only DecodeError. See `TickDecoder`."""

    def __init__(self, columns: Sequence[str], optional: Container[str] = ()) -> None:
        self._decode: dict[str, Callable[[bytes, bytes], Message]] = {
            "tick": TickDecoder(columns, optional).decode,
            "label": decode_label,
            "prediction": decode_prediction,
            "score": decode_score,
            "heartbeat": decode_heartbeat,
        }

    def decode(self, topic: bytes, payload: bytes) -> Message:
        """Return the event of a message."""
        return self._decode[parse_topic(topic).kind](topic, payload)


@lru_cache(maxsize=16)
def _message_decoder(columns: tuple[str, ...]) -> MessageDecoder:
    return MessageDecoder(columns)


def decode_message(topic: bytes, payload: bytes, columns: Sequence[str]) -> Message:
    """Return the event of a message whose ticks have the given columns; raises DecodeError."""
    return _message_decoder(tuple(columns)).decode(topic, payload)


_LABELS: RecordDecoder[LabelRecord] = RecordDecoder(LabelRecord)
_PREDICTIONS: RecordDecoder[Any] = RecordDecoder(PredictionRecord)
_SCORES: RecordDecoder[Any] = RecordDecoder(ScoreRecord)
_HEARTBEATS: RecordDecoder[HeartbeatRecord] = RecordDecoder(HeartbeatRecord)
_REQUESTS: RecordDecoder[Request] = RecordDecoder(Request)
_REPLIES: RecordDecoder[Reply] = RecordDecoder(Reply)


def decode_label(topic: bytes, payload: bytes) -> Label:
    """Return the label in a message; raises DecodeError."""
    parsed = parse_topic(topic)
    record = _LABELS.decode(parsed.text, payload)
    return Label(parsed.stream, record.n, record.y, record.t_ns)


def decode_prediction(topic: bytes, payload: bytes) -> Prediction:
    """Return the prediction in a message; raises DecodeError."""
    return _decode_output(Prediction, _PREDICTIONS, topic, payload)


def decode_score(topic: bytes, payload: bytes) -> Score:
    """Return the score in a message; raises DecodeError."""
    return _decode_output(Score, _SCORES, topic, payload)


def _decode_output(kind: type[E], decoder: RecordDecoder[Any], topic: bytes, payload: bytes) -> E:
    parsed = parse_topic(topic)
    record = msgspec.structs.asdict(decoder.decode(parsed.text, payload))
    del record["v"]
    fields = {name: value for name, value in record.items() if value is not msgspec.UNSET}
    try:
        check_run_id(fields["session"])
        _check_experts(fields.get("experts", ()))
        return kind(parsed.stream, **fields)
    except ValueError as error:
        raise DecodeError(f"{parsed.text}: {error}") from None


def _check_experts(experts: Sequence[Expert]) -> None:
    """Raise ValueError for more than a bank can have: viewers store the last predictions."""
    if len(experts) > MAX_MEMBERS or any(len(e.name) > MAX_EXPERT_CHARS for e in experts):
        raise ValueError(
            f"there are more than {MAX_MEMBERS} experts, or a name has more than "
            f"{MAX_EXPERT_CHARS} characters"
        )


def decode_heartbeat(topic: bytes, payload: bytes) -> Heartbeat:
    """Return the heartbeat in a message; raises DecodeError."""
    parsed = parse_topic(topic)
    record = _HEARTBEATS.decode(parsed.text, payload)
    try:
        run_id = check_run_id(record.run_id)
    except ValueError as error:
        raise DecodeError(f"{parsed.text}: {error}") from None
    return Heartbeat(
        parsed.stream,
        record.seq,
        run_id,
        record.t_ns,
        record.end,
        record.stale is True,
        record.columns or (),
        record.status or "",
    )


def decode_request(payload: bytes) -> Request:
    """Return a subscriber's recovery request; raises DecodeError."""
    return _REQUESTS.decode("request", payload)


def decode_reply(payload: bytes) -> Reply:
    """Return a publisher's reply to a recovery request; raises DecodeError."""
    return _REPLIES.decode("reply", payload)
