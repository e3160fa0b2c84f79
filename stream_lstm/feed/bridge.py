"""Publishes the ticks of any asynchronous source with a `Publisher`.

A source is anything that gives ticks to `async for`: a WebSocket, a Kafka consumer, a generator.
The daemon is on the other side of a socket, so it can restart without the feed noticing, and the
ticks get sequence numbers, which reveal losses.
"""

from __future__ import annotations

import operator
from collections.abc import AsyncIterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from ..errors import DataError
from ..typing import Float64s
from .publisher import Publisher


class SourceTick(NamedTuple):
    """A tick of a source: its stream, time (ns since 1970) and values in the publisher's order.

    A missing value is None or NaN.
    """

    stream: str
    t_ns: int
    values: Sequence[float | None]


class Source(Protocol):
    """Gives ticks to `async for`; when it ends, its streams end.

    If a source has an attribute `connected`, no heartbeats are sent while it is false, so
    subscribers see a silent feed. A thread of the publisher reads it.
    """

    def __aiter__(self) -> AsyncIterator[SourceTick]:
        """Return the ticks."""
        ...


async def bridge(source: Source, publisher: Publisher) -> int:
    """Publish the ticks of a source until it ends, and then the end of each stream.

    Returns the number of ticks. An error of the source, or a cancellation, passes through, and no
    end is published then. A subscriber that cannot keep up makes the source wait, see `Publisher`.
    Raises DataError for an invalid tick: another type, a time that is not a whole number, or
    values that are not numbers.
    """
    count = 0
    publisher.alive = lambda: bool(getattr(source, "connected", True))
    try:
        async for tick in source:
            publisher.publish(*_checked(tick, count))
            count += 1
    finally:
        publisher.alive = None
    publisher.end()
    return count


def _checked(tick: object, count: int) -> tuple[str, int, Float64s]:
    """Return the stream, time and values (C,) of the source's tick number `count`, from 0."""
    if not isinstance(tick, SourceTick):
        found = type(tick).__name__
        raise DataError(f"tick {count} of the source is not a SourceTick, but {found}")
    where = f"tick {count} of the source, of the stream {tick.stream!r}"
    try:
        t_ns = operator.index(tick.t_ns)
    except TypeError:
        raise DataError(
            f"{where}: the time {tick.t_ns!r} is not a whole number of nanoseconds"
        ) from None
    if not -(2**63) <= t_ns < 2**63:
        raise DataError(f"{where}: the time {t_ns} is outside the years 1677 to 2262")
    try:
        return tick.stream, t_ns, np.asarray(tick.values, np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(f"{where}: its values are not numbers: {error}") from None
