"""Feeds without records of the protocol: bare JSON objects, or bare float64 numbers.

The stream's name is the part of the topic after the configured prefix, without slashes at its
ends. A message of one frame, or whose topic is only the prefix, belongs to the one configured
stream, or to `stream`. Such a feed has no sequence numbers, so gaps cannot be detected.

`advice` describes a refused message, the expected form, and the flag that would accept it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from ..errors import ConfigurationError, DecodeError
from ..events import NO_TIME, Ticks
from ..quoting import printable
from ..schema import FeedConfig
from .protocol import KINDS, MAX_BLOCK_ROWS, MAX_PAYLOAD_BYTES, Number, check_name
from .times import TimeColumn
from .wire import FAULTS, columns_struct, raw_rows

DEFAULT_STREAM = "stream"


class ForeignDecoder:
    """Decode the messages of a feed whose `payload` is `json` or `float64`.

    Raises ConfigurationError for invalid columns or an invalid time field.
    """

    def __init__(self, config: FeedConfig) -> None:
        self._prefix = (config.topic or "").encode()
        self._wanted = frozenset(config.streams)
        self._default = config.streams[0] if len(config.streams) == 1 else DEFAULT_STREAM
        self._width = len(config.columns)
        self._time_field = config.time_field
        self._json = config.payload == "json"
        self._fields = _fields_decoder(config.columns, config.time_field)

    def decode(self, frames: Sequence[bytes]) -> Ticks | None:
        """Return the ticks of a message, None if its stream is not configured.

        Raises DecodeError.
        """
        if len(frames) not in (1, 2):
            raise DecodeError(
                f"{len(frames)} frames; expected a payload, or a topic and a payload",
                cause="frames",
            )
        payload = frames[-1]
        topic = frames[0] if len(frames) == 2 else self._prefix
        try:
            stream = self._stream(topic)
            if self._wanted and stream not in self._wanted:
                return None
            if len(payload) > MAX_PAYLOAD_BYTES:
                raise ValueError(f"{len(payload)} bytes exceed {MAX_PAYLOAD_BYTES}")
            return self._object(stream, payload) if self._json else self._raw(stream, payload)
        except FAULTS as error:
            raise DecodeError(f"topic {topic[:250]!r}: {error}") from None

    def _stream(self, topic: bytes) -> str:
        if not topic.startswith(self._prefix):
            raise ValueError(f"it does not begin with the configured {self._prefix!r}")
        name = topic[len(self._prefix) :].decode().strip("/")
        return check_name(name) if name else self._default

    def _object(self, stream: str, payload: bytes) -> Ticks:
        found = msgspec.structs.astuple(self._fields.decode(payload))
        t_ns = NO_TIME if self._time_field is None else time_ns(found[-1])
        values = np.array([found[: self._width]], np.float64)
        return Ticks(stream, np.array([t_ns], np.int64), values)

    def _raw(self, stream: str, payload: bytes) -> Ticks:
        rows, rest = divmod(len(payload), 8 * self._width)
        if rest or not 1 <= rows <= MAX_BLOCK_ROWS:
            raise ValueError(
                f"{len(payload)} bytes are not 1 to {MAX_BLOCK_ROWS} rows of {self._width} float64"
            )
        return Ticks(stream, np.zeros(rows, np.int64), raw_rows(payload, self._width, rows))


def _fields_decoder(columns: Sequence[str], time_field: str | None) -> msgspec.json.Decoder[Any]:
    """Decode an object into (value of each column, time)."""
    base = columns_struct(columns, Number)
    if time_field is None:
        return msgspec.json.Decoder(base)
    if time_field in columns:
        raise ConfigurationError(
            f"time_field = {time_field!r} is also a column: leave it out of columns",
            key="time_field",
        )
    time, rename = ("time", int | float | str), {"time": time_field}
    try:
        record = msgspec.defstruct("Fields", [time], bases=(base,), rename=rename)
    except ValueError as error:
        raise ConfigurationError(
            f"time_field = {time_field!r}: {error}", key="time_field"
        ) from None
    return msgspec.json.Decoder(record)


def time_ns(time: float | str) -> int:
    """Return nanoseconds since 1970 of a number or of ISO 8601 text; ValueError for others.

    A number's unit (s, ms, us or ns) follows from its size; text without a zone is UTC.
    """
    # the shortest decimal text of a float: 0.1 s is 100 ms, not the float64 beside it
    text = str(time)
    column = TimeColumn("auto")
    column.settle(text)
    return column.parse(text)


MAX_QUOTE = 80
"""Characters of a refused message in an error: enough to recognise its form."""

MAX_QUOTED_FRAMES = 4


def quoted(frames: Sequence[bytes]) -> str:
    """Return the start of a message, its frames separated by ` | `."""
    begin = b" | ".join(frame[:MAX_QUOTE] for frame in frames[:MAX_QUOTED_FRAMES])
    return printable(begin[: 2 * MAX_QUOTE].decode(errors="backslashreplace"), MAX_QUOTE)


def expected(config: FeedConfig) -> str:
    """Return the form of message that a feed's configuration expects."""
    names = ", ".join(config.columns)
    if config.payload == "record":
        return "topic tick/NAME/ and a record of this protocol"
    topic = f"a topic that begins with {printable(config.topic)!r}" if config.topic else "a topic"
    if config.payload == "float64":
        return f"{topic}, or none, and rows of {len(config.columns)} float64 ({names})"
    fields = names if config.time_field is None else f"{names}, {config.time_field}"
    return f"{topic}, or none, and a JSON object with the numbers {fields}"


