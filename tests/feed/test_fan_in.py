"""A feed of several endpoints on real sockets: who is read, and whose a stream is."""

import contextlib
import os
import select
import signal
import subprocess
import sys

import pytest
import zmq

from stream_lstm.errors import ConfigurationError, UsageError
from stream_lstm.events import MAX_SEQ, Gap, Refusal, Takeover, Ticks
from stream_lstm.feed import subscriber
from stream_lstm.feed import subscriber as subscriber_module
from stream_lstm.feed.intake import EventBatch
from stream_lstm.feed.protocol import Heartbeat, encode_heartbeat, encode_ticks
from stream_lstm.feed.publisher import Publisher
from stream_lstm.feed.subscriber import Subscriber
from stream_lstm.schema import FeedConfig

from .received import blocks

ANY_PORT = "tcp://127.0.0.1:*"
WAIT_S = 20.0
ROUNDS = 600
MAX_WAIT_S = 0.05
ANNOUNCED = 1
"""A publisher sends a heartbeat before a stream's first tick."""


def publisher(session, bind=ANY_PORT, **more):
    return Publisher(bind, **{"columns": ("x",), "run_id": session, "heartbeats": False, **more})


@contextlib.contextmanager
def heard(*publishers, **more):
    """A subscriber of publishers, each of which it can hear."""
    connect = tuple(out.endpoint for out in publishers)
    given = {name: more.pop(name) for name in ("clock", "wakeup_fd") if name in more}
    with Subscriber(FeedConfig(connect=connect, columns=("x",), **more), **given) as into:
        for out in publishers:
            out.wait_for_subscribers(1, WAIT_S)
        yield into


def gather(into, done, idle=lambda: None):
    """Receive until `done(events)`, with `idle` called in between."""
    events = []
    for _ in range(ROUNDS):
        events += blocks(into.receive(MAX_WAIT_S))
        if done(events):
            return events
        idle()
    raise AssertionError(f"it never came: {into.counters}")


def of(kind, events):
    return [event for event in events if isinstance(event, kind)]


def xs(events, stream="S"):
    return [x for e in of(Ticks, events) if e.stream == stream for x in e.values[:, 0].tolist()]


def send(out, first, last, stream="S"):
    for x in range(first, last):
        out.publish(stream, x, [float(x)])


def forge(out, session, seq=MAX_SEQ, stream="S"):
    out._socket.send_multipart(encode_heartbeat(Heartbeat(stream, seq, session)))


# ---- whose a stream is ---------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["when-gone", "never"])
@pytest.mark.parametrize("session", ["honest", "forged"])
def test_a_forged_heartbeat_costs_the_owner_no_tick(policy, session):
    with (
        publisher("honest") as out,
        publisher("evil") as evil,
        heard(out, evil, takeover=policy) as into,
    ):
        send(out, 0, 1)
        events = gather(into, lambda events: xs(events) == [0])
        forge(evil, session)
        refusals = of(Refusal, gather(into, lambda events: of(Refusal, events)))
        send(out, 1, 600)
        events += gather(into, lambda _: into.counters.ticks == 600)
    assert xs(events) == list(range(600))
    assert not of(Refusal | Gap | Takeover, events)
    assert evil.endpoint in refusals[0].reason
    assert out.endpoint in refusals[0].reason
    assert into.intake.refused == {"not_owner": 1}


def test_where_any_may_send_a_new_session_takes_over_and_is_reported():
    with (
        publisher("honest") as out,
        publisher("evil") as evil,
        heard(out, evil, takeover="always") as into,
    ):
        send(out, 0, 1)
        gather(into, lambda events: xs(events) == [0])
        forge(evil, "forged")
        (over,) = of(Takeover, gather(into, lambda events: of(Takeover, events)))
        assert over == Takeover("S", out.endpoint, evil.endpoint)
        send(out, 1, 600)
        gather(into, lambda _: into.counters.old == 599)
    assert into.counters.ticks == 1
    assert into.counters.not_owner == 0


PROCESS = """
import sys
from stream_lstm.feed.publisher import Publisher
out = Publisher("tcp://127.0.0.1:*", columns=("x",), run_id="first", heartbeats=False)
print(out.endpoint, flush=True)
out.wait_for_subscribers(1, 60)
for k in range(50):
    out.publish("S", k, [float(k)])
sys.stdin.read()
"""


