"""Messages become events in order, and streams have owners; without sockets and clocks."""

import itertools

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_lstm.config import MAX_MEMBERS
from stream_lstm.errors import ConfigurationError, DecodeError
from stream_lstm.events import (
    MAX_COUNT,
    MAX_SEQ,
    End,
    Expert,
    Gap,
    Label,
    Prediction,
    Refusal,
    SessionStart,
    Takeover,
    Ticks,
)
from stream_lstm.feed.declared import EventBatch
from stream_lstm.feed.intake import Intake
from stream_lstm.feed.protocol import (
    MAX_COLUMN_BYTES,
    MAX_COLUMNS,
    Block,
    Heartbeat,
    SnapshotReply,
    Welcome,
    encode_heartbeat,
    encode_label,
    encode_prediction,
    encode_side,
    encode_ticks,
)
from stream_lstm.feed.publisher import Publisher
from stream_lstm.feed.sequence import Owners
from stream_lstm.feed.wire import decode_prediction, decode_reply
from stream_lstm.schema import FeedConfig

from .received import blocks, of

# ---- batches ----------------------------------------------------------------------------------


def ticks(stream, seq, count, run_id="s"):
    return Ticks(stream, np.zeros(count, np.int64), np.zeros((count, 1)), run_id, seq)


def add_one(batch, stream, seq, run_id="s"):
    batch.add_one(stream, run_id, seq, "", seq or 0, (1.0,))


def shape(batch):
    """The order of events: blocks as (stream, seq, rows), the others by kind."""
    return [
        (event.stream, event.seq, len(event.t_ns))
        if isinstance(event, Ticks)
        else (event.stream, type(event).__name__)
        for event in blocks(batch.finish())
    ]


def test_a_batch_joins_only_ticks_that_continue_each_other():
    batch = EventBatch()
    for stream, seq, count, run_id in (
        ("A", 1, 2, "s"),
        ("A", 3, 1, "s"),
        ("A", 5, 1, "s"),
        ("B", 6, 1, "s"),
        ("B", 7, 1, "t"),
        ("C", None, 1, "s"),
        ("C", None, 2, "s"),
    ):
        batch.add_ticks(ticks(stream, seq, count, run_id))
    batch.add(End("C"))
    batch.add_ticks(ticks("C", None, 1))
    assert shape(batch) == [
        ("A", 1, 3), ("A", 5, 1), ("B", 6, 1), ("B", 7, 1), ("C", None, 3), ("C", "End"),
        ("C", None, 1),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("independent", "wanted"),
    [
        (True, [("A", 1, 3), ("B", 1, 2)]),
        (False, [("A", 1, 1), ("B", 1, 1), ("A", 2, 1), ("B", 2, 1), ("A", 3, 1)]),
    ],
)
def test_alternating_streams_become_one_block_each_if_they_are_independent(independent, wanted):
    batch = EventBatch(independent=independent)
    for stream, seq in (("A", 1), ("B", 1), ("A", 2), ("B", 2), ("A", 3)):
        add_one(batch, stream, seq)
    assert shape(batch) == wanted


def test_nothing_of_a_stream_overtakes_its_events():
    batch = EventBatch(independent=True)
    between = [
        Label("A", 1, 1),
        Gap("B", 3, 1),
        SessionStart("A", "s"),
        End("B"),
        Refusal("A", "tick", "old"),
    ]
    for seq, event in enumerate(between, 1):
        add_one(batch, "A", seq)
        add_one(batch, "B", seq)
        batch.add(event)
    assert shape(batch) == [
        ("A", 1, 1), ("B", 1, 2), ("A", "Label"), ("A", 2, 2), ("B", "Gap"), ("B", 3, 2),
        ("A", "SessionStart"), ("A", 4, 2), ("B", "End"), ("B", 5, 1), ("A", "Refusal"),
    ]  # fmt: skip


