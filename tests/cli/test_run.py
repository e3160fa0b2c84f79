"""`stream-lstm run`, fed by a publisher of the test's own, as a user meets it."""

import signal
import subprocess
import sys
import threading
from pathlib import Path

import msgspec
import numpy as np
import pytest

from stream_lstm.cli import service
from stream_lstm.core.replay import Digest
from stream_lstm.core.session import Session
from stream_lstm.errors import OutputError
from stream_lstm.events import End, Prediction, Ticks
from stream_lstm.feed.predictions import PredictionSubscriber
from stream_lstm.feed.publisher import Publisher
from stream_lstm.store.store import Store
from stream_lstm.store.weights import load_weights

from ..engines import engine_for, settings

ANY_PORT = "tcp://127.0.0.1:*"
WAIT_S = 120.0
SMALL = ("--feature", "x", "--hidden", "4", "--window", "12", "--bptt", "5")


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
    with Publisher(ANY_PORT, heartbeats=False, columns=("x",), session="s1") as made:
        yield made


@pytest.fixture
def feed(publisher):
    """A function that publishes values in another thread as soon as somebody subscribes."""
    threads = []

    def start(values, *, garbage=False, end=True):
        def work():
            publisher.wait_for_subscribers(1, WAIT_S)
            if garbage:
                publisher._socket.send_multipart([b"tick/a/", b"\x1b[2Jrubbish"])
            publisher.publish("a", np.arange(len(values)), values)
            if end:
                publisher.end()

        threads.append(threading.Thread(target=work))
        threads[0].start()
        return publisher.endpoint

    yield start
    for thread in threads:
        thread.join()


def test_it_learns_from_a_feed_until_its_end(cli, feed, tmp_path):
    values = series()
    out, weights = tmp_path / "p.csv", tmp_path / "w.safetensors"
    done = cli(
        *("run", "--connect", feed(values, garbage=True), "--learn", "--until-end", "--json"),
        *("--out", out, "--save-weights", weights, *SMALL),
    )
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


def test_a_feed_whose_columns_stand_elsewhere_is_refused_and_the_end_says_so(cli):
    with Publisher(ANY_PORT, heartbeats=False, columns=("bid", "ask")) as out:

        def work():
            out.wait_for_subscribers(1, WAIT_S)
            out.publish("a", np.arange(30), np.ones((30, 2)))
            out.end()

        thread = threading.Thread(target=work)
        thread.start()
        features = "--feature", "log_return(ask)", "--feature", "log_return(bid)"
        small = "--hidden", "4", "--window", "12"
        done = cli("run", "--connect", out.endpoint, *features, *small, "--until-end", "--json")
        thread.join()
    assert done.code == 65
    assert (done.json()["ticks"], done.json()["feed"]["refused"]) == (0, 1)
    assert "here they are ask, bid: name them in the feed's order, --columns bid,ask" in done.err
    assert (
        "no tick was taken: refused 1 message (1 for columns), the first"
        in done.err.splitlines()[-1]
    )


def test_where_nothing_comes_it_says_once_what_may_be_wrong(cli, monkeypatch):
    monkeypatch.setattr(service, "HINT_S", 1)
    words = ("--connect", "tcp://127.0.0.1:1", "--stream", "a", "--idle-timeout", "2.5", *SMALL)
    done = cli("run", *words)
    assert done.code == 69
    hints = [line for line in done.err.splitlines() if "nothing has come from" in line]
    assert hints[0].endswith("for 1 s: is a publisher there, and does it send a? going on to wait")
    assert len(hints) == 2  # the other is the end's