def remedy(config: FeedConfig, frames: Sequence[bytes]) -> str:
    """Return the flag that would accept a message, or what its publisher has to change."""
    head, payload = frames[0], frames[-1]
    fields, is_record = _json_fields(payload), _is_record(frames)
    if len(frames) > 2:
        return "send a topic and a payload, in two frames"
    if len(frames) == 1 and b" {" in head[: 2 * MAX_QUOTE] and head.rstrip().endswith(b"}"):
        return "send the topic in a frame of its own, and set --payload json"
    if config.payload == "json":
        if fields is not None:
            return _remedy_of_json(config, frames, fields)
        if is_record:
            return "set --payload record"
    elif fields and not (config.payload == "record" and "v" in fields):
        columns = _missing_columns(config, fields)
        return f"set --payload json, {columns}" if columns else "set --payload json"
    if config.payload == "record" and is_record:
        if fields or _is_map(payload):
            return "name the columns of the feed in its order with --columns"
        return "send a record with the fields v and values, in MessagePack or JSON"
    if config.payload == "float64":
        return "name every number of a row in --columns"
    if not payload.isascii() and len(payload) % 8 == 0:
        return (
            "if these are bare float64 numbers, set --payload float64 and name them in --columns"
        )
    return "send the values as a JSON object with numbers, and set --payload json"


def _remedy_of_json(config: FeedConfig, frames: Sequence[bytes], fields: Sequence[str]) -> str:
    if config.topic and not frames[0].startswith(config.topic.encode()) and len(frames) == 2:
        return "set --topic to the start of its topics"
    if config.time_field is not None and config.time_field not in fields:
        return f"set --time-field to one of {', '.join(fields)}"
    return _missing_columns(config, fields) or "send numbers as JSON numbers, not as text"


def _json_fields(payload: bytes) -> list[str] | None:
    """Return the first names of a JSON object, None if it is not a JSON object."""
    if payload[:1] != b"{":
        return None
    try:
        found = msgspec.json.decode(payload, type=dict[str, msgspec.Raw])
    except FAULTS:
        # NaN is the most common reason: it is not JSON, and many encoders write it
        return None
    return [printable(name, MAX_QUOTE) for name in list(found)[:8]]


def _missing_columns(config: FeedConfig, fields: Sequence[str]) -> str:
    if all(name in fields for name in config.columns):
        return ""
    return f"name its columns with --columns (it has {', '.join(fields)})"


def _is_map(payload: bytes) -> bool:
    try:
        return isinstance(msgspec.msgpack.decode(payload), dict)
    except FAULTS:
        return False


def _is_record(frames: Sequence[bytes]) -> bool:
    return len(frames) == 2 and frames[0].partition(b"/")[0].decode(errors="replace") in KINDS


def advice(config: FeedConfig, frames: Sequence[bytes]) -> str:
    """Return the text that is appended to the reason of a refusal."""
    return (
        f"it begins '{quoted(frames)}'; expected {expected(config)}; {remedy(config, frames)}"
        if frames
        else f"it is empty; expected {expected(config)}"
    )