def test_a_refused_message_without_a_stream_keeps_its_place_among_all():
    batch = EventBatch(independent=True)
    for seq in (1, 2):
        add_one(batch, "A", seq)
        add_one(batch, "B", seq)
        batch.add(Refusal("", "message", "rubbish"))
    assert shape(batch) == [
        ("A", 1, 1), ("B", 1, 1), ("", "Refusal"), ("A", 2, 1), ("B", 2, 1), ("", "Refusal"),
    ]  # fmt: skip


def test_single_ticks_and_blocks_join_in_order():
    batch = EventBatch()
    batch.add_one("A", "s", 1, "", 10, (1.0, None))
    batch.add_one("A", "s", 2, "", 20, (2.0, 3.0))
    block = np.array([[4.0, 5.0], [6.0, 7.0]])
    batch.add_ticks(Ticks("A", np.array([30, 40]), block, "s", 3))
    batch.add_one("A", "s", 5, "", 50, (8.0, 9.0))
    (joined,) = blocks(batch.finish())
    assert (joined.seq, joined.session, joined.t_ns.dtype) == (1, "s", np.int64)
    assert joined.t_ns.tolist() == [10, 20, 30, 40, 50]
    wanted = [[1, np.nan], [2, 3], [4, 5], [6, 7], [8, 9]]
    np.testing.assert_array_equal(joined.values, wanted)


def test_a_block_is_bounded(monkeypatch):
    monkeypatch.setattr("stream_lstm.feed.declared.MAX_BLOCK_ROWS", 3)
    batch = EventBatch()
    for seq in range(1, 8):
        add_one(batch, "A", seq)
    assert shape(batch) == [("A", 1, 3), ("A", 4, 3), ("A", 7, 1)]


# ---- columns and bounds -----------------------------------------------------------------------


def intake_of(**more):
    return Intake(FeedConfig(connect=("inproc://x",), **{"columns": ("bid", "ask"), **more}))


def take(intake, *messages):
    batch = EventBatch()
    for frames in messages:
        intake.take(list(frames), batch)
    return batch.finish()


def named(columns, run_id="s", stream="a", seq=1, **more):
    return encode_heartbeat(Heartbeat(stream, seq, run_id, columns=columns, **more))


def pair(k, run_id="s", stream="a"):
    return encode_ticks(stream, k, [1.0, 2.0], run_id=run_id, seq=k)


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
def test_ticks_of_a_run_with_other_columns_are_refused(theirs, taken):
    intake = intake_of()
    refusals = of(Refusal, take(intake, named(theirs), pair(1), pair(2)))
    assert intake.counters.ticks == 2 * taken
    assert len(refusals) == intake.refused["columns"] == 2 * (not taken)
    assert all(f"--columns {','.join(theirs)}" in refusal.reason for refusal in refusals)


def test_another_run_with_our_columns_is_taken_and_the_end_of_a_refused_one_is_reported():
    intake, wrong = intake_of(), ("ask", "bid")
    events = take(
        intake,
        named(wrong),
        *map(pair, (1, 2, 3)),
        named(wrong, seq=4, end=True),
        named(("bid", "ask"), "t"),
        encode_ticks("b", 4, [1.0, 2.0], run_id="t", seq=1),
    )
    assert of(End, events) == [End("a", "s")]
    assert (intake.counters.ticks, intake.counters.refused, intake.counters.gaps) == (1, 3, 0)


def test_ticks_already_taken_in_another_order_end_the_feed():
    intake = intake_of()
    take(intake, pair(5))
    with pytest.raises(ConfigurationError, match=r"--columns ask,bid, and a new file") as caught:
        take(intake, named(("ask", "bid")))
    assert caught.value.key == "columns"


def test_other_names_are_matched_by_position_and_reported():
    intake = intake_of()
    assert of(Refusal, take(intake, named(("bid", "ask")))) == []
    assert intake.columns.others == ()
    assert of(Refusal, take(intake, named(("b", "a")))) == []
    assert intake.columns.others == ("b", "a")


