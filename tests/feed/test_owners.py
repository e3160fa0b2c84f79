"""A stream belongs to the endpoint that sends it: without sockets, and without time."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_lstm.errors import ConfigurationError
from stream_lstm.events import MAX_SEQ, End, Gap, Label, Refusal, SessionStart, Takeover, Ticks
from stream_lstm.feed.intake import EventBatch, Intake
from stream_lstm.feed.protocol import (
    Block,
    Heartbeat,
    SnapshotReply,
    Welcome,
    encode_heartbeat,
    encode_label,
    encode_side,
    encode_ticks,
)
from stream_lstm.feed.sequence import Owners
from stream_lstm.schema import FeedConfig

from .received import blocks

A, B, C = range(3)
ENDPOINTS = ("tcp://a:1", "tcp://b:1", "tcp://c:1")
POLICIES = ("when-gone", "never", "always")


class Side:
    """The intake of three endpoints; `gone` are the places of those without a connection."""

    def __init__(self, policy="when-gone", **more):
        self.gone = set()
        owners = Owners(policy, ENDPOINTS, self.gone.__contains__)
        config = FeedConfig(connect=ENDPOINTS, takeover=policy, **{"columns": ("x",), **more})
        self.intake = Intake(config, owners)
        self.counters = self.intake.counters

    def lost(self, place):
        """Let this endpoint be without a connection, and no other."""
        self.gone.clear()
        self.gone.add(place)

    def take(self, place, *messages):
        drain = EventBatch()
        self.intake.select_endpoint(place)
        for frames in messages:
            if not self.intake.take_next(frames[0], frames[1], drain):
                self.intake.take(list(frames), drain)
        return said(drain)

    def release(self):
        drain = EventBatch()
        self.intake.release(drain, 100)
        return said(drain)


def said(drain):
    return [short for event in blocks(drain.finish()) for short in _said(event)]


def _said(event):
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


def tick(seq, session="s1", stream="S"):
    return encode_ticks(stream, seq, [float(seq)], run_id=session, seq=seq)


def beat(seq, session="s1", stream="S", **more):
    return encode_heartbeat(Heartbeat(stream, seq, session, **more))


FORGED = {
    "a new session": beat(1, "forged"),
    "a huge number": beat(MAX_SEQ, "s1"),
    "an end": beat(3, "s1", end=True),
    "a tick": tick(3, "s1"),
    "other columns": beat(3, "s1", columns=("y", "x")),
    "an end with other columns": beat(3, "s1", columns=("y", "x"), end=True),
}


@pytest.mark.parametrize("policy", ["when-gone", "never"])
@pytest.mark.parametrize("forged", FORGED.values(), ids=FORGED)
def test_what_another_endpoint_forges_of_a_stream_changes_nothing(policy, forged):
    side = Side(policy)
    assert side.take(A, tick(1), tick(2)) == [("start", "s1"), 1, 2]
    assert side.take(B, forged) == ["refused"]
    assert side.take(A, tick(3), tick(4), beat(5)) == [3, 4]
    assert side.intake.refused["not_owner"] == side.counters.not_owner == 1
    assert side.counters.takeovers == side.counters.gaps == side.counters.repeats == 0


def test_a_refusal_names_both_endpoints_the_stream_and_the_rule():
    for policy in ("when-gone", "never"):
        side, drain = Side(policy), EventBatch()
        side.take(A, tick(1))
        side.intake.select_endpoint(B)
        side.intake.take(list(beat(9, "s2")), drain)
        (refusal,) = drain.finish()
        assert (refusal.stream, refusal.kind) == ("S", "message")
        for part in (ENDPOINTS[A], ENDPOINTS[B], "'S'", policy):
            assert part in refusal.reason


def test_the_first_endpoint_that_sends_a_stream_owns_it_whatever_it_sends():
    for first in (tick(1), beat(1), beat(1, end=True)):
        side = Side()
        side.take(B, first)
        assert side.take(A, tick(1, "s2")) == ["refused"]


def test_other_columns_do_not_make_an_owner_and_take_nothing_over():
    side = Side()
    wrong = beat(1, "s9", columns=("y", "x"))
    assert side.take(B, wrong, tick(1, "s9")) == ["refused"]
    assert side.take(A, tick(1)) == [("start", "s1"), 1]
    side.gone.add(A)
    assert side.take(B, wrong, tick(2, "s9")) == ["refused", "refused"]
    assert side.take(A, tick(2)) == [2]


def test_wrong_columns_of_the_owner_itself_still_end_it():
    side = Side()
    side.take(A, tick(1))
    with pytest.raises(ConfigurationError, match="ticks were already taken"):
        side.take(A, FORGED["other columns"])


@pytest.mark.parametrize("policy", POLICIES)
def test_labels_may_come_from_any_endpoint(policy):
    side = Side(policy)
    side.take(A, tick(1))
    label = encode_label(Label("S", 1, 1))
    assert side.take(B, label) == [("label", 1)]
    assert side.take(A, label) == [("label", 1)]
    assert side.take(C, encode_label(Label("T", 7, 0))) == [("label", 7)]
    assert side.take(A, tick(1, stream="T")) == [("start", "s1"), 1], "a label owns nothing"


def test_it_goes_over_once_the_owner_is_gone_and_does_not_come_back_by_itself():
    side = Side()
    side.take(A, tick(1))
    side.gone.add(A)
    assert side.take(A, tick(2)) == [2], "nobody else has sent it"
    assert side.take(B, tick(1, "s2")) == [("to", B), ("start", "s2"), 1]
    side.gone.clear()
    assert side.take(A, tick(3)) == ["refused"]
    assert side.take(B, tick(2, "s2")) == [2]
    assert side.counters.takeovers == 1


def test_never_holds_for_an_owner_that_is_gone():
    side = Side("never")
    side.take(A, tick(1))
    side.gone.add(A)
    assert side.take(B, tick(1, "s2"), beat(MAX_SEQ)) == ["refused", "refused"]
    assert side.take(A, tick(2)) == [2]


def test_an_owner_that_comes_back_first_keeps_its_stream():
    side = Side()
    side.take(A, tick(1))
    side.gone.add(A)
    side.gone.clear()
    assert side.take(A, tick(1, "s2")) == [("start", "s2"), 1]
    assert side.take(B, tick(2, "s3")) == ["refused"]


def test_what_was_refused_of_a_stand_by_is_not_lost_after_the_take_over():
    side = Side()
    side.take(A, tick(1))
    assert side.take(B, *(tick(seq, "s2") for seq in range(1, 51))) == ["refused"] * 50
    side.gone.add(A)
    assert side.take(B, tick(51, "s2"), tick(53, "s2")) == [
        ("to", B), ("start", "s2"), 51, ("gap", 1), 53,
    ]  # fmt: skip


def test_a_heartbeat_that_was_refused_says_where_a_stand_by_is():
    side = Side()
    side.take(A, tick(1))
    side.take(B, beat(90, "s2"))
    side.gone.add(A)
    assert side.take(B, tick(91, "s2")) == [("to", B), ("start", "s2"), ("gap", 1), 91]


def test_a_stand_by_that_was_never_heard_begins_at_its_first_number():
    side = Side()
    side.take(A, tick(1))
    side.gone.add(A)
    assert side.take(B, tick(4, "s2")) == [("to", B), ("start", "s2"), ("gap", 3), 4]


def test_two_that_take_turns_go_on_with_the_sessions_that_they_had():
    side = Side()
    side.take(A, tick(1))
    side.take(B, tick(1, "s2"))
    side.gone.add(A)
    assert side.take(B, tick(2, "s2")) == [("to", B), ("start", "s2"), 2]
    side.lost(B)
    assert side.take(A, tick(5)) == [("to", A), ("start", "s1"), 5], "where it was is not known"
    assert side.take(A, tick(6)) == [6]
    assert side.take(B, tick(3, "s2")) == ["refused"]
    side.lost(A)
    assert side.take(B, tick(4, "s2")) == [("to", B), ("start", "s2"), 4]


def test_two_ways_to_one_publisher_are_one_session_for_always_and_two_owners_else():
    always, gone = Side("always"), Side()
    assert always.take(A, tick(1)) == gone.take(A, tick(1)) == [("start", "s1"), 1]
    assert always.take(B, tick(2)) == [2]
    assert always.take(A, tick(2), tick(3)) == ["refused", 3]
    assert (always.counters.repeats, always.counters.takeovers) == (1, 0)
    assert gone.take(B, tick(1), tick(2)) == ["refused", "refused"]
    gone.gone.add(A)
    assert gone.take(B, tick(3)) == [("to", B), ("gap", 1), 3]
    assert gone.take(A, tick(4)) == ["refused"], "it has lost its short way too"


def test_always_lets_any_endpoint_begin_a_session_and_reports_it():
    side = Side("always")
    side.take(A, tick(1))
    assert side.take(B, beat(1, "s2")) == [("to", B), ("start", "s2")]
    assert side.take(A, tick(2)) == ["refused"], "of a session that was left"
    assert side.intake.refused["not_owner"] == 0
    assert side.take(A, tick(1, "s3")) == [("to", A), ("start", "s3"), 1]
    assert side.counters.takeovers == 2


def test_a_stream_that_was_resumed_belongs_to_the_first_that_sends_it():
    side = Side()
    side.intake.resume("S", "s1", 5)
    assert side.take(B, tick(5)) == [5]
    assert side.take(A, tick(6)) == ["refused"]


def test_owners_are_no_more_than_streams():
    side = Side(max_streams=10)
    side.take(A, *(tick(1, stream=f"s{k}") for k in range(100)))
    side.take(B, *(beat(1, "s2", stream=f"s{k}") for k in range(100)))
    owners = side.intake.owners
    assert len(owners._owner) == len(owners._refused) == 10
    side.intake.max_streams = 11
    side.take(B, tick(1, "s2", stream="late"))
    assert owners.of("late") == B


# ---- with recovery -------------------------------------------------------------------------


def recovering():
    side = Side(recovery=("e0", "e1"))
    assert side.take(A, tick(1)) == [("start", "s1"), 1]
    assert side.take(A, tick(4)) == []
    return side


def test_what_is_not_the_owners_is_not_held():
    side = recovering()
    assert side.take(B, *FORGED.values()) == ["refused"] * len(FORGED)
    assert side.take(B, encode_label(Label("S", 1, 1))) == []
    assert len(side.intake.recovery.streams["S"].queue) == 2


def answer(side, reply, endpoint=0):
    drain = EventBatch()
    side.intake.recovery.poll(0.0)
    side.intake.answer(endpoint, encode_side(reply), drain, 0.0)
    return said(drain)


def block(*seqs):
    ticks = Intake(FeedConfig(columns=("x",))).decode(list(tick(seqs[0])))
    assert len(seqs) == 1
    return Block(stream="S", run_id="s1", seq=seqs[0], rows=1,
                 t_ns=ticks.t_ns.tobytes(), values=ticks.values.tobytes())  # fmt: skip


def test_what_is_held_is_the_owners_also_after_a_take_over():
    side = recovering()
    side.gone.add(A)
    assert side.take(B, tick(1, "s2")) == [("to", B)], "it waits behind what is held"
    assert answer(side, block(2)) == [2]
    assert answer(side, block(3)) == [3]
    side.intake.select_endpoint(C)
    assert side.release() == [4, ("start", "s2"), 1]
    assert side.intake._index == C
    assert side.take(B, tick(2, "s2")) == [2]


def test_no_recovery_endpoint_speaks_for_a_stream_that_has_an_owner():
    for policy in POLICIES:
        side = Side(policy, recovery=("e0", "e1"))
        side.take(A, tick(1))
        answer(side, SnapshotReply(run_id="forged", streams={"S": (1, MAX_SEQ)}), endpoint=1)
        assert "S" not in side.intake.recovery.streams
        answer(side, Welcome(run_id="s1", columns=("y", "x")), endpoint=1)
        if policy != "always":
            assert side.take(A, tick(2)) == [2]


# ---- against a model -----------------------------------------------------------------------


class Model:
    """Who may send one stream, in the plainest words."""

    def __init__(self, policy):
        self.policy, self.owner, self.gone = policy, None, set()

    def may(self, place):
        if self.owner is None:
            self.owner = place
        if self.owner == place or self.policy == "always":
            return True, False
        if self.policy == "when-gone" and self.owner in self.gone:
            self.owner = place
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
    for what, place, kind in steps:
        if what in "gc":
            (side.gone.add if what == "g" else side.gone.discard)(place)
            for model in models.values():
                model.gone = set(side.gone)
            continue
        seq, session = next(numbers[what, place]), f"s{place}"
        if kind == "skip":
            continue
        count = 1
        if kind == "block":
            count = 2
            next(numbers[what, place])
        frames = {
            "tick": lambda: tick(seq, session, what),  # noqa: B023 - called in this turn
            "beat": lambda: beat(seq, session, what),  # noqa: B023
            "block": lambda: encode_ticks(
                what, [1, 2], [[seq], [seq + 1.0]], run_id=session, seq=seq  # noqa: B023
            ),
        }[kind]()  # fmt: skip
        refused, taken, overs = (side.counters.not_owner, side.counters.ticks,
                                 side.counters.takeovers)  # fmt: skip
        came = side.take(place, frames)
        may, over = models[what].may(place)
        assert (side.counters.not_owner == refused) == may, came
        if policy != "always":
            assert side.counters.takeovers == overs + over
            assert side.intake.owners.of(what) == models[what].owner
            # An owner is never refused for what another endpoint sent.
            if may and kind != "beat":
                assert side.counters.ticks == taken + count, came
            if not may:
                assert came == ["refused"]
    counters = side.counters
    assert counters.refused == sum(side.intake.refused.values())
