"""The report: the figures of runs in one file, which needs neither a network nor a server.

A run is one stream of a store or of a Parquet file of results.

The page around the figures: one template for the live page and the report.

All text is escaped, and the page loads nothing from elsewhere: style, script and data are in the
page or come from its server.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import pyarrow as pa
import pyarrow.compute
from bokeh.embed import file_html
from bokeh.models import ColumnDataSource
from bokeh.resources import Resources
from jinja2 import Environment, FileSystemLoader, Template
from markupsafe import Markup

from .. import __version__
from ..config import flatten
from ..errors import DataError, InputMissingError, OutputError, UsageError, nearest
from ..events import Prediction, Score
from ..feed.reader import check_plain
from ..feed.tables import open_parquet
from ..quoting import count, printable
from ..records import Batch, fields_of
from ..store.schema import R, is_store
from .figures import (
    BLUE,
    DASHES,
    GREEN,
    GREY,
    LN2,
    LN10,
    ORANGE,
    PURPLE,
    SKY,
    VERMILION,
    Key,
    Panel,
    panels,
    plot,
    settled,
)
from .history import History
from .track import NEEDED, Track
from .words import Fact, facts, moment, nats, percent, verdict

FOLDER = Path(__file__).parent


def _shown(value: Any) -> Any:
    """Return a value for the page, text that is not HTML as printable characters."""
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


_ENVIRONMENT = Environment(loader=FileSystemLoader(FOLDER), autoescape=True, finalize=_shown)


def template() -> Template:
    """Return the page's template, for `file_html` and for `Document.template`."""
    return _ENVIRONMENT.get_template("page.html")


def figure_template() -> Template:
    """Return the template of one figure as a picture of its own."""
    return _ENVIRONMENT.get_template("figure.svg")


def facts_css() -> str:
    """Return the style of the row of health figures."""
    return (FOLDER / "facts.css").read_text(encoding="utf-8")


def head_html(verdict: str, facts: list[Fact]) -> str:
    """Return the head of the live page."""
    return str(template().module.head(verdict, facts))  # type: ignore[attr-defined]


def card(panel: Panel, root: str, track: Track, note: str = "") -> dict[str, Any]:
    """Return the template's variables of a panel; its figure is named `root`."""
    panel.figure.name = root
    return {
        "root": root,
        "title": panel.title,
        "about": panel.about.replace("{window}", f"{track.window:,}"),
        "keys": panel.keys,
        "note": note,
        "drawn": panel.has_data(track),
    }


MAX_RUNS = 12
"""Each has eight figures, and a browser draws a hundred of them in some seconds."""

Progress: TypeAlias = Callable[[int, int], object]
"""Receives the rows read, and of how many."""

OnRows: TypeAlias = Callable[[int], object]

NAMES = tuple(panel.name for panel in panels() if panel.name != "latency")
"""The figures of a run; stored predictions have no time of arrival, and so no latency."""

COLORS = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY)
"""Of the runs in a figure; they repeat with other dashes."""

FORECASTERS = {"model": "", "base rate": "base_rate_", "last label": "last_label_"}


class ReportedRun(NamedTuple):
    """A stream with its source, verdict, facts for a table, and configuration."""

    name: str
    track: Track
    verdict: str
    about: list[tuple[str, str]]
    settings: dict[str, Any]


class _File(NamedTuple):
    """The runs of a file that are shown, the number of others, and the names in the file."""

    runs: list[ReportedRun]
    others: int
    names: Iterable[str]


def read_runs(
    paths: Sequence[Path], streams: tuple[str, ...] = (), report: Progress = lambda *_: None
) -> tuple[list[ReportedRun], list[str]]:
    """Return the runs of stores and Parquet files, and sentences about what is left out.

    streams: those to show; all if empty. report: receives (rows read, of how many).

    Raises InputMissingError, DataError or StoreError naming the file, UsageError for an unknown
    stream.
    """
    for path in paths:
        check_plain(path)
        if not path.is_file():
            raise InputMissingError(f"no such file: {path}")
    total, done = sum(_rows(path, streams) for path in paths), 0

    def on_rows(count: int) -> None:
        nonlocal done
        done += count
        report(done, total)

    files = [
        (_read_store if is_store(path) else _read_results)(path, streams, on_rows)
        for path in paths
    ]
    names = {name for file in files for name in file.names}
    for stream in streams:
        if stream not in names:
            raise UsageError(f"there is no stream {stream!r}{nearest(stream, names)}")
    runs = [run for file in files for run in file.runs]
    if not any(run.track.predictions for run in runs):
        raise DataError(f"nothing to report: {runs[0].verdict if runs else 'no stream was found'}")
    others = sum(file.others for file in files) + max(len(runs) - MAX_RUNS, 0)
    left_out = f"{others:,} more streams are not shown; name them with --stream"
    return runs[:MAX_RUNS], [left_out] if others else []


