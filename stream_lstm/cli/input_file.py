"""The arguments that every command with a historical file shares, and the file they describe."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias, get_args

import msgspec
import typer

from ..errors import UsageError
from ..events import Refusal
from ..schema import OnBad

if TYPE_CHECKING:
    from ..feed.files import FileSource

FileArgument: TypeAlias = Annotated[
    Path | None,
    typer.Argument(
        metavar="FILE", help="CSV or TSV (also .gz, .zst), Parquet, Arrow, Feather or .npy."
    ),
]
StreamOption: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--stream",
        metavar="NAME",
        help="The stream's name.",
        show_default="the file's name up to its first dot",
    ),
]
StreamColumnOption: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--stream-column",
        metavar="COLUMN",
        help="The rows are of many streams, and this column names that of each.",
        show_default="all rows are of one stream",
    ),
]
TimeOption: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--time",
        metavar="COLUMN",
        help="The column of times: numbers counted from 1970 (see --time-unit), or ISO 8601 text "
        "such as 2024-03-01T09:30:00.5Z.",
    ),
]
TimeUnitOption: TypeAlias = Annotated[
    str,
    typer.Option(
        "--time-unit",
        metavar="auto|ns|us|ms|s|iso",
        help="What the numbers of --time count.",
    ),
]
OnBadRowOption: TypeAlias = Annotated[
    str,
    typer.Option(
        "--on-bad-row", metavar="fail|skip", help="What to do with a row without values."
    ),
]
LimitOption: TypeAlias = Annotated[
    int | None, typer.Option("--limit", min=0, metavar="N", help="Take this many ticks at most.")
]
JsonOption: TypeAlias = Annotated[
    bool, typer.Option("--json", help="Print the result as one JSON object.")
]


class InputFile(msgspec.Struct, frozen=True):
    """A historical file and how its rows become ticks.

    `stream` is what they are called, where `stream_column` does not name the stream of each.
    """

    path: Path
    stream: str
    time: str | None = None
    time_unit: Any = "auto"
    on_bad_row: OnBad = "fail"
    limit: int | None = None
    stream_column: str | None = None

    def default_features(self) -> tuple[str, ...]:
        """Return what the model sees where nobody says; nothing in a file goes without saying."""
        return ()

    def open(
        self,
        columns: Sequence[str] | None,
        on_refusal: Callable[[Refusal], None] = lambda _: None,
        **options: Any,
    ) -> FileSource:
        """Open it; `options` and what is raised are those of `feed.files.open_file`."""
        # Arrow takes a while to import, which --help is spared.
        from ..feed.files import open_file

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


def input_file(
    path: Path,
    stream: str | None,
    *,
    time: str | None,
    time_unit: str,
    on_bad_row: str,
    limit: int | None,
) -> InputFile:
    """Return the file that the arguments describe; UsageError for one that is wrong in itself."""
    from ..feed.records import check_name

    name = path.name.split(".")[0] if stream is None else stream
    try:
        check_name(name)
    except ValueError as error:
        raise UsageError(f"{error}: give another with --stream") from None
    policy: OnBad = one_of("--on-bad-row", on_bad_row, OnBad)
    return InputFile(path, name, time, time_unit, policy, limit)


def one_of(flag: str, text: str, choices: Any) -> Any:
    """Return `text` if it is one of a Literal's choices; UsageError lists them."""
    known = get_args(choices)
    if text not in known:
        raise UsageError(f"{flag} is {' or '.join(known)}, not {text!r}")
    return text
