"""Feature expressions: text parsed into trees.

```
expression = sum [(< | <= | > | >= | == | !=) sum]
sum        = product {(+ | -) product}
product    = sign {(* | /) sign}
sign       = - sign | atom
atom       = NUMBER                                20, 0.5 or 1e-6
           | SPAN                                  30s, 500ms or 2h
           | NAME                                  a column
           | "QUOTED NAME"                         a column; `""` inside is one quote
           | FUNCTION ( [expression {, expression}] )
           | ( expression )
```

A name followed by `(` is a function and any other name a column, so a column may be called
`spread`. Where a function takes a text, a name or a quoted name is that text. A number without a
point or an exponent can be a window, and then it counts elements: `min(x, 3)` is the minimum of
three elements and `min(x, 3.0)` the smaller of x and 3.

The text comes from a command line or a foreign file, and only a bounded tokenizer and recursive
descent parser reads it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import NamedTuple

from ..config import nearest
from ..errors import ExpressionError
from ..schema import UNITS_NS
from .functions import (
    FUNCTIONS,
    Function,
    Parameter,
    function_of,
    is_constant,
    signature,
)
from .memory import MAX_WINDOW
from .trees import (
    COMPARISON,
    OPERATORS,
    PRODUCT,
    SUM,
    Call,
    Column,
    Expression,
    Number,
    Span,
    Text,
    columns_in,
)

__all__ = [
    "FUNCTIONS",
    "MAX_DEPTH",
    "MAX_LENGTH",
    "MAX_OPERATORS",
    "Call",
    "Column",
    "Expression",
    "Number",
    "Span",
    "Text",
    "columns_in",
    "columns_of",
    "parse",
]

MAX_LENGTH = 1000
"""Characters of one expression; the longest sensible ones are under 200."""

MAX_DEPTH = 16
"""Nested functions, parentheses and minus signs: bounds the recursion of the parser."""

MAX_OPERATORS = 100
"""Operators of one expression: `a + b + c` is as deep a tree as it is long."""

MAX_NS = 2**63 - 1
"""The longest span, 292 years."""

QUOTE = "; a column with an odd name goes in double quotes"

_NUMBER = re.compile(r"(?:[0-9]+(\.)?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_SYMBOLS = ("<=", ">=", "==", "!=", *"+-*/<>(),")


def parse(text: str) -> Expression:
    """Parse one feature expression.

    Raises ExpressionError with the position of the wrong character. The caller checks that the
    columns exist.
    """
    if len(text) > MAX_LENGTH:
        message = f"the expression has {len(text)} characters, more than {MAX_LENGTH}"
        raise ExpressionError(message, expression=f"{text[:40]} ...", position=41)
    parser = _Parser(text)
    tree = parser.whole()
    if len(normal := str(tree)) > MAX_LENGTH:
        message = f"the expression with all its spaces has {len(normal)} characters"
        message += f", more than {MAX_LENGTH}"
        raise ExpressionError(message, expression=f"{text[:40]} ...", position=0)
    return tree


def columns_of(expressions: Iterable[str]) -> tuple[str, ...]:
    """Return the columns that the expressions use, in order of first use.

    Raises ExpressionError as `parse` does.
    """
    return columns_in(parse(text) for text in expressions)


class _Token(NamedTuple):
    kind: str  # "name", "quoted", "number", "span", "end", or the symbol itself
    text: str
    position: int


def _tokens(text: str) -> Iterator[_Token]:
    """Yield the tokens of `text`, and one `end`."""
    at = 0
    while at < len(text):
        char, start = text[at], at
        if char.isspace():
            at += 1
        elif char == '"':
            name, at = _quoted(text, start)
            yield _Token("quoted", name, start)
        elif char.isidentifier():
            at = _name_end(text, start)
            yield _Token("name", text[start:at], start)
        elif found := _NUMBER.match(text, at):
            at = _name_end(text, found.end())
            kind = "span" if at > found.end() else "number"
            yield _Token(kind, text[start:at], start)
        else:
            symbol = next((one for one in _SYMBOLS if text.startswith(one, at)), "")
            if not symbol:
                message = f"unexpected character {char!r}{_instead(char)}"
                raise ExpressionError(message, expression=text, position=start)
            at += len(symbol)
            yield _Token(symbol, symbol, start)
    yield _Token("end", "", len(text))


def _instead(char: str) -> str:
    return {"=": "; write == to compare", "^": "; write x * x for a square"}.get(char, QUOTE)


def _name_end(text: str, at: int) -> int:
    """Return where the name that may begin at `at` ends."""
    start = at
    while at < len(text) and text[start : at + 1].isidentifier():
        at += 1
    return at


def _quoted(text: str, start: int) -> tuple[str, int]:
    """Return the name in the quotes that open at `start`, and the position after them."""
    parts, at = [], start + 1
    while (close := text.find('"', at)) >= 0:
        parts.append(text[at:close])
        at = close + 1
        if not text.startswith('"', at):
            return '"'.join(parts), at
        at += 1
    raise ExpressionError("this quote is not closed", expression=text, position=start)


class _Parser:
    """A recursive descent parser with one token of look-ahead."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens = _tokens(text)
        self.token = next(self.tokens)
        self.operators = 0

    def advance(self) -> _Token:
        """Return the current token and advance to the next."""
        token = self.token
        if token.kind != "end":
            self.token = next(self.tokens)
        return token

    def fail(self, message: str, token: _Token) -> ExpressionError:
        return ExpressionError(message, expression=self.text, position=token.position)

    def unexpected(self, wanted: str) -> ExpressionError:
        found = "the end" if self.token.kind == "end" else repr(self.token.text)
        hint = QUOTE if self.token.kind in ("name", "quoted") else ""
        return self.fail(f"expected {wanted}, found {found}{hint}", self.token)

    def unclosed(self, opening: _Token) -> ExpressionError:
        return self.fail("this parenthesis is not closed", opening)

    def whole(self) -> Expression:
        """Parse the whole text."""
        start = self.token
        if start.kind == "end":
            raise self.fail("the expression is empty", start)
        tree = self.expression(depth=1)
        if self.token.kind in OPERATORS:
            raise self.fail("comparisons cannot be chained; use parentheses", self.token)
        if self.token.kind != "end":
            raise self.unexpected("the end of the expression")
        if isinstance(tree, Span):
            raise self.fail("a span is for windows, such as lag(x, 30s)", start)
        if is_constant(tree):
            message = "a feature needs a column, a clock or a stream, not only numbers"
            raise self.fail(message, start)
        return tree

    def expression(self, depth: int) -> Expression:
        left = self.binary(SUM, depth)
        if OPERATORS.get(self.token.kind) != COMPARISON:
            return left
        return self.operation(left, COMPARISON, depth)

    def binary(self, level: int, depth: int) -> Expression:
        """Parse operators of one level, which bind to the left."""
        tree = self.operand(level, depth)
        while OPERATORS.get(self.token.kind) == level:
            tree = self.operation(tree, level, depth)
        return tree

    def operand(self, level: int, depth: int) -> Expression:
        return self.sign(depth) if level == PRODUCT else self.binary(level + 1, depth)

    def operation(self, left: Expression, level: int, depth: int) -> Expression:
        """Parse an operator and what is to the right of it."""
        symbol = self.advance()
        self.operators += 1
        if self.operators > MAX_OPERATORS:
            raise self.fail(f"more than {MAX_OPERATORS} operators", symbol)
        right_at = self.token
        right = self.operand(level, depth)
        for side, at in ((left, symbol), (right, right_at)):
            if isinstance(side, Span):
                raise self.fail(f"{symbol.text} cannot take the span {side}; write seconds", at)
        return Call(symbol.kind, (left, right))

    def sign(self, depth: int) -> Expression:
        if self.token.kind != "-":
            return self.atom(depth)
        minus = self.advance()
        if self.token.kind == "number":
            number = self.number(self.advance())
            return Number(0.0 - number.value, number.whole)  # and -0 is 0
        self.check_depth(depth, minus)
        operand_at = self.token
        operand = self.sign(depth + 1)
        if isinstance(operand, Span):
            raise self.fail("a span cannot be negative", operand_at)
        return Call("neg", (operand,))

    def atom(self, depth: int) -> Expression:
        token = self.token
        if token.kind not in ("name", "quoted", "number", "span", "("):
            raise self.unexpected("a column, a number or a function")
        self.advance()
        if token.kind == "number":
            return self.number(token)
        if token.kind == "span":
            return self.span(token)
        if token.kind == "(":
            self.check_depth(depth, token)
            return self.parenthesis(token, depth)
        if token.kind == "quoted" or self.token.kind != "(":
            return Column(token.text)
        self.check_depth(depth, token)
        return self.call(token, depth)

    def check_depth(self, depth: int, token: _Token) -> None:
        if depth > MAX_DEPTH:
            message = f"more than {MAX_DEPTH} nested functions, parentheses or minus signs"
            raise self.fail(message, token)

    def number(self, token: _Token) -> Number:
        whole = token.text.isdigit()
        value = float(token.text)
        if not math.isfinite(value):
            raise self.fail("this number is too large", token)
        return Number(value, whole)

    def span(self, token: _Token) -> Span:
        found = _NUMBER.match(token.text)
        assert found
        unit = token.text[found.end() :]
        if unit not in UNITS_NS or found[2]:
            message = f"{token.text!r} is not a number or a span; spans end in "
            message += ", ".join(UNITS_NS) + ", such as 30s or 500ms"
            raise self.fail(message, token)
        ns = Fraction(found[0]) * UNITS_NS[unit]
        if ns.denominator != 1 or not 0 < ns <= MAX_NS:
            message = (
                f"the span {token.text} is not a whole number of nanoseconds from 1ns to 292 years"
            )
            raise self.fail(message, token)
        return Span(int(ns))

    def parenthesis(self, opening: _Token, depth: int) -> Expression:
        if self.token.kind == "end":
            raise self.unclosed(opening)
        tree = self.expression(depth + 1)
        self.close(opening, "')'")
        return tree

    def close(self, opening: _Token, wanted: str) -> None:
        if self.token.kind == "end":
            raise self.unclosed(opening)
        if self.token.kind != ")":
            raise self.unexpected(wanted)
        self.advance()

    def call(self, name: _Token, depth: int) -> Call:
        if name.text not in FUNCTIONS:
            raise self.fail(_unknown(name.text), name)
        function = FUNCTIONS[name.text]
        at: list[_Token] = []
        arguments = self.arguments(function, at, depth)
        function = function_of(name.text, arguments)
        parameters = function.parameters
        least = sum(one.default is None for one in parameters)
        if not least <= len(arguments) <= len(parameters):
            raise self.fail(_wrong_count(function, least, len(arguments)), name)
        for parameter, argument, token in zip(parameters, arguments, at, strict=False):
            if wrong := _wrong_kind(parameter, argument):
                if isinstance(argument, Number) and FUNCTIONS[name.text].windowed:
                    wrong += "; the limit of a series has a point, such as 3.0"
                written = signature(function._replace(name=name.text))
                raise self.fail(f"{parameter.name} of {written} {wrong}", token)
        given = len(arguments)
        while given > least and arguments[given - 1] == parameters[given - 1].default:
            given -= 1
        call = Call(name.text, arguments[:given])
        if (function.block is None or function.lag) and is_constant(call):
            at_series = at[[one.kind for one in parameters].index("series")]
            message = f"{name.text} needs a column, a clock or a stream, not only numbers"
            raise self.fail(message, at_series)
        return call

    def arguments(
        self, function: Function, at: list[_Token], depth: int
    ) -> tuple[Expression, ...]:
        """Parse arguments in parentheses; `at` gets the first token of each."""
        opening = self.advance()
        if self.token.kind == ")":
            self.advance()
            return ()
        arguments: list[Expression] = []
        while True:
            if self.token.kind == "end":
                raise self.unclosed(opening)
            at.append(self.token)
            arguments.append(self.argument(function, len(arguments), depth))
            if self.token.kind != ",":
                break
            self.advance()
        self.close(opening, "',' or ')'")
        return tuple(arguments)

    def argument(self, function: Function, index: int, depth: int) -> Expression:
        kinds = [one.kind for one in function.parameters]
        if kinds[index : index + 1] == ["text"] and self.token.kind in ("name", "quoted"):
            return Text(self.advance().text)
        return self.expression(depth + 1)


