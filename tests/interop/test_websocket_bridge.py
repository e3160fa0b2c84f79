"""A WebSocket server of the tests, bridged: its ticks arrive, whatever else it sends."""

import asyncio
import contextlib
import json
import os
import signal
import sys
import threading

import numpy as np
import pytest

from stream_lstm.cli.main import main
from stream_lstm.errors import EndpointError, UsageError
from stream_lstm.events import End, Ticks
from stream_lstm.feed.bridge import SourceTick, bridge
from stream_lstm.feed.publisher import Publisher
from stream_lstm.feed.subscriber import Subscriber
from stream_lstm.interop import transports
from stream_lstm.interop.transports import MessageSource, WebSocketSource
from stream_lstm.schema import FeedConfig

from ..feed.received import blocks

server = pytest.importorskip(
    "websockets.asyncio.server", reason="the package websockets is not installed"
)

COLUMNS = ("bid", "ask")
WAIT_S = 30.0
FIELDS = {"stream_field": "symbol", "time_field": "ts"}


def quote(k, **more):
    return {"symbol": "EURUSD", "ts": 1_700_000_000_000 + k, "bid": k, "ask": f"{k}.5"} | more


@contextlib.asynccontextmanager
async def listening(handle):
    """The address of a server that handles each connection so."""
    async with server.serve(handle, "127.0.0.1", 0) as running:
        yield f"ws://127.0.0.1:{running.sockets[0].getsockname()[1]}"


@contextlib.asynccontextmanager
async def serving(*connections):
    """A server that sends each connection its messages and closes it with its code, and the texts
    that it receives."""
    heard, left = [], list(connections)

    async def handle(socket):
        messages, code = left.pop(0)
        heard.append(await socket.recv())
        for message in messages:
            await socket.send(message if isinstance(message, str | bytes) else json.dumps(message))
        await socket.close(code)

    async with listening(handle) as url:
        yield url, heard


def source(url, **more):
    given = {**FIELDS, "subscribe": "please", "delays_s": (0.001, 0.002)} | more
    return WebSocketSource(url, COLUMNS, **given)


async def taken(*connections, **more):
    """(ticks, source, what the server heard)."""
    async with serving(*connections) as (url, heard):
        made = source(url, **more)
        return [tick async for tick in made], made, heard


def test_objects_and_arrays_of_them_are_ticks():
    """A pair is a stream."""
    messages = [
        quote(1, symbol="EUR/USD"),
        [quote(2, symbol="EUR-USD"), quote(3, symbol="EUR-USD")],
    ]
    ticks, made, heard = asyncio.run(taken((messages, 1000)))
    assert [(t.stream, t.t_ns, *t.values) for t in ticks] == [
        ("EUR-USD", (1_700_000_000_000 + k) * 1_000_000, k, k + 0.5) for k in (1, 2, 3)
    ]
    assert heard == ["please"]
    assert (made.refused, made.connections) == (0, 1)


def test_a_lost_connection_is_opened_again():
    said = []
    ticks, made, heard = asyncio.run(
        taken(([quote(1)], 1011), ([quote(2)], 1001), ([quote(3)], 1000), say=said.append)
    )
    assert [tick.values[0] for tick in ticks] == [1, 2, 3]
    assert made.connections == len(heard) == 3
    assert not made.connected
    lost = [line for line in said if "; retry in" in line]
    assert len(lost) == len([line for line in said if line.startswith("connected again")]) == 2


def test_a_silent_connection_is_opened_again():
    """The third connection has messages again; until then it does not count as connected."""
    said, states = [], []

    def say(line):
        said.append(line)
        if line.startswith("connected"):
            states.append(made.connected)

    made = None

    async def take():
        nonlocal made
        silent, left = asyncio.Event(), [[quote(1)], [], [quote(2), quote(3)]]

        async def handle(socket):
            messages = left.pop(0)
            for message in messages:
                await socket.send(json.dumps(message))
            if left:
                await silent.wait()
            await socket.close()

        async with listening(handle) as url:
            made = source(url, subscribe=None, silent_s=0.2, say=say)
            ticks = [(tick.values[0], made.connected) async for tick in made]
            silent.set()
            return ticks

    assert asyncio.run(take()) == [(1, True), (2, True), (3, True)]
    assert made.connections == 3
    assert states == [True, False, False]
    assert len([line for line in said if "no message for 0.2 s; retry" in line]) == 2