def test_refused_runs_are_bounded_in_number_and_size(monkeypatch):
    intake = intake_of()
    longest = tuple(f"{k:c>{MAX_COLUMN_BYTES}}" for k in range(MAX_COLUMNS))
    take(intake, *(named(longest, f"{k:0>64}") for k in range(10)))
    assert len(intake.columns.refused) == 10
    assert max(map(len, intake.columns.refused.values())) < 3000
    monkeypatch.setattr("stream_lstm.feed.sequence.MAX_RUNS", 3)
    intake = intake_of()
    take(intake, *(named(("ask", "bid"), f"s{k}") for k in range(9)))
    assert list(intake.columns.refused) == ["s6", "s7", "s8"]


@pytest.mark.parametrize(
    "columns",
    [
        ("c" * (MAX_COLUMN_BYTES + 1),),
        ("c" * (8 * 2**20 - 200),),
        tuple(f"c{k}" for k in range(MAX_COLUMNS + 1)),
    ],
    ids=["name", "long name", "names"],
)
def test_names_of_columns_are_bounded(columns):
    intake = intake_of()
    take(intake, named(columns))
    assert intake.counters.refused == 1
    assert not intake.columns.refused
    with pytest.raises(DecodeError):
        decode_reply(encode_side(Welcome(run_id="s", columns=columns)))
    with pytest.raises(ConfigurationError, match="4,096 names of 250 bytes"):
        Publisher("tcp://127.0.0.1:*", columns=columns)


def test_the_count_of_lost_ticks_stops_before_it_overflows():
    intake = intake_of()
    take(intake, *(encode_heartbeat(Heartbeat("a", MAX_SEQ, f"s{k}")) for k in range(7)))
    assert intake.counters.missed == MAX_COUNT
    assert msgspec.json.decode(msgspec.json.encode(intake.counters))["missed"] == MAX_COUNT


@pytest.mark.parametrize("seq", [0, -1, MAX_SEQ + 1, 2**63, 2**64 - 1])
def test_a_number_outside_the_range_is_refused(seq):
    intake = intake_of()
    payload = msgspec.msgpack.encode({"v": 1, "seq": seq, "session": "s"})
    take(intake, (b"heartbeat/a/", payload))
    assert (intake.counters.refused, intake.counters.streams) == (1, 0)


def test_ends_of_unknown_streams_are_bounded():
    intake = intake_of(max_streams=10)
    messages = (named(("ask", "bid"), "s", f"forged{k}", end=True) for k in range(100))
    assert len(of(End, take(intake, *messages))) == len(intake._ended) == 10


def test_the_experts_of_a_prediction_are_bounded():
    def encoded(*experts):
        return encode_prediction(Prediction("a", 1, 0, 0.5, experts=experts))

    most = [Expert("m", 1 / MAX_MEMBERS, 0.5)] * MAX_MEMBERS
    assert decode_prediction(*encoded(*most)).experts == tuple(most)
    for experts in ([*most, most[0]], [Expert("m" * 2000, 1.0, 0.5)]):
        with pytest.raises(DecodeError, match="experts"):
            decode_prediction(*encoded(*experts))


# ---- owners -----------------------------------------------------------------------------------

A, B, C = range(3)
ENDPOINTS = ("tcp://a:1", "tcp://b:1", "tcp://c:1")
POLICIES = ("when-gone", "never", "always")


class Side:
    """The intake of three endpoints; `gone` are the indices of those without a connection."""

    def __init__(self, policy="when-gone", **more):
        self.gone = set()
        owners = Owners(policy, ENDPOINTS, self.gone.__contains__)
        config = FeedConfig(connect=ENDPOINTS, takeover=policy, **{"columns": ("x",), **more})
        self.intake = Intake(config, owners)
        self.counters = self.intake.counters

    def only_gone(self, endpoint):
        self.gone.clear()
        self.gone.add(endpoint)

    def take(self, endpoint, *messages):
        batch = EventBatch()
        self.intake.select_endpoint(endpoint)
        for frames in messages:
            if not self.intake.take_next(frames[0], frames[1], batch):
                self.intake.take(list(frames), batch)
        return short(batch)

    def answer(self, reply, endpoint=0):
        batch = EventBatch()
        self.intake.recovery.poll(0.0)
        self.intake.answer(endpoint, encode_side(reply), batch, 0.0)
        return short(batch)

    def release(self):
        batch = EventBatch()
        self.intake.release(batch, 100)
        return short(batch)


