"""What a daemon writes to standard error: lines for people, or one JSON object a line.

A thread writes, behind a bounded queue, so a pipe that nobody reads or a stopped terminal delays
only that thread. Lines that do not fit into the queue, or cannot be written, are dropped and
counted. The same thread draws the live table; only the newest drawing waits. At most `BURST`
lines of one kind are written in a second, and the next line reports how many were left out.
Ticks, predictions and scores write nothing.

The first refusal for each reason has a line immediately. While the reason persists, a line
reports ever more rarely how many more there were (`Backoff`): a peer that sends rubbish for days
must not fill a disk, and must not hide another fault. All are counted.

A feed that has sent a heartbeat will send more, so three missing ones mean silence. A feed without
heartbeats may have nothing to send for hours: it is silent only after a configured time. After the
end of every stream, silence is expected.
"""

from __future__ import annotations

import contextlib
import math
import os
import select
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Hashable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

import msgspec

from ..closing import Closing
from ..events import (
    End,
    Fresh,
    Gap,
    Notice,
    OldTimes,
    Refusal,
    Rollback,
    SessionStart,
    Stale,
    Takeover,
)
from ..quoting import count, json_line, printable
from ..reasons import Reasons
from ..schema import FeedConfig, LogFormat

if TYPE_CHECKING:
    from ..feed.subscriber import Subscriber

MISSED = 3
"""Heartbeats that mean silence: one may be lost or late, and two where the publisher is busy."""

PERIOD_S = 1.0
"""Longest period between two checks for silence, and the first between two lines of one kind."""

PAUSE_S = 3600.0
"""After so long without it, a cause counts as new."""

QUEUE = 1000
"""Lines that may wait to be written."""

BURST = 20
"""Lines of one kind within a second."""

CLOSE_S = 1.0
"""Time for the waiting lines at the end."""

MAX_TEXT = 500
"""Characters of a line or a JSON field: a reason quotes what a peer sent and what was expected."""

Level: TypeAlias = Literal["info", "warning", "error"]


# ---- writing --------------------------------------------------------------------------------


class Pipe(Closing):
    """Writes and draws on standard error from a thread; a context manager.

    write: takes the text of a line, in the thread; may be replaced. `dropped` counts the lines
    that could not be written.
    """

    def __init__(self, write: Callable[[str], object] | None = None) -> None:
        self.dropped = 0
        self.write = write or to_standard_error
        self._lines: deque[str] = deque()
        self._drawing: Callable[[], object] | None = None
        self._wake = threading.Event()
        self._closing = False
        self._thread = threading.Thread(target=self._work, name="stream-lstm log", daemon=True)
        self._thread.start()

    def put(self, line: str) -> None:
        """Queue a line without its line end; never waits."""
        if len(self._lines) >= QUEUE:
            self.dropped += 1
            return
        self._lines.append(line)
        self._wake.set()

    def draw(self, drawing: Callable[[], object]) -> None:
        """Call `drawing` after the waiting lines; it replaces a waiting drawing. Never waits."""
        self._drawing = drawing
        self._wake.set()

    def _work(self) -> None:
        while True:
            drawing = self._drawing  # read first: lines that were put before it come before it
            if (line := self._next()) is not None:
                self._write(line)
            elif drawing is not None:
                if self._drawing is drawing:
                    self._drawing = None
                drawing()
            elif self._closing:
                return
            else:
                self._wake.wait()
                self._wake.clear()

    def _next(self) -> str | None:
        # at the end both threads take from the queue
        try:
            return self._lines.popleft()
        except IndexError:
            return None

    def _write(self, line: str) -> None:
        try:
            self.write(line + "\n")
        except (OSError, ValueError):
            self.dropped += 1

    def close(self) -> None:
        """Write the waiting lines for up to CLOSE_S seconds; drop and count the rest."""
        self._closing = True
        self._wake.set()
        self._thread.join(CLOSE_S)
        self._drawing = None
        while self._next() is not None:
            self.dropped += 1


standard_error: list[int] = []
"""The descriptor of standard error while descriptor 2 leads elsewhere; see `foreign`."""


def to_standard_error(text: str) -> None:
    """Write by descriptor: a write that never returns would hold Python's own lock."""
    try:
        descriptor = standard_error[0] if standard_error else sys.stderr.fileno()
    except (AttributeError, OSError, ValueError):
        sys.stderr.write(text)
        return
    data = text.encode(errors="backslashreplace")
    while data:
        with contextlib.suppress(BlockingIOError):
            data = data[os.write(descriptor, data) :]
            continue
        select.select((), (descriptor,), (), 1.0)


