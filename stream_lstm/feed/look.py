"""A bounded look at a file or a running feed: its content, and settings that read it.

The first rows of a file, or the first messages of a feed, decide. The names of columns suggest
what they contain, and the values have to agree. The settings of a feed are checked by reading the
same messages with them, as the daemon would.
"""

from __future__ import annotations

import math
import re
import time as clocks
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import zmq

from ..config import build
from ..errors import DataError, EndpointError, StreamLSTMError
from ..events import Run, Ticks
from ..schema import FeedConfig
from .endpoints import UNLIMITED, Connections, open_socket
from .files import file_columns, open_file
from .foreign import quoted, remedy, time_ns
from .guard import MAX_WAIT_S, Inbound
from .intake import EventBatch, Intake
from .protocol import MAX_FRAME_BYTES, MAX_MESSAGE_BYTES, parse_topic
from .security import Security
from .wire import FAULTS

SAMPLE_ROWS = 4096
"""Rows of a file that are read: a few hundred kilobytes."""

MAX_TRIED = 8
"""Columns that are tried as times, and as streams."""

SAMPLE_MESSAGES, SAMPLE_BYTES = 256, 16 << 20
"""Messages of a feed that are taken, and the bytes of them."""

GATHER_S = 2.0
"""Seconds after a feed's first message in which more are taken: two heartbeats."""

FIRST_DATE_NS = 10**17
"""In 1973: larger numbers in a column of times are dates, smaller ones may be anything."""

TIMES = ("time", "timestamp", "ts", "datetime", "date", "t", "epoch")
STREAMS = ("symbol", "sym", "ticker", "instrument", "isin", "contract", "currency", "asset",
           "pair", "stream", "series", "sensor", "device", "machine", "station", "site", "host",
           "city", "name")  # fmt: skip
"""Words in the names of columns of times, and of streams, in order of preference."""

UNREADABLE = (StreamLSTMError, *FAULTS, NotImplementedError)
"""What reading a column as another type can raise, in Arrow too."""


def rank(name: str, words: Sequence[str]) -> int:
    """Return the index of the first of `words` in a name, or their number if it has none."""
    parts = re.findall("[a-z]+", re.sub("([a-z])([A-Z])", r"\1 \2", name).lower())
    end = parts[-1] if parts else ""
    found = (k for k, w in enumerate(words) if w in parts or (len(w) > 4 and end.endswith(w)))
    return next(found, len(words))


# ---- files -------------------------------------------------------------------------------


class FileLook(NamedTuple):
    """What the first rows of a file show.

    values: float64 (m, C) of `columns`, the numeric ones, and of one stream if there are several.
    skip: whether some rows had to be skipped. `time` and `stream_column` are columns or None.
    """

    names: tuple[str, ...]
    columns: tuple[str, ...]
    values: Any
    time: str | None
    stream_column: str | None
    skip: bool


def look_at_file(path: Path) -> FileLook:
    """Look at the first rows of a file.

    Raises what `files.open_file` raises, and DataError without a column of numbers.
    """
    names = file_columns(path)
    try:
        numeric, block, refused = _read(path, columns=None)
    except DataError as error:
        has = "" if repr(names[0]) in str(error) else f" (it has {', '.join(names)})"
        raise DataError(f"{error}{has}") from None
    times = _time_column(path, names, numeric)
    columns = tuple(name for name in numeric if name != times)
    if not columns:
        raise DataError(f"{path} has no column of numbers except the time {times!r}")
    values = block.values[:, [numeric.index(name) for name in columns]]
    if not np.isfinite(values).any():
        raise DataError(f"{path}: no number in its first {len(values)} rows")
    text = [name for name in names if name not in (*numeric, times)]
    stream, codes = _stream_column(path, text)
    if stream is not None and len(codes) == len(values):
        values = values[codes == np.bincount(codes).argmax()]
    return FileLook(names, columns, values, times, stream, refused > 0)


def _read(path: Path, **options: Any) -> tuple[tuple[str, ...], Any, int]:
    """Return the value columns of a file, the block of its first rows, and the bad-row count."""
    reasons: list[str] = []

    def refuse(refusal: Any) -> None:
        reasons.append(refusal.reason)
        if len(reasons) > SAMPLE_ROWS:
            raise DataError(f"{path}: the first {SAMPLE_ROWS} rows cannot be used; {reasons[0]}")

    shared: dict[str, Any] = {"limit": SAMPLE_ROWS, "chunk_rows": SAMPLE_ROWS, "time": None}
    shared |= {"on_bad_row": "skip", "on_refusal": refuse, "optional": file_columns(path)}
    with open_file(path, **shared | options) as source:
        return source.value_columns, next(source.blocks()), len(reasons)


