"""What carrying the state changes, as people read it: `prove state` and `replay --state-check`."""

from __future__ import annotations

from typing import Annotated, Any, TypeAlias

import typer

from ..config import Config
from ..errors import UsageError
from .input_file import InputFile
from .synthetic_input import TICKS, SyntheticInput

StateCheckOption: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--state-check",
        help="Also predict from windows, with the weights as they are, and tell how far that "
        "differs from carrying the state and how soon the state forgets its start.",
    ),
]

SAME = 1e-4
"""Probabilities closer than this are the same to anyone who acts on them."""


def check_frozen(config: Config) -> None:
    """Raise UsageError where the weights would not stay as they are."""
    if config.learning.learn:
        raise UsageError(
            "--state-check compares predictions of weights that stay as they are; leave out "
            "--learn, or save what was learnt (--save-weights) and check that (--weights)"
        )


def queries_of(file: InputFile, config: Config) -> Any:
    """Return which labels of a synthetic stream are no coins, (n,); None where nobody knows."""
    if not isinstance(file, SyntheticInput):
        return None
    source = file.source()
    if config.stream.features[0] != source.columns[0] or config.stream.horizon != 1:
        return None
    values = source.block(TICKS if file.limit is None else file.limit)
    return source.best(values) != 0.5


def verdict(check: dict[str, Any]) -> str:
    """Return one plain sentence about the record of a `StateCheck`."""
    return f"{_memory(check)}; {_difference(check)}"


def _memory(check: dict[str, Any]) -> str:
    found = check["forgetting"]
    limit, positions, longer = found["limit"], found["positions"], found["not_within_limit"]
    if not positions:
        need = check["window"] + limit
        return f"the series is too short to see what the state remembers ({need:,} elements)"
    if longer == positions:
        return f"the state remembers its start for more than {limit:,} elements"
    if longer:
        return (
            f"the state remembers its start for more than {limit:,} elements at {longer:,} of "
            f"{positions:,} positions"
        )
    return f"the state has forgotten its start after {found['max']:,} elements at most"


def _difference(check: dict[str, Any]) -> str:
    if not check["predictions"]:
        return "there were no predictions to compare"
    window = check["window"]
    if check["max_abs_dp"] < SAME:
        return (
            f"carrying it does not matter here: windows of {window:,} give the same predictions "
            f"(within {check['max_abs_dp']:.1g})"
        )
    if not check["labels"]:
        return f"windows of {window:,} give other predictions, and there was no label to judge by"
    told = judged(check["windowed_more"], f"than from windows of {window:,}")
    queries = check["queries"]
    if queries is None or not 0 < queries["labels"] < check["labels"]:
        return told
    asked = judged(queries["windowed_more"], f"than from windows of {window:,}")
    return f"{told}; on the {queries['labels']:,} labels that are no coins {asked}"


def effect(check: dict[str, Any]) -> str:
    """Return `helps`, `hurts`, `does not matter` or, without labels, `unknown`.

    Where some labels are no coins, they decide.
    """
    if check["predictions"] and check["max_abs_dp"] < SAME:
        return "does not matter"
    asked = check["queries"]
    band = (asked if asked is not None and asked["labels"] else check)["windowed_more"]
    if band["mean"] is None:
        return "unknown"
    return "helps" if band["low"] > 0 else "hurts" if band["high"] < 0 else "does not matter"


def judged(band: dict[str, float], than: str) -> str:
    """Return what a band of how much more another state loses says of the carried one."""
    low, high, plain = band["low"], band["high"], band["log_loss"]
    word = "lower" if plain >= 0 else "higher"
    loss = f"log loss {abs(plain):.4f} {word} {than}"
    cut = f", {band['cut']:,} differences cut at 1 nat" if band["cut"] else ""
    where = f"(windowed less carried: {band['mean']:+.4f}, band {low:+.4f} to {high:+.4f}{cut})"
    if low > 0:
        return f"carried state helps here: {loss} {where}"
    if high < 0:
        return f"carried state hurts here: {loss} {where}"
    return f"carrying it does not matter here that these labels could show: {loss} {where}"


def state_lines(check: dict[str, Any]) -> list[str]:
    """Return the lines that tell of a state check."""
    lines = [f"state check, {check['predictions']:,} predictions, {check['labels']:,} labels:"]
    lines += _scores(check, "  ")
    asked = check["queries"]
    if asked is not None and 0 < asked["labels"] < check["labels"]:
        lines.append(f"  on the {asked['labels']:,} labels that are no coins:")
        lines += _scores(asked, "    ")
    if check["predictions"]:
        lines.append(
            f"  difference of p: {check['mean_abs_dp']:.2g} on average, "
            f"{check['max_abs_dp']:.2g} at most (after element {check['max_abs_dp_n']:,})"
        )
    found = check["forgetting"]
    if found["positions"]:
        limit = f"not within {found['limit']:,}"
        shown = [limit if found[k] is None else f"{found[k]:,}" for k in ("median", "max")]
        lines.append(
            f"  elements until other starting states agree: {shown[0]} (median), {shown[1]} "
            f"(most), from {found['positions']:,} positions"
        )
    return [*lines, f"  {check['verdict']}"]


def _scores(part: dict[str, Any], indent: str) -> list[str]:
    """Return the lines of the three states, each with its band above the carried one."""
    if not part["labels"]:
        return []
    lines = []
    for name in ("carried", "windowed", "fresh"):
        line = f"{indent}{name}: accuracy {part[name]['accuracy']:.4f}, "
        line += f"log loss {part[name]['log_loss']:.4f}"
        if (band := part.get(f"{name}_more")) is not None:
            line += f", {band['mean']:+.4f} (95 % band {band['low']:.4f} to {band['high']:.4f})"
        lines.append(line)
    return lines
