"""What a report tells of: one stream of a store or of a file of results, with its verdict."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import pyarrow as pa
import pyarrow.compute

from ..config import flatten
from ..core.verdict import count
from ..errors import DataError, InputMissingError, OutputError, UsageError, nearest
from ..events import Prediction, Score
from ..feed.plain_file import check_plain
from ..feed.table_reader import open_parquet
from ..records import Batch, fields_of
from ..store.outputs import R
from ..store.schema import is_store
from .columns import NEEDED
from .history import History
from .track import Track
from .words import moment, verdict

MAX_RUNS = 12
"""Each has eight figures, and a browser draws a hundred of them in some seconds."""

Progress: TypeAlias = Callable[[int, int], object]
"""Takes the rows that were read, and of how many."""


class Run(NamedTuple):
    """A stream, where it is from, its verdict, facts for a table, and its configuration."""

    name: str
    track: Track
    verdict: str
    about: list[tuple[str, str]]
    settings: dict[str, Any]


class _Rows:
    """Counts rows that were read, and reports them as (rows, of how many)."""

    def __init__(self, total: int, report: Progress) -> None:
        self._total, self._report, self._read = total, report, 0

    def __call__(self, rows: int) -> None:
        self._read += rows
        self._report(self._read, self._total)


class _Found(NamedTuple):
    """What a file has: the runs that are shown, how many are not, and the names it knows."""

    runs: list[Run]
    more: int
    known: Iterable[str]


def read_runs(
    paths: Sequence[Path], streams: tuple[str, ...] = (), report: Progress = lambda *_: None
) -> tuple[list[Run], list[str]]:
    """Return the runs of stores and Parquet files, and what was left out, in sentences.

    streams: those alone; all where there are none. report: takes (rows read, of how many).

    Raises InputMissingError, DataError or StoreError naming the file, UsageError for a stream
    that is nowhere.
    """
    for path in paths:
        check_plain(path)
        if not path.is_file():
            raise InputMissingError(f"no such file: {path}")
    rows = [_rows_of_store(p, streams) if is_store(p) else _rows_of_results(p) for p in paths]
    came = _Rows(sum(rows), report)
    runs: list[Run] = []
    known: set[str] = set()
    more = 0
    for path in paths:
        found = (_of_store if is_store(path) else _of_results)(path, streams, came)
        runs += found.runs
        more += found.more
        known.update(found.known)
    for stream in streams:
        if stream not in known:
            raise UsageError(f"there is no stream {stream!r}{nearest(stream, known)}")
    if not any(run.track.predictions for run in runs):
        why = runs[0].verdict if runs else "nothing is in there"
        raise DataError(f"there is nothing to report: {why}")
    more += max(len(runs) - MAX_RUNS, 0)
    said = [f"{more:,} more streams are not shown; name them with --stream"] if more else []
    return runs[:MAX_RUNS], said


def _rows_of_store(path: Path, streams: tuple[str, ...]) -> int:
    with History(path) as history:
        return history.rows(_wanted(history, streams)[:MAX_RUNS])


def _wanted(history: History, streams: tuple[str, ...]) -> list[str]:
    """Return the streams of a store that are asked for, those with most elements first."""
    return [name for name in history.streams() if not streams or name in streams]


def _of_store(path: Path, streams: tuple[str, ...], came: _Rows) -> _Found:
    with History(path, came) as history:
        positions = history.streams()
        wanted = _wanted(history, streams)
        settings = flatten(history.config) if history.config is not None else {}
        window = int(settings.get("window", 0))
        started = [f"{command} {version}, {moment(ns)}" for ns, command, version in history.runs()]
        runs: list[Run] = []
        for name in wanted[:MAX_RUNS]:
            track, position = Track(name), positions[name]
            history.read(track)
            refused = history.refused(name)
            said = verdict(
                track,
                ticks=position.ticks,
                elements=position.n,
                window=window,
                refused_ticks=refused.get("tick", 0),
                refused_labels=refused.get("label", 0),
            )
            old = history.old_ticks(name)
            more = f", {old:,} old" if old else ""
            about = [
                ("Store", str(path)),
                ("Ticks", f"{position.ticks:,}, {refused.get('tick', 0):,} refused{more}"),
                ("Elements", f"{position.n:,}"),
                *_span(track),
                ("Started", "; ".join(started)),
            ]
            label = f"{name} ({path.name})"
            runs.append(Run(label, track, said, about, settings))
        return _Found(runs, len(wanted) - len(runs), positions)


def _rows_of_results(path: Path) -> int:
    with _results(path) as file:
        return int(file.metadata.num_rows)


def _of_results(path: Path, streams: tuple[str, ...], came: _Rows) -> _Found:
    tracks: dict[str, Track] = {}
    left: set[str] = set()
    with _results(path) as file:
        lacking = [name for name in NEEDED if name not in file.schema_arrow.names]
        if lacking:
            raise DataError(
                f"{path} has no column {lacking[0]!r}: a report is made of a store, or of "
                "what --out of run and replay writes as .parquet"
            )
        for batch in file.iter_batches(columns=list(NEEDED)):
            names = batch.column("stream")
            for name in names.unique().to_pylist():
                if (streams and name not in streams) or (
                    name not in tracks and len(tracks) == MAX_RUNS
                ):
                    left.add(name)
                    continue
                rows = batch.filter(pa.compute.equal(names, name))
                _take(tracks.setdefault(name, Track(name)), rows)
            came(batch.num_rows)
    runs = [
        Run(f"{name} ({path.name})", track, verdict(track), about, {})
        for name, track in tracks.items()
        for about in [[("File", str(path)), *_span(track)]]
    ]
    more = left.intersection(streams) if streams else left
    return _Found(runs, len(more), [*tracks, *left])


@contextmanager
def _results(path: Path) -> Iterator[Any]:
    """Open a file of results; DataError or OutputError where it cannot be read."""
    try:
        with open_parquet(path) as file:
            yield file
    except pa.ArrowInvalid:
        raise DataError(
            f"{path} is neither a store nor a Parquet file: a report is made of those that "
            "--store FILE and --out FILE.parquet of run and replay write"
        ) from None
    except OSError as error:
        raise OutputError(f"cannot read {path}: {error}") from None


def _take(track: Track, rows: Any) -> None:
    """Give a track rows of results."""

    def batch(kind: type[R], rows: Any) -> Batch[R]:
        known = [field.name for field in fields_of(kind) if field.name in rows.schema.names]
        columns = {name: rows.column(name).to_numpy(zero_copy_only=False) for name in known}
        return Batch(kind, columns)

    track.predict(batch(Prediction, rows))
    track.score(batch(Score, rows.filter(rows.column("label").is_valid())))


def _span(track: Track) -> list[tuple[str, str]]:
    """Return from when to when, where there are times."""
    if not track.by_time:
        return []
    first, last = moment(track.first_t_ns), moment(track.last[1])
    return [("Predictions", f"{first} to {last}")]


def told_count(runs: list[Run]) -> str:
    """Return how many runs and predictions there are."""
    predictions = sum(run.track.predictions for run in runs)
    return f"{count(len(runs), 'streams')}, {count(predictions, 'predictions')}"
