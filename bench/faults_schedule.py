"""A publisher, a network and a subscriber in memory, with faults that are injected and counted.

Ticks, labels and heartbeats of two streams are dropped, repeated, overtaken, delayed and damaged,
publishers restart, and requests for what was lost are lost themselves or met by BUSY. What comes
out is compared, event by event, with what a few lines of arithmetic say (`Oracle`), and what the
subscriber has counted with what was injected.

Nothing here waits: time is a number that moves when nothing else can.
"""

from __future__ import annotations

import random
from collections import Counter, deque
from collections.abc import Callable
from typing import Any

import numpy as np

from stream_lstm.events import End, Gap, Label, Refusal, Run, SessionStart, Ticks
from stream_lstm.feed.declared import EventBatch
from stream_lstm.feed.intake import Intake
from stream_lstm.feed.protocol import (
    Busy,
    Heartbeat,
    ReplayRequest,
    Request,
    SnapshotReply,
    encode_heartbeat,
    encode_label,
    encode_side,
    encode_ticks,
)
from stream_lstm.feed.recovery import TIMEOUT_S
from stream_lstm.feed.recovery_server import RecoveryResponder, Ring
from stream_lstm.feed.wire import decode_reply
from stream_lstm.schema import FeedConfig

STREAMS = ("A", "B")
COLUMNS = ("x",)
COMPARED = (
    "ticks", "labels", "refused", "recovered", "overlaps", "repeats", "old", "gaps", "missed",
    "sessions", "timeouts",
)  # fmt: skip
PATIENCE = 2_000
"""Steps after which a schedule that has not come to its end never will."""


class FaultSource:
    """A publisher without a socket; `restart` makes a new session, whose ring is empty."""

    def __init__(self, ring_ticks: int, clock: Callable[[], float]) -> None:
        self._ring_ticks, self._clock = ring_ticks, clock
        self.run = 0
        self.sent: Counter[tuple[str, str]] = Counter()
        self.labels = 0
        self.restart()

    def restart(self) -> None:
        self.run += 1
        self.session = f"s{self.run}"
        self.ring = Ring(len(COLUMNS), ticks=self._ring_ticks)
        self.responder = RecoveryResponder(self.ring, self.session, COLUMNS, clock=self._clock)

    def ticks(self, stream: str, count: int) -> tuple[Any, tuple[bytes, bytes]]:
        seq = self.sent[self.session, stream] + 1
        self.sent[self.session, stream] += count
        t_ns = np.arange(seq, seq + count)
        values = value_of(self.session, stream, t_ns)[:, None]
        self.ring.append(stream, seq, t_ns, values)
        frames = encode_ticks(stream, t_ns, values, run_id=self.session, seq=seq)
        return ("ticks", stream, self.session, seq, count), frames

    def label(self, stream: str) -> tuple[Any, tuple[bytes, bytes]]:
        self.labels += 1
        return ("label", stream, self.labels), encode_label(Label(stream, self.labels, 1))

    def beat(self, stream: str, *, end: bool) -> tuple[Any, tuple[bytes, bytes]]:
        due = self.sent[self.session, stream] + 1
        beat = Heartbeat(stream, due, self.session, end=end)
        return ("beat", stream, self.session, due, end), encode_heartbeat(beat)


def value_of(session: str, stream: str, seq: np.ndarray) -> np.ndarray:
    return seq + 1000.0 * STREAMS.index(stream) + 10_000.0 * int(session[1:])


class Oracle:
    """The expected result of messages in their order of arrival, with immediate recovery.

    A tick beyond the one that is due has everything in between asked for before it, with success
    unless its publisher has gone. That asking takes time, during which more arrives, must change
    nothing.
    """

    def __init__(self) -> None:
        self.events: dict[str, list[Any]] = {stream: [] for stream in STREAMS}
        self.counted: Counter[str] = Counter()
        self.alive = ""
        self._session: dict[str, str] = {}
        self._left: dict[str, set[str]] = {stream: set() for stream in STREAMS}
        self._due: dict[str, int] = {}
        self._asked: dict[str, set[int]] = {stream: set() for stream in STREAMS}
        self._lost: dict[str, set[int]] = {stream: set() for stream in STREAMS}
        self._ended: set[tuple[str, str]] = set()

    def arrive(self, message: Any) -> None:
        kind, stream, *rest = message
        if kind == "label":
            self.counted["labels"] += 1
            self.events[stream].append(("label", *rest))
        elif kind == "ticks":
            self._ticks(stream, *rest)
        else:
            session, due, end = rest
            if self._reach(stream, session, due) and end and (stream, session) not in self._ended:
                self._ended.add((stream, session))
                self.events[stream].append(("end", session))

    def _reach(self, stream: str, session: str, due: int) -> bool:
        """Fill up to number `due`; return False for a session that was left."""
        if session in self._left[stream]:
            return False
        if self._session.get(stream) != session:
            joins = stream not in self._session and session != self.alive
            if stream in self._session:
                self._left[stream].add(self._session[stream])
            # Who comes late and cannot ask has lost nothing of what was before.
            self._session[stream], self._due[stream] = session, due if joins else 1
            self._asked[stream], self._lost[stream] = set(), set(range(1, self._due[stream]))
            self.counted["sessions"] += 1
            self.events[stream].append(("start", session))
        missing = range(self._due[stream], due)
        if missing and session == self.alive:
            self._asked[stream] |= set(missing)
            self.counted["recovered"] += len(missing)
            self._accept(stream, session, missing)
        elif missing:
            self._lost[stream] |= set(missing)
            self.counted["gaps"] += 1
            self.counted["missed"] += len(missing)
            self.events[stream].append(("gap", due, len(missing)))
        self._due[stream] = max(self._due[stream], due)
        return True

    def _ticks(self, stream: str, session: str, seq: int, count: int) -> None:
        if not self._reach(stream, session, seq):
            self.counted["old"] += count
            return
        for number in range(seq, seq + count):
            if number >= self._due[stream]:
                self._accept(stream, session, [number])
                self._due[stream] = number + 1
            elif number in self._asked[stream]:
                self.counted["overlaps"] += 1
            else:
                self.counted["old" if number in self._lost[stream] else "repeats"] += 1

    def _accept(self, stream: str, session: str, numbers: Any) -> None:
        self.counted["ticks"] += len(numbers)
        self.events[stream] += [("tick", session, number) for number in numbers]


