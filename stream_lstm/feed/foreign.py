"""Feeds that know no records: bare JSON objects, or bare float64 numbers.

The stream's name is what follows the configured prefix in the topic, without slashes at its ends.
A message of one frame, or a topic that is only the prefix, is of the one configured stream, or of
`stream`. Such a feed has no sequence numbers, so that gaps cannot be seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from ..errors import ConfigurationError, DecodeError
from ..events import NO_TIME, Ticks
from ..tables import FeedConfig
from .records import MAX_BLOCK_ROWS, MAX_PAYLOAD_BYTES, Number
from .times import TimeColumn
from .topics import check_name
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
