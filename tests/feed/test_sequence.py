"""Whatever the network drops, repeats or reorders, ticks pass once, in order, and are counted."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_lstm.events import Refusal
from stream_lstm.feed.declared import EventBatch
from stream_lstm.feed.intake import Intake
from stream_lstm.feed.protocol import Heartbeat, encode_heartbeat, encode_ticks
from stream_lstm.feed.sequence import MAX_RETIRED_RUNS, PASS, SequenceCheck, StreamSequence
from stream_lstm.reasons import normalised
from stream_lstm.schema import FeedConfig


def test_the_next_numbers_pass():
    sequence = StreamSequence()
    assert sequence.ticks("s", 1, 3) == SequenceCheck(starts=True)
    assert sequence.ticks("s", 4, 1) == PASS
    assert sequence.next_seq == 5


def test_joining_late_is_not_a_gap():
    sequence = StreamSequence()
    assert sequence.ticks("s", 1000, 1) == SequenceCheck(starts=True)
    assert sequence.ticks("s", 1001, 1) == PASS
    assert sequence.ticks("s", 999, 1) == SequenceCheck(skip=1, old=1)
    assert sequence.ticks("s", 1000, 1) == SequenceCheck(skip=1, repeats=1)


def test_a_gap_is_counted_once():
    sequence = StreamSequence()
    sequence.ticks("s", 1, 1)
    assert sequence.ticks("s", 5, 1) == SequenceCheck(missed=3)
    assert sequence.ticks("s", 6, 1) == PASS
    assert (sequence.gaps, sequence.missed) == (1, 3)


def test_of_an_overlapping_block_only_the_new_rows_pass():
    sequence = StreamSequence()
    sequence.ticks("s", 1, 2)
    sequence.ticks("s", 5, 2)
    assert sequence.ticks("s", 2, 8) == SequenceCheck(skip=5, repeats=3, old=2)
    assert sequence.next_seq == 10


def test_a_new_run_of_a_known_stream_starts_at_one():
    sequence = StreamSequence()
    sequence.ticks("a", 7, 1)
    assert sequence.ticks("b", 3, 1) == SequenceCheck(starts=True, missed=2)
    assert sequence.ticks("a", 8, 2) == SequenceCheck(skip=2, old=2, retired_run=True)
    assert sequence.heartbeat("a", 99) == SequenceCheck(retired_run=True)
    assert sequence.ticks("b", 4, 1) == PASS


def test_retired_runs_are_bounded():
    sequence = StreamSequence()
    for i in range(MAX_RETIRED_RUNS + 2):
        sequence.ticks(f"s{i}", 1, 1)
    assert sequence.ticks("s1", 2, 1).retired_run
    assert sequence.ticks("s0", 1, 1).starts


def test_a_heartbeat_shows_a_loss_at_the_end():
    sequence = StreamSequence()
    sequence.ticks("s", 1, 2)
    assert sequence.heartbeat("s", 3) == PASS
    assert sequence.heartbeat("s", 6) == SequenceCheck(missed=3)
    assert sequence.heartbeat("s", 6) == PASS
    assert sequence.heartbeat("s", 2) == PASS
    assert sequence.ticks("s", 6, 1) == PASS


def test_a_heartbeat_may_come_first():
    sequence = StreamSequence()
    assert sequence.heartbeat("s", 10) == SequenceCheck(starts=True)
    assert sequence.ticks("s", 10, 1) == PASS


def test_without_numbers_everything_passes():
    sequence = StreamSequence()
    assert sequence.ticks("", None, 1) == SequenceCheck(starts=True)
    assert sequence.ticks("", None, 5) == PASS
    assert sequence.next_seq is None
    assert sequence.ticks("b", None, 5) == SequenceCheck(starts=True)


def test_ticks_missed_while_down_are_a_gap():
    sequence = StreamSequence()
    sequence.resume("s", 5)
    assert sequence.ticks("s", 4, 3) == SequenceCheck(skip=1, repeats=1)
    again = StreamSequence()
    again.resume("s", 5)
    assert again.ticks("s", 8, 1) == SequenceCheck(missed=3)


@st.composite
def schedules(draw):
    """Blocks of a stream from number 1 on, then dropped, repeated and moved about."""
    sizes = draw(st.lists(st.integers(1, 4), min_size=1, max_size=25))
    sent, seq = [], 1
    for size in sizes:
        sent.append((seq, size))
        seq += size
    arriving = [sent[0]]
    for block in sent[1:]:
        arriving += [block] * draw(st.sampled_from([0, 1, 1, 1, 2]))
    moved = draw(st.lists(st.tuples(st.integers(1, 60), st.integers(1, 60)), max_size=6))
    for source, target in moved:
        if source < len(arriving):
            arriving.insert(target, arriving.pop(source))
    return arriving, seq


@given(schedules())
def test_ticks_pass_once_in_order_and_everything_is_counted(schedule):
    arriving, due = schedule
    sequence = StreamSequence()
    passed, refused, highest = [], [], 0
    for seq, size in arriving:
        check = sequence.ticks("s", seq, size)
        numbers = list(range(seq, seq + size))
        new = numbers[check.skip :]
        assert check.missed == (new[0] - highest - 1 if new else 0)
        passed += new
        refused += numbers[: check.skip]
        highest = max(highest, *numbers)
    lost = due - 1 - highest
    assert sequence.heartbeat("s", due).missed == lost
    assert passed == sorted(set(passed))
    assert sequence.missed == due - 1 - len(passed)
    assert sequence.repeats == sum(number in set(passed) for number in refused)
    assert sequence.old == len(refused) - sequence.repeats
    assert sequence.next_seq == due


MIXED = {
    "ticks without a session": ("", "x"),
    "heartbeats without a session": ("y", ""),
    "two sessions": ("y", "x"),
}


@pytest.mark.parametrize("first", ["ticks", "heartbeat"])
@pytest.mark.parametrize("mixed", MIXED.values(), ids=MIXED)
def test_heartbeats_of_another_session_than_the_ticks_are_reported(mixed, first):
    of_ticks, of_beats = mixed
    intake, refused = Intake(FeedConfig(columns=("x",))), list[str]()
    for k in range(1, 5):
        tick = encode_ticks("A", 0, [1.0], run_id=of_ticks, seq=k)
        beat = encode_heartbeat(Heartbeat("A", k + (first == "ticks"), of_beats))
        for frames in (tick, beat) if first == "ticks" else (beat, tick):
            batch = EventBatch()
            intake.take(list(frames), batch)
            refused += [one.reason for one in batch.finish() if isinstance(one, Refusal)]
    assert any("heartbeat" in reason and "session" in reason for reason in refused)
    assert len(set(map(normalised, refused))) == 1


def test_a_publisher_that_restarts_under_a_new_session_is_not_reported():
    intake = Intake(FeedConfig(columns=("x",)))
    for run in ("a", "b", "c"):
        for frames in (
            encode_heartbeat(Heartbeat("A", 1, run, columns=("x",))),
            encode_ticks("A", 0, [1.0], run_id=run, seq=1),
            encode_heartbeat(Heartbeat("A", 2, run)),
        ):
            intake.take(list(frames), EventBatch())
    assert (intake.counters.refused, intake.counters.sessions) == (0, 3)
