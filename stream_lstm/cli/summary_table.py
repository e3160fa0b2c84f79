"""The closing summary as people read it: counts, a small table, and one plain sentence."""

from __future__ import annotations

import math
from typing import Any

COLUMNS = {"model": "", "base rate": "base_rate_", "last label": "last_label_"}
FIGURES = {"accuracy": "accuracy", "log loss (nats)": "log_loss", "Brier score": "brier"}

FEW = 1000
"""Labels below which a comparison is little more than luck: with them, 0.53 is two standard errors
from a coin."""

TABLE_WIDTH = 100
"""Wide enough for every line below; output that is not a terminal is not wrapped at 80."""


def print_summary(summary: dict[str, Any]) -> None:
    """Print the summary of `core.summary.summarize` on standard output."""
    # Rich takes a while to import, which commands that print no table are spared.
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from .best_possible import best_lines
    from .state_check import state_lines

    console = Console(highlight=False, soft_wrap=True, markup=False)
    console.print(counts(summary))
    if summary["labels"]:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        table.add_column("")
        for title in COLUMNS:
            table.add_column(title, justify="right")
        for title, figure in FIGURES.items():
            table.add_row(title, *(f"{summary[p + figure]:.4f}" for p in COLUMNS.values()))
        console.print(table, width=TABLE_WIDTH)
    if summary["labels"] and "experts" in summary:
        console.print(_experts_table(summary["experts"]), width=TABLE_WIDTH)
    check = state_lines(summary["state_check"]) if "state_check" in summary else ()
    for line in (*best_lines(summary), *details(summary), *check, verdict(summary)):
        console.print(line)


def _experts_table(experts: dict[str, dict[str, float]]) -> Any:
    """Return the members of a bank, best first."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for title in ("expert", "weight", "log loss (nats)"):
        table.add_column(title, justify="left" if title == "expert" else "right")
    for name, figures in sorted(experts.items(), key=lambda item: item[1]["log_loss"]):
        table.add_row(name, f"{figures['weight']:.4f}", f"{figures['log_loss']:.4f}")
    return table


def counts(summary: dict[str, Any]) -> str:
    """Return one line of what came in and what went out."""
    streams = summary["streams"]
    name = summary.get("stream") or f"{streams:,} stream{'' if streams == 1 else 's'}"
    refused = summary["refused_ticks"]
    note = f" ({refused:,} refused)" if refused else ""
    return (
        f"{name}: {_count(summary, 'ticks')}{note}, {_count(summary, 'elements')}, "
        f"{_count(summary, 'predictions')}, {_count(summary, 'labels')}"
    )


def _count(summary: dict[str, Any], things: str) -> str:
    count = summary[things]
    return f"{count:,} {things.removesuffix('s') if count == 1 else things}"


def details(summary: dict[str, Any]) -> list[str]:
    """Return the lines that tell of updates, gaps and time, each only where there is something."""
    lines = []
    if summary["learn"]:
        refused = summary["updates_refused"]
        lines.append(
            f"updates: {summary['updates']:,}" + (f", {refused:,} refused" * (refused > 0))
        )
    if summary["gaps"]:
        lines.append(f"gaps: {summary['gaps']:,}, {summary['missed']:,} ticks missed")
    if summary["expired"]:
        lines.append(f"predictions that expired without a label: {summary['expired']:,}")
    rate = summary["elements_per_s"]
    speed = f", {rate:,.0f} elements/s" if rate else ""
    lines.append(f"{summary['wall_s']:.2f} s{speed}; compiled in {summary['compile_s']:.2f} s")
    return lines


def verdict(summary: dict[str, Any]) -> str:
    """Return one plain sentence about what the figures say."""
    if not summary["predictions"]:
        return _why_none(summary)
    if not summary["labels"]:
        return "no scores: no prediction has its label yet"
    if summary.get("base_rate") in (0.0, 1.0):
        return _one_class(summary)
    few = "" if summary["labels"] >= FEW else f" ({_count(summary, 'labels')}: too few to tell)"
    return _comparison(summary) + few


def _one_class(summary: dict[str, Any]) -> str:
    label = int(summary["base_rate"])
    what = "is always" if label else "is never"
    return (
        f"every label is {label}: the target {what} above zero, and there is nothing to tell "
        "apart; the target is the first feature, usually a difference or a return"
    )


def _comparison(summary: dict[str, Any]) -> str:
    if summary["log_loss"] >= math.log(2):
        return f"the model's log loss is no lower than a coin's, {math.log(2):.4f}"
    plain = {title: summary[prefix + "log_loss"] for title, prefix in COLUMNS.items() if prefix}
    better = [title for title, loss in plain.items() if summary["log_loss"] < loss]
    if len(better) == len(plain):
        return "the model's log loss is lower than that of both plain forecasters"
    if better:
        other = next(title for title in plain if title not in better)
        return f"the model's log loss is lower than the {better[0]}'s, not than the {other}'s"
    return "the model's log loss is not lower than that of either plain forecaster"


def _why_none(summary: dict[str, Any]) -> str:
    if not summary["ticks"]:
        return "no predictions: there were no ticks"
    if summary["refused_ticks"] == summary["ticks"]:
        return "no predictions: every tick was refused"
    window = summary["window"]
    if summary["streams"] == 1:
        have = f"the series has {_count(summary, 'elements')}"
        return f"no predictions: {have} and the warm-up is {window:,}"
    return f"no predictions: no series has reached the warm-up of {window:,} elements"
