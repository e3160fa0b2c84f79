"""`publish` from the command line, to a real subscriber, and to one that only notes the time."""

import signal
import threading

import numpy as np
import pytest

from stream_lstm.cli.options import RING
from stream_lstm.cli.publish import MAX_BLOCK
from stream_lstm.events import End, Ticks
from stream_lstm.feed import sending
from stream_lstm.feed.protocol import MAX_BLOCK_ROWS
from stream_lstm.feed.publisher import Publisher
from stream_lstm.feed.recovery_server import RING_TICKS
from stream_lstm.feed.subscriber import Subscriber
from stream_lstm.schema import FeedConfig

from ..feed.received import blocks
from .lines import ANY_PORT, write_csv

S = 10**9
WAIT_S = 20.0


def write_ticks(path, count=100, step_s=1, bad=()):
    """Ticks `step_s` seconds apart; line numbers in `bad` (the header is 1) hold no number."""
    k = np.arange(count)
    bid = ["oops" if n + 2 in bad else 1.3 + n / 1000 for n in range(count)]
    return write_csv(path, t=10**18 + k * step_s * S, bid=bid, ask=1.4 + k / 1000)


class Listener(threading.Thread):
    """Receives until the first END; signals belong to the main thread, so this is another."""

    def __init__(self, endpoint, recovery=()):
        super().__init__(daemon=True)
        self.events = []
        columns = ("bid", "ask")
        config = FeedConfig(connect=(endpoint,), recovery=recovery, columns=columns)
        self.subscriber = Subscriber(config)
        self.start()

    def run(self):
        with self.subscriber:
            while not any(isinstance(event, End) for event in self.events):
                received = self.subscriber.receive(WAIT_S)
                if not received and self.subscriber.idle_s >= WAIT_S:
                    return
                self.events.extend(blocks(received))

    def ended(self):
        self.join(WAIT_S)
        return isinstance(self.events[-1], End)

    def ticks(self):
        return [event for event in self.events if isinstance(event, Ticks)]

    def values(self):
        return np.concatenate([ticks.values for ticks in self.ticks()])


@pytest.fixture
def endpoint(tmp_path):
    return f"ipc://{tmp_path}/feed"


@pytest.fixture
def listener(endpoint):
    return Listener(endpoint)


@pytest.mark.parametrize(
    ("encoding", "block", "messages"), [("msgpack", 1, 100), ("msgpack", 7, 15), ("json", 7, 15)]
)
def test_every_tick_arrives_and_then_the_end(
    cli, tmp_path, endpoint, listener, encoding, block, messages
):
    line = ("publish", write_ticks(tmp_path / "fx.csv"), "--bind", endpoint, "--stream", "EURUSD")
    more = ("--columns", "bid,ask", "--time", "t", "--speed", "max", "--wait-subscribers", 1)
    done = cli(*line, *more, "--encoding", encoding, "--block", block, "--json")
    assert done.code == 0, done.err
    assert listener.ended()
    sent, ticks = done.json(), listener.ticks()
    assert (sent["ticks"], sent["messages"], sent["stream"]) == (100, messages, "EURUSD")
    assert not sent["interrupted"]
    assert {t.stream for t in ticks} == {"EURUSD"}
    assert {getattr(t, "run_id", "") or t.session for t in ticks} == {sent["session"]}
    assert ticks[0].seq == 1
    k = np.arange(100)
    assert np.array_equal(listener.values(), np.column_stack([1.3 + k / 1000, 1.4 + k / 1000]))
    assert np.array_equal(np.concatenate([t.t_ns for t in ticks]), 10**18 + k * S)


def test_a_bad_row_ends_the_feed_for_its_subscribers_too(cli, tmp_path, endpoint, listener):
    file = write_ticks(tmp_path / "fx.csv", bad=(42,))
    arguments = ("publish", file, "--bind", endpoint, "--columns", "bid,ask")
    done = cli(*arguments, "--wait-subscribers", 1)
    assert done.code == 65
    assert f"{file}, line 42" in done.err
    assert listener.ended()
    assert len(listener.values()) == 40
    skipped = cli(*arguments, "--on-bad-row", "skip", "--json").json()
    assert (skipped["ticks"], skipped["refused_ticks"]) == (99, 1)


