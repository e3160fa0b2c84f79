"""What the sequence numbers of one stream say: nothing missing, a gap, a repeat, a new session.

Within a session the number of the next tick is known. A tick with that number passes. A higher
one passes too and leaves a gap behind. A lower one does not: it is a repeat if it passed before,
or old if it was counted as missing (it was overtaken) or is from before we joined. A block is
judged row by row: of one that overlaps, the new rows pass.

The first message of a stream may carry any number, since we may have joined late. A session that
begins while the stream is known begins at 1, and a higher first number is a gap. Sessions that
were left stay left: what comes late from one is old. Without sequence numbers everything passes.

`resume` says where a stream stood when an earlier process stopped; then what was missed in between
is a gap.

Where lost ticks can be asked for, `lacks` tells beforehand what a message would leave missing, and
`recovered` that ticks came by asking: if they come on their way too, they are overlaps, which are
the price of asking and no fault of the feed.

Whether the columns of a feed are ours, as its publishers say in heartbeats and welcomes.

What a subscriber has counted.

Which endpoint may send which stream, where a feed has several endpoints.

The first endpoint that sends ticks, a heartbeat or an end of a stream owns that stream. The policy
`takeover` says what happens when another endpoint sends it:

- `when-gone`: the message is refused while the owner is connected. Once the owner is gone, the
  stream goes over to the endpoint that sends it. A connected owner that is silent is not gone.
- `never`: the message is refused for as long as this process runs.
- `always`: the message is taken. Where it begins another session, the stream goes over.

Labels have no owner: they may come from a process of their own, and the session checks each one.

A stand-by that was refused has numbered its ticks meanwhile. For each stream the owner table keeps
the session of such an endpoint and the number that is due after its last refused message, so that
what was refused is not taken for lost after the take-over.

No socket and no clock is known here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, TypeAlias, get_args

import msgspec

from ..errors import DecodeCause
from ..events import MAX_COUNT, Refusal, Takeover, Ticks
from ..schema import TakeoverPolicy

MAX_SESSIONS = 1000
"""Sessions that are remembered for having other columns; a session is easily forged."""

MAX_SHOWN = 1000
"""Characters of the names that a reason quotes: one is kept for every refused session."""


class Columns:
    """The names of our columns, and the publishers' sessions whose ticks must not be taken.

    ours: names in their order. `refused` has the sessions, and why; `others` are names that
    are not ours and were taken by their place.
    """

    def __init__(self, ours: tuple[str, ...]) -> None:
        self.refused: dict[str, str] = {}
        self.others: tuple[str, ...] = ()
        self.ours = ours
        self._places = {name: place for place, name in enumerate(ours)}

    def compare(self, session: str, theirs: tuple[str, ...]) -> bool:
        """Hold what a session calls its values against ours; return whether it is newly refused.

        Ours may have other names, but not the same ones elsewhere, nor more or fewer.
        """
        ours = self.ours
        if not theirs:
            return False
        if theirs == ours or (
            len(theirs) == len(ours)
            and all(self._places.get(name, place) == place for place, name in enumerate(theirs))
        ):
            self.refused.pop(session, None)
            if theirs != ours:
                self.others = theirs
            return False
        if session in self.refused:
            return False
        if len(self.refused) >= MAX_SESSIONS:
            self.refused.pop(next(iter(self.refused)))
        self.refused[session] = (
            f"the feed's columns are {_shown(theirs)}, and here they are {_shown(ours)}: "
            f"name them in the feed's order, --columns {_shown(theirs, ',')}"
        )
        return True


def _shown(names: Sequence[str], comma: str = ", ") -> str:
    """Return names as one line, cut where it would be long."""
    text = comma.join(names)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}... ({len(names)} in all)"


Cause: TypeAlias = DecodeCause | Literal["too_many_streams", "columns", "recovery", "not_owner"]
"""Why a message is refused; `recovery` is of an answer with lost ticks, `columns` of ticks whose
values have other names than ours, and `not_owner` of a stream that belongs to another endpoint."""

CAUSES: tuple[Cause, ...] = (
    *get_args(DecodeCause),
    "too_many_streams",
    "columns",
    "recovery",
    "not_owner",
)


class FeedCounters(msgspec.Struct):
    """What has come so far.

    `ticks` passed; `repeats` and `old` are ticks that did not; `missed` ticks were in `gaps`
    gaps; `refused` messages could not be read, belonged to a stream too many, or came from an
    endpoint that does not own their stream, which `not_owner` counts by itself; `takeovers` times
    another endpoint became a stream's owner. `asked` requests
    for lost ticks were sent; `recovered` of the ticks that passed came in answer to them, and
    `overlaps` came once more by the usual way; `gone` ticks were asked for and no longer held;
    `timeouts` requests had no answer in time, or were told to come again later; `overfull` times
    what waited for the lost ticks of a stream became too much, and it went on without them.
    `stale` times the feed fell silent.
    """

    messages: int = 0
    ticks: int = 0
    labels: int = 0
    heartbeats: int = 0
    sessions: int = 0
    streams: int = 0
    refused: int = 0
    gaps: int = 0
    missed: int = 0
    repeats: int = 0
    old: int = 0
    asked: int = 0
    recovered: int = 0
    overlaps: int = 0
    gone: int = 0
    timeouts: int = 0
    overfull: int = 0
    stale: int = 0
    not_owner: int = 0
    takeovers: int = 0


class Owners:
    """The owners of streams, by their place among the endpoints.

    policy: `when-gone`, `never` or `always`. endpoints: all of them, in the order of their places.
    gone: whether the endpoint at a place has lost its connection, with nothing left to read of it.

    The caller bounds the streams that it claims; each keeps one place, and for each endpoint that
    was refused one session and number.
    """

    def __init__(
        self, policy: TakeoverPolicy, endpoints: Sequence[str], gone: Callable[[int], bool]
    ) -> None:
        self.policy = policy
        self.endpoints = tuple(endpoints)
        self._gone = gone
        self._owner: dict[str, int] = {}
        self._refused: dict[str, dict[int, tuple[str, int | None]]] = {}
        self._unheard = 0

    def of(self, stream: str) -> int | None:
        """Return the place of a stream's owner, None where it has no owner."""
        return self._owner.get(stream)

    def guards(self, stream: str) -> bool:
        """Return whether a stream has an owner that not every other endpoint may follow."""
        return self.policy != "always" and stream in self._owner

    def claim(self, stream: str, place: int) -> None:
        """Make an endpoint the owner of a stream that has none."""
        self._owner[stream] = place

    def may_take(self, stream: str) -> bool:
        """Return whether an endpoint that does not own a stream may take it over now."""
        return self.policy == "when-gone" and self._gone(self._owner[stream])

    def take(self, stream: str, place: int) -> Takeover:
        """Make an endpoint the owner of a stream that has another one; return the event."""
        before, self._owner[stream] = self._owner[stream], place
        refused = self._refused.pop(stream, {})
        refused.pop(place, None)
        if refused:
            self._refused[stream] = refused
        return Takeover(stream, self.endpoints[before], self.endpoints[place])

    def refuse(self, stream: str, place: int, session: str, due: int | None) -> str:
        """Note that a message was refused; return the reason.

        due: the number that follows the message in its session, None without numbers.
        """
        self._unheard += 1
        self._refused.setdefault(stream, {})[place] = session, due
        owner, sender = self.endpoints[self._owner[stream]], self.endpoints[place]
        if self.policy == "never":
            rule = "no other endpoint may send it before a restart"
        else:
            rule = "which is connected, and no other endpoint may send it until that one is gone"
        return (
            f"{sender} sent the stream {stream!r} of {owner}; {rule} (takeover = {self.policy!r})"
        )

    def reached(self, stream: str, place: int) -> tuple[str, int | None] | None:
        """Return (session, number due) after the last message refused from an endpoint."""
        return self._refused.get(stream, {}).get(place)

    def heard(self, messages: int) -> bool:
        """Return whether one of the last messages was not refused here.

        messages: how many have been taken since the last call.
        """
        unheard, self._unheard = self._unheard, 0
        return unheard < messages


