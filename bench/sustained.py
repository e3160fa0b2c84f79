"""The highest rate that the daemon keeps up with for good, learning off.

As single messages and as blocks of 256 ticks. A flood, sent as fast as the sender can, tells about
how much the subject gets through; then rates below it are sent in an open loop, each in fresh
processes, until the delays do not grow from the second to the last quarter of the run by more
than 2 % of the time: `bench.schedule.growing`. `ticks_per_s` is that rate, `flood` the first
figure, `sender` what the sender got rid of in the flood: if it does not exceed `flood`, the
sender was measured. A plain echo goes through the same.
"""

from __future__ import annotations

import argparse
from typing import Any

from .exchange import exchange
from .report import medians
from .schedule import growing

BLOCKS = (1, 256)
FLOOD = {1: 100_000, 256: 4_000}
"""Messages of a flood."""

SHARES = (0.95, 0.9, 0.85, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1)
"""Of what a flood shows, to be tried one after the other."""

SUBJECTS: dict[str, list[str] | None] = {"echo": None, "ours": []}


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add what can be chosen on the command line."""
    parser.add_argument("--probe", type=float, default=3.0, help="seconds of a rate's trial (3)")
    parser.add_argument(
        "--flood", type=float, default=1.0, help="of sustained, 1 being 100,000 messages (1)"
    )


def run(options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Return {block and subject: figures}."""
    rows: dict[str, list[dict[str, Any]]] = {}
    for _ in range(options.repeats):
        for block in BLOCKS:
            for name, flags in SUBJECTS.items():
                what = "single messages" if block == 1 else f"blocks of {block}"
                found = highest(flags, block, options)
                rows.setdefault(f"{what}, {name}", []).append(found)
    return {name: medians(runs) for name, runs in rows.items()}


def highest(
    flags: list[str] | None, block: int, options: argparse.Namespace
) -> dict[str, float | int]:
    """Return the figures of one subject with messages of `block` ticks."""
    messages = max(200, int(FLOOD[block] * options.flood))
    flood = exchange({"way": "flood", "block": block, "messages": messages}, flags)
    base = {"way": "open", "block": block, "seconds": options.probe}
    for share in SHARES:
        trial = exchange(base | {"rate": flood.rate * share}, flags)
        if not growing(trial.intended, trial.delays):
            break
    else:
        share = 0.0
    return {
        "ticks_per_s": round(flood.rate * share),
        "flood": round(flood.rate),
        "sender": round(messages * block / flood.sender_s),
        "lost": flood.lost,
    }
