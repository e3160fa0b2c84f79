"""Lost ticks are requested, waited for, recovered or given up; without sockets and clocks."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_lstm.errors import ConfigurationError
from stream_lstm.events import MAX_SEQ, Label, Refusal
from stream_lstm.feed import recovery as recovery_module
from stream_lstm.feed.declared import EventBatch
from stream_lstm.feed.intake import Intake
from stream_lstm.feed.protocol import (
    Block,
    Busy,
    Gone,
    Heartbeat,
    Hello,
    ReplayRequest,
    SnapshotReply,
    SnapshotRequest,
    Welcome,
    encode_heartbeat,
    encode_label,
    encode_side,
    encode_ticks,
)
from stream_lstm.feed.recovery import HELLO_S, MAX_QUEUED_BYTES, MAX_RETRY_S, TIMEOUT_S
from stream_lstm.schema import FeedConfig

from ..bench_modules import bench_module
from .received import blocks

schedules = bench_module("faults_recovery").schedules
Schedule = bench_module("faults_schedule").Schedule
plain = bench_module("faults_schedule").plain


class Side:
    """A subscriber without sockets; `now` is its time."""

    def __init__(self, *, endpoints=1, **more):
        self.now = 0.0
        recovery = tuple(f"e{k}" for k in range(endpoints))
        self.intake = Intake(FeedConfig(**{"columns": ("x",), "recovery": recovery, **more}))
        self.recovery = self.intake.recovery
        self.counters = self.intake.counters

    def take(self, *messages):
        batch = EventBatch()
        for frames in messages:
            if not self.intake.take_next(frames[0], frames[1], batch):
                self.intake.take(list(frames), batch)
        return short(batch)

    def answer(self, reply, endpoint=0):
        batch = EventBatch()
        payload = reply if isinstance(reply, bytes) else encode_side(reply)
        self.intake.answer(endpoint, payload, batch, self.now)
        return short(batch)

    def poll(self, *, later=0.0):
        """Let time pass; return the requests for ticks, which are sent now."""
        self.now += later
        self.recovery.poll(self.now)
        sent = [request for _, request in self.recovery.outgoing]
        self.recovery.outgoing.clear()
        return [(r.stream, r.from_seq, r.to_seq) for r in sent if isinstance(r, ReplayRequest)]

    def release(self, most=100):
        batch = EventBatch()
        self.intake.release(batch, most)
        return short(batch)


def short(batch):
    """The events as tuples; a tick is its number."""
    found = []
    for event in blocks(batch.finish()):
        if isinstance(event, Refusal):
            found.append(("refused", event.kind))
        else:
            found += [one if one[0] != "tick" else one[2] for one in plain(event)]
    return found


def value(seq, stream="A", run_id="s1"):
    return seq + (1000.0 if stream == "B" else 0.0) + 10_000.0 * int(run_id[1:])


def tick(*seqs, stream="A", run_id="s1"):
    rows = [[value(seq, stream, run_id)] for seq in seqs]
    return encode_ticks(stream, list(seqs), rows, run_id=run_id, seq=seqs[0])


def beat(due, *, end=False, run_id="s1"):
    return encode_heartbeat(Heartbeat("A", due, run_id, end=end))


def block(*seqs, stream="A", run_id="s1"):
    frames = tick(*seqs, stream=stream, run_id=run_id)
    ticks = Intake(FeedConfig(columns=("x",))).decode(list(frames))
    return Block(stream=stream, run_id=run_id, seq=seqs[0], rows=len(seqs),
                 t_ns=ticks.t_ns.tobytes(), values=ticks.values.tobytes())  # fmt: skip


def gone(oldest=MAX_SEQ, *, run_id="s1"):
    return Gone(stream="A", run_id=run_id, oldest_seq=oldest)


@pytest.fixture
def side():
    side = Side()
    assert side.take(tick(1), tick(2)) == [("start", "s1"), 1, 2]
    return side


def test_a_gap_is_requested_and_later_messages_wait_in_order(side):
    label = encode_label(Label("A", 1, 1))
    assert side.take(tick(6), label, tick(7)) == []
    assert side.poll() == [("A", 3, 5)]
    assert side.answer(block(3, 4, 5)) == [3, 4, 5]
    assert side.release() == [6, ("label", 1), 7]
    assert side.take(tick(8)) == [8]
    counters = side.counters
    assert (counters.asked, counters.recovered, counters.gaps, counters.ticks) == (1, 3, 0, 8)
    assert not side.recovery.streams


def test_other_streams_are_not_affected(side):
    side.take(tick(6))
    assert side.take(tick(1, stream="B"), tick(2, stream="B")) == [("start", "s1"), 1, 2]


def test_a_reply_may_come_in_pieces_and_each_passes_immediately(side):
    side.take(tick(9))
    assert side.poll() == [("A", 3, 8)]
    assert side.answer(block(3, 4)) == [3, 4]
    assert side.poll() == [("A", 5, 8)]
    assert side.answer(block(5, 6, 7, 8, 9, 10)) == [5, 6, 7, 8]
    assert side.release() == [9]


def test_after_two_requests_the_gap_is_reported(side):
    side.take(tick(6))
    assert side.poll() == [("A", 3, 5)]
    assert side.poll(later=TIMEOUT_S - 0.1) == []
    assert side.poll(later=0.1) == [("A", 3, 5)]
    assert side.poll(later=TIMEOUT_S) == []
    assert side.release() == [("gap", 6, 3), 6]
    assert (side.counters.timeouts, side.counters.gaps, side.counters.missed) == (2, 1, 3)
    assert side.answer(block(3, 4, 5)) == [], "it is too late"


def test_busy_counts_as_a_request_and_its_time_is_respected(side):
    side.take(tick(4))
    assert side.poll() == [("A", 3, 3)]
    side.answer(Busy(retry_ms=700, stream="A"))
    assert side.poll(later=0.6) == []
    assert side.recovery.deadline == pytest.approx(0.7)
    assert side.poll(later=0.1) == [("A", 3, 3)]
    side.answer(Busy(retry_ms=0, stream="A"))
    assert side.poll() == []
    assert side.release() == [("gap", 4, 1), 4]
    assert side.counters.timeouts == 2


def test_busy_without_a_stream_is_about_the_oldest_request(side):
    side.answer(Welcome(run_id="s1", columns=("x",)))
    side.answer(SnapshotReply(run_id="s1", streams={}))
    side.take(tick(4))
    side.poll()
    side.answer(Busy(retry_ms=3_600_000))
    assert side.poll(later=MAX_RETRY_S) == [("A", 3, 3)], "it does not wait for an hour"


def test_gone_ticks_are_a_gap_and_the_rest_is_recovered(side):
    side.take(tick(9))
    side.poll()
    assert side.answer(gone(6)) == []
    assert side.poll() == [("A", 6, 8)]
    assert side.answer(block(6, 7, 8)) == [("gap", 6, 3), 6, 7, 8]
    assert side.release() == [9]
    assert (side.counters.gone, side.counters.missed, side.counters.recovered) == (3, 3, 3)


def test_the_rest_is_requested_twice_again(side):
    side.take(tick(9))
    side.poll()
    side.poll(later=TIMEOUT_S)
    side.answer(gone(6))
    assert side.poll() == [("A", 6, 8)]
    assert side.poll(later=TIMEOUT_S) == [("A", 6, 8)]
    assert side.answer(block(6, 7, 8)) == [("gap", 6, 3), 6, 7, 8]


def test_a_range_that_is_gone_is_a_gap_immediately(side):
    side.take(tick(9))
    side.poll()
    side.answer(gone())
    assert side.release() == [("gap", 9, 6), 9]
    assert side.counters.gone == 6


def test_a_loss_at_the_end_is_requested_before_the_end_is_reported(side):
    assert side.take(beat(4, end=True)) == []
    assert side.poll() == [("A", 3, 3)]
    assert side.answer(block(3)) == [3]
    assert side.release() == [("end", "s1")]


def test_a_further_gap_among_queued_messages_is_requested_next(side):
    side.take(tick(4), tick(6), tick(7))
    side.poll()
    side.answer(block(3))
    assert side.release() == [4]
    assert side.poll() == [("A", 5, 5)]
    assert side.take(tick(8)) == []
    assert side.answer(block(5)) == [5]
    assert side.release() == [6, 7, 8]


def test_requested_ticks_that_also_arrive_are_overlaps_and_not_repeats(side):
    side.take(tick(5))
    side.poll()
    side.take(tick(4), tick(3))
    side.answer(block(3, 4))
    assert side.release() == [5]
    assert (side.counters.overlaps, side.counters.repeats, side.counters.old) == (2, 0, 0)
    assert side.take(tick(5)) == [("refused", "tick")]
    assert side.counters.repeats == 1


def test_an_invalid_queued_message_is_refused_in_order(side):
    topic, payload = tick(5)
    side.take(tick(4), (topic, payload[:-1]), tick(5))
    side.poll()
    side.answer(block(3))
    assert side.release() == [4, ("refused", "message"), 5]


def test_a_late_joiner_gets_the_content_of_the_ring_and_no_gap():
    side = Side()
    assert side.take(tick(1000)) == []
    assert side.poll() == [("A", 1, 999)]
    side.answer(gone(998))
    assert side.poll() == [("A", 998, 999)]
    assert side.answer(block(998, 999)) == [("start", "s1"), 998, 999]
    assert side.release() == [1000]
    assert (side.counters.gaps, side.counters.gone, side.counters.recovered) == (0, 0, 2)


def test_a_joiner_without_a_reply_starts_at_its_first_message():
    side = Side()
    side.take(tick(1000))
    side.poll()
    side.poll(later=TIMEOUT_S)
    side.poll(later=TIMEOUT_S)
    assert side.release() == [("start", "s1"), 1000]
    assert side.counters.gaps == 0


def test_a_snapshot_shows_streams_that_have_sent_nothing_yet():
    side = Side(streams=("A",))
    side.recovery.poll(0.0)
    assert side.recovery.outgoing.popleft() == (0, Hello())
    side.answer(Welcome(run_id="s1", columns=("x",)))
    assert side.recovery.outgoing.popleft() == (0, SnapshotRequest())
    side.answer(SnapshotReply(run_id="s1", streams={"A": (5, 8), "B": (1, 9)}))
    assert side.poll() == [("A", 5, 7)], "older ones are gone"
    assert side.answer(block(5, 6, 7)) == [("start", "s1"), 5, 6, 7]
    assert side.release() == []
    assert side.take(tick(8)) == [8]
    assert side.counters.heartbeats == 0


def test_ticks_missed_while_down_are_requested():
    side = Side()
    side.intake.resume("A", "s1", 5)
    side.answer(SnapshotReply(run_id="s1", streams={"A": (1, 8)}))
    assert side.poll() == [("A", 5, 7)]
    assert side.answer(block(5, 6, 7)) == [5, 6, 7]
    assert side.release() == []


def test_a_restart_while_down_is_a_new_run_from_its_start():
    side = Side()
    side.intake.resume("A", "s1", 5)
    side.answer(SnapshotReply(run_id="s2", streams={"A": (1, 3)}))
    assert side.poll() == [("A", 1, 2)]
    assert side.answer(block(1, 2, run_id="s2")) == [("start", "s2"), 1, 2]


def test_a_recovery_endpoint_cannot_move_an_active_stream_to_another_run(side):
    side.answer(SnapshotReply(run_id="forged", streams={"A": (1, 2**40)}))
    assert side.poll() == []
    assert side.take(tick(3)) == [3]
    resumed = Side()
    resumed.intake.resume("A", "s1", 5)
    assert resumed.take(tick(5)) == [5]
    resumed.answer(SnapshotReply(run_id="forged", streams={"A": (1, 2**40)}))
    assert resumed.poll() == []
    assert resumed.take(tick(6)) == [6]


def test_other_columns_in_a_welcome_only_refuse_its_own_replies(side):
    side.answer(Welcome(run_id="s1", columns=("other", "names")))
    assert side.take(tick(3)) == [3]
    assert side.take(tick(5)) == []
    assert side.poll() == [("A", 4, 4)]
    assert side.answer(block(4)) == [], "its values may be in another order"


def test_a_new_run_is_recovered_from_its_start(side):
    side.take(tick(4, run_id="s2"))
    assert side.poll() == [("A", 1, 3)]
    recovered = side.answer(block(1, 2, 3, run_id="s2"))
    assert recovered == [("start", "s2"), 1, 2, 3]
    assert side.release() == [4]
    assert side.take(tick(3)) == [("refused", "tick")], "the run before is retired"


def test_a_restart_in_the_middle_of_a_recovery(side):
    side.take(tick(6), tick(2, run_id="s2"))
    side.poll()
    side.answer(gone())
    assert side.release() == [("gap", 6, 3), 6]
    assert side.poll() == [("A", 1, 1)]
    assert side.answer(block(1, run_id="s2")) == [("start", "s2"), 1]
    assert side.release() == [2]


def test_unrequested_replies_change_nothing(side):
    for reply in (block(3, 4), gone(), Busy(retry_ms=5, stream="A"), Busy(retry_ms=5)):
        assert side.answer(reply) == []
    side.take(tick(6))
    side.poll()
    for reply in (block(4, 5), block(1, 2), block(3, run_id="s2"), block(3, stream="B")):
        assert side.answer(reply) == []
    assert side.answer(block(2, 3, 4)) == [3, 4]


def test_an_invalid_reply_is_refused(side):
    side.take(tick(4))
    side.poll()
    wrong = Block(stream="A", run_id="s1", seq=3, rows=1, t_ns=bytes(8), values=bytes(16))
    assert side.answer(wrong) == [("refused", "message")]
    assert side.answer(b"\xff") == [("refused", "message")]
    names = SnapshotReply(run_id="s1", streams={"a/b": (1, 5)})
    assert side.answer(names) == [("refused", "message")]


def test_queued_messages_are_processed_in_bounded_portions(side):
    side.take(tick(4), *[tick(k) for k in range(5, 10)])
    side.poll()
    side.answer(block(3))
    assert side.release(2) == [4, 5]
    assert side.take(tick(10)) == [], "it waits in order"
    assert side.release(2) == [6, 7]
    assert side.release(9) == [8, 9, 10]
    assert side.recovery.queued_bytes == 0


def test_the_queue_is_bounded_and_then_the_gap_is_reported(side, monkeypatch):
    monkeypatch.setattr(recovery_module, "MAX_QUEUED_BYTES", 3_000)
    side.take(tick(4))
    side.poll()
    seq = 5
    while not side.counters.overfull:
        side.take(tick(seq))
        seq += 1
    assert seq < 20
    assert side.release() == [("gap", 4, 1), *range(4, seq)]
    assert side.recovery.queued_bytes == 0 < MAX_QUEUED_BYTES


def test_an_endpoint_that_never_replies_delays_a_stream_once(side):
    for first in (4, 6):
        side.take(tick(first))
        asked = [side.poll(), side.poll(later=TIMEOUT_S), side.poll(later=TIMEOUT_S)]
        assert any(asked) == (first == 4)
        side.release()
    assert side.counters.missed == 2
    side.recovery.poll(side.now + HELLO_S)
    assert side.recovery.outgoing.pop() == (0, Hello())
    side.answer(Welcome(run_id="s1", columns=("x",)))
    side.take(tick(8))
    assert side.poll() == [("A", 7, 7)]


def test_of_several_endpoints_the_one_with_the_ticks_counts():
    side = Side(endpoints=2)
    side.take(tick(3))
    assert side.poll() == [("A", 1, 2)] * 2
    assert side.answer(gone(), endpoint=0) == []
    assert side.answer(block(1, 2), endpoint=1) == [("start", "s1"), 1, 2]
    side.release()
    side.take(tick(5))
    side.recovery.poll(0.0)
    (asked,) = [e for e, request in side.recovery.outgoing if isinstance(request, ReplayRequest)]
    assert asked == 1, "it is known to have that run"


def test_only_a_few_streams_are_requested_at_a_time():
    side = Side()
    names = [f"S{k}" for k in range(10)]
    side.answer(SnapshotReply(run_id="s1", streams=dict.fromkeys(names, (1, 3))))
    assert [stream for stream, *_ in side.poll()] == names[:4]
    rows = Block(stream="S0", run_id="s1", seq=1, rows=2, t_ns=bytes(16), values=bytes(16))
    side.intake.answer(0, encode_side(rows), EventBatch(), 0.0)
    assert [stream for stream, *_ in side.poll()] == ["S4"]


def test_without_an_endpoint_a_gap_is_reported_immediately():
    assert Side(recovery=()).take(tick(1), tick(3)) == [("start", "s1"), 1, ("gap", 3, 1), 3]


def test_ticks_without_numbers_are_never_requested():
    side = Side()
    for _ in range(3):
        side.intake.take(list(encode_ticks("A", 1, [1.0])), EventBatch())
    assert side.poll() == []
    assert side.counters.ticks == 3


def test_a_feed_without_records_cannot_recover():
    with pytest.raises(ConfigurationError, match="remove recovery"):
        Side(payload="json")


# ---- any schedule ---------------------------------------------------------------------------


@settings(deadline=None)
@given(st.randoms(use_true_random=False), st.integers(0, 60))
def test_whatever_the_network_does_each_tick_passes_once_and_all_is_counted(chance, steps):
    assert Schedule(chance).run(steps).differences() == []


@settings(deadline=None)
@given(
    st.randoms(use_true_random=False),
    st.sampled_from([1, 3, 8, 50]),
    st.integers(0, 2),
    st.integers(0, 60),
)
def test_unrecoverable_ticks_are_a_gap_and_nothing_passes_twice(chance, ring, restarts, steps):
    done = Schedule(chance, ring_ticks=ring, restarts=restarts, failing=True).run(steps)
    assert done.leaks() == []


def test_seeded_schedules_count_the_injected_faults():
    figures = schedules(150, seed=1)
    assert figures["differing"] == 0
    injected = figures["injected"]
    assert all(injected[fault] > 20 for fault in ("drops", "repeats", "overtakings", "restarts"))
    assert figures["counted"]["refused"] == injected["damaged"] > 20


def test_a_schedule_with_another_result_is_noticed(monkeypatch):
    monkeypatch.setattr(recovery_module, "MAX_ATTEMPTS", 1)
    assert schedules(30, seed=1)["differing"] > 0
    assert Schedule(random.Random(1)).run(10).differences() == []


def test_an_endpoint_with_invalid_replies_is_left_alone_and_delays_nobody():
    side = Side()
    side.poll()
    side.take(tick(1), tick(1, stream="B"), tick(9))
    assert side.poll() == [("A", 2, 8)]

    for _ in range(recovery_module.MAX_INVALID):
        side.answer(b"\xc1")
    side.release()
    assert side.counters.ticks == 3
    for seq in range(11, 51, 2):  # a gap a second, while it rests
        side.take(tick(seq, stream="B"))
        assert side.poll(later=1.0) == []
        side.answer(b"\xc1")
        side.release()
        assert not side.recovery.streams
    assert side.counters.ticks == 23
    side.poll(later=recovery_module.REST_S)
    side.answer(Welcome(run_id="s1", columns=("x",)))
    side.take(tick(99, stream="B"))
    assert side.poll() == [("B", 50, 98)]
