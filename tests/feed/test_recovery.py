"""What is lost is asked for, held for, recovered or given up: without a socket and without
time."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_lstm.errors import ConfigurationError
from stream_lstm.events import MAX_SEQ, Gap, Label, Refusal
from stream_lstm.feed import recovery as recovery_module
from stream_lstm.feed.intake import EventBatch, Intake
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
    """A subscriber without sockets, `now` its time; it gives events, and requests to be
    answered."""

    def __init__(self, *, endpoints=1, **more):
        self.now = 0.0
        recovery = tuple(f"e{k}" for k in range(endpoints))
        self.intake = Intake(FeedConfig(**{"columns": ("x",), "recovery": recovery, **more}))
        self.recovery = self.intake.recovery
        self.counters = self.intake.counters

    def take(self, *messages):
        drain = EventBatch()
        for frames in messages:
            if not self.intake.take_next(frames[0], frames[1], drain):
                self.intake.take(list(frames), drain)
        return self.said(drain)

    def answer(self, reply, endpoint=0):
        drain = EventBatch()
        self.intake.answer(endpoint, encode_side(reply), drain, self.now)
        return self.said(drain)

    def poll(self, *, later=0.0):
        """Let time pass; return the requests for ticks, which are sent now."""
        self.now += later
        self.recovery.poll(self.now)
        sent = list(self.recovery.outgoing)
        self.recovery.outgoing.clear()
        return [(request.stream, request.from_seq, request.to_seq) for _, request in sent
                if isinstance(request, ReplayRequest)]  # fmt: skip

    def release(self, most=100):
        drain = EventBatch()
        self.intake.release(drain, most)
        return self.said(drain)

    def said(self, drain):
        return [said for event in blocks(drain.finish()) for said in said_of(event)]


def said_of(event):
    if isinstance(event, Refusal):
        return [("refused", event.kind)]
    return [said if said[0] != "tick" else said[2] for said in plain(event)]


def value(seq, stream="A", session="s1"):
    return seq + (1000.0 if stream == "B" else 0.0) + 10_000.0 * int(session[1:])


def tick(*seqs, stream="A", session="s1"):
    rows = [[value(seq, stream, session)] for seq in seqs]
    return encode_ticks(stream, list(seqs), rows, run_id=session, seq=seqs[0])


def beat(due, *, end=False, session="s1"):
    return encode_heartbeat(Heartbeat("A", due, session, end=end))


def block(*seqs, stream="A", session="s1"):
    frames = tick(*seqs, stream=stream, session=session)
    ticks = Intake(FeedConfig(columns=("x",))).decode(list(frames))
    return Block(stream=stream, run_id=session, seq=seqs[0], rows=len(seqs),
                 t_ns=ticks.t_ns.tobytes(), values=ticks.values.tobytes())  # fmt: skip


def gone(oldest=MAX_SEQ, *, session="s1"):
    return Gone(stream="A", run_id=session, oldest_seq=oldest)


@pytest.fixture
def side():
    made = Side()
    assert made.take(tick(1), tick(2)) == [("start", "s1"), 1, 2]
    return made


def test_a_gap_is_asked_for_and_what_comes_meanwhile_waits_in_its_order(side):
    label = encode_label(Label("A", 1, 1))
    assert side.take(tick(6), label, tick(7)) == []
    assert side.poll() == [("A", 3, 5)]
    assert side.answer(block(3, 4, 5)) == [3, 4, 5]
    assert side.release() == [6, ("label", 1), 7]
    assert side.take(tick(8)) == [8]
    counters = side.counters
    assert (counters.asked, counters.recovered, counters.gaps, counters.ticks) == (1, 3, 0, 8)
    assert not side.recovery.streams


def test_other_streams_go_on(side):
    side.take(tick(6))
    assert side.take(tick(1, stream="B"), tick(2, stream="B")) == [("start", "s1"), 1, 2]


def test_the_answer_may_come_in_pieces_and_each_piece_passes_at_once(side):
    side.take(tick(9))
    assert side.poll() == [("A", 3, 8)]
    assert side.answer(block(3, 4)) == [3, 4]
    assert side.poll() == [("A", 5, 8)]
    assert side.answer(block(5, 6, 7, 8, 9, 10)) == [5, 6, 7, 8]
    assert side.release() == [9]


def test_two_asks_and_no_more_then_the_gap_is_declared(side):
    side.take(tick(6))
    assert side.poll() == [("A", 3, 5)]
    assert side.poll(later=TIMEOUT_S - 0.1) == []
    assert side.poll(later=0.1) == [("A", 3, 5)]
    assert side.poll(later=TIMEOUT_S) == []
    assert side.release() == [("gap", 6, 3), 6]
    assert (side.counters.timeouts, side.counters.gaps, side.counters.missed) == (2, 1, 3)
    assert side.answer(block(3, 4, 5)) == [], "it comes too late"


def test_busy_counts_as_an_ask_and_its_time_is_kept(side):
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


def test_busy_that_names_no_stream_is_about_what_was_asked_first(side):
    side.answer(Welcome(run_id="s1", columns=("x",)))
    side.answer(SnapshotReply(run_id="s1", streams={}))
    side.take(tick(4))
    side.poll()
    side.answer(Busy(retry_ms=3_600_000))
    assert side.poll(later=MAX_RETRY_S) == [("A", 3, 3)], "an hour is not waited for"


def test_what_is_gone_is_a_gap_and_the_rest_is_applied(side):
    side.take(tick(9))
    side.poll()
    assert side.answer(gone(6)) == []
    assert side.poll() == [("A", 6, 8)]
    assert side.answer(block(6, 7, 8)) == [("gap", 6, 3), 6, 7, 8]
    assert side.release() == [9]
    assert (side.counters.gone, side.counters.missed, side.counters.recovered) == (3, 3, 3)


def test_of_what_is_left_two_asks_are_made_anew(side):
    side.take(tick(9))
    side.poll()
    side.poll(later=TIMEOUT_S)
    side.answer(gone(6))
    assert side.poll() == [("A", 6, 8)]
    assert side.poll(later=TIMEOUT_S) == [("A", 6, 8)]
    assert side.answer(block(6, 7, 8)) == [("gap", 6, 3), 6, 7, 8]


def test_what_is_gone_whole_is_a_gap_at_once(side):
    side.take(tick(9))
    side.poll()
    side.answer(gone())
    assert side.release() == [("gap", 9, 6), 9]
    assert side.counters.gone == 6


def test_a_loss_at_the_end_is_asked_for_before_the_end_is_told(side):
    assert side.take(beat(4, end=True)) == []
    assert side.poll() == [("A", 3, 3)]
    assert side.answer(block(3)) == [3]
    assert side.release() == [("end", "s1")]


def test_a_further_gap_among_what_waited_is_asked_for_in_its_turn(side):
    side.take(tick(4), tick(6), tick(7))
    side.poll()
    side.answer(block(3))
    assert side.release() == [4]
    assert side.poll() == [("A", 5, 5)]
    assert side.take(tick(8)) == []
    assert side.answer(block(5)) == [5]
    assert side.release() == [6, 7, 8]


def test_what_was_asked_for_and_comes_after_all_is_no_repeat(side):
    side.take(tick(5))
    side.poll()
    side.take(tick(4), tick(3))
    side.answer(block(3, 4))
    assert side.release() == [5]
    assert (side.counters.overlaps, side.counters.repeats, side.counters.old) == (2, 0, 0)
    assert side.take(tick(5)) == [("refused", "tick")]
    assert side.counters.repeats == 1


def test_what_waits_and_cannot_be_read_is_refused_in_its_turn(side):
    topic, payload = tick(5)
    side.take(tick(4), (topic, payload[:-1]), tick(5))
    side.poll()
    side.answer(block(3))
    assert side.release() == [4, ("refused", "message"), 5]


def test_a_late_joiner_gets_what_the_ring_holds_and_no_gap():
    side = Side()
    assert side.take(tick(1000)) == []
    assert side.poll() == [("A", 1, 999)]
    side.answer(gone(998))
    assert side.poll() == [("A", 998, 999)]
    assert side.answer(block(998, 999)) == [("start", "s1"), 998, 999]
    assert side.release() == [1000]
    assert (side.counters.gaps, side.counters.gone, side.counters.recovered) == (0, 0, 2)


def test_a_joiner_that_gets_no_answer_begins_where_it_came():
    side = Side()
    side.take(tick(1000))
    side.poll()
    side.poll(later=TIMEOUT_S)
    side.poll(later=TIMEOUT_S)
    assert side.release() == [("start", "s1"), 1000]
    assert side.counters.gaps == 0


def test_a_snapshot_shows_streams_of_which_nothing_has_come():
    side = Side(streams=("A",))
    side.recovery.poll(0.0)
    assert side.recovery.outgoing.popleft() == (0, Hello())
    side.answer(Welcome(run_id="s1", columns=("x",)))
    assert side.recovery.outgoing.popleft() == (0, SnapshotRequest())
    side.answer(SnapshotReply(run_id="s1", streams={"A": (5, 8), "B": (1, 9)}))
    assert side.poll() == [("A", 5, 7)], "what is older than that is not there"
    assert side.answer(block(5, 6, 7)) == [("start", "s1"), 5, 6, 7]
    assert side.release() == []
    assert side.take(tick(8)) == [8]
    assert side.counters.heartbeats == 0


def test_what_was_missed_while_down_is_asked_for():
    side = Side()
    side.intake.resume("A", "s1", 5)
    side.answer(SnapshotReply(run_id="s1", streams={"A": (1, 8)}))
    assert side.poll() == [("A", 5, 7)]
    assert side.answer(block(5, 6, 7)) == [5, 6, 7]
    assert side.release() == []


def test_a_restart_while_down_is_a_new_session_from_its_start():
    side = Side()
    side.intake.resume("A", "s1", 5)
    side.answer(SnapshotReply(run_id="s2", streams={"A": (1, 3)}))
    assert side.poll() == [("A", 1, 2)]
    assert side.answer(block(1, 2, session="s2")) == [("start", "s2"), 1, 2]


def test_a_recovery_endpoint_moves_no_stream_that_is_heard_to_another_session(side):
    side.answer(SnapshotReply(run_id="forged", streams={"A": (1, 2**40)}))
    assert side.poll() == []
    assert side.take(tick(3)) == [3]
    resumed = Side()
    resumed.intake.resume("A", "s1", 5)
    assert resumed.take(tick(5)) == [5]
    resumed.answer(SnapshotReply(run_id="forged", streams={"A": (1, 2**40)}))
    assert resumed.poll() == []
    assert resumed.take(tick(6)) == [6]


def test_other_columns_in_a_welcome_cost_the_answers_of_that_session_alone(side):
    side.answer(Welcome(run_id="s1", columns=("other", "names")))
    assert side.take(tick(3)) == [3]
    assert side.take(tick(5)) == []
    assert side.poll() == [("A", 4, 4)]
    assert side.answer(block(4)) == [], "its values may be in another order"


def test_a_new_session_is_recovered_from_its_start(side):
    side.take(tick(4, session="s2"))
    assert side.poll() == [("A", 1, 3)]
    recovered = side.answer(block(1, 2, 3, session="s2"))
    assert recovered == [("start", "s2"), 1, 2, 3]
    assert side.release() == [4]
    assert side.take(tick(3)) == [("refused", "tick")], "the session before was left"


def test_a_restart_in_the_middle_of_a_recovery(side):
    side.take(tick(6), tick(2, session="s2"))
    side.poll()
    side.answer(gone())
    assert side.release() == [("gap", 6, 3), 6]
    assert side.poll() == [("A", 1, 1)]
    assert side.answer(block(1, session="s2")) == [("start", "s2"), 1]
    assert side.release() == [2]


def test_answers_that_nobody_asked_for_change_nothing(side):
    for reply in (block(3, 4), gone(), Busy(retry_ms=5, stream="A"), Busy(retry_ms=5)):
        assert side.answer(reply) == []
    side.take(tick(6))
    side.poll()
    for reply in (block(4, 5), block(1, 2), block(3, session="s2"), block(3, stream="B")):
        assert side.answer(reply) == []
    assert side.answer(block(2, 3, 4)) == [3, 4]


def test_a_block_of_another_width_is_refused(side):
    side.take(tick(4))
    side.poll()
    wrong = Block(stream="A", run_id="s1", seq=3, rows=1, t_ns=bytes(8), values=bytes(16))
    assert side.answer(wrong) == [("refused", "message")]
    drain = EventBatch()
    side.intake.answer(0, b"\xff", drain, 0.0)
    assert side.said(drain) == [("refused", "message")]


def test_a_snapshot_of_names_that_cannot_be_is_refused(side):
    assert side.answer(SnapshotReply(run_id="s1", streams={"a/b": (1, 5)})) == [
        ("refused", "message")
    ]


def test_messages_are_let_go_no_more_at_a_time_than_asked(side):
    side.take(tick(4), *[tick(k) for k in range(5, 10)])
    side.poll()
    side.answer(block(3))
    assert side.release(2) == [4, 5]
    assert side.take(tick(10)) == [], "it waits its turn"
    assert side.release(2) == [6, 7]
    assert side.release(9) == [8, 9, 10]
    assert side.recovery.queued_bytes == 0


def test_what_waits_is_bounded_and_then_goes_on_with_a_gap(side, monkeypatch):
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


def test_an_endpoint_that_never_answers_holds_a_stream_up_once(side):
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


def test_of_several_endpoints_the_one_that_has_it_counts():
    side = Side(endpoints=2)
    side.take(tick(3))
    assert side.poll() == [("A", 1, 2)] * 2
    assert side.answer(gone(), endpoint=0) == []
    assert side.answer(block(1, 2), endpoint=1) == [("start", "s1"), 1, 2]
    side.release()
    side.take(tick(5))
    side.recovery.poll(0.0)
    (asked,) = [e for e, request in side.recovery.outgoing if isinstance(request, ReplayRequest)]
    assert asked == 1, "it is known by now whose session that is"


def test_only_a_few_streams_are_asked_for_at_a_time():
    side = Side()
    names = [f"S{k}" for k in range(10)]
    side.answer(SnapshotReply(run_id="s1", streams=dict.fromkeys(names, (1, 3))))
    assert [stream for stream, *_ in side.poll()] == names[:4]
    drain = EventBatch()
    rows = Block(stream="S0", run_id="s1", seq=1, rows=2, t_ns=bytes(16), values=bytes(16))
    side.intake.answer(0, encode_side(rows), drain, 0.0)
    assert [stream for stream, *_ in side.poll()] == ["S4"]


def test_without_an_endpoint_a_gap_is_told_at_once():
    intake = Intake(FeedConfig(columns=("x",)))
    drain = EventBatch()
    for frames in (tick(1), tick(3)):
        intake.take(list(frames), drain)
    assert Gap("A", 3, 1) in drain.finish()


def test_ticks_without_numbers_are_never_asked_for():
    side = Side()
    drain = EventBatch()
    for _ in range(3):
        side.intake.take(list(encode_ticks("A", 1, [1.0])), drain)
    assert side.poll() == []
    assert side.counters.ticks == 3


def test_a_feed_without_records_cannot_be_asked():
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
def test_what_cannot_be_recovered_is_a_gap_and_nothing_passes_twice(chance, ring, restarts, steps):
    done = Schedule(chance, ring_ticks=ring, restarts=restarts, failing=True).run(steps)
    assert done.leaks() == []


def test_seeded_schedules_count_what_was_injected():
    figures = schedules(1_000, seed=1)
    assert figures["differing"] == 0
    assert all(figures["injected"][fault] > 100 for fault in ("drops", "repeats", "overtakings"))
    assert figures["counted"]["refused"] == figures["injected"]["damaged"] > 100
    assert figures["injected"]["restarts"] > 100


def test_a_schedule_that_comes_out_otherwise_is_seen(monkeypatch):
    monkeypatch.setattr(recovery_module, "MAX_ATTEMPTS", 1)
    assert schedules(30, seed=1)["differing"] > 0
    assert Schedule(random.Random(1)).run(10).differences() == []


def test_who_answers_nonsense_is_left_alone_and_holds_nobody_up():
    side = Side()
    side.poll()
    side.take(tick(1), tick(1, stream="B"), tick(9))
    assert side.poll() == [("A", 2, 8)]

    def nonsense():
        side.intake.answer(0, b"\xc1", EventBatch(), side.now)

    for _ in range(recovery_module.MAX_INVALID):
        nonsense()
    side.release()
    assert side.counters.ticks == 3
    for seq in range(11, 51, 2):  # a gap a second, while it rests
        side.take(tick(seq, stream="B"))
        assert side.poll(later=1.0) == []
        nonsense()
        side.release()
        assert not side.recovery.streams
    assert side.counters.ticks == 23
    side.poll(later=recovery_module.REST_S)
    side.answer(Welcome(run_id="s1", columns=("x",)))
    side.take(tick(99, stream="B"))
    assert side.poll() == [("B", 50, 98)]
