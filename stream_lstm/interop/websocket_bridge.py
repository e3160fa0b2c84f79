"""Messages of another transport as ticks, for `stream-lstm bridge`; here those of a WebSocket.

A `Transport` gives the frames of one message after the other, and `MessageSource` decodes them as
`feed.decode` does those of a feed. A message without a tick is counted, reported and skipped. A
lost connection is opened again after a delay. The messages sent meanwhile are lost, unless the
transport keeps them. A WebSocket is done when the server closes the connection with code 1000.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Protocol

import numpy as np

from ..errors import DecodeError, EndpointError, UsageError
from ..feed.bridge import SourceTick
from ..feed.declared import Adviser, DeclaredFeed
from ..feed.decode import resolve
from ..schema import FeedConfig
from .extras import installed

DONE = 1000
"""The close code of a server that has no more to send."""

LEAVING = 1001
"""The close code of a client that leaves without an error."""

GOODBYE_S = 1.0
"""Seconds for the server to answer a close."""

HINT_S = 10.0
"""Seconds without any message after connecting, before a hint."""

REPORT_S = 5.0
"""Seconds between two reports of messages without a tick."""

REASONS = 5
"""Different reasons that are reported immediately: the first messages are answers to a
subscription, and have no tick."""


class Transport(Protocol):
    """A connection that can be opened again and again; `hint` is for one that stays silent."""

    hint: str

    async def open(self) -> None:
        """Connect; raises OSError if that failed, and EndpointError if it always will."""
        ...

    async def receive(self) -> Sequence[bytes] | None:
        """Return the frames of the next message, None after the last; OSError if it is lost."""
        ...

    async def close(self) -> None:
        """Close the connection, if there is one."""
        ...


class MessageSource:
    """The ticks of a transport; a `feed.bridge.Source`.

    feed: the form of the messages. attempts: connections that may fail before the first one
    succeeds; later there is no limit. delays_s: the first delay between two connections, which
    doubles until a message comes, and the longest. silent_s: seconds without a message before a
    connection counts as lost; None for no limit. say: receives lines for the user.

    `ticks` counts the ticks, `refused` the messages without one, for the reason `last_refusal`,
    `skipped` the rows that do not count, and `connections` the connections. `connected` tells
    whether there is one now; after a silence it is true from the first message on. The iteration
    raises EndpointError if it could never connect.
    """

    def __init__(
        self,
        url: str,
        transport: Transport,
        feed: FeedConfig,
        *,
        attempts: int = 10,
        delays_s: tuple[float, float] = (0.5, 30.0),
        silent_s: float | None = None,
        say: Callable[[str], object] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.url, self.columns = url, resolve(feed).columns
        self.ticks = self.refused = self.connections = 0
        self.last_refusal = ""
        self.connected = False
        self._transport, self._feed, self._adviser = transport, DeclaredFeed(feed), Adviser(feed)
        self.skipped = self._feed.skipped
        self._say, self._clock = say, clock
        self._report_at, self._unreported = -float("inf"), 0
        self._reasons: set[str] = set()
        self._attempts, self._delays_s = attempts, delays_s
        self._silent_s, self._was_silent, self._any_message = silent_s, False, False

    async def __aiter__(self) -> AsyncIterator[SourceTick]:
        """Yield the ticks of one connection after the other, until the server is done."""
        failed, delay_s = 0, self._delays_s[0]
        while True:
            try:
                await self._transport.open()
                self.connections += 1
                self.connected = not self._was_silent
                again = " again" if failed or self.connections > 1 else ""
                self._say(f"connected{again} to {self.url}")
                while (message := await self._message()) is not None:
                    failed, delay_s = 0, self._delays_s[0]
                    for tick in self._ticks(message):
                        self.ticks += 1
                        if self.ticks == 1:
                            self._say(f"first tick, stream {tick.stream}")
                        yield tick
                return
            except OSError as error:
                lost, failed = self.connected or self._was_silent, failed + 1
                if failed >= self._attempts and not self.connections:
                    raise EndpointError(
                        f"cannot connect to {self.url}: {error} ({failed} times in a row)"
                    ) from None
                what = "connection lost" if lost else "cannot connect"
                trouble = f"{what}: {self.url}: {error}"
            finally:
                self.connected = False
                await self._transport.close()
            self._say(f"{trouble}; retry in {delay_s:g} s")
            await asyncio.sleep(delay_s)
            delay_s = min(2 * delay_s, self._delays_s[1])

    async def _message(self) -> Sequence[bytes] | None:
        """Return the next message, None after the last; OSError after a silence of `silent_s`."""
        receiving = asyncio.ensure_future(self._transport.receive())
        try:
            left_s = self._silent_s
            if not self._any_message and (left_s is None or left_s > HINT_S):
                done, _ = await asyncio.wait([receiving], timeout=HINT_S)
                left_s = None if left_s is None else left_s - HINT_S
                if not done:
                    hint = self._transport.hint
                    self._say(f"no message from {self.url} for {HINT_S:g} s{hint}")
            async with asyncio.timeout(left_s):
                message = await receiving
        except TimeoutError:
            self._was_silent = True
            self.connected = False  # a close takes time too if the peer does not answer
            raise OSError(f"no message for {self._silent_s:g} s") from None
        finally:
            receiving.cancel()
        if message is not None:
            self._was_silent, self._any_message = False, True
            self.connected = True
        return message

    def _ticks(self, frames: Sequence[bytes]) -> list[SourceTick]:
        ticks: list[SourceTick] = []
        try:
            for part in self._feed.decode(frames):
                times = [0] * len(part.rows) if part.times is None else part.times
                rows = np.asarray(part.rows, np.float64)
                missing = np.isnan(rows)
                if missing.any():
                    name = self.columns[int(missing.any(axis=0).argmax())]
                    raise DecodeError(f"field {name!r}: a value is missing")
                ticks += [
                    SourceTick(part.stream, int(t_ns), row)
                    for t_ns, row in zip(times, rows.tolist(), strict=True)
                ]
        except DecodeError as error:
            self._refuse(self._adviser.explain(str(error), frames))
        return ticks

    def _refuse(self, reason: str) -> None:
        """Count a message without a tick, and report the reason at a limited rate."""
        self.refused += 1
        self._unreported += 1
        self.last_refusal = reason
        now, new = self._clock(), len(self._reasons) < REASONS and reason not in self._reasons
        if new or now >= self._report_at:
            self._reasons.add(reason)
            count = self._unreported
            more = f" ({count:,} since the last report)" if count > 1 else ""
            self._say(f"refused a message of {self.url}: {reason}{more}")
            self._report_at, self._unreported = now + REPORT_S, 0


class WebSocket:
    """The messages of a WebSocket; a `Transport`.

    url: `ws://` or `wss://`. subscribe: text to send on connecting. Raises UsageError if the
    package websockets is missing.
    """

    def __init__(self, url: str, subscribe: str | None = None) -> None:
        self._url, self._subscribe = url, subscribe
        self.hint = "" if subscribe else "; the server may need a text (--subscribe)"
        self._socket: Any = None
        self._client: Any = installed("websockets.asyncio.client")
        self._faults: Any = installed("websockets.exceptions")
        if self._client is None:
            raise UsageError(
                "a WebSocket needs the package websockets: pip install 'stream-lstm[websocket]'"
            )

    async def open(self) -> None:
        """Connect, and subscribe."""
        try:
            self._socket = await self._client.connect(self._url)
            if self._subscribe is not None:
                await self._socket.send(self._subscribe)
        except self._faults.InvalidURI as error:
            raise EndpointError(f"cannot connect to {self._url!r}: {error}") from None
        except self._faults.WebSocketException as error:
            raise OSError(str(error)) from None

    async def receive(self) -> Sequence[bytes] | None:
        """Return the next message, None if the server is done."""
        try:
            message = await self._socket.recv()
        except self._faults.ConnectionClosedOK:
            if self._socket.close_code == DONE:
                return None
            raise OSError(f"closed with code {self._socket.close_code}") from None
        except self._faults.WebSocketException as error:
            raise OSError(str(error)) from None
        return [message.encode() if isinstance(message, str) else message]

    async def close(self) -> None:
        """Close the connection; the client would otherwise use the code of an internal error."""
        socket, self._socket = self._socket, None
        if socket is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(GOODBYE_S):
                    await socket.close(LEAVING)


class WebSocketSource(MessageSource):
    """The ticks of a WebSocket that sends JSON objects, or arrays of them.

    columns: fields with the values of a tick. stream_field, time_field: as for a feed; without a
    name all ticks are of the stream `websocket`. subscribe: text to send. more: arguments of
    `MessageSource`.
    """

    def __init__(
        self,
        url: str,
        columns: Sequence[str],
        *,
        stream_field: str | None = None,
        time_field: str | None = None,
        subscribe: str | None = None,
        **more: Any,
    ) -> None:
        feed = FeedConfig(
            payload="json",
            columns=tuple(columns),
            stream_field=stream_field or "",
            time_field=time_field,
            stream_name="websocket",
        )
        super().__init__(url, WebSocket(url, subscribe), feed, **more)
