"""A live page never stands still without saying so."""

from __future__ import annotations

import pytest

from stream_lstm.view.watcher import Liveness

S = 10**9
BEGAN = 1_700_000_000 * S


@pytest.fixture
def live() -> Liveness:
    return Liveness("tcp://here", BEGAN)


def test_before_anything_was_heard_it_asks_whether_there_is_a_daemon(live):
    assert not live.status("", BEGAN).bad
    status = live.status("", BEGAN + 20 * S)
    assert status.bad
    assert "Nothing has come from tcp://here for 20 seconds" in status.text


def test_a_stream_that_comes_is_live(live):
    live.hear(BEGAN, stale=False)
    live.predict("a", BEGAN)
    status = live.status("a", BEGAN + 2 * S)
    assert status.text == "Live; the last prediction came 2 seconds ago."
    assert not status.bad


def test_a_daemon_that_is_heard_may_have_no_prediction_yet(live):
    live.hear(BEGAN, stale=False)
    assert "no prediction has come" in live.status("a", BEGAN).text


def test_a_daemon_that_is_not_heard_is_told_with_the_time_of_its_last_word(live):
    live.hear(BEGAN, stale=False)
    live.predict("a", BEGAN)
    status = live.status("a", BEGAN + 60 * S)
    assert status.bad
    assert status.silent
    assert "No data since 2023-11-14 22:13:20 UTC, for 60 seconds" in status.text


def test_a_feed_that_is_silent_is_told_while_the_daemon_is_heard(live):
    for second in range(3):
        live.hear(BEGAN + second * S, stale=second > 0)
    status = live.status("a", BEGAN + 2 * S)
    assert status.bad
    assert status.silent
    assert "its feed is silent: no data since 2023-11-14 22:13:21 UTC" in status.text
    live.hear(BEGAN + 3 * S, stale=False)
    assert not live.status("a", BEGAN + 3 * S).bad


def test_an_end_is_told_until_the_stream_goes_on(live):
    live.hear(BEGAN, stale=False)
    live.end("a", BEGAN)
    assert "The stream ended at" in live.status("a", BEGAN + S).text
    assert not live.status("b", BEGAN + S).bad
    live.predict("a", BEGAN + S)
    assert "Live" in live.status("a", BEGAN + S).text
