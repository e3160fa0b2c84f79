"""What a report tells of: one stream of a store or of a file of results, with its verdict."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from ..config import flatten
from ..core.tally import Bools
from ..core.verdict import count
from ..errors import (
    DataError,
    InputMissingError,
    OutputError,
    StreamLSTMError,
    UsageError,
    nearest,
)
from ..store.schema import is_store
from .columns import Predictions, Scores
from .history import History
from .track import Track
from .words import moment, verdict

MAX_RUNS = 12
"""Each has eight figures, and a browser draws a hundred of them in some seconds."""

NEEDED = ("stream", "n", "t_ns", "p", "label", "base_rate_p", "last_label_p", "after_gap",
          "coin_evidence", "base_rate_evidence", "last_label_evidence")  # fmt: skip


Read: TypeAlias = Callable[[int], object]
"""Takes how many rows were read, each time that some were."""


class Run(NamedTuple):
    """A stream, where it is from, its verdict, facts for a table, and its configuration."""

    name: str
    track: Track
    verdict: str
    about: list[tuple[str, str]]
    settings: dict[str, Any]


def read_runs(
    paths: Iterable[Path],
    streams: tuple[str, ...] = (),
    report: Callable[[int, int], object] = lambda *_: None,
) -> tuple[list[Run], list[str]]:
    """Return the runs of stores and Parquet files, and what was left out, in sentences.

    streams: those alone; all where there are none. report: takes the rows read so far, and how
    many there are.

    Raises InputMissingError, DataError or StoreError naming the file, UsageError for a stream
    that is nowhere.
    """
    paths = list(paths)
    for path in paths:
        if not path.is_file():
            raise InputMissingError(f"no such file: {path}")
    runs: list[Run] = []
    known: list[str] = []
    total, done = sum(map(_rows, paths)), 0

    def read(rows: int) -> None:
        nonlocal done
        done += rows
        report(done, max(done, total))

    for path in paths:
        found, names = (_of_store if is_store(path) else _of_results)(path, streams, read)
        runs += found
        known += names
    for stream in streams:
        if stream not in known:
            raise UsageError(f"there is no stream {stream!r}{nearest(stream, known)}")
    if not any(run.track.predictions for run in runs):
        why = runs[0].verdict if runs else "nothing is in there"
        raise DataError(f"there is nothing to report: {why}")
    left = len(runs) - MAX_RUNS
    said = [f"{left:,} more streams are not shown; name them with --stream"] if left > 0 else []
    return runs[:MAX_RUNS], said


def _rows(path: Path) -> int:
    """Return how many rows there are to read, 0 where that is not known: reading says why."""
    try:
        if is_store(path):
            with History(path) as history:
                return history.rows()
        return int(pyarrow.parquet.read_metadata(path).num_rows)
    except (StreamLSTMError, pa.ArrowException, OSError):
        return 0


def _of_store(path: Path, streams: tuple[str, ...], read: Read) -> tuple[list[Run], list[str]]:
    with History(path) as history:
        positions = history.streams()
        wanted = [name for name in positions if not streams or name in streams]
        settings = flatten(history.config) if history.config is not None else {}
        window = int(settings.get("window", 0))
        started = [f"{command} {version}, {moment(ns)}" for ns, command, version in history.runs()]
        runs: list[Run] = []
        for name in wanted:
            track, position = Track(name), positions[name]
            if len(runs) < MAX_RUNS:
                history.read(track, read)
            refused = history.refused(name)
            said = verdict(
                track,
                ticks=position.ticks,
                elements=position.n,
                window=window,
                refused_ticks=refused.get("tick", 0),
                refused_labels=refused.get("label", 0),
            )
            about = [
                ("Store", str(path)),
                ("Ticks", f"{position.ticks:,}, {refused.get('tick', 0):,} refused"),
                ("Elements", f"{position.n:,}"),
                *_span(track),
                ("Started", "; ".join(started)),
            ]
            label = f"{name} ({path.name})"
            runs.append(Run(label, track, said, about, settings))
        return runs, list(positions)


def _of_results(path: Path, streams: tuple[str, ...], read: Read) -> tuple[list[Run], list[str]]:
    tracks: dict[str, Track] = {}
    left: set[str] = set()
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            lacking = [name for name in NEEDED if name not in file.schema_arrow.names]
            if lacking:
                raise DataError(
                    f"{path} has no column {lacking[0]!r}: a report is made of a store, or of "
                    "what --out of run and replay writes as .parquet"
                )
            for batch in file.iter_batches(columns=list(NEEDED)):
                read(batch.num_rows)
                names = batch.column("stream")
                for name in names.unique().to_pylist():
                    if (streams and name not in streams) or (
                        name not in tracks and len(tracks) == MAX_RUNS
                    ):
                        left.add(name)
                        continue
                    rows = batch.filter(pa.compute.equal(names, name))
                    _take(tracks.setdefault(name, Track(name)), rows)
    except pa.ArrowInvalid:
        raise DataError(
            f"{path} is neither a store nor a Parquet file: a report is made of those that "
            "--store and --out of run and replay write"
        ) from None
    except OSError as error:
        raise OutputError(f"cannot read {path}: {error}") from None
    runs = [
        Run(f"{name} ({path.name})", track, verdict(track), about, {})
        for name, track in tracks.items()
        for about in [[("File", str(path)), *_span(track)]]
    ]
    return runs, [*tracks, *left]


def _take(track: Track, rows: Any) -> None:
    """Give a track rows of results."""

    def column(name: str, missing: float = np.nan) -> Any:
        return rows.column(name).fill_null(missing).to_numpy(zero_copy_only=False)

    n, t_ns, flagged = (
        rows.column(name).to_numpy(zero_copy_only=False) for name in ("n", "t_ns", "after_gap")
    )
    p = column("p").astype(np.float64)
    track.predict(Predictions(n, t_ns, p, flagged))
    label = column("label", -1)
    scored: Bools = label >= 0
    given = np.stack([p, column("base_rate_p"), column("last_label_p")])
    evidence = np.stack([column(name) for name in NEEDED[-3:]], axis=1)
    track.score(Scores(n, t_ns, label.astype(np.int8), given, evidence).at(scored))


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
