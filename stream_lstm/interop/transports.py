"""Transports of `stream-lstm bridge` beside WebSockets: Kafka, MQTT, Redis streams, and lines.

Each takes its place from an address, and its client library only when it is made.

Messages of another transport as ticks, for `stream-lstm bridge`; here those of a WebSocket.

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
from typing import Any, NoReturn, Protocol
from urllib.parse import SplitResult, unquote, urlsplit

import msgspec
import numpy as np

from ..core.features import check_columns
from ..core.missing import EVERY
from ..errors import DecodeError, EndpointError, UsageError
from ..events import Refusal
from ..feed.bridge import SourceTick
from ..feed.declared import Adviser, DeclaredFeed
from ..feed.decode import resolve
from ..schema import FeedConfig
from ..serve.logs import EventLog
from .extras import installed, need_for

DONE = 1000
"""The close code of a server that has no more to send."""

LEAVING = 1001
"""The close code of a client that leaves without an error."""

GOODBYE_S = 1.0
"""Seconds for the server to answer a close."""

HINT_S = 10.0
"""Seconds without any message after connecting, before a hint."""


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

    feed: the form of the messages. optional: columns that may be missing, `*` for all.
    attempts: connections that may fail before the first one
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
        optional: Sequence[str] = (),
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
        optional = self.columns if EVERY in optional else optional
        check_columns(optional, self.columns)
        self._feed = DeclaredFeed(feed, optional)
        self._transport, self._adviser = transport, Adviser(feed)
        self._wanted = np.array([name not in optional for name in self.columns])
        self.skipped = self._feed.skipped
        self._say = say
        self._refusals = EventLog(say, clock)
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
                    self._refusals.tend()
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
                self._refusals.flush()
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
                missing = np.isnan(rows) & self._wanted
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
        """Count a message without a tick; report each distinct reason, then ever less often."""
        self.refused += 1
        self.last_refusal = reason
        self._refusals(Refusal("", "message", reason, where=self.url))


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


MAX_LINE = 2**20
"""Bytes of a line, or of what waits of datagrams."""

MAX_WAITING = 20_000
"""Datagrams that wait; further ones are dropped, as the network drops them."""

BLOCK_MS = 1000
"""Milliseconds that Redis holds a request without an entry; then it is sent again."""


def transport_of(url: str, subscribe: str | None = None) -> Transport:
    """Return the transport of an address; raises UsageError for another kind of address."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise UsageError(f"{url}: {error}") from None
    if parts.scheme in ("ws", "wss"):
        return WebSocket(url, subscribe)
    if subscribe is not None:
        raise UsageError(f"--subscribe is a text for a WebSocket, not for {parts.scheme}://")
    if parts.scheme not in TRANSPORTS:
        kinds = ", ".join(f"{name}://" for name in ("ws", "wss", *TRANSPORTS))
        raise UsageError(f"{url}: an address begins with one of {kinds}")
    if not parts.hostname or (parts.port is None and parts.scheme in ("tcp", "udp")):
        raise UsageError(f"{url}: write {parts.scheme}://HOST:PORT")
    made: Transport = TRANSPORTS[parts.scheme](parts)
    return made


def _name(parts: SplitResult, what: str) -> str:
    name = unquote(parts.path.removeprefix("/"))
    if not name:
        raise UsageError(f"name {what}: {parts.scheme}://HOST:PORT/NAME")
    return name


def _lost(error: Exception) -> NoReturn:
    raise OSError(str(error) or type(error).__name__) from None


class Kafka:
    """The records of a Kafka topic from now on: key, if any, and value."""

    hint = ""

    def __init__(self, parts: SplitResult) -> None:
        self._topic = _name(parts, "the topic")
        self._server = f"{parts.hostname}:{parts.port or 9092}"
        self._library = need_for("Kafka", "aiokafka", "kafka")
        self._consumer: Any = None

    async def open(self) -> None:
        """Connect."""
        self._consumer = self._library.AIOKafkaConsumer(
            self._topic, bootstrap_servers=self._server, auto_offset_reset="latest"
        )
        try:
            await self._consumer.start()
        except self._library.errors.KafkaError as error:
            _lost(error)

    async def receive(self) -> Sequence[bytes] | None:
        """Return the next record."""
        try:
            record = await self._consumer.getone()
        except self._library.errors.KafkaError as error:
            _lost(error)
        return [record.key, record.value or b""] if record.key else [record.value or b""]

    async def close(self) -> None:
        """Leave the broker."""
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            await consumer.stop()


