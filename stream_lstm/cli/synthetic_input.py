"""`--synthetic NAME` in the place of a file: a seeded stream whose best forecast is known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

from ..config import nearest
from ..errors import InputMissingError, UsageError
from ..events import Refusal
from ..feed.synthetic import SOURCES, SyntheticSource
from .input_file import InputFile, input_file

if TYPE_CHECKING:
    from ..feed.files import FileSource

TICKS = 1_000_000
"""Of a stream that would never end, unless --limit says otherwise."""

SHORT = {name.split("-")[0]: name for name in SOURCES}
"""`S4` stands for `s4-latch`, and so on."""

SyntheticOption: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--synthetic",
        metavar="NAME",
        help=f"In place of FILE, {TICKS:,} ticks (or --limit) of a stream whose best possible "
        f"forecast is known (or its first part, such as S4): {', '.join(SOURCES)}.",
    ),
]
SeriesSeedOption: TypeAlias = Annotated[
    int | None,
    typer.Option(
        "--series-seed", min=0, metavar="N", help="Seed of the synthetic series.", show_default="0"
    ),
]


class SyntheticInput(InputFile, frozen=True, kw_only=True):
    """A synthetic stream in the place of a file; `path` is its name, for messages."""

    seed: int

    def source(self) -> SyntheticSource:
        """Return the series from its first element on."""
        return SOURCES[self.path.name](self.seed)

    def default_features(self) -> tuple[str, ...]:
        """Return the column whose sign is asked for."""
        return self.source().columns[:1]

    def open(
        self,
        columns: Sequence[str] | None,
        on_refusal: Callable[[Refusal], None] = lambda _: None,
        **options: Any,
    ) -> FileSource:
        """Open it as a file is opened."""
        from ..feed.files import CHUNK_ROWS, FileSource
        from ..feed.synthetic import SyntheticReader

        rows = options.get("chunk_rows", CHUNK_ROWS)
        count = TICKS if self.limit is None else self.limit
        return FileSource(
            self.path,
            SyntheticReader(self.source(), columns=columns, count=count, chunk_rows=rows),
            on_bad_row=self.on_bad_row,
            limit=count,
            chunk_rows=rows,
            on_refusal=on_refusal,
        )


def chosen_input(
    file: Path | None,
    synthetic: str | None,
    stream: str | None,
    *,
    series_seed: int | None,
    time: str | None,
    time_unit: str,
    on_bad_row: str,
    limit: int | None,
) -> InputFile:
    """Return the file or the synthetic stream that the arguments ask for.

    Raises UsageError for both, for neither, and for what is wrong in itself, and
    InputMissingError for a directory.
    """
    if (file is None) == (synthetic is None):
        both = "not both" if file else "one of them"
        raise UsageError(f"give a FILE or --synthetic NAME, {both}")
    if file is None:
        synthetic = SHORT.get((synthetic or "").lower(), synthetic or "")
        _check(synthetic, time)
    elif series_seed is not None:
        raise UsageError("--series-seed is of a --synthetic stream, which a FILE is not")
    if file is not None and file.is_dir():
        raise InputMissingError(f"{file} is a directory; name a file")
    given = input_file(
        file or Path(synthetic or ""),
        stream,
        time=time,
        time_unit=time_unit,
        on_bad_row=on_bad_row,
        limit=limit,
    )
    if file is not None:
        return given
    return SyntheticInput(given.path, given.stream, limit=limit, seed=series_seed or 0)


def _check(name: str, time: str | None) -> None:
    if name not in SOURCES:
        hint = nearest(name, SOURCES)
        raise UsageError(
            f"there is no synthetic stream {name!r}{hint} (there are {', '.join(SOURCES)})"
        )
    if time is not None:
        raise UsageError("--time names a column of a file; a synthetic stream has no times")
