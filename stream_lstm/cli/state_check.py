"""`replay --state-check`: what carrying the state changes, as people read it."""

from __future__ import annotations

from typing import Annotated, Any, TypeAlias

import typer

from ..config import Config
from ..errors import UsageError

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
        return f"windows of {window:,} give the same predictions, so carrying it gains nothing"
    if not check["labels"]:
        return f"windows of {window:,} give other predictions, and there was no label to judge by"
    gain = check["windowed"]["log_loss"] - check["carried"]["log_loss"]
    if abs(gain) < SAME / 2:
        return f"carrying it scores as windows of {window:,} do"
    word = "lower" if gain > 0 else "higher"
    return f"carrying it gives a log loss {abs(gain):.4f} nats {word} than windows of {window:,}"


def state_lines(check: dict[str, Any]) -> list[str]:
    """Return the lines that tell of a state check."""
    lines = [f"state check, {check['predictions']:,} predictions, {check['labels']:,} labels:"]
    if check["labels"]:
        lines += [
            f"  {name}: accuracy {check[name]['accuracy']:.4f}, "
            f"log loss {check[name]['log_loss']:.4f}"
            for name in ("carried", "windowed")
        ]
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
