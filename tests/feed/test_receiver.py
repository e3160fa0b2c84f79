"""Readers in asyncio: nothing is lost by a cancellation, and everything ends."""

import asyncio
import random

import pytest
import zmq.asyncio

from stream_lstm.errors import UsageError
from stream_lstm.events import Prediction
from stream_lstm.feed.callers import is_signalled
from stream_lstm.feed.predictions import PredictionPublisher, PredictionSubscriber
from stream_lstm.feed.publisher import Publisher

from .received import ANY_PORT, WAIT_S, blocks, subscriber, xs


def predicted(n):
    return Prediction("A", n, 0, 0.5)


@pytest.fixture
def out():
    with PredictionPublisher(ANY_PORT) as made:
        yield made


@pytest.fixture
def into(out):
    with PredictionSubscriber(out.endpoint) as made:
        out.wait_for_subscribers(1, WAIT_S)
        yield made


def test_async_for_gives_predictions_as_they_come(out, into):
    async def read():
        found = []
        out.publish(predicted(1))
        async for prediction in into:
            found.append(prediction.n)
            if prediction.n == 100:
                return found
            out.publish(predicted(prediction.n + 1))
        return None

    assert asyncio.run(asyncio.wait_for(read(), WAIT_S)) == list(range(1, 101))


def test_the_next_call_gets_what_async_for_has_not_given(out, into):
    async def first():
        async for prediction in into:
            return prediction
        return None

    for n in range(1, 6):
        out.publish(predicted(n))
    found = [asyncio.run(first()).n]
    while len(found) < 4:
        found += [prediction.n for prediction in into.receive(WAIT_S)]
    out.publish(predicted(6))
    while len(found) < 6:
        found += [p.n for p in asyncio.run(into.receive_async(WAIT_S))]
    assert found == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("seed", range(3))
def test_cancellations_lose_nothing(out, into, seed):
    chance, many = random.Random(seed), 600
    found, cancelled = [], 0

    async def read():
        nonlocal cancelled
        sent = 0
        while len(found) < many:
            task = asyncio.ensure_future(into.receive_async())
            for _ in range(chance.randrange(6)):
                if sent < many and chance.random() < 0.7:
                    sent += 1
                    out.publish(predicted(sent))
                await asyncio.sleep(0)
            if sent < many or chance.random() < 0.5:
                task.cancel()
            try:
                found.extend(prediction.n for prediction in await task)
            except asyncio.CancelledError:
                cancelled += 1

    asyncio.run(asyncio.wait_for(read(), WAIT_S))
    assert found == list(range(1, many + 1))
    assert cancelled > 0


def test_waiting_ends_at_its_time(into):
    assert asyncio.run(into.receive_async(0.0)) == []
    assert asyncio.run(into.receive_async(0.01)) == []


def test_closing_ends_async_for_and_refuses_other_calls(into, monkeypatch):
    monkeypatch.setattr("stream_lstm.feed.predictions.MAX_WAIT_S", 0.01)

    async def read():
        return [prediction async for prediction in into]

    async def close():
        reading = asyncio.ensure_future(read())
        await asyncio.ensure_future(asyncio.sleep(0))
        into.close()
        return await reading

    assert asyncio.run(close()) == []
    assert into._context.closed
    with pytest.raises(UsageError, match="PredictionSubscriber is closed"):
        asyncio.run(into.receive_async())
    assert asyncio.run(read()) == []


def test_a_second_task_in_a_reader_is_refused(out, into):
    async def both():
        first = asyncio.ensure_future(into.receive_async())
        await asyncio.sleep(0)
        with pytest.raises(UsageError, match="in use: another thread or task waits in it"):
            await into.receive_async()
        with pytest.raises(UsageError, match="in use"):
            into.receive(0.0)
        out.publish(predicted(1))
        return await first

    assert asyncio.run(both()) == [predicted(1)]


def test_other_tasks_run_while_messages_wait_all_the_time(out, into):
    async def read():
        ran = []
        while not into._saved:  # until two came together
            for n in range(1, 100):
                out.publish(predicted(n))
            await anext(into)
        asyncio.get_running_loop().call_soon(ran.append, "another")
        assert await into.receive_async()
        return ran

    assert asyncio.run(read()) == ["another"]


@pytest.mark.parametrize("recovery", [False, True])
def test_async_for_gives_ticks_too(recovery):
    lost = {"recovery": ANY_PORT} if recovery else {}
    with Publisher(ANY_PORT, columns=["x"], heartbeat_s=0.05, **lost) as out:
        before = 50 if recovery else 0
        for k in range(before):
            out.publish("A", k, [float(k)])
        ends = (out.recovery_endpoint,) if recovery else ()
        with subscriber(out, recovery=ends) as into:
            out.wait_for_subscribers(1, WAIT_S)

            async def read():
                for k in range(before, 100):
                    out.publish("A", k, [float(k)])
                found = []
                async for event in into:
                    found += xs(blocks([event]))
                    if len(found) == 100:
                        return found
                return None

            assert asyncio.run(asyncio.wait_for(read(), WAIT_S)) == list(range(100))
            assert into.counters.gaps == 0


def test_a_busy_loop_makes_no_honest_peer_look_like_a_flood(out, into):
    async def read():
        waiting = asyncio.ensure_future(into.receive_async())
        while not into._inbound.waiting:
            await asyncio.sleep(0)
        assert into._inbound.settled
        signals = into._inbound.signals
        out.publish(predicted(1))
        assert is_signalled(signals, WAIT_S)  # it came, while this loop does something else
        assert not into._inbound.settled
        return await waiting

    assert asyncio.run(read()) == [predicted(1)]
    assert not into._inbound.signals


def test_a_loop_that_cannot_watch_sockets_is_named(into, monkeypatch):
    def poll(self, timeout):
        raise RuntimeError("Proactor event loop does not implement add_reader; install tornado")

    monkeypatch.setattr(zmq.asyncio.Poller, "poll", poll)
    with pytest.raises(UsageError, match=r"cannot watch a socket.*PredictionSubscriber.*tornado"):
        asyncio.run(into.receive_async())
    assert into.receive(0.0) == [], "it can be used without asyncio"
