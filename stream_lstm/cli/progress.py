"""A progress bar over a file, on standard error, where that is a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from ..feed.files import FileSource

Report: TypeAlias = Callable[[int], None]
"""Takes the ticks done so far."""


@contextmanager
def file_progress(source: FileSource, limit: int | None) -> Iterator[Report]:
    """Give a function to report the ticks done with; without a terminal it does nothing.

    How much is done goes by bytes of the file, or by ticks where `limit` ends it sooner.
    """
    if not sys.stderr.isatty():
        yield _quiet
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TextColumn("{task.fields[ticks]:,} rows, {task.fields[rate]:,.0f} rows/s"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    with bar:
        task = bar.add_task(source.path.name, total=1.0, ticks=0, rate=0.0)

        def report(ticks: int) -> None:
            seconds = bar.tasks[0].elapsed or 0.0
            rate = ticks / seconds if seconds else 0.0
            bar.update(task, completed=done(source, ticks, limit), ticks=ticks, rate=rate)

        yield report


def _quiet(ticks: int) -> None:
    """Report to nobody."""


@contextmanager
def step_progress(name: str, unit: str = "") -> Iterator[Callable[[int, int], None]]:
    """Give a function to report (done, of how many) with; without a terminal it does nothing.

    unit: of what is counted, such as "rows", to tell how many and how fast; "" tells neither.
    """
    if not sys.stderr.isatty():
        yield lambda *_: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TextColumn("{task.fields[told]}"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    with bar:
        task = bar.add_task(name, total=None, told="")

        def report(done: int, total: int) -> None:
            seconds = bar.tasks[0].elapsed or 0.0
            rate = done / seconds if seconds else 0.0
            told = f"{done:,} {unit}, {rate:,.0f} {unit}/s" if unit else ""
            bar.update(task, completed=done, total=total, told=told)

        yield report


def done(source: FileSource, ticks: int, limit: int | None) -> float:
    """Return the share of the work that is done, 0 to 1."""
    by_bytes = source.bytes_read / max(source.bytes_total, 1)
    return min(1.0, max(by_bytes, ticks / limit if limit else 0.0))
