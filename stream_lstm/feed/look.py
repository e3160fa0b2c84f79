"""A bounded look at a file or a running feed: its content, and settings that read it.

The first rows of a file, or the first messages of a feed, decide. The names of columns suggest
what they contain, and the values have to agree. The settings of a feed are checked by reading the
same messages with them, as the daemon would.
"""

from __future__ import annotations

import math
import re
import shlex
import time as clocks
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import numpy as np

from ..config import build
from ..core.missing import EVERY
from ..errors import DataError, EndpointError, StreamLSTMError
from ..events import Run, Ticks
from ..quoting import printable
from ..schema import FeedConfig
from .declared import EventBatch
from .decode import resolve
from .endpoints import Binding
from .files import file_columns
from .guard import MAX_WAIT_S, Inbound
from .input_file import InputFile, look_over
from .intake import Intake
from .order import Finding
from .payloads import PICKLED
from .protocol import MAX_MESSAGE_BYTES, parse_topic
from .security import Security
from .sniff import Look, shown, sniff
from .subscriber import Inlet, feed_endpoints, open_inlet
from .times import time_columns
from .wire import FAULTS

if TYPE_CHECKING:
    from .files import FileSource, TickBlock

SAMPLE_ROWS = 4096
"""Rows of a file that are read: a few hundred kilobytes."""

MAX_TRIED = 8
"""Columns that are tried as streams."""

SAMPLE_MESSAGES, SAMPLE_BYTES = 256, 16 << 20
"""Messages of a feed that are taken, and the bytes of them."""