MAX_MISSED_RANGES = 64
"""Gaps remembered to tell overtaken ticks from repeats; those of older gaps count as repeats."""

MAX_LEFT_SESSIONS = 4
"""Sessions remembered after they ended: late messages come from the last one or two."""


class SequenceCheck(NamedTuple):
    """What to do with a message.

    starts: it is the first of a session.
    missed: ticks lost before its first new row.
    skip: rows at its beginning that must not pass, of which `repeats` were had before, `old` come
        too late and `overlaps` had been asked for; their sum.
    late_session: it is from a session that has been left, and nothing of it counts.
    """

    starts: bool = False
    missed: int = 0
    skip: int = 0
    repeats: int = 0
    old: int = 0
    late_session: bool = False
    overlaps: int = 0


PASS = SequenceCheck()


class StreamSequence:
    """The sequence numbers of one stream.

    `session` is the session id, None before anything came; `next_seq` the number that is due,
    None where there are none. `gaps` and `missed` count gaps and the ticks in them; `repeats`
    and `old` count ticks that did not pass.
    """

    __slots__ = (
        "_expected",
        "_left",
        "_missing",
        "_recovered",
        "gaps",
        "missed",
        "next_seq",
        "old",
        "repeats",
        "session",
    )

    def __init__(self) -> None:
        self.session: str | None = None
        self.next_seq: int | None = None
        self.gaps = self.missed = self.repeats = self.old = 0
        self._expected: tuple[str, int | None] | None = None
        self._left: deque[str] | None = None
        self._missing: deque[tuple[int, int]] | None = None
        self._recovered: deque[tuple[int, int]] | None = None

    def resume(self, session: str, next_seq: int | None) -> None:
        """Go on where an earlier process stopped: `next_seq` is the number that is due."""
        self.session = session
        self.next_seq = next_seq

    def expect(self, session: str, due: int | None) -> None:
        """Let a session begin at number `due` instead of 1, though it may have been left.

        due: None takes the number that comes.
        """
        self._expected = session, due
        if self._left is not None and session in self._left:
            self._left.remove(session)

    def is_new(self, session: str) -> bool:
        """Return whether a session is neither the present one nor one that was left."""
        return session != self.session and not self.is_left(session)

    def lacks(self, session: str, seq: int | None) -> tuple[int, int] | None:
        """Return the first and the last number missing before `seq`; None where nothing is.

        Before a stream's first message that is everything from 1 on.
        """
        if seq is None or self.is_left(session):
            return None
        due = self.next_seq if session == self.session else self._first(session, seq)
        return None if due is None or seq <= due else (due, seq - 1)

    def recovered(self, seq: int, count: int) -> None:
        """Take note that `count` ticks from number `seq` on, which passed, had been asked for."""
        if self._recovered is None:
            self._recovered = deque(maxlen=MAX_MISSED_RANGES)
        low = seq
        if self._recovered and self._recovered[-1][1] == seq:
            low, _ = self._recovered.pop()
        self._recovered.append((low, seq + count))

    def ticks(self, session: str, seq: int | None, count: int) -> SequenceCheck:
        """Judge `count` ticks of which the first has number `seq`."""
        if session == self.session and seq == self.next_seq:
            if seq is not None:
                self.next_seq = seq + count
            return PASS
        if self.is_left(session):
            self.old += count
            return SequenceCheck(skip=count, old=count, late_session=True)
        starts = self._enter(session, seq)
        if seq is None:
            return SequenceCheck(starts)
        missed = self._advance(seq)
        due = self.next_seq
        assert due is not None
        skip = min(due - seq, count)
        if skip <= 0:
            self.next_seq = seq + count
            return SequenceCheck(starts, missed)
        old = _within(self._missing, seq, seq + skip)
        overlaps = _within(self._recovered, seq, seq + skip)
        repeats = skip - old - overlaps
        self.next_seq = max(due, seq + count)
        self.old += old
        self.repeats += repeats
        return SequenceCheck(starts, missed, skip, repeats, old, False, overlaps)

    def heartbeat(self, session: str, next_seq: int) -> SequenceCheck:
        """Judge a heartbeat, which says that `next_seq` is the number due."""
        if self.is_left(session):
            return SequenceCheck(late_session=True)
        starts = self._enter(session, next_seq)
        return SequenceCheck(starts, self._advance(next_seq))

    def is_left(self, session: str) -> bool:
        """Return whether another session has replaced this one."""
        return self._left is not None and session in self._left

    def _enter(self, session: str, seq: int | None) -> bool:
        """Take up a session that is new; return whether it is."""
        if session == self.session:
            return False
        joined = self.session is None
        if not joined:
            self._leave()
        self.session = session
        self._missing = self._recovered = None
        self.next_seq = None
        if seq is not None:
            self.next_seq = seq if joined else self._first(session, seq)
            if joined and seq > 1:
                self._missing = deque([(1, seq)], MAX_MISSED_RANGES)
        return True

    def _first(self, session: str, seq: int) -> int:
        """Return the number at which a session begins whose first message has number `seq`."""
        if self._expected is None or self._expected[0] != session:
            return 1
        due = self._expected[1]
        return seq if due is None else due

    def _leave(self) -> None:
        # an empty id is no session: a feed that has none may come back to it
        if self.session:
            if self._left is None:
                self._left = deque(maxlen=MAX_LEFT_SESSIONS)
            self._left.append(self.session)

    def _advance(self, seq: int) -> int:
        """Move up to `seq`; return how many are missing before it."""
        if self.next_seq is None:
            self.next_seq = seq
        missed = max(seq - self.next_seq, 0)
        if missed:
            if self._missing is None:
                self._missing = deque(maxlen=MAX_MISSED_RANGES)
            self._missing.append((self.next_seq, seq))
            self.gaps += 1
            self.missed = min(self.missed + missed, MAX_COUNT)
            self.next_seq = seq
        return missed


