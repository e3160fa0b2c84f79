"""The first frame of a message: `KIND/NAME/`.

The closing slash keeps a subscription to AAPL from matching AAPLX. Both directions are cached:
a stream's topic is looked at once and not with every tick.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple

from ..errors import DecodeError, UsageError
from .records import MAX_NAME_BYTES, MAX_TOPIC_BYTES

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
