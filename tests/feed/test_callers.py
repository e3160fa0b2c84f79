"""Publishers and readers: wrong arguments, several threads, signal handlers and forks."""

import contextlib
import decimal
import fractions
import math
import os
import signal
import sys
import threading

import numpy as np
import pytest
import zmq
from hypothesis import given
from hypothesis import strategies as st

from stream_lstm.errors import EndpointError, StreamLSTMError, UsageError
from stream_lstm.events import Gap, Label, Prediction, Refusal, Ticks
from stream_lstm.feed.callers import MAX_INT, milliseconds, names, seconds, text, whole
from stream_lstm.feed.predictions import PredictionPublisher, PredictionSubscriber
from stream_lstm.feed.protocol import encode_label
from stream_lstm.feed.publisher import Publisher
from stream_lstm.feed.subscriber import Subscriber
from stream_lstm.schema import FeedConfig

from .received import ANY_PORT, WAIT_S, ended, gather, of, python, subscriber, xs

SIGNAL = signal.SIGUSR1

# ---- arguments ------------------------------------------------------------------------------

anything = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.binary(),
    st.complex_numbers(), st.decimals(), st.lists(st.integers()), st.datetimes(),
    st.just(10**400), st.just(np.int64(5)),
    st.just(np.float32(0.5)), st.just(fractions.Fraction(1, 3)), st.just(object()),
)  # fmt: skip


def result(call, *arguments):
    """Return the result, or the error if it is one of this package."""
    try:
        return call(*arguments)
    except StreamLSTMError as error:
        return error


@given(anything)
def test_arguments_are_in_range_or_refused(value):
    wait_s = result(seconds, "timeout_s", value)
    assert isinstance(wait_s, UsageError) or (type(wait_s) is float and wait_s >= 0.0)
    if not isinstance(wait_s, UsageError):
        assert -1 <= milliseconds(wait_s) <= MAX_INT
    count = result(whole, "count", value, 0)
    assert isinstance(count, UsageError) or 0 <= count <= MAX_INT
    assert isinstance(result(text, "bind", value), UsageError | str)
    listed = result(names, "columns", value)
    assert isinstance(listed, UsageError) or all(isinstance(name, str) for name in listed)


def test_a_time_to_wait_in_every_form():
    assert seconds("t", None) == seconds("t", math.inf) == math.inf
    assert seconds("t", -3) == 0.0
    assert seconds("t", np.float32(0.5)) == 0.5
    assert (milliseconds(math.inf), milliseconds(0.0), milliseconds(0.0011)) == (-1, 0, 2)


def test_readers_refuse_invalid_times_and_accept_all_others():
    with Publisher(ANY_PORT, columns=["x"]) as out, subscriber(out) as ticks:
        with PredictionSubscriber(out.endpoint) as predictions:
            out.wait_for_subscribers(1, None)
            for reader in (ticks, predictions):
                for bad in (math.nan, "5", decimal.Decimal(1), [1], 1j, 10**400):
                    with pytest.raises(UsageError, match="write seconds as a number"):
                        reader.receive(bad)
                assert reader.receive(-1.0) == []
                assert reader.receive(-math.inf) == []
        for endless in (None, math.inf):
            out.publish("A", 0, [1.0])
            assert ticks.receive(endless)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"columns": "bid"}, "columns='bid': write a list of names"),
        ({"columns": [1]}, "columns: 1 is not a name"),
        ({"columns": None}, "columns=None"),
        ({"columns": ()}, "columns is empty"),
        ({"columns": ["bid", "bid"]}, "columns repeats a name: bid, bid"),
        ({"encoding": "xml"}, "encoding='xml': write msgpack or json"),
        ({"send_timeout_s": math.nan}, "send_timeout_s=nan"),
        ({"send_timeout_s": "1"}, "send_timeout_s='1'"),
        ({"send_hwm": 1.5}, "send_hwm=1.5: write a whole number from 0"),
        ({"send_hwm": -1}, "send_hwm=-1: write a whole number from 0"),
        ({"ring": 0}, "ring=0: write a whole number from 1"),
        ({"ring": "9"}, "ring='9'"),
        ({"run_id": 5}, "run_id=5: write text"),
        ({"bind": None}, "bind=None: write text"),
        ({"linger_s": "1"}, "linger_s='1'"),
        *(({"heartbeat_s": bad}, "heartbeat_s=.*seconds") for bad in (0, -1.0, math.inf, "1")),
    ],
)
def test_a_publisher_names_the_wrong_argument(change, words):
    with pytest.raises(StreamLSTMError, match=words):
        Publisher(**{"bind": ANY_PORT, "columns": ["x"], **change})


