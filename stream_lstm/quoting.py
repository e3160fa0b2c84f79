"""Foreign text, made safe to show.

A terminal obeys control characters, a log is read line by line, and bidirectional overrides change
the visible text. So messages, log lines, pages and metric labels pass through `printable`, and
JSON through `json_line`, which is lossless.
"""

from __future__ import annotations

import json
from typing import Any

import msgspec

MAX_TEXT = 2000
"""Characters of a message; a reason can quote a peer's text."""


def count(number: int, things: str) -> str:
    """Return `1 label`, `2 labels`."""
    return f"{number:,} {things.removesuffix('s') if number == 1 else things}"


def printable(text: str, limit: int = MAX_TEXT) -> str:
    r"""Return `text` as one line of at most `limit` characters that cannot control a terminal.

    Control and format characters, line separators and lone surrogates become escapes such as
    `\x1b` and `\u202e`. Longer text is cut, and ends with an ellipsis.
    """
    shown = text[: limit + 1]
    if not shown.isprintable():
        shown = "".join(c if c.isprintable() else _escaped(c) for c in shown)
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"


def label(name: str) -> str:
    """Return the value of a metric label for a name; different names get different values."""
    return printable(name.replace("\\", "\\\\"), 10 * len(name) + 1)


def json_line(value: Any) -> str:
    """Return a value as JSON in one printable line, without loss."""
    try:
        text = msgspec.json.encode(value).decode()
    except UnicodeEncodeError:  # a file name can contain invalid Unicode
        text = json.dumps(msgspec.to_builtins(value), separators=(",", ":"))
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else _json_escaped(c) for c in text)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode()


def _json_escaped(character: str) -> str:
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[k : k + 2].hex()}" for k in range(0, len(units), 2))
