"""Messages become events in order: decoding, sequence numbers and the recovery of what is missing.

Nothing here knows a socket or a clock. What cannot be read and what must not pass becomes a
`Refusal` that says why; every case is counted. The order of the events is the order of arrival,
with a `SessionStart` and then a `Gap` before the ticks that showed them. An `End` comes once for a
session of a stream.

Where lost ticks can be asked for (see `recovery`), a message that shows that some are missing is
held instead of leaving a gap behind, and so is what comes of its stream after it.

Nearly every message is the one tick that is due of a stream that is known. It takes a short way
here (`take_next`), which does what the long one would; whatever it does not recognise goes the
long way. A stream that recovers has no short way.

Where a feed has several endpoints, `turn_to` says which one the next messages come from. What an
endpoint sends of a stream of another one meets the policy of `owners`, before it can be held or
change anything. Each endpoint has its own short ways, and its own record of sessions with other
columns, so that none can speak for the session of another.

The events of what was waiting in a socket, in order of arrival.

Ticks of one stream that continue each other become one `Ticks`, so that a backlog is worked off in
blocks; up to `SHORT` single ones become a `Run`, which needs no array. Within a stream nothing is
moved past anything else: the session sees what a slower sender would have sent. What continues a
block may have had other streams between; it is then placed where the block begins, ahead of them.
That is allowed where streams do not act on each other (`apart`), and not where they learn with
weights that they share. A message that could not be read belongs to no stream, and keeps its place
among all of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import numpy as np

from ..errors import ConfigurationError, DecodeError
from ..events import MAX_COUNT, End, Gap, Input, Label, Refusal, Run, SessionStart, Takeover, Ticks
from ..schema import FeedConfig
from .foreign import ForeignDecoder, advice
from .records import (
    MAX_BLOCK_ROWS,
    MAX_PAYLOAD_BYTES,
    Block,
    Busy,
    Gone,
    Heartbeat,
    SnapshotReply,
    Welcome,
    check_name,
    make_topic,
    parse_topic,
)
from .recovery import FeedRecovery, MissingRange
from .sequence import (
    Cause,
    Columns,
    FeedCounters,
    Owners,
    SequenceCheck,
    StreamSequence,
    not_new,
    without,
)
from .wire import (
    Message,
    MessageDecoder,
    OneTickDecoder,
    check_session,
    decode_reply,
    raw_rows,
)

Received: TypeAlias = Input | Refusal | Takeover

SHORT = 64
"""Ticks of a run at most: more of them are faster as arrays."""


class _Open(Run):
    """A run that may grow, by blocks too; `due` is the number that would be next.

    Single ticks are kept as Python numbers until they are many: one array for all of them takes
    a tenth of the time of one array each.
    """

    __slots__ = ("count", "due", "parts")

    def __init__(self, stream: str, session: str, seq: int | None, where: str) -> None:
        super().__init__(stream, session, seq, where)
        self.due, self.count = seq, 0
        self.parts: list[Ticks] = []

    def add(self, ticks: Ticks) -> None:
        self._gather()
        self.parts.append(ticks)
        self.count += len(ticks.t_ns)
        if self.due is not None:
            self.due += len(ticks.t_ns)

    def _gather(self) -> None:
        """Make one block of the single ticks that came last."""
        if self.times:
            self.parts.append(self.block())
            self.times, self.rows = [], []

    def whole(self) -> Ticks | Run:
        """Return all of them."""
        if not self.parts and self.count <= SHORT:
            return self
        self._gather()
        if len(self.parts) == 1:
            return self.parts[0]
        t_ns = np.concatenate([ticks.t_ns for ticks in self.parts])
        values = np.concatenate([ticks.values for ticks in self.parts])
        return Ticks(self.stream, t_ns, values, self.session, self.seq, self.where)


class Drain:
    """The events of one `receive`, in order; ticks that continue each other become one.

    apart: streams do not act on each other, so that only the order within each one counts.
    `size` is for the caller: the bytes that came.
    """

    def __init__(self, *, apart: bool = False) -> None:
        self.size = 0
        self._apart = apart
        self._events: list[Received] = []
        self._open: dict[str, _Open] = {}

    @property
    def empty(self) -> bool:
        """Whether there is no event yet."""
        return not self._events

    def add_ticks(self, ticks: Ticks) -> None:
        """Append ticks, to the block that they continue if there is one."""
        run = self._open.get(ticks.stream)
        if (
            run is None
            or ticks.seq != run.due
            or ticks.session != run.session
            or run.count + len(ticks.t_ns) > MAX_BLOCK_ROWS
        ):
            run = self._begin(ticks.stream, ticks.session, ticks.seq, ticks.where)
        run.add(ticks)

    def add_one(
        self,
        stream: str,
        session: str,
        seq: int | None,
        where: str,
        t_ns: int,
        values: Sequence[float | None],
    ) -> None:
        """Append one tick that is not an array yet; None among `values` is NaN."""
        run = self._open.get(stream)
        if run is None or seq != run.due or session != run.session or run.count >= MAX_BLOCK_ROWS:
            run = self._begin(stream, session, seq, where)
        run.times.append(t_ns)
        run.rows.append(values)
        run.count += 1
        if seq is not None:
            run.due = seq + 1

    def _begin(self, stream: str, session: str, seq: int | None, where: str) -> _Open:
        """Return a new run, which ends the one before it."""
        run = _Open(stream, session, seq, where)
        self._close(stream)
        self._open[stream] = run
        self._events.append(run)
        return run

    def add(self, event: Received) -> None:
        """Append an event that is not ticks."""
        self._close(event.stream)
        self._events.append(event)

    def _close(self, stream: str) -> None:
        """Let nothing pass what comes now: of this stream, or of any where that counts."""
        if self._apart and stream:
            self._open.pop(stream, None)
        else:
            self._open.clear()

    def finish(self) -> list[Received]:
        """Return the events."""
        return [event.whole() if isinstance(event, _Open) else event for event in self._events]


MAX_DRAIN_BYTES = 2 * MAX_PAYLOAD_BYTES
"""No more messages are taken once this much has come: bounds memory where they are blocks."""

HELD_KINDS = ("tick", "label", "heartbeat")
"""What a stream that recovers holds; the rest of its topics is of no interest here."""


class _Route:
    """A topic of ticks whose stream is known; `single` while its messages are of one tick."""

    __slots__ = ("sequence", "single", "stream", "where")

    def __init__(self, stream: str, where: str, sequence: StreamSequence) -> None:
        self.stream, self.where, self.sequence = stream, where, sequence
        self.single = True


class _Door(NamedTuple):
    """What is known of one endpoint: its columns, and its topics that take the short way."""

    names: Columns
    routes: dict[bytes, _Route]


class Intake:
    """Takes the messages of a feed, and the answers to what is asked for.

    config: streams, columns and kind of payload. `recovery` is what lost ticks are asked with,
    None where no endpoint for it is configured. `first_refused` has the first reason of each
    cause. `max_streams` is the configured one, and may be set: each stream holds some 700 bytes
    here and a carry in the session, and a topic is easily forged. owners: of the streams of a feed
    with several endpoints, else None.

    Raises ConfigurationError for a feed without columns, and for recovery of one without records.
    """

    def __init__(self, config: FeedConfig, owners: Owners | None = None) -> None:
        if config.recovery and config.payload != "record":
            raise ConfigurationError(
                f"recovery asks by sequence numbers, which payload = {config.payload!r} has not: "
                "leave recovery out",
                key="recovery",
            )
        self.counters = FeedCounters()
        self.refused: Counter[Cause] = Counter()
        self.first_refused: dict[Cause, str] = {}
        self._config = config
        self.max_streams = config.max_streams
        self.recovery: FeedRecovery | None = None
        if config.recovery:
            self.recovery = FeedRecovery(self.counters, len(config.recovery))
        self.one_tick = OneTickDecoder(config.columns)
        self._records = MessageDecoder(config.columns)
        self._foreign = None if config.payload == "record" else ForeignDecoder(config)
        self._wanted = frozenset(config.streams)
        self._columns = config.columns
        self._streams: dict[str, StreamSequence] = {}
        self._unheard: set[str] = set()  # streams resumed, of which the feed has sent nothing yet
        self._ended: dict[str, str] = {}
        self.owners = owners
        places = 1 if owners is None else len(owners.endpoints)
        self._doors = [_Door(Columns(config.columns), {}) for _ in range(places)]
        # What a recovery endpoint says about a session counts for its own answers alone.
        self._asked = Columns(config.columns)
        self._place = 0
        self._names, self._routes = self._doors[0]

    @property
    def names(self) -> Columns:
        """What is known of the feed's columns: of the first endpoint that calls them otherwise."""
        return next(
            (door.names for door in self._doors if door.names.others), self._doors[0].names
        )

    def turn_to(self, place: int) -> None:
        """Take the next messages as those of the endpoint at `place`."""
        self._place = place
        self._names, self._routes = self._doors[place]

    def resume(self, stream: str, session: str, next_seq: int | None) -> None:
        """Go on where an earlier process stopped; see `Subscriber.resume`."""
        state = self._state(stream)
        if state is None:
            raise ConfigurationError(
                f"more than {self.max_streams} streams to resume", key="max_streams"
            )
        state.resume(session, next_seq)
        self._unheard.add(stream)

    # ---- messages as they come -----------------------------------------------------------

    def take_next(self, topic: bytes, payload: bytes, drain: Drain) -> bool:
        """Take the one tick that is due of a known stream; return whether it was that."""
        route = self._routes.get(topic)
        if route is None or not route.single:
            return False
        tick = self.one_tick.decode(payload)
        if tick is None:
            route.single = False
            return False
        t_ns, values, session, seq = tick
        sequence = route.sequence
        if seq != sequence.next_seq or session != sequence.session:
            return False
        if seq is not None:
            sequence.next_seq = seq + 1
        counters = self.counters
        counters.messages += 1
        counters.ticks += 1
        drain.add_one(route.stream, session, seq, route.where, t_ns, values)
        return True

    def take(self, frames: list[bytes], drain: Drain) -> None:
        """Take any message."""
        self.counters.messages += 1
        recovery = self.recovery
        if recovery is not None and recovery.streams:
            stretch = self._stretch(recovery, frames)
            if stretch is not None:
                if self._may_wait(frames, drain):
                    recovery.hold(stretch, frames)
                return
        self._take(frames, drain, None)

    def _stretch(self, recovery: FeedRecovery, frames: list[bytes]) -> MissingRange | None:
        """Return what a message has to wait for."""
        try:
            topic = parse_topic(frames[0])
        except DecodeError:
            return None
        return recovery.streams.get(topic.stream) if topic.kind in HELD_KINDS else None

    def _take(self, frames: list[bytes], drain: Drain, held: MissingRange | None) -> None:
        """Take a message, which has been held for what was missing before it, or not."""
        try:
            message = self.decode(frames)
        except DecodeError as error:
            told = f"{error}; {advice(self._config, frames)}"
            self._refuse(drain, error.cause, "", told, _shown(frames))
            return
        match message:
            case Ticks() if why := self._names.refused.get(message.session):
                self._refuse(drain, "columns", message.stream, why, message.where)
            case Ticks():
                if held is None and not self._is_owned(message, drain):
                    return
                if self._ticks(message, drain, frames, held) and held is None:
                    self._learn_route(frames, message)
            case Label():
                self.counters.labels += 1
                drain.add(message)
            case Heartbeat():
                self._compare(message)
                if held is None and not self._is_owned(message, drain):
                    return
                if message.session not in self._names.refused:
                    self._heartbeat(message, drain, frames, held)
                elif message.end:
                    self._end(message, drain)

    # ---- whose streams they are ----------------------------------------------------------

    def _may_wait(self, frames: list[bytes], drain: Drain) -> bool:
        """Return whether a message may be held for the lost ticks of its stream."""
        if self.owners is None:
            return True
        try:
            message = self.decode(frames)
        except DecodeError:
            return True  # it is refused when it is let go
        return not isinstance(message, Ticks | Heartbeat) or self._is_owned(message, drain)

    def _is_owned(self, message: Ticks | Heartbeat, drain: Drain) -> bool:
        """Return whether the present endpoint may send a message; refuse it if not."""
        owners, stream, session = self.owners, message.stream, message.session
        if owners is None:
            return True
        owner, misfit = owners.of(stream), session in self._names.refused
        if owner == self._place:
            return True
        if owner is None:
            if not misfit and (stream in self._streams or len(self._streams) < self.max_streams):
                owners.claim(stream, self._place)
            return True
        state = self._streams.get(stream)
        if owners.policy == "always":
            if not misfit and state is not None and state.is_new(session):
                self._take_over(stream, owner, drain)
            return True
        if not misfit and owners.may_take(stream):
            if state is not None and session != state.session:
                self._go_on(state, session, owners.reached(stream, self._place))
            self._take_over(stream, owner, drain)
            return True
        due = message.seq
        if isinstance(message, Ticks) and due is not None:
            due += len(message.t_ns)
        reason = owners.refuse(stream, self._place, session, due)
        self.counters.not_owner += 1
        self._refuse(drain, "not_owner", stream, reason, "")
        return False

    def _go_on(
        self, state: StreamSequence, session: str, reached: tuple[str, int | None] | None
    ) -> None:
        """Let the session of a new owner begin where its refused messages ended.

        One that had been left begins where it comes, and any other at its first number.
        """
        if reached is not None and reached[0] == session:
            state.expect(session, reached[1])
        elif state.is_left(session):
            state.expect(session, None)

    def _take_over(self, stream: str, owner: int, drain: Drain) -> None:
        """Make the present endpoint the owner of a stream, and report it."""
        assert self.owners is not None
        self.counters.takeovers += 1
        self._doors[owner].routes.pop(make_topic("tick", stream), None)
        drain.add(self.owners.take(stream, self._place))

    # ---- what they say -------------------------------------------------------------------

    def _learn_route(self, frames: list[bytes], ticks: Ticks) -> None:
        """Let the next tick of this topic take the short way, if this could have."""
        if self._foreign is not None:
            return
        route = self._routes.get(frames[0])
        if route is None:
            sequence = self._streams[ticks.stream]
            route = self._routes[frames[0]] = _Route(ticks.stream, ticks.where, sequence)
        route.single = len(ticks.t_ns) == 1

    def decode(self, frames: list[bytes]) -> Message | None:
        """Return what a message says, None for one of no interest; raises DecodeError."""
        if self._foreign is not None:
            return self._foreign.decode(frames)
        if len(frames) != 2:
            raise DecodeError(
                f"{len(frames)} frame{'s' if len(frames) > 1 else ''}, where topic and payload "
                "belong",
                cause="frames",
            )
        if self._wanted and parse_topic(frames[0]).stream not in self._wanted:
            return None
        return self._records.decode(frames[0], frames[1])

    def _compare(self, told: Heartbeat) -> None:
        """Take no more of a session whose columns are not ours.

        Raises ConfigurationError where some of the session was taken from this endpoint, having
        come before any heartbeat.
        """
        if self._names.compare(told.session, told.columns):
            if any(
                state.session == told.session
                for stream, state in self._streams.items()
                if self.owners is None or self.owners.of(stream) == self._place
            ):
                why = self._names.refused[told.session]
                raise ConfigurationError(
                    f"{why}, and a new file for --store: ticks were taken already", key="columns"
                )
            self._routes.clear()

    def _refuse(self, drain: Drain, cause: Cause, stream: str, reason: str, where: str) -> None:
        self.counters.refused += 1
        self.refused[cause] += 1
        self.first_refused.setdefault(cause, reason)
        drain.add(Refusal(stream, "message", reason, where=where))

    def _state(self, stream: str) -> StreamSequence | None:
        """Return the stream's sequence, None if it is a stream too many."""
        state = self._streams.get(stream)
        if state is None and len(self._streams) < self.max_streams:
            state = self._streams[stream] = StreamSequence()
            self.counters.streams += 1
        return state

    def _ticks(
        self, ticks: Ticks, drain: Drain, frames: list[bytes], held: MissingRange | None
    ) -> bool:
        """Take ticks; return whether they may pass, and do not have to wait."""
        state = self._state(ticks.stream)
        if state is None:
            self._too_many(drain, ticks.stream)
            return False
        self._unheard.discard(ticks.stream)
        if self._waits(state, ticks.stream, ticks.session, ticks.seq, frames, held):
            return False
        self._pass(state, ticks, drain)
        return True

    def _pass(self, state: StreamSequence, ticks: Ticks, drain: Drain) -> None:
        count = len(ticks.t_ns)
        due = state.next_seq
        verdict = state.ticks(ticks.session, ticks.seq, count)
        self._judge(ticks.stream, ticks.session, ticks.seq or 0, verdict, drain)
        self.counters.ticks += count - verdict.skip
        if verdict.skip:
            if verdict.skip > verdict.overlaps:
                drain.add(not_new(ticks, verdict, due))
            if verdict.skip == count:
                return
            ticks = without(ticks, verdict.skip)
        drain.add_ticks(ticks)

    def _heartbeat(
        self,
        beat: Heartbeat,
        drain: Drain,
        item: list[bytes] | Heartbeat,
        held: MissingRange | None,
    ) -> None:
        state = self._state(beat.stream)
        if state is None:
            if not beat.announces:
                self._too_many(drain, beat.stream)
            return
        self._unheard.discard(beat.stream)
        if self._waits(state, beat.stream, beat.session, beat.seq, item, held):
            return
        self.counters.heartbeats += item is not beat and not beat.announces
        verdict = state.heartbeat(beat.session, beat.seq)
        self._judge(beat.stream, beat.session, beat.seq, verdict, drain)
        if beat.end and not verdict.late_session:
            self._end(beat, drain)

    def _end(self, beat: Heartbeat, drain: Drain) -> None:
        known = beat.stream in self._streams or beat.stream in self._ended
        if not known and len(self._ended) >= self.max_streams:
            return
        if self._ended.get(beat.stream) != beat.session:
            self._ended[beat.stream] = beat.session
            drain.add(End(beat.stream, beat.session))

    def _too_many(self, drain: Drain, stream: str) -> None:
        reason = f"more than {self.max_streams} streams; name those wanted"
        self._refuse(drain, "too_many_streams", stream, reason, "")

    def _judge(
        self, stream: str, session: str, seq: int, verdict: SequenceCheck, drain: Drain
    ) -> None:
        """Count what a verdict says, and put it in the row of events."""
        if verdict.starts:
            self.counters.sessions += 1
            self._ended.pop(stream, None)
            drain.add(SessionStart(stream, session))
        if verdict.missed:
            self.counters.gaps += 1
            self.counters.missed = min(self.counters.missed + verdict.missed, MAX_COUNT)
            drain.add(Gap(stream, seq, verdict.missed))
        self.counters.repeats += verdict.repeats
        self.counters.overlaps += verdict.overlaps
        self.counters.old += verdict.old

    # ---- what is missing -----------------------------------------------------------------

    def _waits(
        self,
        state: StreamSequence,
        stream: str,
        session: str,
        seq: int | None,
        item: list[bytes] | Heartbeat,
        held: MissingRange | None,
    ) -> bool:
        """Return whether a message is held, since something before number `seq` is asked for."""
        if self.recovery is None:
            return False
        missing = state.lacks(session, seq)
        if missing is None:
            return False
        first, last = missing
        if held is not None and held.session == session and last <= held.last:
            return False  # this has been asked for, to no avail
        joining = state.session is None
        stretch = self.recovery.begin(stream, session, first, last, joining=joining)
        if held is None:
            self.recovery.hold(stretch, item)
        else:
            self.recovery.take_back(stretch, item)
        for door in self._doors:
            door.routes.pop(make_topic("tick", stream), None)
        return True

    def answer(self, endpoint: int, payload: bytes, drain: Drain, now: float) -> None:
        """Take a reply of a recovery endpoint; `now` is the time that `Recovery.turn` is told."""
        recovery = self.recovery
        assert recovery is not None
        try:
            reply = decode_reply(payload)
        except DecodeError as error:
            recovery.nonsense(endpoint, now)
            self._refuse(drain, "recovery", "", str(error), "")
            return
        recovery.heard(endpoint, now)
        match reply:
            case Welcome():
                self._asked.compare(reply.session, reply.columns)
                recovery.welcome(endpoint, reply)
            case SnapshotReply():
                recovery.snapshot(endpoint, reply.session)
                self._snapshot(reply, drain)
            case Block():
                self._block(recovery, endpoint, reply, drain, now)
            case Gone():
                recovery.gone(endpoint, reply, now)
            case Busy():
                recovery.busy(endpoint, reply, now)

    def _block(
        self, recovery: FeedRecovery, endpoint: int, block: Block, drain: Drain, now: float
    ) -> None:
        stretch = recovery.asked_for(block.stream, block.session)
        if stretch is None or block.session in self._asked.refused:
            return  # it was given up, had come from elsewhere, or is not to be taken
        due, last = stretch.due, stretch.last
        start, stop = due - block.seq, min(block.rows, last + 1 - block.seq)
        if start < 0 or start >= stop:
            return
        where = f"tick/{block.stream}/"
        try:
            values = raw_rows(block.values, len(self._columns), block.rows)[start:stop]
        except ValueError as error:
            recovery.nonsense(endpoint, now)
            self._refuse(drain, "recovery", block.stream, f"a block to recover: {error}", where)
            return
        t_ns = np.frombuffer(block.t_ns, "<i8")[start:stop]
        drain.size += len(block.values)
        state = self._streams[block.stream]
        self._pass(state, Ticks(block.stream, t_ns, values, block.session, due, where), drain)
        state.recovered(due, stop - start)
        recovery.advance(endpoint, stretch, due + stop - start, now)

    def _snapshot(self, snapshot: SnapshotReply, drain: Drain) -> None:
        """Ask for what a snapshot shows to be missing, as a heartbeat would have shown it.

        Nothing says which of several feed endpoints a recovery endpoint belongs to, so of a stream
        that has an owner only the owner's own messages show what is missing.
        """
        assert self.recovery is not None
        for stream, (oldest, due) in snapshot.streams.items():
            if self._wanted and stream not in self._wanted:
                continue
            if self.owners is not None and self.owners.guards(stream):
                continue
            try:
                beat = Heartbeat(check_name(stream), due, check_session(snapshot.session))
            except ValueError as error:
                self._refuse(drain, "recovery", "", f"a snapshot: {error}", "")
                return
            state = self._streams.get(stream)
            other = state is not None and state.session not in (None, snapshot.session)
            if other and stream not in self._unheard:
                continue  # the feed has said which session the stream is in
            known = state is not None
            if stream in self.recovery.streams or not (known or oldest < due):
                continue
            self._heartbeat(beat, drain, beat, None)
            self.recovery.begin_at(stream, oldest)

    def release(self, drain: Drain, most: int) -> int:
        """Let go up to `most` messages that need not wait any more; return how many."""
        assert self.recovery is not None
        place = self._place
        count = self._release(self.recovery, drain, most)
        self.turn_to(place)
        return count

    def _release(self, recovery: FeedRecovery, drain: Drain, most: int) -> int:
        count = 0
        for stretch in list(recovery.finished.values()):
            # What is held has passed for its owner's, whichever endpoint is read just now.
            owner = self.owners and self.owners.of(stretch.stream)
            self.turn_to(owner or 0)
            while stretch.over and stretch.held:
                if count >= most or drain.size >= MAX_DRAIN_BYTES:
                    return count
                item = recovery.let_go(stretch)
                count += 1
                if isinstance(item, Heartbeat):
                    self._heartbeat(item, drain, item, stretch)
                else:
                    drain.size += len(item[-1])
                    self._take(item, drain, stretch)
            if stretch.over:
                recovery.forget(stretch)
        return count


def _shown(frames: list[bytes]) -> str:
    return repr(frames[0][:80]) if len(frames) > 1 else ""
