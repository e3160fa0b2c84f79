"""All checks on one series, and one sentence about them: why a loss stays at ln 2.

Checks of rows, inputs and labels use the whole series; trials, which learn, use its beginning (see
`trials`). No check depends on another, so that one fault hides no other.

The checks of a network are here: whether weights fit the features, whether its output moves, and
whether its gates do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt

from ...config import Config, Members, bank_members
from ...events import Output, Ticks
from ...model.engine import Activity, Engine, activity, scaled_inputs
from ...model.forecaster import network_shape
from ...model.network import Shape, check_weights
from ...quoting import count
from ...typing import Float64s
from ..session import Session
from . import inputs as input_checks
from . import labels as label_checks
from . import trials as trial_checks
from .advice import proposed, slower
from .inputs import (
    MAX_STEPPED,
    ExaminedSeries,
    Finding,
    Level,
    TickTable,
    percent,
    series_of,
    worst_first,
)
from .trials import BASELINES, Forecast, Make, Trial, baseline_config, elements_tried, plant

STILL = 1e-4
"""Standard deviation of logits along a series below which an output is a constant."""

SHUT = 1e-4
"""Slope a (1 - a) of a gate a, or 1 - g^2 of a candidate, below which no gradient passes it."""

ALWAYS = 0.99
"""Share of elements at which a saturated gate is shut or fully open."""

DEAD = 1e-6
"""Standard deviation of a unit's output below which it is constant."""

MOST, HALF = 0.9, 0.5
"""Shares of units that are a fault, and a warning."""

MAX_FEATURES = 1024
"""Features up to which a counted number of weights is explained."""

GATES = ("input", "forget", "candidate", "output")

NAME = "examined"
"""Of the stream in trials."""

KINDS = {
    "no_labels": "there are no labels, so that learning cannot be judged",
    "one_class": "every label is the same: there are no two classes to distinguish",
    "not_learning": "not learning: not even a strong signal that was planted in this series is "
    "learned by this pipeline as it should be",
    "learning": "the model is better than the base rate on this series",
    "missing_it": "the model misses what a plain forecaster finds: it learns a planted signal, "
    "and a plain forecaster beats the base rate on this series, but the model does not",
    "nothing_found": "nothing to learn was found: the pipeline learns a planted signal, and "
    "neither the model nor a plain forecaster is shown to beat the base rate on this series",
}
"""What each kind of case means."""

Progress: TypeAlias = Callable[[str, int, int], None]
"""Takes the present work, how much of it is done, and of how much."""