def _rows(path: Path, streams: tuple[str, ...]) -> int:
    """Return the number of rows that will be read."""
    if is_store(path):
        with History(path) as history:
            return history.rows(_wanted(history.streams(), streams)[:MAX_RUNS])
    with _results(path) as file:
        return int(file.metadata.num_rows)


def _wanted(names: Iterable[str], streams: tuple[str, ...]) -> list[str]:
    return [name for name in names if not streams or name in streams]


def _read_store(path: Path, streams: tuple[str, ...], on_rows: OnRows) -> _File:
    with History(path, on_rows) as history:
        positions = history.streams()
        wanted = _wanted(positions, streams)
        settings = flatten(history.config) if history.config is not None else {}
        started = [f"{command} {version}, {moment(ns)}" for ns, command, version in history.runs()]
        runs: list[ReportedRun] = []
        for name in wanted[:MAX_RUNS]:
            track, position = Track(name), positions[name]
            history.read(track)
            refused, old = history.refused(name), history.old_ticks(name)
            ticks = f"{position.ticks:,}, {refused.get('tick', 0):,} refused"
            about = [
                ("Store", str(path)),
                ("Ticks", ticks + (f", {old:,} old" if old else "")),
                ("Elements", f"{position.n:,}"),
                *_span(track),
                ("Started", "; ".join(started)),
            ]
            sentence = verdict(
                track,
                ticks=position.ticks,
                elements=position.n,
                window=int(settings.get("window", 0)),
                refused_ticks=refused.get("tick", 0),
                refused_labels=refused.get("label", 0),
            )
            runs.append(ReportedRun(f"{name} ({path.name})", track, sentence, about, settings))
        return _File(runs, len(wanted) - len(runs), positions)


def _read_results(path: Path, streams: tuple[str, ...], on_rows: OnRows) -> _File:
    tracks: dict[str, Track] = {}
    others: set[str] = set()
    with _results(path) as file:
        for batch in file.iter_batches(columns=list(NEEDED)):
            names = batch.column("stream")
            for name in names.unique().to_pylist():
                full = name not in tracks and len(tracks) == MAX_RUNS
                if full or not _wanted([name], streams):
                    others.add(name)
                    continue
                track = tracks.setdefault(name, Track(name))
                rows = batch.filter(pa.compute.equal(names, name))
                track.predict(_batch(Prediction, rows))
                track.score(_batch(Score, rows.filter(rows.column("label").is_valid())))
            on_rows(batch.num_rows)
    runs = [
        ReportedRun(
            f"{name} ({path.name})",
            track,
            verdict(track),
            [("File", str(path)), *_span(track)],
            {},
        )
        for name, track in tracks.items()
    ]
    return _File(runs, len(_wanted(others, streams)), [*tracks, *others])


@contextmanager
def _results(path: Path) -> Iterator[Any]:
    """Open a file of results; DataError or OutputError for one that cannot be read."""
    made = "a report needs a store, or results that --out of run and replay writes as .parquet"
    try:
        with open_parquet(path) as file:
            missing = [name for name in NEEDED if name not in file.schema_arrow.names]
            if missing:
                raise DataError(f"{path} has no column {missing[0]!r}: {made}")
            yield file
    except pa.ArrowInvalid:
        raise DataError(f"{path} is neither a store nor a Parquet file: {made}") from None
    except OSError as error:
        raise OutputError(f"cannot read {path}: {error}") from None


def _batch(kind: type[R], rows: Any) -> Batch[R]:
    known = [field.name for field in fields_of(kind) if field.name in rows.schema.names]
    columns = {name: rows.column(name).to_numpy(zero_copy_only=False) for name in known}
    return Batch(kind, columns)


def _span(track: Track) -> list[tuple[str, str]]:
    """Return the first and last time, if there are times."""
    if not track.by_time:
        return []
    return [("Predictions", f"{moment(track.first_t_ns)} to {moment(track.last[1])}")]


# ---- the page --------------------------------------------------------------------------------


