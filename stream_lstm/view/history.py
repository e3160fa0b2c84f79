"""Reads the streams of a store into tracks; the store may be in use."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from ..closing import Closing
from ..config import Config
from ..core.features import FeatureSet
from ..errors import ConfigurationError
from ..events import Prediction, Score
from ..records import Batch
from ..store.journal import read_positions
from ..store.reading import read_setup
from ..store.schema import OUTPUTS, UNREADABLE, R, connect_reader, failure, read
from ..store.units import JournalPosition
from .track import MAX_EVENTS, MAX_TARGETS, NO_TARGETS, Interval, Targets, Track, Updates

ROWS = 65_536
"""Fetched at a time."""


class _Progress(msgspec.Struct):
    """How far a stream was read."""

    update: int = 0
    event: int = 0
    tick: int = 0


class History(Closing):
    """An open store.

    on_rows: receives the number of rows of each read.

    Raises what `connect_reader` raises, and StoreError for a damaged store, now or later.
    """

    def __init__(self, path: Path, on_rows: Callable[[int], object] = lambda _: None) -> None:
        self.path = path
        self._on_rows = on_rows
        self._connection = connect_reader(path)
        self._progress: dict[str, _Progress] = {}
        try:
            setup = read_setup(self._connection, str(path))
        except UNREADABLE as error:
            self.close()
            raise failure(path, error) from None
        except BaseException:
            self.close()
            raise
        self.config: Config | None = None if setup is None else setup.config
        self._target: FeatureSet | None = None
        self._width = 0 if setup is None else len(setup.columns)
        if setup is not None:
            # another version may have had other expressions: figures of scores need none
            with contextlib.suppress(ConfigurationError):  # and a target with memory is not shown
                self._target = FeatureSet(setup.config.stream.features[:1], setup.columns)

    def streams(self) -> dict[str, JournalPosition]:
        """Return the streams and their positions, those with most predictions first."""
        try:
            known = read_positions(self._connection)
        except UNREADABLE as error:
            raise failure(self.path, error) from None
        return dict(sorted(known.items(), key=lambda item: (-item[1].n, item[0])))

    def rows(self, streams: Sequence[str]) -> int:
        """Return how many rows `read` reads of some streams, without later ones."""
        return sum(
            count
            for stream in streams
            for table in OUTPUTS
            for (count,) in self._connection.execute(
                f"SELECT count(*) FROM {table} WHERE stream = ?",  # noqa: S608 - our names
                (stream,),
            )
        )

    def runs(self) -> list[tuple[int, str, str]]:
        """Return (started_ns, command, version) of each run."""
        return list(self._rows("SELECT started_ns, command, version FROM runs ORDER BY run"))

    def refused(self, stream: str) -> dict[str, int]:
        """Return the number of refused inputs of a stream by kind."""
        found = self._rows(
            "SELECT kind, sum(count) FROM events WHERE stream = ? AND kind LIKE 'refused %' "
            "GROUP BY kind",
            stream,
        )
        return {kind.removeprefix("refused "): count for kind, count in found}

    def old_ticks(self, stream: str) -> int:
        """Return how many old ticks of a stream were accepted and reported."""
        found = self._rows(
            "SELECT coalesce(sum(count), 0) FROM events WHERE stream = ? AND kind = 'old tick'",
            stream,
        )
        return int(next(iter(found))[0])

    def read(self, track: Track) -> None:
        """Read all of a stream into its track."""
        silences = _Silences(self._silence_starts())
        for pos, predictions in self._outputs(Prediction, track.stream):
            track.predict(predictions)
            silences.take(predictions, pos)
        for _, scores in self._outputs(Score, track.stream):
            track.score(scores)
        track.intervals.extend(silences.intervals())
        self.follow(track)

    def follow(self, track: Track) -> None:
        """Read what is new and not published: updates, targets, gaps, roll-backs."""
        track.has_store = True
        read = self._progress.setdefault(track.stream, _Progress())
        updates = (
            "SELECT u.n, coalesce(p.t_ns, 0), u.loss, u.grad_norm, u.accepted, u.reason "
            "FROM updates u "
            "LEFT JOIN predictions p ON p.stream = u.stream AND p.n = u.n "
            "WHERE u.stream = ? AND u.n > ? ORDER BY u.n"
        )
        for rows in self._blocks(updates, track.stream, read.update):
            n, t_ns, loss, norm, accepted, reason = zip(*rows, strict=True)
            reasons = [why for why, yes in zip(reason, accepted, strict=True) if not yes]
            track.update(
                Updates(_ints(n), _ints(t_ns), _floats(loss), _floats(norm),
                        np.array(accepted, np.bool_), reasons)
            )  # fmt: skip
            read.update = n[-1]
        events = (
            "SELECT event, kind, e.n, coalesce(p.t_ns, 0), count, reason FROM events e "
            "LEFT JOIN predictions p ON p.stream = e.stream AND p.n = e.n "
            "WHERE e.stream = ? AND event > ? AND kind IN ('gap', 'rollback') ORDER BY event"
        )
        for event, kind, n, t_ns, count, reason in self._rows(events, track.stream, read.event):
            if kind == "gap":
                track.miss(count)
            else:
                track.roll_back(n, t_ns, reason)
            read.event = event
        track.target(self._targets(track.stream, read))

    def _silence_starts(self) -> list[int]:
        """Return the positions in the journal at which the feed fell silent."""
        silent = "SELECT pos FROM events WHERE kind = 'stale' ORDER BY event DESC LIMIT ?"
        return [pos for (pos,) in self._rows(silent, MAX_EVENTS)][::-1]

    def _targets(self, stream: str, read: _Progress) -> Targets:
        """Return the targets of the last new elements."""
        if self._target is None:
            return NO_TARGETS
        lag = self._target.lag
        blocks, elements = [], 0
        newest = (
            "SELECT pos, count, n_before, n_after, t_ns, fields FROM ticks "
            "WHERE stream = ? AND pos > ? ORDER BY pos DESC"
        )
        # the last block is read again, since the first new element needs the ticks before it
        for row in self._rows(newest, stream, max(read.tick - 1, 0)):
            blocks.append(row)
            elements += row[3] - row[2]
            if elements > MAX_TARGETS + lag:
                break
        if not blocks or blocks[0][0] == read.tick:
            return NO_TARGETS
        found = [NO_TARGETS]
        times, values = np.empty(0, np.int64), np.empty((0, self._width))
        for pos, count, before, after, t_ns, fields in blocks[::-1]:
            past = max(len(times) - lag, 0)
            times = np.concatenate([times[past:], np.frombuffer(t_ns, "<i8")])
            new = np.frombuffer(fields, "<f8").reshape(count, -1)
            values = np.concatenate([values[past:], new])
            target = self._target.evaluate(times, values)[:, 0].astype(np.float64)
            size = after - before
            # with refused ticks in a block it is unknown which tick made which element
            if pos > read.tick and 0 < size <= len(target) and np.isfinite(target[-size:]).all():
                n = np.arange(before + 1, after + 1)
                found.append(Targets(n, times[-size:], target[-size:]))
        read.tick = blocks[0][0]
        return Targets(*map(np.concatenate, zip(*found, strict=True)))

    def _outputs(self, kind: type[R], stream: str) -> Iterator[tuple[tuple[int, ...], Batch[R]]]:
        try:
            for pos, batch in read(self._connection, kind, "WHERE stream = ? ORDER BY n", stream):
                yield pos, batch
                self._on_rows(len(batch))
        except UNREADABLE as error:
            raise failure(self.path, error) from None

    def _blocks(self, sql: str, *arguments: Any) -> Iterator[list[tuple[Any, ...]]]:
        try:
            cursor = self._connection.execute(sql, arguments)
            while rows := cursor.fetchmany(ROWS):
                yield rows
                self._on_rows(len(rows))
        except UNREADABLE as error:
            raise failure(self.path, error) from None

    def _rows(self, sql: str, *arguments: Any) -> Iterator[tuple[Any, ...]]:
        for rows in self._blocks(sql, *arguments):
            yield from rows

    def close(self) -> None:
        """Close the store."""
        self._connection.close()


class _Silences:
    """The silences of the feed, each between the predictions around it.

    starts: their positions in the journal.
    """

    def __init__(self, starts: list[int]) -> None:
        self._starts = starts
        self._found: list[Interval] = []
        self._last: tuple[int, int] | None = None

    def take(self, batch: Batch[Prediction], pos: Sequence[int]) -> None:
        """Take the next predictions, with their positions in the journal."""
        where = list(zip(batch["n"].tolist(), batch["t_ns"].tolist(), strict=True))
        ends = np.searchsorted(pos, self._starts, side="right").tolist()
        for end in ends:
            before = where[end - 1] if end else self._last
            if end < len(where) and before is not None:
                self._found.append(Interval("stale", before, where[end]))
        self._starts = [b for b, end in zip(self._starts, ends, strict=True) if end == len(where)]
        self._last = where[-1]

    def intervals(self) -> list[Interval]:
        """Return those that follow a prediction."""
        if self._last is None:
            return []
        return self._found + [Interval("stale", self._last, self._last) for _ in self._starts]


def _ints(column: Any) -> Any:
    return np.array(column, np.int64)


def _floats(column: Any) -> Any:
    """Return numbers; SQLite has NULL for one that is not finite."""
    return np.array([math.nan if value is None else value for value in column], np.float64)
