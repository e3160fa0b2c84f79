"""A long series, predictions only: elements per second, in blocks of 4,096 for every subject.

`ours` is the compiled block with its scaler, `ours without scaler` the bare network that the
peers run too; they follow each other in one process. `ours, whole session` is what `replay` does
with a series once it is read: check, features, blocks, a prediction and its score every ten
elements. All others give a p for every element, from the given network.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from .comparison import compare
from .peers.workload import CHECKED, Workload, wrong
from .timing import rate

ELEMENTS = 1_000_000


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add what can be chosen on the command line."""
    parser.add_argument(
        "--elements", type=int, default=ELEMENTS, help=f"of the series of sequence ({ELEMENTS})"
    )


def run(options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Return {subject: figures}."""
    settings = {"elements": options.elements}
    return compare("sequence", list(SUBJECTS), settings, options.repeats)


def subject_engine(given: Workload, options: dict[str, Any]) -> dict[str, Any]:
    """Time our block."""
    from stream_lstm.model.engine import Engine

    from .ours import blocked, check, config, stepped

    scaled, bare = Engine(config(), 1), Engine(config(scaling="none"), 1)
    step = stepped(scaled)
    calls = {"ours": blocked(scaled), "ours without scaler": blocked(bare)}
    expected = {"ours": np.array([step(x) for x in given.xs]), "ours without scaler": given.p}
    for name, call in calls.items():
        check(wrong(call(given.xs), expected[name]))
    return {"": {name: rate(call, **options) for name, call in calls.items()}}


def subject_session(given: Workload, options: dict[str, Any]) -> dict[str, Any]:
    """Time blocks of raw ticks through the whole session, learning off."""
    from stream_lstm.core.outcome import Outcome
    from stream_lstm.core.replay import send
    from stream_lstm.core.session import Session
    from stream_lstm.events import Ticks

    from .ours import blocked, check, config

    p: dict[int, float] = {}

    def deliver(outcome: Outcome) -> None:
        made = outcome.predictions
        if len(made) and made["n"][0] <= CHECKED:
            p.update(zip(made["n"].tolist(), made["p"].tolist(), strict=True))

    session = Session(config(), ("x",), deliver=deliver, scored=False)

    def block(xs: np.ndarray) -> None:
        send(session, Ticks("s", np.zeros(len(xs), np.int64), xs.astype(np.float64)))

    block(given.xs)
    expected = blocked(session.engine)(given.xs)
    check(wrong(list(p.values()), expected[[n - 1 for n in p]]))
    return {"": {"ours, whole session": rate(block, **options)}}


SUBJECTS = {"engine": subject_engine, "session": subject_session}

if __name__ == "__main__":
    subject, folder, settings = sys.argv[1:]
    print(json.dumps(SUBJECTS[subject](Workload.load(Path(folder)), json.loads(settings))))
