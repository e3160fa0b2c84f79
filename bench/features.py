"""Features: what they compute, what they cost, and what they are worth.

* `functions`: each function of the registry beside pandas, on random rows with gaps.
* `speed`: twenty features of quotes with sizes, windows of 1,000 among them, and the return alone.
  `silent` and `publishing` are microseconds of a tick (median), `mean` over the stride; `blocks`
  are elements a second in blocks of 4,096, learning off; `snapshot` is in bytes. `--before PATH`
  adds the return alone of an older commit in a worktree.
* `leads`, `book`, `missing`, `pair`: log loss of online passes, see `features_scores`.

    python -m bench features --only speed --before ../older
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from .report import fresh, medians, table

COLUMNS = ("bid", "ask", "bid_size", "ask_size")

_MID, _IMBALANCE = "mid(bid, ask)", "imbalance(bid_size, ask_size)"
RETURN = f"log_return({_MID})"
_FLOW = "ofi(bid, bid_size, ask, ask_size)"

TWENTY = (
    RETURN,
    _IMBALANCE,
    "spread_bps(bid, ask)",
    f"microprice(bid, ask, bid_size, ask_size) - {_MID}",
    _FLOW,
    f"sum({_FLOW}, 1000)",
    f"mean({RETURN}, 20)",
    f"std({RETURN}, 100)",
    f"std({RETURN}, 1000)",
    f"zscore({_MID}, 100)",
    f"zscore({_MID}, 1000)",
    f"log_return({_MID}, 10)",
    f"log_return({_MID}, 100)",
    f"{_MID} - ewm_mean({_MID}, 50)",
    f"ewm_std({RETURN}, 200)",
    f"max({_MID}, 1000) - {_MID}",
    f"{_MID} - min({_MID}, 1000)",
    f"rank({_MID}, 1000)",
    f"corr({RETURN}, {_IMBALANCE}, 1000)",
    "log1p(elapsed())",
)

PARTS = ("functions", "speed", "leads", "book", "missing", "pair")
QUICK = {"functions": 2_000, "speed": 9_000, "leads": 1_500, "book": 1_500, "missing": 1_500}
FULL = {"functions": 100_000, "speed": 100_000, "leads": 200_000}
STRIDE, BLOCK, TICKS, SEED = 10, 4096, 20_000, 0


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add what can be chosen on the command line."""
    parser.add_argument("--only", default=",".join(PARTS), help=f"of {', '.join(PARTS)} (all)")
    parser.add_argument("--rows", type=int, help="of each series (what the manual says)")
    parser.add_argument("--bank", default="default", help="of book, missing and pair (default)")
    parser.add_argument(
        "--quick", action="store_true", help="few rows and one learner, for a test"
    )
    parser.add_argument("--before", metavar="PATH", help="a worktree of an older commit (none)")


def run(options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Return {part and row: figures}."""
    found: dict[str, dict[str, Any]] = {}
    for part in options.only.split(","):
        if part not in PARTS:
            raise SystemExit(f"features: no part {part!r}: there are {', '.join(PARTS)}")
        rows = options.rows or (QUICK.get(part, 1_500) if options.quick else FULL.get(part))
        found |= {f"{part}: {name}": row for name, row in _part(part, rows, options).items()}
    return found


def _part(part: str, rows: int | None, options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    if part == "functions":
        from .features_functions import run as compare

        return compare(rows or 0)
    if part == "speed":
        return speed(rows or 0, options)
    from .features_scores import PARTS as SCORED

    told = json.dumps({"rows": rows, "bank": "none" if options.quick else options.bank})
    out = {}
    for row, args in SCORED[part][1].items():
        if not (options.quick and "default" in args):
            print(f"features: {part}: {row}", file=sys.stderr, flush=True)
            out[row] = fresh("bench.features_scores", part, row, told)
    return out


def show(rows: dict[str, dict[str, Any]]) -> str:
    """Return one Markdown table for each part."""
    parts: dict[str, dict[str, dict[str, Any]]] = {}
    for name, row in rows.items():
        part, subject = name.split(": ", 1)
        parts.setdefault(part, {})[subject] = row
    return "\n\n".join(f"{part}:\n\n{table(found)}" for part, found in parts.items())


# ---- speed -------------------------------------------------------------------------------------


def speed(rows: int, options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Return {subject: medians}, and ratios to the return alone within each repeat."""
    subjects = {"the return alone": ("return", ""), "twenty features": ("twenty", "")}
    if options.before:
        subjects["the return alone, before"] = ("return", str(Path(options.before).resolve()))
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in subjects}
    for _ in range(options.repeats):
        for name, (which, before) in subjects.items():
            runs[name].append(fresh("bench.features", which, str(rows), before))
    found = {name: medians(each) for name, each in runs.items()}
    first = runs["the return alone"]
    for name in list(subjects)[1:]:
        more = [
            {k: one[k] / two[k] for k in ("blocks", "silent", "publishing", "mean")}
            for one, two in zip(runs[name], first, strict=True)
        ]
        found[f"{name} / the return alone"] = medians(more)
    return found


def quotes(rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Return times (n,) and bids, asks and their sizes (n, 4) of a random walk."""
    rng = np.random.default_rng(SEED)
    bid = np.round(1.1 + np.cumsum(rng.integers(-1, 2, rows)) * 1e-5, 5)
    ask = np.round(bid + rng.integers(1, 3, rows) * 1e-5, 5)
    sizes = rng.integers(1, 100, (2, rows)).astype(np.float64)
    t_ns = 1_700_000_000_000_000_000 + np.cumsum(rng.integers(1, 10**9, rows))
    return t_ns, np.column_stack([bid, ask, *sizes])


def subject(which: str, rows: int) -> dict[str, Any]:
    """Return the figures of one set of features."""
    from stream_lstm.config import build
    from stream_lstm.core import snapshot
    from stream_lstm.core.session import Session
    from stream_lstm.events import Ticks

    features = [RETURN] if which == "return" else list(TWENTY)
    t_ns, values = quotes(rows + TICKS)
    session = Session(build({"features": features}), COLUMNS, lambda _: None)
    spent = []
    for k in range(0, rows // BLOCK * BLOCK, BLOCK):
        before = time.perf_counter()
        session.push(Ticks("s", t_ns[k : k + BLOCK], values[k : k + BLOCK]))
        spent.append(time.perf_counter() - before)
    size = len(snapshot.take(session))
    ticks = _ticks(session, t_ns[-TICKS:], values[-TICKS:])
    rate = BLOCK / statistics.median(spent[1:])
    return {"blocks": round(rate), **ticks, "snapshot": size}


def _ticks(session: Any, t_ns: np.ndarray, values: np.ndarray) -> dict[str, float]:
    """Return microseconds of single ticks; every tenth publishes."""
    rows, times, clock = values.tolist(), t_ns.tolist(), time.perf_counter_ns
    spent = []
    for t, row in zip(times, rows, strict=True):
        before = clock()
        session.tick("s", t, row)
        spent.append(clock() - before)
    whole = np.array(spent[: len(spent) // STRIDE * STRIDE]).reshape(-1, STRIDE) / 1e3
    whole = whole[len(whole) // 10 :]
    due = int(np.median(whole, axis=0).argmax())
    return {
        "silent": round(float(np.median(np.delete(whole, due, axis=1))), 2),
        "publishing": round(float(np.median(whole[:, due])), 2),
        "mean": round(float(np.median(whole.mean(axis=1))), 2),
    }


if __name__ == "__main__":
    which, count, path = sys.argv[1:]
    if path:
        sys.path.insert(0, path)
    print(json.dumps(subject(which, int(count))))