class Log:
    """Writes messages as text or as JSON.

    form: which. write: takes a line without its end. quiet: write errors only. clock: seconds,
    monotonic. now: nanoseconds since 1970.
    """

    def __init__(
        self,
        form: LogFormat,
        write: Callable[[str], object],
        *,
        quiet: bool = False,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], int] = time.time_ns,
    ) -> None:
        self.form = form
        self._quiet = quiet
        self._write, self._clock, self._now = write, clock, now
        self._second: dict[str, float] = {}
        self._written: Counter[str] = Counter()
        self._left_out: Counter[str] = Counter()

    def say(
        self,
        event: str,
        *message: str,
        level: Level = "info",
        kind: str = "",
        plain: bool = False,
        **fields: Any,
    ) -> None:
        """Write a message of one or more lines; quotes in it and in the fields become printable.

        event: its stable name. kind: the rate limit applies to each kind of an event separately.
        plain: write the text without the program's name. fields: of the JSON object only.
        """
        if self._quiet and level != "error":
            return
        if not self._within_limit(key := f"{event} {kind}"):
            return
        left_out = self._left_out.pop(key, 0)
        text = "\n".join(map(printable, message))
        if self.form == "text":
            more = f" ({left_out} more left out)" if left_out else ""
            self._write(f"{'' if plain else 'stream-lstm: '}{text}{more}")
            return
        seconds = datetime.fromtimestamp(self._now() / 1e9, UTC)
        record = {
            "time": seconds.isoformat(timespec="microseconds"),
            "level": level,
            "event": event,
            "message": text,
            **({"kind": kind} if kind else {}),
            **{key: _quoted(value) for key, value in fields.items()},
            **({"left_out": left_out} if left_out else {}),
        }
        self._write(json_line(record))

    def named(self, event: str, level: Level = "info") -> Callable[[str], None]:
        """Return a function that writes a message as `event`."""
        return lambda message: self.say(event, message, level=level)

    def _within_limit(self, key: str) -> bool:
        now = self._clock()
        if key not in self._second or now - self._second[key] >= 1.0:
            self._second[key], self._written[key] = now, 0
        self._written[key] += 1
        if self._written[key] > BURST:
            self._left_out[key] += 1
            return False
        return True


def _quoted(value: Any) -> Any:
    return printable(value, MAX_TEXT) if isinstance(value, str) else value


# ---- events ---------------------------------------------------------------------------------

_LOGGED: dict[type, tuple[str, Level, str]] = {
    Refusal: ("refused", "warning", "an input was rejected"),
    Rollback: ("rolled_back", "warning", "learning did harm and was rolled back"),
    Gap: ("gap", "warning", "ticks were lost"),
    SessionStart: ("session_started", "info", "a publisher started"),
    End: ("stream_ended", "info", "a stream ended"),
    Stale: ("feed_stale", "warning", "the feed is silent"),
    Fresh: ("feed_fresh", "info", "the feed is back"),
    Takeover: ("stream_taken_over", "warning", "another endpoint took over a stream"),
    OldTimes: ("old_ticks", "warning", "ticks have old or repeated times"),
}
"""By class: the event's name in JSON, its level, and its message."""


class Cause(NamedTuple):
    """What is counted together: the kind of an event, and why. `reason` is normalised."""

    kind: str
    reason: str = ""


class LeftOut(NamedTuple):
    """Events that had no line of their own, and the ticks that they concern."""

    events: int = 0
    ticks: int = 0


