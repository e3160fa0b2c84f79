"""What a command says beside its result: warnings on standard error, and the memory it took."""

from __future__ import annotations

import sys
from typing import Any

import typer

from ..quoting import json_line, printable


def say(*lines: str, err: bool = False) -> None:
    """Print lines on standard output; whatever they quote cannot drive the terminal.

    err: on standard error instead.
    """
    typer.echo("\n".join(map(printable, lines)), err=err)


def say_json(value: Any) -> None:
    """Print the one JSON object of a command."""
    typer.echo(json_line(value))


def warn(line: str, *more: str) -> None:
    """Print a line on standard error, in this program's name."""
    say(f"stream-lstm: {line}", *more, err=True)


def peak_rss_bytes() -> int:
    """Return the most memory that this process has held so far; 0 on Windows."""
    try:
        import resource  # here, since Windows has none
    except ImportError:
        return 0
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
