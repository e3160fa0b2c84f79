"""What a watcher hears over real sockets becomes tracks."""

from __future__ import annotations

import threading

import pytest

from stream_lstm.events import Prediction, Score
from stream_lstm.feed.predictions import PredictionPublisher, PredictionSubscriber
from stream_lstm.feed.security import Security, make_keys
from stream_lstm.schema import SecurityConfig
from stream_lstm.view import status as statuses
from stream_lstm.view.watcher import Watcher

S = 10**9
PATIENCE_S = 30.0


@pytest.fixture
def published():
    with PredictionPublisher("tcp://127.0.0.1:*") as publisher:
        yield publisher


@pytest.fixture
def watcher(published):
    subscriber = PredictionSubscriber(published.endpoint)
    with Watcher(subscriber, published.endpoint) as watcher:
        published.wait_for_subscribers(1, PATIENCE_S)
        wait(lambda: listens_to_scores(published))
        yield watcher


def listens_to_scores(published) -> bool:
    """Return whether the subscription to scores, the last that libzmq sends, has arrived."""
    published._update_subscriptions()
    return published._scores_wanted


def wait(what) -> None:
    """Wait until something holds of the tracks, which another thread fills."""
    tick = threading.Event()
    for _ in range(int(PATIENCE_S * 20)):
        if what():
            return
        tick.wait(0.05)
    raise AssertionError("it never happened")


def send(published, stream, first, count, t_ns):
    for n in range(first, first + 10 * count, 10):
        p = 0.2 + (n + t_ns // S) % 60 / 100
        published.publish(Prediction(stream, n, t_ns + n, p))
        published.publish_score(Score(stream, n, t_ns + n + 1, p, n // 10 % 2, 0.7, 0.5, 0.5))


def test_predictions_and_scores_fill_the_track_of_their_stream(published, watcher):
    send(published, "a", 100, 30, S)
    send(published, "b", 100, 5, S)
    wait(lambda: "b" in watcher.tracks and watcher.tracks["b"].scores.labels == 5)
    assert watcher.tracks["a"].predictions == watcher.tracks["a"].scores.labels == 30
    assert "Live" in watcher.status("a").reason


def test_what_is_published_once_more_counts_once(published, watcher):
    send(published, "a", 100, 30, S)
    send(published, "a", 300, 20, S)
    wait(lambda: "a" in watcher.tracks and watcher.tracks["a"].scores.labels == 40)
    assert watcher.tracks["a"].predictions == 40
    assert watcher.restarts == 0


def test_a_stream_that_is_begun_anew_has_a_new_track(published, watcher):
    send(published, "a", 100, 30, S)
    send(published, "a", 100, 7, 5 * S)
    wait(lambda: watcher.restarts and watcher.tracks["a"].scores.labels == 7)
    assert watcher.tracks["a"].predictions == 7


def test_an_end_is_told(published, watcher):
    send(published, "a", 100, 3, S)
    published.end("a", 121)
    wait(lambda: "The stream ended" in watcher.status("a").reason)


def test_a_daemon_that_wants_keys_is_told_of(tmp_path, monkeypatch):
    monkeypatch.setattr(statuses, "HEARD_S", 0.0)
    make_keys(tmp_path / "keys")
    keyed = Security(SecurityConfig(curve_dir=str(tmp_path / "keys")))
    with (
        PredictionPublisher("tcp://127.0.0.1:*", security=keyed) as published,
        Watcher(PredictionSubscriber(published.endpoint), published.endpoint) as watcher,
    ):
        wait(lambda: "It refused the connection" in watcher.status("a").reason)
        assert "--curve-dir" in watcher.status("a").reason
