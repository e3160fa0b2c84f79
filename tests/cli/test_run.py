"""`stream-lstm run`, fed by a publisher of the test's own, as a user meets it."""

from __future__ import annotations

import pickle
import signal
import struct
import threading

import msgspec
import numpy as np
import pytest

from stream_lstm.core.replay import Digest
from stream_lstm.core.session import Session
from stream_lstm.errors import OutputError
from stream_lstm.events import End, Prediction, Ticks
from stream_lstm.feed.declared import Adviser, EventBatch
from stream_lstm.feed.intake import Intake
from stream_lstm.feed.predictions import PredictionSubscriber
from stream_lstm.feed.publisher import Publisher
from stream_lstm.quoting import printable
from stream_lstm.schema import FeedConfig
from stream_lstm.serve import service
from stream_lstm.store.store import Store
from stream_lstm.store.weights import load_weights

from ..engines import engine_for, settings
from .lines import ANY_PORT, COUNT, NOWHERE, WAIT_S, sending, started

X = ("--feature", "x")
SIZES = ("--hidden", "4", "--window", "12", "--bptt", "5")
SMALL = (*X, *SIZES)


def series(n=300):
    return np.random.default_rng(8).normal(size=(n, 1))


def direct_digest(values, **more):
    config, digest = settings(**more), Digest()

    def emit(event):
        if isinstance(event, Prediction):
            digest.add(event)

    session = Session(config, ("x",), emit, engine=engine_for(config))
    session.push(Ticks("a", np.zeros(len(values), np.int64), values))
    return digest.hexdigest()


@pytest.fixture
def publisher():
    with Publisher(ANY_PORT, heartbeats=False, columns=("x",)) as made:
        yield made


@pytest.fixture
def feed():
    """A function that publishes values in another thread as soon as somebody subscribes."""
    threads = []

    def start(values, *, columns=("x",), garbage=False, end=True):
        publisher = Publisher(ANY_PORT, heartbeats=False, columns=columns)

        def work():
            with publisher:
                publisher.wait_for_subscribers(1, WAIT_S)
                if garbage:
                    publisher._socket.send_multipart([b"tick/a/", b"\x1b[2Jrubbish"])
                publisher.publish("a", np.arange(len(values)), values)
                if end:
                    publisher.end()
                done.wait(WAIT_S)

        done = threading.Event()
        threads.append((threading.Thread(target=work), done))
        threads[-1][0].start()
        return publisher.endpoint

    yield start
    for thread, done in threads:
        done.set()
        thread.join()


@pytest.mark.slow
def test_it_learns_from_a_feed_until_its_end(cli, feed, tmp_path):
    values = series()
    out, weights, timeline = (tmp_path / n for n in ("p.csv", "w.safetensors", "t.json"))
    line = ("run", "--connect", feed(values, garbage=True), "--learn", "--until-end", *SMALL)
    done = cli(*line, "--out", out, "--save-weights", weights, "--trace", timeline, "--json")
    summary = done.json()
    assert done.code == 0
    assert summary["digest"] == direct_digest(values, learn=True)
    assert (summary["elements"], summary["predictions"], summary["updates"]) == (300, 29, 29)
    assert summary["feed"]["refused"] == 1
    assert (summary["feed"]["ticks"], summary["feed"]["repeats"]) == (300, 0)
    assert summary["interrupted"] is False
    assert done.err.splitlines()[0].startswith("ready: subscribed to all streams at tcp://")
    assert "refused a message" in done.err
    assert "\x1b" not in done.err
    assert len(out.read_text().splitlines()) == 30
    arrays, about = load_weights(weights)
    assert arrays["head"]["kernel"].shape == (5,)
    assert about["features"] == '["x"]'

    spans = msgspec.json.decode(timeline.read_bytes())["traceEvents"]
    assert {"push", "learn"} <= {span["name"] for span in spans}

    again = ("--weights", weights, "--window", "12", "--bptt", "5")
    second = cli("run", "--connect", feed(values), "--until-end", "--json", *again)
    assert second.json()["predictions"] == summary["predictions"]
    assert second.json()["digest"] != summary["digest"]


def test_people_read_what_was_seen(cli, feed):
    done = cli("run", "--connect", feed(series(50), garbage=True), "--until-end", *SMALL)
    assert done.code == 0
    assert "50 elements, 4 predictions, 4 labels" in done.out
    assert "feed: 1 message refused" in done.out
    assert "\x1b" not in done.out


def test_it_asks_for_what_was_published_before_it_came(cli):
    values = series(100)
    with Publisher(ANY_PORT, columns=("x",), recovery=ANY_PORT, heartbeat_s=0.1) as publisher:
        publisher.publish("a", np.arange(100), values)
        publisher.end()
        lost = publisher.recovery_endpoint
        command = ("run", "--connect", publisher.endpoint, "--recovery", lost, "--until-end")
        done = cli(*command, "--json", *SMALL)
        shown = cli(*command, *SMALL)
    assert done.code == 0, done.err
    assert done.json()["digest"] == direct_digest(values)
    counted = [done.json()["feed"][key] for key in ("recovered", "gaps", "timeouts")]
    assert counted == [100, 0, 0]
    assert f"and for lost ticks to {lost}" in done.err
    assert "feed: 100 ticks recovered" in shown.out


