"""`stream-lstm look`: what would be read of a file, and the command that reads it."""

from __future__ import annotations

import dataclasses
import shlex
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..core.expressions import columns_of
from ..errors import DataError, InputMissingError
from ..feed.times import time_columns
from ..quoting import count, printable
from .console import columns, note, say, say_json
from .init import row_flags, suggest
from .options import NO_TIMES, JsonOption, RowOptions, options

if TYPE_CHECKING:
    from ..feed.survey import Survey, TimesRead

WIDTH, CELL = 100, 24
"""Characters of a line, and of a cell."""

MOST_FEATURES = 4

FOUND = ("time", "time_format", "reverse")
"""Options that are part of what a look finds."""


@options(without=("on_bad_row", "limit"))
def command(
    *,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A file that replay might read.")],
    source: RowOptions,
    as_json: JsonOption = False,
) -> None:
    """Show what would be read of a file, and the replay command to type next.

    Example: stream-lstm look quotes.csv.gz
    """
    from ..feed.survey import survey

    if file.is_dir():
        raise InputMissingError(f"{file} is a directory; name a file")
    found = survey(source.of(file, "file", warns=False))
    record = described(file, found, given(source))
    if as_json:
        say_json(record)
    else:
        note(*(printable(line, WIDTH) for line in lines(record)))
    if record["command"] is None:
        raise DataError(*record["problems"])
    if not as_json:
        say(record["command"])


def given(source: RowOptions) -> list[str]:
    """Return the flags of a file that were given, as words."""
    words = ["--time", NO_TIMES] * (source.time == NO_TIMES)
    for field in dataclasses.fields(source):
        value = getattr(source, field.name)
        if value != field.default and field.name not in FOUND:
            words.append("--" + field.name.replace("_", "-"))
            words += [] if value is True else [str(value)]
    return words


def described(path: Path, found: Survey, flags: list[str]) -> dict[str, Any]:
    """Return what was found as the JSON object of `look`."""
    form, look = found.form, found.look
    dialect = None if form is None else form.dialect
    record: dict[str, Any] = {
        "file": str(path),
        "form": None if form is None else form.words(),
        "delimiter": None if dialect is None else dialect.delimiter,
        "first_line": None if dialect is None else dialect.first_line,
        "notes": [] if form is None else list(form.notes),
        "columns": [],
        "problems": list(found.problems),
        "command": None,
    }
    if look is None:
        return record
    features = suggest(look.columns, look.values)
    kinds = {} if dialect is None else {c.name: c.kind for c in dialect.columns}
    kinds |= dict.fromkeys(look.columns, "number")
    kinds |= dict.fromkeys(time_columns(look.time, look.names), "time")
    record["columns"] = [
        {"name": name, "kind": kinds.get(name, "text"), "missing": found.missing.get(name)}
        for name in look.names
    ]
    words = ["stream-lstm", "replay", str(path), *flags, "--feature", features[0]]
    empty = any(found.missing.get(name) for name in columns_of(features[:1]))
    look = look._replace(skip=found.skipped > 0 or empty)
    return record | {
        "rows": found.rows,
        "rows_read": found.read,
        "rows_skipped": found.skipped,
        "exact": found.whole,
        "shown": list(found.shown),
        "first": found.first,
        "last": found.last,
        "times": None if found.times is None else times_record(found.times),
        "stream_column": look.stream_column,
        "features": features,
        "findings": [one.line for one in look.findings],
        "command": shlex.join([*words, *row_flags(look, features[0]), "--learn"]),
    }


def times_record(times: TimesRead) -> dict[str, Any]:
    """Return the times as an object of JSON."""
    from ..feed.survey import moment

    return {
        "column": times.column,
        "first": moment(times.first_ns),
        "last": moment(times.last_ns),
        "step_s": times.step_ns / 1e9,
        "order": times.order(),
        "gaps": times.gaps,
        "longest_step_s": times.longest_ns / 1e9,
        "longest_step_at": moment(times.longest_at_ns),
    }


def lines(record: Mapping[str, Any]) -> Iterator[str]:
    """Yield what was found as lines of one screen."""
    head = record["file"]
    if record["form"] is not None:
        head += f": {record['form']}"
    if record["command"] is not None:
        rows = record["rows"]
        about = f"about {round(rows, 2 - len(str(rows)) + 1):,} rows"
        head += f", {count(rows, 'rows') if record['exact'] else about}"
    yield head
    for line in record["notes"]:
        yield from wrapped(line)
    if record["command"] is None:
        return
    for line in (*record["problems"], *record["findings"]):
        yield from wrapped(line)
    yield from columns_lines(record)
    if record["rows_skipped"]:
        yield f"rows that cannot be used: {record['rows_skipped']:,} (--on-bad-row skip)"
    yield from rows_lines(record)
    yield from times_lines(record["times"])
    if record["stream_column"] is not None:
        yield f"streams: named by the column {record['stream_column']}"
    yield f"features: {'; '.join(record['features'][:MOST_FEATURES])}"
    yield "Next, type:"


def wrapped(line: str) -> list[str]:
    """Return a line as an item of a list."""
    return textwrap.wrap(
        printable(line),
        WIDTH,
        initial_indent="- ",
        subsequent_indent="  ",
        break_on_hyphens=False,
        break_long_words=False,
    )


def columns_lines(record: Mapping[str, Any]) -> Iterator[str]:
    """Yield the columns by kind, and the empty cells."""
    for kind in ("time", "number", "text", "empty"):
        names = [one["name"] for one in record["columns"] if one["kind"] == kind]
        if names:
            yield f"{kind + ':':<8} {', '.join(names)}"
    empty = [f"{one['missing']:,} in {one['name']}" for one in record["columns"] if one["missing"]]
    if empty:
        yield f"missing: {', '.join(empty)}"


def rows_lines(record: Mapping[str, Any]) -> Iterator[str]:
    """Yield the first and last rows as a table."""
    first, last = record["first"], record["last"]
    rows = [record["shown"], *first]
    if record["rows_read"] > len(first) + len(last):
        rows.append(["..."] * len(record["shown"]))
    rows += last[max(len(first) + len(last) - record["rows_read"], 0) :]
    table = columns([[printable(cell, CELL) for cell in row] for row in rows])
    yield from (f"  {line}" for line in table)
    if not record["exact"]:
        yield f"  (the last rows are those of the first {record['rows_read']:,} rows)"


def times_lines(times: Mapping[str, Any] | None) -> Iterator[str]:
    """Yield the span, order and gaps of the times."""
    if times is None:
        yield "times: none were found; --time COLUMN names them"
        return
    line = f"times: {times['first']} to {times['last']} UTC"
    yield line + (f"; {times['order']}" if times["order"] else "")
    if times["step_s"]:
        usual = "a step of" if times["gaps"] is not None else "usually a step of"
        line = f"{usual} {duration(times['step_s'])}"
        if times["gaps"]:
            line += f", {count(times['gaps'], 'gaps')}"
        if times["longest_step_s"] > times["step_s"]:
            longest = duration(times["longest_step_s"])
            line += f", the longest step {longest} after {times['longest_step_at']}"
        yield f"       {line}"


def duration(seconds: float) -> str:
    """Return seconds in a unit that suits them, such as 90 s or 5 min."""
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * size or seconds == size:
            whole = seconds % size == 0
            return f"{seconds / size:,.0f} {unit}" if whole else f"{seconds / size:,.1f} {unit}"
    return f"{seconds:g} s" if seconds >= 1 or seconds <= 0 else f"{1000 * seconds:g} ms"
