"""Evidence under a look after every label: false alarms, power, and what scoring costs.

`coin` and `forecaster` play 1,000 streams of 5,000 labels in which nothing is to be found: calls
of a coin, and the log losses of two forecasters of a coin that are each other's mirror image.
`better` and `worse` are the shares of streams that ever reached 20 : 1, `band` those whose band
ever left out the truth; none may be above 0.05. Rows of an accuracy say after how many labels
half of 1,000 streams with that true accuracy had reached 20 : 1, and how many a test at one look
needs.
`scoring` is the whole scoring of a label in microseconds, and what of it is the evidence.

    python -m bench evidence --json
"""

from __future__ import annotations

import argparse
import json
import math
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from stream_lstm.core.evidence import Bet, accuracy_band, labels_needed
from stream_lstm.core.scores import Scores

from .report import fresh, medians

STREAMS, LABELS = 1000, 5000

POWER_STREAMS = 1000

LONGEST = {0.51: 100_000, 0.52: 25_000, 0.55: 5_000, 0.60: 2_000}
"""Labels after which a stream of that accuracy is given up: six times the median."""

TIMED = 100_000

SEED = 7


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add what can be chosen on the command line."""
    parser.add_argument("--null-streams", type=int, default=STREAMS, help="streams (1000)")


def run(arguments: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Return {subject: figures}."""
    streams = arguments.null_streams
    rows = {name: false_alarms(play, streams) for name, play in NULLS.items()}
    for accuracy, longest in LONGEST.items():
        rows[f"accuracy {accuracy}"] = power(accuracy, longest, min(POWER_STREAMS, streams))
    timed = [fresh("bench.evidence", str(TIMED)) for _ in range(arguments.repeats)]
    return rows | {"scoring": medians(timed)}


Null = Callable[[random.Random], Iterator[tuple[Bet, bool]]]


def coin(chance: random.Random) -> Iterator[tuple[Bet, bool]]:
    """Yield after each label the bet, and whether the band leaves out 1/2."""
    bet = Bet()
    for k in range(1, LABELS + 1):
        bet.add(1.0 if chance.random() < 0.5 else -1.0)
        low, high = accuracy_band((k + bet.total) / 2, k) or (0.0, 1.0)
        yield bet, not low <= 0.5 <= high


def forecaster(chance: random.Random) -> Iterator[tuple[Bet, bool]]:
    """Yield after each label the bet, and whether the band leaves out 0."""
    bet = Bet()
    for _ in range(LABELS):
        d = min(max(chance.gauss(0.0, 0.4), -1.0), 1.0)  # the logit of p, and that of 1 - p
        d = d if chance.random() < 0.5 else -d
        bet.add(d)
        low, high = bet.interval() or (-1.0, 1.0)
        yield bet, not low <= 0.0 <= high


NULLS: dict[str, Null] = {"coin": coin, "forecaster": forecaster}


def false_alarms(play: Null, streams: int) -> dict[str, Any]:
    """Return the shares of streams with an alarm at any label."""
    better = worse = missed = 0
    for seed in range(streams):
        bet, left_out = Bet(), False
        for bet, outside in play(random.Random(seed)):  # noqa: B007
            left_out |= outside
        better += bet.better.proven
        worse += bet.worse.proven
        missed += left_out
    shares = {"better": better, "worse": worse, "band": missed}
    return {"streams": streams} | {k: round(v / streams, 4) for k, v in shares.items()}


def power(accuracy: float, longest: int, streams: int) -> dict[str, Any]:
    """Return the median of the labels to 20 : 1, and what one look needs."""
    reached = []
    for seed in range(streams):
        chance, bet = random.Random(seed), Bet()
        while not bet.better.reached and bet.labels < longest:
            bet.add(1.0 if chance.random() < accuracy else -1.0)
        reached.append(bet.better.reached or math.inf)
    median = statistics.median(reached)
    return {
        "streams": streams,
        "labels to 20 : 1": median if math.isfinite(median) else None,
        "at one look": labels_needed(accuracy),
    }


def timed(labels: int) -> dict[str, float]:
    """Return microseconds of a label, of processor time, over weak forecasts."""
    rng = np.random.default_rng(SEED)
    truth, last = rng.integers(0, 2, (2, labels)).tolist()
    p, base, repeat = (0.5 + rng.normal(0, 0.02, (3, labels))).astype(np.float32).tolist()
    rows = list(zip([0] * labels, truth, last, p, base, repeat, strict=True))
    pairs = zip(p, truth, strict=True)
    offs = [abs(q - y) for q, y in pairs]
    gains = [(1.0 if off < 0.5 else -1.0, 0.5 - off, 0.7 - off) for off in offs]
    return {
        "us": _spent(Scores(1000).add, rows),
        "us without a window": _spent(Scores().add, rows),
        "us of evidence": _spent(played(), gains),
    }


def played() -> Callable[[float, float, float], None]:
    """Return the call that plays a label against a coin, the base rate and the last label."""
    coin, base, last = Bet(), Bet(), Bet()

    def add(one: float, two: float, three: float) -> None:
        coin.add(one)
        base.add(two)
        last.add(three)

    return add


def _spent(add: Callable[..., object], rows: list[Any]) -> float:
    before = time.process_time()
    for row in rows:
        add(*row)
    return round((time.process_time() - before) / len(rows) * 1e6, 3)


if __name__ == "__main__":
    print(json.dumps(timed(int(sys.argv[1]))))
