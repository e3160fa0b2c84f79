"""What benchmarks share: percentiles, medians over repeats, fresh processes, tables."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "pyzmq", "msgspec")

PEER_PACKAGES = ("numba", "onnxruntime", "torch", "keras", "river", "deep-river")
"""Told where they are installed."""

QUANTILES = {"p50": 50.0, "p90": 90.0, "p99": 99.0, "p99.9": 99.9}


def percentiles(nanoseconds: Sequence[int]) -> dict[str, float]:
    """Return percentiles in microseconds of durations in nanoseconds."""
    us = np.asarray(nanoseconds, np.float64) / 1e3
    return {name: round(float(np.percentile(us, q)), 2) for name, q in QUANTILES.items()}


def medians(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the median of each figure that all runs have, with the spread of the first one."""
    keys = [key for key in runs[0] if all(key in run for run in runs)]
    first = next(iter(keys))
    spread = [run[first] for run in runs]
    out: dict[str, Any] = {k: round(statistics.median(run[k] for run in runs), 3) for k in keys}
    return out | {"runs": len(runs), f"{first} spread": f"{min(spread)}-{max(spread)}"}


def fresh(module: str, *arguments: str) -> dict[str, Any]:
    """Run `python -m module arguments` in a process of its own; return the JSON it prints."""
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments], stdout=subprocess.PIPE, check=True, text=True
    )
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def machine() -> dict[str, Any]:
    """Return what the figures depend on."""
    versions = {name: version(name) for name in PACKAGES} | _peers()
    cpu = _cpu()
    text = f"{cpu}, {os.cpu_count()} cores, Python {platform.python_version()}, " + ", ".join(
        f"{name} {number}" for name, number in versions.items()
    )
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "versions": versions,
        "text": text,
    }


def _peers() -> dict[str, str]:
    found = {}
    for name in PEER_PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def _cpu() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            names = [line.split(":", 1)[1].strip() for line in lines if "model name" in line]
    except OSError:
        names = []
    return names[0] if names else platform.machine()


def table(rows: dict[str, dict[str, Any]]) -> str:
    """Return rows {subject: {figure: value}} as a Markdown table."""
    columns = list(dict.fromkeys(key for row in rows.values() for key in row))
    lines = ["| subject | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for subject, row in rows.items():
        lines.append(f"| {subject} | " + " | ".join(str(row.get(c, "")) for c in columns) + " |")
    return "\n".join(lines)
