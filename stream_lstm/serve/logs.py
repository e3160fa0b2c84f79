"""What a daemon says on standard error: lines for people, or one JSON object a line.

A thread of its own writes, behind a queue with an end: a pipe that nobody reads, or a terminal
that was stopped, holds up that thread and nothing else. What the queue has no room for is dropped
and counted, and so is what cannot be written. The same thread draws the live table, of which only
the newest waits. Of one kind of event `BURST` lines are written in a second; the next one says
how many were left out. Nothing is written for a tick, a prediction or a score.

Whether the feed has fallen silent: what the daemon then says is of a world that has moved on.

A feed that has sent a heartbeat will send others, so three that are missing are a silence. One
that sends none may have nothing to say for hours: it is silent only after a time that was
configured. When every stream has said its end, silence is what is to be expected.

Old ticks of a live feed, gathered so that each stream is reported once in a second at most.

Refusals, gaps, take-overs, old ticks and roll-backs for people to read, at a limited rate.

A peer that sends rubbish as fast as it can, or for days, must not fill a disk with what we say of
it: of each kind one line is written in a second, where it does not stop ever more rarely, and how
many more there were. All of them are counted.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ..events import Fresh, Notice, Stale
from ..schema import FeedConfig

if TYPE_CHECKING:
    from ..feed.subscriber import Subscriber
import contextlib
import math
import os
import select
import sys
import threading
import time
from collections import Counter, deque
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple, TypeAlias

import msgspec

from ..closing import Closing
from ..core.old_times import moment
from ..events import End, Gap, OldTimes, Refusal, Rollback, SessionStart, Takeover
from ..quoting import json_line, printable
from ..schema import LogFormat

MISSED = 3
"""Heartbeats: one may be lost or late, and so may two where the publisher is busy."""

LOOK_S = 1.0
"""Between two looks, at most."""


class Staleness:
    """Looks whether the feed is silent; `stale` is what the last look saw.

    tell: takes a `Stale` or a `Fresh` where that changes. ended: whether no more is to come.
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
        """Compare the time without a message with what it may be."""
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
    """Writes of a feed that has fallen silent, and that it is back.

    write: takes a line without its end.
    """

    def __init__(self, write: Callable[[str], object]) -> None:
        self._write = write

    def __call__(self, event: object) -> None:
        """Take an event; all but these two are passed over."""
        if isinstance(event, Stale):
            self._write(
                f"stale: nothing has come from the feed for {event.silent_s:.1f} s; waiting for it"
            )
        elif isinstance(event, Fresh):
            self._write(f"fresh: the feed is back after {event.silent_s:.1f} s of silence")


OLD_TIMES_PERIOD_S = 1.0
"""Between two reports."""


class OldTimesWatch:
    """Gathers the old ticks that a session reports; `report` is called with those of a stream."""

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
        """Report what was gathered; called now and then, and at the end."""
        found, self._found = self._found, {}
        for event in found.values():
            self._report(event)


def about(event: OldTimes) -> str:
    """Return in words which ticks are old, and what becomes of them."""
    ticks = "1 tick is" if event.count == 1 else f"{event.count:,} ticks are"
    first = f"the first has the time {moment(event.t_ns)}"
    reached = f"the stream had reached {moment(event.latest_ns)}"
    if event.t_ns == event.latest_ns:
        reached = "it repeats the tick of that time"
    return f"{ticks} old: {first}, and {reached}; taken (--on-old-time)"


REFUSALS_PERIOD_S = 1.0
"""Between the first two lines of one kind."""

MAX_PERIOD_S = 60.0
"""Between two lines of one kind that has not stopped for long."""

MAX_LINE = 500
"""Characters of a line; a reason quotes what a peer sent, what was expected and what to do."""

ROLLBACK, GAP, TAKEOVER, OLD = "roll-back", "gap", "take-over", "old tick"


