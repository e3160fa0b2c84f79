"""What to ask for, what to hold meanwhile and when to give up: the subscriber's side of recovery.

This is the Clone pattern: subscribe first, ask for what is missing, apply the answer, drop of what
came meanwhile what the answer held already, and go on live. Here each stream does so by itself.
From the moment that something of it is missing its messages are held, in order; the missing ticks
are asked for, piece by piece; then what was held goes the usual way. Other streams do not notice.

The same ticks are asked for at most twice. No answer in time and BUSY count as one time each. What
does not come then, or is GONE, is given up, and what was held shows the gap as if nobody had
asked.

No clock and no socket is known here: `turn` is told the time, and requests are left in `outgoing`.

Several publishers may each have an endpoint. Who is known to have a session is asked for its
ticks, or else all are, and only the last GONE counts. One that left a request unanswered twice
and said nothing meanwhile is silent: it is not asked again until it says something, so that a dead
endpoint holds each stream up once and not at every gap. A HELLO now and then gives it the chance.

The sockets with which a subscriber asks for what it lacks: a DEALER for each endpoint.

A request that cannot be sent is lost, like one that the publisher did not get: both show as an
answer that does not come in time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any, TypeAlias

import zmq

from ..events import MAX_COUNT
from .endpoints import Connections, open_socket
from .guard import Inbound
from .records import (
    MAX_FRAME_BYTES,
    Busy,
    Gone,
    Heartbeat,
    Hello,
    ReplayRequest,
    Request,
    SnapshotRequest,
    Welcome,
    encode_side,
)
from .security import Security
from .sequence import FeedCounters

TIMEOUT_S = 2.0
"""For an answer: a publisher that was away is dialled within one second."""

MAX_ASKS = 2
"""For the same ticks: what two did not bring, a third will not bring soon."""

AT_ONCE = 4
"""Streams asked for at a time, so that answers are not lost while a block is learned from."""

MAX_RETRY_S = 5.0
"""The longest that BUSY can make us wait: a stream stands still meanwhile."""

HELLO_S = 5.0
"""Between two looks whether a silent endpoint is there again."""

MAX_HELD_BYTES = 64 * 2**20
"""Of messages that wait for lost ticks: some 200,000 single ticks, and so two seconds of a
flood."""

HELD_BYTES = 200
"""What a held message takes beside its frames."""

MAX_NONSENSE = 3
"""Answers without sense, and no tick between them, before an endpoint is left alone."""

REST_S = 60.0
"""For which an endpoint is left alone that answers nonsense."""

NEVER = float("inf")

HeldMessage: TypeAlias = list[bytes] | Heartbeat
"""Frames as they came, or a heartbeat in the place of what a snapshot says."""


class MissingRange:
    """Ticks `due` to `last` of a session of a stream, which are missing, and what waits for them.

    `joining` says that nothing of the stream had come before. `over` says that no more is asked
    for, and that what is held goes the usual way. `asked` counts requests for number `due`;
    `waiting` are the endpoints yet to answer, `again` says that one did not, or was BUSY, and
    `oldest` is the lowest number that one has.
    """

    __slots__ = (
        "again",
        "asked",
        "deadline",
        "due",
        "first_asked",
        "held",
        "joining",
        "last",
        "oldest",
        "over",
        "session",
        "stream",
        "waiting",
    )

    def __init__(self, stream: str, session: str, first: int, last: int, *, joining: bool) -> None:
        self.stream = stream
        self.held: deque[HeldMessage] = deque()
        self.set(session, first, last, joining=joining)

    def set(self, session: str, first: int, last: int, *, joining: bool) -> None:
        """Miss other ticks than before; what is held stays."""
        self.session, self.due, self.last, self.joining = session, first, last, joining
        self.over = self.again = False
        self.asked = 0
        self.oldest: int | None = None
        self.waiting: set[int] = set()
        self.deadline = self.first_asked = NEVER


class FeedRecovery:
    """The streams that lack something, and the requests for it.

    `streams` are all of them, `finished` those of them whose messages may go on; `outgoing` are
    the requests to be sent, each to an endpoint.

    counters: of the feed, which are added to. endpoints: how many can be asked, named by 0, 1 ...
    """

    def __init__(self, counters: FeedCounters, endpoints: int) -> None:
        self.streams: dict[str, MissingRange] = {}
        self.finished: dict[str, MissingRange] = {}
        self.outgoing: deque[tuple[int, Request]] = deque()
        self.held_bytes = 0
        self._counters = counters
        self._queue: deque[MissingRange] = deque()
        self._asking: dict[str, MissingRange] = {}
        self._sessions: list[str | None] = [None] * endpoints
        self._heard: list[float] = [-NEVER] * endpoints
        self._silent: set[int] = set()
        self._hello_at = [-NEVER] * endpoints
        self._introduced: set[int] = set()
        self._nonsense = [0] * endpoints
        self._rests_until = [-NEVER] * endpoints
        self._not_before = -NEVER

    # ---- what the loop needs to know ---------------------------------------------------

    @property
    def active(self) -> bool:
        """Whether answers are awaited or there is something to do."""
        unknown = len(self._introduced) < len(self._sessions)
        return unknown or bool(self.streams) or bool(self._silent)

    @property
    def ready(self) -> bool:
        """Whether something may be let go or sent at once."""
        return bool(self.finished) or bool(self.outgoing)

    @property
    def deadline(self) -> float:
        """When `turn` has something to do at the latest, in the time that it is told."""
        due = min(self._hello_at)
        if self._asking:
            due = min(due, *(stretch.deadline for stretch in self._asking.values()))
        if self._queue and len(self._asking) < AT_ONCE:
            due = min(due, self._not_before)
        return due

    # ---- what is missing ---------------------------------------------------------------

    def begin(
        self, stream: str, session: str, first: int, last: int, *, joining: bool
    ) -> MissingRange:
        """Ask for ticks of a stream, and hold what comes of it from now on."""
        stretch = self.streams.get(stream)
        if stretch is None:
            stretch = MissingRange(stream, session, first, last, joining=joining)
            self.streams[stream] = stretch
        else:
            stretch.set(session, first, last, joining=joining)
            self.finished.pop(stream, None)
        self._queue.append(stretch)
        return stretch

    def begin_at(self, stream: str, oldest: int) -> None:
        """Ask for nothing before number `oldest` of a stream that nothing had come of."""
        stretch = self.streams.get(stream)
        if stretch is not None and stretch.joining and not stretch.asked:
            stretch.due = max(stretch.due, min(oldest, stretch.last))

    def hold(self, stretch: MissingRange, item: HeldMessage) -> None:
        """Keep a message until what is missing before it has come.

        Where all that is held is too much, what is missing is given up.
        """
        stretch.held.append(item)
        self.held_bytes += _size(item)
        if self.held_bytes > MAX_HELD_BYTES and not stretch.over:
            self._counters.overfull += 1
            self._finish(stretch)

    def take_back(self, stretch: MissingRange, item: HeldMessage) -> None:
        """Hold a message that was let go, before all others."""
        stretch.held.appendleft(item)
        self.held_bytes += _size(item)

    def let_go(self, stretch: MissingRange) -> HeldMessage:
        """Return the next of the messages that are held."""
        item = stretch.held.popleft()
        self.held_bytes -= _size(item)
        return item

    def forget(self, stretch: MissingRange) -> None:
        """Let the messages of a stream go the usual way at once, since none is held any more."""
        del self.streams[stretch.stream], self.finished[stretch.stream]

    def _finish(self, stretch: MissingRange) -> None:
        """Ask for no more: it has all come, or is given up."""
        stretch.over = True
        self.finished[stretch.stream] = stretch
        self._asking.pop(stretch.stream, None)

    # ---- requests ----------------------------------------------------------------------

    def turn(self, now: float) -> None:
        """Send what is due and notice what did not come; `now` is in seconds, monotonic."""
        for endpoint, at in enumerate(self._hello_at):
            if now >= at:
                self.outgoing.append((endpoint, Hello()))
                self._hello_at[endpoint] = now + HELLO_S if endpoint in self._silent else NEVER
        for stretch in [s for s in self._asking.values() if now >= s.deadline]:
            self._counters.timeouts += 1
            stretch.again = True
            self._settle(stretch, now)
        while self._queue and len(self._asking) < AT_ONCE and now >= self._not_before:
            stretch = self._queue.popleft()
            # It may have been given up since, and then have been begun and asked for anew.
            if not stretch.over and stretch.stream not in self._asking:
                self._ask(stretch, now)

    def _ask(self, stretch: MissingRange, now: float) -> None:
        targets = self._targets(stretch.session)
        if not targets:
            self._finish(stretch)
            return
        if not stretch.asked:
            stretch.first_asked = now
        stretch.asked += 1
        stretch.again, stretch.oldest = False, None
        stretch.waiting = set(targets)
        stretch.deadline = now + TIMEOUT_S
        self._asking[stretch.stream] = stretch
        for endpoint in targets:
            self._counters.asked += 1
            request = ReplayRequest(
                stream=stretch.stream,
                session=stretch.session,
                from_seq=stretch.due,
                to_seq=stretch.last,
            )
            self.outgoing.append((endpoint, request))

    def _targets(self, session: str) -> list[int]:
        there = [e for e in range(len(self._sessions)) if e not in self._silent]
        return [e for e in there if self._sessions[e] == session] or there

    def _settle(self, stretch: MissingRange, now: float) -> None:
        """All have answered, or the time is up, and nothing has come."""
        self._asking.pop(stretch.stream, None)
        if stretch.oldest is not None:
            self._skip(stretch, stretch.oldest)
            self._ask(stretch, now)
        elif not stretch.again:
            self._count_gone(stretch, stretch.last + 1)
            self._finish(stretch)
        elif stretch.asked < MAX_ASKS:
            self._queue.appendleft(stretch)
        else:
            for endpoint in stretch.waiting:
                if self._heard[endpoint] < stretch.first_asked:
                    self._silent.add(endpoint)
                    self._hello_at[endpoint] = now + HELLO_S
            self._finish(stretch)

    def _skip(self, stretch: MissingRange, oldest: int) -> None:
        self._count_gone(stretch, oldest)
        stretch.due, stretch.asked = oldest, 0

    def _count_gone(self, stretch: MissingRange, until: int) -> None:
        # What was before we came is not lost to us.
        if not stretch.joining:
            self._counters.gone = min(self._counters.gone + until - stretch.due, MAX_COUNT)

    # ---- answers -----------------------------------------------------------------------

    def heard(self, endpoint: int, now: float) -> None:
        """Take note that an endpoint has said something that could be read."""
        if now < self._rests_until[endpoint]:
            return
        self._heard[endpoint] = now
        if endpoint in self._silent:
            self._silent.discard(endpoint)
            self._hello_at[endpoint] = NEVER

    def nonsense(self, endpoint: int, now: float) -> None:
        """Take note of an answer without sense; who gives several is left alone for a while."""
        self._nonsense[endpoint] += 1
        if self._nonsense[endpoint] < MAX_NONSENSE or now < self._rests_until[endpoint]:
            return
        self._nonsense[endpoint] = 0
        self._silent.add(endpoint)
        self._rests_until[endpoint] = self._hello_at[endpoint] = now + REST_S
        for stretch in [s for s in self._asking.values() if endpoint in s.waiting]:
            self._answered(endpoint, stretch, now)

    def greet(self, endpoint: int, now: float) -> None:
        """Ask an endpoint who it is, since it was dialled afresh and what was sent is lost."""
        self._introduced.discard(endpoint)
        self._hello_at[endpoint] = now

    def welcome(self, endpoint: int, reply: Welcome) -> None:
        """Learn whose endpoint it is; of a new session it is asked where its streams stand."""
        if self._sessions[endpoint] != reply.session:
            self._sessions[endpoint] = reply.session
            self._introduced.discard(endpoint)
            self.outgoing.append((endpoint, SnapshotRequest()))
        else:
            self._introduced.add(endpoint)

    def snapshot(self, endpoint: int, session: str) -> None:
        """Take note that an endpoint has said where the streams of its session stand."""
        self._sessions[endpoint] = session
        self._introduced.add(endpoint)

    def asked_for(self, stream: str, session: str) -> MissingRange | None:
        """Return what is being asked for of a stream's session."""
        stretch = self._asking.get(stream)
        return None if stretch is None or stretch.session != session else stretch

    def advance(self, endpoint: int, stretch: MissingRange, due: int, now: float) -> None:
        """Go on with what is missing from number `due` on, since what was before has come."""
        self._sessions[endpoint] = stretch.session
        self._nonsense[endpoint] = 0
        self._counters.recovered += due - stretch.due
        stretch.due, stretch.asked, stretch.joining = due, 0, False
        self._asking.pop(stretch.stream)
        if due > stretch.last:
            self._finish(stretch)
        else:
            self._ask(stretch, now)

    def gone(self, endpoint: int, reply: Gone, now: float) -> None:
        """Take note that an endpoint does not have what was asked for, or a later part alone."""
        stretch = self.asked_for(reply.stream, reply.session)
        if stretch is None or endpoint not in stretch.waiting:
            return
        if stretch.due < reply.oldest_seq <= stretch.last:
            known = stretch.oldest
            stretch.oldest = reply.oldest_seq if known is None else min(known, reply.oldest_seq)
        self._answered(endpoint, stretch, now)

    def busy(self, endpoint: int, reply: Busy, now: float) -> None:
        """Take note that an endpoint has no time, and ask nobody before it will have."""
        retry_at = now + min(reply.retry_ms / 1000, MAX_RETRY_S)
        if not reply.stream and endpoint not in self._introduced:
            self._hello_at[endpoint] = retry_at
            self._sessions[endpoint] = None
            return
        stretch = self._asking.get(reply.stream) or self._oldest_asked(endpoint)
        if stretch is None or endpoint not in stretch.waiting:
            return
        self._counters.timeouts += 1
        self._not_before = max(self._not_before, retry_at)
        stretch.again = True
        self._answered(endpoint, stretch, now)

    def _oldest_asked(self, endpoint: int) -> MissingRange | None:
        """Return what a BUSY that does not say is about: answers come in the order of asking."""
        return next((s for s in self._asking.values() if endpoint in s.waiting), None)

    def _answered(self, endpoint: int, stretch: MissingRange, now: float) -> None:
        stretch.waiting.discard(endpoint)
        if not stretch.waiting:
            self._settle(stretch, now)


