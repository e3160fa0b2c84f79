"""Transports of `stream-lstm bridge` beside WebSockets: Kafka, MQTT, Redis streams, and lines.

Each takes its place from an address, and its client library only when it is made.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Any, NoReturn
from urllib.parse import SplitResult, unquote, urlsplit

import msgspec

from ..errors import EndpointError, UsageError
from .extras import need_for
from .websocket_bridge import Transport, WebSocket

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