NOT_A_TIME = r"t_ns is whole nanoseconds.*time\.time_ns"


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda out: out.publish(5, 0, [1.0]), "stream's name must be text, not 5"),
        (lambda out: out.publish(["A"], 0, [1.0]), "stream's name must be text"),
        (lambda out: out.publish(None, 0, [1.0]), "stream's name must be text, not None"),
        (lambda out: out.publish("a/b", 0, [1.0]), "contains a '/'"),
        (lambda out: out.publish("A", 0, 1.0), "do not fit the columns"),
        (lambda out: out.publish("A", 0, [None, None]), "do not fit the columns"),
        (lambda out: out.publish("A", 0, [10**400]), "values are numbers.*too large"),
        (lambda out: out.publish("A", 0, ["x"]), "values are numbers"),
        (lambda out: out.publish("A", 0, {"x": 1.0}), "values are numbers in the order of"),
        (lambda out: out.publish("A", 0, np.array([1 + 2j])), "values are numbers.*complex"),
        (lambda out: out.publish("A", 0, np.ma.array([5.0], mask=[1])), "masked"),
        *(
            (lambda out, t=t: out.publish("A", t, [1.0]), NOT_A_TIME)
            for t in (1.7e9, "noon", None, [1.5], 2**63, 2**70)
        ),
        (lambda out: out.end(5), "stream=5: write text"),
        (lambda out: out.wait_for_subscribers("1", 0.0), "count='1': write a whole number"),
        (lambda out: out.wait_for_subscribers(1, math.nan), "timeout_s=nan"),
        (lambda out: out.wait_for_subscribers(1, 0.0, stream=5), "stream=5: write text"),
    ],
)
def test_a_publishers_calls_name_the_wrong_argument(call, words):
    with Publisher(ANY_PORT, columns=["x"]) as out:
        with pytest.raises(UsageError, match=words):
            call(out)
        assert out.publish("A", np.uint64(8), [1.0]) == 1, "the failed call has counted nothing"


def test_endless_and_very_long_times_are_accepted():
    with Publisher(ANY_PORT, columns=["x"], send_timeout_s=math.inf, linger_s=1e12) as out:
        assert out.wait_for_subscribers(0, math.inf) == 0
        assert out.publish("A", np.int64(0), [1.0]) == 1
    with PredictionPublisher(ANY_PORT) as out:
        assert out.wait_for_subscribers(0, None) == 0


def test_readers_name_the_wrong_argument():
    for change, words in (
        ({"streams": "AAPL"}, "streams='AAPL': write a list of names"),
        ({"streams": [5]}, "streams: 5 is not a name"),
        ({"receive_hwm": -1}, "receive_hwm=-1"),
    ):
        with pytest.raises(UsageError, match=words):
            PredictionSubscriber("tcp://127.0.0.1:5556", **change)
    with pytest.raises(UsageError, match="endpoint=None: write text"):
        PredictionSubscriber(None)
    with pytest.raises(UsageError, match=r"connect='tcp.*write a list of names"):
        Subscriber(FeedConfig(connect="tcp://127.0.0.1:5555", columns=("x",)))


@pytest.mark.parametrize(
    ("n", "y"), [("26", 1), (25.0, 1), (True, 1), (None, 1), (1, "1"), (1, None)]
)
def test_a_label_of_wrong_types_is_not_sent(n, y):
    with pytest.raises(UsageError, match="a label of 'A': n is the whole number of a prediction"):
        encode_label(Label("A", n, y))


