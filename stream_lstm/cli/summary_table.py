"""The closing summary as people read it: counts, a small table, and one plain sentence."""

from __future__ import annotations

from typing import Any

from ..core.verdict import count
from ..quoting import printable

COLUMNS = {"model": "", "base rate": "base_rate_", "last label": "last_label_"}
FIGURES = {
    "accuracy": "accuracy",
    "log loss (nats)": "log_loss",
    "Brier score": "brier",
    "area under the curve": "auc",
    "kappa": "kappa",
    "calibration error": "ece",
}

ASIDES = {"not recalibrated": "raw_", "frozen twin": "frozen_", "stateless twin": "stateless_"}
"""Further forecasts, where they were asked for."""

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
    console.print(printable(counts(summary)))
    if summary["labels"]:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        table.add_column("")
        columns = _columns(summary)
        for title in columns:
            table.add_column(title, justify="right")
        for title, figure in FIGURES.items():
            table.add_row(title, *(_cell(summary.get(p + figure)) for p in columns.values()))
        console.print(table, width=TABLE_WIDTH)
    if summary["labels"] and "experts" in summary:
        console.print(_experts_table(summary["experts"]), width=TABLE_WIDTH)
    check = state_lines(summary["state_check"]) if "state_check" in summary else ()
    for line in (*_more(summary), *best_lines(summary), *details(summary), *check):
        console.print(printable(line))
    console.print(printable(summary["verdict"]))


def _cell(figure: float | None) -> str:
    return "-" if figure is None else f"{figure:.4f}"


def _more(summary: dict[str, Any]) -> list[str]:
    """Return how sure the accuracy is, and the scores of the last labels where they differ."""
    if not summary["labels"]:
        return []
    low, high = summary["accuracy_band"]
    lines = [f"accuracy with 95 % at every look: between {low:.4f} and {high:.4f}"]
    recent = summary["rolling"]
    if recent is not None and recent["labels"] < summary["labels"]:
        figures = f"accuracy {recent['accuracy']:.4f}, log loss {recent['log_loss']:.4f}"
        base = f"base rate {recent['base_rate_accuracy']:.4f}, {recent['base_rate_log_loss']:.4f}"
        lines.append(f"of the last {count(recent['labels'], 'labels')}: {figures}; {base}")
    return lines


def _columns(summary: dict[str, Any]) -> dict[str, str]:
    """Return {title: prefix} of the forecasters: the model, the plain ones, and what was asked."""
    asked = {title: p for title, p in ASIDES.items() if p + "accuracy" in summary}
    return COLUMNS | asked


def _labels(summary: dict[str, Any]) -> list[str]:
    """Return what became of labels from outside that were not scored."""
    words = {
        "repeated": "repeated",
        "disagreeing": "disagreeing",
        "late": "too late",
        "unknown": "of no known prediction",
        "bad": "no class",
    }
    told = {words[k]: summary.get(f"labels_{k}", 0) for k in words}
    column = summary.get("label_column") or {}
    told |= {"missing in the file": column.get("missing", 0)}
    told |= {"not come by the end": column.get("undelivered", 0)}
    parts = [f"{number:,} {what}" for what, number in told.items() if number]
    return [f"labels that were not scored: {', '.join(parts)}"] if parts else []


def _experts_table(experts: dict[str, dict[str, float]]) -> Any:
    """Return the members of a bank, best first."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for title in ("expert", "weight", "log loss (nats)"):
        table.add_column(title, justify="left" if title == "expert" else "right")
    for name, figures in sorted(experts.items(), key=lambda item: item[1]["log_loss"]):
        table.add_row(printable(name), f"{figures['weight']:.4f}", f"{figures['log_loss']:.4f}")
    return table


def counts(summary: dict[str, Any]) -> str:
    """Return one line of what came in and what went out."""
    streams = summary["streams"]
    name = summary.get("stream") or f"{streams:,} stream{'' if streams == 1 else 's'}"
    refused = summary["refused_ticks"]
    note = f" ({refused:,} refused)" if refused else ""
    came, stepped, made, scored = (
        count(summary[things], things) for things in ("ticks", "elements", "predictions", "labels")
    )
    return f"{name}: {came}{note}, {stepped}, {made}, {scored}"


def _refused(summary: dict[str, Any]) -> str:
    """Return how many updates were refused and why, "" where none was."""
    words = {
        "updates_not_finite": "not finite",
        "updates_too_large": "too large",
        "weights_too_large": "weights too large",
    }
    why = ", ".join(f"{summary[k]:,} {what}" for k, what in words.items() if summary[k])
    return f", {summary['updates_refused']:,} refused ({why})" if why else ""


def details(summary: dict[str, Any]) -> list[str]:
    """Return the lines that tell of updates, gaps and time, each only where there is something."""
    lines = _labels(summary)
    if summary["learn"]:
        lines.append(f"updates: {summary['updates']:,}{_refused(summary)}")
    if summary["rollbacks"]:
        times = count(summary["rollbacks"], "times")
        rested = f"learning rested for {count(summary['updates_rested'], 'labels')}"
        lines.append(f"learning was rolled back {times}; {rested}")
    if summary["old_ticks"]:
        came = count(summary["old_ticks"], "ticks")
        lines.append(f"old by their times, or repeated (--on-old-time): {came}")
    if summary["gaps"]:
        lines.append(f"gaps: {summary['gaps']:,}, {summary['missed']:,} ticks missed")
    if summary["expired"]:
        lines.append(f"predictions that expired without a label: {summary['expired']:,}")
    if held := summary.get("store", {}).get("held_elements"):
        new = summary["elements"] - held
        lines.append(f"the store held {count(held, 'elements')} of them, {new:,} are new")
    rate = summary["elements_per_s"]
    speed = f", {rate:,.0f} elements/s" if rate else ""
    lines.append(f"{summary['wall_s']:.2f} s{speed}; compiled in {summary['compile_s']:.2f} s")
    return lines