def _unknown(name: str) -> str:
    names = [one for one in FUNCTIONS if one.isidentifier()]
    hint = nearest(name, names)
    message = f"unknown function {name!r}{hint} ('stream-lstm help features' lists all)"
    return message if hint else f"{message}{QUOTE}, and --plugin adds a function of your own"


def _wrong_count(function: Function, least: int, given: int) -> str:
    most = len(function.parameters)
    if not most:
        return f"{function.name} takes no arguments, not {given}"
    counts = str(most) if least == most else f"{least} or {most}"
    if most > least + 1:
        counts = f"{least} to {most}"
    plural = "" if most == 1 else "s"
    return f"{function.name} takes {counts} argument{plural}, not {given}: {signature(function)}"


def _wrong_kind(parameter: Parameter, argument: Expression) -> str:
    """Return why an argument is not of its parameter's kind, or ""."""
    if parameter.kind == "series":
        if isinstance(argument, Span):
            return f"must be a column or an expression, not the span {argument}"
    elif parameter.kind == "number":
        if not isinstance(argument, Number):
            return f"must be a number such as 0.5, not {argument}"
    elif parameter.kind == "text":
        if not isinstance(argument, Text):
            return f"must be a name or a text in double quotes, not {argument}"
    elif parameter.kind == "span":
        if not isinstance(argument, Span):
            return f"must be a span such as 30s, not {argument}"
    elif not _counts(argument):
        elements = f"must be a whole number of elements from 1 to {MAX_WINDOW}"
        return f"{elements} or a span such as 30s, not {argument}"
    return ""


def _counts(argument: Expression) -> bool:
    """Return whether an argument is a possible window."""
    if isinstance(argument, Number):
        return argument.whole and 1 <= argument.value <= MAX_WINDOW
    return isinstance(argument, Span)
