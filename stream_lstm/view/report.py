"""The report: the figures of runs in one file that needs no network and no server.

What a report tells of: one stream of a store or of a file of results, with its verdict.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute
from bokeh.embed import file_html
from bokeh.models import ColumnDataSource
from bokeh.resources import Resources

from .. import __version__
from ..config import flatten
from ..core.verdict import count
from ..errors import DataError, InputMissingError, OutputError, UsageError, nearest
from ..events import Prediction, Score
from ..feed.reader import check_plain
from ..feed.table_reader import open_parquet
from ..records import Batch, fields_of
from ..store.schema import R, is_store
from .figures import (
    BLUE,
    DASHES,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    SKY,
    VERMILION,
    Key,
    Panel,
    drawn,
    has_labels,
    panels,
    plot,
)
from .history import History
from .page import card, facts_css, template
from .track import NEEDED, Track
from .words import facts, moment, nats, percent, verdict

MAX_RUNS = 12
"""Each has eight figures, and a browser draws a hundred of them in some seconds."""

Progress: TypeAlias = Callable[[int, int], object]
"""Takes the rows that were read, and of how many."""


class ReportedRun(NamedTuple):
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

    runs: list[ReportedRun]
    more: int
    known: Iterable[str]


def read_runs(
    paths: Sequence[Path], streams: tuple[str, ...] = (), report: Progress = lambda *_: None
) -> tuple[list[ReportedRun], list[str]]:
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
    runs: list[ReportedRun] = []
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
        runs: list[ReportedRun] = []
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
            runs.append(ReportedRun(label, track, said, about, settings))
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
        ReportedRun(f"{name} ({path.name})", track, verdict(track), about, {})
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


def told_count(runs: list[ReportedRun]) -> str:
    """Return how many runs and predictions there are."""
    predictions = sum(run.track.predictions for run in runs)
    return f"{count(len(runs), 'streams')}, {count(predictions, 'predictions')}"


LINES = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY)
"""Colours of the runs side by side; after these they begin again, with other dashes."""

FORECASTERS = {"model": "", "base rate": "base_rate_", "last label": "last_label_"}


NAMES = tuple(panel.name for panel in panels() if panel.name != "latency")
"""The figures of a run; what is stored has no time of arrival, and so no latency."""


def report(
    runs: list[ReportedRun], title: str, left_out: list[str], *, still: bool = False
) -> str:
    """Return the report as HTML; left_out: sentences about what is not in it.

    still: for a picture or for paper, on which nothing can be opened or enlarged by a click.
    """
    told, models = [], []
    for k, run in enumerate(runs):
        shown = panels_of(run)
        models += [panel.figure for panel in shown if panel.has_data(run.track)]
        told.append(
            {
                "name": run.name,
                "verdict": run.verdict[:1].upper() + run.verdict[1:] + ".",
                "facts": facts(run.track),
                "panels": [
                    card(panel, f"{panel.name}-{k}", run.track, panel.note(run.track))
                    for panel in shown
                ],
                "figures": figures_table([run]) if len(runs) == 1 else None,
                "about": run.about,
                "settings": [(key, _said(value)) for key, value in run.settings.items()],
            }
        )
    beside = None
    if len(runs) > 1:
        compared = panels_beside(runs)
        models += [panel.figure for panel in compared]
        beside = {
            "panels": [card(panel, panel.name, runs[0].track) for panel in compared],
            "figures": figures_table(runs),
            "settings": settings_table(runs),
        }
    if still:
        for model in models:
            model.update(output_backend="svg", toolbar_location=None)
    html: str = file_html(
        models,
        Resources(mode="inline"),
        title,
        template=template(),
        template_variables={
            "subtitle": ". ".join([told_count(runs), *left_out]),
            "runs": told,
            "comparison": beside,
            "still": still,
            "facts_css": facts_css(),
            "footer": f"Made by stream-lstm {__version__}. Nothing in this file asks the network.",
        },
    )
    return html


def panels_of(run: ReportedRun) -> list[Panel]:
    """Return the panels of a run, those filled for which it has data."""
    shown = [panel for panel in panels() if panel.name in NAMES]
    for panel in shown:
        if panel.has_data(run.track):
            panel.fill(run.track)
    return shown


def panels_beside(runs: list[ReportedRun]) -> list[Panel]:
    """Return the panels that all runs share."""
    return [evidence_beside(runs), loss_beside(runs)]


def figures_table(runs: list[ReportedRun]) -> list[list[str]]:
    """Return a table with a column for each run."""
    rows = [["", *(run.name for run in runs)]]
    rows.append(["Predictions", *(f"{run.track.predictions:,}" for run in runs)])
    rows.append(["Labels", *(f"{run.track.scores.labels:,}" for run in runs)])
    figures = [run.track.scores.figures() for run in runs]
    for title, form in (("Accuracy", percent), ("Log loss", nats)):
        key = title.lower().replace(" ", "_")
        for who, prefix in (
            ("model", ""),
            ("base rate", "base_rate_"),
            ("last label", "last_label_"),
        ):
            rows.append([f"{title}, {who}", *(form(f[prefix + key]) for f in figures)])
            if key == "accuracy" and not prefix:
                rows.append(["with 95 % at every look", *map(_band, figures)])
    plain = {"brier": "Brier score", "auc": "Area under the curve", "kappa": "Kappa",
             "ece": "Calibration error"}  # fmt: skip
    for key, name in plain.items():
        rows.append([name, *("-" if f[key] is None else f"{f[key]:.4f}" for f in figures)])
    rows.append(["Updates, refused, roll-backs", *(_learning(run.track) for run in runs)])
    return rows


def _learning(track: Track) -> str:
    if not (track.updates or track.refused):
        return "-"
    return f"{track.updates:,}, {track.refused:,}, {track.rollbacks:,}"


def _band(figures: dict[str, Any]) -> str:
    band = figures["accuracy_band"]
    return "-" if band is None else f"{percent(band[0])} to {percent(band[1])}"


def settings_table(runs: list[ReportedRun]) -> list[list[str]]:
    """Return the settings in which the runs differ, a column for each run."""
    rows = [["", *(run.name for run in runs)]]
    for key in dict.fromkeys(key for run in runs for key in run.settings):
        values = {_said(run.settings[key]) for run in runs if key in run.settings}
        if len(values) > 1:
            rows.append([key, *(_said(run.settings.get(key)) for run in runs)])
    return rows


def _said(value: Any) -> str:
    """Return a setting as people write it."""
    if isinstance(value, tuple):
        return ", ".join(map(str, value)) or "none"
    if isinstance(value, bool):
        return str(value).lower()
    return "none" if value is None else str(value)


def evidence_beside(runs: list[ReportedRun]) -> Panel:
    """Return the evidence of all runs against the base rate in one figure."""
    about = "Odds against the model's being no better than the base rate; 3 means 1000 : 1."
    plotted = plot("log\u2081\u2080 of the odds", "labels")
    return _beside(runs, "evidence", "Evidence", about, plotted, 9, 1.0 / np.log(10.0))


def loss_beside(runs: list[ReportedRun]) -> Panel:
    """Return the rolling log losses of all runs in one figure."""
    plotted = plot("log loss (nats)", "labels")
    plotted.hspan(y=float(np.log(2.0)), line_color=GREY, line_dash="dotdash")
    about = "Over the last {window} labels; the grey line is ln 2, a coin's."
    return _beside(runs, "loss", "Rolling log loss", about, plotted, 5, 1.0)


def _beside(
    runs: list[ReportedRun],
    name: str,
    title: str,
    about: str,
    plotted: Any,
    column: int,
    scale: float,
) -> Panel:
    keys = []
    for k, run in enumerate(runs):
        line, color, dash = drawn(run.track), LINES[k % 6], DASHES[k % 3]
        source = ColumnDataSource()
        source.data = {"x": line[:, 11], "y": line[:, column] * scale}
        plotted.line("x", "y", source=source, color=color, line_dash=dash, line_width=2)
        keys.append(Key(run.name, color, dash))
    return Panel(
        f"{name}-beside",
        title,
        about,
        tuple(keys),
        plotted,
        lambda _: None,
        lambda _: "",
        has_labels,
    )
