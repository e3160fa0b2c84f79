"""The messages of a feed of any form as ticks, and advice about those that cannot be read.

`DeclaredFeed` adds to the pure decoder what needs memory: sequence numbers, unfinished rows, and
the first messages of a feed whose form is to be found (`payload = "auto"`).

Numbers count the messages or the rows of one stream. A much lower number is a publisher that
started over: such feeds do not name their runs.

The events of one `receive`, in order, with ticks that continue each other joined.

`EventBatch` joins ticks of one stream that continue each other into one `Ticks`, so a backlog is
processed in blocks; up to SHORT_RUN single ticks become a `Run`, which needs no array. Within a
stream nothing overtakes anything else. If streams are independent (`independent`), a block may
continue across events of other streams, and then precedes them; streams that learn with shared
weights keep their common order. A refused message without a stream keeps its place among all.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, TypeAlias

import msgspec
import numpy as np

from ..errors import ConfigurationError, DecodeError
from ..events import QUOTATION, Input, Refusal, Run, Takeover, Ticks
from ..quoting import printable
from ..schema import Declaration, FeedConfig
from .decode import Decoded, Decoder, LastPer, compile_decoder, resolve
from .payloads import PICKLED, Values
from .protocol import KINDS, MAX_BLOCK_ROWS
from .sniff import Look, shown, sniff

Received: TypeAlias = Input | Refusal | Takeover

SHORT_RUN = 64
"""Ticks of a run at most: more of them are faster as arrays."""


class _OpenRun(Run):
    """A run that may grow, by blocks too; `next_seq` is the number that would continue it.

    Single ticks stay Python numbers until there are many: one array for all of them takes a tenth
    of the time of one array each.
    """

    __slots__ = ("count", "next_seq", "parts")

    def __init__(self, stream: str, run_id: str, seq: int | None, where: str) -> None:
        super().__init__(stream, run_id, seq, where)
        self.next_seq, self.count = seq, 0
        self.parts: list[Ticks] = []

    def add(self, ticks: Ticks) -> None:
        self._gather()
        self.parts.append(ticks)
        self.count += len(ticks.t_ns)
        if self.next_seq is not None:
            self.next_seq += len(ticks.t_ns)

    def _gather(self) -> None:
        """Make one block of the single ticks at the end."""
        if self.times:
            self.parts.append(self.block())
            self.times, self.rows = [], []

    def finish(self) -> Ticks | Run:
        if not self.parts and self.count <= SHORT_RUN:
            return self
        self._gather()
        if len(self.parts) == 1:
            return self.parts[0]
        t_ns = np.concatenate([ticks.t_ns for ticks in self.parts])
        values = np.concatenate([ticks.values for ticks in self.parts])
        return Ticks(self.stream, t_ns, values, self.session, self.seq, self.where)


class EventBatch:
    """The events of one `receive`, in order; see the module.

    independent: only the order within each stream counts. `size` is the number of payload bytes,
    for the caller.
    """

    def __init__(self, *, independent: bool = False) -> None:
        self.size = 0
        self._independent = independent
        self._events: list[Received] = []
        self._open: dict[str, _OpenRun] = {}

    @property
    def empty(self) -> bool:
        """Whether there is no event yet."""
        return not self._events

    def add_ticks(self, ticks: Ticks) -> None:
        """Append ticks, to the block that they continue if there is one."""
        run = self._open.get(ticks.stream)
        if (
            run is None
            or ticks.seq != run.next_seq
            or ticks.session != run.session
            or run.count + len(ticks.t_ns) > MAX_BLOCK_ROWS
        ):
            run = self._begin(ticks.stream, ticks.session, ticks.seq, ticks.where)
        run.add(ticks)

    def add_one(
        self,
        stream: str,
        run_id: str,
        seq: int | None,
        where: str,
        t_ns: int,
        values: Sequence[float | None],
    ) -> None:
        """Append one tick that is not an array yet; None among `values` is NaN."""
        run = self._open.get(stream)
        if (
            run is None
            or seq != run.next_seq
            or run_id != run.session
            or run.count >= MAX_BLOCK_ROWS
        ):
            run = self._begin(stream, run_id, seq, where)
        run.times.append(t_ns)
        run.rows.append(values)
        run.count += 1
        if seq is not None:
            run.next_seq = seq + 1

    def _begin(self, stream: str, run_id: str, seq: int | None, where: str) -> _OpenRun:
        run = _OpenRun(stream, run_id, seq, where)
        self._close(stream)
        self._open[stream] = run
        self._events.append(run)
        return run

    def add(self, event: Received) -> None:
        """Append an event that is not ticks."""
        self._close(event.stream)
        self._events.append(event)

    def _close(self, stream: str) -> None:
        """End the open block of a stream, or all blocks if their order counts."""
        if self._independent and stream:
            self._open.pop(stream, None)
        else:
            self._open.clear()

    def finish(self) -> list[Received]:
        """Return the events."""
        return [event.finish() if isinstance(event, _OpenRun) else event for event in self._events]


JUDGED = 8
"""Messages after which the form of a feed is decided."""

JUDGED_S = 2.0
"""Seconds without a message after which it is decided by fewer."""

LATE = 16
"""By how much a number that comes late may be lower; a lower one starts over."""

MAX_ADVICE = 32
"""Different reasons that are explained: to judge a message takes up to some milliseconds."""


class Part(NamedTuple):
    """Rows of one stream; `seq` is the number of the first, from 1 on, None without numbers.

    missed: messages or rows lost before it, for a feed whose rows have no numbers of their own.
    starts: its publisher started over.
    """

    stream: str
    times: Sequence[int] | None
    rows: list[list[float]] | Values
    seq: int | None = None
    missed: int = 0
    starts: bool = False


class DeclaredFeed:
    """Decodes the messages of one feed, in order.

    `kept` are the first messages, as (endpoint, frames), until `choose` finds their form; None
    once it is known. `skipped` counts rows that do not count, by reason. optional: columns that a
    message may omit.

    Raises ConfigurationError for a declaration that cannot be compiled.
    """

    def __init__(self, config: FeedConfig, optional: Container[str] = ()) -> None:
        self.skipped: Counter[str] = Counter()
        self.kept: list[tuple[int, list[bytes]]] | None = None
        self._config, self._optional = config, optional
        # the last number of a stream from a sender, how many rows it had, and its step
        self._last: dict[tuple[int, str], tuple[int, int, int]] = {}
        self._thin: LastPer | None = None
        self._decode: Decoder
        if config.payload == "auto":
            if not config.columns:
                raise ConfigurationError("columns is empty: name the columns", key="columns")
            self.kept = []
        else:
            self._compile(config)

    def _compile(self, declaration: Declaration) -> None:
        self._decode = compile_decoder(declaration, self._optional)
        if declaration.last_per:
            self._thin = LastPer(self._config.max_streams)

    def choose(self) -> tuple[str, list[tuple[int, list[bytes]]]]:
        """Judge the kept messages; return a line about their form, and the messages.

        If their form is not certain, all messages are refused, for the reason that is returned.
        """
        kept, self.kept = self.kept or [], None
        look = sniff([frames for _, frames in kept])
        found, why = adapted(look, self._config)
        if found is not None:
            self._compile(found)
            return f"payload: {look.kind}; the same as {look.flags}", kept
        reason = f"payload = 'auto' does not decide: it looks like {look.kind}; {why}"

        def refuse(_: Sequence[bytes]) -> Decoded:
            raise DecodeError(reason, cause="payload")

        self._decode = refuse
        return reason, kept

    def decode(self, frames: Sequence[bytes], sender: int = 0) -> Iterable[Part]:
        """Return the ticks of a message of a sender; raises DecodeError."""
        decoded = self._decode(frames)
        if decoded.skipped:
            self.skipped.update(decoded.skipped)
        if decoded.seq is None and self._thin is None and type(decoded.streams) is str:
            if not len(decoded.rows):
                return ()
            return (Part(decoded.streams, decoded.times, decoded.rows),)  # type: ignore[arg-type]
        return self._parts(decoded, sender)

    def _parts(self, decoded: Decoded, sender: int) -> Iterator[Part]:
        """Yield the rows by stream and number."""
        if self._thin is not None:
            for part in self._numbered(decoded, sender):
                if part.missed or part.starts:
                    yield part._replace(times=[], rows=[], seq=None)
            decoded = self._thin.thin(decoded)
            self.skipped["last_per"] += decoded.skipped["last_per"]
        yield from self._numbered(decoded, sender)

    def _numbered(self, decoded: Decoded, sender: int) -> Iterator[Part]:
        n, seq = len(decoded.rows), decoded.seq
        names = (decoded.streams,) * n if type(decoded.streams) is str else decoded.streams
        begin = 0
        for k in range(1, n + 1):
            follows = k < n and names[k] == names[begin]
            if follows and (type(seq) is not list or seq[k] == seq[k - 1] + 1):
                continue
            times = None if decoded.times is None else decoded.times[begin:k]
            part = Part(names[begin], times, decoded.rows[begin:k])  # type: ignore[arg-type]
            if seq is not None:
                number = seq[begin] if isinstance(seq, list) else seq
                key = sender, part.stream
                part = self._with_number(part, key, number, of_row=type(seq) is list)
            yield part
            begin = k

    def _with_number(self, part: Part, key: tuple[int, str], number: int, *, of_row: bool) -> Part:
        """Return a part with what its number says about lost ones."""
        rows = len(part.rows)
        last, before, step = self._last.get(key, (number - 1, 1, 1))
        rise = number - last
        if rise < -LATE:
            rise, starts = 1, True
        else:
            starts = False
        if of_row:
            due = number + rows - 1 if starts else max(last, number + rows - 1)
            self._last[key] = due, 1, 1
            lost = 0 if self._thin is None else rise - 1
            return part._replace(seq=number + 1, missed=max(lost, 0), starts=starts)
        # it is of the message, or of its first row if it rises by the rows of the last message
        step = rise if rise in (1, before) else step
        self._last[key] = number, rows, step
        return part._replace(seq=0, missed=max(rise - step, 0), starts=starts)


def adapted(look: Look, config: FeedConfig) -> tuple[Declaration | None, str]:
    """Return the declaration of a look with the configured columns, or None and the reason."""
    found = look.declaration
    if found is None:
        return None, "declare its form, see 'stream-lstm help interop'"
    if look.doubtful:
        return None, f"{look.doubtful}; if it is right, set {look.flags}"
    columns, there = config.columns, resolve(found).columns
    changes: dict[str, Any] = {"columns": columns, "channels": 0, "streams": config.streams}
    if config.topic is not None:
        changes["topic"] = config.topic
    if found.payload in ("json", "msgpack") and not found.fields:
        roles = ("stream_field", "time_field", "seq_field")
        changes |= {key: "" for key in roles if getattr(found, key) in columns}
    elif not set(columns) <= set(there):
        if len(columns) != len(there):
            return None, f"it has {len(there)} values: name them in --columns, or set {look.flags}"
        again = dict(zip(there, columns, strict=True))
        changes["fields"] = tuple(again.get(name, name) for name in found.fields)
        parts = (part.partition(":") for part in found.dtype.split(","))
        changes["dtype"] = ",".join(again.get(a, a) + colon + z for a, colon, z in parts)
    return msgspec.structs.replace(found, **changes), ""


class Adviser:
    """Explains refused messages, each reason in full once."""

    def __init__(self, config: FeedConfig) -> None:
        self._config = config
        self._known: dict[str, str] = {}

    def explain(self, reason: str, frames: Sequence[bytes]) -> str:
        """Return the reason with a quotation of the message, its likely form and the remedy."""
        key = re.sub(r"'.*?'|\d+", "", reason)[:200]
        if key not in self._known and len(self._known) < MAX_ADVICE:
            self._known[key] = self._remedy(reason, frames)
        remedy = self._known.get(key, "")
        return f"{reason}{QUOTATION}{printable(shown(frames), 400)}{remedy}"

    def _remedy(self, reason: str, frames: Sequence[bytes]) -> str:
        if not frames:
            return "; it is empty"
        look = sniff([frames])
        text = f"; it looks like {look.kind}"
        if self._config.payload == "record" and _is_record(frames):
            text = (
                "; expected a record of this protocol: a map with v and values, as many as "
                f"--columns names, in the order of the feed{text}"
            )
        if look.kind.startswith("pickled") and PICKLED not in reason:
            return f"{text}: {PICKLED}"
        if look.doubtful:
            text += f" ({look.doubtful})"
        return f"{text}: to read it, set {look.flags}" if look.flags else text


def _is_record(frames: Sequence[bytes]) -> bool:
    return len(frames) == 2 and frames[0].partition(b"/")[0].decode(errors="replace") in KINDS
