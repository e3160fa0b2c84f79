"""What a peer sends takes bounded memory here, and no number of its makes ours overflow."""

import msgspec
import pytest

from stream_lstm.events import MAX_COUNT, MAX_SEQ
from stream_lstm.feed.drain import Drain
from stream_lstm.feed.encode import encode_heartbeat
from stream_lstm.feed.intake import Intake
from stream_lstm.feed.records import Heartbeat
from stream_lstm.feed.sequence import StreamSequence
from stream_lstm.tables import FeedConfig


def intake_of(**more):
    return Intake(FeedConfig(connect=("inproc://x",), **{"columns": ("bid", "ask"), **more}))


def take(intake, *messages):
    drain = Drain()
    for frames in messages:
        intake.take(list(frames), drain)
    return drain.finish()


def test_the_count_of_lost_ticks_stops_before_it_overflows():
    intake, sequence = intake_of(), StreamSequence()
    beats = [Heartbeat("a", MAX_SEQ, f"s{k}") for k in range(7)]
    take(intake, *map(encode_heartbeat, beats))
    for beat in beats:
        sequence.heartbeat(beat.session, beat.seq)
    assert intake.counters.missed == sequence.missed == MAX_COUNT
    assert msgspec.json.decode(msgspec.json.encode(intake.counters))["missed"] == MAX_COUNT


@pytest.mark.parametrize("seq", [0, -1, MAX_SEQ + 1, 2**63, 2**64 - 1])
def test_a_number_outside_the_range_is_refused(seq):
    intake = intake_of()
    payload = msgspec.msgpack.encode({"v": 1, "seq": seq, "session": "s"})
    take(intake, (b"heartbeat/a/", payload))
    assert (intake.counters.refused, intake.counters.streams) == (1, 0)
