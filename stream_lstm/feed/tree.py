"""Rows from JSON or MessagePack by paths, fast where the message is as declared.

The paths become one struct type, so that msgspec decodes the declared fields and skips the rest.
Everything else takes a slow way, level by level: what the struct rejects, a key that may be given
twice or is written with an escape, and a name with a dot in it. It also finds out what is missing.

Conditions on the fields of a message, such as `type = "trade" and size >= 0.5`.

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
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal, NamedTuple, NoReturn, TypeAlias

import msgspec
from msgspec import UNSET, Meta, Raw

from ..errors import ConfigurationError
from ..quoting import printable
from .protocol import MAX_BLOCK_ROWS, MAX_COLUMNS

MAX_CHARS = 1000
"""Of a condition; also bounds its depth and the number of its fields."""

MAX_CONDITION_DEPTH = 32
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
        if self.depth > MAX_CONDITION_DEPTH:
            self._fail(f"more than {MAX_CONDITION_DEPTH} levels", self.tokens[self.at].position)
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


FAULTS = (msgspec.MsgspecError, ValueError, ArithmeticError, RecursionError, TypeError)
"""What decoding bad bytes can raise, here and in msgspec and NumPy."""

MAX_KEYS = 2**16
"""Of all objects that the slow way opens in one message; each takes some 300 bytes."""

MAX_COMMAS = 2**18
"""In a message that takes the slow way; each element of an array takes some 90 bytes."""

MAX_DEPTH = 32
"""Of a path."""

SHOWN = 12
"""Names of fields in a message about one that is missing."""

Parts: TypeAlias = tuple[str, ...]
Wanted: TypeAlias = list[tuple[Parts, int]]
"""Paths, each with the place of its value in a row."""

Scalar: TypeAlias = int | float | str | bool | None
Value: TypeAlias = float | str | None
KINDS: dict[str, Any] = {"value": Value, "missing": Value, "role": Scalar, "optional": Scalar}


VALUES = ("value", "missing")
"""Kinds of the values of a tick."""


class Slot(NamedTuple):
    """A value of a row: where it is, what messages call it, and whether it may be missing.

    A `missing` value that is absent is None, unless a row has no value at all.
    """

    parts: Parts
    name: str
    kind: Literal["value", "missing", "role", "optional"]


def parts_of(path: str) -> Parts:
    """Return the parts of a path such as `data.bids.0.0`; raises ConfigurationError."""
    parts = tuple(path.split("."))
    if "" in parts or parts.count("*") > 1 or len(parts) > MAX_DEPTH or parts[-1] == "*":
        raise ConfigurationError(f"{path!r} is not a path such as data.bids.0.0", key="columns")
    if any(_is_index(part) and int(part) >= MAX_COLUMNS for part in parts):
        raise ConfigurationError(f"{path!r}: an index must be below {MAX_COLUMNS}", key="columns")
    return parts


def _is_index(part: str) -> bool:
    return part.isascii() and part.isdigit() and len(part) < 10


class TreeReader:
    """Reads the rows of a message; each has a value for each slot, UNSET for a missing optional.

    module: `msgspec.json` or `msgspec.msgpack`. test: whether a row counts; one that does not may
    lack what is not optional. length: of a row that is an array; 0 for any. A path with `*` is of
    each element of an array.
    """

    def __init__(
        self,
        module: Any,
        slots: Sequence[Slot],
        test: Callable[[Sequence[Any]], bool] | None = None,
        length: int = 0,
    ) -> None:
        self._module, self._slots, self._test = module, slots, test
        self._json, self._length = module is msgspec.json, length
        starred = {slot.parts[: slot.parts.index("*")] for slot in slots if "*" in slot.parts}
        if len(starred) > 1:
            raise ConfigurationError("all paths with * must agree up to it", key="columns")
        self._star: Parts | None = starred.pop() if starred else None
        inner: Wanted = []
        outer: Wanted = []
        for k, (parts, _, _) in enumerate(slots):
            if self._star is None or "*" not in parts:
                (inner if self._star is None else outer).append((parts, k))
            else:
                inner.append((parts[len(self._star) + 1 :], k))
        self._inner, self._outer = inner, outer
        row, gets = self._struct(inner)
        self._get = _getter(gets)
        order = [k for _, k in (*inner, *outer)]
        self._order = [order.index(k) for k in range(len(order))]
        rows: Any = Annotated[list.__class_getitem__(row), Meta(max_length=MAX_BLOCK_ROWS)]
        self._numbers = not starred and all(len(p) == 1 and _is_index(p[0]) for p, _ in inner)
        self._indexed = all(_is_index(parts[0]) for parts, _ in inner)
        self._decode_rows: Any = module.Decoder(rows).decode
        nodes = {parts[: k + 1] for parts, _ in outer for k in range(len(parts))}
        if self._star is not None:
            whole, gets = self._struct(outer, (self._star, rows))
            self._get_outer = _getter(gets)
            nodes |= {self._star[: k + 1] for k in range(len(self._star))}
        else:
            whole = row if self._indexed else row | rows
        self._decode = module.Decoder(whole).decode
        inside = {parts[: k + 1] for parts, _ in inner for k in range(len(parts))}
        each, once = Counter(n[-1] for n in inside), Counter(n[-1] for n in nodes)
        self._keys = [
            (*self._needles(name), each[name], once[name])
            for name in each.keys() | once.keys()
            if not _is_index(name)
        ]
        self._pairs = module.Decoder(dict[_Key, Raw], dec_hook=self._key)
        self._list = module.Decoder(Annotated[list[Raw], Meta(max_length=MAX_BLOCK_ROWS)])
        self._left = MAX_KEYS

    def _struct(
        self, wanted: Wanted, extra: tuple[Parts, Any] | None = None
    ) -> tuple[Any, list[str]]:
        """Return a struct type with the paths, and the attribute path of each, `extra` last."""
        leaves: dict[Parts, Any] = {}
        for parts, k in wanted:
            leaf = KINDS[self._slots[k].kind]
            leaves[parts] = leaf if leaves.get(parts, leaf) is leaf else Scalar
        paths = [parts for parts, _ in wanted]
        if extra is not None:
            paths.append(extra[0])
            leaves[extra[0]] = extra[1]
        if self._length:
            leaves.setdefault((str(self._length - 1),), Raw)
        kind, names = _struct(leaves, exact=self._length > 0)
        return kind, [names[parts] for parts in paths]

    def _needles(self, name: str) -> tuple[bytes, bytes]:
        """Return how a key is written; the longer forms of MessagePack end like the second."""
        text = name.encode()
        if self._json:
            return b'"' + text + b'"', b""
        tail = bytes([len(text) & 255]) + text
        return (bytes([0xA0 | len(text)]) + text, tail) if len(text) < 32 else (tail, b"")

    def read(self, payload: bytes) -> tuple[list[Sequence[Any]], int]:
        """Return the rows that count, and how many do not. Raises one of FAULTS."""
        try:
            rows = self._fast(payload)
        except (*FAULTS, AttributeError):
            rows = None
        return self._slow(payload) if rows is None else (rows, 0)

    def _fast(self, payload: bytes) -> list[Sequence[Any]] | None:
        """Return all rows, or None where a key may be given twice."""
        try:
            found = self._decode(payload)
        except msgspec.ValidationError:
            if not self._numbers:
                return None
            found = self._decode_rows(payload)
        outer: tuple[Any, ...] = ()
        items = found
        if self._star is not None:
            *before, items = self._get_outer(found)
            outer = tuple(before)
        elif type(found) is not list:
            items = (found,)
        n, count = len(items), payload.count
        for first, second, each, once in self._keys:
            if count(first) + (count(second) if second else 0) != each * n + once:
                return None
        if self._json and b"\\" in payload:
            return None
        rows: list[Sequence[Any]] = list(map(self._get, items))
        if not outer:
            return rows
        whole = [(*row, *outer) for row in rows]
        return [[row[k] for k in self._order] for row in whole]

    # ---- level by level ------------------------------------------------------------------

    def _slow(self, payload: bytes) -> tuple[list[Sequence[Any]], int]:
        """Return what `read` does; ValueError names what is missing or wrong."""
        self._left = MAX_KEYS
        if self._json and payload.count(b",") > MAX_COMMAS:
            raise ValueError(f"more than {MAX_COMMAS} commas")
        outer: dict[int, Any] = {}
        items: list[Any] = [payload]
        if self._star is not None:
            outer = self._gather(payload, [*self._outer, (self._star, -1)])
            if -1 not in outer:
                raise ValueError(
                    f"no field {'.'.join(self._star)!r}; it has {self._names(payload)}"
                )
            items = self._list.decode(outer.pop(-1))
        elif self._kind(payload) == "array":
            elements = self._list.decode(payload)
            inside = self._kind(elements[0]) if elements else "array"
            if not self._indexed or (self._numbers and inside):
                items = elements
        rows: list[Sequence[Any]] = []
        for item in items:
            found = self._gather(item, self._inner) | outer
            if self._test is None or self._test(
                [self._seen(found, s) for s in range(len(self._slots))]
            ):
                rows.append([self._value(found, k, item) for k in range(len(self._slots))])
        return rows, len(items) - len(rows)

    def _seen(self, found: dict[int, Any], k: int) -> Any:
        """Return a value if it is a scalar, else UNSET."""
        if k not in found or self._kind(found[k]):
            return UNSET
        return self._module.decode(found[k], type=Scalar)

    def _value(self, found: dict[int, Any], k: int, item: Any) -> Any:
        slot = self._slots[k]
        if slot.kind == "optional":
            return self._seen(found, k)
        if k not in found:
            if slot.kind == "missing" and any(self._slots[j].kind in VALUES for j in found):
                return None
            raise ValueError(f"no field {slot.name!r}; it has {self._names(item)}")
        try:
            return self._module.decode(found[k], type=KINDS[slot.kind])
        except FAULTS as error:
            raise ValueError(f"field {slot.name!r}: {error}") from None

    def _gather(self, raw: Any, wanted: Wanted) -> dict[int, Any]:
        """Return {place: bytes} of the paths that an object or array has."""
        kind = self._kind(raw)
        if not kind:
            self._list.decode(raw)  # raises, with a reason, for what is not one
        twice: set[Any] = set()
        found: dict[Any, Any] = {}
        if kind == "array":
            found = {str(k): value for k, value in enumerate(self._list.decode(raw))}
            if self._length not in (0, len(found)):
                raise ValueError(f"{len(found)} elements; fields names {self._length}")
        else:
            for key, value in self._pairs.decode(raw).items():
                if key.text in found:
                    twice.add(key.text)
                found[key.text] = value
        out: dict[int, Any] = {}
        deeper: dict[str, Wanted] = {}
        for parts, k in wanted:
            whole = ".".join(parts)
            name = whole if whole in found else parts[0]
            if name in twice:
                raise ValueError(f"the key {name!r} is given twice")
            if whole in found:
                out[k] = found[whole]
            elif name in found and self._kind(found[name]):
                deeper.setdefault(name, []).append((parts[1:], k))
        for name, below in deeper.items():
            out |= self._gather(found[name], below)
        return out

    def _key(self, _kind: Any, text: Any) -> _Key:
        self._left -= 1
        if self._left < 0:
            raise ValueError(f"more than {MAX_KEYS} keys")
        return _Key(text if type(text) is str else None)

    def _names(self, raw: Any) -> str:
        """Return the first names of an object, for messages."""
        if self._kind(raw) != "object":
            return "no names"
        names = [str(key.text)[:40] for key in self._pairs.decode(raw)]
        return ", ".join([*names[:SHOWN], *["..."] * (len(names) > SHOWN)]) or "none"

    def _kind(self, raw: Any) -> str:
        """Return "object", "array", or "" for anything else."""
        begin = bytes(memoryview(raw)[:64])
        if self._json:
            return {b"{": "object", b"[": "array"}.get(begin.lstrip()[:1], "")
        byte = begin[0] if begin else 0
        if 0x90 <= byte <= 0x9F or byte in (0xDC, 0xDD):
            return "array"
        return "object" if 0x80 <= byte <= 0x8F or byte in (0xDE, 0xDF) else ""


class _Key:
    """A key of an object, equal to itself alone, so that a dict keeps one that is repeated."""

    __slots__ = ("text",)

    def __init__(self, text: str | None) -> None:
        self.text = text


def _getter(paths: Sequence[str]) -> Callable[[Any], tuple[Any, ...]]:
    """Return what takes the attributes of a struct, as a tuple for one of them too."""
    get = operator.attrgetter(*paths)
    return get if len(paths) > 1 else lambda item: (get(item),)


def _struct(leaves: dict[Parts, Any], *, exact: bool = False) -> tuple[Any, dict[Parts, str]]:
    """Return the struct type of some paths below one object or array, and their attributes."""
    below: dict[str, dict[Parts, Any]] = {}
    for parts, leaf in leaves.items():
        below.setdefault(parts[0], {})[parts[1:]] = leaf
    kinds: dict[str, Any] = {}
    names: dict[Parts, str] = {}
    for place, (part, inner) in enumerate(below.items()):
        attribute = f"i{part}" if _is_index(part) else f"f{place}"
        if () in inner:
            if len(inner) > 1:
                raise ConfigurationError(f"{part!r} is both a value and an object", key="columns")
            kinds[part], names[(part,)] = inner[()], attribute
        else:
            kinds[part], deeper = _struct(inner)
            names |= {(part, *parts): f"{attribute}.{name}" for parts, name in deeper.items()}
    if all(map(_is_index, below)):
        known = {int(part): kind for part, kind in kinds.items()}
        fields = [(f"i{k}", known.get(k, Raw)) for k in range(max(known) + 1)]
        kind = msgspec.defstruct("Array", fields, array_like=True, forbid_unknown_fields=exact)
        return kind, names
    rename = {f"i{p}" if _is_index(p) else f"f{k}": p for k, p in enumerate(kinds)}
    fields = list(zip(rename, kinds.values(), strict=True))
    try:
        return msgspec.defstruct("Object", fields, rename=rename), names
    except ValueError as error:
        raise ConfigurationError(f"{', '.join(kinds)}: {error}", key="columns") from None
