"""A timeline of the stages of a daemon or a replay, for chrome://tracing and ui.perfetto.dev.

While a `Trace` is attached, a proxy method times each stage. The session needs no clock, and
without a trace there is no cost. The newest spans stay in memory and are written at the end.

| stage | what it spans | `n` |
|---|---|---|
| receive | receiving and decoding the waiting messages | messages |
| decode | decoding one message to ticks or to another event | 1 |
| push | a block through the session: the stages below, scoring, publishing | ticks |
| arrive | the same for ticks of many streams in columns | ticks |
| wait | stepping over waiting ticks, and their scores | 1 |
| features | making elements from the ticks of a block | elements |
| step | the network over elements of one stream | elements |
| window | the network over a window from a zero state | elements |
| publish | encoding and sending a prediction or a score | 1 |
| strides | the network over whole strides, with the updates at their ends | elements |
| learn | one update of the weights | 1 |
| store | writing an event to the file of results | 1 |
| chores | heartbeats, the live table | 1 |
| gc | a garbage collection | generation |
"""

from __future__ import annotations

import gc
import json
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from ..closing import Closing
from ..errors import OutputError, UsageError
from ..platform import replace

if TYPE_CHECKING:
    from ..core.session import Session
    from .daemon import Daemon

LIMIT = 250_000
"""Spans in memory: 40 MB, 25 MB on disk, a minute at a thousand ticks a second."""

SUFFIX = ".json"
"""Viewers open it, and no input file has it, so a slip cannot overwrite one."""

Span: TypeAlias = tuple[str, int, int, int]
"""Stage, start and length (ns of the clock), and n."""

Count: TypeAlias = Callable[[tuple[Any, ...], Any], int]
"""From the arguments of a call and its result to n."""


def _one(arguments: tuple[Any, ...], result: Any) -> int:  # noqa: ARG001 - as every Count
    return 1


class Patches(Closing):
    """Methods of objects that proxies replace until `close`, which restores the newest first."""

    def __init__(self) -> None:
        self._replaced: list[tuple[object, str, object]] = []

    def put(self, owner: object, name: str, proxy: object) -> None:
        """Replace a method of an object by `proxy`."""
        self._replaced.append((owner, name, vars(owner).get(name)))
        setattr(owner, name, proxy)

    def close(self) -> None:
        """Restore the methods."""
        while self._replaced:
            owner, name, before = self._replaced.pop()
            if before is None:
                delattr(owner, name)
            else:
                setattr(owner, name, before)