def _size(item: HeldMessage) -> int:
    return HELD_BYTES + (sum(map(len, item)) if isinstance(item, list) else 0)


WAITING = 100
"""Requests for an endpoint that is away; more are lost, and nobody waits for their answers
then."""

ANSWERS_WAITING = 16
"""Four times as many as are asked for at a time."""

MOST_ANSWERS = 64
"""Taken at a time, from each endpoint."""


class RecoveryLink:
    """Connections to recovery endpoints, named by 0, 1 ... in their order.

    security: keys. inbound: that of the subscriber, which takes the answers too.

    Raises EndpointError for an endpoint that cannot be. The context closes the sockets.
    """

    def __init__(
        self,
        context: zmq.Context[Any],
        endpoints: Sequence[str],
        security: Security,
        inbound: Inbound,
    ) -> None:
        self.sockets: list[zmq.Socket[Any]] = []
        self._connections: list[Connections] = []
        for endpoint in endpoints:
            socket = open_socket(
                context,
                zmq.DEALER,
                send_hwm=WAITING,
                receive_hwm=ANSWERS_WAITING,
                max_frame_bytes=MAX_FRAME_BYTES,
            )
            self.sockets.append(socket)
            self._connections.append(Connections(socket, [endpoint], security, inbound))

    def tend(self, now: float) -> list[int]:
        """Dial the endpoints again that libzmq has given up; return those that were dialled."""
        return [
            endpoint
            for endpoint, connections in enumerate(self._connections)
            if connections.redial.restless and connections.tend(now)
        ]

    def send(self, requests: deque[tuple[int, Request]]) -> None:
        """Send all requests, each to the endpoint that it names."""
        while requests:
            endpoint, request = requests.popleft()
            with suppress(zmq.Again):
                self.sockets[endpoint].send(encode_side(request), zmq.NOBLOCK)

    def answers(self) -> Iterator[tuple[int, bytes]]:
        """Yield the answers that have come, each with its endpoint."""
        for endpoint, socket in enumerate(self.sockets):
            for _ in range(MOST_ANSWERS):
                try:
                    frames = socket.recv_multipart(zmq.NOBLOCK)
                except zmq.Again:
                    break
                yield endpoint, frames[-1]
