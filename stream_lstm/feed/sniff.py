"""What the first messages of a feed look like, and the declaration that reads them.

Each form is tried in turn: compressed bytes, pickles (by their magic bytes, never opened), JSON,
MessagePack, text, and rows of numbers. Numbers have no mark of their kind, but a wrong width shows
in their exponents: half of the words of float64, read as float32, are noise over the whole range.
Where two kinds fit, the look is doubtful. A declaration that is returned has decoded the messages.
"""

from __future__ import annotations

import itertools
import shlex
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any, NamedTuple, TypeAlias

import msgspec
import numpy as np

from ..errors import StreamLSTMError
from ..schema import Declaration
from .decode import (
    HEADER,
    SEQ_NAMES,
    STREAM_NAMES,
    TIME_NAMES,
    compile_decoder,
    time_ns,
)
from .payloads import is_pickle, line_splitter, unpack
from .tree import FAULTS, numeric

MAX_LOOK, MAX_SHOWN = 256, 80
"""Messages that are judged, and bytes of a message that are shown."""

MAX_BYTES = 2**19
"""Of all messages that are judged: decoded, they take up to 72 times their size."""

MOST_COLUMNS, MOST_FIELDS = 16, 64
KIND_NAMES = ("type", "event", "e", "kind", "channel", "topic", "msg_type", "action")
"""Fields whose text tells kinds of messages apart."""

MAGIC = {b"\x1f\x8b": "gzip", b"\x28\xb5": "zstd", b"\x78\x01": "zlib", b"\x78\x5e": "zlib",
         b"\x78\x9c": "zlib", b"\x78\xda": "zlib"}  # fmt: skip

EARLIEST_S, LATEST_S = 946_684_800, 4_102_444_800
"""Years 2000 to 2100: between them a number may be a time."""

TIGHT, FAR = 14.0, 60.0
"""Bits: how far the exponents of real data spread, and how far they are from 1, at most."""

Rows: TypeAlias = list[dict[str, Any]]
UNREADABLE = (*FAULTS, StreamLSTMError, IndexError)


class Look(NamedTuple):
    """What messages look like: `declaration` reads them; `doubtful` says why it may be wrong."""

    kind: str
    declaration: Declaration | None = None
    doubtful: str = ""

    @property
    def flags(self) -> str:
        """The flags of `stream-lstm run` that declare it, quoted for a shell."""
        words: list[str] = []
        for key, value in msgspec.to_builtins(self.declaration or {}).items():
            for one in value if key == "separator" else [value]:
                text = ",".join(one) if isinstance(one, tuple | list) else str(one)
                words += [f"--{key.replace('_', '-')}", text]
        return shlex.join(words)


def shown(frames: Sequence[bytes]) -> str:
    """Return a message in one line: its topic and how its payload begins, escaped."""
    quoted = [repr(frame[:MAX_SHOWN])[1:] for frame in [*frames[:-1][:3], *frames[-1:]]]
    return f"{' | '.join(quoted)} ({len(frames[-1]) if frames else 0} bytes)"


def sniff(messages: Sequence[Sequence[bytes]]) -> Look:
    """Judge the first messages of a feed, those with the most common number of frames."""
    sizes = itertools.accumulate(sum(map(len, frames)) for frames in messages)
    some = [frames for frames, size in zip(messages, sizes, strict=True) if size <= MAX_BYTES]
    counts = Counter(len(frames) for frames in some[:MAX_LOOK] if frames)
    if not counts:
        return Look("a message too large to judge" if messages else "nothing")
    count = counts.most_common(1)[0][0]
    alike = [frames for frames in some[:MAX_LOOK] if len(frames) == count]
    header = _opened(alike[0][-2]) if count in (2, 3) else None
    if isinstance(header, dict) and {"dtype", "shape"} <= header.keys():
        return _headed(header, alike)
    first: Look | None = None
    for settings, payloads in _layouts(alike):
        for look in _looks(payloads):
            if look.declaration is not None:
                d = msgspec.structs.replace(look.declaration, **settings)
                if _reads(d, alike):
                    return look._replace(declaration=d)
            first = first or look._replace(declaration=None)
    return first or Look("unknown bytes")


