"""A live page says why it does not move."""

from __future__ import annotations

import pytest

from stream_lstm.view.status import Liveness

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
    ("made", "after_s", "name", "text"),
    [
        (live(heard=False), 0, "waiting", "Nothing has come from tcp://here"),
        (live(heard=False), 20, "lost", "Nothing has come from tcp://here for 20 seconds"),
        (live(), 0, "waiting", "no prediction has come"),
        (live(predicted=True), 2, "live", "Live; the last prediction came 2 seconds ago."),
        (live(predicted=True), 60, "lost",
         "No data since 2023-11-14 22:13:20 UTC, for 60 seconds"),
    ],
)  # fmt: skip
def test_the_status_follows_what_was_heard_last(
    made: Liveness, after_s: int, name: str, text: str
) -> None:
    status = made.status("a", BEGAN + after_s * S)
    assert status.name == name
    assert text in status.reason


def test_a_silent_feed_is_reported_while_the_daemon_runs() -> None:
    made = live()
    for second in (1, 2):
        made.hear(BEGAN + second * S, stale=True)
    status = made.status("a", BEGAN + 2 * S)
    assert (status.name, status.colour) == ("late", "amber")
    assert "its feed is silent: no data since 2023-11-14 22:13:21 UTC" in status.reason
    made.hear(BEGAN + 3 * S, stale=False)
    assert not made.status("a", BEGAN + 3 * S).bad


def test_a_stream_is_late_after_three_of_its_own_intervals() -> None:
    made = live()
    for k in range(20):
        made.predict("slow", BEGAN + 10 * k * S)
    last = BEGAN + 190 * S
    for age_s, name in ((29, "live"), (31, "late")):
        made.hear(last + age_s * S, stale=False)
        status = made.status("slow", last + age_s * S)
        assert (status.name, round(status.interval_s), status.age_s) == (name, 10, age_s)
    assert status.reason == (
        "Late; the last prediction came 31 seconds ago; usually predictions come every 10 seconds."
    )


def test_an_end_is_reported_until_the_stream_continues() -> None:
    made = live()
    made.end("a", BEGAN)
    assert "The stream ended at" in made.status("a", BEGAN + S).reason
    assert not made.status("b", BEGAN + S).bad
    made.predict("a", BEGAN + S)
    assert "Live" in made.status("a", BEGAN + S).reason
