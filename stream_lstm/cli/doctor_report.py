"""What the doctor found, as people read it: the worst first, in lines that fit a terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import Any

WIDTH = 88

WORDS = {"fault": "FAULT", "warning": "warning", "note": "note", "ok": "ok"}


def lines(record: dict[str, Any]) -> Iterator[str]:
    """Yield the lines that tell of a record of the doctor's."""
    head = f"{record['stream']}: {record['rows']:,} rows, {record['elements']:,} elements, "
    head += f"{record['labels']:,} labels"
    if record["elements_tried"] < record["elements"]:
        head += f"; trials took the first {record['elements_tried']:,} elements"
    if record["time_column"] is not None:
        head += f"; times are those of {record['time_column']}"
    yield from textwrap.wrap(head, WIDTH)
    yield ""
    for finding in record["findings"]:
        first = f"{WORDS[finding['level']]:<8}{finding['name']}: "
        yield from _wrapped(first, finding["evidence"])
        if finding["remedy"]:
            yield from _wrapped(" " * 8 + "-> ", finding["remedy"], " " * 11)
    yield ""
    yield from textwrap.wrap(record["verdict"], WIDTH)


def _wrapped(first: str, text: str, later: str = " " * 8) -> list[str]:
    return textwrap.wrap(
        text, WIDTH, initial_indent=first, subsequent_indent=later, break_on_hyphens=False
    )
