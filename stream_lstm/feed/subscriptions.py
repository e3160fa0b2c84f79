"""Who listens to a publisher, from the subscriptions that its XPUB socket sees.

What is counted are open subscriptions and not subscribers, which ZeroMQ does not tell apart: one
subscriber with two prefixes that both match counts twice. The `Subscriber` of this package has
one for each kind of topic and configured stream, and asks for ticks last, so that for one topic
of ticks the count is the number of subscribers, and all that they asked for is in place.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable

import zmq

from ..errors import EndpointError
from .security import Socket
from .turns import is_signalled

MAX_PREFIXES = 100_000
"""Prefixes that are counted, as many as there may be streams; more are served all the same."""

LOOK_S = 0.05
"""Between two looks at most: another thread's send may take the signal that something came."""


class Subscriptions:
    """The open subscriptions at an XPUB socket; makes the socket report each one."""

    def __init__(self, socket: Socket) -> None:
        socket.setsockopt(zmq.XPUB_VERBOSER, 1)
        self._socket = socket
        self._open: Counter[bytes] = Counter()

    def drain(self) -> None:
        """Read what came; left unread it would pile up in the socket."""
        while True:
            try:
                message = self._socket.recv(zmq.NOBLOCK)
            except zmq.Again:
                return
            self._apply(message)

    def _apply(self, message: bytes) -> None:
        prefix = message[1:]
        if message[:1] == b"\x01":
            if prefix in self._open or len(self._open) < MAX_PREFIXES:
                self._open[prefix] += 1
        elif message[:1] == b"\x00" and self._open[prefix] > 1:
            self._open[prefix] -= 1
        else:
            del self._open[prefix]

    def count(self, topic: bytes) -> int:
        """Return how many open subscriptions match a topic.

        A topic of a kind alone, such as `tick/`, is matched by any that let one of the kind in.
        """
        return sum(
            count
            for prefix, count in self._open.items()
            if topic.startswith(prefix) or (topic.count(b"/") == 1 and prefix.startswith(topic))
        )

    def wanted(self, topic: bytes) -> bool:
        """Return whether a subscription matches a topic, or may where too many are open."""
        return len(self._open) >= MAX_PREFIXES or self.count(topic) > 0

    def wait(
        self,
        topic: bytes,
        count: int,
        timeout_s: float,
        turn: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext,
    ) -> int:
        """Wait until `count` subscriptions match a topic and return how many do.

        turn: holds the socket for a look. Raises EndpointError after `timeout_s` seconds.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            with turn():
                self.drain()
                found = self.count(topic)
                signal = int(self._socket.getsockopt(zmq.FD))
                endpoint = self._socket.getsockopt_string(zmq.LAST_ENDPOINT)
            left_s = deadline - time.monotonic()
            if found >= count:
                return found
            if left_s <= 0:
                raise EndpointError(
                    f"{found} of {count} subscribers came to {endpoint} within {timeout_s:g} s: "
                    "start them, or check the endpoint that they connect to"
                )
            # the descriptor in place of the socket, which only the one whose turn it is may use
            is_signalled([signal], min(left_s, LOOK_S))