def short(batch):
    return [one for event in blocks(batch.finish()) for one in _short(event)]


def _short(event):
    match event:
        case Ticks():
            return [int(x) for x in event.values[:, 0]]
        case Takeover():
            return [("to", ENDPOINTS.index(event.to))]
        case Refusal():
            return ["refused"]
        case Gap():
            return [("gap", event.missed)]
        case SessionStart():
            return [("start", event.session)]
        case End():
            return ["end"]
        case Label():
            return [("label", event.n)]
    raise AssertionError(event)


def tick(seq, run_id="s1", stream="S"):
    return encode_ticks(stream, seq, [float(seq)], run_id=run_id, seq=seq)


def beat(seq, run_id="s1", stream="S", **more):
    return encode_heartbeat(Heartbeat(stream, seq, run_id, **more))


FORGED = {
    "a new run": beat(1, "forged"),
    "a huge number": beat(MAX_SEQ, "s1"),
    "an end": beat(3, "s1", end=True),
    "a tick": tick(3, "s1"),
    "other columns": beat(3, "s1", columns=("y", "x")),
    "an end with other columns": beat(3, "s1", columns=("y", "x"), end=True),
}


@pytest.mark.parametrize("policy", ["when-gone", "never"])
@pytest.mark.parametrize("forged", FORGED.values(), ids=FORGED)
def test_forged_messages_of_another_endpoint_change_nothing(policy, forged):
    side = Side(policy)
    assert side.take(A, tick(1), tick(2)) == [("start", "s1"), 1, 2]
    assert side.take(B, forged) == ["refused"]
    assert side.take(A, tick(3), tick(4), beat(5)) == [3, 4]
    assert side.intake.refused["not_owner"] == side.counters.not_owner == 1
    assert side.counters.takeovers == side.counters.gaps == side.counters.repeats == 0
    reason = next(iter(side.intake.reasons.first.values()))
    assert all(part in reason for part in (ENDPOINTS[A], ENDPOINTS[B], "'S'", policy))


def test_the_first_endpoint_that_sends_a_stream_owns_it_whatever_it_sends():
    for first in (tick(1), beat(1), beat(1, end=True)):
        side = Side()
        side.take(B, first)
        assert side.take(A, tick(1, "s2")) == ["refused"]
    side = Side()
    side.intake.resume("S", "s1", 5)
    assert side.take(B, tick(5)) == [5]
    assert side.take(A, tick(6)) == ["refused"]


def test_an_endpoint_with_other_columns_owns_nothing_and_takes_nothing_over():
    side = Side()
    wrong = beat(1, "s9", columns=("y", "x"))
    assert side.take(B, wrong, tick(1, "s9")) == ["refused"]
    assert side.take(A, tick(1)) == [("start", "s1"), 1]
    side.gone.add(A)
    assert side.take(B, wrong, tick(2, "s9")) == ["refused", "refused"]
    assert side.take(A, tick(2)) == [2]
    with pytest.raises(ConfigurationError, match="ticks were already taken"):
        side.take(A, FORGED["other columns"])


@pytest.mark.parametrize("policy", POLICIES)
def test_labels_may_come_from_any_endpoint(policy):
    side = Side(policy)
    side.take(A, tick(1))
    label = encode_label(Label("S", 1, 1))
    assert side.take(B, label) == side.take(A, label) == [("label", 1)]
    assert side.take(C, encode_label(Label("T", 7, 0))) == [("label", 7)]
    assert side.take(A, tick(1, stream="T")) == [("start", "s1"), 1], "a label owns nothing"