GATHER_S = 2.0
"""Seconds after a feed's first message in which more are taken: two heartbeats."""

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
    file: the file with its times, streams and order as they were found. skip: whether some rows
    had to be skipped. findings: what is wrong or odd about the rows, refusals first.
    """

    names: tuple[str, ...]
    columns: tuple[str, ...]
    values: Any
    file: InputFile
    skip: bool
    findings: tuple[Finding, ...] = ()

    @property
    def time(self) -> str | None:
        """The column of times, or several with commas between them."""
        return self.file.time

    @property
    def stream_column(self) -> str | None:
        """The column that names the streams."""
        return self.file.stream_column


def look_at_file(file: InputFile) -> FileLook:
    """Look at the first rows of a file.

    Raises what `files.open_file` raises, and DataError without a column of numbers.
    """
    path = file.path
    names = file_columns(path, file.asked)
    try:
        numeric, block, refused = _read(file, columns=None)
    except DataError as error:
        has = "" if repr(names[0]) in str(error) else f" (it has {', '.join(names)})"
        raise DataError(f"{error}{has}") from None
    file, findings = _look_over(file)
    times = time_columns(file.time, names)
    columns = tuple(name for name in numeric if name not in (*times, file.stream_column))
    if not columns:
        raise DataError(f"{path} has no column of numbers except the time {file.time!r}")
    values = block.values[:, [numeric.index(name) for name in columns]]
    _remove_odd(values, columns, findings)
    if not np.isfinite(values).any():
        raise DataError(f"{path}: no number in its first {len(values)} rows")
    text = [name for name in names if name not in (*numeric, *times)]
    stream, codes = _stream_column(file, text)
    if stream is not None and len(codes) == len(values):
        values = values[codes == np.bincount(codes).argmax()]
    file = msgspec.structs.replace(file, stream_column=stream)
    return FileLook(names, columns, values, file, refused > 0, findings)


def _look_over(file: InputFile) -> tuple[InputFile, tuple[Finding, ...]]:
    """Return the file with its times, and read such that the checks of its rows accept it."""
    plain = msgspec.structs.replace(file, as_is=True)
    looked, found = look_over(plain, by_column=True, warn=lambda _: None)
    changes: dict[str, Any] = {"as_is": file.as_is, "doubt": "", "time_found": False}
    for one in found:
        if one.name == "order" and not file.as_is:
            changes["reverse"] = not file.reverse
        option, _, column = one.remedy.partition(" ")
        if option == "--stream-column" and not file.as_is:
            changes["stream_column"] = shlex.split(column)[0] if "'" in column else column
    return msgspec.structs.replace(looked, **changes), tuple(found)


def _remove_odd(values: Any, columns: Sequence[str], findings: Sequence[Finding]) -> None:
    """Make NaN of the numbers that seem to mean no value, so that no feature is chosen by them."""
    for one in findings:
        place = next((k for k, n in enumerate(columns) if one.what.startswith(f"{n} has ")), None)
        if one.name == "sentinels" and place is not None:
            words = one.remedy.split()[1].split(",")
            values[np.isin(values[:, place], [float(word) for word in words]), place] = np.nan


def _opened(file: InputFile, columns: Sequence[str] | None, refuse: Any = None) -> FileSource:
    """Open the first rows of a file; empty cells are NaN, and bad rows go to `refuse`."""
    file = msgspec.structs.replace(file, on_bad_row="skip", limit=SAMPLE_ROWS, optional=(EVERY,))
    return file.open(columns, refuse or (lambda _: None), chunk_rows=SAMPLE_ROWS)


def _read(
    file: InputFile, columns: Sequence[str] | None, **changes: Any
) -> tuple[tuple[str, ...], TickBlock, int]:
    """Return the value columns of a file, the block of its first rows, and the bad-row count."""
    reasons: list[str] = []

    def refuse(refusal: Any) -> None:
        reasons.append(refusal.reason)
        if len(reasons) > SAMPLE_ROWS:
            first = f"the first {SAMPLE_ROWS} rows cannot be used; {reasons[0]}"
            raise DataError(f"{file.path}: {first}")

    file = msgspec.structs.replace(
        file, **{"time": None, "stream_column": None, "reverse": False, **changes}
    )
    with _opened(file, columns, refuse) as source:
        return source.value_columns, next(source.blocks()), len(reasons)


def _stream_column(file: InputFile, names: Sequence[str]) -> tuple[str | None, Any]:
    """Return the column whose name and few distinct texts suggest streams, and its codes."""
    likely = [name for name in names if rank(name, STREAMS) < len(STREAMS)]
    likely = likely if file.stream_column is None else [file.stream_column]
    for name in sorted(likely, key=lambda name: rank(name, STREAMS))[:MAX_TRIED]:
        with suppress(*UNREADABLE):
            _, block, _ = _read(file, (), stream_column=name)
            if block.keys is not None and 2 * len(block.keys.used()) <= len(block.rows):
                return name, block.keys.codes
    return file.stream_column, ()


# ---- feeds -------------------------------------------------------------------------------


class FeedLook(NamedTuple):
    """What the first messages of a feed show; `settings` are configuration keys that read them.

    values: float64 (m, C) of the stream with the most ticks. look: what the messages look like,
    None for records of this protocol.
    """

    settings: dict[str, Any]
    values: Any
    streams: list[str]
    numbered: bool
    messages: int
    refused: int
    look: Look | None


class Heard(NamedTuple):
    """The first messages of a feed, and the seconds from the first to the last."""

    messages: list[list[bytes]]
    seconds: float


def look_at_feed(config: FeedConfig, wait_s: float, security: Security) -> FeedLook:
    """Look at the first messages of a feed at the endpoints of a configuration.

    wait_s: seconds to wait for the first one. Raises EndpointError if none comes, and DataError if
    they cannot be read.
    """
    return judge(config, listen(config, wait_s, security).messages)


def judge(config: FeedConfig, messages: Sequence[Sequence[bytes]]) -> FeedLook:
    """Return what messages show; raises DataError if they cannot be read."""
    endpoint = ", ".join(feed_endpoints(config))
    settings, look = _settings(endpoint, messages)
    where = {key: list(value) for key in WHERE if (value := getattr(config, key))}
    settings = where | {"feed_socket": config.feed_socket} | settings
    intake, batch = Intake(build(settings).feed), EventBatch(independent=True)
    for frames in messages:
        intake.take(list(frames), batch)
    if intake.refused and not intake.counters.ticks:
        raise DataError(f"{endpoint}: {next(iter(intake.reasons.first.values()))}")
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
    return FeedLook(settings, values, sorted(streams), numbered, len(messages), refused, look)


WHERE = ("connect", "bind_feed", "subscribe")
"""Keys of a feed that say where its messages come from, beside `feed_socket`."""


def listen(config: FeedConfig, wait_s: float, security: Security, most: int = 0) -> Heard:
    """Return the first messages of a feed, up to one that names its columns, if any does.

    most: messages to take, without regard to names; 0 for the default.
    """
    endpoints = feed_endpoints(config)
    messages: list[list[bytes]] = []
    count, first_s, last_s = most or SAMPLE_MESSAGES, 0.0, 0.0
    import zmq  # files are looked at without it

    context: zmq.Context[Any] = zmq.Context()
    inlets: list[Inlet] = []
    try:
        inbound, poller = Inbound(MAX_MESSAGE_BYTES), zmq.Poller()
        everything = msgspec.structs.replace(config, payload="json", topic="")
        for endpoint in endpoints:
            inlets.append(open_inlet(context, everything, endpoint, security, inbound))
            poller.register(inlets[-1].socket, zmq.POLLIN)
        deadline, named = clocks.monotonic() + wait_s, bool(most)
        while (left_s := deadline - clocks.monotonic()) > 0 and inbound.taken < SAMPLE_BYTES:
            for inlet in inlets:
                inlet.maintain(clocks.monotonic())
            inbound.waiting = True
            ready = poller.poll(math.ceil(1000 * min(left_s, MAX_WAIT_S)))
            inbound.waiting = False
            for socket, _ in ready:
                frames = socket.recv_multipart()
                last_s = clocks.monotonic()
                if not messages:
                    first_s, deadline = last_s, last_s + (wait_s if most else GATHER_S)
                inbound.taken += sum(map(len, frames))
                kind, body = _record(frames)
                named |= kind != "tick" or isinstance(body.get("values"), dict)
                if len(messages) < count or kind == "heartbeat":
                    messages.append(frames)
            if len(messages) >= count and named:
                break
    finally:
        context.destroy(linger=0)
        for inlet in inlets:
            if isinstance(inlet.attached, Binding):
                inlet.attached.close()
    if messages:
        return Heard(messages, last_s - first_s)
    why = f" ({security.advice})" if security.counts().get("not_admitted") else ""
    raise EndpointError(
        f"no message came from {', '.join(endpoints)} within {wait_s:g} s{why}: check that the "
        "publisher runs and sends, that it binds this address and port, and whether it needs keys "
        "(--curve-dir); --wait 60 waits longer"
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


def _settings(
    endpoint: str, messages: Sequence[Sequence[bytes]]
) -> tuple[dict[str, Any], Look | None]:
    """Return the settings for the form of the messages."""
    records = [record for frames in messages if (record := _record(frames))[0]]
    if any(kind in ("tick", "heartbeat", "label") for kind, _ in records):
        return {"columns": _columns(endpoint, records)}, None
    if records:
        raise DataError(
            f"{endpoint} sends predictions, not ticks: name the endpoint of the feed that the "
            "daemon connects to"
        )
    look = sniff(messages)
    if look.declaration is None:
        pickled = look.kind.startswith("pickled")
        raise DataError(
            f"{endpoint} sends {printable(shown(messages[0]), 300)}: it looks like {look.kind}; "
            + (PICKLED if pickled else "send the values as a JSON object with numbers")
        )
    found = resolve(look.declaration)
    settings = msgspec.to_builtins(look.declaration) | {"columns": list(found.columns)}
    settings.pop("channels", None)
    if found.payload == "array" and found.dtype == "f8":
        settings |= {"payload": "float64"}
        settings.pop("dtype", None)
    return settings, look


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