class Case(NamedTuple):
    """A table, and the settings under which its loss does not move.

    left_out: rows that could not be read; reasons: their distinct ones. windows, weights_counted:
    counts by the user. accuracy: the effect to detect. further: findings about the source of the
    table. timed: False if the user declined a column of times. engine, plain_engine: compiled
    before for the configuration and for `baseline_config`.
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
    timed: bool = True
    engine: Engine | None = None
    plain_engine: Engine | None = None


class Diagnosis(NamedTuple):
    """The findings, worst first, the kind of the case (see `KINDS`), and one sentence."""

    findings: list[Finding]
    kind: str
    verdict: str
    elements: int
    labels: int
    elements_tried: int


def examine(case: Case, progress: Progress = lambda *_: None) -> Diagnosis:
    """Make every check; raises what a session of these settings raises."""
    scoring = msgspec.structs.replace(case.config.scoring, twins=())
    case = case._replace(config=msgspec.structs.replace(case.config, scoring=scoring))
    series = series_of(case.config.stream, case.table)
    progress("looking at the rows", 0, 1)
    findings = [*case.further, *data_findings(case, series)]
    weights = feature_count(series.names, case.config, case.weights, case.weights_counted)
    findings.append(weights)
    if weights.level == "fault":
        case = _without_weights(case)
    labels = label_checks.labels_of(series, case.config)
    tried = min(elements_tried(case.config), len(series.elements))
    findings.append(trial_checks.learning_set(case.config, case.weights is not None))
    kind = "no_labels"
    if labels:
        trials, kind, proven = _try(case, series, tried, progress)
        classes = np.unique(series.labels(case.config))
        if len(classes) == 1:
            kind = "one_class"
            trials = [one for one in trials if one.name not in ("baselines", "model")]
        else:
            findings.append(_label_count(case, series, labels, proven))
        findings += trials
    findings = worst_first(findings)
    sentence = KINDS[kind]
    for level, word in (("fault", "faults"), ("warning", "warnings")):
        names = [one.name for one in findings if one.level == level]
        if names:
            sentence += f"; {count(len(names), word)}: {', '.join(names)}"
    return Diagnosis(findings, kind, sentence, len(series.elements), labels, tried)


def data_findings(case: Case, series: ExaminedSeries) -> list[Finding]:
    """Return the findings about rows, inputs and labels."""
    config, table = case.config, case.table
    return [
        input_checks.input_scale(series, config),
        input_checks.constant_inputs(series),
        label_checks.label_balance(series, config),
        label_checks.label_alignment(series, config),
        label_checks.look_ahead(series, config),
        input_checks.unusable_rows(series, case.left_out, case.reasons),
        input_checks.missing_values(series, config.stream.on_missing),
        input_checks.time_order(table, case.timed),
        input_checks.repeated_rows(table, case.timed),
        input_checks.time_gaps(table, case.timed, series.names),
        input_checks.crossed_quotes(table, series.names),
        label_checks.window_count(len(series.elements), config, case.windows),
    ]


def _label_count(case: Case, series: ExaminedSeries, labels: int, proven: bool) -> Finding:
    found = label_checks.label_count(labels, case.config, len(series.elements), case.accuracy)
    if found.level == "ok" or not proven:
        return found
    evidence = f"{found.evidence}; a larger effect has shown nevertheless"
    return msgspec.structs.replace(found, level="ok", evidence=evidence, remedy="")


def _without_weights(case: Case) -> Case:
    """Return a case that learns, since its weights do not fit."""
    replace, learning = msgspec.structs.replace, case.config.learning
    bptt = min(learning.bptt, case.config.stream.window)
    config = replace(case.config, learning=replace(learning, learn=True, bptt=bptt))
    return case._replace(config=config, weights=None, scaler=None)


# ---- trials ----------------------------------------------------------------------------------


def _try(
    case: Case, series: ExaminedSeries, tried: int, progress: Progress
) -> tuple[list[Finding], str, bool]:
    """Return the findings of the trials, the kind of the case, and whether an effect is proven."""
    config, table = case.config, case.table
    rows = slice(0, int(series.at[tried - 1]) + 1)
    ticks = Ticks(NAME, table.times[rows], table.values[rows])
    labels = None if table.labels is None else table.labels[rows]

    def run(work: str, make: Make, ticks: Ticks, labels: Float64s | None) -> Trial:
        return Trial(make).run(
            ticks, labels, case.delays, lambda done, of: progress(work, done, of)
        )

    def plain_session(emit: Callable[[Output], None]) -> Session:
        plain = baseline_config(config)
        return Session(plain, table.columns, emit, members=BASELINES, engine=case.plain_engine)

    def session(emit: Callable[[Output], None]) -> Session:
        return Session(
            config, table.columns, emit,
            weights=case.weights, scaler=case.scaler, members=case.members, engine=case.engine,
        )  # fmt: skip

    plain = run("plain forecasters", plain_session, ticks, labels).members()
    trial = run("the model", session, ticks, labels)
    given = plant(series.elements[:tried], config)
    planted = None
    if given is not None:
        engine = trial.session.engine if config.learning == given.config.learning else None

        def planted_session(emit: Callable[[Output], None]) -> Session:
            return Session(
                given.config, given.columns, emit,
                weights=case.weights, members=case.members, engine=engine,
            )  # fmt: skip

        planted = run("a planted signal", planted_session, given.ticks, given.labels)
    signal = trial_checks.planted_signal(planted, config)
    findings = [*_network_findings(case, series, trial, tried), signal]
    if not plain:
        return findings, "no_labels", False
    published, learns = trial.forecast("model"), signal.level == "ok"
    findings += [
        trial_checks.baselines(plain),
        trial_checks.model(published, plain, config, learns),
    ]
    kind = _kind(published, plain, learns)
    return findings, kind, kind == "learning" or _beaten(plain)


def _kind(published: Forecast | None, plain: Sequence[Forecast], learns: bool) -> str:
    if published is not None and published.proven():
        return "learning"
    if not learns:
        return "not_learning"
    return "missing_it" if _beaten(plain) else "nothing_found"


def _beaten(plain: Sequence[Forecast]) -> bool:
    """Return whether a plain forecaster beats the base rate, which is the first of them."""
    return any(one.proven(len(plain) - 1) for one in plain[1:])


def _network_findings(
    case: Case, series: ExaminedSeries, trial: Trial, tried: int
) -> list[Finding]:
    """Return the findings about the network at the end of its trial."""
    config = case.config
    findings = [trial_checks.updates_made(trial, config)] if config.learning.learn else []
    if bank_members(config, case.members) is not None:
        p = np.array([score.p for score in trial.scores if 0.0 < score.p < 1.0])
        if len(p):
            findings.append(constant_output(np.log(p) - np.log1p(-p), config.learning.learn))
        return findings
    scaled = scaled_inputs(config.scaling, series.elements[:tried], case.scaler)[-MAX_STEPPED:]
    shape = network_shape(config.model, scaled.shape[1])
    active = activity(shape, check_weights(shape, trial.session.weights_for(NAME)), scaled)
    return [
        *findings,
        constant_output(active.logits, config.learning.learn),
        dead_gates(active, config),
    ]


# ---- the network -----------------------------------------------------------------------------


def feature_count(
    features: Sequence[str],
    config: Config,
    weights: Mapping[str, Any] | None,
    counted: int | None,
) -> Finding:
    """Compare the features with given weights, and with a number of weights."""
    name, hidden = "feature_count", config.model.hidden
    cell = _cell_weights(len(features), config)
    total = cell + hidden + 1
    figures: dict[str, Any] = {"features": len(features), "weights": cell, "with_head": total}
    if weights is not None:
        kernel = weights.get("layer_0", {}).get("kernel")
        rows, columns = np.shape(kernel) if np.ndim(kernel) == 2 else (0, 0)
        inputs = rows - columns // 4 - 1
        figures["inputs_of_weights"] = inputs
        if inputs != len(features):
            fits = count(inputs, "features")
            evidence = (
                f"the given weights are for {fits}, and there are {len(features)}: "
                f"{', '.join(features)}; the other checks learn from random weights"
            )
            remedy = (
                f"give the {fits} that they were trained with, in their order (--feature, once "
                "for each)"
            )
            return Finding(name, "fault", evidence, remedy, figures)
    evidence = (
        f"{count(len(features), 'features')} and hidden={hidden} make {cell:,} weights, "
        f"{total:,} with the head"
    )
    if counted is None or counted in (cell, total):
        return Finding(name, "ok", evidence, "", figures)
    fit = next(
        (
            number
            for number in range(1, MAX_FEATURES + 1)
            if counted - _cell_weights(number, config) in (0, hidden + 1)
        ),
        None,
    )
    figures |= {"counted": counted, "features_of_counted": fit}
    evidence += f"; {counted:,} are not those of {count(len(features), 'features')}, "
    evidence += f"but of {fit}" if fit else f"nor of any other number at hidden={hidden}"
    remedy = f"name {count(fit, 'features')} (--feature)" if fit else "check --hidden"
    return Finding(name, "warning", evidence, remedy, figures)


def _cell_weights(features: int, config: Config) -> int:
    """Return the number of weights without the head."""
    shape = Shape(features, config.model.hidden, config.model.layers)
    return sum(size[0] * size[1] for name, size in shape.weights().items() if name != "head")


def constant_output(logits: npt.NDArray[Any], trained: bool) -> Finding:
    """Check whether logits (K,) move along the series."""
    name, logits = "constant_output", _settled(logits)
    spread = float(logits.std())
    low, high = np.quantile(1.0 / (1.0 + np.exp(-logits)), [0.05, 0.95]).tolist()
    figures = {"logit_sd": spread, "p_5": low, "p_95": high, "elements": len(logits)}
    evidence = (
        f"along {count(len(logits), 'elements')} "
        f"{'after learning' if trained else 'with the weights given'}, logits have a s.d. of "
        f"{spread:.2g} and p is between {low:.4f} and {high:.4f} (nine in ten)"
    )
    if spread >= STILL:
        return Finding(name, "ok", evidence, "", figures)
    remedy = "the inputs do not reach it: see input_scale, constant_inputs and gates"
    return Finding(name, "fault", f"the output does not move: {evidence}", remedy, figures)


def dead_gates(active: Activity, config: Config) -> Finding:
    """Look for gates that are always shut or fully open, and units with a constant output."""
    gates = _settled(active.gates, 1)
    slope = gates * (1.0 - gates)
    slope[:, :, 2] = 1.0 - gates[:, :, 2] ** 2
    stuck = (slope < SHUT).mean(axis=1) >= ALWAYS  # (L, 4, H)
    dead = _settled(active.outputs, 1).std(axis=1) < DEAD  # (L, H)
    saturated = {gate: int(stuck[:, k].sum()) for k, gate in enumerate(GATES)}
    figures = {"units": dead.size, "dead": int(dead.sum()), "saturated": saturated}
    share = float((dead | stuck.any(axis=1)).mean())
    evidence = (
        f"{int(dead.sum()):,} of {count(dead.size, 'units')} never change their output, and "
        f"{', '.join(f'{number:,} {gate}' for gate, number in saturated.items())} gates are "
        f"saturated at {percent(ALWAYS)} of elements or more"
    )
    if share < HALF:
        return Finding("gates", "ok", evidence, "", figures)
    scaled = proposed(config, "--scaling sd")
    remedy = (
        f"the inputs are too small, or constant: {scaled and f'{scaled}, or '}see constant_inputs"
    )
    if stuck.any(axis=1).sum() >= dead.sum():
        ways = [scaled, slower(config) if config.learning.learn else "", "other initial weights"]
        remedy = f"the inputs or the weights are too large: {', or '.join(filter(None, ways))}"
    level: Level = "fault" if share >= MOST else "warning"
    return Finding("gates", level, evidence, remedy, figures)


def _settled(values: npt.NDArray[Any], axis: int = 0) -> Float64s:
    """Return float64 values along a series, on that axis, without the start from a zero state."""
    start = values.shape[axis] // 4
    return (values[start:] if axis == 0 else values[:, start:]).astype(np.float64)