def test_a_stream_changes_its_owner_when_that_is_gone_and_does_not_change_back():
    side = Side()
    side.take(A, tick(1))
    side.gone.add(A)
    assert side.take(A, tick(2)) == [2], "nobody else has sent it"
    assert side.take(B, tick(1, "s2")) == [("to", B), ("start", "s2"), 1]
    side.gone.clear()
    assert side.take(A, tick(3)) == ["refused"]
    assert side.take(B, tick(2, "s2")) == [2]
    assert side.counters.takeovers == 1
    never = Side("never")
    never.take(A, tick(1))
    never.gone.add(A)
    assert never.take(B, tick(1, "s2"), beat(MAX_SEQ)) == ["refused", "refused"]
    assert never.take(A, tick(2)) == [2]


def test_an_owner_that_comes_back_first_keeps_its_stream():
    side = Side()
    side.take(A, tick(1))
    side.gone.add(A)
    side.gone.clear()
    assert side.take(A, tick(1, "s2")) == [("start", "s2"), 1]
    assert side.take(B, tick(2, "s3")) == ["refused"]


@pytest.mark.parametrize(
    ("refused", "after", "wanted"),
    [
        ([tick(seq, "s2") for seq in range(1, 51)], [51, 53], [51, ("gap", 1), 53]),
        ([beat(90, "s2")], [91], [("gap", 1), 91]),
        ([], [4], [("gap", 3), 4]),
    ],
    ids=["ticks", "a heartbeat", "nothing"],
)
def test_refused_ticks_of_a_stand_by_are_not_lost_after_the_takeover(refused, after, wanted):
    side = Side()
    side.take(A, tick(1))
    assert side.take(B, *refused) == ["refused"] * len(refused)
    side.gone.add(A)
    taken = side.take(B, *(tick(seq, "s2") for seq in after))
    assert taken == [("to", B), ("start", "s2"), *wanted]


def test_two_endpoints_that_alternate_continue_their_runs():
    side = Side()
    side.take(A, tick(1))
    side.take(B, tick(1, "s2"))
    side.gone.add(A)
    assert side.take(B, tick(2, "s2")) == [("to", B), ("start", "s2"), 2]
    side.only_gone(B)
    assert side.take(A, tick(5)) == [("to", A), ("start", "s1"), 5], "its number is not known"
    assert side.take(A, tick(6)) == [6]
    assert side.take(B, tick(3, "s2")) == ["refused"]
    side.only_gone(A)
    assert side.take(B, tick(4, "s2")) == [("to", B), ("start", "s2"), 4]


def test_two_ways_to_one_publisher_are_one_run_with_always_and_two_owners_otherwise():
    always, gone = Side("always"), Side()
    assert always.take(A, tick(1)) == gone.take(A, tick(1)) == [("start", "s1"), 1]
    assert always.take(B, tick(2)) == [2]
    assert always.take(A, tick(2), tick(3)) == ["refused", 3]
    assert (always.counters.repeats, always.counters.takeovers) == (1, 0)
    assert gone.take(B, tick(1), tick(2)) == ["refused", "refused"]
    gone.gone.add(A)
    assert gone.take(B, tick(3)) == [("to", B), ("gap", 1), 3]
    assert gone.take(A, tick(4)) == ["refused"], "it has no fast topic any more"


def test_with_always_any_endpoint_may_start_a_run_and_it_is_reported():
    side = Side("always")
    side.take(A, tick(1))
    assert side.take(B, beat(1, "s2")) == [("to", B), ("start", "s2")]
    assert side.take(A, tick(2)) == ["refused"], "of a retired run"
    assert side.intake.refused["not_owner"] == 0
    assert side.take(A, tick(1, "s3")) == [("to", A), ("start", "s3"), 1]
    assert side.counters.takeovers == 2


def test_owners_are_no_more_than_streams():
    side = Side(max_streams=10)
    side.take(A, *(tick(1, stream=f"s{k}") for k in range(100)))
    side.take(B, *(beat(1, "s2", stream=f"s{k}") for k in range(100)))
    owners = side.intake.owners
    assert len(owners._owner) == len(owners._refused) == 10
    side.intake.max_streams = 11
    side.take(B, tick(1, "s2", stream="late"))
    assert owners.of("late") == B