class Schedule:
    """One run of a publisher, a network and a subscriber, decided by `chance`.

    ring_ticks: ticks of a stream that the publisher keeps. restarts: of the publisher, at most.
    failing: any number of requests fail, and not just the first for a tick. With a small ring or
    such failing only `leaks` is to be asked, for what is lost is then a matter of timing.

    `differences` says what is not as it must be; `injected` counts what was done.
    """

    def __init__(
        self,
        chance: random.Random,
        *,
        ring_ticks: int = 10_000,
        restarts: int = 3,
        failing: bool = False,
    ) -> None:
        self.chance = chance
        self._restarts, self._failing = restarts, failing
        self.now = 0.0
        self.injected: Counter[str] = Counter()
        self.source = FaultSource(ring_ticks, lambda: self.now)
        self.intake = Intake(FeedConfig(columns=COLUMNS, recovery=("memory",)))
        assert self.intake.recovery is not None
        self.recovery = self.intake.recovery
        self.oracle = Oracle()
        self.oracle.alive = self.source.session
        self.came: dict[str, list[Any]] = {stream: [] for stream in STREAMS}
        self._network: deque[tuple[Any, list[bytes]]] = deque()
        self._answers: deque[bytes] = deque()
        self._failed: set[tuple[str, str, int]] = set()

    # ---- what is done ------------------------------------------------------------------

    def run(self, steps: int) -> Schedule:
        for _ in range(self.chance.randrange(20)):
            self._send(self.source.ticks(self._stream(), self.chance.randint(1, 4)))
        self._introduce()
        for _ in range(steps):
            draw = self.chance.randrange(100)
            if draw < 45:
                self._send(self._message())
            elif draw < 75:
                self._deliver()
            elif draw < 97:
                self._exchange()
            elif self.injected["restarts"] < self._restarts:
                self._finish_asking()
                self.source.restart()
                self.oracle.alive = self.source.session
                self.injected["restarts"] += 1
        while self._network:
            self._deliver()
        for stream in STREAMS:
            if self.source.sent[self.source.session, stream]:
                self._network.append(_packed(self.source.beat(stream, end=True)))
                self._deliver()
        self._finish_asking()
        return self

    def _stream(self) -> str:
        return self.chance.choice(STREAMS)

    def _message(self) -> tuple[Any, tuple[bytes, bytes]]:
        draw, stream = self.chance.randrange(10), self._stream()
        if draw == 0:
            return self.source.label(stream)
        if draw == 1 and self.source.sent[self.source.session, stream]:
            return self.source.beat(stream, end=False)
        return self.source.ticks(stream, self.chance.choice([1, 1, 1, 2, 4]))

    def _send(self, message: tuple[Any, tuple[bytes, bytes]]) -> None:
        """Put a message on its way, or not, or twice, or where it overtakes others."""
        packed, draw = _packed(message), self.chance.randrange(20)
        if draw == 0 and packed[0][0] != "label":
            self.injected["drops"] += 1
        elif draw == 1 and packed[0][0] == "ticks":
            self.injected["damaged"] += 1
            topic, payload = packed[1]
            self._network.append((None, [topic, payload[:-1]]))
        else:
            self._network.append(packed)
            if draw == 2 and packed[0][0] != "label":
                self.injected["repeats"] += 1
                self._network.append(packed)
            elif draw == 3:
                self.injected["overtakings"] += 1
                place = self.chance.randrange(len(self._network))
                self._network.insert(place, self._network.pop())

    def _deliver(self) -> None:
        """Let the next message arrive."""
        if not self._network:
            return
        message, frames = self._network.popleft()
        if message is not None:
            self.oracle.arrive(message)
        drain = EventBatch()
        if not self.intake.take_next(frames[0], frames[1], drain):
            self.intake.take(frames, drain)
        self._note(drain)

    def _introduce(self) -> None:
        """Let the subscriber ask where the streams stand, and hear it."""
        while not self._answers or not isinstance(decode_reply(self._answers[-1]), SnapshotReply):
            self._exchange(faultless=True)
        snapshot = decode_reply(self._answers[-1])
        assert isinstance(snapshot, SnapshotReply)
        for stream, (_, due) in snapshot.streams.items():
            self.oracle.arrive(("beat", stream, snapshot.run_id, due, False))
        self._exchange()

    def _exchange(self, *, faultless: bool = False) -> None:
        """Let an answer arrive, then what is due be asked, and let some of it be answered."""
        drain = EventBatch()
        if self._answers:
            self.intake.answer(0, self._answers.popleft(), drain, self.now)
        self.recovery.poll(self.now)
        self.intake.release(drain, self.chance.randint(1, 8))
        self._note(drain)
        while self.recovery.outgoing:
            _, request = self.recovery.outgoing.popleft()
            self._ask(request, faultless=faultless)

    def _ask(self, request: Request, *, faultless: bool) -> None:
        draw = 99 if faultless else self.chance.randrange(10)
        if isinstance(request, ReplayRequest) and draw < 2:
            asked = request.stream, request.run_id, request.from_seq
            if self._failing or asked not in self._failed:
                self._failed.add(asked)
                self.injected["busy" if draw else "lost"] += 1
                if draw:
                    busy = Busy(retry_ms=self.chance.randrange(1000), stream=request.stream)
                    self._answers.append(encode_side(busy))
                return
        answer = self.source.responder.answer(b"peer", encode_side(request))
        assert answer is not None
        self._answers.append(answer)

    def _finish_asking(self) -> None:
        """Let all that is asked for come, or be given up; time moves where nothing else does."""
        for _ in range(PATIENCE):
            if not self.recovery.streams:
                return
            if not self._answers and not self.recovery.ready:
                self.now = max(self.now, min(self.recovery.deadline, self.now + TIMEOUT_S))
            self._exchange()
        raise AssertionError(f"{list(self.recovery.streams)} never recover")

    # ---- what came of it ---------------------------------------------------------------

    def _note(self, drain: EventBatch) -> None:
        for event in drain.finish():
            event = event.block() if isinstance(event, Run) else event
            if event.stream in self.came:
                self.came[event.stream] += list(plain(event))

    def differences(self) -> list[str]:
        """Return in what events and counts differ from what they must be."""
        found = [
            f"{stream}: {self.came[stream]} != {self.oracle.events[stream]}"
            for stream in STREAMS
            if self.came[stream] != self.oracle.events[stream]
        ]
        counted = self.intake.counters
        wanted = self.oracle.counted | Counter(
            refused=self.injected["damaged"],
            timeouts=self.injected["lost"] + self.injected["busy"],
        )
        found += [
            f"{name}: {getattr(counted, name)} != {wanted[name]}"
            for name in COMPARED
            if getattr(counted, name) != wanted[name]
        ]
        return found

    def leaks(self) -> list[str]:
        """Return what does not add up, whatever was lost: each tick accepted once, or missed."""
        accepted = [(name, *e) for name in STREAMS for e in self.came[name] if e[0] == "tick"]
        found = [f"{e} twice" for e, times in Counter(accepted).items() if times > 1]
        counted = self.intake.counters
        if self.recovery.queued_bytes:
            found.append(f"{self.recovery.queued_bytes} bytes are still queued")
        if counted.ticks != len(accepted):
            found.append(f"{counted.ticks} counted, {len(accepted)} accepted")
        for stream, events in self.came.items():
            for session in {e[1] for e in events if e[0] == "tick"}:
                ticks = [e[2] for e in events if e[:2] == ("tick", session)]
                if ticks != sorted(ticks):
                    found.append(f"{stream}, {session}: out of order")
                missed = sum(e[2] for e in events if e[0] == "gap")
                before = events[: events.index(("tick", session, ticks[0]))]
                joined = ticks[0] - sum(e[2] for e in before if e[0] == "gap")
                whole = self.source.sent[session, stream] + 1 - joined
                if not self.injected["restarts"] and len(ticks) + missed != whole:
                    found.append(f"{stream}: {len(ticks)} accepted, {missed} missed of {whole}")
        return found


def _packed(message: tuple[Any, tuple[bytes, bytes]]) -> tuple[Any, list[bytes]]:
    return message[0], list(message[1])


def plain(event: Any) -> Any:
    """Yield what an event says as tuples; refusals are counted only."""
    match event:
        case Ticks():
            wanted = value_of(event.session, event.stream, event.t_ns)
            if not np.array_equal(event.values[:, 0], wanted):
                raise AssertionError(f"{event} has the values of other ticks")
            yield from (("tick", event.session, int(t)) for t in event.t_ns)
        case Label():
            yield "label", event.n
        case SessionStart():
            yield "start", event.session
        case Gap():
            yield "gap", event.seq, event.missed
        case End():
            yield "end", event.session
        case Refusal():
            return
