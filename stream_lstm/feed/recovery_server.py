"""The side of a publisher that answers: a ROUTER socket in a thread of its own.

A thread of its own, because `publish` waits for a slow subscriber, and the slow subscriber may be
the one that asks. It shares with the publisher nothing but the ring.

It may take a quarter of a core: after an answer it rests three times as long as that took, during
which requests wait in the socket and then with who sends them. So however many ask, the publisher
keeps its pace. A peer that reads no replies has QUEUE of them waiting, and further ones are lost.
"""

from __future__ import annotations

import select
import socket as sockets
import threading
import time
from collections.abc import Callable
from typing import Any

import zmq

from .encode import encode_side
from .endpoints import ASKING_BUFFER, Binding, open_socket
from .guard import Inbound
from .records import Welcome
from .recovery_desk import RecoveryDesk
from .ring import Ring
from .security import Security

QUEUE = 8
"""Replies that wait for one peer: twice as many as an honest one asks for at a time."""

REQUESTS_WAITING = 100
"""Requests that wait of one peer."""

MAX_REQUEST_BYTES = 4096
"""A request with the longest names is a quarter of that. Who sends more is disconnected."""

MAX_MESSAGE_BYTES = 2**20
"""Of one request with all its parts, however many: an honest one has two or three."""

REST = 3.0
"""Time of rest after an answer, as a multiple of what that took."""

QUIET_S = 2.0
"""After a request in which another may come: as long as who asks waits for an answer."""

MAX_REST_S = 0.1
"""Of rest at a time: a thread that waited long for its turn is not to rest for as long again."""


class RecoveryServer:
    """Answers requests for the ticks of a ring at an endpoint, until it is closed.

    `endpoint` is the actual one. security: keys, and who may ask. clock: seconds, monotonic.

    Raises EndpointError if the endpoint cannot be bound, ConfigurationError if it must not be.
    """

    def __init__(
        self,
        context: zmq.Context[Any],
        bind: str,
        ring: Ring,
        session: str,
        columns: tuple[str, ...],
        *,
        security: Security,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._last_asked = clock()
        self._inbound = Inbound(MAX_MESSAGE_BYTES)
        self._socket = open_socket(
            context,
            zmq.ROUTER,
            send_hwm=QUEUE,
            receive_hwm=REQUESTS_WAITING,
            max_frame_bytes=MAX_REQUEST_BYTES,
            receive_buffer=ASKING_BUFFER,
        )
        try:
            self._socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
            self._binding = Binding(self._socket, bind, security, self._inbound)
        except BaseException:
            self._socket.close(linger=0)
            raise
        self.endpoint = self._binding.endpoint
        self._probe = encode_side(Welcome(session=session, columns=columns))
        self.desk = RecoveryDesk(ring, session, columns, clock=clock, present=self._present)
        self._wakeup, self._closing = sockets.socketpair()
        self._thread = threading.Thread(target=self._serve, name="recovery", daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        """Answer until it is woken to close; only this thread uses the socket."""
        poller = zmq.Poller()
        poller.register(self._socket, zmq.POLLIN)
        poller.register(self._wakeup, zmq.POLLIN)
        while True:
            self._inbound.waiting = True
            ready = poller.poll()
            self._inbound.waiting = False
            if any(source == self._wakeup.fileno() for source, _ in ready):
                break
            start = time.monotonic()
            self._answer()
            rest_s = min(REST * (time.monotonic() - start), MAX_REST_S)
            if select.select([self._wakeup], [], [], rest_s)[0]:
                break
        self._socket.close(linger=0)

    def _answer(self) -> None:
        try:
            frames = self._socket.recv_multipart(zmq.NOBLOCK)
        except zmq.Again:
            return
        self._inbound.taken += sum(map(len, frames))
        self._last_asked = self._clock()
        # A REQ socket puts an empty frame before its request, and wants one before the reply.
        if len(frames) not in (2, 3) or (len(frames) == 3 and frames[1]):
            self.desk.counters.refused += 1
            return
        reply = self.desk.answer(frames[0], frames[-1])
        if reply is not None:
            self._send([*frames[:-1], reply])

    def _send(self, frames: list[bytes]) -> bool:
        """Send a reply; return whether its receiver is still there."""
        try:
            self._socket.send_multipart(frames, zmq.NOBLOCK)
        except zmq.Again:
            return True  # it reads nothing: what it misses it may ask for again
        except zmq.ZMQError as error:
            if error.errno != zmq.EHOSTUNREACH:
                raise
            return False
        return True

    def _present(self, peer: bytes) -> bool:
        return self._send([peer, self._probe])

    def still_asked(self, patience_s: float) -> bool:
        """Return whether somebody is likely to ask on; see `Publisher.still_asked`."""
        unasked_s = self._clock() - self._last_asked
        return unasked_s < (patience_s if self.desk.unfinished else QUIET_S)

    def close(self) -> None:
        """Stop answering."""
        if not self._thread.is_alive():
            return
        self._closing.send(b"x")
        self._thread.join()
        self._closing.close()
        self._wakeup.close()
        self._binding.close()
