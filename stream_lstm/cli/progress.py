"""Progress bars on standard error, where that is a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeAlias

from ..quoting import printable

if TYPE_CHECKING:
    from ..feed.files import FileSource

Report: TypeAlias = Callable[[int], None]
"""Takes the ticks done so far."""


Steps: TypeAlias = Callable[[int, int], None]
"""Takes how much is done so far, and of how much."""


@contextmanager
def file_progress(source: FileSource, limit: int | None) -> Iterator[Report]:
    """Give a function to report the ticks done with; without a terminal it does nothing.

    How much is done goes by bytes of the file, or by ticks where `limit` ends it sooner.
    """
    with _bar(source.path.name, "rows") as show:
        yield lambda ticks: show(ticks, done(source, ticks, limit))


@contextmanager
def step_progress(name: str, unit: str = "") -> Iterator[Steps]:
    """Give a function to report (done, of how many) with; without a terminal it does nothing.

    Without a unit it is parts of the work that are reported, which are not shown themselves.
    """
    with _bar(name, unit) as show:
        yield lambda done, total: show(done, done / max(total, 1))


@contextmanager
def _bar(name: str, unit: str) -> Iterator[Callable[[int, float], None]]:
    """Give a function that shows how many are done, and what share of all that is."""
    if not sys.stderr.isatty():
        yield lambda *_: None
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    counted = f"{{task.fields[count]:,}} {unit}, {{task.fields[rate]:,.0f}}/s" if unit else ""
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        TextColumn("{task.percentage:>3.0f}%"),
        TextColumn(counted),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    with bar:
        task = bar.add_task(escape(printable(name)), total=1.0, count=0, rate=0.0)

        def show(count: int, share: float) -> None:
            seconds = bar.tasks[0].elapsed or 0.0
            rate = count / seconds if seconds else 0.0
            bar.update(task, completed=share, count=count, rate=rate)

        yield show


def done(source: FileSource, ticks: int, limit: int | None) -> float:
    """Return the share of the work that is done, 0 to 1."""
    by_bytes = source.bytes_read / max(source.bytes_total, 1)
    return min(1.0, max(by_bytes, ticks / limit if limit else 0.0))
