"""One peer in a process of its own: `python -m bench.peers NAME KIND FOLDER OPTIONS`.

KIND is `step`, `stride`, `sequence` or `learn`, FOLDER holds what is given,
OPTIONS are a JSON object of keyword arguments of `bench.timing`. Prints {way: figures}, or a note
why there are none.
"""

from __future__ import annotations

import json
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from .. import timing
from .registry import PEERS
from .workload import TAPES, Workload, wrong

WAYS = {"step": ("step",), "sequence": ("sequence",), "stride": ("step", "sequence")}
"""The functions of a peer's module that a benchmark calls."""


def measure(name: str, kind: str, given: Workload, options: dict[str, Any]) -> dict[str, Any]:
    """Return the figures of a peer, or {"note": what is wrong with it}."""
    module = import_module(f".{PEERS[name].module}", __package__)
    if kind == "learn":
        return learning(module, options)
    calls = {way: getattr(module, way)(given) for way in WAYS[kind] if hasattr(module, way)}
    for way, call in calls.items():
        note = wrong(p_of(way, call, given.xs), given.p)
        if note:
            return {"note": note}
    if kind == "stride":
        return strides(calls, options)
    (call,) = calls.values()
    if kind == "sequence":
        return {"": timing.rate(call, **options)}
    return {way: rows[name] for way, rows in timing.ways({name: call}, **options).items()}


def p_of(way: str, call: Any, xs: np.ndarray) -> np.ndarray:
    """Return the p (n,) of a call of a module's `way` over elements xs (n, 1)."""
    return call(xs) if way == "sequence" else np.array([call(x) for x in xs])


def strides(calls: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    """Return {policy: figures} of the elements of a stride: each alone, and all in one block."""
    policies = {}
    if "step" in calls:
        policies["each alone"] = timing.one_by_one(calls["step"])
    if "sequence" in calls:
        policies["in one block"] = timing.at_once(calls["sequence"])
    return timing.rounds(policies, length=options["length"], count=options["count"])


def learning(module: ModuleType, options: dict[str, Any]) -> dict[str, Any]:
    """Return {K: figures} of an update, or a note where the weights do not move."""
    rows: dict[str, Any] = {}
    for length in TAPES:
        call, weights = module.learn(length)
        before = weights()
        xs = iter(timing.series(2 * options["count"])[:, 0].tolist())
        spent = timing.durations(lambda call=call, xs=xs: call(next(xs)), options["count"])
        after = weights()
        if not np.isfinite(after).all() or np.array_equal(before, after):
            return {"note": "wrong: its weights do not move, or are not finite, not timed"}
        rows[f"K = {length}"] = timing.enough(spent)
    return rows


def main() -> None:
    name, kind, folder, options = sys.argv[1:]
    try:
        found = measure(name, kind, Workload.load(Path(folder)), json.loads(options))
    except Exception as error:  # whatever a peer's package raises is that peer's own line
        text = " ".join(str(error).split())[:200]
        found = {"note": f"failed: {type(error).__name__}: {text}"}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
