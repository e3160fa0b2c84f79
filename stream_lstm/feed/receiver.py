"""What the readers of a feed have in common: one caller at a time, timeouts, closing and asyncio.

A subclass makes its sockets in `_context`, lists in `_sockets` what wakes it, and reads them in
`_receive`. All else is here once for ticks and for predictions.

In asyncio nothing is lost by a cancellation: messages are read only after the last wait of a call,
without another one before they are returned, and `async for` keeps those of a batch that it has
not given yet for the next call of any kind. Waiting is left to `zmq.asyncio`, which knows
libzmq's edge-triggered descriptors and, by way of a thread, the loops that cannot watch them.
"""

from __future__ import annotations

from collections import deque
from contextlib import AbstractContextManager
from typing import Any, Generic, Self, TypeVar

import zmq

from ..closing import Closing
from ..errors import UsageError
from .callers import BUSY, CLOSED, Turns, milliseconds, seconds
from .guard import PIECE_S, Inbound

Event = TypeVar("Event")

RULE = (
    "another thread or task waits in it, or a signal handler called it in the middle of a call. "
    "One at a time may: make one for each thread and task, or hand its events on by a queue"
)


class Receiver(Closing, Generic[Event]):
    """A reader; see the module. `name` is what it is called in messages.

    An event loop, a thread and a signal handler may each use a reader, one after the other.
    """

    _sockets: tuple[zmq.Socket[Any], ...]

    def __init__(self, name: str, inbound: Inbound) -> None:
        self._turns = Turns(name, RULE)
        self._inbound = inbound
        self._context: zmq.Context[Any] = zmq.Context()
        self._kept: deque[Event] = deque()

    def _receive(self, timeout_s: float) -> list[Event]:
        """Return what waits, or comes within `timeout_s` seconds (0 or more, or infinite).

        Raises by `Turns.refuse` where the reader was closed while nothing came.
        """
        raise NotImplementedError

    def _pause_s(self, left_s: float) -> float:
        """Return the seconds, `left_s` at most, after which there is something to do."""
        return left_s

    def receive(self, timeout_s: float | None) -> list[Event]:
        """Return the events of what is waiting, or of a message that comes in time.

        timeout_s: seconds to wait; 0 or less only looks, None or infinity waits without limit.

        Empty after the timeout, and for messages that have no event, such as heartbeats, of which
        a reader of predictions awaits the next message. Raises UsageError for what is no time,
        where another thread or task is in a call of this reader, in a forked child, and after
        `close`, also where that comes while this call waits.
        """
        if type(timeout_s) is not float or not timeout_s >= 0.0:
            timeout_s = seconds("timeout_s", timeout_s)
        turns = self._turns
        if turns.barred:
            turns.refuse()
        turns.barred = BUSY  # without a call since the test: see `turns`
        try:
            return self._take_kept() if self._kept else self._receive(timeout_s)
        finally:
            turns.barred = ""
            if turns.closing:
                self._shut()

    def _take_kept(self) -> list[Event]:
        kept = list(self._kept)
        self._kept.clear()
        return kept

    def _turn(self) -> AbstractContextManager[None]:
        """Hold the reader; `receive` does the same with less ado."""
        return self._turns.held(self._shut)

    # ---- asyncio -------------------------------------------------------------------------

    async def receive_async(self, timeout_s: float | None = None) -> list[Event]:
        """Return the events of what is waiting, or of what comes within `timeout_s` seconds.

        timeout_s: None waits without limit. Empty after the timeout alone. A cancellation loses no
        message. Raises what `receive` raises, and UsageError for an event loop that cannot watch a
        socket.
        """
        import asyncio  # here, since a daemon that never awaits starts faster without it

        wait_s = seconds("timeout_s", timeout_s)
        with self._turn():
            # Others get their turn, and a cancellation comes through, however fast the feed is.
            await asyncio.sleep(0)
            return self._take_kept() if self._kept else await self._come(wait_s)

    async def _come(self, wait_s: float) -> list[Event]:
        import asyncio

        clock = asyncio.get_running_loop().time
        deadline = clock() + wait_s
        while True:
            events = self._receive(0.0)  # which raises where the reader is being closed
            left_s = deadline - clock()
            if events or left_s <= 0:
                return events
            await self._signal(self._pause_s(min(left_s, PIECE_S)))

    async def _signal(self, timeout_s: float) -> None:
        """Wait until a socket may have something."""
        import asyncio

        import zmq.asyncio as zmq_asyncio

        poller = zmq_asyncio.Poller()
        for socket in self._sockets:
            poller.register(socket, zmq.POLLIN)
        self._inbound.signals = tuple(int(socket.getsockopt(zmq.FD)) for socket in self._sockets)
        self._inbound.waiting = True
        try:
            await poller.poll(milliseconds(timeout_s))
        except (RuntimeError, NotImplementedError) as error:
            raise UsageError(
                f"{type(asyncio.get_running_loop()).__name__} cannot watch a socket, so "
                f"{self._turns.name} cannot be awaited in it: {error}"
            ) from None
        finally:
            self._inbound.waiting = False
            self._inbound.signals = ()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        """Return the next event; iteration ends when the reader is closed."""
        if not self._kept:
            try:
                events = await self.receive_async()
            except UsageError:
                if self._turns.closing and not self._turns.forked:
                    raise StopAsyncIteration from None
                raise
            self._kept.extend(events)
        return self._kept.popleft()

    # ---- closing -------------------------------------------------------------------------

    def close(self) -> None:
        """Close the sockets.

        Any thread may close. A call in another thread or task that waits ends within a second,
        with UsageError, and closes them. In a forked child nothing happens.
        """
        if not self._turns.forked:
            self._turns.closing = True
            self._shut()

    def _shut(self) -> None:
        turns = self._turns
        if turns.barred:
            return  # closed, or the call in progress closes at its end
        turns.barred = CLOSED
        self._context.destroy(linger=0)
