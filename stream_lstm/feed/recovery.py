"""The subscriber's side of recovery: what to request, what to queue meanwhile, when to give up.

This is the Clone pattern: subscribe first, request what is missing, apply the reply, drop what
arrived meanwhile and is in the reply too, and continue live. Each stream does so on its own. When
ticks of a stream are missing, its messages are queued in order, and the missing ticks are
requested piece by piece; then the queue is processed like any messages. Other streams are not
affected.

The same ticks are requested at most twice. A timeout and BUSY count as one attempt each. Ticks
that do not come then, or are GONE, are given up, and the queued messages show the gap as if
nothing had been requested.

If there are several recovery endpoints, an endpoint known to have the run is asked, or else all of
them, and only the last GONE counts. An endpoint that left a request unanswered twice and sent
nothing meanwhile is silent: it is not asked again until it replies to one of the HELLOs that it
gets now and then. So a dead endpoint delays each stream once, not at every gap.

`FeedRecovery` has no clock and no socket: `poll` takes the time, and requests are left in
`outgoing`. `RecoveryLink` has the sockets. A request that cannot be sent is lost, like one that
the publisher did not receive: the reply times out.
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
from .protocol import (
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
"""For a reply: a publisher that was away is dialled within one second."""

MAX_ATTEMPTS = 2
"""For the same ticks: what two did not bring, a third will not bring soon."""

MAX_CONCURRENT = 4
"""Streams with an open request, so that replies are not lost while a block is learned from."""

MAX_RETRY_S = 5.0
"""The longest pause that BUSY can impose, since a stream waits meanwhile."""

HELLO_S = 5.0
"""Between two checks whether a silent endpoint is back."""

MAX_QUEUED_BYTES = 64 * 2**20
"""Of messages that wait for lost ticks: some 200,000 single ticks, or two seconds of a flood."""

MESSAGE_BYTES = 200
"""What a queued message takes beside its frames."""

MAX_INVALID = 3
"""Invalid replies without a tick between them after which an endpoint is left alone."""

REST_S = 60.0
"""For which an endpoint with invalid replies is left alone."""

NEVER = float("inf")

QueuedMessage: TypeAlias = list[bytes] | Heartbeat
"""Frames as they arrived, or the heartbeat that a snapshot is equivalent to."""


class MissingRange:
    """Missing ticks `due` to `last` of a stream's run, and the messages queued behind them.

    `joining`: nothing of the stream had arrived before. `over`: no more is requested, and the
    queue may be processed. `attempts` counts requests from number `due` on; `waiting` are the
    endpoints yet to reply; `retry`: one of them timed out or was BUSY; `oldest` is the lowest
    number that an endpoint still has.
    """

    __slots__ = (
        "attempts",
        "deadline",
        "due",
        "first_asked",
        "joining",
        "last",
        "oldest",
        "over",
        "queue",
        "retry",
        "run_id",
        "stream",
        "waiting",
    )

    def __init__(self, stream: str, run_id: str, first: int, last: int, *, joining: bool) -> None:
        self.stream = stream
        self.queue: deque[QueuedMessage] = deque()
        self.set(run_id, first, last, joining=joining)

    def set(self, run_id: str, first: int, last: int, *, joining: bool) -> None:
        """Replace the range; the queue stays."""
        self.run_id, self.due, self.last, self.joining = run_id, first, last, joining
        self.over = self.retry = False
        self.attempts = 0
        self.oldest: int | None = None
        self.waiting: set[int] = set()
        self.deadline = self.first_asked = NEVER


class _Endpoint:
    """What is known of a recovery endpoint; times are those of `FeedRecovery.poll`."""

    __slots__ = ("hello_at", "introduced", "invalid", "last_reply", "rests_until", "run_id")

    def __init__(self) -> None:
        self.run_id: str | None = None
        self.introduced = False  # it has sent a snapshot of its run
        self.hello_at = self.last_reply = self.rests_until = -NEVER
        self.invalid = 0


class FeedRecovery:
    """The streams with missing ticks, and the requests for them.

    `streams` are all of them, `finished` those whose queue may be processed; `outgoing` are
    requests to be sent, each with the index of its endpoint.

    counters: of the feed, which are added to. endpoints: their number.
    """

    def __init__(self, counters: FeedCounters, endpoints: int) -> None:
        self.streams: dict[str, MissingRange] = {}
        self.finished: dict[str, MissingRange] = {}
        self.outgoing: deque[tuple[int, Request]] = deque()
        self.queued_bytes = 0
        self._counters = counters
        self._to_request: deque[MissingRange] = deque()
        self._requested: dict[str, MissingRange] = {}
        self._endpoints = [_Endpoint() for _ in range(endpoints)]
        self._silent: set[int] = set()
        self._not_before = -NEVER

    # ---- for the receive loop ----------------------------------------------------------

    @property
    def active(self) -> bool:
        """Whether replies are expected or there is something to do."""
        unknown = not all(endpoint.introduced for endpoint in self._endpoints)
        return unknown or bool(self.streams) or bool(self._silent)

    @property
    def ready(self) -> bool:
        """Whether messages can be processed or sent immediately."""
        return bool(self.finished) or bool(self.outgoing)

    @property
    def deadline(self) -> float:
        """The latest time at which `poll` has something to do."""
        due = min(endpoint.hello_at for endpoint in self._endpoints)
        if self._requested:
            due = min(due, *(missing.deadline for missing in self._requested.values()))
        if self._to_request and len(self._requested) < MAX_CONCURRENT:
            due = min(due, self._not_before)
        return due

    # ---- missing ticks and queued messages -----------------------------------------------

    def begin(
        self, stream: str, run_id: str, first: int, last: int, *, joining: bool
    ) -> MissingRange:
        """Request ticks of a stream, and queue its messages from now on."""
        missing = self.streams.get(stream)
        if missing is None:
            missing = MissingRange(stream, run_id, first, last, joining=joining)
            self.streams[stream] = missing
        else:
            missing.set(run_id, first, last, joining=joining)
            self.finished.pop(stream, None)
        self._to_request.append(missing)
        return missing

    def begin_at(self, stream: str, oldest: int) -> None:
        """Request nothing before number `oldest` of a stream of which nothing had arrived."""
        missing = self.streams.get(stream)
        if missing is not None and missing.joining and not missing.attempts:
            missing.due = max(missing.due, min(oldest, missing.last))

    def enqueue(self, missing: MissingRange, message: QueuedMessage) -> None:
        """Queue a message; if all queues together are too long, give the missing ticks up."""
        missing.queue.append(message)
        self.queued_bytes += _size(message)
        if self.queued_bytes > MAX_QUEUED_BYTES and not missing.over:
            self._counters.overfull += 1
            self._finish(missing)

    def requeue(self, missing: MissingRange, message: QueuedMessage) -> None:
        """Put a message back to the front of its queue."""
        missing.queue.appendleft(message)
        self.queued_bytes += _size(message)

    def dequeue(self, missing: MissingRange) -> QueuedMessage:
        """Return the next queued message."""
        message = missing.queue.popleft()
        self.queued_bytes -= _size(message)
        return message

    def forget(self, missing: MissingRange) -> None:
        """Stop queueing a stream's messages; its queue must be empty."""
        del self.streams[missing.stream], self.finished[missing.stream]

    def _finish(self, missing: MissingRange) -> None:
        """Request no more: all ticks have come, or the rest is given up."""
        missing.over = True
        self.finished[missing.stream] = missing
        self._requested.pop(missing.stream, None)

    # ---- requests ----------------------------------------------------------------------

    def poll(self, now: float) -> None:
        """Make the requests that are due and handle timeouts; `now` is in seconds, monotonic."""
        for index, endpoint in enumerate(self._endpoints):
            if now >= endpoint.hello_at:
                self.outgoing.append((index, Hello()))
                endpoint.hello_at = now + HELLO_S if index in self._silent else NEVER
        for missing in [m for m in self._requested.values() if now >= m.deadline]:
            self._counters.timeouts += 1
            missing.retry = True
            self._settle(missing, now)
        while self._to_request and len(self._requested) < MAX_CONCURRENT:
            if now < self._not_before:
                break
            missing = self._to_request.popleft()
            # It may have been given up since, and a later request for it may be open.
            if not missing.over and missing.stream not in self._requested:
                self._request(missing, now)

    def _request(self, missing: MissingRange, now: float) -> None:
        available = [e for e in range(len(self._endpoints)) if e not in self._silent]
        having_run = [e for e in available if self._endpoints[e].run_id == missing.run_id]
        targets = having_run or available
        if not targets:
            self._finish(missing)
            return
        if not missing.attempts:
            missing.first_asked = now
        missing.attempts += 1
        missing.retry, missing.oldest = False, None
        missing.waiting = set(targets)
        missing.deadline = now + TIMEOUT_S
        self._requested[missing.stream] = missing
        self._counters.asked += len(targets)
        request = ReplayRequest(
            stream=missing.stream,
            run_id=missing.run_id,
            from_seq=missing.due,
            to_seq=missing.last,
        )
        self.outgoing.extend((endpoint, request) for endpoint in targets)

    def _settle(self, missing: MissingRange, now: float) -> None:
        """Decide what follows a request that brought no ticks."""
        self._requested.pop(missing.stream, None)
        if missing.oldest is not None:
            self._count_gone(missing, missing.oldest)
            missing.due, missing.attempts = missing.oldest, 0
            self._request(missing, now)
        elif not missing.retry:
            self._count_gone(missing, missing.last + 1)
            self._finish(missing)
        elif missing.attempts < MAX_ATTEMPTS:
            self._to_request.appendleft(missing)
        else:
            for index in missing.waiting:
                if self._endpoints[index].last_reply < missing.first_asked:
                    self._silent.add(index)
                    self._endpoints[index].hello_at = now + HELLO_S
            self._finish(missing)

    def _count_gone(self, missing: MissingRange, until: int) -> None:
        if not missing.joining:  # ticks from before we joined are not lost
            self._counters.gone = min(self._counters.gone + until - missing.due, MAX_COUNT)

    # ---- replies -----------------------------------------------------------------------

    def replied(self, index: int, now: float) -> None:
        """Note that an endpoint sent a valid reply."""
        endpoint = self._endpoints[index]
        if now < endpoint.rests_until:
            return
        endpoint.last_reply = now
        if index in self._silent:
            self._silent.discard(index)
            endpoint.hello_at = NEVER

    def invalid_reply(self, index: int, now: float) -> None:
        """Note an invalid reply; after several the endpoint is left alone for a while."""
        endpoint = self._endpoints[index]
        endpoint.invalid += 1
        if endpoint.invalid < MAX_INVALID or now < endpoint.rests_until:
            return
        endpoint.invalid = 0
        self._silent.add(index)
        endpoint.rests_until = endpoint.hello_at = now + REST_S
        for missing in [m for m in self._requested.values() if index in m.waiting]:
            self._no_ticks(index, missing, now)

    def reconnected(self, index: int, now: float) -> None:
        """Ask a redialled endpoint who it is, since earlier requests are lost."""
        self._endpoints[index].introduced = False
        self._endpoints[index].hello_at = now

    def welcome(self, index: int, reply: Welcome) -> None:
        """Note whose endpoint it is; request a snapshot of a new run."""
        endpoint = self._endpoints[index]
        endpoint.introduced = endpoint.run_id == reply.run_id
        if not endpoint.introduced:
            endpoint.run_id = reply.run_id
            self.outgoing.append((index, SnapshotRequest()))

    def snapshot(self, index: int, run_id: str) -> None:
        """Note that an endpoint has sent a snapshot of its run."""
        self._endpoints[index].run_id = run_id
        self._endpoints[index].introduced = True

    def open_request(self, stream: str, run_id: str) -> MissingRange | None:
        """Return the range that is being requested of a stream's run."""
        missing = self._requested.get(stream)
        return None if missing is None or missing.run_id != run_id else missing

    def advance(self, index: int, missing: MissingRange, due: int, now: float) -> None:
        """Continue at number `due`, since the ticks before it have come."""
        self._endpoints[index].run_id = missing.run_id
        self._endpoints[index].invalid = 0
        self._counters.recovered += due - missing.due
        missing.due, missing.attempts, missing.joining = due, 0, False
        self._requested.pop(missing.stream)
        if due > missing.last:
            self._finish(missing)
        else:
            self._request(missing, now)

    def gone(self, index: int, reply: Gone, now: float) -> None:
        """Note that an endpoint does not have the requested ticks, or only a later part."""
        missing = self.open_request(reply.stream, reply.run_id)
        if missing is None or index not in missing.waiting:
            return
        if missing.due < reply.oldest_seq <= missing.last:
            known = missing.oldest
            missing.oldest = reply.oldest_seq if known is None else min(known, reply.oldest_seq)
        self._no_ticks(index, missing, now)

    def busy(self, index: int, reply: Busy, now: float) -> None:
        """Note that an endpoint is busy, and send no request before it is ready."""
        retry_at = now + min(reply.retry_ms / 1000, MAX_RETRY_S)
        endpoint = self._endpoints[index]
        if not reply.stream and not endpoint.introduced:
            endpoint.hello_at = retry_at
            endpoint.run_id = None
            return
        missing = self._requested.get(reply.stream)
        if missing is None:  # replies come in the order of the requests
            missing = next((m for m in self._requested.values() if index in m.waiting), None)
        if missing is None or index not in missing.waiting:
            return
        self._counters.timeouts += 1
        self._not_before = max(self._not_before, retry_at)
        missing.retry = True
        self._no_ticks(index, missing, now)

    def _no_ticks(self, index: int, missing: MissingRange, now: float) -> None:
        missing.waiting.discard(index)
        if not missing.waiting:
            self._settle(missing, now)


