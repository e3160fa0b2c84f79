"""What a daemon writes to standard error: lines for people, or one JSON object a line.

A thread writes, behind a bounded queue, so a pipe that nobody reads or a stopped terminal delays
only that thread. Lines that do not fit into the queue, or cannot be written, are dropped and
counted. The same thread draws the live table; only the newest drawing waits. At most `BURST`
lines of one kind are written in a second, and the next line reports how many were left out.
Ticks, predictions and scores write nothing.

For people there is one line a second of each kind of refusal, and less often while the cause
persists (`Spacing`): a peer that sends rubbish for days must not fill a disk. The lines report how
many more there were; all are counted.

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
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

import msgspec

from ..closing import Closing
from ..core.old_ticks import moment
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
from ..quoting import json_line, printable
from ..schema import FeedConfig, LogFormat

if TYPE_CHECKING:
    from ..feed.subscriber import Subscriber

MISSED = 3
"""Heartbeats that mean silence: one may be lost or late, and two where the publisher is busy."""

LOOK_S = 1.0
"""Longest period between two checks for silence."""

OLD_TIMES_PERIOD_S = 1.0
"""Period of the reports of old ticks."""

REFUSALS_PERIOD_S = 1.0
"""Between the first two lines of one kind."""

MAX_PERIOD_S = 60.0
"""Longest period between two lines of one kind."""

MAX_LINE = 500
"""Characters of a line; a reason quotes what a peer sent, what was expected and what to do."""

ROLLBACK, GAP, TAKEOVER, OLD = "roll-back", "gap", "take-over", "old tick"

QUEUE = 1000
"""Lines that may wait to be written."""

BURST = 20
"""Lines of one kind within a second."""

CLOSE_S = 1.0
"""Time for the waiting lines at the end."""

MAX_TEXT = 500
"""Characters of a JSON field; a reason may quote what a peer sent."""

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


def to_standard_error(text: str) -> None:
    """Write by descriptor: a write that never returns would hold Python's own lock."""
    try:
        descriptor = sys.stderr.fileno()
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


# ---- which events are logged ----------------------------------------------------------------


class _Named(NamedTuple):
    event: str
    level: Level
    sentence: str


_LOGGED: dict[type, _Named] = {
    Refusal: _Named("refused", "warning", "an input was rejected"),
    Rollback: _Named("rolled_back", "warning", "learning did harm and was rolled back"),
    Gap: _Named("gap", "warning", "ticks were lost"),
    SessionStart: _Named("session_started", "info", "a publisher started"),
    End: _Named("stream_ended", "info", "a stream ended"),
    Stale: _Named("feed_stale", "warning", "the feed is silent"),
    Fresh: _Named("feed_fresh", "info", "the feed is back"),
    Takeover: _Named("stream_taken_over", "warning", "another endpoint took over a stream"),
    OldTimes: _Named("old_ticks", "warning", "ticks have old or repeated times"),
}


class EventLog:
    """An observer that writes a daemon's rare events as JSON.

    `Refusal` is `refused`, of the kind `tick`, `label` or `message`.
    """

    def __init__(self, log: Log) -> None:
        self._log = log

    def __call__(self, event: object) -> None:
        """Take an event; most write nothing."""
        named = _LOGGED.get(type(event))
        if named is None:
            return
        fields = {
            key: value
            for key, value in msgspec.structs.asdict(event).items()  # type: ignore[arg-type]
            if value not in ("", None, -1)
        }
        kind = str(fields.pop("kind", ""))
        self._log.say(named.event, named.sentence, level=named.level, kind=kind, **fields)


class LogWatch(NamedTuple):
    """Observers for a daemon; `tend` is to be called once a second, `flush` at the end."""

    observers: tuple[Callable[[object], None], ...]
    tend: Callable[[], None]
    flush: Callable[[], None]


def watch(log: Log, clock: Callable[[], float] = time.monotonic) -> LogWatch:
    """Return observers that write a daemon's events to `log`."""
    if log.form == "json":
        return LogWatch((EventLog(log),), lambda: None, lambda: None)
    refused = RefusalLog(log.named("refused", "warning"), clock)
    return LogWatch((refused, SilenceLog(log.named("feed"))), refused.tend, refused.flush)


# ---- silence --------------------------------------------------------------------------------


