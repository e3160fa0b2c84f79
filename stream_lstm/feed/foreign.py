"""Feeds that know no records: bare JSON objects, or bare float64 numbers.

The stream's name is what follows the configured prefix in the topic, without slashes at its ends.
A message of one frame, or a topic that is only the prefix, is of the one configured stream, or of
`stream`. Such a feed has no sequence numbers, so that gaps cannot be seen.

What a refused message looked like, what was expected, and which flag would accept it.
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
from .records import KINDS, MAX_BLOCK_ROWS, MAX_PAYLOAD_BYTES, Number, check_name
from .times import TimeColumn
from .wire import FAULTS, columns_struct, raw_rows

DEFAULT_STREAM = "stream"


class ForeignDecoder:
    """Read the messages of a feed whose `payload` is `json` or `float64`.

    Raises ConfigurationError for columns or a time field that cannot be.
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
        """Return the ticks of a message, or None if its stream is not a configured one.

        Raises DecodeError.
        """
        if len(frames) not in (1, 2):
            raise DecodeError(
                f"{len(frames)} frames, where a payload or topic and payload belong",
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
            f"time_field = {time_field!r} is also a column: the time of a tick is there already",
            key="time_field",
        )
    time = ("time", int | float | str)
    try:
        rename = {"time": time_field}
        return msgspec.json.Decoder(
            msgspec.defstruct("Fields", [time], bases=(base,), rename=rename)
        )
    except ValueError as error:
        raise ConfigurationError(
            f"time_field = {time_field!r}: {error}", key="time_field"
        ) from None


def time_ns(time: float | str) -> int:
    """Return nanoseconds since 1970 of a number or of ISO 8601 text; ValueError if it is neither.

    A number's unit (s, ms, us or ns) follows from its size; text without a zone is UTC.
    """
    # by way of the shortest text, so that 0.1 s is 100 ms and not what float64 makes of it
    text = str(time)
    column = TimeColumn("auto")
    column.settle(text)
    return column.parse(text)


MAX_QUOTE = 80
"""Characters of a refused message that are quoted: enough to recognise its form."""

FEW_FRAMES = 4
"""Frames that are quoted; no feed has more."""


def quoted(frames: Sequence[bytes]) -> str:
    """Return how a message begins, its frames divided by ` | `."""
    begin = b" | ".join(frame[:MAX_QUOTE] for frame in frames[:FEW_FRAMES])
    return printable(begin[: 2 * MAX_QUOTE].decode(errors="backslashreplace"), MAX_QUOTE)


def expected(config: FeedConfig) -> str:
    """Return the form of message that a feed's configuration asks for."""
    names = ", ".join(config.columns)
    if config.payload == "record":
        return "topic tick/NAME/ and a record of this protocol"
    topic = f"a topic that begins with {printable(config.topic)!r}" if config.topic else "a topic"
    if config.payload == "float64":
        return f"{topic}, or none, and rows of {len(config.columns)} float64 ({names})"
    fields = names if config.time_field is None else f"{names}, {config.time_field}"
    return f"{topic}, or none, and a JSON object with the numbers {fields}"


def remedy(config: FeedConfig, frames: Sequence[bytes]) -> str:
    """Return which flag would accept a message, or what its publisher has to change."""
    head, payload = frames[0], frames[-1]
    if len(frames) > 2:
        return "send a topic and a payload, in two frames"
    if len(frames) == 1 and b" {" in head[: 2 * MAX_QUOTE] and head.rstrip().endswith(b"}"):
        return "send the topic in a frame of its own, and set --payload json"
    fields = _fields(payload)
    if config.payload != "json" and fields and not (config.payload == "record" and "v" in fields):
        return f"set --payload json{_columns(config, fields)}"
    if config.payload == "json" and fields is not None:
        if config.topic and not head.startswith(config.topic.encode()) and len(frames) == 2:
            return "set --topic to what its topics begin with"
        if config.time_field is not None and config.time_field not in fields:
            return f"set --time-field to one of {', '.join(fields)}"
        return _columns(config, fields).lstrip(" ,") or "send numbers as JSON numbers, not as text"
    if config.payload == "json" and _is_record(frames):
        return "set --payload record"
    if config.payload == "record" and _is_record(frames):
        if fields or _is_map(payload):
            return "name the columns of the feed in its order with --columns"
        return "send a record with the fields v and values, in MessagePack or JSON"
    if config.payload != "float64" and not payload.isascii() and len(payload) % 8 == 0:
        return (
            "if these are bare float64 numbers, set --payload float64 and name them in --columns"
        )
    if config.payload == "float64":
        return "name every number of a row in --columns"
    return "send the values as a JSON object with numbers, and set --payload json"


def _fields(payload: bytes) -> list[str] | None:
    """Return the first names of a JSON object, None for what is not one."""
    if payload[:1] != b"{":
        return None
    try:
        found = msgspec.json.decode(payload, type=dict[str, msgspec.Raw])
    except FAULTS:
        # NaN is the most common reason: it is not JSON, and many encoders write it
        return None
    return [printable(name, MAX_QUOTE) for name in list(found)[:8]]


def _columns(config: FeedConfig, fields: Sequence[str]) -> str:
    missing = [name for name in config.columns if name not in fields]
    if not missing:
        return ""
    return f", name its columns with --columns (it has {', '.join(fields)})"


def _is_map(payload: bytes) -> bool:
    try:
        return isinstance(msgspec.msgpack.decode(payload), dict)
    except FAULTS:
        return False


def _is_record(frames: Sequence[bytes]) -> bool:
    return len(frames) == 2 and frames[0].partition(b"/")[0].decode(errors="replace") in KINDS


def advice(config: FeedConfig, frames: Sequence[bytes]) -> str:
    """Return what to add to the reason of a refusal."""
    return (
        f"it begins '{quoted(frames)}'; expected {expected(config)}; {remedy(config, frames)}"
        if frames
        else f"it is empty; expected {expected(config)}"
    )