def recovering():
    side = Side(recovery=("e0", "e1"))
    assert side.take(A, tick(1)) == [("start", "s1"), 1]
    assert side.take(A, tick(4)) == []
    return side


def test_only_the_owners_messages_are_queued():
    side = recovering()
    assert side.take(B, *FORGED.values()) == ["refused"] * len(FORGED)
    assert side.take(B, encode_label(Label("S", 1, 1))) == []
    assert len(side.intake.recovery.streams["S"].queue) == 2


def test_queued_messages_stay_the_owners_after_a_takeover():
    side = recovering()
    side.gone.add(A)
    assert side.take(B, tick(1, "s2")) == [("to", B)], "it waits behind the queued ones"
    lost = np.array([[2.0], [3.0]])
    block = Block(stream="S", run_id="s1", seq=2, rows=2, t_ns=bytes(16), values=lost.tobytes())
    assert side.answer(block) == [2, 3]
    side.intake.select_endpoint(C)
    assert side.release() == [4, ("start", "s2"), 1]
    assert side.intake._index == C
    assert side.take(B, tick(2, "s2")) == [2]


@pytest.mark.parametrize("policy", POLICIES)
def test_no_recovery_endpoint_speaks_for_a_stream_with_an_owner(policy):
    side = Side(policy, recovery=("e0", "e1"))
    side.take(A, tick(1))
    side.answer(SnapshotReply(run_id="forged", streams={"S": (1, MAX_SEQ)}), endpoint=1)
    assert "S" not in side.intake.recovery.streams
    side.answer(Welcome(run_id="s1", columns=("y", "x")), endpoint=1)
    if policy != "always":
        assert side.take(A, tick(2)) == [2]


class Model:
    """Who may send one stream, in the plainest words."""

    def __init__(self, policy):
        self.policy, self.owner, self.gone = policy, None, set()

    def may(self, endpoint):
        if self.owner is None:
            self.owner = endpoint
        if self.owner == endpoint or self.policy == "always":
            return True, False
        if self.policy == "when-gone" and self.owner in self.gone:
            self.owner = endpoint
            return True, True
        return False, False


STEPS = st.lists(
    st.tuples(
        st.sampled_from("SSSTgc"),  # a message of stream S or T, gone, connected
        st.integers(0, 2),
        st.sampled_from(("tick", "beat", "skip", "block")),
    ),
    max_size=60,
)


@given(policy=st.sampled_from(POLICIES), steps=STEPS)
def test_only_an_owner_moves_a_stream_however_messages_mix(policy, steps):
    side = Side(policy, max_streams=5)
    models = {name: Model(policy) for name in "ST"}
    numbers = {key: itertools.count(1) for key in itertools.product("ST", range(3))}
    for what, endpoint, kind in steps:
        if what in "gc":
            (side.gone.add if what == "g" else side.gone.discard)(endpoint)
            for model in models.values():
                model.gone = set(side.gone)
            continue
        seq, run_id, count = next(numbers[what, endpoint]), f"s{endpoint}", 1
        if kind == "skip":
            continue
        if kind == "block":
            count = 2
            next(numbers[what, endpoint])
            frames = encode_ticks(what, [1, 2], [[seq], [seq + 1.0]], run_id=run_id, seq=seq)
        else:
            frames = tick(seq, run_id, what) if kind == "tick" else beat(seq, run_id, what)
        counters = side.counters
        refused, taken, takeovers = counters.not_owner, counters.ticks, counters.takeovers
        came = side.take(endpoint, frames)
        may, over = models[what].may(endpoint)
        assert (counters.not_owner == refused) == may, came
        if policy != "always":
            assert counters.takeovers == takeovers + over
            assert side.intake.owners.of(what) == models[what].owner
            # An owner is never refused for what another endpoint sent.
            if may and kind != "beat":
                assert counters.ticks == taken + count, came
            if not may:
                assert came == ["refused"]
    assert side.counters.refused == sum(side.intake.refused.values())
