"""A WebSocket server of the test's own, bridged: its ticks arrive, whatever else it sends."""

import asyncio
import contextlib
import json
import sys
import threading

import numpy as np
import pytest

from stream_lstm.cli.main import main
from stream_lstm.errors import EndpointError, UsageError
from stream_lstm.events import End, Ticks
from stream_lstm.feed.bridge import bridge
from stream_lstm.feed.publisher import Publisher
from stream_lstm.feed.subscriber import Subscriber
from stream_lstm.interop import websocket_bridge
from stream_lstm.interop.websocket_bridge import WebSocketSource
from stream_lstm.tables import FeedConfig

server = pytest.importorskip(
    "websockets.asyncio.server", reason="the package websockets is not installed"
)

COLUMNS = ("bid", "ask")
WAIT_S = 30.0
FIELDS = {"stream_field": "symbol", "time_field": "ts"}


def quote(k, **more):
    return {"symbol": "EURUSD", "ts": 1_700_000_000_000 + k, "bid": k, "ask": f"{k}.5"} | more


@contextlib.asynccontextmanager
async def serving(*connections):
    """A server that gives each connection its messages, and closes it with its code; and what it
    was told."""
    heard, left = [], list(connections)

    async def handle(socket):
        messages, code = left.pop(0)
        heard.append(await socket.recv())
        for message in messages:
            await socket.send(message if isinstance(message, str | bytes) else json.dumps(message))
        await socket.close(code)

    async with server.serve(handle, "127.0.0.1", 0) as made:
        port = made.sockets[0].getsockname()[1]
        yield f"ws://127.0.0.1:{port}", heard


def source(url, **more):
    given = {**FIELDS, "subscribe": "please", "delays_s": (0.001, 0.002)} | more
    return WebSocketSource(url, COLUMNS, **given)


async def taken(*connections, **more):
    """(ticks, source, what the server heard)."""
    async with serving(*connections) as (url, heard):
        made = source(url, **more)
        return [tick async for tick in made], made, heard


def test_objects_and_arrays_of_them_are_ticks():
    ticks, made, heard = asyncio.run(taken(([quote(1), [quote(2), quote(3)]], 1000)))
    assert [(t.stream, t.t_ns, *t.values) for t in ticks] == [
        ("EURUSD", (1_700_000_000_000 + k) * 1_000_000, k, k + 0.5) for k in (1, 2, 3)
    ]
    assert heard == ["please"]
    assert (made.refused, made.connections) == (0, 1)


@pytest.mark.parametrize(
    "bad",
    [
        "{",
        b"\xff",
        {"result": None},
        3,
        quote(1, bid=None),
        quote(1, bid="x"),
        quote(1, bid=True),
        quote(1, symbol="a/b"),
        quote(1, symbol=7),
        quote(1, ts="noon"),
    ],
)
def test_what_is_no_tick_is_counted_and_passed_over(bad):
    ticks, made, _ = asyncio.run(taken(([bad, quote(2)], 1000)))
    assert [tick.values[0] for tick in ticks] == [2]
    assert made.refused == 1


def test_a_connection_that_is_lost_is_made_anew():
    ticks, made, heard = asyncio.run(
        taken(([quote(1)], 1011), ([quote(2)], 1001), ([quote(3)], 1000))
    )
    assert [tick.values[0] for tick in ticks] == [1, 2, 3]
    assert made.connections == len(heard) == 3


def test_a_server_that_is_not_there_is_given_up_after_a_while():
    async def ask():
        return [tick async for tick in source("ws://127.0.0.1:1", attempts=3)]

    with pytest.raises(EndpointError, match="3 times in a row"):
        asyncio.run(ask())


def test_what_is_no_address_is_told_of_at_once():
    async def ask():
        return [tick async for tick in source("http://127.0.0.1")]

    with pytest.raises(EndpointError, match="cannot connect to 'http"):
        asyncio.run(ask())


def test_without_the_package_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(websocket_bridge, "installed", lambda name: None)
    with pytest.raises(UsageError, match=r"stream-lstm\[websocket\]"):
        WebSocketSource("ws://127.0.0.1:1", COLUMNS)


def test_the_command_publishes_until_the_server_is_done(monkeypatch, capsys):
    """The server in a thread of its own, the command in this one."""
    found, loop = [], asyncio.new_event_loop()
    ready, done = threading.Event(), asyncio.Event()

    async def serve():
        async with serving(([quote(1), "{", quote(2)], 1000)) as (url, _):
            found.append(url)
            ready.set()
            await done.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    assert ready.wait(WAIT_S)
    line = ["bridge", found[0], "--columns", "bid,ask", "--bind", "tcp://127.0.0.1:*"]
    monkeypatch.setattr(sys, "argv", ["stream-lstm", *line, "--subscribe", "please"])
    with pytest.raises(SystemExit) as ended:
        main()
    loop.call_soon_threadsafe(done.set)
    thread.join(WAIT_S)
    loop.close()
    written = capsys.readouterr()
    assert (ended.value.code or 0, written.out) == (0, "2 ticks, 1 messages refused\n")
    assert "(bid, ask) at tcp://127.0.0.1:" in written.err


def test_all_the_way_from_a_websocket_to_a_subscriber():
    """The server in the loop of the bridge, the subscriber in a thread of its own."""
    events, connected = [], threading.Event()

    def subscribe(endpoint):
        with Subscriber(FeedConfig(connect=(endpoint,), columns=COLUMNS)) as subscriber:
            connected.set()
            while not any(isinstance(event, End) for event in events):
                events.extend(subscriber.receive(WAIT_S))

    async def main(publisher):
        async with serving(([quote(k) for k in range(500)], 1000)) as (url, _):
            return await bridge(source(url), publisher)

    with Publisher("tcp://127.0.0.1:*", columns=COLUMNS) as publisher:
        thread = threading.Thread(target=subscribe, args=(publisher.endpoint,))
        thread.start()
        assert connected.wait(WAIT_S)
        publisher.wait_for_subscribers(1, WAIT_S)
        assert asyncio.run(main(publisher)) == 500
        thread.join(WAIT_S)
    values = np.concatenate([e.values for e in events if isinstance(e, Ticks)])
    np.testing.assert_array_equal(values, np.arange(500)[:, None] + [0.0, 0.5])
