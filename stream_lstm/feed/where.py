"""Conditions on the fields of a message, such as `type = "trade" and size >= 0.5`.

A condition is parsed into a tree of closures and never evaluated as code. Left of a comparison is
a path into the message, right of it a text, a number, `true`, `false` or `null`. A field that is
missing equals nothing, so only `!=` is true of it. A number compares with a number that the
message holds as text; other comparisons between kinds are false.

```
condition  = conjunction ("or" conjunction)*
conjunction = term ("and" term)*
term       = "not" term | "(" condition ")" | path comparison value
```
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, NoReturn, TypeAlias

from msgspec import UNSET

from ..errors import ConfigurationError
from ..quoting import printable

MAX_CHARS = 1000
"""Of a condition; also bounds its depth and the number of its fields."""

MAX_DEPTH = 32
"""Of parentheses and `not`, each of which is a call."""

MAX_NUMBER_CHARS = 64
"""Of a number or a time in text."""

Test: TypeAlias = Callable[[Sequence[Any]], bool]
_TOKEN = re.compile(
    r"""\s*(?:(?P<text>"(?:[^"\\]|\\.)*"|'[^']*')|(?P<sign>==|!=|<>|<=|>=|[=<>()])"""
    r"""|(?P<word>[^\s"'=!<>()]+))"""
)
_COMPARE = {"=": operator.eq, "==": operator.eq, "!=": operator.ne, "<>": operator.ne,
            "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}  # fmt: skip
_WORDS: dict[str, bool | None] = {"true": True, "false": False, "null": None}


class Where(NamedTuple):
    """A compiled condition: `test` takes the values of the fields `paths`, in their order.

    A value is a str, int, float, bool or None, or `msgspec.UNSET` for a field that is missing.
    """

    paths: tuple[str, ...]
    test: Test


class _Token(NamedTuple):
    kind: str
    text: str
    position: int


def compile_where(text: str) -> Where:
    """Parse a condition. Raises ConfigurationError, which marks the position of the fault."""
    return _Parser(text).whole()


class _Parser:
    def __init__(self, text: str) -> None:
        self.text, self.at, self.depth = text, 0, 0
        self.paths: list[str] = []
        if len(text) > MAX_CHARS:
            raise ConfigurationError(
                f"where has {len(text)} characters; at most {MAX_CHARS} are allowed", key="where"
            )
        self.tokens = self._split()

    def _split(self) -> list[_Token]:
        found, at, text = [], 0, self.text.rstrip()
        while at < len(text):
            match = _TOKEN.match(text, at)
            if match is None:
                blank = len(text[at:]) - len(text[at:].lstrip())
                self._fail("unexpected character", at + blank)
            kind = match.lastgroup or ""
            found.append(_Token(kind, match[kind], match.start(kind)))
            at = match.end()
        return [*found, _Token("end", "", len(text))]

    def whole(self) -> Where:
        test = self._either()
        if self.tokens[self.at].kind != "end":
            self._expected("and, or, or the end")
        return Where(tuple(self.paths), test)

    def _either(self) -> Test:
        tests = [self._both()]
        while self._take("or"):
            tests.append(self._both())
        return tests[0] if len(tests) == 1 else lambda values: any(t(values) for t in tests)

    def _both(self) -> Test:
        tests = [self._term()]
        while self._take("and"):
            tests.append(self._term())
        return tests[0] if len(tests) == 1 else lambda values: all(t(values) for t in tests)

    def _term(self) -> Test:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            self._fail(f"more than {MAX_DEPTH} levels", self.tokens[self.at].position)
        if self._take("not"):
            inner = self._term()
            test: Test = lambda values: not inner(values)  # noqa: E731
        elif self._take("("):
            test = self._either()
            if not self._take(")"):
                self._expected("a closing parenthesis")
        else:
            test = self._comparison()
        self.depth -= 1
        return test

    def _comparison(self) -> Test:
        path = self._next("a field", "word", "text")
        name = path.text if path.kind == "word" else _unquoted(path.text)
        sign = self._next("a comparison (= != < <= > >=)", "sign")
        if sign.text not in _COMPARE:
            self.at -= 1
            self._expected("a comparison (= != < <= > >=)")
        value = self._value(self._next("a text in quotes or a number", "word", "text"))
        if name not in self.paths:
            self.paths.append(name)
        return _compared(self.paths.index(name), _COMPARE[sign.text], value)

    def _value(self, token: _Token) -> str | float | bool | None:
        if token.kind == "text":
            return _unquoted(token.text)
        if token.text.lower() in _WORDS:
            return _WORDS[token.text.lower()]
        number = numeric(token.text)
        if number is None or not math.isfinite(number):
            self._fail(f'expected a number; quote a text: "{token.text}"', token.position)
        return number

    def _take(self, word: str) -> bool:
        token = self.tokens[self.at]
        found = token.kind != "text" and token.text.lower() == word
        self.at += found
        return found

    def _next(self, wanted: str, *kinds: str) -> _Token:
        token = self.tokens[self.at]
        if token.kind not in kinds:
            self._expected(wanted)
        self.at += 1
        return token

    def _expected(self, wanted: str) -> NoReturn:
        self._fail(f"expected {wanted}", self.tokens[self.at].position)

    def _fail(self, message: str, position: int) -> NoReturn:
        caret = " " * len(printable(self.text[:position]))
        raise ConfigurationError(
            f"where: {message}, at character {position + 1}",
            f"  {printable(self.text)}",
            f"  {caret}^",
            key="where",
        )


def _unquoted(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text[1:-1]) if text[0] == '"' else text[1:-1]


def numeric(text: str) -> float | None:
    """Return the number in a text, None for any other or too long a text."""
    if len(text) > MAX_NUMBER_CHARS or "_" in text:
        return None
    try:
        return float(text)
    except ValueError:
        return None


def _compared(place: int, compare: Callable[[Any, Any], bool], literal: Any) -> Test:
    """Return the test of one field; values of another kind are unequal and have no order."""
    unequal = compare is operator.ne
    number = type(literal) is float

    def test(values: Sequence[Any]) -> bool:
        value = values[place]
        if number and type(value) is str:
            value = numeric(value)
        if number and type(value) in (int, float):
            return compare(value, literal)
        if type(value) is type(literal) and value is not UNSET:
            return compare(value, literal) if literal is not None else compare is operator.eq
        return unequal

    return test
