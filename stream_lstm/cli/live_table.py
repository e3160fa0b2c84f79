"""The table of a running daemon, redrawn in place on standard error where that is a terminal.

The loop reads the counters that are kept anyway, a few times a second, between two messages; a
thread draws what was read, so that a terminal that was stopped holds up no tick. Where standard
error is no terminal there is no table, only lines.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import sys
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from ..closing import Closing
from ..events import Input, Notice, Output, Prediction
from ..quoting import printable
from ..serve.logs import Pipe, to_standard_error
from ..serve.runtime import quick_switches

if TYPE_CHECKING:
    from rich.table import Table

    from ..core.session import Session
    from ..core.view import StreamView

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

ROLLED_BACK = "!"
"""Behind the updates of a stream whose learning was rolled back."""


class LiveTable(Closing):
    """An observer of a daemon and a screen for it; a context manager, within that of its pipe.

    clock: seconds, monotonic. pipe: writes the lines, above the table if there is one, and draws.
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
        if not sys.stderr.isatty() or os.environ.get("TERM", "dumb") == "dumb":
            return
        from rich.console import Console
        from rich.live import Live

        self._session = session
        screen: Any = _Screen()
        console = Console(file=screen, highlight=False, markup=False)
        self._live = Live(
            console=console, auto_refresh=False, redirect_stdout=False, redirect_stderr=False
        )
        laid_out(())  # so that nothing is imported once there are ticks
        self._stack.enter_context(quick_switches())
        self._pipe.write = self._above

    def __call__(self, event: Input | Output | Notice) -> None:
        """Take an event."""
        if isinstance(event, Prediction):
            self._p[event.stream] = event.p

    def refresh(self) -> None:
        """Have the table drawn as things are now; waits for no terminal."""
        if self._session is not None:
            rows = self._rows(self._session)
            self._pipe.draw(lambda: self._draw(rows))

    def close(self) -> None:
        """Have the table drawn for the last time."""
        if self._session is not None:
            rows = self._rows(self._session)
            self._pipe.draw(lambda: self._draw(rows, last=True))
            self._session = None
        self._stack.close()

    def _rows(self, session: Session) -> list[list[str]]:
        """Return the cells of the streams that are shown, and how many more there are."""
        streams = session.streams
        shown = list(itertools.islice(streams.values(), MAX_ROWS))
        rates = self._rates({stream.name: stream.n for stream in shown})
        rows = [row(stream, self._p.get(stream.name), rates[stream.name]) for stream in shown]
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

    # ---- in the thread of the pipe ----------------------------------------------------

    def _above(self, text: str) -> None:
        self._live.console.print(text, soft_wrap=True, end="")

    def _draw(self, rows: list[list[str]], *, last: bool = False) -> None:
        self._live.start()
        self._live.update(laid_out(rows), refresh=not last)
        if last:
            self._live.stop()


class _Screen(io.TextIOBase):
    """Standard error, a terminal, for what rich draws; one that is gone takes everything."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError):
            to_standard_error(text)
        return len(text)


def laid_out(rows: Sequence[Sequence[str]]) -> Table:
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


def row(stream: StreamView, p: float | None, rate: float) -> list[str]:
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


FIGURES = ("accuracy", "log_loss", "base_rate_log_loss")


def short(count: int) -> str:
    """Return a count in at most six characters: 99999, 100.0k, 12.3M."""
    if count < 100_000:
        return str(count)
    for limit, unit in ((1e6, "k"), (1e9, "M")):
        if count < limit:
            return f"{count / limit * 1e3:.1f}{unit}"
    return f"{count / 1e9:.1f}G"
