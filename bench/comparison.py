"""Ours and the peers in one run, each in a process of its own, and what each is of ours.

`of ours` is the first figure of a subject over that of `ours` in the same repeat. A peer that is
not installed, or whose numbers are wrong, has a note in the place of figures.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from typing import Any

from .peers.registry import PEERS, missing
from .report import fresh, medians

Runs = dict[tuple[str, str], list[dict[str, Any]]]


def compare(
    kind: str, subjects: Sequence[str], options: dict[str, Any], repeats: int
) -> dict[str, dict[str, Any]]:
    """Return {way and subject: figures} of `subjects` of `bench.KIND` and of the peers in it."""
    peers = {name: missing(peer) for name, peer in PEERS.items() if kind in peer.kinds}
    notes = {name: note for name, note in peers.items() if note}
    runs: Runs = {}
    with tempfile.TemporaryDirectory() as folder:
        fresh("bench.ours", folder)
        told = folder, json.dumps(options)
        for _ in range(repeats):
            found: dict[tuple[str, str], dict[str, Any]] = {}
            for subject in subjects:
                for way, rows in fresh(f"bench.{kind}", subject, *told).items():
                    found |= {(way, name): figures for name, figures in rows.items()}
            for name in peers:
                if name in notes:
                    continue
                figures = fresh("bench.peers", name, kind, *told)
                if "note" in figures:
                    notes[name] = figures["note"]
                else:
                    found |= {(way, name): row for way, row in figures.items()}
            for key, figures in of_ours(found).items():
                runs.setdefault(key, []).append(figures)
    return table_rows(runs, notes)


def of_ours(found: dict[tuple[str, str], dict[str, Any]]) -> dict[tuple[str, str], dict[str, Any]]:
    """Return the figures of one repeat with their first one's ratio to ours added.

    A row whose name has a stroke is a ratio already. Where `ours` has no such way, the ratio is to
    its first one.
    """
    shares = {}
    first_of_ours = next(figures for (_, name), figures in found.items() if name == "ours")
    for (way, name), figures in found.items():
        if " / " in name:
            shares[way, name] = figures
            continue
        first = next(iter(figures))
        ours = found.get((way, "ours"), first_of_ours)
        if first not in ours:
            shares[way, name] = figures
            continue
        ratio = round(figures[first] / ours[first], 3)
        shares[way, name] = figures | {"of ours": ratio}
    return shares


def table_rows(runs: Runs, notes: dict[str, str]) -> dict[str, dict[str, Any]]:
    """Return the medians, a way's rows together, and a line for each peer that has none."""
    ordered = sorted(runs, key=lambda key: [way for way, _ in runs].index(key[0]))
    rows = {
        ", ".join(part for part in key if part): medians(runs[key])
        for key in ordered
        if key[1] not in notes
    }
    return rows | {name: {"note": note} for name, note in notes.items()}
