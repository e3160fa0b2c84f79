"""What keeps a loss at ln 2: every check on one series, and one sentence about them all.

Checks of rows, inputs and labels look at the whole series; trials, which learn, at its beginning
(see `doctor_trial`). A check knows nothing of the others, so that one fault hides no other.

Checks of a network: whether weights fit, whether its output moves, whether its gates do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from ...config import Config, Members, bank_members
from ...events import Output, Ticks
from ...model.engine import Engine
from ...model.forecaster import network_shape
from ...model.network import Shape, check_weights
from ...model.probe import Activity, activity
from ...typing import Float64s
from ..session import Session
from ..verdict import count
from . import inputs as input_checks
from . import labels as label_checks
from . import trials as trial_checks
from .inputs import WALK, seen_inputs
from .series import ExaminedSeries, Finding, Level, TickTable, percent, series_of, worst_first
from .trials import BASELINES, Make, Trial, baseline_config, elements_tried, plant

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


Progress = Callable[[str, int, int], None]
"""Takes what is being done, how much of it is done, and of how much."""


class Case(NamedTuple):
    """What is examined: a table, and the settings under which its loss is stuck.

    left_out: rows that could not be read, with why the first could not. windows, weights_counted:
    what somebody counted, None for nothing. accuracy: the size of effect that is sought. further:
    findings from where the table came from. engine, plain_engine: what was compiled before for the
    configuration and for `baseline_config` of it.
    """

    config: Config
    table: TickTable
    weights: dict[str, Any] | None = None
    scaler: Any = None
    members: Members | None = None
    delays: Mapping[str, Any] = MappingProxyType({})
    left_out: int = 0
    reasons: tuple[str, ...] = ()
    windows: int | None = None
    weights_counted: int | None = None
    accuracy: float = 0.52
    further: tuple[Finding, ...] = ()
    engine: Engine | None = None
    plain_engine: Engine | None = None


class Diagnosis(NamedTuple):
    """The findings, worst first, `kind` of the whole, and one sentence; see `_verdict`."""

    findings: list[Finding]
    kind: str
    verdict: str
    elements: int
    labels: int
    elements_tried: int


def examine(case: Case, progress: Progress = lambda *_: None) -> Diagnosis:
    """Make every check; raises what a session of these settings raises."""
    twins = msgspec.structs.replace(case.config.scoring, twins=())
    case = case._replace(config=msgspec.structs.replace(case.config, scoring=twins))
    series = series_of(case.config.stream.features, case.table)
    progress("looking at the rows", 0, 1)
    findings = [*case.further, *_of_data(case, series)]
    fits, case = _fitting(case, series)
    findings.append(fits)
    labels = label_checks.labels_of(series, case.config)
    tried = min(elements_tried(case.config), len(series.elements))
    findings.append(trial_checks.learning_set(case.config, case.weights is not None))
    if not labels:
        return _diagnosis(findings, "no_labels", series, labels, tried)
    trials, kind, proven = _of_learning(case, series, tried, progress)
    truth = series.truth(case.config)
    if truth.all() or not truth.any():
        told = [one for one in trials if one.name not in ("baselines", "model")]
        return _diagnosis([*findings, *told], "one_class", series, labels, tried)
    enough = label_checks.label_count(labels, case.config, len(series.elements), case.accuracy)
    if enough.level != "ok" and proven:
        evidence = f"{enough.evidence}; an effect that is larger shows all the same"
        enough = msgspec.structs.replace(enough, level="ok", evidence=evidence, remedy="")
    return _diagnosis([*findings, enough, *trials], kind, series, labels, tried)


def _of_data(case: Case, series: ExaminedSeries) -> list[Finding]:
    config, table = case.config, case.table
    return [
        input_checks.input_scale(series, config),
        input_checks.constant_inputs(series),
        label_checks.label_balance(series, config),
        label_checks.label_alignment(series, config),
        label_checks.look_ahead(series, config),
        input_checks.unusable_rows(series, case.left_out, case.reasons),
        input_checks.time_order(table),
        input_checks.repeated_rows(table),
        input_checks.time_gaps(table),
        input_checks.crossed_quotes(table),
        label_checks.window_count(len(series.elements), config, case.windows),
    ]


def _fitting(case: Case, series: ExaminedSeries) -> tuple[Finding, Case]:
    """Return the finding about the weights, and a case that learns where they do not fit."""
    found = feature_count(series.names, case.config, case.weights, case.weights_counted)
    if found.level == "fault":
        bptt = min(case.config.learning.bptt, case.config.stream.window)
        learning = msgspec.structs.replace(case.config.learning, learn=True, bptt=bptt)
        config = msgspec.structs.replace(case.config, learning=learning)
        return found, case._replace(config=config, weights=None, scaler=None)
    return found, case


def _of_learning(
    case: Case, series: ExaminedSeries, tried: int, progress: Progress
) -> tuple[list[Finding], str, bool]:
    """Return the findings of the trials, the kind of the whole, and if something is proven."""
    config, table = case.config, case.table
    rows = slice(0, int(series.at[tried - 1]) + 1)
    times = np.zeros(len(table.values), np.int64) if table.t_ns is None else table.t_ns
    ticks = Ticks(NAME, times[rows], table.values[rows])
    labels = None if table.labels is None else table.labels[rows]

    def run(what: str, make: Make, ticks: Ticks, labels: Float64s | None, delays: Any) -> Trial:
        return Trial(make).run(ticks, labels, delays, lambda done, of: progress(what, done, of))

    def alone(emit: Callable[[Output], None]) -> Session:
        return Session(
            config, table.columns, emit,
            weights=case.weights, scaler=case.scaler, members=case.members, engine=case.engine,
        )  # fmt: skip

    def beside(emit: Callable[[Output], None]) -> Session:
        plain = baseline_config(config)
        return Session(plain, table.columns, emit, members=BASELINES, engine=case.plain_engine)

    plain = run("plain forecasters", beside, ticks, labels, case.delays).members()
    trial = run("the model", alone, ticks, labels, case.delays)
    found = [*_of_network(case, series, trial, tried)]
    sure = trial_checks.planted_signal(_planted(case, series, trial, tried, run))
    if not plain:
        return [*found, sure], "no_labels", False
    published = trial.forecast("model")
    found += [
        sure,
        trial_checks.baselines(plain),
        trial_checks.model(published, plain, config, sure.level == "ok"),
    ]
    beaten = any(one.proven(len(plain) - 1) for one in plain[1:])
    learned = published is not None and published.proven()
    return found, _kind(sure, beaten, learned), beaten or learned


NAME = "examined"


def _of_network(case: Case, series: ExaminedSeries, trial: Trial, tried: int) -> list[Finding]:
    """Return the findings about the network as it was at the end of its trial."""
    config, found = case.config, []
    if config.learning.learn:
        found.append(trial_checks.updates_made(trial, config))
    if bank_members(config, case.members) is not None:
        logits = [np.log(s.p) - np.log1p(-s.p) for s in trial.scores if 0.0 < s.p < 1.0]
        if logits:
            moved = constant_output(np.array(logits), config.learning.learn)
            found.append(moved)
        return found
    scaled = seen_inputs(series.elements[:tried], config, case.scaler)[-WALK:]
    shape = network_shape(config.model, scaled.shape[1])
    walked = activity(shape, check_weights(shape, trial.session.weights_for(NAME)), scaled)
    moved = constant_output(walked.logits, config.learning.learn)
    return [*found, moved, dead_gates(walked)]


def _planted(
    case: Case, series: ExaminedSeries, trial: Trial, tried: int, run: Callable[..., Trial]
) -> Trial | None:
    """Return the trial of the pipeline on a planted signal, None where none can be planted."""
    given = plant(series.elements[:tried], case.config)
    if given is None:
        return None
    alike = case.config.learning == given.config.learning
    engine = trial.session.engine if alike else None

    def make(emit: Callable[[Output], None]) -> Session:
        return Session(
            given.config, given.columns, emit,
            weights=case.weights, members=case.members, engine=engine,
        )  # fmt: skip

    return run("a planted signal", make, given.ticks, given.labels, case.delays)


def _kind(planted: Finding, beaten: bool, learned: bool) -> str:
    if planted.level != "ok" and not learned:
        return "not_learning"
    if learned:
        return "learning"
    return "missing_it" if beaten else "nothing_found"


KINDS = {
    "no_labels": "there are no labels, so nothing can be said of learning",
    "one_class": "every label is the same, and there is nothing to tell apart",
    "not_learning": "not learning: not even a strong signal that was planted in this series is "
    "learned by this pipeline as it should be",
    "learning": "the model is better than the base rate on this series",
    "missing_it": "the model misses what is there: it learns a planted signal, and a plain "
    "forecaster beats the base rate on this series, but the model does not",
    "nothing_found": "nothing to learn was found: the pipeline learns a planted signal, and "
    "neither the model nor a plain forecaster is shown to beat the base rate on this series",
}
"""What each kind of case means."""


def _diagnosis(
    findings: Sequence[Finding], kind: str, series: ExaminedSeries, labels: int, tried: int
) -> Diagnosis:
    ordered = worst_first(list(findings))
    said = KINDS[kind]
    for level, word in (("fault", "faults"), ("warning", "warnings")):
        names = [one.name for one in ordered if one.level == level]
        if names:
            said += f"; {count(len(names), word)}: {', '.join(names)}"
    return Diagnosis(ordered, kind, said, len(series.elements), labels, tried)
