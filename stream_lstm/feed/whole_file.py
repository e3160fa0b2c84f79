"""A file read whole into a table, and its column of times found by name and content."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import msgspec
import numpy as np

from ..errors import DataError, StreamLSTMError
from ..events import Refusal
from .input_file import InputFile, SyntheticInput

if TYPE_CHECKING:
    from ..core.doctor.series import TickTable

MAX_ROWS = 2_000_000
"""Rows in memory: some hundred megabytes."""

REASONS = 3
"""Reasons in the result for rows that cannot be read."""

TIMES = ("ts", "t_ns")
"""Names of a column of times; so is a name with `time`, and one with `date` if it is text."""


class WholeFile(NamedTuple):
    """The numeric columns of a file, and which rows were left out and why."""

    table: TickTable
    left_out: int
    reasons: tuple[str, ...]


def find_times(file: InputFile) -> InputFile:
    """Return the file with its column of times, found if none is named."""
    from .files import file_columns

    if file.time is not None or isinstance(file, SyntheticInput):
        return file
    for name in file_columns(file.path):
        word, unit = name.lower(), file.time_unit
        if word not in TIMES and "time" not in word:
            if "date" not in word:
                continue
            unit = "iso"  # numbers of that name are as often fractions of a year, or days
        found = msgspec.structs.replace(file, time=name, time_unit=unit)
        if _has_times(msgspec.structs.replace(found, on_bad_row="fail", limit=100)):
            return msgspec.structs.replace(file, time=name)
    return file


def _has_times(file: InputFile) -> bool:
    try:
        with file.open(()) as source:
            times = [block.t_ns for block in source.blocks()]
    except StreamLSTMError:
        return False
    return any((t_ns != times[0][0]).any() for t_ns in times)


def read_whole(file: InputFile, used: tuple[str, ...], label: str | None) -> WholeFile:
    """Return all numeric columns of a file, those in use first, and its labels.

    Raises what opening the file raises, and DataError without any row.
    """
    from ..core.doctor.series import TickTable

    limit = MAX_ROWS if file.limit is None else min(file.limit, MAX_ROWS)
    file = msgspec.structs.replace(file, on_bad_row="skip", limit=limit)
    reasons: list[str] = []

    def refused(refusal: Refusal) -> None:
        if len(reasons) < REASONS:
            reasons.append(f"{refusal.where}: {refusal.reason}")

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
    return WholeFile(table, left_out, tuple(reasons))
