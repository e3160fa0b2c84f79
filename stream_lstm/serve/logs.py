"""What a daemon says on standard error: lines for people, or one JSON object a line.

A thread of its own writes, behind a queue with an end: a pipe that nobody reads, or a terminal
that was stopped, holds up that thread and nothing else. What the queue has no room for is dropped
and counted, and so is what cannot be written. The same thread draws the live table, of which only
the newest waits. Of one kind of event `BURST` lines are written in a second; the next one says
how many were left out. Nothing is written for a tick, a prediction or a score.
"""

from __future__ import annotations

import contextlib
import os
import select
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple, TypeAlias

import msgspec

from ..closing import Closing
from ..events import End, Fresh, Gap, OldTimes, Refusal, Rollback, SessionStart, Stale, Takeover
from ..quoting import json_line, printable
from ..tables import LogFormat
from .refusals import RefusalLog
from .staleness import SilenceLog

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


class Watch(NamedTuple):
    """Observers that say what happens; what is to be done once a second, and at the end."""

    observers: tuple[Callable[[object], None], ...]
    tend: Callable[[], None]
    flush: Callable[[], None]


def watch(log: Log, clock: Callable[[], float] = time.monotonic) -> Watch:
    """Return what says to `log` what comes in and out of a daemon."""
    if log.form == "json":
        return Watch((EventLog(log),), lambda: None, lambda: None)
    refused = RefusalLog(log.named("refused", "warning"), clock)
    return Watch((refused, SilenceLog(log.named("feed"))), refused.tend, refused.flush)


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
