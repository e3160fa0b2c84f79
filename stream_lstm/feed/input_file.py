"""A historical file, or a synthetic stream in its place, and how its rows become ticks.

A file read whole into a table, and its column of times found by name and content.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import msgspec
import numpy as np

from ..errors import DataError, UsageError
from ..events import Refusal
from ..reasons import Reasons
from ..schema import OnBad, StreamConfig
from .dialect import Asked
from .found_times import UNIT_CHANGES, TimeGuess, given_times
from .found_times import find_times as find
from .order import Finding, Sample, check_series
from .synthetic import SOURCES, SyntheticSource
from .times import NAMED_FORMATS

if TYPE_CHECKING:
    from ..core.doctor.inputs import TickTable
    from .files import FileSource, TimeOrder


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
    optional: columns whose cells may be empty in any use of the file. reverse: the last row comes
    first. as_is: take the rows as one series in file order, whatever the checks say. find_time:
    look for the times if none are named. time_found: `time` was found, and not named by the user.
    doubt: what a check refused without `as_is`.
    asked: what the user states about its table.
    """

    path: Path
    stream: str
    time: str | None = None
    time_unit: Any = "auto"
    on_bad_row: OnBad = "fail"
    limit: int | None = None
    stream_column: str | None = None
    optional: tuple[str, ...] = ()
    time_format: str = ""
    reverse: bool = False
    as_is: bool = False
    find_time: bool = True
    time_found: bool = False
    doubt: str = ""
    asked: Asked = Asked()

    @property
    def time_options(self) -> dict[str, Any]:
        """The options of `feed.files.open_file` about times and order."""
        return {
            "time": self.time,
            "time_unit": self.time_unit,
            "time_format": self.time_format,
            "lenient_time": self.time_found,
            "reverse": self.reverse,
            "asked": self.asked,
        }

    @property
    def parts(self) -> tuple[InputFile, ...]:
        """The files: this one alone, unless it stands for several."""
        return (self,)

    def path_of(self, stream: str) -> Path:  # noqa: ARG002 - all streams are in this file
        """Return the path of the file with the rows of a stream."""
        return self.path

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
        *,
        optional: Sequence[str] = (),
        **options: Any,
    ) -> FileSource:
        """Open the file; options and errors are those of `feed.files.open_file`."""
        from .files import open_file  # Arrow takes a while to import

        return open_file(
            self.path,
            columns=columns,
            on_bad_row=self.on_bad_row,
            limit=self.limit,
            on_refusal=on_refusal,
            key=self.stream_column,
            optional=(*self.optional, *optional),
            **self.time_options,
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


class MergedInput(InputFile, frozen=True, kw_only=True, tag="merged"):
    """Several files in the place of one, each a stream, with their rows merged by time.

    `path` is what they are called together. `limit` counts the ticks of all files, and the options
    of a single file (its stream, times and limit) are those of each of `files`.
    """

    files: tuple[InputFile, ...]

    @property
    def parts(self) -> tuple[InputFile, ...]:
        """The files in the order in which they were named."""
        return self.files

    def path_of(self, stream: str) -> Path:
        """Return the path of the file with the rows of a stream."""
        return next((file.path for file in self.files if file.stream == stream), self.path)

    def open(
        self,
        columns: Sequence[str] | None,
        on_refusal: Callable[[Refusal], None] = lambda _: None,
        **options: Any,
    ) -> FileSource:
        """Open all files; errors are those of `feed.files.open_file`, and name the file."""
        from .files import FileSource, open_reader
        from .merge import MIN_CHUNK_ROWS, MergedReader
        from .reader import CHUNK_ROWS, Selection

        most: int = options.pop("chunk_rows", CHUNK_ROWS)
        rows = min(most, max(most // len(self.files), MIN_CHUNK_ROWS))
        with ExitStack() as stack:
            readers = []
            for file in self.files:
                shared = {"columns": columns, "chunk_rows": rows} | file.time_options
                selection = Selection(**shared, **options)
                readers.append(stack.enter_context(open_reader(file.path, selection)))
            stack.pop_all()
        return FileSource(
            self.path,
            MergedReader(self.path, readers, [file.stream for file in self.files]),
            on_bad_row=self.on_bad_row,
            limit=self.limit,
            chunk_rows=most,
            on_refusal=on_refusal,
        )


def merged(files: Sequence[InputFile]) -> MergedInput:
    """Return several files as one; each has its column of times, found if none is named.

    Raises UsageError for too many files, for two of one stream, and for one without times.
    """
    from .merge import MAX_FILES

    if len(files) > MAX_FILES:
        raise UsageError(f"{len(files)} files are named, and {MAX_FILES} are the most")
    known: dict[str, InputFile] = {}
    for file in files:
        if (other := known.get(file.stream)) is not None:
            raise UsageError(
                f"{other.path} and {file.path} are both called {file.stream!r}, and each file is "
                f"a stream: give one another name, such as NAME={file.path}"
            )
        known[file.stream] = file
    # a row without its time has no place among those of other files
    found = tuple(msgspec.structs.replace(find_times(file), time_found=False) for file in files)
    for file in found:
        if file.time is None:
            raise UsageError(
                f"{file.path} has no column that is known to contain times, and the rows of "
                "several files are merged by time: name the column with --time COLUMN"
            )
    first, more = found[0], len(found) - 1
    path = Path(f"{first.path} and {more} more file{'s' if more > 1 else ''}")
    return MergedInput(
        path, first.stream, first.time, on_bad_row=first.on_bad_row, limit=first.limit, files=found
    )


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
) -> Iterator[TimeOrder]:
    """Give a `TimeOrder` that takes the rows; warn at the end of disorder."""
    from .files import TimeOrder

    order = TimeOrder(enabled=enabled and file.time is not None)
    yield order
    if line := order.warning(f"{file.path_of(order.stream)}:{order.first}"):
        warn(line)


MAX_ROWS = 2_000_000
"""Rows in memory: some hundred megabytes."""


class WholeFile(NamedTuple):
    """The numeric columns of a file, and which rows were left out and why."""

    table: TickTable
    left_out: int
    reasons: tuple[str, ...]


def find_times(file: InputFile) -> InputFile:
    """Return the file with its column of times, found if none is named."""
    if file.time is not None or isinstance(file, SyntheticInput):
        return file
    return _with_times(file, _look(file)[1])


def _with_times(file: InputFile, times: TimeGuess | None) -> InputFile:
    if file.time is not None or times is None:
        return file
    form = times.unit if times.unit in NAMED_FORMATS else file.time_format
    return msgspec.structs.replace(file, time=times.option, time_found=True, time_format=form)


def _look(file: InputFile) -> tuple[Sample, TimeGuess | None]:
    """Return the first rows of a file in the order of their use, and their times."""
    from .files import file_sample

    sample = file_sample(file.path, file.asked).first(file.limit)
    if file.reverse:
        sample = sample.reversed()
    unit, form = file.time_unit, file.time_format
    if not file.find_time:
        return sample, None
    if file.time is None:
        return sample, find(*sample, unit, form)
    return sample, given_times(*sample, file.time, unit, form)


def look_over(
    file: InputFile,
    *,
    used: Sequence[str] | None = None,
    by_column: bool = False,
    warn: Callable[[str], object],
    detail: Callable[[str], object] = lambda _: None,
) -> tuple[InputFile, list[Finding]]:
    """Return the file with its times, found if none are named, and what its first rows show.

    used: the columns in use, None for all numeric ones. by_column: whether the command has
    --stream-column. warn: takes a line. detail: takes the line
    about times that were found.

    Raises DataError for rows that are newest first, or of several series, unless they are taken as
    they are; such a file has a `doubt`.
    """
    if isinstance(file, SyntheticInput):
        return file, []
    if isinstance(file, MergedInput):
        looked = [look_over(part, used=used, warn=warn, detail=detail) for part in file.files]
        parts, found = (
            tuple(part for part, _ in looked),
            [one for _, some in looked for one in some],
        )
        doubt = next((part.doubt for part in parts if part.doubt), "")
        return msgspec.structs.replace(file, files=parts, doubt=doubt), found
    sample, times = _look(file)
    findings = check_series(
        sample,
        times,
        used=used,
        stream_column=file.stream_column,
        reverse=file.reverse,
        by_column=by_column,
    )
    refused = [one for one in findings if one.severity == "refuse"]
    if refused and not file.as_is:
        lines = [f"{file.path}: {one.line}" for one in refused]
        raise DataError(*lines, "(--as-is takes the rows as one series in this order)")
    for one in findings:
        if one.severity == "warn":
            warn(f"{file.path}: {one.line}")
    if file.time is None and times is not None:
        tell = warn if UNIT_CHANGES in times.notes else detail
        tell(f"{file.path}: {times.line}")
    doubt = "; ".join(one.what for one in refused)
    return msgspec.structs.replace(_with_times(file, times), doubt=doubt), findings


def read_whole(file: InputFile, used: tuple[str, ...], label: str | None) -> WholeFile:
    """Return all numeric columns of a file, those in use first, and its labels.

    Raises what opening the file raises, and DataError without any row.
    """
    from ..core.doctor.inputs import TickTable

    limit = MAX_ROWS if file.limit is None else min(file.limit, MAX_ROWS)
    file = msgspec.structs.replace(file, on_bad_row="skip", limit=limit)
    reasons = Reasons()

    def refused(refusal: Refusal) -> None:
        reasons.add(f"{refusal.where}: {refusal.reason}")

    labels = () if label is None else (label,)
    spare: list[str] = []
    if not isinstance(file, SyntheticInput):
        with file.open(None) as source:
            spare = [n for n in source.value_columns if n not in (*used, *labels)]
    columns = (*used, *spare)
    wanted = (*columns, *(name for name in labels if name not in columns))
    optional = tuple(name for name in (*spare, *labels) if name not in used)
    with file.open(wanted, refused, optional=optional) as source:
        blocks = list(source.blocks())
        left_out = source.rows_refused
    if not blocks:
        raise DataError(f"{file.path} has no rows to examine (--limit {file.limit})")
    values = np.concatenate([block.values for block in blocks])
    t_ns = None if file.time is None else np.concatenate([block.t_ns for block in blocks])
    rows = np.concatenate([block.rows for block in blocks])
    outcomes = values[:, wanted.index(label)] if label else None
    table = TickTable(columns, values[:, : len(columns)], t_ns, rows, outcomes)
    return WholeFile(table, left_out, tuple(reasons.told()))
