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
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from ..events import MAX_COUNT, Refusal, Ticks

MAX_MISSED_RANGES = 64
"""Gaps remembered to tell overtaken ticks from repeats; those of older gaps count as repeats."""

MAX_LEFT_SESSIONS = 4
"""Sessions remembered after they ended: late messages come from the last one or two."""


class Verdict(NamedTuple):
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


PASS = Verdict()


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

    def ticks(self, session: str, seq: int | None, count: int) -> Verdict:
        """Judge `count` ticks of which the first has number `seq`."""
        if session == self.session and seq == self.next_seq:
            if seq is not None:
                self.next_seq = seq + count
            return PASS
        if self.is_left(session):
            self.old += count
            return Verdict(skip=count, old=count, late_session=True)
        starts = self._enter(session, seq)
        if seq is None:
            return Verdict(starts)
        missed = self._advance(seq)
        due = self.next_seq
        assert due is not None
        skip = min(due - seq, count)
        if skip <= 0:
            self.next_seq = seq + count
            return Verdict(starts, missed)
        old = _within(self._missing, seq, seq + skip)
        overlaps = _within(self._recovered, seq, seq + skip)
        repeats = skip - old - overlaps
        self.next_seq = max(due, seq + count)
        self.old += old
        self.repeats += repeats
        return Verdict(starts, missed, skip, repeats, old, False, overlaps)

    def heartbeat(self, session: str, next_seq: int) -> Verdict:
        """Judge a heartbeat, which says that `next_seq` is the number due."""
        if self.is_left(session):
            return Verdict(late_session=True)
        starts = self._enter(session, next_seq)
        return Verdict(starts, self._advance(next_seq))

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


def not_new(ticks: Ticks, verdict: Verdict, due: int | None) -> Refusal:
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
