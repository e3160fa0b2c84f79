"""Text from outside is data: nothing of it reaches a terminal, a log or a page as it came."""

from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_lstm import errors
from stream_lstm.quoting import MAX_TEXT, json_line, label, printable

from .hostile import HOSTILE, raw


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain, µ … ü", "plain, µ … ü"),
        ("\x1b[2J", "\\x1b[2J"),
        ("a\nb\tc\r", "a\\nb\\tc\\r"),
        ("\x7f\x9b", "\\x7f\\x9b"),
        ("\u202e\u2028\u2066", "\\u202e\\u2028\\u2066"),
        ("\udcff", "\\udcff"),
        ("\U000e0001", "\\U000e0001"),
        ("", ""),
    ],
)
def test_what_drives_a_terminal_is_escaped_and_the_rest_stays(text: str, shown: str) -> None:
    assert printable(text) == shown


@given(st.text(), st.integers(1, 40))
def test_what_is_shown_is_one_short_printable_line(text: str, limit: int) -> None:
    shown = printable(text, limit)
    assert shown.isprintable()
    assert len(shown) <= limit
    assert printable(shown, limit) == shown


def test_what_is_cut_ends_with_an_ellipsis() -> None:
    assert printable("x" * 10_000_000) == "x" * (MAX_TEXT - 1) + "…"


@given(st.text(), st.text())
def test_labels_of_different_names_differ(one: str, two: str) -> None:
    assert (label(one) == label(two)) == (one == two)
    assert label(one).isprintable()
    assert label("a\x1b") != label("a\\x1b")


@given(st.dictionaries(st.text(), st.text() | st.integers(-(2**53), 2**53) | st.none()))
def test_json_is_one_printable_line_that_gives_every_character_back(value: object) -> None:
    line = json_line(value)
    assert line.isprintable()
    assert json.loads(line) == msgspec.json.decode(line) == value


def test_json_takes_the_name_of_a_file_that_is_not_unicode() -> None:
    assert json.loads(json_line({"out": "a\udcff"})) == {"out": "a\udcff"}


@pytest.mark.parametrize(
    "kind",
    [
        one
        for one in vars(errors).values()
        if isinstance(one, type)
        and issubclass(one, errors.StreamLSTMError)
        and one is not errors.ExpressionError
    ],
)
def test_the_text_of_every_error_is_printable(kind: type[errors.StreamLSTMError]) -> None:
    error = kind(f"the file {HOSTILE} is wrong", "a second line")
    assert str(error) == "\n".join(error.lines)
    assert len(error.lines) == 2
    assert not raw(str(error))
    assert error.within("here: ")[0].startswith("here: the file \\x1b")


def test_an_expression_is_shown_with_a_mark_below_what_is_wrong() -> None:
    error = errors.ExpressionError("no such name", expression="a\x1b + b", position=5)
    assert str(error) == "no such name\n  a\\x1b + b\n" + " " * 10 + "^"
