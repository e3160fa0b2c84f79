"""What commands print: results on standard output, everything else on standard error.

`--quiet` leaves errors and results, `--verbose` adds details. Whatever a line quotes is made
printable, so it cannot control the terminal. Progress bars and the live table are drawn on a
terminal alone; elsewhere there are only lines.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import typer

from ..closing import Closing
from ..errors import StreamLSTMError, UsageError
from ..events import Input, Notice, Output, Prediction
from ..quoting import json_line, printable
from ..schema import LogFormat
from ..serve.logs import Pipe, to_standard_error

if TYPE_CHECKING:
    from rich.table import Table

    from ..core.session import Session
    from ..core.stream import StreamView
    from ..feed.files import FileSource

Level: TypeAlias = Literal["quiet", "normal", "verbose"]

_level: list[Level] = ["normal"]
_log_format: list[LogFormat] = ["text"]


def set_level(*, quiet: bool, verbose: bool) -> None:
    """Set how much this process prints."""
    if quiet and verbose:
        raise UsageError("--quiet and --verbose exclude each other: omit one")
    _level[0] = "quiet" if quiet else "verbose" if verbose else "normal"


def set_log_format(form: LogFormat) -> None:
    """Set what warnings and errors are printed as."""
    _log_format[0] = form


def is_quiet() -> bool:
    """Return whether errors and results alone are printed."""
    return _level[0] == "quiet"


def is_verbose() -> bool:
    """Return whether details are printed."""
    return _level[0] == "verbose"


def say(*lines: str) -> None:
    """Print lines of a result on standard output."""
    typer.echo("\n".join(map(printable, lines)))


def say_json(value: Any) -> None:
    """Print the one JSON object of a command."""
    typer.echo(json_line(value))


def result(record: Any, lines: Iterable[str], *, as_json: bool) -> None:
    """Print a result as one JSON object, or as lines."""
    if as_json:
        say_json(record)
    else:
        for line in lines:
            say(line)


def note(*lines: str) -> None:
    """Print lines on standard error, unless quiet or in a log of JSON."""
    if not is_quiet() and _log_format[0] == "text":
        typer.echo("\n".join(map(printable, lines)), err=True)


def warn(line: str) -> None:
    """Print a line on standard error in this program's name, unless quiet."""
    if _log_format[0] == "text":
        note(f"stream-lstm: {line}")
    elif not is_quiet():
        _say_as_json("start", "warning", line)


def detail(line: str) -> None:
    """Print a line on standard error if verbose."""
    if is_verbose():
        warn(line)


def report_error(error: StreamLSTMError) -> None:
    """Print an error on standard error."""
    if _log_format[0] == "json":
        _say_as_json("failed", "error", *error.lines, exit_code=error.exit_code)
        return
    line, *more = error.lines or ("",)
    typer.echo("\n".join(map(printable, (f"stream-lstm: {line}", *more))), err=True)


def _say_as_json(
    event: str, level: Literal["warning", "error"], *lines: str, **fields: Any
) -> None:
    from ..serve.logs import Log

    log = Log("json", lambda line: typer.echo(line, err=True))
    log.say(event, *lines, level=level, **fields)


def columns(rows: Sequence[Sequence[str]], widths: Sequence[int] = ()) -> list[str]:
    """Return rows of cells as lines: the first column to the left, the others to the right."""
    sizes = [max(map(len, column)) for column in zip(*rows, strict=True)]
    sizes = [max(pair) for pair in itertools.zip_longest(sizes, widths, fillvalue=0)]
    return [
        "  ".join(
            cell.rjust(size) if place else cell.ljust(size)
            for place, (cell, size) in enumerate(zip(row, sizes, strict=True))
        ).rstrip()
        for row in rows
    ]


# ---- progress bars --------------------------------------------------------------------------


@contextmanager
def file_progress(source: FileSource, limit: int | None) -> Iterator[Callable[[int], None]]:
    """Give a function that takes the ticks done so far, and draws a bar on a terminal.

    The bar follows the bytes of the file, or the ticks where `limit` ends it sooner.
    """

    def share(ticks: int) -> float:
        by_bytes = source.bytes_read / max(source.bytes_total, 1)
        return min(1.0, max(by_bytes, ticks / limit if limit else 0.0))

    with _bar(source.path.name, "rows") as show:
        yield lambda ticks: show(ticks, share(ticks))


@contextmanager
def step_progress(name: str, unit: str = "") -> Iterator[Callable[[int, int], None]]:
    """Give a function that takes (done, total), and draws a bar on a terminal.

    Without a unit the bar shows the share and no count.
    """
    with _bar(name, unit) as show:
        yield lambda done, total: show(done, done / max(total, 1))


@contextmanager
def _bar(name: str, unit: str) -> Iterator[Callable[[int, float], None]]:
    """Give a function that shows a count and the share that is done."""
    bar = progress_bar(
        f"{{task.fields[count]:,}} {unit}, {{task.fields[rate]:,.0f}}/s" * bool(unit)
    )
    if bar is None:
        yield lambda *_: None
        return
    from rich.markup import escape

    with bar:
        task = bar.add_task(escape(printable(name)), total=1.0, count=0, rate=0.0)

        def show(count: int, share: float) -> None:
            seconds = bar.tasks[0].elapsed or 0.0
            rate = count / seconds if seconds else 0.0
            bar.update(task, completed=share, count=count, rate=rate)

        yield show


def progress_bar(text: str) -> Any:
    """Return a bar with a text beside it; None without a terminal, and if quiet."""
    if is_quiet() or not sys.stderr.isatty():
        return None
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        TextColumn("{task.percentage:>3.0f}%"),
        TextColumn(text),
        TimeRemainingColumn(),
        console=Console(stderr=True, highlight=False),
        transient=True,
    )


