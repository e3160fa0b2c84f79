"""Ticks from other transports: real brokers where they are installed, and sockets for lines."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import json
import shutil
import socket
import subprocess
import sys
import types
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

from stream_lstm.errors import EndpointError, UsageError
from stream_lstm.feed.bridge import SourceTick
from stream_lstm.interop import transports
from stream_lstm.interop.transports import MessageSource, transport_of
from stream_lstm.schema import FeedConfig

COUNT = 5
QUOTES = FeedConfig(payload="json", columns=("bid", "ask"), time_field="ts")
MS = 1_700_000_000_000
EXPECTED = [((MS + k) * 10**6, 1.5 + k, 2.5 + k) for k in range(COUNT)]


def quote(k: int) -> bytes:
    return json.dumps({"bid": 1.5 + k, "ask": f"{2.5 + k}", "ts": MS + k}).encode()


def free_port(kind: int = socket.SOCK_STREAM) -> int:
    with socket.socket(socket.AF_INET, kind) as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


async def first_ticks(
    url: str, send: Callable[[], Awaitable[None]], feed: FeedConfig = QUOTES
) -> tuple[list[SourceTick], MessageSource]:
    """Return the first ticks of an address, of which `send` is called once it is connected."""
    connected = asyncio.Event()

    def say(line: str) -> None:
        if line.startswith("connected"):
            connected.set()

    source = MessageSource(url, transport_of(url), feed, say=say)
    ticks = aiter(source)

    async def take() -> list[SourceTick]:
        return [await anext(ticks) for _ in range(COUNT)]

    taking = asyncio.ensure_future(take())
    async with asyncio.timeout(60):
        await connected.wait()
        await send()
        found = await taking
    await ticks.aclose()  # type: ignore[attr-defined]
    return found, source


def values(ticks: list[SourceTick]) -> list[tuple[float, ...]]:
    return [(tick.t_ns, *tick.values) for tick in ticks]


@contextlib.contextmanager
def running(program: str, ready: str, *words: str) -> Iterator[None]:
    """Run a broker, or skip the test if it is not installed."""
    path = shutil.which(program, path=None) or shutil.which(program, path="/usr/sbin")
    if path is None:
        pytest.skip(f"{program} is not installed")
    with subprocess.Popen(
        [path, *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as broker:
        try:
            assert broker.stdout is not None
            seen = []
            while not any(ready in line for line in seen):
                line = broker.stdout.readline()
                assert line, seen
                seen.append(line)
            yield
        finally:
            broker.terminate()
            broker.communicate()


def test_mqtt() -> None:
    aiomqtt = pytest.importorskip("aiomqtt", reason="the package aiomqtt is not installed")
    port = free_port()

    async def publish() -> None:
        async with aiomqtt.Client("127.0.0.1", port) as client:
            for k in range(COUNT):
                await client.publish("md/l1/EURUSD", quote(k), qos=1)

    with running("mosquitto", "running", "-v", "-p", str(port)):
        ticks, source = asyncio.run(first_ticks(f"mqtt://127.0.0.1:{port}/md/%23", publish))
        assert values(ticks) == EXPECTED
        assert {tick.stream for tick in ticks} == {"md-l1-EURUSD"}
        assert (source.refused, source.connections) == (0, 1)
    with pytest.raises(EndpointError, match="2 times in a row"):
        asyncio.run(never(f"mqtt://127.0.0.1:{port}/x"))


async def never(url: str) -> None:
    source = MessageSource(url, transport_of(url), QUOTES, attempts=2, delays_s=(0.001, 0.001))
    async for _ in source:
        raise AssertionError


@pytest.mark.parametrize("fields", ["one", "several"])
def test_redis_streams(tmp_path, fields: str) -> None:
    redis = pytest.importorskip("redis", reason="the package redis is not installed")
    port = free_port()
    words = "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(tmp_path)

    async def publish() -> None:
        async with redis.asyncio.Redis(port=port) as client:
            for k in range(COUNT):
                several = {key: str(value) for key, value in json.loads(quote(k)).items()}
                await client.xadd("EURUSD", {"data": quote(k)} if fields == "one" else several)

    async def take() -> tuple[list[SourceTick], MessageSource]:
        async with redis.asyncio.Redis(port=port) as client:
            await client.xadd("EURUSD", {"data": b"an entry from before"})
        return await first_ticks(f"redis://127.0.0.1:{port}/EURUSD", publish)

    with running("redis-server", "Ready to accept connections", *words):
        ticks, source = asyncio.run(take())
        assert values(ticks) == EXPECTED
        assert {tick.stream for tick in ticks} == {"EURUSD"}
        assert source.refused == 0
    with pytest.raises(EndpointError, match="2 times in a row"):
        asyncio.run(never(f"redis://127.0.0.1:{port}/x"))


def test_kafka_against_a_stand_in_of_its_client(monkeypatch) -> None:
    """No broker is installed with the tests: the calls of aiokafka are those of its manual."""
    told: list[Any] = []

    class Consumer:
        def __init__(self, *topics: str, **options: Any) -> None:
            told.append((topics, options))
            self.left = list(range(COUNT))

        async def start(self) -> None:
            told.append("start")

        async def getone(self) -> Any:
            k = self.left.pop(0)
            return types.SimpleNamespace(key=b"EURUSD" if k else None, value=quote(k))

        async def stop(self) -> None:
            told.append("stop")

    library = types.SimpleNamespace(
        AIOKafkaConsumer=Consumer, errors=types.SimpleNamespace(KafkaError=KeyError)
    )
    monkeypatch.setattr(transports, "need_for", lambda *_: library)

    async def nothing() -> None:
        """Everything was sent."""

    ticks, _ = asyncio.run(first_ticks("kafka://127.0.0.1/quotes", nothing))
    assert values(ticks) == EXPECTED
    assert [tick.stream for tick in ticks] == ["stream", *["EURUSD"] * (COUNT - 1)]
    (topics, options), *calls = told
    assert (topics, options["bootstrap_servers"]) == (("quotes",), "127.0.0.1:9092")
    assert calls == ["start", "stop"]


def test_the_client_of_kafka_has_what_is_called() -> None:
    library = pytest.importorskip("aiokafka", reason="the package aiokafka is not installed")
    for name in ("start", "getone", "stop"):
        assert inspect.iscoroutinefunction(getattr(library.AIOKafkaConsumer, name))
    assert issubclass(library.errors.KafkaError, Exception)
    with pytest.raises(EndpointError, match="2 times in a row"):
        asyncio.run(never(f"kafka://127.0.0.1:{free_port()}/x"))


LINES = FeedConfig(payload="text", fields=("symbol", "time", "bid", "ask"))


def line(k: int) -> bytes:
    return f"EURUSD,{MS + k},{1.5 + k},{2.5 + k}".encode()


def test_lines_over_tcp_and_a_lost_connection() -> None:
    async def take() -> tuple[list[SourceTick], MessageSource]:
        left = [[0, 1], [2, 3, 4]]

        async def serve(_: asyncio.StreamReader, out: asyncio.StreamWriter) -> None:
            out.write(b"".join(line(k) + b"\r\n" for k in left.pop(0)) + b"\n")
            out.close()
            await out.wait_closed()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        async with server:
            url = f"tcp://127.0.0.1:{port}"
            source = MessageSource(url, transport_of(url), LINES, delays_s=(0.001, 0.001))
            ticks = aiter(source)
            found = [await anext(ticks) for _ in range(COUNT)]
            await ticks.aclose()  # type: ignore[attr-defined]
            return found, source

    ticks, source = asyncio.run(take())
    assert values(ticks) == EXPECTED
    assert (source.connections, source.refused) == (2, 0)


@pytest.mark.skipif(sys.platform == "win32", reason="the event loop there has no datagrams")
def test_lines_over_udp() -> None:
    port = free_port(socket.SOCK_DGRAM)

    async def send() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
            out.sendto(line(0) + b"\n" + line(1) + b"\n", ("127.0.0.1", port))
            for k in range(2, COUNT):
                out.sendto(line(k), ("127.0.0.1", port))

    ticks, _ = asyncio.run(first_ticks(f"udp://127.0.0.1:{port}", send, LINES))
    assert values(ticks) == EXPECTED


def test_conditions_and_unfinished_rows_are_those_of_a_feed() -> None:
    form = FeedConfig(
        payload="json", columns=("close",), where='type = "bar"', last_per="start", time_field="t"
    )
    bars = [(0, 1.0), (0, 1.5), (60, 2.0), (60, 2.5), (120, 3.0), (180, 4.0), (240, 5.0), (300, 6)]
    sent = [{"type": "bar", "start": s, "t": MS + s, "close": c} for s, c in bars]
    sent.insert(3, {"type": "hello"})

    async def take() -> tuple[list[SourceTick], MessageSource]:
        async def serve(_: asyncio.StreamReader, out: asyncio.StreamWriter) -> None:
            out.write(b"".join(json.dumps(one).encode() + b"\n" for one in sent))
            await taken.wait()
            out.close()
            await out.wait_closed()
            closed.set()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        taken, closed = asyncio.Event(), asyncio.Event()

        async def nothing() -> None:
            """The server has sent everything."""

        async with server:
            found = await first_ticks(f"tcp://127.0.0.1:{port}", nothing, form)
            taken.set()
            await closed.wait()
            return found

    ticks, source = asyncio.run(take())
    assert [tick.values[0] for tick in ticks] == [1.5, 2.5, 3.0, 4.0, 5.0]
    assert source.skipped == {"where": 1, "last_per": 3}


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("http://127.0.0.1", "an address begins with one of ws://"),
        ("tcp://127.0.0.1", "write tcp://HOST:PORT"),
        ("udp://127.0.0.1", "write udp://HOST:PORT"),
        ("mqtt://127.0.0.1", "name a topic filter"),
        ("kafka://127.0.0.1/", "name the topic"),
        ("redis://127.0.0.1:99999/x", "out of range"),
        ("mqtt:///x", "write mqtt://HOST:PORT"),
    ],
)
def test_an_invalid_address_says_what_to_write(url: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        transport_of(url)


@pytest.mark.parametrize("kind", ["mqtt", "kafka", "redis"])
def test_a_missing_package_is_named_with_its_extra(monkeypatch, kind: str) -> None:
    monkeypatch.setattr("stream_lstm.interop.extras.installed", lambda _: None)
    with pytest.raises(UsageError, match=rf"pip install 'stream-lstm\[{kind}\]'"):
        transport_of(f"{kind}://127.0.0.1/x")


def test_only_a_websocket_takes_a_text_to_send() -> None:
    with pytest.raises(UsageError, match="--subscribe is a text for a WebSocket"):
        transport_of("tcp://127.0.0.1:1", "hello")
