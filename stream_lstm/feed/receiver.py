"""What all readers of sockets share: one caller at a time, timeouts, closing and asyncio.

A subclass creates its sockets in `_context`, lists in `_sockets` those that wake it, and reads
them in `_receive`.

In asyncio a cancellation loses nothing: a call reads messages only after its last wait, and
`async for` saves the rest of a batch for the next call of any kind. `zmq.asyncio` does the
waiting: it handles libzmq's edge-triggered descriptors, and event loops that cannot watch them.
"""

from __future__ import annotations

from collections import deque
from contextlib import AbstractContextManager
from typing import Any, Generic, Self, TypeVar

import zmq

from ..closing import Closing
from ..errors import UsageError
from .callers import BUSY, CLOSED, Usage, milliseconds, seconds
from .guard import MAX_WAIT_S, Inbound

Event = TypeVar("Event")

RULE = (
    "another thread or task waits in it, or a signal handler called it in the middle of a call. "
    "One at a time may: make one for each thread and task, or hand its events on by a queue"
)


class Receiver(Closing, Generic[Event]):
    """A reader; `name` is its name in messages.

    An event loop, a thread and a signal handler may use one reader, but not at the same time.
    """

    _sockets: tuple[zmq.Socket[Any], ...]

    def __init__(self, name: str, inbound: Inbound) -> None:
        self._usage = Usage(name, RULE)
        self._inbound = inbound
        self._context: zmq.Context[Any] = zmq.Context()
        self._saved: deque[Event] = deque()  # read by `async for`, not yet returned

    def _receive(self, timeout_s: float) -> list[Event]:
        """Return what is waiting, or arrives within `timeout_s` seconds (0 or more, or infinite).

        Raises by `Usage.refuse` if the reader is closed while it waits.
        """
        raise NotImplementedError

    def _pause_s(self, left_s: float) -> float:
        """Return the seconds, at most `left_s`, after which `_receive` has something to do."""
        return left_s

    def receive(self, timeout_s: float | None) -> list[Event]:
        """Return the events of what is waiting, or of a message that arrives in time.

        timeout_s: seconds to wait; 0 or less only looks, None or infinity waits without limit.

        Returns an empty list after the timeout, and for messages without an event, such as
        heartbeats; a reader of predictions then waits for the next message. Raises UsageError for
        an invalid time, during a call of another thread or task, in a forked child, and after
        `close`, also if the reader is closed during this call.
        """
        if type(timeout_s) is not float or not timeout_s >= 0.0:
            timeout_s = seconds("timeout_s", timeout_s)
        usage = self._usage
        if usage.blocked:
            usage.refuse()
        usage.blocked = BUSY  # no call since the test: see `callers`
        try:
            return self._take_saved() if self._saved else self._receive(timeout_s)
        finally:
            usage.blocked = ""
            if usage.closing:
                self._shut()

    def _take_saved(self) -> list[Event]:
        saved = list(self._saved)
        self._saved.clear()
        return saved

    def _exclusive(self) -> AbstractContextManager[None]:
        return self._usage.exclusive(self._shut)

    # ---- asyncio -------------------------------------------------------------------------

    async def receive_async(self, timeout_s: float | None = None) -> list[Event]:
        """Return the events of what is waiting, or of what arrives within `timeout_s` seconds.

        timeout_s: None waits without limit. Returns an empty list only after the timeout. A
        cancellation loses no message. Raises what `receive` raises, and UsageError for an event
        loop that cannot watch a socket.
        """
        import asyncio  # here, since a daemon that never awaits starts faster without it

        wait_s = seconds("timeout_s", timeout_s)
        with self._exclusive():
            # Other tasks run, and a cancellation arrives, however fast the feed is.
            await asyncio.sleep(0)
            if self._saved:
                return self._take_saved()
            clock = asyncio.get_running_loop().time
            deadline = clock() + wait_s
            while True:
                events = self._receive(0.0)  # raises if the reader is being closed
                left_s = deadline - clock()
                if events or left_s <= 0:
                    return events
                await self._readable(self._pause_s(min(left_s, MAX_WAIT_S)))

    async def _readable(self, timeout_s: float) -> None:
        """Wait until a socket may have a message."""
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
                f"{self._usage.name} cannot be awaited in it: {error}"
            ) from None
        finally:
            self._inbound.waiting = False
            self._inbound.signals = ()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        """Return the next event; iteration ends when the reader is closed."""
        if not self._saved:
            try:
                events = await self.receive_async()
            except UsageError:
                if self._usage.closing and not self._usage.forked:
                    raise StopAsyncIteration from None
                raise
            self._saved.extend(events)
        return self._saved.popleft()

    # ---- closing -------------------------------------------------------------------------

    def close(self) -> None:
        """Close the sockets.

        Any thread may close. A waiting call in another thread or task then raises UsageError
        within a second. In a forked child nothing happens.
        """
        if not self._usage.forked:
            self._usage.closing = True
            self._shut()

    def _shut(self) -> None:
        usage = self._usage
        if usage.blocked:
            return  # already closed, or the call in progress closes at its end
        usage.blocked = CLOSED
        self._context.destroy(linger=0)