class Mqtt:
    """The messages of an MQTT topic filter: topic and payload."""

    hint = ""

    def __init__(self, parts: SplitResult) -> None:
        self._filter = _name(parts, "a topic filter")
        self._library = need_for("MQTT", "aiomqtt", "mqtt")
        secure = parts.scheme == "mqtts"
        self._options: dict[str, Any] = {
            "hostname": parts.hostname,
            "port": parts.port or (8883 if secure else 1883),
            "username": None if parts.username is None else unquote(parts.username),
            "password": None if parts.password is None else unquote(parts.password),
        }
        if secure:
            self._options["tls_params"] = self._library.TLSParameters()
        self._session: Any = None
        self._messages: Any = None

    async def open(self) -> None:
        """Connect, and subscribe."""
        session = self._library.Client(**self._options)
        try:
            client = await session.__aenter__()
            self._session = session
            await client.subscribe(self._filter, qos=1)
        except self._library.MqttError as error:
            _lost(error)
        self._messages = aiter(client.messages)

    async def receive(self) -> Sequence[bytes] | None:
        """Return the next message."""
        try:
            message = await anext(self._messages)
        except self._library.MqttError as error:
            _lost(error)
        payload = message.payload
        return [str(message.topic).encode(), bytes(payload) if payload else b""]

    async def close(self) -> None:
        """Disconnect."""
        session, self._session = self._session, None
        if session is not None:
            with contextlib.suppress(self._library.MqttError):
                await session.__aexit__(None, None, None)


class Redis:
    """The entries of a Redis stream: the value of their one field, or all fields as JSON.

    After a lost connection it continues behind the last entry.
    """

    hint = ""

    def __init__(self, parts: SplitResult) -> None:
        self._stream = _name(parts, "the stream").encode()
        library = need_for("a Redis stream", "redis", "redis")
        self._library = library.asyncio
        # the client would try again on its own, and longer than its caller wants to wait
        retry = library.asyncio.retry.Retry(library.backoff.NoBackoff(), 0)
        self._options: dict[str, Any] = {
            "retry": retry,
            "host": parts.hostname,
            "port": parts.port or 6379,
            "username": parts.username,
            "password": parts.password,
        }
        self._client: Any = None
        self._last: bytes | str = "$"
        self._waiting: list[Any] = []

    async def open(self) -> None:
        """Connect."""
        self._client = self._library.Redis(**self._options)
        try:
            if self._last == "$":
                newest = await self._client.xrevrange(self._stream, count=1)
                self._last = newest[0][0] if newest else "0"
        except self._library.client.RedisError as error:
            _lost(error)

    async def receive(self) -> Sequence[bytes] | None:
        """Return the next entry."""
        while not self._waiting:
            try:
                found = await self._client.xread({self._stream: self._last}, 1000, BLOCK_MS)
            except self._library.client.RedisError as error:
                _lost(error)
            entries = found.values() if isinstance(found, dict) else [one for _, one in found]
            for one in entries:
                self._waiting += one[0] if one and isinstance(one[0], list) else one
            self._waiting.reverse()
        self._last, fields = self._waiting.pop()
        if len(fields) == 1:
            (payload,) = fields.values()
            return [self._stream, payload]
        texts = {key.decode(): value.decode() for key, value in fields.items()}
        return [self._stream, msgspec.json.encode(texts)]

    async def close(self) -> None:
        """Disconnect."""
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()


class TcpLines:
    """The lines of a TCP server."""

    hint = ""

    def __init__(self, parts: SplitResult) -> None:
        self._place = parts.hostname, parts.port
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def open(self) -> None:
        """Connect."""
        self._reader, self._writer = await asyncio.open_connection(*self._place, limit=MAX_LINE)

    async def receive(self) -> Sequence[bytes] | None:
        """Return the next line that is not empty; OSError if the server is gone."""
        assert self._reader is not None
        while True:
            try:
                line = await self._reader.readuntil(b"\n")
            except asyncio.IncompleteReadError as error:
                if not error.partial:
                    raise OSError("the server closed the connection") from None
                line = error.partial
            except asyncio.LimitOverrunError:
                raise OSError(f"a line exceeds {MAX_LINE} bytes") from None
            if line.strip():
                return [line.rstrip(b"\r\n")]

    async def close(self) -> None:
        """Disconnect."""
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


class UdpLines(asyncio.DatagramProtocol):
    """The lines of datagrams that are sent to an address of this machine."""

    hint = ""

    def __init__(self, parts: SplitResult) -> None:
        self._place = parts.hostname or "", parts.port or 0
        self._waiting: asyncio.Queue[bytes] = asyncio.Queue(MAX_WAITING)
        self._transport: asyncio.DatagramTransport | None = None

    async def open(self) -> None:
        """Bind the address."""
        loop = asyncio.get_running_loop()
        try:
            opened = await loop.create_datagram_endpoint(lambda: self, local_addr=self._place)
        except OSError as error:
            raise EndpointError(f"cannot bind udp://{self._place[0]}: {error}") from None
        self._transport = opened[0]

    def datagram_received(self, data: bytes, addr: Any) -> None:  # noqa: ARG002
        """Take a datagram."""
        for line in data.split(b"\n"):
            if line.strip() and not self._waiting.full():
                self._waiting.put_nowait(line.rstrip(b"\r"))

    async def receive(self) -> Sequence[bytes] | None:
        """Return the next line."""
        return [await self._waiting.get()]

    async def close(self) -> None:
        """Release the address."""
        transport, self._transport = self._transport, None
        if transport is not None:
            transport.close()


TRANSPORTS: dict[str, Any] = {
    "mqtt": Mqtt,
    "mqtts": Mqtt,
    "kafka": Kafka,
    "redis": Redis,
    "tcp": TcpLines,
    "udp": UdpLines,
}