class Spacing:
    """When what goes on and on is to be told: after a second, then two, up to a minute.

    What was still for as long again begins anew. clock: seconds, monotonic.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._periods: dict[str, tuple[float, float]] = {}  # until when nothing is told, how long

    def due(self, kind: str) -> bool:
        """Return whether a kind may be told now."""
        return self._clock() >= self._periods.get(kind, (-math.inf, 0.0))[0]

    def told(self, kind: str) -> None:
        """Note that a kind was told."""
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
        self._unsaid: Counter[str] = Counter()

    def __call__(self, event: object) -> None:
        """Take an event; all others are passed over."""
        if isinstance(event, Refusal):
            self._say(event.kind, _line(event))
        elif isinstance(event, Rollback):
            self._say(ROLLBACK, _rolled_back(event))
        elif isinstance(event, Gap):
            self._say(GAP, _lost(event))
        elif isinstance(event, Takeover):
            self._say(TAKEOVER, _taken_over(event))
        elif isinstance(event, OldTimes):
            self._say(OLD, _old(event), event.count)

    def _say(self, kind: str, line: str, times: int = 1) -> None:
        self.total[kind] += times
        if not self._spacing.due(kind):
            self._unsaid[kind] += times
            return
        self._say_unsaid(kind)
        self._spacing.told(kind)
        self._write(line)

    def tend(self) -> None:
        """Say how many were passed over in silence, where that is due; called now and then."""
        for kind in list(self._unsaid):
            if self._spacing.due(kind):
                self._say_unsaid(kind)
                self._spacing.told(kind)

    def flush(self) -> None:
        """Say how many were passed over in silence."""
        for kind in list(self._unsaid):
            self._say_unsaid(kind)

    def _say_unsaid(self, kind: str) -> None:
        count = self._unsaid.pop(kind, 0)
        if count:
            what = "" if kind in (ROLLBACK, GAP, TAKEOVER, OLD) else "refused: "
            self._write(f"{what}{count} more {kind}{'s' if count > 1 else ''}")


def _line(refusal: Refusal) -> str:
    where = refusal.where or (f"stream {refusal.stream!r}" if refusal.stream else "")
    row = f", row {refusal.index}" if refusal.index > 0 else ""
    place = f" ({where}{row})" if where and where not in refusal.reason else ""
    text = f"refused a {refusal.kind}{place}: {refusal.reason}"
    return printable(text, MAX_LINE)


def _lost(gap: Gap) -> str:
    ticks = f"{gap.missed:,} tick{'s' if gap.missed > 1 else ''}"
    text = f"gap: {ticks} of the stream {gap.stream!r} were lost before seq {gap.seq}"
    return printable(text, MAX_LINE)


def _taken_over(event: Takeover) -> str:
    text = f"take-over: the stream {event.stream!r} of {event.owner} now belongs to {event.to}"
    return printable(text, MAX_LINE)


def _old(event: OldTimes) -> str:
    return printable(f"old ticks of the stream {event.stream!r}: {about(event)}", MAX_LINE)


def _rolled_back(event: Rollback) -> str:
    """Return what happened, why, and for how long it matters."""
    losses = f"log loss {event.log_loss:.3f}, base rate {event.base_rate_log_loss:.3f}"
    good = event.good_log_loss
    why = {
        "refusals": "no update was accepted any more",
        "base-rate": losses,
        "last-good": losses + ("" if good is None else f", last good weights {good:.3f}"),
    }[event.reason]
    to = "the last good weights" if event.to == "last-good" else "the base rate"
    text = (
        f"learning rolled back to {to} (stream {event.stream!r}, n={event.n}): {why}; "
        f"it rests for {event.frozen} labels"
    )
    return printable(text, MAX_LINE)


QUEUE = 1000
"""Lines that may wait to be written."""

BURST = 20
"""Lines of one kind within a second."""

CLOSE_S = 1.0
"""For what waits at the end."""

MAX_TEXT = 500
"""Characters of a field: a reason can quote what a peer sent."""

Level: TypeAlias = Literal["info", "warning", "error"]


class Pipe(Closing):
    """Writes lines to standard error from a thread, and draws there; a context manager.

    write: takes the text of a line, in the thread; it may be another one later. `dropped` counts
    the lines that could not be written.
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
        """Have a line written, without its end; never waits."""
        if len(self._lines) >= QUEUE:
            self.dropped += 1
            return
        self._lines.append(line)
        self._wake.set()

    def draw(self, drawing: Callable[[], object]) -> None:
        """Have `drawing` called behind the lines, in place of one that waits; never waits."""
        self._drawing = drawing
        self._wake.set()

    def _work(self) -> None:
        while True:
            if (line := self._next()) is not None:
                self._write(line)
            elif (drawing := self._drawing) is not None:
                self._drawing = None
                drawing()
            elif self._closing:
                return
            else:
                self._wake.wait()
                self._wake.clear()

    def _next(self) -> str | None:
        """Return the line that has waited longest; both threads take from the queue in the end."""
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
        """Write what waits, as far as somebody reads it; the rest is dropped."""
        self._closing = True
        self._wake.set()
        self._thread.join(CLOSE_S)
        self._drawing = None
        while self._next() is not None:
            self.dropped += 1