def _time_column(path: Path, names: Sequence[str], numeric: Sequence[str]) -> str | None:
    """Return the column of times: one with such a name, or text that can be read as times."""
    likely = [name for name in names if name not in numeric or rank(name, TIMES) < len(TIMES)]
    for name in sorted(likely, key=lambda name: rank(name, TIMES))[:MAX_TRIED]:
        with suppress(*UNREADABLE):
            values = [other for other in numeric if other != name]
            _, block, refused = _read(path, columns=values, time=name)
            t_ns, rows = block.t_ns, len(block.t_ns)
            rising = bool((np.diff(t_ns) >= 0).all()) and 2 * len(np.unique(t_ns)) > rows
            if 10 * refused <= rows and (abs(t_ns).min() >= FIRST_DATE_NS or rising):
                return name
    return None


def _stream_column(path: Path, names: Sequence[str]) -> tuple[str | None, Any]:
    """Return the column whose name and few distinct texts suggest streams, and its codes."""
    likely = [name for name in names if rank(name, STREAMS) < len(STREAMS)]
    for name in sorted(likely, key=lambda name: rank(name, STREAMS))[:MAX_TRIED]:
        with suppress(*UNREADABLE):
            _, block, _ = _read(path, columns=[], key=name)
            if 2 * len(block.keys.used()) <= len(block.rows):
                return name, block.keys.codes
    return None, ()


# ---- feeds -------------------------------------------------------------------------------


class FeedLook(NamedTuple):
    """What the first messages of a feed show; `settings` are configuration keys that read them.

    values: float64 (m, C) of the stream with the most ticks.
    """

    settings: dict[str, Any]
    values: Any
    streams: list[str]
    numbered: bool
    messages: int
    refused: int


def look_at_feed(endpoint: str, wait_s: float, security: Security) -> FeedLook:
    """Look at the first messages of a publisher.

    wait_s: seconds to wait for the first one. Raises EndpointError if none comes, and DataError if
    they cannot be read.
    """
    messages = _listen(endpoint, wait_s, security)
    settings = {"connect": [endpoint], **_settings(endpoint, messages)}
    intake, batch = Intake(build(settings).feed), EventBatch(independent=True)
    for frames in messages:
        intake.take(frames, batch)
    if intake.refused and not intake.counters.ticks:
        raise DataError(f"{endpoint}: {next(iter(intake.first_refused.values()))}")
    streams: dict[str, list[Any]] = {}
    numbered = False
    for event in batch.finish():
        if isinstance(event, Ticks | Run):
            ticks = event if isinstance(event, Ticks) else event.block()
            streams.setdefault(ticks.stream, []).append(ticks.values)
            numbered |= ticks.seq is not None
    blocks = max(streams.values(), key=lambda parts: sum(map(len, parts)), default=[])
    values = np.concatenate([np.empty((0, len(settings["columns"]))), *blocks])
    refused = sum(intake.refused.values())
    return FeedLook(settings, values, sorted(streams), numbered, len(messages), refused)


def _listen(endpoint: str, wait_s: float, security: Security) -> list[list[bytes]]:
    """Return the first messages of a publisher, up to one that names its columns, if any does."""
    messages: list[list[bytes]] = []
    context: zmq.Context[Any] = zmq.Context()
    try:
        socket = open_socket(
            context,
            zmq.SUB,
            send_hwm=UNLIMITED,
            receive_hwm=FeedConfig().receive_hwm,
            max_frame_bytes=MAX_FRAME_BYTES,
        )
        socket.setsockopt(zmq.SUBSCRIBE, b"")
        inbound = Inbound(MAX_MESSAGE_BYTES)
        connections = Connections(socket, [endpoint], security, inbound)
        deadline, named = clocks.monotonic() + wait_s, False
        while (left_s := deadline - clocks.monotonic()) > 0 and inbound.taken < SAMPLE_BYTES:
            if connections.redial.pending:
                connections.maintain(clocks.monotonic())
            inbound.waiting = True
            ready = socket.poll(math.ceil(1000 * min(left_s, MAX_WAIT_S)))
            inbound.waiting = False
            if not ready:
                continue
            frames = socket.recv_multipart()
            deadline = deadline if messages else clocks.monotonic() + GATHER_S
            inbound.taken += sum(map(len, frames))
            kind, body = _record(frames)
            named |= kind != "tick" or isinstance(body.get("values"), dict)
            if len(messages) < SAMPLE_MESSAGES or kind == "heartbeat":
                messages.append(frames)
            if len(messages) >= SAMPLE_MESSAGES and named:
                break
    finally:
        context.destroy(linger=0)
    if messages:
        return messages
    why = f" ({security.advice})" if security.counts().get("not_admitted") else ""
    raise EndpointError(
        f"no message came from {endpoint} within {wait_s:g} s{why}: check that the publisher runs "
        "and sends, that it binds this address and port, and whether it needs keys (--curve-dir); "
        "--wait 60 waits longer"
    )


