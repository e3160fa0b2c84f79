"""Messages become events in order: decoding, sequence numbers, owners and recovery.

Nothing here has a socket or a clock. A message that cannot be decoded or must not pass becomes a
`Refusal` with the reason; every case is counted. Events are in the order of arrival, with a
`SessionStart` and then a `Gap` before the ticks that showed them. Each run of a stream has one
`End`.

If lost ticks can be requested (see `recovery`), a message that shows that some are missing is
queued instead of leaving a gap, and so are the later messages of its stream.

Nearly every message is the next single tick of a known stream. `take_next` handles it quickly with
the same result as the general path, which `take` uses for everything else. A stream in recovery
always takes the general path.

If a feed has several endpoints, `select_endpoint` says which one sends the next messages. What an
endpoint sends of another one's stream meets the policy of `Owners` before it can be queued or
change anything. Each endpoint has its own table of fast topics and its own list of runs with other
columns, so none can speak for the run of another.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Container

import numpy as np

from ..errors import ConfigurationError, DecodeError
from ..events import (
    MAX_COUNT,
    NO_TIME,
    End,
    Gap,
    Label,
    Refusal,
    SessionStart,
    Ticks,
)
from ..reasons import Reasons
from ..schema import FeedConfig
from .declared import JUDGED, Adviser, DeclaredFeed, EventBatch, Part
from .protocol import (
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
from .recovery import FeedRecovery, MissingRange, QueuedMessage
from .sequence import (
    Cause,
    ColumnCheck,
    FeedCounters,
    Owners,
    SequenceCheck,
    StreamSequence,
    foreign,
    not_new,
    without,
)
from .wire import (
    Message,
    MessageDecoder,
    OneTickDecoder,
    check_run_id,
    decode_reply,
    raw_rows,
)

MAX_BATCH_BYTES = 2 * MAX_PAYLOAD_BYTES
"""No more messages are taken after so many bytes: bounds memory if messages are blocks."""

QUEUED_KINDS = ("tick", "label", "heartbeat")
"""Topics that are queued while their stream is in recovery; the others are ignored anyway."""


class _FastTopic:
    """A tick topic whose stream is known; `single` while its messages are of one tick."""

    __slots__ = ("sequence", "single", "stream", "where")

    def __init__(self, stream: str, where: str, sequence: StreamSequence) -> None:
        self.stream, self.where, self.sequence = stream, where, sequence
        self.single = True


class _Endpoint:
    """What is known of one endpoint: its columns, and its topics for `take_next`."""

    def __init__(self, columns: tuple[str, ...]) -> None:
        self.columns = ColumnCheck(columns)
        self.fast_topics: dict[bytes, _FastTopic] = {}


class Intake:
    """Takes the messages of a feed, and the replies to recovery requests.

    config: streams, columns and kind of payload. owners: of the streams, for a feed with several
    endpoints. optional: columns that a message may omit.

    `recovery` is None without a recovery endpoint, and `declared` for a feed of records. `say`
    receives a line when the form of a feed is found. `reasons` has the reasons of the refusals.
    `max_streams` may be set while running: each stream takes some 700 bytes here and a carry in
    the session, and a topic is easily forged.

    `heard` gathers the streams that sent a heartbeat until somebody empties it.

    Raises ConfigurationError for a feed without columns, and for recovery without records.
    """

    def __init__(
        self, config: FeedConfig, owners: Owners | None = None, optional: Container[str] = ()
    ) -> None:
        declared = config.payload != "record"
        if config.recovery and declared:
            raise ConfigurationError(
                "recovery needs sequence numbers, which a feed with payload = "
                f"{config.payload!r} does not have: remove recovery",
                key="recovery",
            )
        self.counters = FeedCounters()
        self.heard: set[str] = set()
        self.refused: Counter[Cause] = Counter()
        self.reasons = Reasons()
        self.max_streams = config.max_streams
        self.recovery: FeedRecovery | None = None
        if config.recovery:
            self.recovery = FeedRecovery(self.counters, len(config.recovery))
        self.one_tick = OneTickDecoder(config.columns, optional)
        self.owners = owners
        self._config = config
        self._records = MessageDecoder(config.columns, optional)
        self.declared = DeclaredFeed(config, optional) if declared else None
        self.say: Callable[[str], object] = lambda _: None
        self._adviser = Adviser(config)
        self._wanted = frozenset(config.streams)
        self._streams: dict[str, StreamSequence] = {}
        self._resumed: set[str] = set()  # streams of which the feed has sent nothing yet
        self._ended: dict[str, str] = {}
        count = 1 if owners is None else len(owners.endpoints)
        self._endpoints = [_Endpoint(config.columns) for _ in range(count)]
        # What a recovery endpoint says about a run only concerns its own replies.
        self._recovery_columns = ColumnCheck(config.columns)
        self.select_endpoint(0)

    @property
    def columns(self) -> ColumnCheck:
        """The column check of the first endpoint with other names, or of the first endpoint."""
        checks = [endpoint.columns for endpoint in self._endpoints]
        return next((check for check in checks if check.others), checks[0])

    def select_endpoint(self, index: int) -> None:
        """Treat the next messages as sent by the endpoint with this index."""
        self._index = index
        self._columns = self._endpoints[index].columns
        self._fast_topics = self._endpoints[index].fast_topics

    def resume(self, stream: str, run_id: str, next_seq: int | None) -> None:
        """Continue where an earlier process stopped; see `Subscriber.resume`."""
        state = self._state(stream)
        if state is None:
            raise ConfigurationError(
                f"more than {self.max_streams} streams to resume", key="max_streams"
            )
        state.resume(run_id, next_seq)
        self._resumed.add(stream)

    # ---- messages ------------------------------------------------------------------------

    def take_next(self, topic: bytes, payload: bytes, batch: EventBatch) -> bool:
        """Take the next single tick of a known stream; return whether it was that."""
        fast = self._fast_topics.get(topic)
        if fast is None or not fast.single:
            return False
        tick = self.one_tick.decode(payload)
        if tick is None:
            fast.single = False
            return False
        t_ns, values, run_id, seq = tick
        sequence = fast.sequence
        if seq != sequence.next_seq or run_id != sequence.run_id:
            return False
        if seq is not None:
            sequence.next_seq = seq + 1
        counters = self.counters
        counters.messages += 1
        counters.ticks += 1
        batch.add_one(fast.stream, run_id, seq, fast.where, t_ns, values)
        return True

    def take(self, frames: list[bytes], batch: EventBatch) -> None:
        """Take any message."""
        self.counters.messages += 1
        recovery = self.recovery
        if recovery is not None and recovery.streams:
            missing = self._missing_range(recovery, frames)
            if missing is not None:
                if self._may_queue(frames, batch):
                    recovery.enqueue(missing, frames)
                return
        self._take(frames, batch, None)

    def _missing_range(self, recovery: FeedRecovery, frames: list[bytes]) -> MissingRange | None:
        """Return the missing ticks that a message has to wait for."""
        try:
            topic = parse_topic(frames[0])
        except DecodeError:
            return None
        return recovery.streams.get(topic.stream) if topic.kind in QUEUED_KINDS else None

    def _take(self, frames: list[bytes], batch: EventBatch, waited: MissingRange | None) -> None:
        """Take a message; `waited`: the range that it was queued behind."""
        if self.declared is not None:
            if self.declared.kept is None:
                self._take_declared(self.declared, frames, batch)
            else:
                self._keep(self.declared, frames, batch)
            return
        try:
            message = self.decode(frames)
        except DecodeError as error:
            self._refuse_bytes(batch, error, frames)
            return
        match message:
            case Ticks() if why := self._columns.refused.get(message.session):
                self._refuse(batch, "columns", message.stream, why, message.where)
            case Ticks():
                if waited is None and not self._is_owned(message, message.session, batch):
                    return
                if self._ticks(message, batch, frames, waited) and waited is None:
                    self._add_fast_topic(frames[0], message)
            case Label():
                self.counters.labels += 1
                batch.add(message)
            case Heartbeat():
                self._compare_columns(message)
                if waited is None and not self._is_owned(message, message.run_id, batch):
                    return
                if message.run_id not in self._columns.refused:
                    self._heartbeat(message, batch, frames, waited)
                elif message.end:
                    self._end(message, batch)

    def decode(self, frames: list[bytes]) -> Message | None:
        """Return a decoded message, None for an unwanted stream; raises DecodeError."""
        if len(frames) != 2:
            raise DecodeError(
                f"{len(frames)} frame{'s' if len(frames) > 1 else ''}; expected topic and payload",
                cause="frames",
            )
        if self._wanted and parse_topic(frames[0]).stream not in self._wanted:
            return None
        return self._records.decode(frames[0], frames[1])

    def _add_fast_topic(self, topic: bytes, ticks: Ticks) -> None:
        """Let `take_next` handle this topic if its messages are single ticks."""
        fast = self._fast_topics.get(topic)
        if fast is None:
            sequence = self._streams[ticks.stream]
            fast = self._fast_topics[topic] = _FastTopic(ticks.stream, ticks.where, sequence)
        fast.single = len(ticks.t_ns) == 1

    # ---- feeds of any form ---------------------------------------------------------------

    @property
    def undecided(self) -> bool:
        """Whether messages are kept until the form of the feed is found."""
        return self.declared is not None and bool(self.declared.kept)

    def _keep(self, feed: DeclaredFeed, frames: list[bytes], batch: EventBatch) -> None:
        assert feed.kept is not None
        feed.kept.append((self._index, frames))
        if len(feed.kept) >= JUDGED:
            self.decide(batch)

    def decide(self, batch: EventBatch) -> None:
        """Find the form of the feed from the kept messages, and take them."""
        assert self.declared is not None
        index = self._index
        line, kept = self.declared.choose()
        self.say(line)
        for sender, frames in kept:
            self.select_endpoint(sender)
            self._take_declared(self.declared, frames, batch)
        self.select_endpoint(index)

    def _take_declared(self, feed: DeclaredFeed, frames: list[bytes], batch: EventBatch) -> None:
        try:
            for part in feed.decode(frames, self._index):
                self._part(part, batch)
        except DecodeError as error:
            self._refuse_bytes(batch, error, frames)

    def _part(self, part: Part, batch: EventBatch) -> None:
        """Take rows of one stream."""
        state = self._state(part.stream)
        if state is None:
            self._too_many(batch, part.stream)
            return
        run_id = state.run_id or ""
        if part.starts:
            run_id = _next_run(run_id)
        n, seq = len(part.rows), part.seq
        if seq == 0:  # the rows have no numbers, so they are counted here
            seq = (1 if part.starts else state.next_seq or 1) + part.missed
        elif part.missed:
            self._apply(part.stream, run_id, 0, SequenceCheck(missed=part.missed), batch)
        if not n:
            return
        due = seq == state.next_seq and run_id == state.run_id
        if due and n == 1 and self.owners is None and type(part.rows) is list:
            if seq is not None:
                state.next_seq = seq + 1
            self.counters.ticks += 1
            t_ns = NO_TIME if part.times is None else int(part.times[0])
            batch.add_one(part.stream, run_id, seq, "", t_ns, part.rows[0])
            return
        times = np.zeros(n, np.int64) if part.times is None else np.asarray(part.times, np.int64)
        ticks = Ticks(part.stream, times, np.asarray(part.rows, np.float64), run_id, seq)
        if self._is_owned(ticks, run_id, batch):
            if part.starts:
                state.expect(run_id, None)
            self._pass(state, ticks, batch)

    def _refuse_bytes(self, batch: EventBatch, error: DecodeError, frames: list[bytes]) -> None:
        """Refuse a message that cannot be decoded, with what it looks like."""
        where = repr(frames[0][:80]) if len(frames) > 1 else ""
        self._refuse(batch, error.cause, "", self._adviser.explain(str(error), frames), where)

    def _refuse(
        self, batch: EventBatch, cause: Cause, stream: str, reason: str, where: str = ""
    ) -> None:
        self.counters.refused += 1
        self.refused[cause] += 1
        self.reasons.add(reason)
        batch.add(Refusal(stream, "message", reason, where=where))

    # ---- owners --------------------------------------------------------------------------

    def _may_queue(self, frames: list[bytes], batch: EventBatch) -> bool:
        """Return whether a message may wait for the lost ticks of its stream."""
        if self.owners is None:
            return True
        try:
            message = self.decode(frames)
        except DecodeError:
            return True  # it is refused when the queue is processed
        match message:
            case Ticks():
                return self._is_owned(message, message.session, batch)
            case Heartbeat():
                return self._is_owned(message, message.run_id, batch)
        return True

    def _is_owned(self, message: Ticks | Heartbeat, run_id: str, batch: EventBatch) -> bool:
        """Return whether the present endpoint may send a message; refuse it if not."""
        owners, stream = self.owners, message.stream
        if owners is None:
            return True
        owner, mismatch = owners.of(stream), run_id in self._columns.refused
        if owner == self._index:
            return True
        state = self._streams.get(stream)
        if owner is None:
            if not mismatch and (state is not None or len(self._streams) < self.max_streams):
                owners.claim(stream, self._index)
            return True
        if owners.policy == "always":
            if not mismatch and state is not None and state.is_new(run_id):
                self._take_over(owners, stream, owner, batch)
            return True
        if not mismatch and owners.may_take(stream):
            if state is not None and run_id != state.run_id:
                # Its run continues after its refused messages; a retired run where it comes.
                refused = owners.position(stream, self._index)
                if refused is not None and refused[0] == run_id:
                    state.expect(run_id, refused[1])
                elif state.is_retired(run_id):
                    state.expect(run_id, None)
            self._take_over(owners, stream, owner, batch)
            return True
        next_seq = message.seq
        if isinstance(message, Ticks) and next_seq is not None:
            next_seq += len(message.t_ns)
        self.counters.not_owner += 1
        reason = owners.refuse(stream, self._index, run_id, next_seq)
        self._refuse(batch, "not_owner", stream, reason)
        return False

    def _take_over(self, owners: Owners, stream: str, owner: int, batch: EventBatch) -> None:
        self.counters.takeovers += 1
        self._endpoints[owner].fast_topics.pop(make_topic("tick", stream), None)
        batch.add(owners.take(stream, self._index))

    def _compare_columns(self, beat: Heartbeat) -> None:
        """Refuse a run whose columns are not ours from now on.

        Raises ConfigurationError if ticks of the run were already taken from this endpoint.
        """
        if not self._columns.compare(beat.run_id, beat.columns):
            return
        if any(
            state.run_id == beat.run_id
            for stream, state in self._streams.items()
            if self.owners is None or self.owners.of(stream) == self._index
        ):
            why = self._columns.refused[beat.run_id]
            raise ConfigurationError(
                f"{why}, and a new file for --store: ticks were already taken", key="columns"
            )
        self._fast_topics.clear()

    # ---- sequence numbers ----------------------------------------------------------------

    def _state(self, stream: str) -> StreamSequence | None:
        """Return the stream's sequence, None if there are too many streams."""
        state = self._streams.get(stream)
        if state is None and len(self._streams) < self.max_streams:
            state = self._streams[stream] = StreamSequence()
            self.counters.streams += 1
        return state

    def _ticks(
        self, ticks: Ticks, batch: EventBatch, frames: list[bytes], waited: MissingRange | None
    ) -> bool:
        """Take ticks; return whether they were processed and not queued."""
        state = self._state(ticks.stream)
        if state is None:
            self._too_many(batch, ticks.stream)
            return False
        self._resumed.discard(ticks.stream)
        if self._must_wait(state, ticks.stream, ticks.session, ticks.seq, frames, waited):
            return False
        self._pass(state, ticks, batch)
        return True

    def _pass(self, state: StreamSequence, ticks: Ticks, batch: EventBatch) -> None:
        count = len(ticks.t_ns)
        due = state.next_seq
        check = state.ticks(ticks.session, ticks.seq, count)
        self._apply(ticks.stream, ticks.session, ticks.seq or 0, check, batch)
        self.counters.ticks += count - check.skip
        if check.skip:
            if check.skip > check.overlaps:
                batch.add(not_new(ticks, check, due))
            if check.skip == count:
                return
            ticks = without(ticks, check.skip)
        batch.add_ticks(ticks)

    def _heartbeat(
        self,
        beat: Heartbeat,
        batch: EventBatch,
        message: QueuedMessage,
        waited: MissingRange | None,
    ) -> None:
        state = self._state(beat.stream)
        if state is None:
            if not beat.announces:
                self._too_many(batch, beat.stream)
            return
        if beat.stream not in self._resumed and state.is_foreign(beat.run_id):
            self._refuse(batch, "session", beat.stream, foreign(beat.run_id, state.run_id))
            return
        self._resumed.discard(beat.stream)
        if self._must_wait(state, beat.stream, beat.run_id, beat.seq, message, waited):
            return
        if message is not beat and not beat.announces:
            self.counters.heartbeats += 1
            self.heard.add(beat.stream)
        check = state.heartbeat(beat.run_id, beat.seq)
        self._apply(beat.stream, beat.run_id, beat.seq, check, batch)
        if beat.end and not check.retired_run:
            self._end(beat, batch)

    def _end(self, beat: Heartbeat, batch: EventBatch) -> None:
        known = beat.stream in self._streams or beat.stream in self._ended
        if not known and len(self._ended) >= self.max_streams:
            return
        if self._ended.get(beat.stream) != beat.run_id:
            self._ended[beat.stream] = beat.run_id
            batch.add(End(beat.stream, beat.run_id))

    def _too_many(self, batch: EventBatch, stream: str) -> None:
        reason = f"more than {self.max_streams} streams; name those wanted"
        self._refuse(batch, "too_many_streams", stream, reason)

    def _apply(
        self, stream: str, run_id: str, seq: int, check: SequenceCheck, batch: EventBatch
    ) -> None:
        """Count what a check found, and add its events."""
        counters = self.counters
        if check.starts:
            counters.sessions += 1
            self._ended.pop(stream, None)
            batch.add(SessionStart(stream, run_id))
        if check.missed:
            counters.gaps += 1
            counters.missed = min(counters.missed + check.missed, MAX_COUNT)
            batch.add(Gap(stream, seq, check.missed))
        counters.repeats += check.repeats
        counters.overlaps += check.overlaps
        counters.old += check.old

    # ---- recovery ------------------------------------------------------------------------

    def _must_wait(
        self,
        state: StreamSequence,
        stream: str,
        run_id: str,
        seq: int | None,
        message: QueuedMessage,
        waited: MissingRange | None,
    ) -> bool:
        """Return whether a message was queued because ticks before number `seq` are requested."""
        if self.recovery is None:
            return False
        lost = state.missing_before(run_id, seq)
        if lost is None:
            return False
        first, last = lost
        if waited is not None and waited.run_id == run_id and last <= waited.last:
            return False  # these ticks were requested and did not come
        joining = state.run_id is None
        missing = self.recovery.begin(stream, run_id, first, last, joining=joining)
        if waited is None:
            self.recovery.enqueue(missing, message)
        else:
            self.recovery.requeue(missing, message)
        for endpoint in self._endpoints:
            endpoint.fast_topics.pop(make_topic("tick", stream), None)
        return True

    def answer(self, index: int, payload: bytes, batch: EventBatch, now: float) -> None:
        """Take a reply of the recovery endpoint `index`; `now` as for `FeedRecovery.poll`."""
        recovery = self.recovery
        assert recovery is not None
        try:
            reply = decode_reply(payload)
        except DecodeError as error:
            recovery.invalid_reply(index, now)
            self._refuse(batch, "recovery", "", str(error))
            return
        recovery.replied(index, now)
        match reply:
            case Welcome():
                self._recovery_columns.compare(reply.run_id, reply.columns)
                recovery.welcome(index, reply)
            case SnapshotReply():
                recovery.snapshot(index, reply.run_id)
                self._snapshot(recovery, reply, batch)
            case Block():
                self._block(recovery, index, reply, batch, now)
            case Gone():
                recovery.gone(index, reply, now)
            case Busy():
                recovery.busy(index, reply, now)

    def _block(
        self, recovery: FeedRecovery, index: int, block: Block, batch: EventBatch, now: float
    ) -> None:
        missing = recovery.open_request(block.stream, block.run_id)
        if missing is None or block.run_id in self._recovery_columns.refused:
            return  # it was given up, has come from elsewhere, or has other columns
        due = missing.due
        start, stop = due - block.seq, min(block.rows, missing.last + 1 - block.seq)
        if start < 0 or start >= stop:
            return
        where = f"tick/{block.stream}/"
        try:
            values = raw_rows(block.values, len(self._config.columns), block.rows)[start:stop]
        except ValueError as error:
            recovery.invalid_reply(index, now)
            self._refuse(batch, "recovery", block.stream, f"a block to recover: {error}", where)
            return
        t_ns = np.frombuffer(block.t_ns, "<i8")[start:stop]
        batch.size += len(block.values)
        state = self._streams[block.stream]
        self._pass(state, Ticks(block.stream, t_ns, values, block.run_id, due, where), batch)
        state.add_recovered(due, stop - start)
        recovery.advance(index, missing, due + stop - start, now)

    def _snapshot(
        self, recovery: FeedRecovery, snapshot: SnapshotReply, batch: EventBatch
    ) -> None:
        """Request what a snapshot shows to be missing, as a heartbeat would have shown it.

        A recovery endpoint is not tied to one of several feed endpoints, so if a stream has an
        owner only the owner's messages show what is missing.
        """
        for stream, (oldest, due) in snapshot.streams.items():
            if self._wanted and stream not in self._wanted:
                continue
            if self.owners is not None and self.owners.protects(stream):
                continue
            try:
                beat = Heartbeat(check_name(stream), due, check_run_id(snapshot.run_id))
            except ValueError as error:
                self._refuse(batch, "recovery", "", f"a snapshot: {error}")
                return
            state = self._streams.get(stream)
            other = state is not None and state.run_id not in (None, snapshot.run_id)
            if other and stream not in self._resumed:
                continue  # the feed has shown which run the stream is in
            if stream in recovery.streams or (state is None and oldest >= due):
                continue
            self._heartbeat(beat, batch, beat, None)
            recovery.begin_at(stream, oldest)

    def release(self, batch: EventBatch, most: int) -> int:
        """Process up to `most` queued messages that need not wait any more; return how many."""
        assert self.recovery is not None
        index = self._index
        count = self._release(self.recovery, batch, most)
        self.select_endpoint(index)
        return count

    def _release(self, recovery: FeedRecovery, batch: EventBatch, most: int) -> int:
        count = 0
        for missing in list(recovery.finished.values()):
            # Queued messages were accepted as their owner's, whichever endpoint is read now.
            owner = self.owners and self.owners.of(missing.stream)
            self.select_endpoint(owner or 0)
            while missing.over and missing.queue:
                if count >= most or batch.size >= MAX_BATCH_BYTES:
                    return count
                message = recovery.dequeue(missing)
                count += 1
                if isinstance(message, Heartbeat):
                    self._heartbeat(message, batch, message, missing)
                else:
                    batch.size += len(message[-1])
                    self._take(message, batch, missing)
            if missing.over:
                recovery.forget(missing)
        return count


def _next_run(run_id: str) -> str:
    """Return a name for the next run of a publisher that does not name its runs."""
    count = run_id.removeprefix("restart-")
    return f"restart-{int(count) + 1 if count.isdecimal() and len(count) < 9 else 1}"
