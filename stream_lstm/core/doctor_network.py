"""Checks of a network: whether weights fit, whether its output moves, whether its gates do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..config import Config
from ..model.activity import Activity
from ..model.network import Shape
from .finding import Finding, Level, percent
from .verdict import count

STILL = 1e-4
"""Standard deviation of logits along a series below which an output is a constant."""

SHUT = 1e-4
"""Slope a (1 - a) of a gate a, or 1 - g^2 of an input, below which no gradient passes it."""

ALWAYS = 0.99
"""Share of elements at which a gate must be shut or full open to count as saturated."""

DEAD = 1e-6
"""Standard deviation of a unit's output below which it says nothing."""

MOST, HALF = 0.9, 0.5
"""Shares of units that are a fault, and a warning."""

GATES = ("input", "forget", "candidate", "output")


def feature_count(
    features: Sequence[str],
    config: Config,
    weights: Mapping[str, Any] | None,
    counted: int | None,
) -> Finding:
    """Hold the features against given weights, and against a number of weights."""
    name, shape = "feature_count", Shape(len(features), config.model.hidden, config.model.layers)
    cell = sum(rows * columns for rows, columns in _matrices(shape))
    total = cell + shape.hidden + 1
    told = f"{count(len(features), 'features')} and hidden={shape.hidden} make {cell:,} weights"
    told += f", {total:,} with the head"
    figures: dict[str, Any] = {"features": len(features), "weights": cell, "with_head": total}
    if weights is not None:
        kernel = weights.get("layer_0", {}).get("kernel")
        rows, columns = np.shape(kernel) if np.ndim(kernel) == 2 else (0, 0)
        inputs = rows - columns // 4 - 1
        figures["inputs_of_weights"] = inputs
        if inputs != len(features):
            return Finding(
                name,
                "fault",
                f"the given weights are of {count(inputs, 'features')}, and there are "
                f"{len(features)}: {', '.join(features)}; the other checks learn from the start",
                f"give the {count(inputs, 'features')} that they were trained with, in their "
                "order (--feature, once for each)",
                figures,
            )
    if counted is None or counted in (cell, total):
        return Finding(name, "ok", told, "", figures)
    fits = [
        f
        for f in range(1, 1025)
        for s in [Shape(f, shape.hidden, shape.layers)]
        if counted - sum(r * c for r, c in _matrices(s)) in (0, shape.hidden + 1)
    ]
    figures |= {"counted": counted, "features_of_counted": fits[0] if fits else None}
    told += f"; {counted:,} are not of {count(len(features), 'features')}"
    told += f" but of {fits[0]}" if fits else f", nor of any other number at hidden={shape.hidden}"
    remedy = f"name {count(fits[0], 'features')} (--feature)" if fits else "see to --hidden"
    return Finding(name, "warning", told, remedy, figures)


def _matrices(shape: Shape) -> list[tuple[int, ...]]:
    return [size for name, size in shape.weights().items() if name != "head"]


def constant_output(logits: npt.NDArray[Any], trained: bool) -> Finding:
    """Look whether logits (K,) move along the series."""
    logits = _settled(logits).astype(np.float64)
    spread = float(logits.std())
    p = 1.0 / (1.0 + np.exp(-logits))
    low, high = (float(edge) for edge in np.quantile(p, [0.05, 0.95]))
    figures = {"logit_sd": spread, "p_5": low, "p_95": high, "elements": len(logits)}
    what = "after learning" if trained else "with the weights given"
    told = (
        f"along {count(len(logits), 'elements')} {what}, logits have a s.d. of {spread:.2g} and p "
        f"lies between {low:.4f} and {high:.4f} (nine in ten)"
    )
    if spread >= STILL:
        return Finding("constant_output", "ok", told, "", figures)
    return Finding(
        "constant_output",
        "fault",
        f"the output does not move: {told}",
        "nothing of the input reaches it: see input_scale, constant_inputs and gates",
        figures,
    )


def dead_gates(walked: Activity) -> Finding:
    """Look for gates that are always shut or full open, and units whose output never changes."""
    gates = _settled(walked.gates, 1).astype(np.float64)
    slope = gates * (1.0 - gates)
    slope[:, :, 2] = 1.0 - gates[:, :, 2] ** 2
    stuck = (slope < SHUT).mean(axis=1) >= ALWAYS  # (L, 4, H)
    outputs = _settled(walked.outputs, 1).astype(np.float64)
    dead = outputs.std(axis=1) < DEAD  # (L, H)
    units = dead.size
    saturated = {gate: int(stuck[:, k].sum()) for k, gate in enumerate(GATES)}
    figures = {"units": units, "dead": int(dead.sum()), "saturated": saturated}
    share = float((dead | stuck.any(axis=1)).mean())
    told = f"{int(dead.sum()):,} of {count(units, 'units')} never change their output, and "
    told += ", ".join(f"{number:,} {gate}" for gate, number in saturated.items())
    told += f" gates are saturated at {percent(ALWAYS)} of elements or more"
    level: Level = "fault" if share >= MOST else "warning" if share >= HALF else "ok"
    if level == "ok":
        return Finding("gates", level, told, "", figures)
    loud = stuck.any(axis=1).sum() >= dead.sum()
    remedy = (
        "the inputs or the weights are too large: --scaling sd, a lower --learning-rate, or start "
        "from other weights"
        if loud
        else "the inputs are too small, or constant: --scaling sd, and see constant_inputs"
    )
    return Finding("gates", level, told, remedy, figures)


def _settled(values: npt.NDArray[Any], axis: int = 0) -> npt.NDArray[Any]:
    """Return values along a series, on that axis, without the start from a state of zero."""
    start = values.shape[axis] // 4
    return values[start:] if axis == 0 else values[:, start:]