# ---- the table of a running daemon ----------------------------------------------------------

REFRESH_S = 0.25

MAX_ROWS = 12
"""Streams shown; reading the counters of one takes some 20 microseconds."""

RATE_SAMPLES = 9
"""Refreshes that the rate is averaged over: two seconds."""

NAME_WIDTH = 10

TITLES = {
    "stream": NAME_WIDTH,
    "elements": 8,
    "preds": 6,
    "p": 5,
    "right": 5,
    "loss": 5,
    "base": 5,
    "updates": 7,
    "refused": 7,
    "gaps": 5,
    "/s": 6,
}
"""Titles and widths of the columns; `loss` is the model's log loss, `base` the base rate's."""

FIGURES = ("accuracy", "log_loss", "base_rate_log_loss")

ROLLED_BACK = "!"
"""Follows the updates of a stream whose learning was rolled back."""


class LiveTable(Closing):
    """An observer of a daemon that draws a table; a context manager, within that of its pipe.

    The loop reads the daemon's counters a few times a second, between two messages. The thread of
    the pipe draws them, so a stopped terminal delays no tick. clock: seconds, monotonic. pipe:
    writes lines above the table, and draws.
    """

    def __init__(self, clock: Callable[[], float], pipe: Pipe) -> None:
        self._clock = clock
        self._pipe = pipe
        self._p: dict[str, float] = {}
        self._counted: deque[tuple[float, dict[str, int]]] = deque(maxlen=RATE_SAMPLES)
        self._session: Session | None = None
        self._live: Any = None
        self._stack = ExitStack()

    def show(self, session: Session) -> None:
        """Begin to draw the table of a session, on a terminal."""
        if is_quiet() or not sys.stderr.isatty() or os.environ.get("TERM", "dumb") == "dumb":
            return
        from rich.console import Console
        from rich.live import Live

        from ..serve.runtime import quick_switches

        self._session = session
        screen: Any = _Screen()
        console = Console(file=screen, highlight=False, markup=False)
        self._live = Live(
            console=console, auto_refresh=False, redirect_stdout=False, redirect_stderr=False
        )
        live_table(())  # so that nothing is imported once there are ticks
        self._stack.enter_context(quick_switches())
        self._pipe.write = self._above

    def __call__(self, event: Input | Output | Notice) -> None:
        """Take an event."""
        if isinstance(event, Prediction):
            self._p[event.stream] = event.p

    def refresh(self) -> None:
        """Ask for the table to be drawn with the present counters; waits for no terminal."""
        if self._session is not None:
            rows = self._rows(self._session)
            self._pipe.draw(lambda: self._draw(rows))

    def close(self) -> None:
        """Ask for the table to be drawn for the last time."""
        if self._session is not None:
            rows = self._rows(self._session)
            self._pipe.draw(lambda: self._draw(rows, last=True))
            self._session = None
        self._stack.close()

    def _rows(self, session: Session) -> list[list[str]]:
        """Return the cells of the streams that are shown, and the number of the others."""
        streams = session.streams
        shown = list(itertools.islice(streams.values(), MAX_ROWS))
        rates = self._rates({stream.name: stream.n for stream in shown})
        rows = [_cells(stream, self._p.get(stream.name), rates[stream.name]) for stream in shown]
        if more := len(streams) - len(shown):
            rows.append([f"{more} more"])
        return rows

    def _rates(self, counts: dict[str, int]) -> dict[str, float]:
        """Return elements a second of each stream since the oldest sample."""
        now = self._clock()
        self._counted.append((now, counts))
        then, before = self._counted[0]
        seconds = max(now - then, 1e-9)
        return {name: (n - before.get(name, 0)) / seconds for name, n in counts.items()}

    # in the thread of the pipe:

    def _above(self, text: str) -> None:
        self._live.console.print(text, soft_wrap=True, end="")

    def _draw(self, rows: list[list[str]], *, last: bool = False) -> None:
        self._live.start()
        self._live.update(live_table(rows), refresh=not last)
        if last:
            self._live.stop()


class _Screen(io.TextIOBase):
    """Standard error, a terminal, for rich; if it is gone, writing is ignored."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError):
            to_standard_error(text)
        return len(text)


def live_table(rows: Sequence[Sequence[str]]) -> Table:
    """Return the table with these cells."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
    for title, width in TITLES.items():
        side: Any = "left" if title == "stream" else "right"
        table.add_column(title, justify=side, no_wrap=True, min_width=width, max_width=width)
    for cells in rows:
        # a name may look like markup or an emoji code, which Text does not read
        table.add_row(*map(Text, cells))
    return table


def _cells(stream: StreamView, p: float | None, rate: float) -> list[str]:
    """Return the cells of a stream, for TITLES."""
    scores, counters = stream.scores.means(), stream.counters
    return [
        printable(stream.name, NAME_WIDTH),
        short(stream.n),
        short(counters.predictions),
        "" if p is None else f"{p:.3f}",
        *("" if (v := scores[key]) is None else f"{v:.3f}" for key in FIGURES),
        short(counters.updates) + ROLLED_BACK * (counters.rollbacks > 0),
        short(counters.refused_ticks + counters.refused_labels + counters.updates_refused),
        short(counters.gaps),
        short(round(rate)),
    ]


def short(count: int) -> str:
    """Return a count in at most six characters: 99999, 100.0k, 12.3M."""
    if count < 100_000:
        return str(count)
    for limit, unit in ((1e6, "k"), (1e9, "M")):
        if count < limit:
            return f"{count / limit * 1e3:.1f}{unit}"
    return f"{count / 1e9:.1f}G"