@pytest.mark.slow
def test_what_was_sent_before_anybody_listened_is_asked_for(cli, tmp_path, endpoint):
    lost = f"ipc://{tmp_path}/lost"
    listener = Listener(endpoint, recovery=(lost,))
    line = ("publish", write_ticks(tmp_path / "fx.csv"), "--bind", endpoint)
    done = cli(*line, "--columns", "bid,ask", "--recovery", lost, "--ring", 90, "--json")
    assert done.code == 0, done.err
    assert f"lost ticks at {lost}" in done.err
    assert done.json()["recovery"] == lost
    assert listener.ended()
    assert np.array_equal(listener.values()[-90:, 0], 1.3 + np.arange(10, 100) / 1000)


def test_its_limits_are_those_of_a_publisher():
    assert (RING, MAX_BLOCK) == (RING_TICKS, MAX_BLOCK_ROWS)


class FakeTime:
    """A clock for `sending` that only naps move."""

    def __init__(self):
        self.now_s = 50.0

    def monotonic(self):
        return self.now_s

    def nap(self, stop, seconds):
        self.now_s += seconds


@pytest.fixture
def sent(monkeypatch):
    """(seconds since the first record, ticks) of each record; no time passes."""
    clock, records = FakeTime(), []
    publish = Publisher.publish

    def note(publisher, stream, t_ns, values):
        records.append((clock.now_s - 50.0, len(t_ns)))
        return publish(publisher, stream, t_ns, values)

    monkeypatch.setattr(sending, "time", clock)
    monkeypatch.setattr(sending, "_nap", clock.nap)
    monkeypatch.setattr(Publisher, "publish", note)
    return records


@pytest.mark.parametrize(
    ("flags", "times"),
    [
        (("--time", "t"), [1.0 * k for k in range(10)]),
        (("--time", "t", "--speed", "10x"), [0.1 * k for k in range(10)]),
        (("--time", "t", "--speed", "4/s"), [0.25 * k for k in range(10)]),
        (("--time", "t", "--block", 4), [0.0, 4.0, 6.0]),  # each waits for its last tick
        (("--time", "t", "--speed", "2/s", "--block", 4), [0.0, 2.0, 3.0]),
        ((), [0.0] * 10),
    ],
)
def test_ticks_are_sent_at_their_pace(cli, tmp_path, sent, flags, times):
    file = write_ticks(tmp_path / "fx.csv", 12)
    done = cli("publish", file, "--bind", ANY_PORT, "--limit", 10, *flags)
    assert done.code == 0
    assert [at for at, _ in sent] == pytest.approx(times)
    assert sum(count for _, count in sent) == 10
    assert "10 ticks sent" in done.out
    assert "nobody was listening at the end: --wait-subscribers 1" in done.err


def test_a_signal_ends_the_feed_in_order(cli, tmp_path, endpoint, listener, monkeypatch):
    def interrupted_nap(stop, seconds):
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(sending, "_nap", interrupted_nap)
    line = ("publish", write_ticks(tmp_path / "fx.csv", step_s=3600), "--bind", endpoint)
    more = ("--columns", "bid,ask", "--time", "t", "--wait-subscribers", 1, "--json")
    done = cli(*line, *more)
    assert done.code == 0
    assert (done.json()["interrupted"], done.json()["ticks"]) == (True, 1)
    assert listener.ended()
    assert len(listener.values()) == 1


def test_a_slow_subscriber_gets_the_end_of_the_file_too(cli, tmp_path, endpoint, monkeypatch):
    """What is queued may take as long to leave as any send, and the queue is short."""
    opened = []

    class Noting(Publisher):
        def __init__(self, *arguments, **options):
            opened.append(options)
            super().__init__(*arguments, **options)

    monkeypatch.setattr(sending, "Publisher", Noting)
    file = write_ticks(tmp_path / "q.csv")
    assert cli("publish", file, "--bind", endpoint, "--send-timeout", 45, "--block", 50).code == 0
    assert opened[0]["linger_s"] == 45
    assert opened[0]["send_hwm"] * 50 == sending.QUEUE_ROWS


def test_columns_that_are_not_published_are_named(cli, tmp_path):
    path = write_csv(tmp_path / "a.csv", t=[1, 2], x=[1, 2], who=["a", "b"], note=["", "b"])
    line = ("publish", path, "--bind", ANY_PORT, "--speed", "max", "--json", "--time", "t")
    done = cli(*line)
    assert done.json()["omitted_columns"] == ["who", "note"]
    assert "columns without numbers are not published: who, note" in done.err
    done = cli(*line, "--columns", "x")
    assert done.json()["columns"] == ["x"]
    assert "not published" not in done.err
