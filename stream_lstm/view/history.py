"""What a store holds of its streams, read into tracks; it may be in use."""

from __future__ import annotations

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
from .track import MARKS, TARGETS, Interval, Targets, Track, Updates

ROWS = 65_536
"""Fetched at a time."""


class _Read(msgspec.Struct):
    """How far a stream was read."""

    update: int = 0
    event: int = 0
    tick: int = 0


class History(Closing):
    """A store that is read into tracks.

    came: takes how many rows were read, again and again.

    Raises what `connect_reader` raises, and StoreError for a store that is damaged, now or when it
    is read.
    """

    def __init__(self, path: Path, came: Callable[[int], object] = lambda _: None) -> None:
        self.path = path
        self._came = came
        self._connection = connect_reader(path)
        self._read: dict[str, _Read] = {}
        try:
            setup = read_setup(self._connection, str(path))
        except UNREADABLE as error:
            self.close()
            raise failure(path, error) from None
        except BaseException:
            self.close()
            raise
        self.config: Config | None = None if setup is None else setup.config
        self._target = self._target_of(() if setup is None else setup.columns)

    def _target_of(self, columns: tuple[str, ...]) -> FeatureSet | None:
        if self.config is None:
            return None
        try:
            return FeatureSet(self.config.stream.features[:1], columns)
        except ConfigurationError:
            return None  # of another version's expressions: the figures of scores are whole

    def streams(self) -> dict[str, JournalPosition]:
        """Return the streams and where they stand, those with most predictions first."""
        try:
            known = read_positions(self._connection)
        except UNREADABLE as error:
            raise failure(self.path, error) from None
        return dict(sorted(known.items(), key=lambda item: (-item[1].n, item[0])))

    def rows(self, streams: Sequence[str]) -> int:
        """Return how many rows `read` reads of some streams, but for what is new by then."""
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
        """Return {kind: how many} of what was refused of a stream."""
        found = self._rows(
            "SELECT kind, sum(count) FROM events WHERE stream = ? AND kind LIKE 'refused %' "
            "GROUP BY kind",
            stream,
        )
        return {kind.removeprefix("refused "): count for kind, count in found}

    def old_ticks(self, stream: str) -> int:
        """Return how many old ticks of a stream were taken and reported."""
        found = self._rows(
            "SELECT coalesce(sum(count), 0) FROM events WHERE stream = ? AND kind = 'old tick'",
            stream,
        )
        return int(next(iter(found))[0])

    def read(self, track: Track) -> None:
        """Take all that there is of a stream."""
        silences = _Silences(self._silent())
        for pos, made in self._outputs(Prediction, track.stream):
            track.predict(made)
            silences.take(made, pos)
        for _, scored in self._outputs(Score, track.stream):
            track.score(scored)
        track.spells.extend(silences.spells())
        self.follow(track)

    def follow(self, track: Track) -> None:
        """Take what is new of that which is not published: updates, targets, gaps, roll-backs."""
        track.has_store = True
        read = self._read.setdefault(track.stream, _Read())
        made = (
            "SELECT u.n, coalesce(p.t_ns, 0), u.loss, u.grad_norm, u.accepted, u.reason "
            "FROM updates u "
            "LEFT JOIN predictions p ON p.stream = u.stream AND p.n = u.n "
            "WHERE u.stream = ? AND u.n > ? ORDER BY u.n"
        )
        for rows in self._blocks(made, track.stream, read.update):
            n, t_ns, loss, norm, accepted, reason = zip(*rows, strict=True)
            reasons = [why for why, made in zip(reason, accepted, strict=True) if not made]
            track.update(
                Updates(_ints(n), _ints(t_ns), _floats(loss), _floats(norm),
                        np.array(accepted, np.bool_), reasons)
            )  # fmt: skip
            read.update = n[-1]
        happened = (
            "SELECT event, kind, e.n, coalesce(p.t_ns, 0), count, reason FROM events e "
            "LEFT JOIN predictions p ON p.stream = e.stream AND p.n = e.n "
            "WHERE e.stream = ? AND event > ? AND kind IN ('gap', 'rollback') ORDER BY event"
        )
        for event, kind, n, t_ns, count, reason in self._rows(happened, track.stream, read.event):
            if kind == "gap":
                track.lose(count)
            else:
                track.roll_back(n, t_ns, reason)
            read.event = event
        track.target(self._targets(track.stream, read))

    def _silent(self) -> list[int]:
        """Return where in the journal the feed fell silent."""
        silent = "SELECT pos FROM events WHERE kind = 'stale' ORDER BY event DESC LIMIT ?"
        return [pos for (pos,) in self._rows(silent, MARKS)][::-1]

    def _targets(self, stream: str, read: _Read) -> Targets:
        """Return the targets of the last elements that are new."""
        if self._target is None:
            return Targets.none()
        blocks, elements = [], 0
        newest = (
            "SELECT pos, count, n_before, n_after, t_ns, fields FROM ticks "
            "WHERE stream = ? AND pos > ? ORDER BY pos DESC"
        )
        # what was read last is read again, since the first new element needs the ticks before it
        for row in self._rows(newest, stream, max(read.tick - 1, 0)):
            blocks.append(row)
            elements += row[3] - row[2]
            if elements > TARGETS + self._target.lag:
                break
        if not blocks or blocks[0][0] == read.tick:
            return Targets.none()
        told, lag = Targets.none(), self._target.lag
        times, values = np.empty(0, np.int64), np.empty((0, 0))
        for pos, count, before, after, t_ns, fields in blocks[::-1]:
            new = np.frombuffer(fields, "<f8").reshape(count, -1)
            # the elements of a block need the ticks before it
            kept = max(len(times) - lag, 0)
            times = np.concatenate([times[kept:], np.frombuffer(t_ns, "<i8")])
            values = np.concatenate([values.reshape(-1, new.shape[1])[kept:], new])
            made = self._target.evaluate(times, values)[:, 0]
            count = after - before
            # with ticks that were refused it is not plain which element is whose
            if pos > read.tick and 0 < count <= len(made) and np.isfinite(made[-count:]).all():
                n = np.arange(before + 1, after + 1)
                value = made[-count:].astype(np.float64)
                told = told.joined(Targets(n, times[-count:], value))
        read.tick = blocks[0][0]
        return told

    def _outputs(self, kind: type[R], stream: str) -> Iterator[tuple[tuple[int, ...], Batch[R]]]:
        try:
            for pos, batch in read(self._connection, kind, "WHERE stream = ? ORDER BY n", stream):
                yield pos, batch
                self._came(len(batch))
        except UNREADABLE as error:
            raise failure(self.path, error) from None

    def _blocks(self, sql: str, *arguments: Any) -> Iterator[list[tuple[Any, ...]]]:
        try:
            cursor = self._connection.execute(sql, arguments)
            while rows := cursor.fetchmany(ROWS):
                yield rows
                self._came(len(rows))
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

    begun: where in the journal they began.
    """

    def __init__(self, begun: list[int]) -> None:
        self._begun = begun
        self._found: list[Interval] = []
        self._last: tuple[int, int] | None = None

    def take(self, came: Batch[Prediction], pos: Sequence[int]) -> None:
        """Take the predictions that come next, with their positions in the journal."""
        where = list(zip(came["n"].tolist(), came["t_ns"].tolist(), strict=True))
        ends = np.searchsorted(pos, self._begun, side="right").tolist()
        for end in ends:
            before = where[end - 1] if end else self._last
            if end < len(where) and before is not None:
                self._found.append(Interval("stale", before, where[end]))
        self._begun = [b for b, end in zip(self._begun, ends, strict=True) if end == len(where)]
        self._last = where[-1]

    def spells(self) -> list[Interval]:
        """Return those behind whose beginning a prediction stands."""
        if self._last is None:
            return []
        return self._found + [Interval("stale", self._last, self._last) for _ in self._begun]


def _ints(column: Any) -> Any:
    return np.array(column, np.int64)


def _floats(column: Any) -> Any:
    """Return numbers, of which SQLite has NULL for one that is not finite."""
    return np.array([math.nan if value is None else value for value in column], np.float64)