def _headed(header: dict[str, Any], messages: list[Sequence[bytes]]) -> Look:
    """Judge arrays whose JSON header declares them."""
    shape = header["shape"] if isinstance(header["shape"], list) else []
    kind = f"{str(header['dtype'])[:20]} array with a JSON header"
    for width in range(MOST_FIELDS if len(shape) == 2 else 1):
        d = Declaration("array", dtype="header", channels=width)
        if width in (0, *shape) and _reads(d, messages):
            return Look(kind, d)
    return Look(f"{kind} that does not fit")


def _reads(declaration: Declaration, messages: Sequence[Sequence[bytes]]) -> bool:
    """Return whether a declaration reads most messages."""
    read = 0
    with suppress(StreamLSTMError):
        decode = compile_decoder(declaration)
        for frames in messages:
            with suppress(StreamLSTMError):
                read += len(decode(frames).rows) > 0
    return 2 * read > len(messages)


_MARKS: dict[bytes, dict[str, Any]] = {
    b"{": {},
    b"\n\n": {"frames": ("topic+payload",), "separator": ("\\n\\n",)},
}
"""Where a topic in the frame of its payload may end: before JSON, or MessagePack."""


def _layouts(messages: list[Sequence[bytes]]) -> Iterator[tuple[dict[str, Any], list[bytes]]]:
    """Yield what the frames may be, as settings, with the payloads."""
    columns = [list(column) for column in zip(*messages, strict=True)]
    last, count = columns[-1], len(columns)
    if count == 1:
        for mark, settings in _MARKS.items():
            at = [frame.find(mark) for frame in last]
            parts = [f[k + len(mark) * bool(settings) :] for f, k in zip(last, at, strict=True)]
            module = msgspec.msgpack if settings else msgspec.json
            if min(at) > 0 and all(isinstance(_opened(part, module), dict) for part in parts):
                yield settings, parts
        yield {}, last
    elif count == 2:
        yield _topic(columns[0]), last
    else:
        numbered = ("seq",) if _rises(last) else ()
        places = range(1, count - len(numbered))
        is_json = [_opened(column[0]) is not None for column in columns]
        after = [k for k in places if is_json[k - 1] and not is_json[k]]
        for place in sorted(places, key=lambda k: (k not in after, -len(columns[k][0]))):
            names = ["topic", *("skip",) * (count - 1 - len(numbered)), *numbered]
            names[place], roles = "payload", {}
            if place in after and place > 1:
                names[place - 1] = "header"
                found = dict(_leaves(_opened(columns[place - 1][0]), ""))
                roles = {key: f"{HEADER}{path}" for key, path in _roles(found).items()}
            yield {"frames": tuple(names)} | _topic(columns[0]) | roles, columns[place]


def _opened(frame: bytes, module: Any = msgspec.json) -> Any:
    """Return what JSON or MessagePack holds if it is an object or a list, else None."""
    with suppress(*FAULTS):
        found = module.decode(frame)
        return found if isinstance(found, dict | list) and found else None
    return None


def _rises(frames: Sequence[bytes]) -> bool:
    """Return whether frames are binary sequence numbers."""
    numbers = [int.from_bytes(frame, "little") for frame in frames]
    steps = [b - a for a, b in itertools.pairwise(numbers)]
    return {*map(len, frames)} <= {4, 8} and all(0 < step < 1000 for step in steps)


def _topic(topics: Sequence[bytes]) -> dict[str, str]:
    """Return the prefix that all topics share, up to their last part, which names the stream."""
    heads = {topic.rstrip(b"/").rpartition(b"/")[0] for topic in topics}
    head = heads.pop().decode(errors="replace") if len(heads) == 1 else ""
    return {"topic": f"{head}/"} if head else {}


def _looks(payloads: Sequence[bytes]) -> Iterator[Look]:
    """Yield what payloads may be, the likeliest first."""
    if not all(payloads):
        yield Look("an empty payload")
        return
    packed = MAGIC.get(payloads[0][:2], "none")
    if packed != "none":
        with suppress(*UNREADABLE):
            inside: list[bytes] = []
            for payload in payloads:
                if sum(map(len, inside)) < MAX_BYTES:
                    inside.append(unpack(payload, packed, MAX_BYTES))
            for look in _looks(inside):
                d = look.declaration
                d = None if d is None else msgspec.structs.replace(d, compression=packed)
                yield Look(f"{packed}-compressed {look.kind}", d, look.doubtful)
            return
    if is_pickle(payloads[0]):
        yield Look("pickled Python object")
        return
    for form, module in (("json", msgspec.json), ("msgpack", msgspec.msgpack)):
        found = [_opened(payload, module) for payload in payloads]
        if all(found):
            with suppress(*FAULTS):
                yield _tree(form, found)
                return
    with suppress(UnicodeDecodeError):
        texts = [payload.decode().strip("\0\r\n ") for payload in payloads]
        lines = [line for text in texts for line in text.splitlines()]
        if all(line.replace("\t", " ").isprintable() for line in lines):
            yield _text(lines)
            return
    yield from _binary(payloads)