def test_a_silence_at_the_start_gives_a_hint(monkeypatch):
    monkeypatch.setattr(transports, "HINT_S", 0.05)

    async def take(**more):
        said, hinted = [], asyncio.Event()

        def say(line):
            said.append(line)
            if "no message" in line:
                hinted.set()

        async def handle(socket):
            await hinted.wait()
            await socket.send(json.dumps(quote(1)))
            await socket.close()

        async with listening(handle) as url:
            assert [tick.values[0] async for tick in source(url, say=say, **more)] == [1]
        return said

    said = asyncio.run(take(subscribe=None))
    assert said[0].startswith("connected to ws://")
    assert said[1].endswith("for 0.05 s; the server may need a text (--subscribe)")
    assert said[2:] == ["first tick, stream EURUSD"]
    assert asyncio.run(take())[1].endswith("for 0.05 s")


def test_a_cancelled_client_closes_with_the_code_of_leaving():
    async def leave():
        code = asyncio.get_running_loop().create_future()

        async def handle(socket):
            await socket.send(json.dumps(quote(1)))
            await socket.wait_closed()
            code.set_result(socket.close_code)

        async with listening(handle) as url:
            ticks = aiter(source(url, subscribe=None))
            await anext(ticks)
            waiting = asyncio.ensure_future(anext(ticks))
            await asyncio.sleep(0)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            return await code

    assert asyncio.run(leave()) == transports.LEAVING


def test_a_name_with_dots_leads_into_objects():
    nested = {"stream": "x", "data": {"s": "BTC", "E": 1_700_000_000_000, "b": "1.5", "a": 2}}
    flat = {"data.s": "ETH", "data.E": 1_700_000_000, "data.b": 3, "data.a": 4}
    fields = {"stream_field": "data.s", "time_field": "data.E"}

    async def take():
        async with serving(([nested, flat], 1000)) as (url, _):
            made = WebSocketSource(url, ("data.b", "data.a"), subscribe="please", **fields)
            return [tick async for tick in made]

    ticks = asyncio.run(take())
    assert [(t.stream, t.t_ns // 10**9, *t.values) for t in ticks] == [
        ("BTC", 1_700_000_000, 1.5, 2.0),
        ("ETH", 1_700_000_000, 3.0, 4.0),
    ]


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ("{", "Input data was truncated"),
        (b"\xff", "is neither JSON nor a topic before JSON"),
        (3, "is neither JSON nor a topic before JSON"),
        ([[1]], "no field 'bid'; it has no names"),
        ({"data": {"b": 1, "a": 2}, "n": 7}, "set --payload json --columns data.b,data.a,n"),
        ({"d": {"best": {"b": 1}, "e": {}}}, "no field 'bid'; it has d; it is '{"),
        (quote(1, bid=None), "field 'bid': a value is missing"),
        (quote(1, bid="x"), "'x' is not a number"),
        (quote(1, bid=True), "field 'bid': "),
        (quote(1, symbol=""), "the stream's name is empty"),
        (quote(1, symbol={"s": 1}), "field 'symbol': "),
        (quote(1, ts="noon"), "'noon' is not a time"),
    ],
)
def test_a_message_without_a_tick_is_skipped_and_reported_at_a_limited_rate(bad, reason):
    lines, now = [], [0.0]
    messages = [bad, bad, bad, quote(2)]
    ticks, made, _ = asyncio.run(taken((messages, 1000), say=lines.append, clock=lambda: now[0]))
    assert [tick.values[0] for tick in ticks] == [2]
    assert lines.pop(0).startswith("connected to ws://")
    assert lines.pop().startswith("refused: 2 more messages: "), "at the end of the connection"
    assert lines.pop() == "first tick, stream EURUSD"
    assert (made.refused, len(lines)) == (3, 1)
    assert reason in lines[0]
    assert reason in made.last_refusal
    made._refuse("another reason")
    assert lines[-1] == f"refused a message ({made.url}): another reason"
    for k in range(9):
        made._refuse(f"another reason, number {k}")
    told = [line for line in lines if "another reason, number" in line]
    assert len(told) == 1, "reasons that differ in a number are the same"
    now[0] += 1.0
    made._refusals.tend()
    assert lines[-1] == "refused: 8 more messages: another reason, number #"


def test_after_a_first_connection_attempts_have_no_limit():
    async def take():
        async with serving(([quote(1)], 1011)) as (url, _):
            made = source(url, attempts=1, delays_s=(0.001, 0.001))
            ticks = made.__aiter__()
            first = await anext(ticks)
            waiting = asyncio.ensure_future(anext(ticks))
        said = asyncio.Event()
        made._say = lambda line: said.set() if "cannot connect" in line else None
        await said.wait()
        waiting.cancel()
        return first

    assert asyncio.run(take()).values[0] == 1


def test_without_its_source_a_feed_sends_no_heartbeats():
    async def relay(out):
        async with serving(([quote(1)], 1011), ([quote(2)], 1000)) as (url, _):
            made = source(url, stream_field=None, delays_s=(0.2, 0.2))
            carrying = asyncio.ensure_future(bridge(made, out))
            sent = set()
            while not carrying.done():
                await asyncio.sleep(0)
                if out.alive is not None:
                    sent.add((made.connected, out.heartbeat()))
            await carrying
            return sent

    with Publisher("tcp://127.0.0.1:*", columns=COLUMNS, heartbeats=False, heartbeat_s=0.0) as out:
        assert asyncio.run(relay(out)) == {(True, True), (False, False)}


