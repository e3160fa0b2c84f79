"""What would be read of a file: its form, its rows, its times and their gaps.

The rows are those that a replay gets, so what is shown is what will be used. A file of up to
`MAX_ROWS` rows is read whole; of a longer one its first rows are, and the number of all is
estimated from the bytes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np

from ..closing import Closing
from ..core.missing import EVERY
from ..errors import DataError, StreamLSTMError
from ..events import Refusal
from ..typing import Int64s
from .dialect import DELIMITERS, Asked, Dialect
from .files import TickBlock
from .input_file import InputFile
from .look import FileLook, look_at_file
from .reader import check_readable
from .source import WORDS, TextSource, kind_of
from .tables import TextTable, open_table

MAX_ROWS = 1_000_000
"""Rows that are read: a second or two."""

ESTIMATE_READS, ESTIMATE_BYTES = 8, 1 << 20
"""Text whose lines are counted where the rows of a file are estimated."""

SHOWN_ROWS = 3
REGULAR = 0.5
"""Share of equal steps between rows from which on a longer step is a gap."""

SEPARATED = {",": "comma-separated", ";": "semicolon-separated", "\t": "tab-separated"}


class Form(NamedTuple):
    """How a file is written. `dialect` is None for a file that is not text."""

    kind: str
    dialect: Dialect | None = None
    notes: tuple[str, ...] = ()

    def words(self) -> str:
        """Return the form in a few words, such as `tab-separated, gzip`."""
        if self.dialect is None or self.kind in ("xlsx", "json"):
            return WORDS[self.kind].removeprefix("a ").removeprefix("an ")
        between = self.dialect.delimiter
        known = f"separated by {DELIMITERS.get(between, repr(between))}"
        words = [SEPARATED.get(between, known) if self.dialect.width > 1 else "one column"]
        if any(column.decimal == "," for column in self.dialect.columns):
            words.append("decimal comma")
        return ", ".join(words + [self.kind] * (self.kind != "text"))


def form_of(path: Path, asked: Asked) -> Form:
    """Return how a file is written.

    Raises DataError for a file that is not a table, and for text without a clear dialect.
    """
    kind = kind_of(path)
    with open_table(path, asked._replace(sql="")) as table:
        dialect = table.dialect if isinstance(table, TextTable) else None
        if dialect is not None and table.row_word == "row" and kind != "xlsx":
            kind = "json"
        return Form(kind, dialect, table.notes)


class Survey(NamedTuple):
    """What a file contains.

    first, last: texts of the first and last rows that were read, for `shown`: the time, the stream
    and the numbers. missing: numbers of empty cells by column, in the `read` rows. rows: their
    number in the file, exact if `whole`. problems: faults of the file, with their
    remedies.
    """

    form: Form | None
    look: FileLook | None
    shown: tuple[str, ...] = ()
    first: Sequence[Sequence[str]] = ()
    last: Sequence[Sequence[str]] = ()
    missing: dict[str, int] = {}  # noqa: RUF012 - never changed
    skipped: int = 0
    read: int = 0
    rows: int = 0
    whole: bool = True
    times: TimesRead | None = None
    problems: tuple[str, ...] = ()


def survey(file: InputFile) -> Survey:
    """Return what a file contains, with all faults that are found.

    Raises InputMissingError and OutputError for a file that cannot be opened.
    """
    check_readable(file.path)
    problems: list[str] = []
    form, look = None, None
    try:
        form = form_of(file.path, file.asked)
        look = look_at_file(file)
    except DataError as error:
        problems.append(str(error))
    if look is None:
        return Survey(form, None, problems=tuple(problems))
    with _Reading(look.file, look) as reading:
        try:
            for block in reading.blocks():
                reading.take(block)
        except StreamLSTMError as error:
            problems.append(str(error))
        return reading.survey(form, tuple(problems))


@contextmanager
def with_all_faults(file: InputFile, columns: Sequence[str]) -> Iterator[None]:
    """Add to a DataError about a row of a file what is wrong with its other rows."""
    try:
        yield
    except DataError as error:
        faults: list[tuple[Refusal, int]] = []
        if file.on_bad_row == "fail" and len(file.parts) == 1:
            with suppress(StreamLSTMError):
                faults = row_faults(file, columns)
        more = []
        for first, count in faults:
            same = first.reason in str(error)
            if not same:
                also = f" ({count:,} rows are like this)" if count > 1 else ""
                more.append(f"{first.where}: {first.reason}{also}")
            elif count > 1:
                more.append(f"{count:,} rows have this fault")
        raise type(error)(*error.lines, *more) from None


def row_faults(file: InputFile, columns: Sequence[str]) -> list[tuple[Refusal, int]]:
    """Return the first row of each kind of unusable rows of a file, and how many there are."""
    found: dict[str, tuple[Refusal, int]] = {}

    def refuse(refusal: Refusal) -> None:
        kind = re.sub(r"'[^']*' is|^\d+", "", refusal.reason)
        first, count = found.get(kind, (refusal, 0))
        found[kind] = first, count + 1

    file = msgspec.structs.replace(file, on_bad_row="skip", limit=MAX_ROWS)
    with file.open(columns, refuse) as source, suppress(DataError):
        for _ in source.blocks():
            pass
    return list(found.values())


class TimesRead(NamedTuple):
    """The times of the rows read.

    step_ns: the usual step. gaps: number of longer ones, None if the steps are irregular. back,
    repeated: rows whose time is before that of the row above, or the same; None for several
    streams. longest_ns: the longest step, which begins at `longest_at_ns`.
    """

    column: str
    first_ns: int
    last_ns: int
    step_ns: int
    gaps: int | None
    longest_ns: int
    longest_at_ns: int
    back: int | None
    repeated: int | None

    def order(self) -> str:
        """Return how the times of neighbouring rows follow each other, "" for several streams."""
        if self.back is None or self.repeated is None:
            return ""
        if self.back and self.last_ns < self.first_ns:
            return "newest first"
        parts = [f"{self.back:,} rows go back"] if self.back else ["rising"]
        parts += [f"{self.repeated:,} repeat the time before"] if self.repeated else []
        return ", ".join(parts)


def times_read(column: str, t_ns: Int64s, *, several: bool) -> TimesRead:
    """Return what is known of the times of rows, (m,), of one or several streams."""
    steps = np.diff(t_ns)
    sizes = np.abs(steps[steps != 0]) if not several else steps[:0]
    usual = int(np.median(sizes)) if len(sizes) else 0
    regular = len(sizes) > 0 and float((sizes == usual).mean()) >= REGULAR
    at = int(np.abs(steps).argmax()) if len(sizes) else 0
    return TimesRead(
        column,
        int(t_ns[0]),
        int(t_ns[-1]),
        usual,
        int((sizes > usual).sum()) if regular else None,
        int(sizes.max()) if len(sizes) else 0,
        int(t_ns[at]),
        None if several else int((steps < 0).sum()),
        None if several else int((steps == 0).sum()),
    )


class _Reading(Closing):
    """Reads a file once and keeps what is shown of it."""

    def __init__(self, file: InputFile, look: FileLook) -> None:
        self._file, self._look = file, look
        self._skipped = self._read = 0
        self._whole = True
        options = {"on_bad_row": "skip", "limit": None, "optional": (EVERY,)}
        opened = msgspec.structs.replace(file, **options)
        self._source = opened.open(look.columns, self._skip)
        self._first: list[list[str]] = []
        self._last: list[list[str]] = []
        self._missing = np.zeros(len(look.columns), np.int64)
        self._t_ns: list[Int64s] = []

    def close(self) -> None:
        """Close the file."""
        self._source.close()

    def _skip(self, _: Any) -> None:
        self._skipped += 1

    def blocks(self) -> Iterator[TickBlock]:
        """Give the rows, up to the limit."""
        for block in self._source.blocks():
            if self._read >= MAX_ROWS:
                self._whole = False
                return
            yield block

    def take(self, block: TickBlock) -> None:
        """Take rows."""
        self._first += self._texts(block, 0, SHOWN_ROWS - len(self._first))
        rows = len(block.rows)
        self._read += rows
        self._last = (self._last + self._texts(block, max(rows - SHOWN_ROWS, 0), rows))[
            -SHOWN_ROWS:
        ]
        self._missing += np.isnan(block.values).sum(axis=0)
        if self._file.time is not None:
            self._t_ns.append(block.t_ns)

    def _texts(self, block: TickBlock, begin: int, end: int) -> list[list[str]]:
        texts = []
        for k in range(begin, min(end, len(block.rows))):
            cells = ["" if np.isnan(x) else f"{x:.12g}" for x in block.values[k].tolist()]
            keys = [] if block.keys is None else [block.keys.names[block.keys.codes[k]]]
            texts.append(
                [*([] if self._file.time is None else [moment(block.t_ns[k])]), *keys, *cells]
            )
        return texts

    def survey(self, form: Form | None, problems: tuple[str, ...]) -> Survey:
        """Return what was found."""
        rows = self._read + self._skipped
        if not self._whole:
            rows = max(rows, self._estimate(form, rows))
        heads = (self._file.time, self._file.stream_column)
        return Survey(
            form,
            self._look,
            (*(name for name in heads if name is not None), *self._look.columns),
            self._first,
            self._last,
            dict(zip(self._look.columns, self._missing.tolist(), strict=True)),
            self._skipped,
            self._read,
            rows,
            self._whole,
            self._times(),
            problems,
        )

    def _estimate(self, form: Form | None, rows: int) -> int:
        """Return about how many rows the file has; text by the lines of its beginning."""
        total, done = self._source.bytes_total, self._source.bytes_read
        if form is not None and form.dialect is not None:
            rows = 0
            with TextSource(self._file.path) as source:
                for _ in range(ESTIMATE_READS):
                    rows += source.read(ESTIMATE_BYTES).count(b"\n")
                done = source.bytes_read
        return round(rows * max(total / max(done, 1), 1))

    def _times(self) -> TimesRead | None:
        if self._file.time is None or not self._t_ns:
            return None
        several = self._file.stream_column is not None
        return times_read(self._file.time, np.concatenate(self._t_ns), several=several)


def moment(t_ns: int) -> str:
    """Return a time in UTC as text, without digits that are zero."""
    text, _, fraction = str(np.datetime64(int(t_ns), "ns")).replace("T", " ").partition(".")
    digits = fraction.rstrip("0")
    shown = fraction[: -(-len(digits) // 3) * 3]
    return f"{text}.{shown}" if shown else text.removesuffix(":00")
