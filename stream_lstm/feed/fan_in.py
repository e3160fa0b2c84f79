"""Several SUB sockets, one for each endpoint, behind the two calls that a `Subscriber` makes.

A SUB socket does not say which peer a message came from. With a socket for each endpoint the
message's socket says it. Endpoints take turns: a turn ends after `TURN` messages, or fewer large
ones, so that none starves another.
"""

from __future__ import annotations

import selectors
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import zmq

from .endpoints import Connections

TURN = 64
"""What an endpoint may send in a row: a message counts as one, and as one more for each KiB of its
last frame. Longer turns would gain little: a turn costs one look at each idle socket."""

UNIT_BITS = 10

_EVENTS, _POLLIN, _FD = int(zmq.EVENTS), int(zmq.POLLIN), int(zmq.FD)


class Inlet(NamedTuple):
    """The SUB socket of one endpoint."""

    endpoint: str
    socket: zmq.Socket[Any]
    connections: Connections


def getter(socket: zmq.Socket[Any]) -> Callable[[int], Any]:
    """Return what reads an option, past the layer of pyzmq that makes an enumeration of it."""
    get: Callable[[int], Any] = super(zmq.Socket, socket).get
    return get


class FanIn:
    """Reads the sockets of inlets as if they were one.

    turn_to: is called with the place of the inlet that the next message comes from, where that
    changes. clock: seconds, monotonic.
    """

    def __init__(
        self,
        inlets: Sequence[Inlet],
        turn_to: Callable[[int], object],
        clock: Callable[[], float],
    ) -> None:
        self._inlets = tuple(inlets)
        self._gets = tuple(getter(inlet.socket) for inlet in inlets)
        self._turn_to, self._clock = turn_to, clock
        self._place, self._left = 0, TURN
        self._more = False
        self._selector: selectors.BaseSelector | None = None

    # ---- as a socket ------------------------------------------------------------------

    def get(self, option: int) -> int:
        """Return the events of all sockets together; `option` is `zmq.EVENTS`."""
        events = 0
        for get in self._gets:
            events |= get(option)
        return events

    def recv(self, flags: int, copy: bool) -> Any:
        """Return the next frame; the frames of one message come from one socket.

        Raises zmq.Again where nothing waits.
        """
        if not self._more:
            self._choose()
        frame: Any = self._inlets[self._place].socket.recv(flags, copy)
        self._more = frame.more
        if not frame.more:
            self._left -= 1 + (len(frame) >> UNIT_BITS)
        return frame

    def _choose(self) -> None:
        """Turn to an inlet with a message, which is the present one while its turn lasts.

        Where none has a message the present one stays, and reading it says so.
        """
        first = self._place + (self._left <= 0)
        for step in range(len(self._gets)):
            place = (first + step) % len(self._gets)
            if self._gets[place](_EVENTS) & _POLLIN:
                if place != self._place or self._left <= 0:
                    self._left = TURN
                if place != self._place:
                    self._place = place
                    self._turn_to(place)
                return

    def fileno(self) -> int:
        """Return a descriptor that can be read where that of one socket can be."""
        if self._selector is None:
            self._selector = selectors.DefaultSelector()
            for get in self._gets:
                self._selector.register(get(_FD), selectors.EVENT_READ)
        return int(self._selector.fileno())  # type: ignore[attr-defined]  # epoll and kqueue

    def close(self) -> None:
        """Close the descriptor; the context closes the sockets."""
        if self._selector is not None:
            self._selector.close()

    # ---- as connections ---------------------------------------------------------------

    @property
    def restless(self) -> bool:
        """Whether `tend` has something to look at."""
        return any(inlet.connections.redial.restless for inlet in self._inlets)

    def tend(self, now: float) -> None:
        """Dial what is due; `now` is in seconds, monotonic."""
        for inlet in self._inlets:
            if inlet.connections.redial.restless:
                inlet.connections.tend(now)

    def gone(self, place: int) -> bool:
        """Return whether an endpoint has lost its connection, with nothing left to read of it."""
        inlet = self._inlets[place]
        redial = inlet.connections.redial
        if redial.restless:
            inlet.connections.tend(self._clock())
        return redial.lost(inlet.endpoint) and not self._gets[place](_EVENTS) & _POLLIN
