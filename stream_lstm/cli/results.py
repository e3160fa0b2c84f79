"""The summary of a replay or a daemon, in words."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..quoting import count
from ..serve.service import refused_peers
from .console import columns

FORECASTERS = {"model": "", "base rate": "base_rate_", "last label": "last_label_"}
REQUESTED = {"not recalibrated": "raw_", "frozen twin": "frozen_", "stateless twin": "stateless_"}
"""Titles and key prefixes of the forecasts, and of further ones on request."""

FIGURES = {
    "accuracy": "accuracy",
    "log loss (nats)": "log_loss",
    "Brier score": "brier",
    "area under the curve": "auc",
    "kappa": "kappa",
    "calibration error": "ece",
}

NOT_SCORED = {
    "labels_repeated": "repeated",
    "labels_disagreeing": "disagreeing",
    "labels_late": "too late",
    "labels_unknown": "of no known prediction",
    "labels_bad": "no class",
}

REFUSED_UPDATES = {
    "updates_not_finite": "not finite",
    "updates_too_large": "too large",
    "weights_too_large": "weights too large",
}

FEED = {
    "refused": ("message", "refused"),
    "repeats": ("tick", "repeated"),
    "old": ("tick", "too late"),
    "recovered": ("tick", "recovered"),
    "gone": ("tick", "requested and gone"),
    "timeouts": ("request", "unanswered"),
    "stale": ("time", "silent"),
    "takeovers": ("stream", "taken over"),
}


def summary_lines(summary: dict[str, Any]) -> Iterator[str]:
    """Yield the summary of `core.summary.summarize`: counts, tables, and one plain sentence."""
    yield counts(summary)
    if "read" in summary:
        yield what_was_read(summary["read"])
    if summary["labels"]:
        asked = {title: p for title, p in REQUESTED.items() if p + "accuracy" in summary}
        prefixes = FORECASTERS | asked
        yield ""
        yield from columns(
            [
                ["", *prefixes],
                *(
                    [title, *(_cell(summary.get(p + figure)) for p in prefixes.values())]
                    for title, figure in FIGURES.items()
                ),
            ]
        )
        yield ""
        if "experts" in summary:
            yield from _experts(summary["experts"])
            yield ""
        yield from _confidence(summary)
    yield from _best(summary)
    yield from details(summary)
    if "state_check" in summary:
        yield from state_lines(summary["state_check"])
    yield from summary.get("notes", ())
    yield summary["verdict"]


def counts(summary: dict[str, Any]) -> str:
    """Return one line of what came in and what went out."""
    streams = summary["streams"]
    name = summary.get("stream") or f"{streams:,} stream{'' if streams == 1 else 's'}"
    refused = summary["refused_ticks"]
    note = f" ({refused:,} refused)" if refused else ""
    ticks, *others = (
        count(summary[things], things) for things in ("ticks", "elements", "predictions", "labels")
    )
    return f"{name}: {ticks}{note}, {', '.join(others)}"


def what_was_read(read: dict[str, Any]) -> str:
    """Return one line of what was read of a file."""
    parts = [] if read["form"] is None else [read["form"]]
    parts += [] if read["first"] is None else [f"{read['first']} to {read['last']} UTC"]
    head = f"{count(read['rows'], 'rows')} of {read['file']}"
    return f"{head}: {', '.join([*parts, *read['columns']])}"


def _cell(figure: float | None) -> str:
    return "-" if figure is None else f"{figure:.4f}"


def _experts(experts: dict[str, dict[str, float]]) -> list[str]:
    """Return the members of a bank, best first."""
    members = sorted(experts.items(), key=lambda item: item[1]["log_loss"])
    rows = [[name, _cell(one["weight"]), _cell(one["log_loss"])] for name, one in members]
    return columns([["expert", "weight", "log loss (nats)"], *rows])


def _confidence(summary: dict[str, Any]) -> Iterator[str]:
    """Yield the band of the accuracy, and the scores of the last labels where they differ."""
    low, high = summary["accuracy_band"]
    yield f"accuracy, anytime-valid 95 % band: {low:.4f} to {high:.4f}"
    recent = summary["rolling"]
    if recent is not None and recent["labels"] < summary["labels"]:
        figures = f"accuracy {recent['accuracy']:.4f}, log loss {recent['log_loss']:.4f}"
        base = f"base rate {recent['base_rate_accuracy']:.4f}, {recent['base_rate_log_loss']:.4f}"
        yield f"last {count(recent['labels'], 'labels')}: {figures}; {base}"


def _best(summary: dict[str, Any]) -> Iterator[str]:
    """Yield the best possible figures of a synthetic stream."""
    if summary.get("best_accuracy") is None:
        return
    accuracy, loss = summary["best_accuracy"], summary["best_log_loss"]
    yield f"best possible on these labels: accuracy {accuracy:.4f}, log loss {loss:.4f}"
    queries = summary["query_labels"]
    if 0 < queries < summary["labels"]:
        yield (
            f"on the {queries:,} predictable labels: accuracy {summary['query_accuracy']:.4f}, "
            f"at best {summary['best_query_accuracy']:.4f}"
        )


def details(summary: dict[str, Any]) -> Iterator[str]:
    """Yield the lines about labels, updates, gaps and time, each only if it has content."""
    missed = {what: summary.get(key, 0) for key, what in NOT_SCORED.items()}
    column = summary.get("label_column") or {}
    missed |= {"missing in the file": column.get("missing", 0)}
    missed |= {"not due by the end": column.get("undelivered", 0)}
    if parts := [f"{number:,} {what}" for what, number in missed.items() if number]:
        yield f"labels that were not scored: {', '.join(parts)}"
    if summary["learn"]:
        why = ", ".join(f"{summary[k]:,} {w}" for k, w in REFUSED_UPDATES.items() if summary[k])
        refused = f", {summary['updates_refused']:,} refused ({why})" if why else ""
        yield f"updates: {summary['updates']:,}{refused}"
    if summary["rollbacks"]:
        paused = f"learning paused for {count(summary['updates_rested'], 'labels')}"
        yield f"learning was rolled back {count(summary['rollbacks'], 'times')}; {paused}"
    if summary["old_ticks"]:
        old = count(summary["old_ticks"], "ticks")
        yield f"old or repeated by their times (--on-old-time): {old}"
    if summary["gaps"]:
        yield f"gaps: {summary['gaps']:,}, {summary['missed']:,} ticks missed"
    if summary["pauses"]:
        yield f"pauses in the times of the ticks (--pause): {summary['pauses']:,}"
    if summary["expired"]:
        yield f"predictions that expired without a label: {summary['expired']:,}"
    if held := summary.get("store", {}).get("held_elements"):
        new = summary["elements"] - held
        yield f"of them, {count(held, 'elements')} were in the store and {new:,} are new"
    rate = summary["elements_per_s"]
    speed = f", {rate:,.0f} elements/s" if rate else ""
    yield f"{summary['wall_s']:.2f} s{speed}; compiled in {summary['compile_s']:.2f} s"


def feed_lines(summary: dict[str, Any]) -> Iterator[str]:
    """Yield what was wrong with a daemon's feed, and the peers that were refused."""
    faults = [
        f"{number:,} {noun}{'' if number == 1 else 's'} {what}"
        for key, (noun, what) in FEED.items()
        if (number := summary["feed"][key])
    ]
    if faults:
        yield f"feed: {', '.join(faults)}"
    yield from peer_lines(summary["refused_peers"])