def _record(frames: Sequence[bytes]) -> tuple[str, dict[str, Any]]:
    """Return kind and fields of a record of this protocol; ("", {}) for anything else."""
    with suppress(StreamLSTMError, *FAULTS):
        topic, payload = frames
        module: Any = msgspec.json if payload[:1] == b"{" else msgspec.msgpack
        body = module.decode(payload, type=dict[str, Any])
        kind = parse_topic(topic).kind
        if "v" in body and (kind != "tick" or "values" in body):
            return kind, body
    return "", {}


def _settings(endpoint: str, messages: Sequence[Sequence[bytes]]) -> dict[str, Any]:
    """Return the settings for the form of the messages."""
    records = [record for frames in messages if (record := _record(frames))[0]]
    if any(kind in ("tick", "heartbeat", "label") for kind, _ in records):
        return {"columns": _columns(endpoint, records)}
    if records:
        raise DataError(
            f"{endpoint} sends predictions, not ticks: name the endpoint of the feed that the "
            "daemon connects to"
        )
    objects: list[dict[str, Any]] = []
    for frames in messages:
        with suppress(*FAULTS):
            objects.append(msgspec.json.decode(frames[-1], type=dict[str, Any]))
    if 2 * len(objects) > len(messages):
        return {"payload": "json", **_topic(messages), **_fields(endpoint, objects)}
    sizes = [len(frames[-1]) for frames in messages if _is_floats(frames[-1])]
    if 2 * len(sizes) > len(messages):
        columns = [f"c{k}" for k in range(math.gcd(*sizes) // 8)]
        return {"payload": "float64", **_topic(messages), "columns": columns}
    first = messages[0]
    way = remedy(FeedConfig(columns=("price",)), first)
    raise DataError(f"{endpoint} sends '{quoted(first)}', an unknown form of message: {way}")


def _columns(endpoint: str, records: Sequence[tuple[str, Mapping[str, Any]]]) -> list[str]:
    """Return the names of a tick's values; c0, c1, and so on if nothing names them."""
    width = 0
    for kind, body in records:
        values = body.get("values")
        if names := body.get("columns") if kind == "heartbeat" else None:
            return list(names)
        if isinstance(values, dict):
            return list(values)
        if isinstance(values, list) and values:
            width = len(values[0]) if isinstance(values[0], list) else len(values)
        elif isinstance(values, bytes):
            width = len(values) // (8 * (body.get("rows") or 1))
    if not width:
        raise DataError(f"{endpoint} sent nothing that shows its columns: try again with ticks")
    return [f"c{k}" for k in range(width)]


def _fields(endpoint: str, objects: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return columns and time field: numbers, or a time, in at least half of the objects."""
    values: dict[str, list[Any]] = {}
    for found in objects:
        for name, value in found.items():
            values.setdefault(name, []).append(value)
    usual = {name: cells for name, cells in values.items() if 2 * len(cells) >= len(objects)}
    likely = [name for name in usual if rank(name, TIMES) < len(TIMES)]
    likely.sort(key=lambda name: rank(name, TIMES))
    time = next((name for name in likely if _all_times(usual[name])), None)
    numbers = [n for n, cells in usual.items() if n != time and all(map(_is_number, cells))]
    if not numbers:
        names = ", ".join(values) or "none"
        raise DataError(
            f"{endpoint} sends objects without a field of numbers (fields: {names}): send the "
            "values as JSON numbers, not inside another object or as text"
        )
    return {"columns": numbers} | ({} if time is None else {"time_field": time})


def _all_times(values: Sequence[Any]) -> bool:
    try:
        for value in values:
            time_ns(value)
    except FAULTS:
        return False
    return True


def _is_number(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def _is_floats(payload: bytes) -> bool:
    """Return whether a payload can be bare float64 numbers, and is not text."""
    if not payload or len(payload) % 8 or all(32 <= byte < 127 for byte in payload):
        return False
    values = np.abs(np.frombuffer(payload, "<f8"))
    return bool(((values == 0) | ((values > 1e-30) & (values < 1e30))).all())


def _topic(messages: Sequence[Sequence[bytes]]) -> dict[str, str]:
    """Return the prefix of most topics: all parts but the last, which names the stream."""
    heads = Counter(
        frames[0].rstrip(b"/").rpartition(b"/")[0] for frames in messages if len(frames) == 2
    )
    prefix = max(heads, key=heads.__getitem__, default=b"").decode(errors="replace")
    return {"topic": f"{prefix}/"} if prefix else {}