def _size(message: QueuedMessage) -> int:
    return MESSAGE_BYTES + (sum(map(len, message)) if isinstance(message, list) else 0)


MAX_REQUESTS_WAITING = 100
"""For an endpoint that is away; further ones are lost, and by then nobody waits for replies."""

MAX_REPLIES_WAITING = 4 * MAX_CONCURRENT

MAX_REPLIES_READ = 64
"""At a time, from each endpoint."""


class RecoveryLink:
    """Sockets of a subscriber for recovery: one DEALER for each endpoint, by its index.

    security: keys. inbound: of the subscriber, which takes the replies too.

    Raises EndpointError for an invalid endpoint. The context closes the sockets.
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
                send_hwm=MAX_REQUESTS_WAITING,
                receive_hwm=MAX_REPLIES_WAITING,
                max_frame_bytes=MAX_FRAME_BYTES,
            )
            self.sockets.append(socket)
            self._connections.append(Connections(socket, [endpoint], security, inbound))

    def maintain(self, now: float) -> list[int]:
        """Redial the endpoints that libzmq has given up; return those that were redialled."""
        return [
            index
            for index, connections in enumerate(self._connections)
            if connections.redial.pending and connections.maintain(now)
        ]

    def send(self, requests: deque[tuple[int, Request]]) -> None:
        """Send all requests, each to the endpoint with its index."""
        while requests:
            index, request = requests.popleft()
            with suppress(zmq.Again):
                self.sockets[index].send(encode_side(request), zmq.NOBLOCK)

    def replies(self) -> Iterator[tuple[int, bytes]]:
        """Yield the replies that have come, each with the index of its endpoint."""
        for index, socket in enumerate(self.sockets):
            for _ in range(MAX_REPLIES_READ):
                try:
                    frames = socket.recv_multipart(zmq.NOBLOCK)
                except zmq.Again:
                    break
                yield index, frames[-1]