def peer_lines(refused: dict[str, int]) -> Iterator[str]:
    """Yield the number of peers that were refused, if any."""
    if refused:
        yield f"peers refused: {refused_peers(refused)}"


def state_lines(check: dict[str, Any]) -> Iterator[str]:
    """Yield the record of a state check."""
    yield f"state check, {check['predictions']:,} predictions, {check['labels']:,} labels:"
    yield from _states(check, "  ")
    queries = check["queries"]
    if queries is not None and 0 < queries["labels"] < check["labels"]:
        yield f"  on the {queries['labels']:,} predictable labels:"
        yield from _states(queries, "    ")
    if check["predictions"]:
        yield (
            f"  difference of p: {check['mean_abs_dp']:.2g} on average, "
            f"{check['max_abs_dp']:.2g} at most (after element {check['max_abs_dp_n']:,})"
        )
    found = check["forgetting"]
    if found["positions"]:
        limit = f"not within {found['limit']:,}"
        median, most = (limit if found[k] is None else f"{found[k]:,}" for k in ("median", "max"))
        yield (
            f"  elements until other starting states agree: {median} (median), {most} "
            f"(most), from {found['positions']:,} positions"
        )
    yield f"  {check['verdict']}"


def _states(part: dict[str, Any], indent: str) -> Iterator[str]:
    """Yield the three states, each with its excess loss over the carried one."""
    if not part["labels"]:
        return
    for name in ("carried", "windowed", "fresh"):
        line = f"{indent}{name}: accuracy {part[name]['accuracy']:.4f}, "
        line += f"log loss {part[name]['log_loss']:.4f}"
        if (band := part.get(f"{name}_more")) is not None:
            line += f", {band['mean']:+.4f} (95 % band {band['low']:.4f} to {band['high']:.4f})"
        yield line