def test_a_feed_whose_columns_are_in_another_order_is_refused_and_the_end_names_it(cli, feed):
    endpoint = feed(np.ones((30, 2)), columns=("bid", "ask"))
    features = ("--feature", "log_return(ask)", "--feature", "log_return(bid)")
    done = cli("run", "--connect", endpoint, *features, *SIZES, "--until-end", "--json")
    assert done.code == 65
    assert (done.json()["ticks"], done.json()["feed"]["refused"]) == (0, 1)
    assert "name them in the feed's order, --columns bid,ask" in done.err
    last = "no tick was accepted: refused 1 message: the feed's columns are bid, ask"
    assert last in done.err.splitlines()[-1]


@pytest.mark.slow
def test_silence_names_and_levels_are_explained_once_and_it_ends_with_69(cli, feed, monkeypatch):
    monkeypatch.setattr(service, "HINT_S", 1)
    done = cli("run", *NOWHERE, "--stream", "a", "--idle-timeout", "2", *SMALL)
    assert done.code == 69
    (hint,) = (line for line in done.err.splitlines() if "no message from" in line)
    assert hint.endswith("for 1 s: is a publisher running, and does it send a? still waiting")
    endpoint = feed(1000 + series(1000), columns=("price",), end=False)
    done = cli("run", "--connect", endpoint, "--idle-timeout", "2", "--json", *SMALL)
    assert (done.code, done.json()["elements"]) == (69, 1000)
    for words in (
        "the feed names its values price; they are taken by position, as x",
        "feature x of the stream a is about ",
    ):
        assert done.err.count(words) == 1
    assert endpoint in done.err.splitlines()[-1]


def test_the_summary_comes_out_even_if_the_store_cannot_be_written_to_its_end(
    cli, feed, tmp_path, monkeypatch
):
    ended = Store.close

    def full(store, *, whole=True):
        before = store._closed
        ended(store, whole=whole)
        if not before:
            raise OutputError("the store s.db could not be written to the end")

    monkeypatch.setattr(Store, "close", full)
    words = "--store", tmp_path / "s.db", "--until-end", "--json", *SMALL
    done = cli("run", "--connect", feed(series(40)), *words)
    assert done.code == 74
    assert done.json()["elements"] == 40
    assert "could not be written to the end" in done.err.splitlines()[-1]


@pytest.mark.slow
def test_sigterm_ends_it_cleanly_with_its_summary(publisher):
    """In a process of its own, woken while it waits for a tick."""
    line = ("run", "--connect", publisher.endpoint, "--publish", ANY_PORT, "--json", *SMALL)
    process = started(*line)
    try:
        ready = process.stderr.readline()
        assert ready.startswith("ready: ")
        endpoint = ready.split("publishing on ")[1].split(",")[0]
        with PredictionSubscriber(endpoint) as listener:
            publisher.wait_for_subscribers(1, WAIT_S)
            got = []
            while not any(isinstance(event, Prediction) for event in got):
                # the listener may join late: ticks go on until a prediction is heard
                publisher.publish("a", 0, series(10))
                got += listener.receive(0.05)
            process.send_signal(signal.SIGTERM)
            while not any(isinstance(event, End) for event in got):
                came = listener.receive(WAIT_S)
                assert came
                got += came
        out, err = process.communicate(timeout=WAIT_S)
    finally:
        process.kill()
        process.communicate()
    assert (process.returncode, err) == (0, "")
    summary = msgspec.json.decode(out)
    assert summary["interrupted"] is True
    assert summary["predictions"] >= 1


# ---- feeds of other messages ------------------------------------------------------------------

