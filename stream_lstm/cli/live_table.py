"""The table of a running daemon, redrawn in place on standard error where that is a terminal.

It reads the counters that are kept anyway, a few times a second, between two messages; a tick
costs it nothing. Where standard error is no terminal there is no table, only lines.
"""

from __future__ import annotations

import functools
import itertools
import os
import sys
from collections import deque
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Any

import typer

from ..events import Input, Notice, Output, Prediction

if TYPE_CHECKING:
    from ..core.fleet_view import FleetStream
    from ..core.sessions import AnySession
    from ..core.stream import StreamState

REFRESH_S = 0.25

MAX_ROWS = 12
"""Streams shown; drawing takes a few milliseconds, in which no tick is taken."""

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


class LiveTable:
    """An observer of a daemon and a screen for it; a context manager.

    clock: seconds, monotonic. `say` writes a line, above the table if there is one, else by
    `write`.
    """

    def __init__(
        self, clock: Callable[[], float], write: Callable[[str], object] | None = None
    ) -> None:
        self._clock = clock
        self._write = write or functools.partial(typer.echo, err=True)
        self._p: dict[str, float] = {}
        self._counted: deque[tuple[float, dict[str, int]]] = deque(maxlen=RATE_SAMPLES)
        self._session: AnySession | None = None
        self._live: Any = None

    def show(self, session: AnySession) -> None:
        """Begin to draw the table of a session, on a terminal."""
        if not sys.stderr.isatty() or os.environ.get("TERM", "dumb") == "dumb":
            return
        from rich.console import Console
        from rich.live import Live

        self._session = session
        console = Console(stderr=True, highlight=False, markup=False)
        self._live = Live(console=console, auto_refresh=False)
        self._live.start()

    def __call__(self, event: Input | Output | Notice) -> None:
        """Take an event."""
        if isinstance(event, Prediction):
            self._p[event.stream] = event.p

    def say(self, line: str) -> None:
        """Write a line to standard error."""
        if self._live is None:
            self._write(line)
        else:
            self._live.console.print(line, soft_wrap=True)

    def refresh(self) -> None:
        """Draw the table as things are now."""
        if self._live is not None and self._session is not None:
            self._live.update(self._table(self._session), refresh=True)

    def _table(self, session: AnySession) -> Any:
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
        for title, width in TITLES.items():
            side: Any = "left" if title == "stream" else "right"
            table.add_column(title, justify=side, no_wrap=True, min_width=width, max_width=width)
        streams: Iterable[StreamState | FleetStream] = session.streams.values()
        shown = list(itertools.islice(streams, MAX_ROWS))
        rates = self._rates({stream.name: stream.n for stream in shown})
        for stream in shown:
            # a name may look like markup or an emoji code, which Text does not read
            cells = row(stream, self._p.get(stream.name), rates[stream.name])
            table.add_row(*map(Text, cells))
        if more := len(session.streams) - len(shown):
            table.add_row(Text(f"{more} more"))
        return table

    def _rates(self, counts: dict[str, int]) -> dict[str, float]:
        """Return elements a second of each stream since the oldest sample."""
        now = self._clock()
        self._counted.append((now, counts))
        then, before = self._counted[0]
        seconds = max(now - then, 1e-9)
        return {name: (n - before.get(name, 0)) / seconds for name, n in counts.items()}

    def __enter__(self) -> LiveTable:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self.refresh()
            self._live.stop()
            self._live = None


def row(stream: StreamState | FleetStream, p: float | None, rate: float) -> list[str]:
    """Return the cells of a stream, for TITLES."""
    scores, counters = stream.scores.means(), stream.counters
    return [
        stream.name if len(stream.name) <= NAME_WIDTH else stream.name[: NAME_WIDTH - 1] + "…",
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
