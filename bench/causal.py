"""Nothing looks ahead: `stream-lstm prove causal` over public series, learning or not.

Each row is one proof in a process of its own: 200 random places, five other futures at each, none
at all, and the one that came. `differing` must be 0 everywhere, and no column may know the label.
`digest` is that of a replay of the same ticks. Learning steps a million ticks in minutes, so there
the quotes are cut at 200,000; without it the series are whole.

    python -m bench causal --places 200
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from .report import fresh

SERIES: dict[str, tuple[str, ...]] = {
    "eurusd_quotes.csv.gz": ("log_return(mid(bid, ask))",),
    "ibm_trades.csv.gz": ("log_return(price)",),
    "btcusdt_book.csv.gz": ("log_return(mid(bid_px, ask_px))", "imbalance(bid_qty, ask_qty)"),
    "btcusdt_trades.csv.gz": ("log_return(price)",),
    "gbpusd_minutes.csv.gz": ("log_return(close)",),
    "nyc_taxi.csv": ("diff(value)",),
    "machine_temperature.csv": ("diff(value)",),
    "elec2.csv.gz": ("diff(nswprice)", "nswprice", "nswdemand"),
}
"""The features of each series, the target first."""

LEARN_LIMIT = 200_000

KEPT = ("ticks", "trials", "comparisons", "bytes_compared")

COMMAND = "from stream_lstm.cli.main import main; main()"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add what can be chosen on the command line."""
    parser.add_argument("--places", type=int, default=200, help="places a series of causal (200)")


def run(options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Return {series and mode: figures}."""
    rows: dict[str, dict[str, Any]] = {}
    for learn in (False, True):
        for name in SERIES:
            subject = f"{name.split('.')[0]}{', learning' * learn}"
            rows[subject] = fresh("bench.causal", name, str(options.places), str(int(learn)))
            print(f"{subject}: {rows[subject]}", file=sys.stderr, flush=True)
    return rows


def one(name: str, places: int, learn: bool) -> dict[str, Any]:
    """Prove one series, and return its figures."""
    folder = os.environ.get("STREAM_LSTM_DATA") or Path(__file__).parents[2] / "shared" / "data"
    file = Path(folder) / name
    if not file.exists():
        return {"missing": str(file)}
    line = [sys.executable, "-c", COMMAND, "prove", "causal", str(file), "--json"]
    line += [word for feature in SERIES[name] for word in ("--feature", feature)]
    line += ["--trials", str(places)]
    if learn:
        line += ["--learn", "--limit", str(LEARN_LIMIT)]
    done = subprocess.run(line, check=False, stdout=subprocess.PIPE, text=True)
    found = json.loads(done.stdout)
    return {
        "exit code": done.returncode,
        **{key: found[key] for key in KEPT},
        "differing": sum(stage["differing"] for stage in found["stages"].values()),
        "knowing columns": len(found["foreknowing"]),
        "seconds": round(found["wall_s"], 1),
        "digest": found["digest"][:16],
    }


if __name__ == "__main__":
    name, places, learn = sys.argv[1:]
    print(json.dumps(one(name, int(places), learn == "1")))
