"""What is learned: online passes over streams whose best forecast is known, and over real series.

Each stream is one online pass in a process of its own, from a seed that is that of the series and
of the weights. `gap` is the mean log loss above that of the exact filter, `late gap` the same
over the last 20,000 labels, `over base` the mean log loss above that of the base rate so far; a
query is a label that the exact filter does not give 1/2, `queries` the accuracy on the last tenth
of them and `evidence` the total log loss on all of them below a coin's, in nats (3 is 20 to 1).
`freeze` is S2 with learning until 600,000 and the accuracy of what comes after.

    python -m bench learning --streams s4,s6 --seeds 0,1,2 --bank default
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np

from stream_lstm.config import build
from stream_lstm.core.losses import EPSILON
from stream_lstm.core.session import Session
from stream_lstm.events import Output, Prediction, Score, Ticks
from stream_lstm.feed.synthetic import SOURCES

from .report import fresh

STREAMS: dict[str, tuple[str, int]] = {
    "eurusd": ("eurusd_quotes.csv.gz", 1_047_700),
    "gbpusd": ("gbpusd_minutes.csv.gz", 1_000_000),
    "s0": ("s0-garch", 1_000_000),
    "s1": ("s1-ar", 50_000),
    "s2": ("s2-regime", 1_000_000),
    "s3": ("s3-product", 1_000_000),
    "s4": ("s4-latch", 1_000_000),
    "s4l": ("s4l-latch", 1_000_000),
    "s5": ("s5-slope", 600_000),
    "s6": ("s6-echo", 1_000_000),
    "freeze": ("s2-regime", 800_000),
}
"""The series or source of each stream, and how many elements of it."""

FREEZE_AT = 600_000

LATE = 20_000

BLOCK = 4096


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add what can be chosen on the command line."""
    parser.add_argument("--streams", default=",".join(STREAMS), help="names, with commas")
    parser.add_argument("--seeds", default="0,1,2", help="seeds of series and weights (0,1,2)")
    parser.add_argument("--bank", default="default", help="default, or none for one learner")
    parser.add_argument("--set", default="{}", help="other settings, as a JSON object")


def run(options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Return {stream and seed: figures}."""
    return {
        f"{name}, seed {seed}": fresh("bench.learning", name, seed, options.bank, options.set)
        for name in options.streams.split(",")
        for seed in options.seeds.split(",")
    }


def series(name: str, seed: int) -> tuple[np.ndarray, np.ndarray | None]:
    """Return a stream's elements (n,) and the exact filter's probabilities, None if unknown."""
    source, limit = STREAMS[name]
    if source in SOURCES:
        values = SOURCES[source](seed).block(limit)
        return values[:, 0], SOURCES[source](seed).best(values)
    import pyarrow.csv

    folder = os.environ.get("STREAM_LSTM_DATA") or Path(__file__).parents[2] / "shared" / "data"
    table = pyarrow.csv.read_csv(Path(folder) / source)
    if name == "eurusd":
        price = (table["bid"].to_numpy() + table["ask"].to_numpy()) / 2
    else:
        price = table["close"].to_numpy()
    return np.diff(np.log(price))[:limit], None


def one(name: str, seed: int, bank: str, more: dict[str, Any]) -> dict[str, Any]:
    """Make one pass and return its figures."""
    try:
        x, best = series(name, seed)
    except FileNotFoundError as error:
        return {"missing": str(error)}
    settings = {"features": ["x"], "learn": True, "seed": seed, "bank": bank, **more}
    if name == "freeze":
        settings["learn_until"] = FREEZE_AT
    ns: list[int] = []
    scores: list[Score] = []

    def take(event: Output) -> None:
        if isinstance(event, Prediction):
            ns.append(event.n)
        elif isinstance(event, Score):
            scores.append(event)

    session = Session(build(settings), ["x"], take)
    start = time.perf_counter()
    for k in range(0, len(x), BLOCK):
        part = x[k : k + BLOCK, None]
        session.push(Ticks(name, np.zeros(len(part), np.int64), part))
    seconds = time.perf_counter() - start
    found = figures(scores, best, since=FREEZE_AT if name == "freeze" else 0)
    if bank != "none":
        mixture = next(iter(session.streams.values())).mixture
        assert mixture is not None
        order = np.argsort(mixture.losses)
        losses = mixture.losses / mixture.labels
        names = session.engine.names
        found["best member"] = f"{names[order[0]]} {losses[order[0]]:.5f}"
        found["networks"] = ", ".join(
            f"{names[k]} {losses[k]:.5f}" for k in range(2) if k < len(names)
        )
    return {**found, "seconds": round(seconds, 1)}


def losses_of(p: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return log losses in nats of probabilities for labels."""
    return -np.log(np.maximum(np.where(y, p, 1.0 - p), EPSILON))


def figures(scores: list[Score], best: np.ndarray | None, *, since: int) -> dict[str, Any]:
    """Return the figures of one pass over the predictions after element `since`."""
    scores = [score for score in scores if score.n > since]
    n = np.array([score.n for score in scores])
    p = np.array([score.p for score in scores])
    y = np.array([score.label for score in scores]) == 1
    base = np.array([score.base_rate_p for score in scores])
    loss, right = losses_of(p, y), (p > 0.5) == y
    found: dict[str, Any] = {
        "accuracy": round(float(right.mean()), 5),
        "log loss": round(float(loss.mean()), 5),
        "over base": round(float((loss - losses_of(base, y)).mean()), 5),
        "labels": len(y),
    }
    if best is None:
        return found
    ideal = best[n - 1]
    above = loss - losses_of(ideal, y)
    found["gap"] = round(float(above.mean()), 5)
    found["late gap"] = round(float(above[-LATE:].mean()), 5)
    queries = np.flatnonzero(np.abs(ideal - 0.5) > 1e-9)
    if len(queries) < 0.9 * len(y):
        last = queries[-max(1, len(queries) // 10) :]
        found["queries"] = round(float(right[last].mean()), 4) if len(queries) else None
        found["evidence"] = round(float((np.log(2.0) - loss[queries]).sum()), 1)
    return found


if __name__ == "__main__":
    import sys

    name, seed, bank, more = sys.argv[1:]
    print(json.dumps(one(name, int(seed), bank, json.loads(more))))
