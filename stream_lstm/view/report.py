"""The report: the figures of runs in one file that needs no network and no server."""

from __future__ import annotations

from typing import Any

import numpy as np
from bokeh.embed import file_html
from bokeh.models import ColumnDataSource
from bokeh.resources import Resources

from .. import __version__
from .figures import panels
from .figures_run import drawn
from .page import card, facts_css, template
from .panel import Panel, has_labels
from .runs import Run, told_count
from .style import BLUE, DASHES, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILION, Key, plot
from .track import Track
from .words import facts, nats, percent

LINES = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY)
"""Colours of the runs side by side; after these they begin again, with other dashes."""

FORECASTERS = {"model": "", "base rate": "base_rate_", "last label": "last_label_"}


NAMES = tuple(panel.name for panel in panels() if panel.name != "latency")
"""The figures of a run; what is stored has no time of arrival, and so no latency."""


def report(runs: list[Run], title: str, left_out: list[str], *, still: bool = False) -> str:
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


def panels_of(run: Run) -> list[Panel]:
    """Return the panels of a run, those filled for which it has data."""
    shown = [panel for panel in panels() if panel.name in NAMES]
    for panel in shown:
        if panel.has_data(run.track):
            panel.fill(run.track)
    return shown


def panels_beside(runs: list[Run]) -> list[Panel]:
    """Return the panels that all runs share."""
    return [evidence_beside(runs), loss_beside(runs)]


def figures_table(runs: list[Run]) -> list[list[str]]:
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


def settings_table(runs: list[Run]) -> list[list[str]]:
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


def evidence_beside(runs: list[Run]) -> Panel:
    """Return the evidence of all runs against the base rate in one figure."""
    about = "Odds against the model's being no better than the base rate; 3 means 1000 : 1."
    plotted = plot("log\u2081\u2080 of the odds", "labels")
    return _beside(runs, "evidence", "Evidence", about, plotted, 9, 1.0 / np.log(10.0))


def loss_beside(runs: list[Run]) -> Panel:
    """Return the rolling log losses of all runs in one figure."""
    plotted = plot("log loss (nats)", "labels")
    plotted.hspan(y=float(np.log(2.0)), line_color=GREY, line_dash="dotdash")
    about = "Over the last {window} labels; the grey line is ln 2, a coin's."
    return _beside(runs, "loss", "Rolling log loss", about, plotted, 5, 1.0)


def _beside(
    runs: list[Run], name: str, title: str, about: str, plotted: Any, column: int, scale: float
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