# ---- objects and text ------------------------------------------------------------------------


def _tree(form: Any, found: list[Any]) -> Look:
    """Judge decoded JSON or MessagePack."""
    kind = "JSON" if form == "json" else "MessagePack"
    inside = found[0][0] if isinstance(found[0], list) else None
    if isinstance(found[0], list) and not isinstance(inside, dict):
        rows = [row for one in found for row in one] if isinstance(inside, list) else found
        return _positions(form, f"{kind} array", rows)
    rows = [row for one in found for row in (one if isinstance(one, list) else [one])]
    leaves: Rows = [dict(_leaves(row, "")) for row in rows if isinstance(row, dict)]
    where, leaves = _majority(leaves)
    roles = _roles(leaves[0])
    fits = [path for path in leaves[0] if all(_is_number(row.get(path)) for row in leaves)]
    names = {*TIME_NAMES, *SEQ_NAMES}
    columns = [p for p in fits if p not in roles.values() and p.rpartition(".")[2] not in names]
    starred = [path for path in columns if "*" in path]
    columns = (starred or columns)[:MOST_COLUMNS]
    if not columns:
        return Look(f"{kind} without numbers")
    d = Declaration(form, columns=tuple(columns), where=where, **roles)
    return Look(f"{kind} {'object' if inside is None else 'list of objects'}", d)


def _leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Yield the paths to scalars: into the first element of an array, or of each by `*`."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if isinstance(key, str) and key.isprintable() and key and not set(key) & set(".,*"):
                yield from _leaves(inner, f"{path}.{key}" if path else key)
    elif isinstance(value, list) and value:
        if isinstance(value[0], dict) and "*" not in path:
            yield from _leaves(value[0], f"{path}.*")
        elif isinstance(value[0], list | dict):
            yield from _leaves(value[0], f"{path}.0")
        else:
            yield from ((f"{path}.{k}", one) for k, one in enumerate(value[:4]))
    else:
        yield path, value


def _majority(rows: Rows) -> tuple[str, Rows]:
    """Return the condition for the most common kind of messages, and these, if they differ."""
    for path in rows[0] if len({*map(frozenset, rows)}) > 1 else ():
        values = Counter(row.get(path) for row in rows if isinstance(row.get(path, 0), str | None))
        value = values.most_common(1)[0][0] if values else None
        named = path.rpartition(".")[2].lower() in KIND_NAMES
        if named and isinstance(value, str) and 1 < len(values) <= 8 and " " not in path:
            quoted = msgspec.json.encode(value).decode()
            return f"{path} = {quoted}", [row for row in rows if row.get(path) == value]
    common = Counter(map(frozenset, rows)).most_common(1)[0][0]
    return "", [row for row in rows if common <= row.keys()]


def _roles(row: dict[str, Any]) -> dict[str, Any]:
    """Return the roles that the names and values of a row suggest."""
    roles: dict[str, Any] = {}
    fits: Any = {"stream_field": (STREAM_NAMES, lambda v: isinstance(v, str) and 0 < len(v) <= 64),
                 "time_field": (TIME_NAMES, _is_time),
                 "seq_field": (SEQ_NAMES, lambda v: type(v) is int and v >= 0)}  # fmt: skip
    for role, (names, fit) in fits.items():
        for path, value in row.items():
            if role not in roles and path.rpartition(".")[2].lower() in names and fit(value):
                roles[role] = path
    return roles


def _is_number(value: Any) -> bool:
    return numeric(value) is not None if isinstance(value, str) else type(value) in (int, float)


def _is_time(value: Any) -> bool:
    with suppress(*FAULTS):
        return EARLIEST_S <= time_ns(value) / 1e9 <= LATEST_S
    return False


