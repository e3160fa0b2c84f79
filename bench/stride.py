"""Ten elements, of which the last publishes: what one costs on average, and how late the p is.

`ours` is the compiled step alone: ten elements in one call, the last p read back, which is what a
session makes of a stride. `each alone` steps every element as it comes. `us_per_element` is the
mean over ten elements, `last_p50` and so on are microseconds from the tenth element to its p.
`of ours` is the ratio of the means.

`whole session` takes raw ticks one by one at the default settings: checks, features, network, a
prediction and its score every ten. `--before PATH` adds that of an older commit in a worktree.
Peers run the bare network, and their numbers are compared with ours before they are timed.
`where it goes` splits an element of the whole session into the call into JAX (an empty call a
stride), the network with its scaler, and the rest.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from .comparison import compare
from .parts import explained
from .peers.workload import CHECKED, HIDDEN, SEED, Workload, wrong
from .timing import at_once, one_by_one, rounds

STRIDE = 10
SESSION, BEFORE = "ours, whole session", "before, whole session"
ROUNDS = 3_000


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add what can be chosen on the command line."""
    parser.add_argument(
        "--strides", type=int, default=ROUNDS, help=f"of ten elements of stride ({ROUNDS})"
    )
    parser.add_argument("--before", metavar="PATH", help="a worktree of an older commit (none)")


def run(options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Return {policy and subject: figures}."""
    settings = {"count": options.strides, "length": STRIDE}
    subjects = [name for name in SUBJECTS if name != "before" or options.before]
    more = {"before": str(Path(options.before).resolve())} if options.before else {}
    rows = compare("stride", subjects, settings | more, options.repeats)
    spent = [rows[name]["us_per_element"] for name in ("an empty call", "ours", SESSION)]
    told = {"share": 1 / STRIDE, "repeats": options.repeats, "columns": "x"}
    return rows | explained(*spent, **told)


def subject_engine(given: Workload, options: dict[str, Any]) -> dict[str, Any]:
    """Time our compiled step, and an empty call."""
    from stream_lstm.model.engine import Engine

    from .ours import blocked, check, config, together
    from .step import empty_call

    engine = Engine(config(), 1)
    expected = blocked(engine)(given.xs)
    step, block = together(engine)
    p = [p for xs in given.xs.reshape(-1, STRIDE, 1) for p in (*block(xs[:-1]), step(xs[-1]))]
    check(wrong(p, expected))
    empty = empty_call(engine)
    calls = {
        "ours": at_once(lambda xs: float(block(xs)[-1])),
        "each alone": one_by_one(step),
        "an empty call": at_once(lambda xs: empty(xs[0])),
    }
    found = rounds(calls, **_timed(options))
    alone = found.pop("each alone")
    return {"": found, "each alone": {"ours": alone}}


def subject_session(given: Workload, options: dict[str, Any]) -> dict[str, Any]:
    """Time a whole session, learning off, tick by tick."""
    return {"": {SESSION: _session(given, options)}}


def subject_before(given: Workload, options: dict[str, Any]) -> dict[str, Any]:
    """Time the whole session of an older commit."""
    sys.path.insert(0, options["before"])
    return {"": {BEFORE: _session(given, options)}}


def _session(given: Workload, options: dict[str, Any]) -> dict[str, float]:
    from stream_lstm.config import build
    from stream_lstm.core.session import Session
    from stream_lstm.events import Output, Prediction, Ticks

    p: dict[int, float] = {}

    def emit(event: Output) -> None:
        if isinstance(event, Prediction) and event.n <= CHECKED:
            p[event.n] = event.p

    session = Session(build({"features": ["x"], "hidden": HIDDEN, "seed": SEED}), ("x",), emit)
    zero = np.zeros(1, np.int64)

    def tick(x: np.ndarray) -> None:
        session.tick("s", 0, x.tolist())

    def pushed(x: np.ndarray) -> None:
        session.push(Ticks("s", zero, x[None].astype(np.float64)))

    take = tick if hasattr(session, "tick") else pushed
    for x in given.xs:
        take(x)
    if wrong_p := _differing(given, p):
        raise SystemExit(wrong_p)
    return rounds({SESSION: one_by_one(take)}, **_timed(options))[SESSION]


def _differing(given: Workload, p: dict[int, float]) -> str:
    """Return what is wrong with the p of a session, "" where they are those of our blocks."""
    if "before" in sys.argv:
        return "" if len(p) == len(given.xs) // STRIDE - 9 else "wrong: predictions are missing"
    from stream_lstm.model.engine import Engine

    from .ours import blocked, config

    expected = blocked(Engine(config(), 1))(given.xs)
    return wrong(list(p.values()), expected[[n - 1 for n in p]])


def _timed(options: dict[str, Any]) -> dict[str, Any]:
    return {name: options[name] for name in ("count", "length")}


SUBJECTS = {"engine": subject_engine, "session": subject_session, "before": subject_before}

if __name__ == "__main__":
    subject, folder, settings = sys.argv[1:]
    print(json.dumps(SUBJECTS[subject](Workload.load(Path(folder)), json.loads(settings))))
