"""What a command says beside its result: warnings on standard error, and the memory it took."""

from __future__ import annotations

import resource
import sys

import typer


def warn(line: str) -> None:
    """Print a line on standard error, in this program's name."""
    typer.echo(f"stream-lstm: {line}", err=True)


def peak_rss_bytes() -> int:
    """Return the most memory that this process has held so far."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
