"""Ticks from a WebSocket that sends JSON, for `stream-lstm bridge`.

Each message is a JSON object, or an array of objects, with a number for each column; `data.bid` is
the field `bid` of the object `data`. A message without a tick is counted, reported and skipped. A
lost connection is opened again after a delay. The ticks sent meanwhile are lost, and do not show
as a gap, since such feeds have no sequence numbers. The stream ends when the server closes the
connection with code 1000.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any

import msgspec

from ..errors import EndpointError, UsageError
from ..feed.bridge import SourceTick
from ..feed.foreign import time_ns
from ..feed.protocol import check_name
from .extras import installed

DEFAULT_STREAM = "websocket"

DONE = 1000
"""The close code of a server that has no more to send."""

LEAVING = 1001
"""The close code of a client that leaves without an error."""

GOODBYE_S = 1.0
"""Seconds for the server to answer a close."""

HINT_S = 10.0
"""Seconds without any message after connecting, before a hint."""

FAULTS = (msgspec.MsgspecError, ValueError, TypeError, ArithmeticError)

REPORT_S = 5.0
"""Seconds between two reports of messages without a tick."""

REASONS = 5
"""Different reasons that are reported immediately: the first messages are answers to a
subscription, and have no tick."""

SHOWN = 12
"""Fields of a message in the report of a missing one."""


class WebSocketSource:
    """The ticks of a WebSocket that sends JSON; a `feed.bridge.Source`.

    url: `ws://` or `wss://`. columns: names of the values of a tick; a name with dots leads into
    objects. stream_field: the name of the field with the stream, with "-" for each "/"; without it
    all ticks are of the stream `websocket`. time_field: the name of the field with the time, a
    number, whose unit follows from its size, or ISO 8601. subscribe: text to send. attempts:
    connections that may fail before the first one succeeds; later there is no limit. delays_s: the
    first delay between two connections, which doubles until a message comes, and the longest.
    silent_s: seconds without a message before a connection counts as lost; None for no limit. say:
    receives lines for the user.

    `ticks` counts the ticks, `refused` the objects without one, for the reason `last_refusal`, and
    `connections` the connections. `connected` tells whether there is one now; after a silence it
    is true from the first message on. Raises UsageError if the package websockets is missing, and
    the iteration raises EndpointError if it could never connect.
    """

    def __init__(
        self,
        url: str,
        columns: Sequence[str],
        *,
        stream_field: str | None = None,
        time_field: str | None = None,
        subscribe: str | None = None,
        attempts: int = 10,
        delays_s: tuple[float, float] = (0.5, 30.0),
        silent_s: float | None = None,
        say: Callable[[str], object] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.url, self.columns = url, tuple(columns)
        self.ticks = self.refused = self.connections = 0
        self.last_refusal = ""
        self.connected = False
        self._say, self._clock = say, clock
        self._report_at, self._unreported = -float("inf"), 0
        self._reasons: set[str] = set()
        self._fields = stream_field, time_field
        self._subscribe, self._attempts, self._delays_s = subscribe, attempts, delays_s
        self._silent_s, self._was_silent, self._any_message = silent_s, False, False
        self._client: Any = installed("websockets.asyncio.client")
        if self._client is None:
            raise UsageError(
                "a WebSocket needs the package websockets: pip install 'stream-lstm[websocket]'"
            )

    async def __aiter__(self) -> AsyncIterator[SourceTick]:
        """Yield the ticks of one connection after the other, until the server is done."""
        faults = installed("websockets.exceptions")
        assert faults is not None
        failed, delay_s = 0, self._delays_s[0]
        while True:
            try:
                async with self._client.connect(self.url) as socket:
                    self.connections += 1
                    self.connected = not self._was_silent
                    again = " again" if failed or self.connections > 1 else ""
                    self._say(f"connected{again} to {self.url}")
                    if self._subscribe is not None:
                        await socket.send(self._subscribe)
                    while (message := await self._message(socket, faults)) is not None:
                        failed, delay_s = 0, self._delays_s[0]
                        for tick in self._ticks(message):
                            self.ticks += 1
                            if self.ticks == 1:
                                self._say(f"first tick, stream {tick.stream}")
                            yield tick
                    if socket.close_code == DONE:
                        return
                    trouble = f"{self.url} closed the connection (code {socket.close_code})"
            except faults.InvalidURI as error:
                raise EndpointError(f"cannot connect to {self.url!r}: {error}") from None
            except (OSError, faults.WebSocketException) as error:
                lost, failed = self.connected or self._was_silent, failed + 1
                if failed >= self._attempts and not self.connections:
                    raise EndpointError(
                        f"cannot connect to {self.url}: {error} ({failed} times in a row)"
                    ) from None
                what = "connection lost" if lost else "cannot connect"
                trouble = f"{what}: {self.url}: {error}"
            finally:
                self.connected = False
            self._say(f"{trouble}; retry in {delay_s:g} s")
            await asyncio.sleep(delay_s)
            delay_s = min(2 * delay_s, self._delays_s[1])

    async def _message(self, socket: Any, faults: Any) -> str | bytes | None:
        """Return the next message, None if the server has closed the connection properly.

        Raises OSError after a silence of `silent_s`.
        """
        try:
            async with asyncio.timeout(self._silent_s):
                message = await self._receive(socket)
        except faults.ConnectionClosedOK:
            return None
        except asyncio.CancelledError:
            # The client would otherwise close with the code of an internal error.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(GOODBYE_S):
                    await socket.close(LEAVING)
            raise
        except TimeoutError:
            self._was_silent = True
            self.connected = False  # a close takes time too if the peer does not answer
            raise OSError(f"no message for {self._silent_s:g} s") from None
        self._was_silent = False
        self.connected = True
        return message

    async def _receive(self, socket: Any) -> str | bytes:
        """Return the next message; if the first one does not come, give a hint."""
        if not self._any_message:
            try:
                async with asyncio.timeout(HINT_S):
                    first: str | bytes = await socket.recv()
                self._any_message = True
                return first
            except TimeoutError:
                hint = "" if self._subscribe else "; the server may need a text (--subscribe)"
                self._say(f"no message from {self.url} for {HINT_S:g} s{hint}")
        message: str | bytes = await socket.recv()
        self._any_message = True
        return message

    def _ticks(self, message: str | bytes) -> list[SourceTick]:
        try:
            content = msgspec.json.decode(message)
        except FAULTS as error:
            self._refuse(f"not JSON: {error}")
            return []
        ticks = []
        for value in content if isinstance(content, list) else [content]:
            try:
                ticks.append(self._tick(value))
            except FAULTS as error:
                self._refuse(str(error))
        return ticks

    def _refuse(self, reason: str) -> None:
        """Count an object without a tick, and report the reason at a limited rate."""
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

    def _tick(self, content: Any) -> SourceTick:
        stream, time = self._fields
        values = [_number(name, field(content, name)) for name in self.columns]
        name = DEFAULT_STREAM if stream is None else _stream(stream, field(content, stream))
        if time is None:
            return SourceTick(name, 0, values)
        at = field(content, time)
        try:
            return SourceTick(name, time_ns(at), values)
        except FAULTS as error:
            raise ValueError(f"field {time!r}: {error}") from None


def field(content: Any, name: str) -> Any:
    """Return the field with a name, or with a path of names and dots.

    Raises ValueError with the fields of the message.
    """
    if isinstance(content, dict) and name in content:
        return content[name]
    at = content
    for part in name.split("."):
        if not isinstance(at, dict) or part not in at:
            names = list(_leaves(content, ""))
            shown = ", ".join(names[:SHOWN] + ["..."] * (len(names) > SHOWN)) or "none"
            raise ValueError(f"no field {name!r}; its fields: {shown}")
        at = at[part]
    return at


def _leaves(content: Any, prefix: str) -> Iterator[str]:
    for key, value in content.items() if isinstance(content, dict) else ():
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def _stream(field: str, value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"field {field!r}: {value!r:.60} is not a text")
    try:
        # Many feeds have pairs such as EUR/USD; a topic cannot contain the slash.
        return check_name(value.replace("/", "-"))
    except FAULTS as error:
        raise ValueError(f"field {field!r}: {error}") from None


def _number(name: str, value: Any) -> float:
    """Return a number, or the number in a text; not true or false."""
    try:
        if not isinstance(value, bool):
            return float(value)
    except FAULTS:
        pass
    raise ValueError(f"field {name!r}: {value!r:.60} is not a number")
