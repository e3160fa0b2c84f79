"""Payloads other than JSON and MessagePack as rows: text, arrays and structs, packed or not.

Each `read_...` returns a function from a payload and its header to the values, and to the roles of
each row. Sizes are checked before anything is allocated for them. ValueError and DecodeError say
what is wrong with a payload.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Annotated, Any, NoReturn, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Meta

from ..errors import ConfigurationError, DecodeCause, DecodeError
from .protocol import MAX_BLOCK_ROWS
from .tree import numeric

MAX_PARSED_BYTES = 2 * 2**20
"""Of JSON, MessagePack and text, unpacked: parsed, they take up to 25 times their size."""

MAX_VALUES = 2**22
"""Of one message: 32 MB as float64, where one-byte integers could become 64."""

MAX_SMALL_BYTES = 2**16
"""Of a header frame, and of one row of a struct."""

PICKLED = "pickled Python objects are never read; publish JSON or msgpack"

Values: TypeAlias = npt.NDArray[np.float64]
Rows: TypeAlias = list[list[float]] | Values
Roles: TypeAlias = list[Sequence[Any]]
Read: TypeAlias = Callable[[bytes, bytes], tuple[Rows, Roles, int]]
"""From payload and header to the values, the roles of each row, and the number of rows skipped."""


def wrong(key: str, message: str) -> NoReturn:
    """Raise ConfigurationError for a key of a declaration."""
    raise ConfigurationError(message, key=key)


def refuse(cause: DecodeCause, message: str) -> NoReturn:
    """Raise DecodeError with a cause."""
    raise DecodeError(message, cause=cause)


def check_size(rows: int, width: int) -> None:
    """Raise DecodeError for more rows or values than a message may have."""
    if rows > MAX_BLOCK_ROWS or rows * width > MAX_VALUES:
        refuse("size", f"{rows} rows of {width} exceed {MAX_BLOCK_ROWS} rows, {MAX_VALUES} values")


# ---- compression and pickles -----------------------------------------------------------------


def _inflate(payload: bytes, most: int, wbits: int) -> bytes:
    stream = zlib.decompressobj(wbits)
    try:
        found = stream.decompress(payload, most + 1)
    except zlib.error as error:
        raise ValueError(f"unpacking: {error}") from None
    if len(found) <= most and (not stream.eof or stream.unused_data):
        raise ValueError("the packed bytes are cut off, or more follow them")
    return found


def _unzstd(payload: bytes, most: int) -> bytes:
    import pyarrow as pa  # here, so that a daemon without such a feed starts without Arrow

    found = bytearray()
    try:
        with pa.CompressedInputStream(pa.BufferReader(payload), "zstd") as stream:
            while len(found) <= most and (part := stream.read(2**16)):
                found += part
    except (OSError, EOFError) as error:
        raise ValueError(f"unpacking: {error}") from None
    return bytes(found)


_UNPACK: dict[str, Callable[[bytes, int], bytes]] = {
    "zlib": lambda payload, most: _inflate(payload, most, zlib.MAX_WBITS),
    "gzip": lambda payload, most: _inflate(payload, most, zlib.MAX_WBITS | 16),
    "zstd": _unzstd,
}


def unpack(payload: bytes, compression: str, most: int) -> bytes:
    """Return a payload of at most `most` bytes, unpacked; ValueError and DecodeError say why not.

    Stops unpacking at the limit.
    """
    found = payload
    if compression != "none" and len(payload) <= most:
        found = _UNPACK[compression](payload, most)
    if len(found) > most:
        refuse("size", f"{len(payload)} bytes exceed {most}, or unpack to more")
    return found


def is_pickle(payload: bytes) -> bool:
    """Return whether a payload that cannot be read begins and ends as a pickle does."""
    binary = payload[:1] == b"\x80" and payload[1:2] <= b"\x05"
    text = payload.startswith((b"(dp", b"(lp", b"(ip", b"(i__", b"ccopy_reg\n", b"cnumpy", b"c__"))
    return payload[-1:] == b"." and (binary or text)


def _count_rows(payload: bytes, size: int, what: object) -> int:
    """Return how many rows of a size there are; ValueError if it is not a whole number."""
    rows, rest = divmod(len(payload), size)
    if rest or not rows:
        raise ValueError(f"{len(payload)} bytes are not rows of {size} bytes ({what})")
    # numbers can look like a pickle, but the length of its first frame makes sure
    if payload[0] == 0x80 and int.from_bytes(payload[3:11], "little") == len(payload) - 11:
        raise ValueError(PICKLED)
    return rows


# ---- text --------------------------------------------------------------------------------------


def number_of(value: Any) -> float:
    """Return a number, or the text of one; null and an empty text are NaN."""
    if type(value) is str:
        number = numeric(value)
        if number is not None:
            return number
    elif type(value) in (int, float):
        return float(value)
    if value is None or (type(value) is str and not value.strip()):
        return float("nan")
    raise ValueError(f"{value!r:.60} is not a number")


def read_text(
    fields: Sequence[str], separator: Sequence[str], columns: Sequence[str], roles: Sequence[str]
) -> Read:
    """Return the reader of lines of text."""
    width, split = len(fields), line_splitter(len(fields), separator)
    places, others = [fields.index(name) for name in columns], [fields.index(r) for r in roles]

    def read(payload: bytes, _: bytes) -> tuple[Rows, Roles, int]:
        text = payload.decode().strip("\0\r\n ")
        lines = [text] if text else []
        if "\n" in text:
            check_size(text.count("\n") + 1, 1)
            lines = [line for line in text.split("\n") if line and not line.isspace()]
            check_size(len(lines), len(places))
        rows: list[list[float]] = []
        given: Roles = []
        for line in lines:
            found = split(line)
            if len(found) != width:
                count = f"{'more than ' * (len(found) > width)}{min(len(found), width)}"
                raise ValueError(f"{count} fields in {line[:60]!r}; {width} are declared")
            rows.append([number_of(found[place]) for place in places])
            given.append([found[place].strip() for place in others])
        return rows, given, 0

    return read


_SPACES = str.maketrans(",;|=\t", "     ")


def unescaped(text: str) -> str:
    r"""Return a text in which `\t` and `\n` are a tab and a line feed."""
    return text.replace("\\t", "\t").replace("\\n", "\n")


def line_splitter(width: int, separator: Sequence[str]) -> Callable[[str], list[str]]:
    """Return the function that splits a line into its fields, at most one more than `width`."""
    if width == 1:
        return lambda line: [line]
    if separator:
        given = re.compile("|".join(re.escape(unescaped(text)) for text in separator))
        return lambda line: given.split(line, width)

    def sniffed(line: str) -> list[str]:
        for mark in (",", ";", "|", "\t", None):
            if mark is None or mark in line:
                found = line.split(mark, width)
                if len(found) == width:
                    return found
        # marks may be mixed, as in EURUSD:|:1.08;1.09; colons inside of a time are kept
        found = [part.strip(":") for part in line.translate(_SPACES).split(None, width)]
        colons = line.split(":", width)
        return colons if len(found) != width == len(colons) else found

    return sniffed


# ---- arrays and structs ------------------------------------------------------------------------

_NUMBER = "[<>=|]?(?:f[248]|[iu][1248])"
_TYPES = {"float16": "f2", "float32": "f4", "float64": "f8"} | {
    f"{sign}int{8 * size}": f"{sign or 'i'}{size}" for sign in ("", "u") for size in (1, 2, 4, 8)
}


def _ordered(code: str) -> str:
    """Return a code that is little-endian unless it says otherwise."""
    return code if code[0] in "<>" else "<" + code.lstrip("=|")


@lru_cache(maxsize=256)
def _number_type(text: str) -> np.dtype[Any]:
    code = _TYPES.get(text, text)
    if not re.fullmatch(_NUMBER, code):
        raise ValueError(f"dtype {text[:60]!r} is not one of f2 f4 f8 i1 i2 i4 i8 u1 u2 u4 u8")
    return np.dtype(_ordered(code))


class _ArrayHeader(msgspec.Struct):
    dtype: str
    shape: Annotated[list[Annotated[int, Meta(ge=0, le=MAX_VALUES)]], Meta(max_length=2)]
    order: str = "C"
    fortran_order: bool = False


def read_array(dtype: str, width: int) -> Read:
    """Return the reader of rows of numbers of one type, which a JSON header may declare."""
    header_of = msgspec.json.Decoder(_ArrayHeader)
    try:
        declared = None if dtype == "header" else _number_type(dtype or "f8")
    except ValueError as error:
        wrong("dtype", str(error))

    def read(payload: bytes, header: bytes) -> tuple[Rows, Roles, int]:
        kind = declared
        if kind is None:
            said = header_of.decode(header[: MAX_SMALL_BYTES + 1])
            kind = _number_type(said.dtype)
            _check_shape(said, len(payload) // kind.itemsize, width)
        rows = _count_rows(payload, kind.itemsize * width, kind)
        check_size(rows, width)
        return np.frombuffer(payload, kind).astype(np.float64).reshape(rows, width), [], 0

    return read


def _check_shape(said: _ArrayHeader, size: int, width: int) -> None:
    """Raise ValueError unless the shape fits the bytes and the columns, in C order."""
    if said.fortran_order or said.order[:1].upper() == "F":
        raise ValueError("the array is in Fortran order: publish numpy.ascontiguousarray(x)")
    total = int(np.prod(said.shape)) if said.shape else 1
    if total != size or (len(said.shape) == 2 and said.shape[1] != width):
        raise ValueError(f"shape {said.shape} is not that of {size} values in rows of {width}")


@lru_cache(maxsize=64)
def struct_type(text: str) -> np.dtype[Any]:
    """Return the packed type of `NAME:TYPE,...`; raises ConfigurationError."""
    kinds = []
    for k, part in enumerate(part for part in text.replace(" ", "").split(",") if part):
        name, _, code = part.rpartition(":")
        if not re.fullmatch(rf"{_NUMBER}|[SV]\d{{1,4}}", code):
            wrong("dtype", f"dtype: {part!r} is not NAME:TYPE, as bid:f8, sym:S8 or _:V4")
        kinds.append((name if name.strip("_") else f"_{k}", _ordered(code)))
    try:
        found = np.dtype(kinds)
    except (ValueError, TypeError) as error:
        wrong("dtype", f"dtype = {text!r}: {error}")
    if not 0 < found.itemsize <= MAX_SMALL_BYTES:
        wrong("dtype", f"dtype = {text!r}: declare 1 to {MAX_SMALL_BYTES} bytes as NAME:TYPE,...")
    return found


def read_struct(dtype: str, columns: Sequence[str], roles: Sequence[str]) -> Read:
    """Return the reader of packed rows, such as C structs."""
    kind = struct_type(dtype)
    if texts := [name for name in columns if kind[name].kind in "SV"]:
        wrong("columns", f"{texts[0]!r} is not a number of dtype = {dtype!r}")

    def read(payload: bytes, _: bytes) -> tuple[Rows, Roles, int]:
        n = _count_rows(payload, kind.itemsize, "a struct")
        check_size(n, len(columns))
        found = np.frombuffer(payload, kind)
        values = np.empty((n, len(columns)), np.float64)
        for k, name in enumerate(columns):
            values[:, k] = found[name]
        return values, list(zip(*(_listed(found[name]) for name in roles), strict=True)), 0

    return read


def _listed(column: npt.NDArray[Any]) -> list[Any]:
    found: list[Any] = column.tolist()
    if column.dtype.kind != "S":
        return found
    return [text.partition(b"\0")[0].decode() for text in found]
