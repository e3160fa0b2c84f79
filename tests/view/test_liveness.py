"""A live page says why it does not move."""

from __future__ import annotations

import pytest

from stream_lstm.view.watcher import Liveness

S = 10**9
BEGAN = 1_700_000_000 * S


def live(*, heard: bool = True, predicted: bool = False) -> Liveness:
    made = Liveness("tcp://here", BEGAN)
    if heard:
        made.hear(BEGAN, stale=False)
    if predicted:
        made.predict("a", BEGAN)
    return made


@pytest.mark.parametrize(
    ("made", "after_s", "bad", "silent", "text"),
    [
        (live(heard=False), 0, False, False, "Nothing has come from tcp://here"),
        (live(heard=False), 20, True, False, "Nothing has come from tcp://here for 20 seconds"),
        (live(), 0, False, False, "no prediction has come"),
        (live(predicted=True), 2, False, False, "Live; the last prediction came 2 seconds ago."),
        (live(predicted=True), 60, True, True,
         "No data since 2023-11-14 22:13:20 UTC, for 60 seconds"),
    ],
)  # fmt: skip
def test_the_status_follows_what_was_heard_last(
    made: Liveness, after_s: int, bad: bool, silent: bool, text: str
) -> None:
    status = made.status("a", BEGAN + after_s * S)
    assert (status.bad, status.silent) == (bad, silent)
    assert text in status.text


def test_a_silent_feed_is_reported_while_the_daemon_runs() -> None:
    made = live()
    for second in (1, 2):
        made.hear(BEGAN + second * S, stale=True)
    status = made.status("a", BEGAN + 2 * S)
    assert status.bad
    assert status.silent
    assert "its feed is silent: no data since 2023-11-14 22:13:21 UTC" in status.text
    made.hear(BEGAN + 3 * S, stale=False)
    assert not made.status("a", BEGAN + 3 * S).bad


def test_an_end_is_reported_until_the_stream_continues() -> None:
    made = live()
    made.end("a", BEGAN)
    assert "The stream ended at" in made.status("a", BEGAN + S).text
    assert not made.status("b", BEGAN + S).bad
    made.predict("a", BEGAN + S)
    assert "Live" in made.status("a", BEGAN + S).text