RECORD = b'{"price": 1.1, "t": 1700000000000}'
FORMS = {
    "text": (
        [b"EURUSD 1.10000"],
        "json",
        "it is 'EURUSD 1.1",
        "it looks like text of 2 fields: to read it, set --payload text --fields symbol,c0",
    ),
    "other names": (
        [b"EURUSD", b'{"last": 1.1, "t": 1}'],
        "json",
        "it is 'EURUSD' | '{\"last\": 1.1",
        "no field 'price'; it has last, t",
    ),
    "three frames": (
        [b"EURUSD", b"1700", RECORD],
        "json",
        "it is 'EURUSD' | '1700' | '{\"price\"",
        "--payload json --columns price --frames topic,skip,payload --time-field t",
    ),
    "an object where a record belongs": (
        [b"tick/EURUSD/", RECORD],
        "record",
        "it is 'tick/EURUSD/' | '{\"price\"",
        "to read it, set --payload json --columns price --topic tick/ --time-field t",
    ),
    "a pickle": (
        [b"EURUSD", pickle.dumps({"price": 1.1})],
        "json",
        "it is 'EURUSD' | '",
        "pickled Python objects are never read; publish JSON or msgpack",
    ),
    "float32 that may be float64": (
        [np.full(4, 1.1, np.float32).tobytes()],
        "auto",
        "does not decide: it looks like 4 float32",
        "float64 fits as well (--dtype f8); if it is right, set --payload array --dtype f4",
    ),
    "escapes": (
        [b"tick/EURUSD/", b"\x1b[31m\x00\xff" * 100],
        "record",
        r"it is 'tick/EURUSD/' | '\x1b[31m\x00\xff",
        "expected a record of this protocol: a map with v and values",
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_refusal_names_what_came_and_what_would_read_it(form):
    frames, payload, begins, remedy = FORMS[form]
    intake = Intake(FeedConfig(columns=("price",), payload=payload))
    for _ in range(8):
        intake.take(frames, EventBatch())
    assert intake.counters.refused == 8
    (text,) = intake.reasons.first.values()
    assert begins in text
    assert remedy in text
    assert text.isprintable()


@pytest.mark.slow
def test_the_end_repeats_the_advice_about_the_first_message(cli):
    frames, payload, begins, remedy = FORMS["text"]
    with sending(lambda k: frames) as endpoint:
        connect = "--connect", endpoint, "--idle-timeout", "1", "--payload", payload
        done = cli("run", *connect, "--feature", "log_return(price)", *SIZES, "--json")
    assert (done.code, done.json()["feed"]["refused"]) == (65, COUNT)
    last = done.err.splitlines()[-1]
    assert f"no tick was accepted: refused {COUNT} messages" in last
    first = next(line for line in done.err.splitlines() if "refused a message" in line)
    for line in (last, first):
        assert begins in line
        assert remedy in line
        assert line.isprintable()


@pytest.mark.slow
@pytest.mark.parametrize("form", ["text", "json"])
def test_a_second_reason_of_a_feed_is_told_in_the_log_and_at_the_end(cli, form):
    def message(k):
        wrong = {"seq": 0} if k == 0 else {"seq": k, "t_ns": k + 0.5}
        return [b"tick/A/", msgspec.json.encode({"v": 1, "values": [1.0], **wrong})]

    with sending(message) as endpoint:
        connect = "--connect", endpoint, "--idle-timeout", "1", "--log-format", form
        done = cli("run", *connect, "--feature", "log_return(price)", *SIZES)
    assert done.code == 65
    log = done.err.partition("no tick was accepted")[0]
    assert "seq" in log
    assert "t_ns" in log
    assert f"{COUNT - 1:,} times: tick/A/: " in done.err
    assert "1 time: tick/A/: " in done.err
    assert done.err.count("\n") < 12


def price(k):
    return 1.1 + k * 1e-4


TAKEN = {
    "topic and object in one frame": (
        lambda k: [b"EURUSD " + f'{{"price": {price(k)!r}}}'.encode()],
        ("--payload", "json"),
    ),
    "text": (
        lambda k: [f"EURUSD;{price(k)}".encode()],
        ("--payload", "text", "--fields", "symbol,price"),
    ),
    "auto, a struct": (
        lambda k: [b"EURUSD", struct.pack("<qd", 1_700_000_000_000 + k, price(k))],
        ("--payload", "auto"),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("form", TAKEN)
def test_every_tick_of_a_declared_or_recognised_form_is_taken(cli, form):
    message, flags = TAKEN[form]
    with sending(message) as endpoint:
        connect = "--connect", endpoint, "--idle-timeout", "1", *flags
        done = cli("run", *connect, "--feature", "log_return(price)", *SIZES, "--json")
    feed = done.json()["feed"]
    assert (feed["ticks"], feed["refused"], done.json()["streams"]) == (COUNT, 0, 1)
    assert ("payload: struct of 16 bytes" in done.err) == ("auto" in flags)


@pytest.mark.parametrize("payload", ["record", "json", "float64"])
def test_any_message_has_advice_in_one_printable_line(payload):
    rng = np.random.default_rng(0)
    config = FeedConfig(columns=("x", "y"), payload=payload, topic="T")
    records = {"v": 1, "values": [1.0]}
    known = [b"", b"{}", b"{", b"T", b"tick/a/", b" {", msgspec.msgpack.encode(records)]
    adviser = Adviser(config)
    for k in range(300):
        frames = [
            known[int(rng.integers(len(known)))] if rng.random() < 0.5 else rng.bytes(24)
            for _ in range(int(rng.integers(1, 7)))
        ]
        text = adviser.explain(f"{chr(65 + k % 26)} reason", frames)
        assert printable(text, len(text)).isprintable()
        assert len(text) < 1000