def report(
    runs: list[ReportedRun], title: str, left_out: list[str], *, still: bool = False
) -> str:
    """Return the report as HTML; left_out: sentences about what is missing.

    still: for a picture or paper, where nothing can be opened or enlarged by a click.
    """
    sections, figures = [], []
    for k, run in enumerate(runs):
        shown = panels_of(run)
        figures += [panel.figure for panel in shown if panel.has_data(run.track)]
        sections.append(
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
                "settings": [(key, _setting(value)) for key, value in run.settings.items()],
            }
        )
    comparison = None
    if len(runs) > 1:
        compared = shared_panels(runs)
        figures += [panel.figure for panel in compared]
        comparison = {
            "panels": [card(panel, f"{panel.name}-all", runs[0].track) for panel in compared],
            "figures": figures_table(runs),
            "settings": settings_table(runs),
        }
    if still:
        for figure in figures:
            figure.update(output_backend="svg", toolbar_location=None)
    predictions = count(sum(run.track.predictions for run in runs), "predictions")
    subtitle = f"{count(len(runs), 'streams')}, {predictions}"
    html: str = file_html(
        figures,
        Resources(mode="inline"),
        title,
        template=template(),
        template_variables={
            "subtitle": ". ".join([subtitle, *left_out]),
            "runs": sections,
            "comparison": comparison,
            "still": still,
            "facts_css": facts_css(),
            "footer": f"stream-lstm {__version__}. This file loads nothing from the network.",
        },
    )
    return html


def panels_of(run: ReportedRun) -> list[Panel]:
    """Return the panels of a run, filled if it has data."""
    shown = [panel for panel in panels() if panel.name in NAMES]
    for panel in shown:
        if panel.has_data(run.track):
            panel.fill(run.track)
    return shown


def figures_table(runs: list[ReportedRun]) -> list[list[str]]:
    """Return a table with a column for each run."""
    figures = [run.track.scores.figures() for run in runs]
    rows = [["", *(run.name for run in runs)]]
    rows.append(["Predictions", *(f"{run.track.predictions:,}" for run in runs)])
    rows.append(["Labels", *(f"{run.track.scores.labels:,}" for run in runs)])
    for title, key, form in (("Accuracy", "accuracy", percent), ("Log loss", "log_loss", nats)):
        for who, prefix in FORECASTERS.items():
            rows.append([f"{title}, {who}", *(form(f[prefix + key]) for f in figures)])
            if key == "accuracy" and not prefix:
                rows.append(["with 95 % at every look", *map(_band, figures)])
    plain = {"brier": "Brier score", "auc": "Area under the curve", "kappa": "Kappa",
             "ece": "Calibration error"}  # fmt: skip
    for key, name in plain.items():
        rows.append([name, *("-" if f[key] is None else f"{f[key]:.4f}" for f in figures)])
    learning = []
    for run in runs:
        counts = run.track.updates, run.track.refused, run.track.rollbacks
        learning.append(", ".join(f"{number:,}" for number in counts) if any(counts[:2]) else "-")
    return [*rows, ["Updates, refused, roll-backs", *learning]]


def _band(figures: dict[str, Any]) -> str:
    band = figures["accuracy_band"]
    return "-" if band is None else f"{percent(band[0])} to {percent(band[1])}"


def settings_table(runs: list[ReportedRun]) -> list[list[str]]:
    """Return the settings in which the runs differ, a column for each run."""
    rows = [["", *(run.name for run in runs)]]
    for key in dict.fromkeys(key for run in runs for key in run.settings):
        values = {_setting(run.settings[key]) for run in runs if key in run.settings}
        if len(values) > 1:
            rows.append([key, *(_setting(run.settings.get(key)) for run in runs)])
    return rows


def _setting(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(str, value)) or "none"
    if isinstance(value, bool):
        return str(value).lower()
    return "none" if value is None else str(value)


# ---- figures of several runs -----------------------------------------------------------------


class SharedPanel(Panel):
    """A column of the lines of several runs, against the number of labels."""

    def __init__(self, runs: list[ReportedRun], y_label: str, column: int, scale: float) -> None:
        super().__init__(plot(y_label, "labels"), bands=False)
        self.keys = ()
        for k, run in enumerate(runs):
            rows, color, dash = settled(run.track), COLORS[k % 6], DASHES[k % 3]
            source = ColumnDataSource(data={"x": rows[:, 11], "y": rows[:, column] * scale})
            self.figure.line("x", "y", source=source, color=color, line_dash=dash, line_width=2)
            self.keys += (Key(run.name, color, dash),)


class SharedEvidence(SharedPanel):
    """The evidence of all runs against the base rate."""

    name, title = "evidence", "Evidence"
    about = (
        "Odds against the statement that the model is not better than the base rate; 3 means "
        "1000 : 1."
    )


class SharedLoss(SharedPanel):
    """The rolling log losses of all runs."""

    name, title = "loss", "Rolling log loss"
    about = "Over the last {window} labels; the grey line is ln 2, the loss of a coin."


def shared_panels(runs: list[ReportedRun]) -> list[Panel]:
    """Return the panels that show all runs together."""
    evidence = SharedEvidence(runs, "log\u2081\u2080 of the odds", 9, 1.0 / LN10)
    loss = SharedLoss(runs, "log loss (nats)", 5, 1.0)
    loss.figure.hspan(y=LN2, line_color=GREY, line_dash="dotdash")
    return [evidence, loss]