def test_a_server_that_never_answers_is_an_error():
    async def ask():
        return [tick async for tick in source("ws://127.0.0.1:1", attempts=3)]

    with pytest.raises(EndpointError, match="3 times in a row"):
        asyncio.run(ask())


def test_an_invalid_address_is_an_error():
    async def ask():
        return [tick async for tick in source("http://127.0.0.1")]

    with pytest.raises(EndpointError, match="cannot connect to 'http"):
        asyncio.run(ask())


def test_without_the_package_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setattr(transports, "installed", lambda name: None)
    with pytest.raises(UsageError, match=r"stream-lstm\[websocket\]"):
        WebSocketSource("ws://127.0.0.1:1", COLUMNS)


def test_the_command_publishes_until_the_server_is_done(monkeypatch, capsys):
    """The server in a thread of its own, the command in this one."""
    with background(([quote(1), "{", quote(2)], 1000)) as url:
        code, out, err = called(
            monkeypatch, capsys, url, "--columns", "bid,ask", "--bind", "tcp://127.0.0.1:*",
            "--subscribe", "please",
        )  # fmt: skip
    assert (code, out) == (0, "2 ticks, 1 messages refused\n")
    assert "(bid, ask) at tcp://127.0.0.1:" in err
    assert "refused a message (ws://" in err


@contextlib.contextmanager
def background(*connections):
    """The address of a server in a thread of its own."""
    found, loop = [], asyncio.new_event_loop()
    ready, done = threading.Event(), asyncio.Event()

    async def serve():
        async with serving(*connections) as (url, _):
            found.append(url)
            ready.set()
            await done.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    assert ready.wait(WAIT_S)
    try:
        yield found[0]
    finally:
        loop.call_soon_threadsafe(done.set)
        thread.join(WAIT_S)
        loop.close()


def called(monkeypatch, capsys, *words):
    monkeypatch.setattr(sys, "argv", ["stream-lstm", "bridge", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code or 0, *capsys.readouterr()


def test_the_first_signal_ends_it_in_order(monkeypatch, capsys):
    stop = threading.Event()

    async def endless(self):
        self.ticks += 1
        yield SourceTick("websocket", 0, (1.0, 2.0))
        os.kill(os.getpid(), signal.SIGTERM)
        while not stop.is_set():
            await asyncio.sleep(0.01)

    monkeypatch.setattr(MessageSource, "__aiter__", endless)
    words = "ws://127.0.0.1:1", "--columns", "bid,ask", "--bind", "tcp://127.0.0.1:*"
    code, out, _ = called(monkeypatch, capsys, *words)
    assert (code, out) == (0, "1 ticks, 0 messages refused, stopped by a signal\n")
    code, out, _ = called(monkeypatch, capsys, *words, "--json")
    record = json.loads(out)
    assert (record["ticks"], record["interrupted"], record["columns"]) == (1, True, ["bid", "ask"])


def test_without_any_tick_the_command_ends_with_the_reason(monkeypatch, capsys):
    with background(([{"bid": 1}], 1000)) as url:
        code, out, err = called(
            monkeypatch, capsys, url, "--columns", "bid,ask", "--bind", "tcp://127.0.0.1:*",
            "--subscribe", "please",
        )  # fmt: skip
    assert (code, out) == (65, "0 ticks, 1 messages refused\n")
    assert "no field 'ask'; it has bid" in err.splitlines()[-1]


@pytest.mark.parametrize(
    ("words", "code", "error"),
    [
        (("http://127.0.0.1",), 2, "begins with one of ws://, wss://"),
        (("ws://127.0.0.1:1", "--bind", "tcp://0.0.0.0:*"), 78, "--curve-dir"),
        (("ws://127.0.0.1:1", "--curve-dir", "/nowhere"), 78, "/nowhere"),
    ],
)
def test_invalid_options_are_reported_before_anything_is_published(
    monkeypatch, capsys, words, code, error
):
    found, _, err = called(monkeypatch, capsys, *words, "--columns", "bid,ask")
    assert found == code
    assert error in err
    assert "publishing" not in err


def test_all_the_way_from_a_websocket_to_a_subscriber():
    """The server in the loop of the bridge, the subscriber in a thread of its own."""
    events, connected = [], threading.Event()

    def subscribe(endpoint):
        with Subscriber(FeedConfig(connect=(endpoint,), columns=COLUMNS)) as subscriber:
            connected.set()
            while not any(isinstance(event, End) for event in events):
                events.extend(blocks(subscriber.receive(WAIT_S)))

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
