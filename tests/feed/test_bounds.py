"""What a peer sends takes bounded memory here, and no number of its makes ours overflow."""

import msgspec
import pytest

from stream_lstm.config import MAX_MEMBERS
from stream_lstm.errors import ConfigurationError, DecodeError
from stream_lstm.events import MAX_COUNT, MAX_SEQ, End, Expert, Prediction
from stream_lstm.feed.intake import EventBatch, Intake
from stream_lstm.feed.protocol import (
    MAX_COLUMN_BYTES,
    MAX_COLUMNS,
    Heartbeat,
    Welcome,
    encode_heartbeat,
    encode_prediction,
    encode_side,
)
from stream_lstm.feed.publisher import Publisher
from stream_lstm.feed.sequence import StreamSequence
from stream_lstm.feed.wire import decode_prediction, decode_reply
from stream_lstm.schema import FeedConfig


def intake_of(**more):
    return Intake(FeedConfig(connect=("inproc://x",), **{"columns": ("bid", "ask"), **more}))


def take(intake, *messages):
    drain = EventBatch()
    for frames in messages:
        intake.take(list(frames), drain)
    return drain.finish()


def test_the_count_of_lost_ticks_stops_before_it_overflows():
    intake, sequence = intake_of(), StreamSequence()
    beats = [Heartbeat("a", MAX_SEQ, f"s{k}") for k in range(7)]
    take(intake, *map(encode_heartbeat, beats))
    for beat in beats:
        sequence.heartbeat(beat.run_id, beat.seq)
    assert intake.counters.missed == sequence.missed == MAX_COUNT
    assert msgspec.json.decode(msgspec.json.encode(intake.counters))["missed"] == MAX_COUNT


@pytest.mark.parametrize("seq", [0, -1, MAX_SEQ + 1, 2**63, 2**64 - 1])
def test_a_number_outside_the_range_is_refused(seq):
    intake = intake_of()
    payload = msgspec.msgpack.encode({"v": 1, "seq": seq, "session": "s"})
    take(intake, (b"heartbeat/a/", payload))
    assert (intake.counters.refused, intake.counters.streams) == (1, 0)


def beat(columns, session="s", stream="a", **more):
    return encode_heartbeat(Heartbeat(stream, 1, session, columns=columns, **more))


@pytest.mark.parametrize(
    "columns",
    [
        ("c" * (MAX_COLUMN_BYTES + 1),),
        ("c" * (8 * 2**20 - 200),),
        tuple(f"c{k}" for k in range(MAX_COLUMNS + 1)),
    ],
    ids=["name", "long name", "names"],
)
def test_names_of_columns_have_a_limit(columns):
    intake = intake_of()
    take(intake, *(beat(columns, f"s{k}") for k in range(3)))
    assert intake.counters.refused == 3
    assert not intake.columns.refused
    with pytest.raises(DecodeError):
        decode_reply(encode_side(Welcome(run_id="s", columns=columns)))
    with pytest.raises(ConfigurationError, match="4,096 names of 250 bytes"):
        Publisher("tcp://127.0.0.1:*", columns=columns)


def test_what_is_remembered_of_refused_sessions_has_a_limit():
    intake = intake_of()
    longest = tuple(f"{k:c>{MAX_COLUMN_BYTES}}" for k in range(MAX_COLUMNS))
    take(intake, *(beat(longest, f"{k:0>64}") for k in range(100)))
    assert len(intake.columns.refused) == 100
    assert max(map(len, intake.columns.refused.values())) < 3000


def test_the_ends_of_streams_that_do_not_exist_have_a_limit():
    intake = intake_of(max_streams=10)
    messages = (beat(("ask", "bid"), "s", f"forged{k}", end=True) for k in range(100))
    assert len([event for event in take(intake, *messages) if isinstance(event, End)]) == 10
    assert len(intake._ended) == 10


def test_the_experts_of_a_prediction_have_a_limit():
    def encoded(*experts):
        return encode_prediction(Prediction("a", 1, 0, 0.5, experts=experts))

    most = [Expert("m", 1 / MAX_MEMBERS, 0.5)] * MAX_MEMBERS
    assert decode_prediction(*encoded(*most)).experts == tuple(most)
    for experts in ([*most, most[0]], [Expert("m" * 2000, 1.0, 0.5)]):
        with pytest.raises(DecodeError, match="experts"):
            decode_prediction(*encoded(*experts))
