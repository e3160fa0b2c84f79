"""Which endpoint may send which stream, where a feed has several endpoints.

The first endpoint that sends ticks, a heartbeat or an end of a stream owns that stream. The policy
`takeover` says what happens when another endpoint sends it:

- `when-gone`: the message is refused while the owner is connected. Once the owner is gone, the
  stream goes over to the endpoint that sends it. A connected owner that is silent is not gone.
- `never`: the message is refused for as long as this process runs.
- `always`: the message is taken. Where it begins another session, the stream goes over.

Labels have no owner: they may come from a process of their own, and the session checks each one.

A stand-by that was refused has numbered its ticks meanwhile. For each stream the owner table keeps
the session of such an endpoint and the number that is due after its last refused message, so that
what was refused is not taken for lost after the take-over.

No socket and no clock is known here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..events import Takeover
from ..tables import TakeoverPolicy


class Owners:
    """The owners of streams, by their place among the endpoints.

    policy: `when-gone`, `never` or `always`. endpoints: all of them, in the order of their places.
    gone: whether the endpoint at a place has lost its connection, with nothing left to read of it.

    The caller bounds the streams that it claims; each keeps one place, and for each endpoint that
    was refused one session and number.
    """

    def __init__(
        self, policy: TakeoverPolicy, endpoints: Sequence[str], gone: Callable[[int], bool]
    ) -> None:
        self.policy = policy
        self.endpoints = tuple(endpoints)
        self._gone = gone
        self._owner: dict[str, int] = {}
        self._refused: dict[str, dict[int, tuple[str, int | None]]] = {}
        self._unheard = 0

    def of(self, stream: str) -> int | None:
        """Return the place of a stream's owner, None where it has no owner."""
        return self._owner.get(stream)

    def guards(self, stream: str) -> bool:
        """Return whether a stream has an owner that not every other endpoint may follow."""
        return self.policy != "always" and stream in self._owner

    def claim(self, stream: str, place: int) -> None:
        """Make an endpoint the owner of a stream that has none."""
        self._owner[stream] = place

    def may_take(self, stream: str) -> bool:
        """Return whether an endpoint that does not own a stream may take it over now."""
        return self.policy == "when-gone" and self._gone(self._owner[stream])

    def take(self, stream: str, place: int) -> Takeover:
        """Make an endpoint the owner of a stream that has another one; return the event."""
        before, self._owner[stream] = self._owner[stream], place
        refused = self._refused.pop(stream, {})
        refused.pop(place, None)
        if refused:
            self._refused[stream] = refused
        return Takeover(stream, self.endpoints[before], self.endpoints[place])

    def refuse(self, stream: str, place: int, session: str, due: int | None) -> str:
        """Note that a message was refused; return the reason.

        due: the number that follows the message in its session, None without numbers.
        """
        self._unheard += 1
        self._refused.setdefault(stream, {})[place] = session, due
        owner, sender = self.endpoints[self._owner[stream]], self.endpoints[place]
        if self.policy == "never":
            rule = "no other endpoint may send it before a restart"
        else:
            rule = "which is connected, and no other endpoint may send it until that one is gone"
        return (
            f"{sender} sent the stream {stream!r} of {owner}; {rule} (takeover = {self.policy!r})"
        )

    def reached(self, stream: str, place: int) -> tuple[str, int | None] | None:
        """Return (session, number due) after the last message refused from an endpoint."""
        return self._refused.get(stream, {}).get(place)

    def heard(self, messages: int) -> bool:
        """Return whether one of the last messages was not refused here.

        messages: how many have been taken since the last call.
        """
        unheard, self._unheard = self._unheard, 0
        return unheard < messages
