"""The ticks of a WebSocket that sends JSON, which `stream-lstm bridge` publishes.

Each message is a JSON object, or an array of them, with a number for each column. What is none is
counted and passed over. A connection that is lost is made anew after a while; what was sent
meanwhile is lost, and cannot show as a gap, since such feeds do not number what they send. The end
is a connection that the server closes as done (code 1000).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import msgspec

from ..errors import EndpointError, UsageError
from ..feed.bridge import SourceTick
from ..feed.foreign import time_ns
from ..feed.topics import check_name
from .extras import installed

DEFAULT_STREAM = "websocket"

DONE = 1000
"""The code with which a server closes that has no more to send."""

FAULTS = (msgspec.MsgspecError, ValueError, TypeError, ArithmeticError)


class WebSocketSource:
    """The ticks of a WebSocket that sends JSON; a `feed.bridge.Source`.

    url: `ws://` or `wss://`. columns: names of the values of a tick. stream_field: the name whose
    text is the stream; without one all ticks are of the stream `websocket`. time_field: the name
    of the time, a number or ISO 8601; its unit follows from its size. subscribe: text to send.
    attempts: connections that may fail in a row. delays_s: the first wait between two, which
    doubles, and the longest.

    `refused` counts the objects that held no tick, `connections` how often it was connected.
    Raises UsageError where the package websockets is missing, and EndpointError from the iteration
    when too many connections have failed.
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
    ) -> None:
        self.url, self.columns = url, tuple(columns)
        self.refused = self.connections = 0
        self._fields = stream_field, time_field
        self._subscribe, self._attempts, self._delays_s = subscribe, attempts, delays_s
        self._client: Any = installed("websockets.asyncio.client")
        if self._client is None:
            raise UsageError(
                "a WebSocket needs the package websockets: pip install 'stream-lstm[websocket]'"
            )

    async def __aiter__(self) -> AsyncIterator[SourceTick]:
        """Give the ticks, of one connection after the other, until the server is done."""
        faults = installed("websockets.exceptions")
        assert faults is not None
        failed, delay_s = 0, self._delays_s[0]
        while True:
            try:
                async with self._client.connect(self.url) as socket:
                    self.connections += 1
                    failed, delay_s = 0, self._delays_s[0]
                    if self._subscribe is not None:
                        await socket.send(self._subscribe)
                    async for message in socket:
                        for tick in self._ticks(message):
                            yield tick
                    if socket.close_code == DONE:
                        return
            except faults.InvalidURI as error:
                raise EndpointError(f"cannot connect to {self.url!r}: {error}") from None
            except (OSError, faults.WebSocketException) as error:
                failed += 1
                if failed >= self._attempts:
                    raise EndpointError(
                        f"cannot connect to {self.url}: {error} ({failed} times in a row)"
                    ) from None
            await asyncio.sleep(delay_s)
            delay_s = min(2 * delay_s, self._delays_s[1])

    def _ticks(self, message: str | bytes) -> list[SourceTick]:
        """Return the ticks of a message; what is none is counted."""
        try:
            found = msgspec.json.decode(message)
        except FAULTS:
            self.refused += 1
            return []
        out = []
        for one in found if isinstance(found, list) else [found]:
            try:
                out.append(self._tick(one))
            except (KeyError, *FAULTS):
                self.refused += 1
        return out

    def _tick(self, found: Any) -> SourceTick:
        stream, time = self._fields
        values = [_number(found[name]) for name in self.columns]
        name = DEFAULT_STREAM if stream is None else check_name(found[stream])
        return SourceTick(name, 0 if time is None else time_ns(found[time]), values)


def _number(value: Any) -> float:
    """Return a number, or the text of one, as many feeds have it; not true or false."""
    if isinstance(value, bool):
        raise TypeError("true and false are no numbers")
    return float(value)
