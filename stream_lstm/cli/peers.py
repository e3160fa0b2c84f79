"""What people are told of the peers that were refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from ..feed.security import Security

PERIOD_S = 1.0


def refused_peers(counts: Mapping[str, int]) -> str:
    """Return the refusals by reason as one phrase, "" where there were none."""
    return ", ".join(f"{count:,} {reason.replace('_', ' ')}" for reason, count in counts.items())


def print_refused_peers(counts: Mapping[str, int]) -> None:
    """Print how many peers were refused, if any were."""
    if counts:
        typer.echo(f"peers refused: {refused_peers(counts)}")


class PeerLog:
    """Tells of peers that were refused since it last did; `flush` is called once a second."""

    def __init__(self, security: Security, write: Callable[[str], object]) -> None:
        self._security = security
        self._write = write
        self._told: dict[str, int] = {}

    def flush(self) -> None:
        """Write a line if more were refused."""
        counts = self._security.counts()
        new = {reason: n - self._told.get(reason, 0) for reason, n in counts.items()}
        self._told = counts
        if any(new.values()):
            told = {reason: count for reason, count in new.items() if count}
            self._write(f"peers refused: {refused_peers(told)}")