def to_standard_error(text: str) -> None:
    """Write by descriptor: Python's own lock would be held by a write that never comes back."""
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
    """Says what happens, in words or as JSON.

    form: which. write: takes a line without its end. clock: seconds, monotonic. now: nanoseconds
    since 1970.
    """

    def __init__(
        self,
        form: LogFormat,
        write: Callable[[str], object],
        *,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], int] = time.time_ns,
    ) -> None:
        self.form = form
        self._write, self._clock, self._now = write, clock, now
        self._second: dict[str, float] = {}
        self._said: Counter[str] = Counter()
        self._unsaid: Counter[str] = Counter()

    def say(
        self,
        event: str,
        *message: str,
        level: Level = "info",
        kind: str = "",
        plain: bool = False,
        **fields: Any,
    ) -> None:
        """Say a message of one line, or of more; what it and the fields quote is made printable.

        event: its stable name. kind: of those of one name, which are limited each by itself.
        plain: the text has no name before it. fields: of the JSON object, which alone has them.
        """
        if not self._may(key := f"{event} {kind}"):
            return
        left_out = self._unsaid.pop(key, 0)
        text = "\n".join(map(printable, message))
        if self.form == "text":
            more = f" ({left_out} more left out)" if left_out else ""
            self._write(f"{'' if plain else 'stream-lstm: '}{text}{more}")
            return
        told = {
            "time": datetime.fromtimestamp(self._now() / 1e9, UTC).isoformat(
                timespec="microseconds"
            ),
            "level": level,
            "event": event,
            "message": text,
            **({"kind": kind} if kind else {}),
            **{key: _quoted(value) for key, value in fields.items()},
            **({"left_out": left_out} if left_out else {}),
        }
        self._write(json_line(told))

    def named(self, event: str, level: Level = "info") -> Callable[[str], None]:
        """Return what says any message as `event`."""
        return lambda message: self.say(event, message, level=level)

    def _may(self, key: str) -> bool:
        now = self._clock()
        if key not in self._second or now - self._second[key] >= 1.0:
            self._second[key], self._said[key] = now, 0
        self._said[key] += 1
        if self._said[key] > BURST:
            self._unsaid[key] += 1
            return False
        return True


class EventLog:
    """An observer that says what comes in and out of a daemon, but for its daily work, as JSON.

    `Refusal` is `refused`, of a kind `tick`, `label` or `message`; the others have their own name.
    """

    def __init__(self, log: Log) -> None:
        self._log = log

    def __call__(self, event: object) -> None:
        """Take an event; most are passed over."""
        named = _NAMES.get(type(event))
        if named is None:
            return
        name, level = named
        fields = {
            key: value
            for key, value in msgspec.structs.asdict(event).items()  # type: ignore[arg-type]
            if value not in ("", None, -1)
        }
        kind = str(fields.pop("kind", ""))
        self._log.say(name, _SENTENCES[name], level=level, kind=kind, **fields)


class LogWatch(NamedTuple):
    """Observers that say what happens; what is to be done once a second, and at the end."""

    observers: tuple[Callable[[object], None], ...]
    tend: Callable[[], None]
    flush: Callable[[], None]


def watch(log: Log, clock: Callable[[], float] = time.monotonic) -> LogWatch:
    """Return what says to `log` what comes in and out of a daemon."""
    if log.form == "json":
        return LogWatch((EventLog(log),), lambda: None, lambda: None)
    refused = RefusalLog(log.named("refused", "warning"), clock)
    return LogWatch((refused, SilenceLog(log.named("feed"))), refused.tend, refused.flush)


def _quoted(value: Any) -> Any:
    return printable(value, MAX_TEXT) if isinstance(value, str) else value


_NAMES: dict[type, tuple[str, Level]] = {
    Refusal: ("refused", "warning"),
    Rollback: ("rolled_back", "warning"),
    Gap: ("gap", "warning"),
    SessionStart: ("session_started", "info"),
    End: ("stream_ended", "info"),
    Stale: ("feed_stale", "warning"),
    Fresh: ("feed_fresh", "info"),
    Takeover: ("stream_taken_over", "warning"),
    OldTimes: ("old_ticks", "warning"),
}

_SENTENCES = {
    "refused": "an input was rejected",
    "rolled_back": "learning did harm and was rolled back",
    "gap": "ticks were lost",
    "session_started": "a publisher's session began",
    "stream_ended": "a stream has ended",
    "feed_stale": "nothing comes from the feed",
    "feed_fresh": "the feed is back",
    "stream_taken_over": "a stream belongs to another endpoint now",
    "old_ticks": "ticks are older than what came before them, or repeat it",
}
