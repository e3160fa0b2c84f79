"""Publishers and readers in several threads, signal handlers and forked processes."""

import contextlib
import os
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest
import zmq

from stream_lstm.errors import EndpointError, UsageError
from stream_lstm.events import End, Gap, Prediction, Refusal, Ticks
from stream_lstm.feed.predictions import PredictionPublisher, PredictionSubscriber
from stream_lstm.feed.publisher import Publisher
from stream_lstm.feed.subscriber import Subscriber
from stream_lstm.schema import FeedConfig

from .received import blocks

ANY_PORT = "tcp://127.0.0.1:*"
WAIT_S = 30.0
SIGNAL = signal.SIGUSR1


def subscriber(out):
    return Subscriber(FeedConfig(connect=(out.endpoint,), columns=("x",)))


def until_end(into):
    events = []
    while not any(isinstance(event, End) for event in events):
        came = into.receive(WAIT_S)
        assert came or into.counters.messages
        events += blocks(came)
    return events


def together(*calls):
    """Run the calls in threads that begin together, and return the errors that ended them."""
    errors, ready = [], threading.Barrier(len(calls))

    def run(call):
        ready.wait(WAIT_S)
        try:
            call()
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_S)
        assert not thread.is_alive()
    return errors


@pytest.fixture
def hasty():
    """Threads take turns a hundred times as often as usual."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(5e-5)
    yield
    sys.setswitchinterval(before)


def test_threads_that_share_a_stream_lose_nothing_and_number_in_order_of_sending(hasty):
    each, threads = 4_000, 3
    sent = {}

    def work(first):
        for k in range(first, first + each):
            sent[out.publish("A", k, [float(k)])] = k

    with Publisher(ANY_PORT, columns=["x"], heartbeat_s=0.001) as out, subscriber(out) as into:
        out.wait_for_subscribers(1, WAIT_S)
        errors = together(*(lambda k=k: work(k * each) for k in range(threads)))
        out.end()
        events = until_end(into)
    assert errors == []
    assert not any(isinstance(event, Gap | Refusal) for event in events)
    found = [event for event in events if isinstance(event, Ticks)]
    numbers = np.concatenate([e.seq + np.arange(len(e.t_ns)) for e in found]).tolist()
    assert numbers == list(range(1, threads * each + 1))
    assert (
        dict(zip(numbers, np.concatenate([e.t_ns for e in found]).tolist(), strict=True)) == sent
    )
    assert into.counters.repeats == into.counters.old == 0


def test_one_thread_may_wait_for_subscribers_while_another_publishes():
    with Publisher(ANY_PORT, columns=["x"]) as out:
        looked, published = threading.Event(), threading.Event()
        update = out._subscriptions.update

        def look():
            update()
            looked.set()

        out._subscriptions.update = look

        def publish():
            assert looked.wait(WAIT_S)
            for k in range(1000):
                out.publish("A", k, [1.0])
            published.set()

        def join():
            assert published.wait(WAIT_S)
            with subscriber(out):
                assert waiting.wait(WAIT_S)

        waiting = threading.Event()

        def wait():
            assert out.wait_for_subscribers(1, None) == 1
            waiting.set()

        assert together(wait, publish, join) == []


@contextlib.contextmanager
def unread():
    """A publisher whose only subscriber reads nothing: its sends wait as soon as buffers are full.

    Nothing shows from outside that the buffers are full, so a caller repeats its send until the
    send fails.
    """
    with (
        Publisher(
            ANY_PORT, columns=["x"], send_hwm=1, send_timeout_s=0.1, linger_s=0.0, heartbeats=False
        ) as out,
        zmq.Context() as context,
        context.socket(zmq.SUB) as deaf,
    ):
        deaf.setsockopt(zmq.RCVHWM, 1)
        deaf.setsockopt(zmq.RCVBUF, 4096)
        deaf.connect(out.endpoint)
        deaf.subscribe(b"")
        out.wait_for_subscribers(1, WAIT_S)
        yield out


BLOCK = np.zeros((50_000, 1))


def forever(call):
    while True:
        call()


def test_closing_ends_a_send_that_waits_in_another_thread():
    with unread() as out:
        out._send_timeout_s = WAIT_S
        waits, send = threading.Event(), out._send_frame

        def watched(frame, flags=0):
            try:
                return send(frame, flags)
            except zmq.Again:
                waits.set()
                raise

        out._send_frame = watched

        def close():
            assert waits.wait(WAIT_S)
            out.close()

        (error,) = together(lambda: forever(lambda: out.publish("A", 0, BLOCK)), close)
        assert isinstance(error, UsageError)
        assert "this Publisher is closed: make another one" in str(error)
        assert out._context.closed


def test_heartbeats_do_not_wait_for_a_subscriber_that_reads_nothing():
    with unread() as out:

        def beat():
            out._heartbeat_due = 0.0
            out.heartbeat()

        with pytest.raises(EndpointError, match="took nothing"):
            forever(lambda: out.publish("A", 0, BLOCK))
        out._heartbeat_due = 0.0
        assert out._send_due_heartbeats() > 0, "it returns a time, and raises no error"
        with pytest.raises(EndpointError, match="took nothing"):
            forever(beat)


def test_a_closed_publisher_says_so_at_every_call():
    out = Publisher(ANY_PORT, columns=["x"])
    out.publish("A", 0, [1.0])
    errors = together(out.close, out.close)
    out.close()
    assert errors == []
    for call in (
        lambda: out.publish("A", 0, [1.0]),
        out.end,
        out.heartbeat,
        lambda: out.wait_for_subscribers(0, 0.0),
    ):
        with pytest.raises(UsageError, match="this Publisher is closed: make another one"):
            call()


@pytest.fixture
def interrupted():
    """Calls a function from a signal handler, in the middle of the next send of a publisher."""
    before = signal.getsignal(SIGNAL)

    def within(out, call, *, after):
        send, pending = out._send_frame, [True]

        def sending(frame, flags=0):
            result = send(frame, flags) if after else None
            if pending and pending.pop():
                signal.raise_signal(SIGNAL)
            return result if after else send(frame, flags)

        signal.signal(SIGNAL, lambda *_: call())
        out._send_frame = sending

    yield within
    signal.signal(SIGNAL, before)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_signal_handler_may_close_a_publisher_that_is_sending(interrupted, after):
    with Publisher(ANY_PORT, columns=["x"]) as out, subscriber(out) as into:
        out.wait_for_subscribers(1, WAIT_S)
        out.publish("A", 0, [1.0])
        interrupted(out, out.close, after=after)
        assert out.publish("A", 0, [2.0]) == 2
        assert out._context.closed
        while into.counters.ticks < 2:
            assert into.receive(WAIT_S)


def test_a_signal_handler_that_publishes_into_a_send_is_refused(interrupted):
    with Publisher(ANY_PORT, columns=["x"]) as out:
        out.publish("A", 0, [1.0])
        interrupted(out, lambda: out.publish("A", 0, [9.0]), after=True)
        with pytest.raises(
            UsageError, match=r"a signal handler or finalizer called it.*set a flag"
        ):
            out.publish("A", 0, [2.0])


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_an_interrupt_between_two_frames_spoils_no_other_tick(interrupted, after):
    """Whether libzmq has the first frame cannot be told: the tick arrives, or shows as a gap."""

    def interrupt():
        raise KeyboardInterrupt

    with Publisher(ANY_PORT, columns=["x"], heartbeats=False) as out, subscriber(out) as into:
        out.wait_for_subscribers(1, WAIT_S)
        out.publish("A", 0, [1.0])
        interrupted(out, interrupt, after=after)
        with pytest.raises(KeyboardInterrupt):
            out.publish("A", 0, [2.0])
        assert out.publish("A", 0, [3.0]) == 3
        out.end()
        events = until_end(into)
    values = np.concatenate([e.values[:, 0] for e in events if isinstance(e, Ticks)]).tolist()
    assert values == ([1.0, 2.0, 3.0] if after else [1.0, 3.0])
    assert into.counters.missed == (0 if after else 1)
    assert into.counters.refused == 0


@contextlib.contextmanager
def readers(kind):
    """A reader, and a function that sends it something."""
    if kind == "ticks":
        with Publisher(ANY_PORT, columns=["x"]) as out, subscriber(out) as into:
            out.wait_for_subscribers(1, WAIT_S)
            yield into, lambda: out.publish("A", 0, [1.0])
    else:
        with (
            PredictionPublisher(ANY_PORT) as out,
            PredictionSubscriber(out.endpoint) as into,
        ):
            out.wait_for_subscribers(1, WAIT_S)
            yield into, lambda: out.publish(Prediction("A", 1, 0, 0.5))


KINDS = pytest.mark.parametrize("kind", ["ticks", "predictions"])


def when_waiting(into, call):
    """Call when the reader waits in another thread."""
    while not into._inbound.waiting:
        os.sched_yield()
    call()


@KINDS
def test_a_second_thread_in_a_reader_is_refused(kind):
    got = []
    with readers(kind) as (into, send):

        def read():
            try:
                got.append(into.receive(WAIT_S))
            except UsageError:
                send()  # what the first one waits for
                raise

        (error,) = together(read, read)
        assert isinstance(error, UsageError)
        assert "is in use: another thread or task waits in it" in str(error)
        assert "make one for each thread" in str(error)
        assert len(got[0]) > 0
        send()
        assert into.receive(WAIT_S), "it can be used again"


@KINDS
def test_closing_a_reader_ends_its_wait_in_another_thread(kind):
    with readers(kind) as (into, _):
        (error,) = together(lambda: into.receive(None), lambda: when_waiting(into, into.close))
        assert isinstance(error, UsageError)
        assert "is closed: make another one" in str(error)
        assert into._context.closed
        into.close()
        with pytest.raises(UsageError, match="is closed"):
            into.receive(0.0)


@KINDS
def test_a_signal_handler_may_close_a_reader_that_waits(kind):
    before = signal.getsignal(SIGNAL)
    with readers(kind) as (into, _):
        signal.signal(SIGNAL, lambda *_: into.close())
        main = threading.main_thread().ident
        kill = threading.Thread(
            target=when_waiting, args=(into, lambda: signal.pthread_kill(main, SIGNAL))
        )
        kill.start()
        with pytest.raises(UsageError, match="is closed"):
            into.receive(None)
        kill.join()
        signal.signal(SIGNAL, before)
        assert into._context.closed


FORKS = """
import os, sys
from stream_lstm.errors import UsageError
from stream_lstm.feed.predictions import PredictionSubscriber
from stream_lstm.feed.publisher import Publisher
from stream_lstm.feed.subscriber import Subscriber
from stream_lstm.schema import FeedConfig
with (
    Publisher("tcp://127.0.0.1:*", columns=["x"], heartbeat_s=0.001) as out,
    Subscriber(FeedConfig(connect=(out.endpoint,), columns=("x",))) as into,
    PredictionSubscriber(out.endpoint) as predictions,
):
    out.wait_for_subscribers(1, 30.0)
    out.publish("A", 0, [1.0])
    # The thread of the heartbeats is where a fork hurts most: nobody in the child releases this.
    out._heartbeats._over._cond.acquire()
    child = os.fork()
    if child:
        out._heartbeats._over._cond.release()
    if child == 0:
        for call in (
            lambda: out.publish("A", 0, [2.0]),
            lambda: out.end(),
            lambda: into.receive(0.0),
            lambda: predictions.receive(0.0),
        ):
            try:
                call()
            except UsageError as error:
                print(error, flush=True)
        with Publisher("tcp://127.0.0.1:*", columns=["x"]) as own:
            own.publish("A", 0, [1.0])
    else:
        assert os.waitpid(child, 0)[1] == 0
        out.publish("A", 0, [3.0])
        while into.counters.ticks < 2:
            into.receive(30.0)
        assert into.counters.gaps == into.counters.refused == 0
        print("parent", into.counters.ticks)
"""


def python(program):
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        capture_output=True,
        text=True,
        timeout=WAIT_S * 2,
        check=False,
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    return ran.stdout.splitlines()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_is_refused_what_its_parent_made():
    *child, parent = python(FORKS)
    assert parent == "parent 2"
    names = ["Publisher", "Publisher", "Subscriber", "PredictionSubscriber"]
    for line, name in zip(child, names, strict=True):
        assert line.startswith(f"this {name} was made before the process forked")
        assert f"make a {name} in the child, or start processes with" in line
        assert line.endswith('multiprocessing.get_context("spawn")')
