"""Any other feed as one of ours: what comes of an asynchronous source goes out by a `Publisher`.

A source is whatever gives ticks to `async for`: a WebSocket, a consumer of Kafka, a generator. The
daemon stays as it is, on the other side of a socket, where it may be started anew without the feed
taking notice, and the ticks get the sequence numbers by which a loss shows.
"""

from __future__ import annotations

import operator
from collections.abc import AsyncIterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from ..errors import DataError
from .publisher import Publisher


class SourceTick(NamedTuple):
    """A tick of a source: its stream, time (ns since 1970) and values in the publisher's order."""

    stream: str
    t_ns: int
    values: Sequence[float]


class Source(Protocol):
    """What gives ticks to `async for`; its end is that of its streams.

    One that has an attribute `connected` gets no heartbeats sent while that is false, so that
    subscribers see a silent feed. A thread of the publisher's reads it.
    """

    def __aiter__(self) -> AsyncIterator[SourceTick]:
        """Return the ticks."""
        ...


async def bridge(source: Source, publisher: Publisher) -> int:
    """Publish what a source gives until it ends, and say of each stream that it has ended.

    Returns the number of ticks. The publisher sends its heartbeats meanwhile, but for times when
    the source is not connected. An error of the source's, or a cancellation, passes through, and
    no end is said then. A subscriber that cannot keep up holds the source up, as `Publisher` has
    it. Raises DataError for what is no tick: another type, a time that is not a whole number,
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


def _checked(tick: object, count: int) -> tuple[str, int, npt.NDArray[np.float64]]:
    """Return the stream, time and values (C,) of a tick, the source's `count`-th, from 0 on."""
    if not isinstance(tick, SourceTick):
        found = type(tick).__name__
        raise DataError(f"what the source gave as tick {count} is no SourceTick, but {found}")
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
