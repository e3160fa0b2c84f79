"""Faults, injected and counted: kills, losses, damage, floods, poison. Figures, not times.

Each part takes a count, which `--count` scales: 1 is the full count, 0.01 a quick
look. What must be 0 in each row is `differing`, `lost`, `wrong`, `let_in`, `deaths` and
`other_errors`.

    python -m bench faults --only kill,schedules --count 0.1
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from . import (
    faults_altered,
    faults_decoder,
    faults_kill,
    faults_learning,
    faults_peers,
    faults_recovery,
    faults_security,
    faults_slow,
    faults_store,
)

Figures = dict[str, Any]

PARTS: dict[str, tuple[int, Callable[[int], Figures]]] = {
    "kill": (300, faults_kill.kills),
    "schedules": (10_000, lambda count: faults_recovery.schedules(count, 0)),
    "decoder": (10_000_000, faults_decoder.payloads),
    "write errors": (300, faults_store.write_errors),
    "cells": (2_000, faults_altered.cells),
    "bytes": (5_000, faults_altered.altered_bytes),
    "late joins": (200, lambda count: faults_recovery.late_joins(count, 0)),
    "slow subscriber": (3, faults_slow.slow_subscriber),
    "keys": (1_000, faults_security.keys_refused),
    "subscription flood": (3, faults_security.subscription_flood),
    "endless message": (3, faults_security.endless_multipart),
    **{f"peers {where}": (100, faults_peers.peers(where)) for where in faults_peers.TARGETS},
}
"""The counts of `--count 1`, and what takes them."""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add what can be chosen on the command line."""
    names = ", ".join([*PARTS, "learning"])
    parser.add_argument(
        "--count", type=float, default=1.0, help="share of the counts of each part (1)"
    )
    parser.add_argument("--only", type=_parts, default=None, help=f"of faults: {names} (all)")


def _parts(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in PARTS and name != "learning":
            raise argparse.ArgumentTypeError(
                f"{name!r} is not a part: use {', '.join([*PARTS, 'learning'])}"
            )
    return names


def run(options: argparse.Namespace) -> dict[str, Figures]:
    """Return {part: figures}."""
    rows: dict[str, Figures] = {}
    for name in options.only or [*PARTS, "learning"]:
        if name == "learning":
            rows |= {f"learning, {what}": row for what, row in faults_learning.figures().items()}
            continue
        full, part = PARTS[name]
        rows[name] = part(max(1, round(full * options.count)))
    return rows


def show(rows: dict[str, Figures]) -> str:
    """Return the figures of each part in a line of their own: parts have little in common."""
    return "\n".join(
        f"* {name}: " + ", ".join(f"{key} {value}" for key, value in row.items())
        for name, row in rows.items()
    )