class Staleness:
    """Checks whether the feed is silent; `stale` is the result of the last check.

    tell: takes a `Stale` or a `Fresh` when that changes. ended: whether no more is to come.
    """

    def __init__(
        self,
        subscriber: Subscriber,
        config: FeedConfig,
        tell: Callable[[Notice], object],
        ended: Callable[[], bool],
    ) -> None:
        self.stale = False
        self.period_s = min(LOOK_S, config.stale_after or config.heartbeat_s)
        self._subscriber, self._config = subscriber, config
        self._tell, self._ended = tell, ended
        self._silent_s = 0.0

    def look(self) -> None:
        """Compare the time without a message with the longest allowed one."""
        silent_s, longest_s = self._subscriber.idle_s, self._longest_s()
        silent = silent_s >= longest_s and not self._subscriber.waiting
        if silent and not self.stale and not self._ended():
            self.stale = True
            self._subscriber.counters.stale += 1
            self._tell(Stale(silent_s))
        elif not silent and self.stale:
            self.stale = False
            self._tell(Fresh(self._silent_s))
        self._silent_s = silent_s

    def _longest_s(self) -> float:
        if self._config.stale_after:
            return self._config.stale_after
        heard = self._subscriber.counters.heartbeats > 0
        return MISSED * self._config.heartbeat_s if heard else float("inf")


class SilenceLog:
    """Writes when a feed falls silent and when it is back.

    write: takes a line without its end.
    """

    def __init__(self, write: Callable[[str], object]) -> None:
        self._write = write

    def __call__(self, event: object) -> None:
        """Take an event; all but these two write nothing."""
        if isinstance(event, Stale):
            self._write(f"stale: no message from the feed for {event.silent_s:.1f} s; waiting")
        elif isinstance(event, Fresh):
            self._write(f"fresh: the feed is back after {event.silent_s:.1f} s of silence")


# ---- old ticks, refusals, gaps --------------------------------------------------------------


class OldTimesWatch:
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
        """Report what was gathered; called every OLD_TIMES_PERIOD_S, and at the end."""
        found, self._found = self._found, {}
        for event in found.values():
            self._report(event)


def about(event: OldTimes) -> str:
    """Return a sentence: which ticks are old, and that they were accepted."""
    ticks = "1 tick is" if event.count == 1 else f"{event.count:,} ticks are"
    first = f"the first has the time {moment(event.t_ns)}"
    reached = f"the stream had reached {moment(event.latest_ns)}"
    if event.t_ns == event.latest_ns:
        reached = "it repeats the tick of that time"
    return f"{ticks} old: {first}, and {reached}; accepted (--on-old-time)"


class Spacing:
    """When to write about a cause that persists: after a second, then two, up to a minute.

    A cause that paused for one such period starts again at a second. clock: seconds, monotonic.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._periods: dict[str, tuple[float, float]] = {}  # quiet until, length of the period

    def due(self, kind: str) -> bool:
        """Return whether a kind may be written now."""
        return self._clock() >= self._periods.get(kind, (-math.inf, 0.0))[0]

    def written(self, kind: str) -> None:
        """Record that a kind was written now."""
        now = self._clock()
        until, period = self._periods.get(kind, (-math.inf, 0.0))
        period = min(2 * period, MAX_PERIOD_S) if now < until + period else REFUSALS_PERIOD_S
        self._periods[kind] = now + period, period


class RefusalLog:
    """Writes the refusals, gaps, take-overs, old ticks and roll-backs among events.

    write: takes a line without its end. clock: seconds, monotonic. `total` counts by kind.
    """

    def __init__(self, write: Callable[[str], object], clock: Callable[[], float]) -> None:
        self.total: Counter[str] = Counter()
        self._write = write
        self._spacing = Spacing(clock)
        self._left_out: Counter[str] = Counter()

    def __call__(self, event: object) -> None:
        """Take an event; all others write nothing."""
        match event:
            case Refusal():
                self._say(event.kind, _refused(event))
            case Rollback():
                self._say(ROLLBACK, _rolled_back(event))
            case Gap():
                ticks = f"{event.missed:,} tick{'s' if event.missed > 1 else ''}"
                text = f"gap: {ticks} of the stream {event.stream!r} were lost before"
                self._say(GAP, f"{text} seq {event.seq}")
            case Takeover():
                text = f"take-over: the stream {event.stream!r} of {event.owner}"
                self._say(TAKEOVER, f"{text} now belongs to {event.to}")
            case OldTimes():
                text = f"old ticks of the stream {event.stream!r}: {about(event)}"
                self._say(OLD, text, event.count)

    def _say(self, kind: str, line: str, times: int = 1) -> None:
        self.total[kind] += times
        if not self._spacing.due(kind):
            self._left_out[kind] += times
            return
        self._say_left_out(kind)
        self._spacing.written(kind)
        self._write(printable(line, MAX_LINE))

    def tend(self) -> None:
        """Write how many were left out, for each kind that is due; call it about once a second."""
        for kind in list(self._left_out):
            if self._spacing.due(kind):
                self._say_left_out(kind)
                self._spacing.written(kind)

    def flush(self) -> None:
        """Write how many were left out."""
        for kind in list(self._left_out):
            self._say_left_out(kind)

    def _say_left_out(self, kind: str) -> None:
        count = self._left_out.pop(kind, 0)
        if count:
            what = "" if kind in (ROLLBACK, GAP, TAKEOVER, OLD) else "refused: "
            self._write(f"{what}{count} more {kind}{'s' if count > 1 else ''}")


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