def test_the_summary_comes_out_where_the_store_cannot_be_written_to_its_end(
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
    feed = done.json()["feed"]
    assert (feed["recovered"], feed["gaps"], feed["timeouts"]) == (100, 0, 0)
    assert f"and for lost ticks to {lost}" in done.err
    assert "feed: 100 ticks recovered" in shown.out


def test_it_writes_a_timeline(cli, feed, tmp_path):
    timeline = tmp_path / "t.json"
    ready = ("--until-end", "--json", "--learn", *SMALL)
    done = cli("run", "--connect", feed(series(60)), "--trace", timeline, *ready)
    assert done.code == 0
    spans = msgspec.json.decode(timeline.read_bytes())["traceEvents"]
    learned = sum(span["name"] == "learn" for span in spans)
    strided = sum(span["args"]["n"] for span in spans if span["name"] == "strides")
    assert learned + strided // done.json()["stride"] == done.json()["updates"] == 5


def test_it_tells_people_what_was_seen(cli, feed):
    values = series(50)
    done = cli("run", "--connect", feed(values, garbage=True), "--until-end", *SMALL)
    assert done.code == 0
    assert "50 elements, 4 predictions, 4 labels" in done.out
    assert "feed: 1 message refused" in done.out
    assert "\x1b" not in done.out


def test_silence_ends_with_69_after_the_summary(cli, feed):
    endpoint = feed(series(40), end=False)
    done = cli("run", "--connect", endpoint, "--idle-timeout", "2", "--json", *SMALL)
    assert done.code == 69
    assert f"nothing has come from {endpoint} for 2 s" in done.err
    assert done.json()["elements"] == 40


def test_it_goes_on_from_a_file_of_weights(cli, feed, publisher, tmp_path):
    weights = tmp_path / "w.safetensors"
    first = cli(
        *("run", "--connect", feed(series(60)), "--until-end", "--json", "--learn"),
        *("--save-weights", weights, *SMALL),
    )
    with Publisher(ANY_PORT, heartbeats=False, columns=("x",)) as other:

        def again():
            other.wait_for_subscribers(1, WAIT_S)
            other.publish("a", np.arange(60), series(60))
            other.end()

        thread = threading.Thread(target=again)
        thread.start()
        second = cli(
            *("run", "--connect", other.endpoint, "--until-end", "--json"),
            *("--weights", weights, "--window", "12", "--bptt", "5"),
        )
        thread.join()
    assert second.json()["predictions"] == first.json()["predictions"] == 5
    assert second.json()["digest"] != first.json()["digest"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--feature", "x"), "--connect tcp://127.0.0.1:5555"),
        (("--connect", ANY_PORT[:-1] + "1"), "--feature"),
        (
            ("--connect", "tcp://127.0.0.1:1", "--feature", "x", "--columns", "y"),
            "x",
        ),
        (
            *(
                (
                    *("--connect", "tcp://127.0.0.1:1", "--feature", "x"),
                    *("--sharing", "per-stream", "--save-weights", "w.safetensors"),
                ),
            ),
            "per-stream",
        ),
        (("--connect", "tcp://127.0.0.1:1", "--feature", "x", "--out", "x.txt"), "x.txt"),
        (("--connect", "tcp://127.0.0.1:1", "--feature", "x", "--trace", "x.csv"), "x.csv"),
        (
            ("--connect", "tcp://127.0.0.1:1", "--feature", "x", "--payload", "float64"),
            "--columns price,size",
        ),
    ],
)
def test_a_wrong_command_line_is_code_2_and_one_sentence(cli, arguments, said):
    done = cli("run", *arguments)
    assert done.code == 2
    assert said in done.err
    assert "Traceback" not in done.err
    assert done.out == ""


def test_an_endpoint_that_cannot_be_is_code_69(cli, publisher):
    taken = ("--publish", publisher.endpoint)
    done = cli("run", "--connect", "tcp://127.0.0.1:1", *SMALL, *taken)
    assert done.code == 69
    assert publisher.endpoint in done.err


def test_sigterm_ends_it_cleanly_with_its_summary(publisher):
    """In a process of its own, woken while it waits for a tick."""
    command = Path(sys.executable).with_name("stream-lstm")
    arguments = ("run", "--connect", publisher.endpoint, "--publish", ANY_PORT, "--json", *SMALL)
    process = subprocess.Popen(
        [command, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
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
    assert process.returncode == 0
    assert err == ""
    summary = msgspec.json.decode(out)
    assert summary["interrupted"] is True
    assert summary["predictions"] >= 1