# ---- threads --------------------------------------------------------------------------------


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
def short_turns():
    """Threads alternate a hundred times as often as usual."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(5e-5)
    yield
    sys.setswitchinterval(before)


def test_threads_that_share_a_publisher_lose_nothing_and_number_in_order(short_turns):
    each, threads, sent = 2_000, 3, {}

    def work(first):
        for k in range(first, first + each):
            sent[out.publish("A", k, [float(k)])] = k

    with Publisher(ANY_PORT, columns=["x"], heartbeat_s=0.001) as out, subscriber(out) as into:
        out.wait_for_subscribers(1, WAIT_S)
        assert together(*(lambda k=k: work(k * each) for k in range(threads))) == []
        out.end()
        events = gather(into, ended)
    assert not of(Gap | Refusal, events)
    numbers = [n for e in of(Ticks, events) for n in range(e.seq, e.seq + len(e.t_ns))]
    assert numbers == list(range(1, threads * each + 1))
    assert [sent[n] for n in numbers] == xs(events)


def test_one_thread_may_wait_for_subscribers_while_another_publishes():
    with Publisher(ANY_PORT, columns=["x"]) as out:
        looked, published, waited = (threading.Event() for _ in range(3))
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
                assert waited.wait(WAIT_S)

        def wait():
            assert out.wait_for_subscribers(1, None) == 1
            waited.set()

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


def repeat(call):
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

        (error,) = together(lambda: repeat(lambda: out.publish("A", 0, BLOCK)), close)
        assert isinstance(error, UsageError)
        assert "this Publisher is closed: make another one" in str(error)
        assert out._context.closed


def test_heartbeats_do_not_wait_for_a_subscriber_that_reads_nothing():
    with unread() as out:

        def beat():
            out._heartbeat_due = 0.0
            out.heartbeat()

        with pytest.raises(EndpointError, match="took nothing"):
            repeat(lambda: out.publish("A", 0, BLOCK))
        out._heartbeat_due = 0.0
        assert out._send_due_heartbeats() > 0, "it returns a time, and raises no error"
        with pytest.raises(EndpointError, match="took nothing"):
            repeat(beat)


def test_every_call_of_a_closed_publisher_is_refused():
    out = Publisher(ANY_PORT, columns=["x"])
    out.publish("A", 0, [1.0])
    assert together(out.close, out.close) == []
    out.close()
    for call in (
        lambda: out.publish("A", 0, [1.0]),
        out.end,
        out.heartbeat,
        lambda: out.wait_for_subscribers(0, 0.0),
    ):
        with pytest.raises(UsageError, match="this Publisher is closed: make another one"):
            call()


@contextlib.contextmanager
def readers(kind):
    """A reader, and a function that sends it something."""
    if kind == "ticks":
        with Publisher(ANY_PORT, columns=["x"]) as out, subscriber(out) as into:
            out.wait_for_subscribers(1, WAIT_S)
            yield into, lambda: out.publish("A", 0, [1.0])
    else:
        with PredictionPublisher(ANY_PORT) as out, PredictionSubscriber(out.endpoint) as into:
            out.wait_for_subscribers(1, WAIT_S)
            yield into, lambda: out.publish(Prediction("A", 1, 0, 0.5))


KINDS = pytest.mark.parametrize("kind", ["ticks", "predictions"])


@pytest.fixture
def short_waits(monkeypatch):
    """A reader sees within milliseconds that it is being closed."""
    for module in ("subscriber", "predictions"):
        monkeypatch.setattr(f"stream_lstm.feed.{module}.MAX_WAIT_S", 0.01)


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
def test_closing_a_reader_ends_its_wait_in_another_thread(kind, short_waits):
    with readers(kind) as (into, _):
        (error,) = together(lambda: into.receive(None), lambda: when_waiting(into, into.close))
        assert isinstance(error, UsageError)
        assert "is closed: make another one" in str(error)
        assert into._context.closed
        into.close()
        with pytest.raises(UsageError, match="is closed"):
            into.receive(0.0)


# ---- signal handlers and forks ----------------------------------------------------------------


@KINDS
def test_a_signal_handler_may_close_a_reader_that_waits(kind, short_waits):
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


AFTER = pytest.mark.parametrize("after", [False, True], ids=["before", "after"])


@AFTER
def test_a_signal_handler_may_close_a_publisher_that_is_sending(interrupted, after):
    with Publisher(ANY_PORT, columns=["x"]) as out, subscriber(out) as into:
        out.wait_for_subscribers(1, WAIT_S)
        out.publish("A", 0, [1.0])
        interrupted(out, out.close, after=after)
        assert out.publish("A", 0, [2.0]) == 2
        assert out._context.closed
        gather(into, lambda _: into.counters.ticks == 2)


def test_a_signal_handler_that_publishes_into_a_send_is_refused(interrupted):
    with Publisher(ANY_PORT, columns=["x"]) as out:
        out.publish("A", 0, [1.0])
        interrupted(out, lambda: out.publish("A", 0, [9.0]), after=True)
        with pytest.raises(
            UsageError, match=r"a signal handler or finalizer called it.*set a flag"
        ):
            out.publish("A", 0, [2.0])


@AFTER
def test_an_interrupt_between_two_frames_damages_no_other_tick(interrupted, after):
    """Nobody knows whether libzmq has the first frame: the tick arrives, or shows as a gap."""

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
        events = gather(into, ended)
    assert xs(events) == ([1.0, 2.0, 3.0] if after else [1.0, 3.0])
    assert into.counters.missed == (0 if after else 1)
    assert into.counters.refused == 0


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
    # A fork hurts most in the thread of the heartbeats: nobody in the child releases this.
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


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_cannot_use_its_parents_objects():
    *child, parent = python(FORKS)
    assert parent == "parent 2"
    kinds = ["Publisher", "Publisher", "Subscriber", "PredictionSubscriber"]
    for line, name in zip(child, kinds, strict=True):
        assert line.startswith(f"this {name} was made before the process forked")
        assert f"make a {name} in the child, or start processes with" in line
        assert line.endswith('multiprocessing.get_context("spawn")')
