"""Labels that come late: what learning loses by the delay, and that scoring loses nothing.

Elec2 with the file's own labels (features of the row, the row's label) and EUR/USD mid returns
(the sign of the next one, given as a label from outside), each an online pass of one network for
every delay, in elements, in order and shuffled within the delay (each drawn from 0 to it). Only
the predictions that have their label under every delay are compared. `differing` counts those
whose p or label is another than in order without delay, when nothing is learned: it must be 0.
`learned twice` counts the predictions that more than one update was made for.

    python -m bench delays --json
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from stream_lstm.config import build
from stream_lstm.core.replay import LateLabels
from stream_lstm.core.session import Session
from stream_lstm.events import Output, Score, Ticks, Update

from .report import fresh

DELAYS = (0, 1, 100, 10_000)
PRICES = ("nswprice", "nswdemand", "vicprice", "vicdemand", "transfer")
SERIES: dict[str, dict[str, Any]] = {
    "elec2": {"features": PRICES, "stride": 1, "horizon": 0, "scaling": "zscore", "gain": 1.0},
    "eurusd": {"features": ("x",), "horizon": 1},
}
BLOCK = 4096


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add what can be chosen on the command line."""
    parser.add_argument("--rows", type=int, default=200_000, help="of a series of delays")


def run(options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Return {series, delay and order: figures}."""
    rows = {}
    for name in SERIES:
        for delay in DELAYS:
            for order in ("in order", "shuffled")[: 1 + (delay > 1)]:
                args = name, str(delay), order, str(options.rows)
                rows[f"{name}, {delay:,}, {order}"] = fresh("bench.delays", *args)
    return rows


def series(name: str, limit: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the values (n, C) of a series and the label (n,) in each row."""
    import pyarrow.csv

    folder = os.environ.get("STREAM_LSTM_DATA") or Path(__file__).parents[2] / "shared" / "data"
    if name == "elec2":
        table = pyarrow.csv.read_csv(Path(folder) / "elec2.csv.gz").slice(0, limit)
        values = np.column_stack([table[c].to_numpy() for c in PRICES]).astype(np.float64)
        return values, table["up"].to_numpy().astype(np.float64)
    table = pyarrow.csv.read_csv(Path(folder) / "eurusd_quotes.csv.gz")
    price = (table["bid"].to_numpy() + table["ask"].to_numpy()) / 2
    x = np.diff(np.log(price))[:limit, None]
    return x, (x[:, 0] > 0).astype(np.float64)


def one_pass(name: str, delay: int, order: str, limit: int, learn: bool) -> list[Output]:
    """Return the scores and updates of one pass."""
    values, labels = series(name, limit)
    config = build({"learn": learn, "labels": "external", "max_pending": 100_000, **SERIES[name]})
    events: list[Output] = []
    session = Session(config, config.stream.features, events.append)
    rng = np.random.default_rng(0) if order == "shuffled" else None
    late = LateLabels(session, delay=delay, rng=rng)
    for k in range(0, len(values), BLOCK):
        part = values[k : k + BLOCK]
        late.push(Ticks(name, np.zeros(len(part), np.int64), part), labels[k : k + BLOCK])
    return events


def told(events: list[Output], until: int) -> dict[int, Score]:
    """Return the scores of predictions up to element `until`, which every delay brings."""
    return {e.n: e for e in events if isinstance(e, Score) and e.n <= until}


def one(name: str, delay: int, order: str, limit: int) -> dict[str, Any]:
    """Return the figures of one delay."""
    try:
        count = len(series(name, limit)[0])
    except FileNotFoundError as error:
        return {"missing": str(error)}
    until = count - max(DELAYS) - 1
    start = time.perf_counter()
    events = one_pass(name, delay, order, limit, learn=True)
    seconds = time.perf_counter() - start
    scores = told(events, until)
    updated = [e.n for e in events if isinstance(e, Update)]
    frozen, prompt = (
        told(one_pass(name, *how, limit, learn=False), until)
        for how in ((delay, order), (0, "in order"))
    )
    differing = sum(
        n not in frozen or (frozen[n].p, frozen[n].label) != (score.p, score.label)
        for n, score in prompt.items()
    )
    return {
        "log loss": round(float(np.mean([s.log_loss for s in scores.values()])), 5),
        "accuracy": round(float(np.mean([(s.p > 0.5) == s.label for s in scores.values()])), 5),
        "labels": len(scores),
        "differing": differing + len(frozen.keys() - prompt.keys()),
        "learned twice": len(updated) - len(set(updated)),
        "seconds": round(seconds, 1),
    }


if __name__ == "__main__":
    name, delay, order, limit = sys.argv[1:]
    print(json.dumps(one(name, int(delay), order, int(limit))))