def _within(ranges: deque[tuple[int, int]] | None, low: int, high: int) -> int:
    """Count the numbers in [low, high) that are in one of some ranges."""
    if ranges is None:
        return 0
    return sum(max(0, min(high, b) - max(low, a)) for a, b in ranges)


def without(ticks: Ticks, skip: int) -> Ticks:
    """Return a block of ticks but for its first `skip` rows."""
    assert ticks.seq is not None
    return Ticks(
        ticks.stream,
        ticks.t_ns[skip:],
        ticks.values[skip:],
        ticks.session,
        ticks.seq + skip,
        ticks.where,
    )


def not_new(ticks: Ticks, verdict: SequenceCheck, due: int | None) -> Refusal:
    """Return why rows of a block do not pass, number `due` being the next."""
    if verdict.late_session:
        reason = f"{verdict.skip} ticks of session {ticks.session!r}, which another has replaced"
    else:
        assert ticks.seq is not None
        last = ticks.seq + verdict.skip - 1
        reason = (
            f"sequence numbers {ticks.seq} to {last} are {verdict.repeats} repeats and "
            f"{verdict.old} that come too late, {due} being due; a publisher that starts to "
            "number afresh must send a new session id"
        )
    return Refusal(ticks.stream, "tick", reason, index=0, where=ticks.where)
