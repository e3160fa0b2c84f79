"""What a feed's messages claim, checked: sequence numbers, columns, and owners of streams.

**Sequence numbers.** Within a run of a publisher the next tick's number is known. A tick with
that number passes. One with a higher number passes too, after a gap. One with a lower number does
not pass: it is a repeat if it passed before, or old if it was counted as missing (another message
overtook it) or precedes our first message. Blocks are checked row by row, so the new rows of an
overlapping block pass.

A stream's first message may have any number, since we may have joined late. A later run starts at
1, and a higher first number is a gap. Runs that another run replaced stay retired: late messages
of one are old. Without sequence numbers everything passes. `resume` restores the position of an
earlier process; ticks missed in between are a gap.

If lost ticks can be requested, `missing_before` says in advance what a message would leave
missing. `add_recovered` notes ticks that came in reply to a request: if they also arrive the
usual way, they are overlaps, not repeats.

**Owners.** If a feed has several endpoints, the first one that sends ticks, a heartbeat or an end
of a stream owns that stream. The policy `takeover` decides about the messages of other endpoints:

- `when-gone`: they are refused while the owner is connected. Then the next endpoint that sends
  the stream owns it. A connected but silent owner is not gone.
- `never`: they are refused as long as this process runs.
- `always`: they are accepted. If one starts another run, its endpoint becomes the owner.

Labels have no owner: a separate process may send them, and the session checks each one. A refused
stand-by has numbered its ticks meanwhile, so for each stream the owner table stores the run of
such an endpoint and its next number: after a takeover, refused ticks do not count as lost.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, TypeAlias, get_args

import msgspec

from ..errors import DecodeCause
from ..events import MAX_COUNT, Refusal, Takeover, Ticks
from ..schema import TakeoverPolicy

MAX_RUNS = 1000
"""Refused runs in memory; a hostile publisher can announce any number of them."""

MAX_SHOWN = 1000
"""Characters of names in a reason: one reason is stored for every refused run."""


class ColumnCheck:
    """Compares the feed's columns, as heartbeats and welcomes name them, with ours.

    ours: our names, in order. `refused` maps run ids to the reason why their ticks must not
    be taken; `others` are names that differ from ours and were matched by position.
    """

    def __init__(self, ours: tuple[str, ...]) -> None:
        self.refused: dict[str, str] = {}
        self.others: tuple[str, ...] = ()
        self.ours = ours
        self._positions = {name: position for position, name in enumerate(ours)}

    def compare(self, run_id: str, theirs: tuple[str, ...]) -> bool:
        """Compare the columns of a run with ours; return whether the run is newly refused.

        Names may differ from ours, but a name of ours must not be in another position, and the
        number of columns must be the same.
        """
        ours = self.ours
        if not theirs:
            return False
        if theirs == ours or (
            len(theirs) == len(ours)
            and all(self._positions.get(name, k) == k for k, name in enumerate(theirs))
        ):
            self.refused.pop(run_id, None)
            if theirs != ours:
                self.others = theirs
            return False
        if run_id in self.refused:
            return False
        if len(self.refused) >= MAX_RUNS:
            self.refused.pop(next(iter(self.refused)))
        self.refused[run_id] = (
            f"the feed's columns are {_shown(theirs)}, and here they are {_shown(ours)}: "
            f"name them in the feed's order, --columns {_shown(theirs, ',')}"
        )
        return True


def _shown(names: Sequence[str], comma: str = ", ") -> str:
    """Return names as one line, cut if it is long."""
    text = comma.join(names)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}... ({len(names)} in all)"


Cause: TypeAlias = (
    DecodeCause | Literal["too_many_streams", "columns", "recovery", "not_owner", "session"]
)
"""Why a message is refused: `recovery` for a reply with lost ticks, `columns` for ticks with other
columns than ours, `not_owner` for a stream that belongs to another endpoint, and `session` for a
heartbeat that has another session than the ticks."""

CAUSES: tuple[Cause, ...] = (
    *get_args(DecodeCause),
    "too_many_streams",
    "columns",
    "recovery",
    "not_owner",
    "session",
)


class FeedCounters(msgspec.Struct):
    """Counts since the start.

    `ticks` passed; `repeats` and `old` are ticks that did not; `missed` ticks were in `gaps`
    gaps. `refused` messages could not be decoded, belonged to one stream too many, or came from
    an endpoint that does not own their stream (`not_owner` counts only these). `takeovers` counts
    changes of a stream's owner. `asked` requests for lost ticks were sent; `recovered` ticks came
    in reply and passed, `overlaps` arrived the usual way as well, and `gone` ticks were no longer
    available. `timeouts` requests had no reply in time, or the reply BUSY. `overfull` counts how
    often the queue of a stream that waits for lost ticks was full, so that it continued
    without them. `stale` counts how often the feed fell silent.
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
    """The owners of streams; endpoints are identified by their index.

    policy: `when-gone`, `never` or `always`. gone: whether the endpoint with an index has lost
    its connection, with no message left to read.

    The caller bounds the number of streams. Each stores one index, and one run and number for
    each endpoint that was refused.
    """

    def __init__(
        self, policy: TakeoverPolicy, endpoints: Sequence[str], gone: Callable[[int], bool]
    ) -> None:
        self.policy = policy
        self.endpoints = tuple(endpoints)
        self._gone = gone
        self._owner: dict[str, int] = {}
        self._refused: dict[str, dict[int, tuple[str, int | None]]] = {}
        self._refusals = 0

    def of(self, stream: str) -> int | None:
        """Return the index of a stream's owner, None if it has none."""
        return self._owner.get(stream)

    def protects(self, stream: str) -> bool:
        """Return whether a stream has an owner that other endpoints may not simply replace."""
        return self.policy != "always" and stream in self._owner

    def claim(self, stream: str, endpoint: int) -> None:
        """Make an endpoint the owner of a stream without one."""
        self._owner[stream] = endpoint

    def may_take(self, stream: str) -> bool:
        """Return whether an endpoint that does not own a stream may take it over now."""
        return self.policy == "when-gone" and self._gone(self._owner[stream])

    def take(self, stream: str, endpoint: int) -> Takeover:
        """Replace the owner of a stream; return the event."""
        before, self._owner[stream] = self._owner[stream], endpoint
        refused = self._refused.pop(stream, {})
        refused.pop(endpoint, None)
        if refused:
            self._refused[stream] = refused
        return Takeover(stream, self.endpoints[before], self.endpoints[endpoint])

    def refuse(self, stream: str, endpoint: int, run_id: str, next_seq: int | None) -> str:
        """Record that a message was refused; return the reason.

        next_seq: the number after the message, None without numbers.
        """
        self._refusals += 1
        self._refused.setdefault(stream, {})[endpoint] = run_id, next_seq
        owner, sender = self.endpoints[self._owner[stream]], self.endpoints[endpoint]
        if self.policy == "never":
            rule = "no other endpoint may send it before a restart"
        else:
            rule = "which is connected, and no other endpoint may send it until that one is gone"
        return (
            f"{sender} sent the stream {stream!r} of {owner}; {rule} (takeover = {self.policy!r})"
        )

    def position(self, stream: str, endpoint: int) -> tuple[str, int | None] | None:
        """Return (run id, next number) after the last message refused from an endpoint."""
        return self._refused.get(stream, {}).get(endpoint)

    def any_accepted(self, messages: int) -> bool:
        """Return whether one of the messages since the last call was not refused here.

        messages: their number.
        """
        refusals, self._refusals = self._refusals, 0
        return refusals < messages