class EventLog:
    """An observer that writes a daemon's rare events for people.

    The first event of each cause has a line immediately; later ones are counted per cause, see
    `Backoff`. write: takes a line without its end. clock: seconds, monotonic. `tend` is called
    about once a second and `flush` at the end. `total` counts by kind.
    """

    def __init__(self, write: Callable[[str], object], clock: Callable[[], float]) -> None:
        self.total: Counter[str] = Counter()
        self._write = write
        self._backoff = Backoff(clock)
        self._reasons: dict[str, Reasons] = {}
        self._left_out: dict[Cause, LeftOut] = {}

    def __call__(self, event: object) -> None:
        """Take an event; most write nothing."""
        match event:
            case Refusal():
                self._say(self._cause(event), event)
            case Rollback():
                self._say(Cause("roll-back"), event)
            case Gap():
                self._say(Cause("gap"), event, ticks=event.missed)
            case Takeover():
                self._say(Cause("take-over"), event)
            case OldTimes():
                self._say(Cause("old tick"), event, event.count)
            case Stale() | Fresh():
                self._put(event)
            case SessionStart() | End():
                self._start_or_end(event)

    def _cause(self, refusal: Refusal) -> Cause:
        reasons = self._reasons.setdefault(refusal.kind, Reasons())
        return Cause(refusal.kind, reasons.add(refusal.reason))

    def _say(self, cause: Cause, event: Any, times: int = 1, ticks: int = 0) -> None:
        self.total[cause.kind] += times
        if not self._backoff.due(cause):
            events, sum_of_ticks = self._left_out.get(cause, LeftOut())
            self._left_out[cause] = LeftOut(events + times, sum_of_ticks + ticks)
            return
        self._say_left_out(cause)
        self._backoff.written(cause)
        self._put(event)

    def tend(self) -> None:
        """Write how many were left out, for each cause that is due."""
        for cause in list(self._left_out):
            if self._backoff.due(cause):
                self._say_left_out(cause)
                self._backoff.written(cause)

    def flush(self) -> None:
        """Write how many were left out."""
        for cause in list(self._left_out):
            self._say_left_out(cause)

    def _say_left_out(self, cause: Cause) -> None:
        left_out = self._left_out.pop(cause, None)
        if left_out is not None:
            self._put_left_out(cause, left_out)

    def _put(self, event: Any) -> None:
        self._write(printable(_SENTENCES[type(event)](event), MAX_TEXT))

    def _put_left_out(self, cause: Cause, left_out: LeftOut) -> None:
        self._write(printable(_more(cause, left_out), MAX_TEXT))

    def _start_or_end(self, event: SessionStart | End) -> None:
        """Write nothing: people read of it in the table."""


class JsonEventLog(EventLog):
    """Writes the events as JSON objects, each kind with a stable name; see `_LOGGED`.

    What has no line of its own is counted in one of the same name with `_more`. `refused` has the
    `kind` `tick`, `label` or `message`.
    """

    def __init__(self, log: Log, clock: Callable[[], float]) -> None:
        super().__init__(log.named("refused"), clock)
        self._log = log

    def _put(self, event: Any) -> None:
        name, level, sentence = _LOGGED[type(event)]
        given = msgspec.structs.asdict(event)
        fields = {key: value for key, value in given.items() if value not in ("", None, -1)}
        kind = str(fields.pop("kind", ""))
        self._log.say(name, sentence, level=level, kind=kind, **fields)

    def _put_left_out(self, cause: Cause, left_out: LeftOut) -> None:
        name, level, _ = _LOGGED[_KINDS.get(cause.kind, Refusal)]
        fields: dict[str, Any] = {"count": left_out.events}
        if cause.reason:
            fields["reason"] = cause.reason
        if left_out.ticks:
            fields["missed"] = left_out.ticks
        kind = cause.kind if name == "refused" else ""
        line = _more(cause, left_out)
        self._log.say(f"{name}_more", line, level=level, kind=kind, **fields)

    def _start_or_end(self, event: SessionStart | End) -> None:
        self._put(event)


def event_log(log: Log, clock: Callable[[], float] = time.monotonic) -> EventLog:
    """Return the observer that writes a daemon's events to `log`."""
    if log.form == "json":
        return JsonEventLog(log, clock)
    return EventLog(log.named("refused", "warning"), clock)


