"""Log lines about peers that were refused, and about peers that refused us."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from .logs import Spacing

if TYPE_CHECKING:
    from ..feed.security import Security

PERIOD_S = 1.0
"""Seconds between two calls of `PeerLog.tend`."""

NOT_ADMITTED = "not_admitted"
GIVEN_UP = "given_up"


def refused_peers(counts: Mapping[str, int]) -> str:
    """Return the refusals by reason as one phrase, "" without any."""
    return ", ".join(f"{count:,} {reason.replace('_', ' ')}" for reason, count in counts.items())


class PeerLog:
    """Logs refusals of peers at a limited rate.

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
        self._logged: dict[str, int] = {}

    def tend(self) -> None:
        """Log new refusals whose reason is due."""
        self._log(self._spacing.due)

    def flush(self) -> None:
        """Log all new refusals."""
        self._log(lambda _: True)

    def _log(self, due: Callable[[str], bool]) -> None:
        new = {
            reason: count - self._logged.get(reason, 0)
            for reason, count in self._security.counts().items()
            if count > self._logged.get(reason, 0) and due(reason)
        }
        for reason, count in new.items():
            self._spacing.written(reason)
            self._logged[reason] = self._logged.get(reason, 0) + count
        ours = NOT_ADMITTED, GIVEN_UP
        refused = {reason: count for reason, count in new.items() if reason not in ours}
        if refused:
            self._write(f"peers refused: {refused_peers(refused)}")
        if NOT_ADMITTED in new:
            number = new[NOT_ADMITTED]
            times = f"{number:,} time{'s' * (number != 1)}"
            self._write(
                f"rejected by the peer that we connect to, {times}: {self._security.advice}"
            )
        if GIVEN_UP in new:
            for endpoint, why in self._security.take_given_up().items():
                self._write(f"gave up the connection to {endpoint}: {why}")
