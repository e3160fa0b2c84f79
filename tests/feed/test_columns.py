"""A feed says what its values are called, so that none is taken for another."""

import pytest

from stream_lstm.errors import ConfigurationError
from stream_lstm.events import End, Refusal
from stream_lstm.feed.intake import EventBatch, Intake
from stream_lstm.feed.protocol import Heartbeat, encode_heartbeat, encode_ticks
from stream_lstm.feed.publisher import Publisher
from stream_lstm.schema import FeedConfig


def beat(columns, session="s"):
    return encode_heartbeat(Heartbeat("a", 1, session, columns=columns))


def refusals(intake, *messages):
    drain = EventBatch()
    for frames in messages:
        intake.take(list(frames), drain)
    return [event for event in drain.finish() if isinstance(event, Refusal)]


@pytest.mark.parametrize(
    ("theirs", "taken"),
    [
        (("bid", "ask"), True),
        (("b", "a"), True),
        (("ask", "bid"), False),
        (("bid", "size"), True),
        (("size", "bid"), False),
        (("bid", "ask", "size"), False),
        (("bid",), False),
        ((), True),
    ],
)
def test_ticks_of_a_session_with_other_columns_are_refused(theirs, taken):
    intake = Intake(FeedConfig(connect=("inproc://x",), columns=("bid", "ask")))
    ticks = [encode_ticks("a", k, [1.0, 2.0], run_id="s", seq=k) for k in (1, 2)]
    told = refusals(intake, beat(theirs), *ticks)
    assert intake.counters.ticks == 2 * taken
    assert len(told) == intake.refused["columns"] == 2 * (not taken)
    assert all(f"--columns {','.join(theirs)}" in refusal.reason for refusal in told)


def test_another_session_with_our_columns_is_taken_and_the_end_of_a_refused_one_is_said():
    intake, drain = (
        Intake(FeedConfig(connect=("inproc://x",), columns=("bid", "ask"))),
        EventBatch(),
    )
    ticks = [encode_ticks("a", k, [1.0, 2.0], run_id="s", seq=k) for k in (1, 2, 3)]
    end = encode_heartbeat(Heartbeat("a", 4, "s", end=True, columns=("ask", "bid")))
    other = encode_ticks("b", 4, [1.0, 2.0], run_id="t", seq=1)
    for frames in (beat(("ask", "bid")), *ticks, end, beat(("bid", "ask"), "t"), other):
        intake.take(list(frames), drain)
    events = drain.finish()
    assert [event for event in events if isinstance(event, End)] == [End("a", "s")]
    assert (intake.counters.ticks, intake.counters.refused, intake.counters.gaps) == (1, 3, 0)


def test_who_came_late_and_has_taken_ticks_in_another_order_ends():
    intake = Intake(FeedConfig(connect=("inproc://x",), columns=("bid", "ask")))
    refusals(intake, encode_ticks("a", 5, [1.0, 2.0], run_id="s", seq=5))
    with pytest.raises(ConfigurationError, match=r"--columns ask,bid, and a new file") as told:
        refusals(intake, beat(("ask", "bid")))
    assert told.value.key == "columns"


def test_names_that_have_nothing_in_common_are_taken_by_place_and_kept_to_be_told():
    intake = Intake(FeedConfig(connect=("inproc://x",), columns=("bid", "ask")))
    assert refusals(intake, beat(("bid", "ask"))) == []
    assert intake.columns.others == ()
    assert refusals(intake, beat(("b", "a"))) == []
    assert intake.columns.others == ("b", "a")


def test_a_publisher_calls_no_two_values_alike():
    with pytest.raises(ConfigurationError, match="repeats a name: bid, bid"):
        Publisher("tcp://127.0.0.1:*", columns=["bid", "bid"])


def test_sessions_that_are_refused_are_forgotten_in_the_end(monkeypatch):
    monkeypatch.setattr("stream_lstm.feed.sequence.MAX_RUNS", 3)
    intake = Intake(FeedConfig(connect=("inproc://x",), columns=("bid", "ask")))
    refusals(intake, *(beat(("ask", "bid"), f"s{k}") for k in range(9)))
    assert list(intake.columns.refused) == ["s6", "s7", "s8"]