class Backoff:
    """When to write about a cause that persists: after a second, then two, four and so on.

    So a fault of a year has some 25 lines. A cause that paused for one such period, and for
    `PAUSE_S`, starts again at a second. clock: seconds, monotonic.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._periods: dict[Hashable, tuple[float, float]] = {}  # quiet until, length of it

    def due(self, cause: Hashable) -> bool:
        """Return whether a cause may be written now."""
        return self._clock() >= self._periods.get(cause, (-math.inf, 0.0))[0]

    def written(self, cause: Hashable) -> None:
        """Record that a cause was written now."""
        now = self._clock()
        until, period = self._periods.get(cause, (-math.inf, 0.0))
        persists = now < until + max(period, PAUSE_S)
        period = 2 * period if persists else PERIOD_S
        self._periods[cause] = now + period, period


def _refused(refusal: Refusal) -> str:
    where = refusal.where or (f"stream {refusal.stream!r}" if refusal.stream else "")
    row = f", row {refusal.index}" if refusal.index > 0 else ""
    place = f" ({where}{row})" if where and where not in refusal.reason else ""
    return f"refused a {refusal.kind}{place}: {refusal.reason}"


def _rolled_back(event: Rollback) -> str:
    losses = f"log loss {event.log_loss:.3f}, base rate {event.base_rate_log_loss:.3f}"
    good = event.good_log_loss
    why = {
        "refusals": "no update was accepted any more",
        "base-rate": losses,
        "last-good": losses + ("" if good is None else f", last good weights {good:.3f}"),
    }[event.reason]
    to = "the last good weights" if event.to == "last-good" else "the base rate"
    return (
        f"learning rolled back to {to} (stream {event.stream!r}, n={event.n}): {why}; "
        f"it rests for {event.frozen} labels"
    )


def _lost(event: Gap) -> str:
    ticks = count(event.missed, "ticks")
    return f"gap: {ticks} of the stream {event.stream!r} were lost before seq {event.seq}"


def _taken_over(event: Takeover) -> str:
    return f"take-over: the stream {event.stream!r} of {event.owner} now belongs to {event.to}"


def _stale(event: Stale) -> str:
    return f"stale: no message from the feed for {event.silent_s:.1f} s; waiting"


def _fresh(event: Fresh) -> str:
    return f"fresh: the feed is back after {event.silent_s:.1f} s of silence"


def _old(event: OldTimes) -> str:
    return f"old ticks of the stream {event.stream!r}: {old_times(event)}"


_SENTENCES: dict[type, Callable[[Any], str]] = {
    Refusal: _refused,
    Rollback: _rolled_back,
    Gap: _lost,
    Takeover: _taken_over,
    OldTimes: _old,
    Stale: _stale,
    Fresh: _fresh,
}

_KINDS: dict[str, type] = {
    "roll-back": Rollback,
    "gap": Gap,
    "take-over": Takeover,
    "old tick": OldTimes,
}
"""Kinds of causes that are no refusals."""


def _more(cause: Cause, left_out: LeftOut) -> str:
    """Return a sentence about events that had no line of their own."""
    if left_out.ticks:
        ticks = "1 more tick was" if left_out.ticks == 1 else f"{left_out.ticks:,} more ticks were"
        return f"gap: {ticks} lost in {count(left_out.events, 'gaps')}"
    plural = "s" if left_out.events > 1 else ""
    refused = "refused: " if cause.kind not in _KINDS else ""
    reason = f": {cause.reason}" if cause.reason else ""
    return f"{refused}{left_out.events:,} more {cause.kind}{plural}{reason}"


# ---- silence, old ticks ---------------------------------------------------------------------


class Staleness:
    """Checks whether the feed is silent; `stale` is the result of the last check.

    notify: takes a `Stale` or a `Fresh` when that changes. ended: whether every stream has ended.
    """

    def __init__(
        self,
        subscriber: Subscriber,
        config: FeedConfig,
        notify: Callable[[Notice], object],
        ended: Callable[[], bool],
    ) -> None:
        self.stale = False
        self.period_s = min(PERIOD_S, config.stale_after or config.heartbeat_s)
        self._subscriber, self._config = subscriber, config
        self._notify, self._ended = notify, ended
        self._silent_s = 0.0

    def check(self) -> None:
        """Compare the time without a message with the longest allowed one."""
        silent_s, longest_s = self._subscriber.idle_s, self._longest_s()
        silent = silent_s >= longest_s and not self._subscriber.waiting
        if silent and not self.stale and not self._ended():
            self.stale = True
            self._subscriber.counters.stale += 1
            self._notify(Stale(silent_s))
        elif not silent and self.stale:
            self.stale = False
            self._notify(Fresh(self._silent_s))
        self._silent_s = silent_s

    def _longest_s(self) -> float:
        if self._config.stale_after:
            return self._config.stale_after
        heard = self._subscriber.counters.heartbeats > 0
        return MISSED * self._config.heartbeat_s if heard else float("inf")


class OldTimesBatch:
    """Gathers the old ticks that a session reports; calls `report` for each stream at `tend`."""

    def __init__(self, report: Callable[[OldTimes], object]) -> None:
        self._report = report
        self._found: dict[str, OldTimes] = {}

    def __call__(self, event: OldTimes) -> None:
        """Take old ticks of one stream."""
        known = self._found.get(event.stream)
        if known is not None:
            event = msgspec.structs.replace(known, count=known.count + event.count)
        self._found[event.stream] = event

    def tend(self) -> None:
        """Report what was gathered; called every PERIOD_S, and at the end."""
        found, self._found = self._found, {}
        for event in found.values():
            self._report(event)


def old_times(event: OldTimes) -> str:
    """Return a sentence: which ticks are old, and that they were accepted."""
    from ..core.old_ticks import moment  # it imports what --help need not

    ticks = "1 tick is" if event.count == 1 else f"{event.count:,} ticks are"
    first = f"the first has the time {moment(event.t_ns)}"
    reached = f"the stream had reached {moment(event.latest_ns)}"
    if event.t_ns == event.latest_ns:
        reached = "it repeats the tick of that time"
    return f"{ticks} old: {first}, and {reached}; accepted (--on-old-time)"
