"""What people are told of the peers that were refused."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from ..core.verdict import count as count_of
from ..serve.logs import Spacing
from .process import say

if TYPE_CHECKING:
    from ..feed.security import Security

PERIOD_S = 1.0

NOT_ADMITTED = "not_admitted"
GIVEN_UP = "given_up"


def refused_peers(counts: Mapping[str, int]) -> str:
    """Return the refusals by reason as one phrase, "" where there were none."""
    return ", ".join(f"{count:,} {reason.replace('_', ' ')}" for reason, count in counts.items())


def print_refused_peers(counts: Mapping[str, int]) -> None:
    """Print how many peers were refused, if any were."""
    if counts:
        say(f"peers refused: {refused_peers(counts)}")


class PeerLog:
    """Tells of peers that were refused, and of those that refused us.

    write: takes a line. clock: seconds, monotonic. `tend` is called once a second.
    """

    def __init__(
        self,
        security: Security,
        write: Callable[[str], object],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._security = security
        self._write = write
        self._spacing = Spacing(clock)
        self._told: dict[str, int] = {}

    def tend(self) -> None:
        """Write what is new of the reasons that are due."""
        self._tell(self._spacing.due)

    def flush(self) -> None:
        """Write all that is new."""
        self._tell(lambda _: True)

    def _tell(self, due: Callable[[str], bool]) -> None:
        new = {
            reason: count - self._told.get(reason, 0)
            for reason, count in self._security.counts().items()
            if count > self._told.get(reason, 0) and due(reason)
        }
        for reason, count in new.items():
            self._spacing.written(reason)
            self._told[reason] = self._told.get(reason, 0) + count
        ours = NOT_ADMITTED, GIVEN_UP
        admitted = {reason: count for reason, count in new.items() if reason not in ours}
        if admitted:
            self._write(f"peers refused: {refused_peers(admitted)}")
        if NOT_ADMITTED in new:
            times = count_of(new[NOT_ADMITTED], "times")
            self._write(f"not let in by whom we connect to, {times}: {self._security.advice}")
        if GIVEN_UP in new:
            for endpoint, why in self._security.take_given_up().items():
                self._write(f"the connection to {endpoint} was given up: {why}")
