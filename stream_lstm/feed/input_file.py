"""A historical file, or a synthetic stream in its place, and how its rows become ticks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec

from ..events import Refusal
from ..schema import OnBad, StreamConfig
from .synthetic import SOURCES, SyntheticSource

if TYPE_CHECKING:
    from .files import FileSource

SYNTHETIC_TICKS = 1_000_000
"""Length of a synthetic stream without a limit."""

Progress: TypeAlias = "Callable[[FileSource, int | None], AbstractContextManager[ReportTicks]]"
"""Opens the progress report of a file that is read up to a limit of ticks."""

ReportTicks: TypeAlias = Callable[[int], object]
"""Takes the number of ticks done so far."""


def no_progress(_source: FileSource, _limit: int | None) -> AbstractContextManager[ReportTicks]:
    """Report nothing."""
    return nullcontext(lambda _: None)


class InputFile(msgspec.Struct, frozen=True, tag="file"):
    """A historical file and how its rows become ticks.

    stream: name of the stream, unless the column `stream_column` names the stream of each row.
    """

    path: Path
    stream: str
    time: str | None = None
    time_unit: Any = "auto"
    on_bad_row: OnBad = "fail"
    limit: int | None = None
    stream_column: str | None = None

    def default_features(self) -> tuple[str, ...]:
        """Return the features of a stream whose meaning is known; a file has none."""
        return ()

    def informative(self, config: StreamConfig) -> Any:  # noqa: ARG002 - of a file none is known
        """Return which labels the best forecast can predict, bool (n,); None if unknown."""
        return None

    def open(
        self,
        columns: Sequence[str] | None,
        on_refusal: Callable[[Refusal], None] = lambda _: None,
        **options: Any,
    ) -> FileSource:
        """Open the file; options and errors are those of `feed.files.open_file`."""
        from .files import open_file  # Arrow takes a while to import

        return open_file(
            self.path,
            columns=columns,
            time=self.time,
            time_unit=self.time_unit,
            on_bad_row=self.on_bad_row,
            limit=self.limit,
            on_refusal=on_refusal,
            key=self.stream_column,
            **options,
        )


class SyntheticInput(InputFile, frozen=True, kw_only=True, tag="synthetic"):
    """A seeded synthetic stream in the place of a file; `path` is its name."""

    seed: int = 0

    def source(self) -> SyntheticSource:
        """Return the series from its first element on."""
        return SOURCES[self.path.name](self.seed)

    def default_features(self) -> tuple[str, ...]:
        """Return the column whose sign is predicted."""
        return self.source().columns[:1]

    def open(
        self,
        columns: Sequence[str] | None,
        on_refusal: Callable[[Refusal], None] = lambda _: None,
        **options: Any,
    ) -> FileSource:
        """Open the stream like a file."""
        from .files import FileSource
        from .reader import CHUNK_ROWS
        from .synthetic import SyntheticReader

        rows = options.get("chunk_rows", CHUNK_ROWS)
        count = SYNTHETIC_TICKS if self.limit is None else self.limit
        return FileSource(
            self.path,
            SyntheticReader(self.source(), columns=columns, count=count, chunk_rows=rows),
            on_bad_row=self.on_bad_row,
            limit=count,
            chunk_rows=rows,
            on_refusal=on_refusal,
        )

    def informative(self, config: StreamConfig) -> Any:
        """Return which labels the best forecast can predict, bool (n,); None if unknown."""
        source = self.source()
        if config.features[0] != source.columns[0] or config.horizon != 1:
            return None
        values = source.block(SYNTHETIC_TICKS if self.limit is None else self.limit)
        return source.best(values) != 0.5


class LabelColumn(msgspec.Struct, frozen=True):
    """A column of labels, and their delay in elements or, with `delay_ns`, in nanoseconds."""

    name: str
    delay: int = 0
    delay_ns: int | None = None

    def columns(self, used: Sequence[str]) -> tuple[str, ...]:
        """Return the columns to read: those in use, and this one."""
        return (*used, *((self.name,) if self.name not in used else ()))


@contextmanager
def check_order(
    file: InputFile, warn: Callable[[str], object], *, enabled: bool = True
) -> Iterator[Callable[..., None]]:
    """Give a function that takes rows as `TimeOrder.look` does; warn at the end of disorder."""
    from .files import TimeOrder

    order = TimeOrder()
    yield order.look if enabled and file.time is not None else lambda *_: None
    if line := order.warning(f"{file.path}:{order.first}"):
        warn(line)