@contextlib.contextmanager
def other_process():
    """A publisher of 50 ticks in a process of its own, and its endpoint."""
    with subprocess.Popen(
        [sys.executable, "-c", PROCESS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process, process.stdout.readline().strip()
        finally:
            process.kill()


def test_a_stand_by_takes_over_from_a_process_that_was_killed():
    sent = 0

    def more():
        nonlocal sent
        send(by, sent, sent + 1)
        sent += 1

    with other_process() as (process, endpoint), publisher("second") as by:
        config = FeedConfig(connect=(endpoint, by.endpoint), columns=("x",))
        with Subscriber(config) as into:
            by.wait_for_subscribers(1, WAIT_S)
            gather(into, lambda events: len(xs(events)) == 50)
            events = gather(into, lambda _: into.counters.not_owner >= 5, more)
            assert not xs(events)
            os.kill(process.pid, signal.SIGKILL)
            events = gather(into, lambda events: len(xs(events)) >= 20, more)
    assert of(Takeover, events) == [Takeover("S", endpoint, by.endpoint)]
    assert not of(Gap, events), "what was refused was not lost"
    taken = xs(events)
    assert taken == [float(x) for x in range(int(taken[0]), int(taken[0]) + len(taken))]
    assert into.counters.not_owner == ANNOUNCED + taken[0]


def test_what_a_dead_owner_had_sent_is_read_before_another_takes_over():
    with (
        publisher("second") as by,
        publisher("first") as out,
        heard(out, by) as into,
    ):
        send(out, 0, 3000)
        while not into.waiting:
            assert select.select([into], [], [], WAIT_S)[0]
        out.close()
        lost = into._inlets[0]
        while not lost.connections.redial.lost(lost.endpoint):
            into._maintain()
        send(by, 0, 1)
        events = gather(into, lambda _: into.counters.ticks + into.counters.refused > 3000)
    assert xs(events)[:3000] == list(range(3000))
    assert xs(events)[3000:] == [] or of(Takeover, events)


def test_that_an_owner_is_gone_shows_without_another_look_at_the_connections():
    with publisher("first") as out, publisher("second") as by, heard(out, by) as into:
        send(out, 0, 1)
        gather(into, lambda events: xs(events) == [0])
        out.close()
        for _ in range(ROUNDS):
            if into._is_gone(0):
                return
            into.sockets[0].poll(int(MAX_WAIT_S * 1000))
    raise AssertionError("it is not seen to be gone")


def test_never_is_never_even_when_the_owner_is_gone():
    with (
        publisher("second") as by,
        publisher("first") as out,
        heard(out, by, takeover="never") as into,
    ):
        send(out, 0, 1)
        gather(into, lambda events: xs(events) == [0])
        out.close()
        lost = into._inlets[0]
        gather(into, lambda _: lost.connections.redial.lost(lost.endpoint))
        send(by, 0, 20)
        gather(into, lambda _: into.counters.not_owner == ANNOUNCED + 20)
        assert into.counters.takeovers == 0


def test_an_owner_that_starts_again_at_its_endpoint_keeps_its_stream():
    with publisher("other") as other:
        first = publisher("first")
        endpoint = first.endpoint
        with first, heard(first, other) as into:
            send(first, 0, 5)
            gather(into, lambda _: into.counters.ticks == 5)
            first.close()
            with publisher("again", bind=endpoint) as again:
                again_heard = lambda _: again._subscriptions.count(b"tick/")  # noqa: E731
                gather(into, again_heard, again._subscriptions.update)
                send(again, 0, 5)
                events = gather(into, lambda events: len(xs(events)) == 5)
                forge(other, "forged")
                gather(into, lambda _: into.counters.not_owner == 1)
    assert not of(Takeover | Gap, events)


def test_a_silent_owner_that_is_connected_keeps_its_stream_and_the_feed_is_silent():
    now = [0.0]
    with (
        publisher("first") as out,
        publisher("second") as by,
        heard(out, by, clock=lambda: now[0]) as into,
    ):
        send(out, 0, 1)
        gather(into, lambda events: xs(events) == [0])
        now[0] = 1000.0
        send(by, 0, 10)
        gather(into, lambda _: into.counters.not_owner == ANNOUNCED + 10)
        assert into.idle_s == 1000.0, "what was refused is no sign of life"
        send(out, 1, 2)
        gather(into, lambda events: xs(events) == [1])
        assert into.idle_s == 0.0


# ---- how they are read ---------------------------------------------------------------------


def test_no_endpoint_starves_another():
    with (
        publisher("loud") as loud,
        publisher("meek") as meek,
        heard(loud, meek) as into,
    ):
        send(loud, 0, 5000, "L")
        while not into.waiting:
            assert select.select([into], [], [], WAIT_S)[0]
        send(meek, 0, 1, "M")
        # Both are waiting, so that the order is the fan-in's alone.
        while not into._fan_in._gets[1](zmq.EVENTS) & zmq.POLLIN:
            assert into.sockets[1].poll(int(WAIT_S * 1000))
        taken = 0
        for _ in range(2 * subscriber.TURN):
            events = blocks(one_message(into))
            taken += len(xs(events, "L"))
            if xs(events, "M"):
                break
        assert taken <= subscriber.TURN


def one_message(into):
    drain = EventBatch()
    into.take(drain, 1)
    return drain.finish()


def test_a_turn_is_shorter_for_large_messages():
    with (
        publisher("loud") as loud,
        publisher("meek") as meek,
        heard(loud, meek) as into,
    ):
        rows = 8192
        for _ in range(10):
            loud.publish("L", [0] * rows, [[1.0]] * rows)
        send(meek, 0, 10, "M")
        while not all(get(zmq.EVENTS) & zmq.POLLIN for get in into._fan_in._gets):
            into.sockets[0].poll(10)
        order = []
        while len(order) < 4:
            events = blocks(one_message(into))
            order += [event.stream for event in of(Ticks, events)]
    assert "M" in order[:2], order


@pytest.mark.parametrize("busy_poll", [0.0, 1.0])
def test_every_endpoint_ends_the_wait(busy_poll):
    with contextlib.ExitStack() as stack:
        outs = [stack.enter_context(publisher(f"s{k}")) for k in range(5)]
        into = stack.enter_context(heard(*outs, busy_poll=busy_poll))
        for k, out in enumerate(outs * 3):
            send(out, k, k + 1, out.run_id)
            events = gather(into, lambda events: of(Ticks, events))
            assert xs(events, out.run_id) == [k]
            send(out, k, k + 1, out.run_id)
            assert into._wait(WAIT_S)
            assert xs(blocks(into.receive(0.0)), out.run_id) == [k]


def test_a_wake_up_ends_the_wait_and_nothing_is_taken():
    read, write = os.pipe()
    with publisher("a") as a, publisher("b") as b, heard(a, b, wakeup_fd=read) as into:
        os.write(write, b"x")
        assert into.receive(WAIT_S) == []
    os.close(read)
    os.close(write)


def test_the_descriptor_can_be_read_when_any_endpoint_has_sent():
    with contextlib.ExitStack() as stack:
        outs = [stack.enter_context(publisher(f"s{k}")) for k in range(3)]
        into = stack.enter_context(heard(*outs))
        for out in outs:
            while into.receive(0.0):
                pass
            send(out, 0, 1, out.run_id)
            events = []
            while not xs(events, out.run_id):
                assert select.select([into], [], [], WAIT_S)[0]
                events += blocks(into.receive(0.0))
        assert len(into.sockets) == 3
        with pytest.raises(UsageError, match="sockets"):
            _ = into.socket


def test_an_endpoint_named_twice_is_one():
    with publisher("a") as out:
        config = FeedConfig(connect=(out.endpoint, out.endpoint), columns=("x",))
        with Subscriber(config) as into:
            assert into.intake.owners is None
            assert len(into.sockets) == 1
            assert into.socket is into.sockets[0]


def test_there_are_no_more_endpoints_than_descriptors():
    most = subscriber_module.MAX_ENDPOINTS
    connect = tuple(f"tcp://127.0.0.1:{port}" for port in range(1, most + 2))
    with pytest.raises(ConfigurationError, match=f"{most} is the most"):
        Subscriber(FeedConfig(connect=connect, columns=("x",)))
    with Subscriber(FeedConfig(connect=connect[:most], columns=("x",))) as into:
        assert into.receive(0.0) == []


def test_a_foreign_feed_has_owners_too():
    with zmq.Context() as context, contextlib.ExitStack() as stack:
        outs = [stack.enter_context(context.socket(zmq.XPUB)) for _ in range(2)]
        for out in outs:
            out.setsockopt(zmq.LINGER, 0)
            out.bind(ANY_PORT)
        connect = tuple(out.getsockopt_string(zmq.LAST_ENDPOINT) for out in outs)
        config = FeedConfig(connect=connect, columns=("x",), payload="json", topic="q.")
        with Subscriber(config) as into:
            for out in outs:
                assert out.poll(int(WAIT_S * 1000))
            outs[0].send_multipart([b"q.S", b'{"x": 1}'])
            assert xs(gather(into, xs)) == [1]
            outs[1].send_multipart([b"q.S", b'{"x": 2}'])
            (refusal,) = of(Refusal, gather(into, lambda events: of(Refusal, events)))
            assert connect[1] in refusal.reason


def test_frames_of_a_long_message_come_from_one_endpoint():
    with publisher("a") as a, publisher("b") as b, heard(a, b) as into:
        for _ in range(20):
            a._socket.send_multipart([b"tick/S/", b"1", b"2", b"3"])
            b._socket.send_multipart(encode_ticks("T", 0, [1.0]))
        gather(into, lambda _: into.counters.messages == 40)
        assert into.counters.ticks == into.intake.refused["frames"] == 20
