"""The sockets with which a subscriber asks for what it lacks: a DEALER for each endpoint.

A request that cannot be sent is lost, like one that the publisher did not get: both show as an
answer that does not come in time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

import zmq

from .encode import encode_side
from .endpoints import Connections, open_socket
from .guard import Inbound
from .records import MAX_FRAME_BYTES, Request
from .security import Security

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
