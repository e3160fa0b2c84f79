"""A common question, answered in one table: an LSTM on windows of returns, and what state brings.

An LSTM trained on rolling windows of returns sits at a log loss of ln 2: how is state used?
The recipe as asked is LSTM(32) and Dense(1) in Keras, on windows of 100 raw returns every 10
elements, adam, batches of 128. The other rows are the same with scaled inputs, plain forecasters,
and this project: online in one pass, with and without a carried state, and trained.

`labels`, `accuracy` and `log_loss` (nats; ln 2 is 0.6931) are over the last tenth, the same labels
for every row; `all_` are over every prediction of an online pass, from the first one on. `seconds`
is a whole run, start and compilation included. `state_bytes` are what is kept for each stream from
one prediction to the next, weights apart, and `us_per_prediction` is one compiled call from the
newest element to its p: a whole window of 100, or one step of a carried state.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from .question_series import asked
from .question_subjects import SUBJECTS
from .report import fresh

ELEMENTS, QUICK_ELEMENTS, LEAST = 1_047_700, 4_000, 2_000

DIGITS = 4

QUICK_BANK = """
[[member]]
name = "small"
kind = "network"
hidden = 4
[[member]]
name = "base-rate"
kind = "table"
"""
"""Compiles in a fifth of the time of the default one."""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this benchmark."""
    group = parser.add_argument_group("question")
    group.add_argument(
        "--quick", action="store_true", help="few elements and epochs, a bank of two: for a test"
    )
    group.add_argument("--elements", type=_count, help=f"of the series, at most ({ELEMENTS})")
    group.add_argument("--seed", type=_whole, default=7, help="of the twin and of Keras (7)")
    group.add_argument("--epochs", type=_whole, default=5, help="of the recipe in Keras (5)")
    group.add_argument(
        "--only",
        type=_subjects,
        default=list(SUBJECTS),
        help="of plain (base rate and last label), asked and scaled (Keras), window and carry "
        "(online, one network), bank (online, --bank default), train (all)",
    )
    group.add_argument("--twin", action="store_true", help="the synthetic series in any case")


def _count(text: str) -> int:
    count = _whole(text)
    if count < LEAST:
        raise argparse.ArgumentTypeError(
            f"{count} is too few to hold a tenth out: {LEAST} or more"
        )
    return count


def _whole(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def _subjects(text: str) -> list[str]:
    chosen = text.split(",")
    unknown = [name for name in chosen if name not in SUBJECTS]
    if unknown:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is not one of {', '.join(SUBJECTS)}")
    return chosen


def run(options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Return {row: figures}; `series` has a note that says which it was."""
    quick = options.quick
    count = options.elements or (QUICK_ELEMENTS if quick else ELEMENTS)
    series = asked(count, options.seed, twin=options.twin)
    settings = {
        "quick": quick,
        "seed": options.seed,
        "keras_epochs": 1 if quick else options.epochs,
        "train_epochs": 1 if quick else None,
        "bank": QUICK_BANK if quick else "default",
    }
    rows: dict[str, dict[str, Any]] = {"series": {"note": series.text}}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        np.save(folder / "elements.npy", series.elements)
        if series.best is not None:
            np.save(folder / "best.npy", series.best)
        (folder / "settings.json").write_text(json.dumps(settings), encoding="utf-8")

        def subject(which: str) -> dict[str, Any]:
            began = time.monotonic()
            found = fresh("bench.question_subjects", which, name)
            # a minute and more each: a run of all must not look as if it hung
            print(f"question: {which}: {time.monotonic() - began:.0f} s", file=sys.stderr)
            return found

        # Two at a time only where seconds are not looked at.
        with ThreadPoolExecutor(2 if quick else 1) as pool:
            for found in pool.map(subject, options.only):
                rows |= {row: _rounded(figures) for row, figures in found.items()}
    return rows


def _rounded(figures: dict[str, Any]) -> dict[str, Any]:
    return {k: round(v, DIGITS) if isinstance(v, float) else v for k, v in figures.items()}
