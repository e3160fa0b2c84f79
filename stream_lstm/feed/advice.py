"""What a refused message looked like, what was expected, and which flag would accept it."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from ..quoting import printable
from ..tables import FeedConfig
from .topics import KINDS
from .wire import FAULTS

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
