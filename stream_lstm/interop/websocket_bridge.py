"""The ticks of a WebSocket that sends JSON, which `stream-lstm bridge` publishes.

Each message is a JSON object, or an array of them, with a number for each column; `data.bid` is
the field `bid` of the object `data`. What holds no tick is counted, told of, and passed over. A
connection that is lost is made anew after a while; what was sent meanwhile is lost, and cannot
show as a gap, since such feeds do not number what they send. The end is a connection that the
server closes as done (code 1000).
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
"""The code with which a server closes that has no more to send."""

LEAVING = 1001
"""The code of a client that goes away, which is no fault."""

GOODBYE_S = 1.0
"""For the server to answer that."""

HINT_S = 10.0
"""Without any message after connecting, before it is said."""

FAULTS = (msgspec.MsgspecError, ValueError, TypeError, ArithmeticError)

SAY_S = 5.0
"""Between two lines about messages that hold no tick."""

REASONS = 5
"""Different ones that are told of at once: answers to a subscription come first, and are no
ticks."""

SHOWN = 12
"""Fields of a message that are named where one is missing."""


class WebSocketSource:
    """The ticks of a WebSocket that sends JSON; a `feed.bridge.Source`.

    url: `ws://` or `wss://`. columns: names of the values of a tick. stream_field: the name whose
    text is the stream, with "-" for each "/"; without one all ticks are of the stream
    `websocket`. time_field: the name of the time, a number or ISO 8601; its unit follows from its
    size. A name with dots leads into objects. subscribe: text to send. attempts: connections that
    may fail before the first one succeeds; a feed that was there is waited for. delays_s: the
    first wait between two, which doubles until a message comes, and the longest. silent_s: seconds
    without a message after which a connection counts as lost; None waits for ever. say: takes
    lines for people.

    `ticks` counts those given, `refused` the objects that held none, `last_refusal` says why the
    last did not, `connections` is how often it was connected, and `connected` whether it is now;
    after a silence it is so from the first message on.
    Raises UsageError where the package websockets is missing, and EndpointError from the iteration
    when it could never be connected to.
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
        self._say_at, self._unsaid = -float("inf"), 0
        self._reasons: set[str] = set()
        self._fields = stream_field, time_field
        self._subscribe, self._attempts, self._delays_s = subscribe, attempts, delays_s
        self._silent_s, self._was_silent, self._heard = silent_s, False, False
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
                    self.connected = not self._was_silent
                    again = " again" if failed or self.connections > 1 else ""
                    self._say(f"connected to {self.url}{again}")
                    if self._subscribe is not None:
                        await socket.send(self._subscribe)
                    while (message := await self._message(socket, faults)) is not None:
                        failed, delay_s = 0, self._delays_s[0]
                        for tick in self._ticks(message):
                            self.ticks += 1
                            if self.ticks == 1:
                                self._say(f"the first tick came, of the stream {tick.stream}")
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
                what = "the connection is lost" if lost else "cannot connect"
                trouble = f"{what}: {self.url}: {error}"
            finally:
                self.connected = False
            self._say(f"{trouble}; trying again in {delay_s:g} s")
            await asyncio.sleep(delay_s)
            delay_s = min(2 * delay_s, self._delays_s[1])

    async def _message(self, socket: Any, faults: Any) -> str | bytes | None:
        """Return the next message, None where the server has closed in order.

        Raises OSError where nothing comes for too long.
        """
        try:
            async with asyncio.timeout(self._silent_s):
                message = await self._awaited(socket)
        except faults.ConnectionClosedOK:
            return None
        except asyncio.CancelledError:
            # left to the client's own end, the server would be told of an internal error
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(GOODBYE_S):
                    await socket.close(LEAVING)
            raise
        except TimeoutError:
            self._was_silent = True
            self.connected = False  # closing takes a while too, of a peer that does not answer
            raise OSError(f"nothing has come for {self._silent_s:g} s") from None
        self._was_silent = False
        self.connected = True
        return message

    async def _awaited(self, socket: Any) -> str | bytes:
        """Return the next message; where the first does not come, say what there may be to do."""
        while not self._heard:
            try:
                async with asyncio.timeout(HINT_S):
                    message: str | bytes = await socket.recv()
            except TimeoutError:
                hint = "" if self._subscribe else ": does it want a text first (--subscribe)?"
                self._say(f"nothing has come from {self.url} for {HINT_S:g} s{hint}")
                break
            self._heard = True
            return message
        later: str | bytes = await socket.recv()
        return later

    def _ticks(self, message: str | bytes) -> list[SourceTick]:
        """Return the ticks of a message; what is none is counted."""
        try:
            found = msgspec.json.decode(message)
        except FAULTS as error:
            self._refuse(f"no JSON: {error}")
            return []
        out = []
        for one in found if isinstance(found, list) else [found]:
            try:
                out.append(self._tick(one))
            except FAULTS as error:
                self._refuse(str(error))
        return out

    def _refuse(self, reason: str) -> None:
        """Count an object that holds no tick, and say why, unless that was said just now."""
        self.refused += 1
        self._unsaid += 1
        self.last_refusal = reason
        now, new = self._clock(), len(self._reasons) < REASONS and reason not in self._reasons
        if new or now >= self._say_at:
            self._reasons.add(reason)
            more = f" ({self._unsaid:,} since the last such line)" if self._unsaid > 1 else ""
            self._say(f"refused a message of {self.url}: {reason}{more}")
            self._say_at, self._unsaid = now + SAY_S, 0

    def _tick(self, found: Any) -> SourceTick:
        stream, time = self._fields
        values = [_number(name, field(found, name)) for name in self.columns]
        name = DEFAULT_STREAM if stream is None else _name(stream, field(found, stream))
        if time is None:
            return SourceTick(name, 0, values)
        at = field(found, time)
        try:
            return SourceTick(name, time_ns(at), values)
        except FAULTS as error:
            raise ValueError(f"field {time!r}: {error}") from None


def field(found: Any, name: str) -> Any:
    """Return the field of a message that `name` leads to, as it stands or by its dots.

    Raises ValueError saying what is there instead.
    """
    if isinstance(found, dict) and name in found:
        return found[name]
    at = found
    for part in name.split("."):
        if not isinstance(at, dict) or part not in at:
            raise ValueError(f"no field {name!r}; it has {_fields(found) or 'none'}")
        at = at[part]
    return at


def _fields(found: Any) -> str:
    """Return the names of a message's fields, of objects inside it with dots."""
    names = list(_leaves(found, ""))
    return ", ".join([*names[:SHOWN], *(["..."] if len(names) > SHOWN else [])])


def _leaves(found: Any, prefix: str) -> Iterator[str]:
    for key, value in found.items() if isinstance(found, dict) else ():
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def _name(field: str, value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"field {field!r}: {value!r:.60} is not a text")
    try:
        # pairs such as EUR/USD are what many feeds have, and what a topic cannot hold
        return check_name(value.replace("/", "-"))
    except FAULTS as error:
        raise ValueError(f"field {field!r}: {error}") from None


def _number(name: str, value: Any) -> float:
    """Return a number, or the text of one, as many feeds have it; not true or false."""
    try:
        if not isinstance(value, bool):
            return float(value)
    except FAULTS:
        pass
    raise ValueError(f"field {name!r}: {value!r:.60} is not a number")
