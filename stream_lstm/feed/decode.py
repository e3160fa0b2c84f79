"""Messages of any publisher as columns: a declaration compiled once into a pure function.

A `Declaration` names the form of a feed: what its frames are, how the payload is encoded, where
the values, the stream, the time and the sequence number are, and which messages count.
`compile_decoder` turns it into a function from the frames of one message to a `Decoded`. The
function keeps no state; `LastPer` does, for feeds that repeat an unfinished row.

```
frames --split--> topic, header, payload --unpack--> bytes --read--> values and roles per row
       --finish (where, streams, times, numbers)--> Decoded
```

Nothing here trusts its input. Whatever the bytes, the result is rows or `DecodeError`, in time and
memory that named limits bound, and nothing is executed. Whether a value is finite is the session's
question: a null, an empty text, or a NaN in an array is a missing value, and the session refuses
that row alone unless a policy of `on_missing` allows it. Then the value may be absent too.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from typing import Any, NamedTuple, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt

from ..errors import DecodeError
from ..events import MAX_SEQ
from ..schema import Declaration, TimeUnit
from .payloads import (
    MAX_PARSED_BYTES,
    MAX_SMALL_BYTES,
    PICKLED,
    Read,
    Roles,
    Rows,
    Values,
    check_size,
    is_pickle,
    number_of,
    read_array,
    read_struct,
    read_text,
    refuse,
    struct_type,
    unescaped,
    unpack,
    wrong,
)
from .protocol import MAX_COLUMNS, MAX_PAYLOAD_BYTES, MAX_TOPIC_BYTES, TOPIC_CACHE, check_name
from .times import TimeColumn
from .tree import FAULTS, MAX_NUMBER_CHARS, Slot, TreeReader, Where, compile_where, parts_of

STREAM_NAMES = ("stream", "symbol", "sym", "ticker", "instrument", "pair")
TIME_NAMES = ("t", "ts", "time", "timestamp", "t_ns", "datetime", "epoch")
SEQ_NAMES = ("seq", "sequence", "seqno")
"""Names in `fields` and `dtype` that have a role unless they are columns or a role is declared."""

HEADER = "header."
"""Begins the path of a field of the header frame."""

DEFAULT_STREAM = "stream"


class Decoded(NamedTuple):
    """The rows of one message; a few are kept as Python numbers, for which arrays are slow.

    streams: the name of all rows, or one for each. times: None for a feed without times. seq: of
    each row, or one number of the message, or None. keys: the values of `last_per`. skipped: rows
    that do not count, by reason: `where`, `stream`, `topic`, `empty`, `last_per`.
    """

    streams: str | tuple[str, ...]
    times: list[int] | npt.NDArray[np.int64] | None
    rows: list[list[float]] | Values
    seq: list[int] | int | None = None
    keys: tuple[Any, ...] = ()
    skipped: Mapping[str, int] = {}

    @property
    def values(self) -> Values:
        """The rows as an array (n, C)."""
        return np.asarray(self.rows, np.float64)

    @property
    def t_ns(self) -> npt.NDArray[np.int64] | None:
        """The times as an array (n,)."""
        return None if self.times is None else np.asarray(self.times, np.int64)


Decoder: TypeAlias = Callable[[Sequence[bytes]], Decoded]
_ROLES = {"stream_field": STREAM_NAMES, "time_field": TIME_NAMES, "seq_field": SEQ_NAMES}


def resolve(d: Declaration) -> Declaration:
    """Return a declaration with its columns and roles filled in; raises ConfigurationError."""
    if d.payload == "float64":
        d = msgspec.structs.replace(d, payload="array", dtype="f8")
    names = d.fields
    if d.payload == "struct":
        names = struct_type(d.dtype).names or ()
    elif d.payload == "array" and not d.columns:
        d = msgspec.structs.replace(d, columns=tuple(f"c{k}" for k in range(d.channels or 1)))
    elif d.payload == "text" and not names:
        wrong("fields", "payload = 'text' needs fields: the names of its positions, in order")
    if d.channels not in (0, len(d.columns)):
        wrong("channels", f"channels = {d.channels}, but columns names {len(d.columns)}")
    if names:
        roles = {key: getattr(d, key) for key in _ROLES}
        for key, known in _ROLES.items():
            free = (name for name in known if name in names and name not in d.columns)
            roles[key] = roles[key] or next(free, "")
        roles["time_field"] = roles["time_field"] or None
        taken = {*roles.values(), d.last_per}
        left = tuple(name for name in names if name not in taken and name[0] != "_")
        d = msgspec.structs.replace(d, columns=d.columns or left, **roles)
    if not d.columns or len(set(d.columns)) != len(d.columns) or len(d.columns) > MAX_COLUMNS:
        wrong("columns", f"columns = {list(d.columns)}: name every column of the feed once")
    if d.time_field in d.columns:
        wrong("time_field", f"time_field = {d.time_field!r} is also a column")
    wanted = (*d.columns, *_Plan(d).paths)
    if names and (unknown := [name for name in wanted if name not in names]):
        wrong("columns", f"{unknown[0]!r} is not one of the fields {', '.join(names)}")
    return d


def compile_decoder(declaration: Declaration, optional: Container[str] = ()) -> Decoder:
    """Return the function that decodes the messages of a feed; it raises only DecodeError.

    optional: columns that JSON and MessagePack may omit, which gives NaN. Raises
    ConfigurationError for a declaration that cannot be compiled.
    """
    d = resolve(declaration)
    plan, split, name_of = _Plan(d), _splitter(d), _namer(d)
    read, header_of = _reader(plan, optional), _header(plan)
    most = MAX_PAYLOAD_BYTES if d.payload in ("array", "struct") else MAX_PARSED_BYTES
    wanted = None if d.stream_field or not d.streams else frozenset(d.streams)
    packed, plain = d.compression != "none", not (plan.paths or plan.above)

    def decode(frames: Sequence[bytes]) -> Decoded:
        topic = payload = b""
        try:
            topic, header, payload, stamp, number = split(frames)
            name = name_of(topic)
            if name is None or (wanted is not None and name not in wanted):
                reason = "topic" if name is None else "stream"
                return Decoded("", None, plan.empty, skipped={reason: 1})
            if packed or len(payload) > most:
                payload = unpack(payload, d.compression, most)
            rows, roles, skipped = read(payload, header)
            if header_of is not None:
                above = header_of(header)
                roles = [(*role, *above) for role in roles or [()]]
            if plain and stamp is None and number is None and len(rows):
                return Decoded(name, None, rows)
            return plan.finish(name, rows, roles, skipped, stamp, number)
        except DecodeError as error:
            reason, cause = str(error), error.cause
        except FAULTS as error:
            reason, cause = PICKLED if is_pickle(payload) else str(error), "payload"
        place = f"topic {topic[:MAX_TOPIC_BYTES]!r}: " if topic else ""
        raise DecodeError(f"{place}{reason}", cause=cause)

    return decode


class _Plan:
    """The roles of a declaration, and what they make of the rows that were read.

    `paths` are the fields that the payload's reader has to give beside the columns, in order;
    `above` are those of the header, which follow them.
    """

    def __init__(self, d: Declaration) -> None:
        self.d = d
        self.where: Where | None = compile_where(d.where) if d.where else None
        roles = [d.stream_field, d.time_field or "", d.seq_field, d.last_per]
        conditions = self.where.paths if self.where is not None else ()
        every = dict.fromkeys(path for path in (*roles, *conditions) if path)
        self.paths = [path for path in every if not path.startswith(HEADER)]
        self.above = [path for path in every if path.startswith(HEADER)]
        place = {path: k for k, path in enumerate((*self.paths, *self.above))}
        self.stream, self.time, self.seq, self.key = (place.get(path) for path in roles)
        # rows of one message share its number
        starred = any("*" in path for path in d.columns)
        self.shared = d.seq_field in self.above or (starred and "*" not in d.seq_field)
        self.conditions = [place[path] for path in conditions]
        self.optional = set(conditions) - set(roles)
        self.empty = np.empty((0, len(d.columns)), np.float64)
        self.name_of = lru_cache(maxsize=TOPIC_CACHE)(_stream_name)
        self.wanted = frozenset(d.streams)

    def slot(self, path: str, parts: tuple[str, ...]) -> Slot:
        """Return the place of a role in JSON or MessagePack."""
        return Slot(parts, path, "optional" if path in self.optional else "role")

    def meets(self, row: Sequence[Any]) -> bool:
        """Return whether the roles of a row meet the condition."""
        return self.where is None or self.where.test([row[k] for k in self.conditions])

    def finish(
        self,
        streams: str | tuple[str, ...],
        rows: Rows,
        roles: Roles,
        passed: int,
        stamp: bytes | None,
        number: bytes | None,
    ) -> Decoded:
        """Return the rows that count, with their streams, times and numbers."""
        skipped = {"where": passed} if passed else {}
        if self.where is not None:
            rows, roles = _kept(rows, roles, list(map(self.meets, roles)), "where", skipped)
        if self.stream is not None:
            names = [self.name_of(role[self.stream]) for role in roles]
            if self.wanted:
                keep = [name in self.wanted for name in names]
                rows, roles = _kept(rows, roles, keep, "stream", skipped)
                names = [name for name in names if name in self.wanted]
            streams = names[0] if names and names.count(names[0]) == len(names) else tuple(names)
        n = len(rows)
        if not n:
            return Decoded("", None, self.empty, skipped=skipped or {"empty": 1})
        times: list[int] | npt.NDArray[np.int64] | None = None
        if stamp is not None:
            times = [time_ns(_stamp(stamp), self.d.time_unit)] * n
        elif self.time is not None:
            times = _times([role[self.time] for role in roles], self.d.time_unit)
            times = times if len(roles) == n else np.repeat(times, n)
        seq: list[int] | int | None = None
        if number is not None:
            seq = _seq(_stamp(number))
        elif self.seq is not None:
            seq = [_seq(role[self.seq]) for role in roles]
            seq = seq[0] if self.shared else seq
        keys = () if self.key is None else tuple(role[self.key] for role in roles)
        return Decoded(streams, times, rows, seq, keys, skipped)


def _kept(
    rows: Rows, roles: Roles, keep: list[bool], why: str, skipped: dict[str, int]
) -> tuple[Rows, Roles]:
    """Return the rows to keep, and count the others; one row of roles may be that of all."""
    if all(keep):
        return rows, roles
    each = keep if len(keep) == len(rows) else keep * len(rows)
    skipped[why] = skipped.get(why, 0) + each.count(False)
    roles = [role for role, kept in zip(roles, keep, strict=True) if kept]
    if isinstance(rows, np.ndarray):
        return rows[np.array(each, np.bool_)], roles
    return [row for row, kept in zip(rows, each, strict=True) if kept], roles


def _reader(plan: _Plan, optional: Container[str]) -> Read:
    """Return the reader of a payload."""
    d = plan.d
    if d.payload == "text":
        return read_text(d.fields, d.separator, d.columns, plan.paths)
    if d.payload == "struct":
        return read_struct(d.dtype, d.columns, plan.paths)
    if d.payload == "array":
        if plan.paths:
            wrong("fields", f"an array has no field {plan.paths[0]!r}; a header has {HEADER}NAME")
        return read_array(d.dtype, len(d.columns))
    places = {name: (str(k),) for k, name in enumerate(d.fields)}
    slots = [
        Slot(places.get(name) or parts_of(name), name, "missing" if name in optional else "value")
        for name in d.columns
    ]
    slots += [plan.slot(path, places.get(path) or parts_of(path)) for path in plan.paths]
    some = bool(plan.paths)
    width, module = len(d.columns), msgspec.json if d.payload == "json" else msgspec.msgpack
    # a row that does not count may lack its columns, where the row itself shows that
    alone = plan.where is not None and not plan.optional & set(plan.above)
    test = (lambda row: plan.meets(row[width:])) if alone else None
    tree = TreeReader(module, slots, test, length=len(d.fields))

    def read(payload: bytes, _: bytes) -> tuple[Rows, Roles, int]:
        found, skipped = tree.read(payload)
        check_size(len(found), width)
        rows = [[v if type(v) is float else number_of(v) for v in row[:width]] for row in found]
        return rows, [row[width:] for row in found] if some else [], skipped

    return read


def _header(plan: _Plan) -> Callable[[bytes], Sequence[Any]] | None:
    """Return the reader of the fields of a JSON header that have a role."""
    if not plan.above:
        return None
    tree = TreeReader(
        msgspec.json, [plan.slot(path, parts_of(path.removeprefix(HEADER))) for path in plan.above]
    )

    def read(header: bytes) -> Sequence[Any]:
        if len(header) > MAX_SMALL_BYTES:
            refuse("size", f"a header of {len(header)} bytes exceeds {MAX_SMALL_BYTES}")
        (row,), _ = tree.read(header)
        return row

    return read


# ---- frames and topics -------------------------------------------------------------------------

Split: TypeAlias = tuple[bytes, bytes, bytes, bytes | None, bytes | None]
"""Topic, header, payload, time and sequence number."""


def _splitter(d: Declaration) -> Callable[[Sequence[bytes]], Split]:
    """Return the function that assigns the frames of a message."""
    headed, joined, names = d.dtype == "header", _joined(d), d.frames
    bare = d.payload == "json" and d.compression == "none"
    place: dict[str, int] = {kind: k for k, kind in enumerate(names) if kind != "skip"}
    least = len(names) - ("rest" in place)
    known = [kind for kind in names if kind != "skip"]
    parts = [part for kind in known for part in kind.split("+")]
    if names and (
        len(set(parts)) < len(parts) or "payload" not in parts or place.get("rest", least) < least
    ):
        wrong("frames", f"frames = {list(names)}: name the payload, each once, and rest last")
    at = [place.get(kind) for kind in ("topic", "header", "payload", "time", "seq")]

    def declared(frames: Sequence[bytes]) -> Split:
        if len(frames) < least or (len(frames) > least and "rest" not in place):
            refuse("frames", f"{len(frames)} frames; declared are {', '.join(names)}")
        topic, header, payload, stamp, number = (None if k is None else frames[k] for k in at)
        if payload is None:
            topic, payload = joined(frames[place["topic+payload"]])
        return topic or b"", header or b"", payload, stamp, number

    def usual(frames: Sequence[bytes]) -> Split:
        if not 1 + headed <= len(frames) <= 2 + headed:
            expected = (
                "a header and a payload" if headed else "a payload, or a topic and a payload"
            )
            refuse(
                "frames", f"{len(frames)} frames; expected {expected}: declare others in frames"
            )
        *before, payload = frames
        header = before.pop() if headed else b""
        topic = before[0] if before else b""
        if bare and not before and payload.lstrip()[:1] not in (b"{", b"["):
            topic, payload = joined(payload)
        return topic, header, payload, None, None

    return declared if names else usual


def _joined(d: Declaration) -> Callable[[bytes], tuple[bytes, bytes]]:
    """Return the function that splits a frame into topic and payload."""
    ends = [re.escape(unescaped(text).encode()) for text in d.separator]
    if "topic+payload" in d.frames and not ends and d.payload != "json":
        wrong("separator", "frames = ['topic+payload'] needs a separator unless it is JSON")
    end = re.compile(b"|".join(ends) if ends else rb"[ \t\r\n:|,;=]*(?=[{\[])")

    def joined(frame: bytes) -> tuple[bytes, bytes]:
        found = end.search(frame, 0, MAX_TOPIC_BYTES)
        if found is None:
            expected = "has no separator" if ends else "is neither JSON nor a topic before JSON"
            refuse("frames", PICKLED if is_pickle(frame) else f"its one frame {expected}")
        return frame[: found.start()], frame[found.end() :]

    return joined


def _namer(d: Declaration) -> Callable[[bytes], str | None]:
    """Return the function that names the stream of a topic; None for one outside a pattern."""
    default = d.stream_name or (d.streams[0] if len(d.streams) == 1 else DEFAULT_STREAM)
    prefix, group, suffix = (part.encode() for part in (d.topic or "").partition("{}"))
    if b"{}" in suffix:
        wrong("topic", f"topic = {d.topic!r}: only one {{}} is allowed")

    def name_of(topic: bytes) -> str | None:
        if len(topic) > MAX_TOPIC_BYTES:
            refuse("topic", f"it has more than {MAX_TOPIC_BYTES} bytes")
        name = topic.removeprefix(prefix).removesuffix(suffix)
        if topic and len(name) + len(prefix) + len(suffix) != len(topic):
            if group:
                return None
            refuse("topic", f"it does not begin with the configured {prefix!r}")
        try:
            text = name.decode().strip("/ ")
            return _stream_name(text) if text and (group or not d.stream_name) else default
        except ValueError as error:
            refuse("topic", str(error))

    return lru_cache(maxsize=TOPIC_CACHE)(name_of)


def _stream_name(value: Any) -> str:
    """Return the name of a stream; a slash, as in EUR/USD, becomes a dash."""
    if type(value) not in (str, int):
        raise ValueError(f"the name of the stream is {value!r:.60}, not a text")
    return check_name(str(value).strip("/ ").replace("/", "-"))


# ---- times and numbers ---------------------------------------------------------------------

_UNIT_NS = ((10**17, 1), (10**14, 10**3), (10**11, 10**6))
"""From which size on whole numbers are of which unit; smaller ones are seconds, or dates."""

_CALENDAR = (10**10, 10**12, 10**15)
"""Whole numbers from 19 to 21 times these may be digits of the calendar, such as 202403010930."""


def time_ns(time: float | str, unit: TimeUnit = "auto") -> int:
    """Return nanoseconds since 1970 of a number or of ISO 8601 text; ValueError for neither.

    Without a given unit (s, ms, us or ns) it follows from the number's size; text without a zone
    is UTC.
    """
    digits = type(time) is int and any(19 * k <= time < 21 * k for k in _CALENDAR)
    if type(time) is int and unit == "auto" and not digits and (size := abs(time)) >= 10**11:
        found = time * next(factor for least, factor in _UNIT_NS if size >= least)
        if -(2**63) <= found < 2**63:
            return found
    # by way of the shortest text, so that 0.1 s is 100 ms and not what float64 makes of it
    text = str(time)
    if len(text) > MAX_NUMBER_CHARS or type(time) is bool:
        raise ValueError(f"{text[:40]!r} is not a time")
    column = TimeColumn(unit)
    column.settle(text)
    return column.parse(text)


def _times(found: list[Any], unit: TimeUnit) -> list[int] | npt.NDArray[np.int64]:
    """Return what `time_ns` does of each; whole nanoseconds of a block together."""
    if len(found) > 8 and unit == "auto" and set(map(type, found)) == {int}:
        with suppress(OverflowError):
            times = np.array(found, np.int64)
            # nanoseconds until 2262, where no unit has to be told apart
            if (times >= 10**17).all():
                return times
    return [time_ns(time, unit) for time in found]


def _stamp(frame: bytes) -> int | str:
    """Return a frame that is a time or a number: 4 or 8 bytes, little-endian, or text."""
    if len(frame) in (4, 8):
        return int.from_bytes(frame, "little")
    return frame[: MAX_NUMBER_CHARS + 1].decode().strip()


def _seq(value: Any) -> int:
    if type(value) is str and value.isascii() and value.isdigit() and len(value) < 20:
        value = int(value)
    if type(value) is not int or not 0 <= value < MAX_SEQ:
        raise ValueError(f"the sequence number {value!r:.60} is not a whole number from 0 on")
    return value


class LastPer:
    """Keeps the last row for each value of `last_per`; one row per stream is held until then.

    The row that is held at the end of a feed may be unfinished, and is not returned.
    """

    def __init__(self, max_streams: int) -> None:
        self._max_streams = max_streams
        self._held: dict[str, tuple[Any, int, list[float]]] = {}

    def thin(self, decoded: Decoded) -> Decoded:
        """Return the rows that are now known to be the last of their value, without `seq`.

        Raises DecodeError for more than `max_streams` streams.
        """
        done = []
        n = len(decoded.rows)
        names = (decoded.streams,) * n if type(decoded.streams) is str else decoded.streams
        keys = decoded.keys if len(decoded.keys) == n else decoded.keys * n
        times = [0] * n if decoded.times is None else decoded.times
        for name, key, t_ns, row in zip(names, keys, times, decoded.rows, strict=True):
            held = self._held.get(name)
            if held is not None and held[0] != key:
                done.append((name, *held[1:]))
            if held is None and len(self._held) >= self._max_streams:
                refuse("topic", f"more than {self._max_streams} streams")
            self._held[name] = key, int(t_ns), list(row)
        skipped = {**decoded.skipped, "last_per": n - len(done)}
        known = None if decoded.times is None else [t for _, t, _ in done]
        rows = [row for *_, row in done] or decoded.values[:0]
        return Decoded(tuple(name for name, *_ in done), known, rows, skipped=skipped)
