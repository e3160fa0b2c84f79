"""Ten elements, of which the last publishes: what one costs on average, and how late the p is.

A daemon may step the silent elements of a stride together at the last moment that does not delay
the one that publishes. `ours` does that: nine in one block, their p not read, then the tenth.
`each alone` steps every element as it comes, its p read back; `all at once` is what a backlog
costs, and there the p waits for the whole block. `us_per_element` is the mean over ten elements,
`last_p50` and so on are microseconds from the tenth element to its p. `of ours` is the ratio of
the means.

`whole session` pushes raw ticks: features, network, a prediction and its score every ten.
Peers run the bare network, and their numbers are compared with ours before they are timed.
`where it goes` splits an element of the first row into the call into JAX (two empty calls a
stride), the network with its scaler, and what a whole session adds.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from .comparison import compare
from .parts import explained
from .peers.given import CHECKED, Given, wrong
from .timing import at_once, one_by_one, rounds

STRIDE = 10
ROUNDS = 3_000

POLICIES = ("", "each alone", "all at once")
"""The first one is ours: silent elements together, the publishing one alone."""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add what can be chosen on the command line."""
    parser.add_argument(
        "--strides", type=int, default=ROUNDS, help=f"of ten elements of stride ({ROUNDS})"
    )


def run(options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Return {policy and subject: figures}."""
    settings = {"count": options.strides, "length": STRIDE}
    rows = compare("stride", list(SUBJECTS), settings, options.repeats)
    names = "two empty calls", "ours", "ours, whole session"
    spent = [rows[name]["us_per_element"] for name in names]
    told = {"share": 1 / STRIDE, "repeats": options.repeats, "columns": "x"}
    return rows | explained(*spent, **told)


def policies(
    step: Callable[[np.ndarray], object],
    block: Callable[[np.ndarray], object],
    skip: Callable[[np.ndarray], object],
) -> dict[str, Callable[[np.ndarray], int]]:
    """Return the calls for ten elements under each policy; `skip` is a block that says nothing."""
    alone = one_by_one(step)

    def nine_then_one(xs: np.ndarray) -> int:
        skip(xs[:-1])
        return alone(xs[-1:])

    calls = nine_then_one, alone, at_once(block)
    return dict(zip(POLICIES, calls, strict=True))


def subject_engine(given: Given, options: dict[str, Any]) -> dict[str, Any]:
    """Time our engine under each policy, and two empty calls."""
    from stream_lstm.model.engine import Engine

    from .ours import blocked, check, config, together
    from .step import empty_call

    engine = Engine(config(), 1)
    expected = blocked(engine)(given.xs)
    step, block, skip = together(engine)
    p = [p for xs in given.xs.reshape(-1, STRIDE, 1) for p in (*block(xs[:-1]), step(xs[-1]))]
    check(wrong(p, expected))
    empty = empty_call(engine)

    def two_calls(xs: np.ndarray) -> int:
        empty(xs[0])
        return one_by_one(empty)(xs[-1:])

    found = rounds(policies(step, block, skip) | {"two empty calls": two_calls}, **options)
    rows: dict[str, Any] = {way: {"ours": found[way]} for way in POLICIES}
    rows[""]["two empty calls"] = found["two empty calls"]
    return rows


def subject_session(given: Given, options: dict[str, Any]) -> dict[str, Any]:
    """Time a whole session under each policy, learning off."""
    from stream_lstm.core.session import Session
    from stream_lstm.events import Output, Prediction, Ticks

    from .ours import blocked, check, config

    p: dict[int, float] = {}

    def emit(event: Output) -> None:
        if isinstance(event, Prediction) and event.n <= CHECKED:
            p[event.n] = event.p

    session = Session(config(), ("x",), emit)
    times = np.zeros(STRIDE, np.int64)

    def push(xs: np.ndarray) -> None:
        values = xs.astype(np.float64).reshape(-1, 1)
        session.push(Ticks("s", times[: len(values)], values))

    for call, xs in zip(
        policies(push, push, push).values(), given.xs.reshape(-1, STRIDE, 1), strict=False
    ):
        call(xs)
    for xs in given.xs[len(POLICIES) * STRIDE :]:
        push(xs)
    expected = blocked(session.engine)(given.xs)
    check(wrong(list(p.values()), expected[[n - 1 for n in p]]))
    found = rounds(policies(push, push, push), **options)
    return {way: {"ours, whole session": found[way]} for way in POLICIES}


SUBJECTS = {"engine": subject_engine, "session": subject_session}

if __name__ == "__main__":
    subject, folder, settings = sys.argv[1:]
    print(json.dumps(SUBJECTS[subject](Given.load(Path(folder)), json.loads(settings))))