class Trace:
    """Times stages; a context manager that writes the timeline to a file at its end.

    title: name of the process in the viewer. limit: number of spans, the newest. clock:
    nanoseconds, monotonic.

    The file gets its name when it is complete. It is also written after an error or an interrupt
    inside the `with`, unless nothing was timed. Raises UsageError for a name that does not end in
    `.json`, and OutputError for a file that cannot be written.
    """

    def __init__(
        self,
        path: Path,
        title: str,
        *,
        limit: int = LIMIT,
        clock: Callable[[], int] = time.perf_counter_ns,
    ) -> None:
        self.spans: deque[Span] = deque(maxlen=limit)
        self.recorded = 0
        self._path, self._title, self._clock = path, title, clock
        self._origin = clock()
        self._patches = Patches()
        self._attached = False
        self._collecting = 0
        self._partial = path.with_name(path.name + ".partial")
        if path.suffix != SUFFIX:
            raise UsageError(f"{path}: a trace is a {SUFFIX} file; give the path that suffix")
        if path.is_dir():
            raise OutputError(f"cannot write {path}: it is a directory")
        try:
            self._file = self._partial.open("w", encoding="utf-8")
        except OSError as error:
            raise self._failure(error) from None

    def session(self, session: Session) -> None:
        """Time the stages of a session, and garbage collections."""
        self._attached = True
        gc.callbacks.append(self._collected)
        engine = session.engine
        self._wrap(session, "push", "push", lambda given, _: len(given[0].t_ns))
        self._wrap(session, "arrive", "arrive", lambda given, _: len(given[0].t_ns))
        self._wrap(session, "catch_up", "wait")
        self._wrap(engine, "advance_in_place", "step", lambda given, _: len(given[2]))
        self._wrap(engine, "window", "window", lambda given, _: len(given[1]))
        self._wrap(engine, "run_strides", "strides", lambda given, _: len(given[3]))
        self._wrap(engine, "update", "learn")
        sift = self._timed_runs("features", session.maker.sift)
        self._patches.put(session.maker, "sift", sift)

    def daemon(self, daemon: Daemon) -> None:
        """Time the stages of a daemon, those of its session included, until it is closed."""
        self.session(daemon.session)
        daemon.at_close(self._patches.close)
        subscriber = daemon.subscriber
        self._wrap(subscriber, "take", "receive", lambda _, messages: messages)
        self._wrap(subscriber.intake, "decode", "decode")
        self._wrap(subscriber.intake.one_tick, "decode", "decode")
        self._wrap(daemon.tasks, "run", "chores")
        if daemon.publisher is not None:
            self._wrap(daemon.session, "publish", "publish")
            self._wrap(daemon.publisher, "publish_score", "publish")

    def timed(self, stage: str, call: Callable[..., Any], count: Count = _one) -> Any:
        """Return `call` with each of its calls timed as `stage`."""
        clock, add = self._clock, self._add

        def timed(*given: Any) -> Any:
            start = clock()
            result = call(*given)
            add(stage, start, clock(), count(given, result))
            return result

        return timed

    def _timed_runs(self, stage: str, make: Callable[..., Iterator[Any]]) -> Any:
        """Return a generator that times the making of each run, not its use."""
        clock, add = self._clock, self._add

        def timed(*given: Any) -> Iterator[Any]:
            runs = make(*given)
            while True:
                start = clock()
                run = next(runs, None)
                if run is None:
                    return
                add(stage, start, clock(), len(run.elements))
                yield run

        return timed

    def _wrap(self, owner: object, name: str, stage: str, count: Count = _one) -> None:
        self._patches.put(owner, name, self.timed(stage, getattr(owner, name), count))

    def _collected(self, phase: str, about: dict[str, int]) -> None:
        """Time a collection; Python calls this before and after each."""
        if phase == "start":
            self._collecting = self._clock()
        else:
            self._add("gc", self._collecting, self._clock(), about["generation"])

    def _add(self, stage: str, start: int, end: int, n: int) -> None:
        self.recorded += 1
        self.spans.append((stage, start, end - start, n))

    def close(self) -> None:
        """Remove the proxies and write the file; raises OutputError if that fails."""
        if self._collected in gc.callbacks:
            gc.callbacks.remove(self._collected)
        self._patches.close()
        try:
            with self._file as file:
                file.writelines(self._lines())
            replace(self._partial, self._path)
        except OSError as error:
            raise self._failure(error) from None

    def _lines(self) -> Iterator[str]:
        dropped = {"spans_dropped": self.recorded - len(self.spans)}
        yield f'{{"displayTimeUnit": "ns", "otherData": {json.dumps(dropped)}, "traceEvents": [\n'
        name = {"ph": "M", "pid": 1, "tid": 1, "name": "process_name"}
        yield json.dumps({**name, "args": {"name": self._title}})
        for stage, start, length, n in self.spans:
            begin = (start - self._origin) / 1000
            yield (
                f',\n{{"ph": "X", "pid": 1, "tid": 1, "name": "{stage}", "ts": {begin:.3f}, '
                f'"dur": {length / 1000:.3f}, "args": {{"n": {n}}}}}'
            )
        yield "\n]}\n"

    def _failure(self, error: OSError) -> OutputError:
        return OutputError(f"cannot write {self._path}: {error.strerror}")

    def __enter__(self) -> Trace:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is not None and not self._attached:
            self._file.close()
            self._partial.unlink(missing_ok=True)
        else:
            self.close()