def _text(lines: list[str]) -> Look:
    """Judge lines of text by the largest number of fields that all of them have."""
    for width in range(min(MOST_FIELDS, len(lines[0])) if lines else 0, 0, -1):
        rows = list(map(line_splitter(width, ()), lines))
        if all(len(row) == width for row in rows):
            return _positions("text", "text", [[part.strip() for part in row] for row in rows])
    return Look("text of different lengths")


def _positions(form: Any, kind: str, rows: list[list[Any]]) -> Look:
    """Judge rows whose values have positions and no names."""
    kind = f"{kind} of {len(rows[0])} field{'s' * (len(rows[0]) > 1)}"
    if len({*map(len, rows)}) > 1:
        return Look(f"{kind} or others")
    columns = list(zip(*rows, strict=True))
    names = ["_"] * len(columns)
    for k, column in enumerate(columns):
        if all(map(_is_time, column)) and "time" not in names:
            names[k] = "time"
        elif all(value in (None, "") or _is_number(value) for value in column):
            names[k] = f"c{sum(name[0] == 'c' for name in names)}"
    texts = [k for k, name in enumerate(names) if name == "_" and isinstance(columns[k][0], str)]
    if texts:
        names[max(texts, key=lambda k: len({*columns[k]}))] = "symbol"
    if not any(name[0] == "c" for name in names):
        return Look(f"{kind}, without numbers")
    return Look(kind, Declaration(form, fields=tuple(names)))


# ---- numbers ---------------------------------------------------------------------------------


def _binary(payloads: Sequence[bytes]) -> Iterator[Look]:
    """Yield what bytes without any mark may be: a struct that begins with a time, or an array."""
    sizes, data = {*map(len, payloads)}, b"".join(payloads)
    size = len(payloads[0])
    heads = (int.from_bytes(payload[:8], "little", signed=True) for payload in payloads)
    if len(sizes) == 1 and size > 8 and all(map(_is_time, heads)):
        rest = b"".join(payload[8:] for payload in payloads)
        for kind, width in (("f8", 8), ("f4", 4)):
            if size % width == 0 and _spread(rest, kind) < TIGHT:
                names = (f",c{k}:{kind}" for k in range((size - 8) // width))
                d = Declaration("struct", dtype="t:i8" + "".join(names))
                yield Look(f"struct of {size} bytes that begins with a time", d)
                return
    spreads = {code: _spread(data, code) for code in ("<f4", "<f8", ">f4", ">f8")
               if not any(size % int(code[2]) for size in sizes)}  # fmt: skip
    code = min(spreads, key=lambda code: spreads[code], default="")
    doubt = ""
    if not code or spreads[code] >= TIGHT:
        code, doubt = _integers(data, sizes), "integers of this width are a guess"
    elif spreads.get(wide := f"{code[0]}f8", TIGHT) < TIGHT and code[1:] == "f4":
        # the low words of round float64 are 0
        if not np.frombuffer(data, code)[code[0] == ">" :: 2].any():
            code = wide
        elif spreads[wide] < spreads[code] + 2:
            doubt = "float64 fits as well (--dtype f8)"
    count = min(sizes) // int(code[-1])
    channels = count if len(sizes) == 1 and 1 < count <= 4 else 0
    d = Declaration("array", dtype=code.lstrip("<"), channels=channels)
    yield Look(f"{count} {np.dtype(code).name}", d, doubt)


def _spread(data: bytes, code: str) -> float:
    """Return the spread of the exponents in bits, infinite for what is hardly a float."""
    with np.errstate(all="ignore"):
        values = np.frombuffer(data, code).astype(np.float64)
        some = np.log2(np.abs(values[values != 0]))
    usable = len(some) and np.isfinite(values).all() and np.abs(some).max() < FAR
    return float(some.std()) if usable else float("inf")


def _integers(data: bytes, sizes: set[int]) -> str:
    """Return the narrowest integers of which every other word is not merely a high part."""
    code = "u1"
    for size in (2, 4, 8):
        if any(one % size for one in sizes):
            break
        code = f"i{size}"
        words = np.abs(np.frombuffer(data, code).astype(np.float64))
        if words[1::2].max(initial=0) > 1 and 16 * words[1::2].mean() > words[::2].mean():
            break
    return code