MAX_MISSED_RANGES = 64
"""Gaps remembered to tell overtaken ticks from repeats; those of older gaps count as repeats."""

MAX_RETIRED_RUNS = 4
"""Runs remembered after they ended: late messages come from the last one or two."""


class SequenceCheck(NamedTuple):
    """What to do with a message.

    starts: it is the first of a run.
    missed: ticks lost before its first new row.
    skip: leading rows that must not pass: the sum of `repeats`, `old` and `overlaps` (rows that
    were requested before).
    retired_run: it belongs to a run that another one replaced; nothing of it counts.
    """

    starts: bool = False
    missed: int = 0
    skip: int = 0
    repeats: int = 0
    old: int = 0
    retired_run: bool = False
    overlaps: int = 0


PASS = SequenceCheck()


class StreamSequence:
    """The sequence numbers of one stream.

    `run_id` is None before the first message; `next_seq` is None without numbers. `gaps` and
    `missed` count gaps and the ticks in them; `repeats` and `old` count ticks that did not pass.
    """

    __slots__ = (
        "_expected",
        "_late",
        "_missing",
        "_recovered",
        "_retired",
        "_ticked",
        "_tickless",
        "gaps",
        "missed",
        "next_seq",
        "old",
        "repeats",
        "run_id",
    )

    def __init__(self) -> None:
        self.run_id: str | None = None
        self.next_seq: int | None = None
        self.gaps = self.missed = self.repeats = self.old = 0
        self._expected: tuple[str, int | None] | None = None
        self._retired: deque[str] | None = None
        self._missing: deque[tuple[int, int]] | None = None
        self._recovered: deque[tuple[int, int]] | None = None
        self._ticked = False  # whether ticks of the run have come
        self._tickless: str | None = None  # the run before it, if none of its ticks had come
        self._late = False  # whether the last heartbeat was of that run

    def resume(self, run_id: str, next_seq: int | None) -> None:
        """Continue where an earlier process stopped, with `next_seq` as the next number."""
        self.run_id = run_id
        self.next_seq = next_seq

    def expect(self, run_id: str, next_seq: int | None) -> None:
        """Let a run start at `next_seq` instead of 1, even if it is retired.

        next_seq: None accepts the first number that arrives.
        """
        self._expected = run_id, next_seq
        if self._retired is not None and run_id in self._retired:
            self._retired.remove(run_id)

    def is_retired(self, run_id: str) -> bool:
        """Return whether another run has replaced this one."""
        return self._retired is not None and run_id in self._retired

    def is_foreign(self, run_id: str) -> bool:
        """Return whether the heartbeats of a run cannot be of the same publisher as the ticks.

        One of the two has a session and the other has none, or this run never had a tick and
        another one has them. A first heartbeat of it may be late; the second is not.
        """
        if not self._ticked:
            return False
        if bool(run_id) != bool(self.run_id):
            return True
        late, self._late = self._late, run_id == self._tickless
        return late and self._late

    def is_new(self, run_id: str) -> bool:
        """Return whether a run is neither the present one nor retired."""
        return run_id != self.run_id and not self.is_retired(run_id)

    def missing_before(self, run_id: str, seq: int | None) -> tuple[int, int] | None:
        """Return the first and last number missing before `seq`; None if none is missing.

        Before a stream's first message these are all numbers from 1 on.
        """
        if seq is None or self.is_retired(run_id):
            return None
        due = self.next_seq if run_id == self.run_id else self._first(run_id, seq)
        return None if due is None or seq <= due else (due, seq - 1)

    def add_recovered(self, seq: int, count: int) -> None:
        """Note that `count` ticks from number `seq` on passed in reply to a request."""
        if self._recovered is None:
            self._recovered = deque(maxlen=MAX_MISSED_RANGES)
        low = seq
        if self._recovered and self._recovered[-1][1] == seq:
            low, _ = self._recovered.pop()
        self._recovered.append((low, seq + count))

    def ticks(self, run_id: str, seq: int | None, count: int) -> SequenceCheck:
        """Check `count` ticks, the first of which has number `seq`."""
        if run_id == self.run_id and seq == self.next_seq:
            if seq is not None:
                self.next_seq = seq + count
            self._ticked = True
            return PASS
        if self.is_retired(run_id):
            self.old += count
            return SequenceCheck(skip=count, old=count, retired_run=True)
        starts = self._enter(run_id, seq)
        self._ticked = True
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

    def heartbeat(self, run_id: str, next_seq: int) -> SequenceCheck:
        """Check a heartbeat, which announces `next_seq` as the next number."""
        if self.is_retired(run_id):
            return SequenceCheck(retired_run=True)
        starts = self._enter(run_id, next_seq)
        return SequenceCheck(starts, self._advance(next_seq))

    def _enter(self, run_id: str, seq: int | None) -> bool:
        """Switch to a run if it is new; return whether it is."""
        if run_id == self.run_id:
            return False
        joined = self.run_id is None
        self._tickless = None if self._ticked else self.run_id
        self._ticked = False
        if self.run_id:  # an empty id is not a run: a feed without ids may come back to it
            if self._retired is None:
                self._retired = deque(maxlen=MAX_RETIRED_RUNS)
            self._retired.append(self.run_id)
        self.run_id = run_id
        self._missing = self._recovered = None
        self.next_seq = None
        if seq is not None:
            self.next_seq = seq if joined else self._first(run_id, seq)
            if joined and seq > 1:
                self._missing = deque([(1, seq)], MAX_MISSED_RANGES)
        return True

    def _first(self, run_id: str, seq: int) -> int:
        """Return the first number of a run whose first message has number `seq`."""
        if self._expected is None or self._expected[0] != run_id:
            return 1
        due = self._expected[1]
        return seq if due is None else due

    def _advance(self, seq: int) -> int:
        """Move up to `seq`; return how many ticks are missing before it."""
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
    """Return a block of ticks without its first `skip` rows."""
    assert ticks.seq is not None
    return Ticks(
        ticks.stream,
        ticks.t_ns[skip:],
        ticks.values[skip:],
        ticks.session,
        ticks.seq + skip,
        ticks.where,
    )


def foreign(run_id: str, of_ticks: str | None) -> str:
    """Return why a heartbeat is refused; see `StreamSequence.is_foreign`."""
    return (
        f"a heartbeat of session {run_id!r}, and the ticks of the stream are of session "
        f"{of_ticks!r}: send the same session in both"
    )


def not_new(ticks: Ticks, check: SequenceCheck, due: int | None) -> Refusal:
    """Return the refusal of a block's rows that do not pass; `due` is the next number."""
    if check.retired_run:
        reason = (
            f"{check.skip} ticks of session {ticks.session!r}, which another has replaced; if the "
            "publisher has not restarted, its heartbeats have another session than its ticks"
        )
    else:
        assert ticks.seq is not None
        last = ticks.seq + check.skip - 1
        reason = (
            f"sequence numbers {ticks.seq} to {last} are {check.repeats} repeats and {check.old} "
            f"that arrive too late; the next is {due}; a publisher that restarts its numbers must "
            "send a new session id"
        )
    return Refusal(ticks.stream, "tick", reason, index=0, where=ticks.where)
