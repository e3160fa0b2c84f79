"""What keeps a loss at ln 2: every check on one series, and one sentence about them all.

Checks of rows, inputs and labels look at the whole series; trials, which learn, at its beginning
(see `doctor_trial`). A check knows nothing of the others, so that one fault hides no other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import msgspec
import numpy as np

from ..config import Config
from ..events import Output, Ticks
from ..members import Members, bank_members
from ..model.activity import activity
from ..model.engine import Engine
from ..model.forecaster import network_shape
from ..model.network import check_weights
from . import doctor_inputs, doctor_labels, doctor_learning, doctor_network, doctor_rows
from .doctor_inputs import WALK, seen_inputs
from .doctor_plant import plant
from .doctor_series import Doubles, Series, Table, series_of
from .doctor_trial import (
    BASELINES,
    Make,
    Trial,
    baseline_config,
    elements_tried,
)
from .finding import Finding, worst_first
from .session import Session
from .verdict import count

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
    table: Table
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
    labels = doctor_labels.labels_of(series, case.config)
    tried = min(elements_tried(case.config), len(series.elements))
    findings.append(doctor_learning.learning_set(case.config, case.weights is not None))
    if not labels:
        return _diagnosis(findings, "no_labels", series, labels, tried)
    trials, kind, proven = _of_learning(case, series, tried, progress)
    truth = series.truth(case.config)
    if truth.all() or not truth.any():
        told = [one for one in trials if one.name not in ("baselines", "model")]
        return _diagnosis([*findings, *told], "one_class", series, labels, tried)
    enough = doctor_labels.label_count(labels, case.config, len(series.elements), case.accuracy)
    if enough.level != "ok" and proven:
        evidence = f"{enough.evidence}; an effect that is larger shows all the same"
        enough = msgspec.structs.replace(enough, level="ok", evidence=evidence, remedy="")
    return _diagnosis([*findings, enough, *trials], kind, series, labels, tried)


def _of_data(case: Case, series: Series) -> list[Finding]:
    config, table = case.config, case.table
    return [
        doctor_inputs.input_scale(series, config),
        doctor_inputs.constant_inputs(series),
        doctor_labels.label_balance(series, config),
        doctor_labels.label_alignment(series, config),
        doctor_labels.look_ahead(series, config),
        doctor_rows.unusable_rows(series, case.left_out, case.reasons),
        doctor_rows.time_order(table),
        doctor_rows.repeated_rows(table),
        doctor_rows.time_gaps(table),
        doctor_rows.crossed_quotes(table),
        doctor_labels.window_count(len(series.elements), config, case.windows),
    ]


def _fitting(case: Case, series: Series) -> tuple[Finding, Case]:
    """Return the finding about the weights, and a case that learns where they do not fit."""
    found = doctor_network.feature_count(
        series.names, case.config, case.weights, case.weights_counted
    )
    if found.level == "fault":
        bptt = min(case.config.learning.bptt, case.config.stream.window)
        learning = msgspec.structs.replace(case.config.learning, learn=True, bptt=bptt)
        config = msgspec.structs.replace(case.config, learning=learning)
        return found, case._replace(config=config, weights=None, scaler=None)
    return found, case


def _of_learning(
    case: Case, series: Series, tried: int, progress: Progress
) -> tuple[list[Finding], str, bool]:
    """Return the findings of the trials, the kind of the whole, and if something is proven."""
    config, table = case.config, case.table
    rows = slice(0, int(series.at[tried - 1]) + 1)
    times = np.zeros(len(table.values), np.int64) if table.t_ns is None else table.t_ns
    ticks = Ticks(NAME, times[rows], table.values[rows])
    labels = None if table.labels is None else table.labels[rows]

    def run(what: str, make: Make, ticks: Ticks, labels: Doubles | None, delays: Any) -> Trial:
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
    sure = doctor_learning.planted_signal(_planted(case, series, trial, tried, run))
    if not plain:
        return [*found, sure], "no_labels", False
    published = trial.forecast("model")
    found += [
        sure,
        doctor_learning.baselines(plain),
        doctor_learning.model(published, plain, config, sure.level == "ok"),
    ]
    beaten = any(one.proven(len(plain) - 1) for one in plain[1:])
    learned = published is not None and published.proven()
    return found, _kind(sure, beaten, learned), beaten or learned


NAME = "examined"


def _of_network(case: Case, series: Series, trial: Trial, tried: int) -> list[Finding]:
    """Return the findings about the network as it was at the end of its trial."""
    config, found = case.config, []
    if config.learning.learn:
        found.append(doctor_learning.updates_made(trial, config))
    if bank_members(config, case.members) is not None:
        logits = [np.log(s.p) - np.log1p(-s.p) for s in trial.scores if 0.0 < s.p < 1.0]
        if logits:
            moved = doctor_network.constant_output(np.array(logits), config.learning.learn)
            found.append(moved)
        return found
    scaled = seen_inputs(series.elements[:tried], config, case.scaler)[-WALK:]
    shape = network_shape(config.model, scaled.shape[1])
    walked = activity(shape, check_weights(shape, trial.session.weights_for(NAME)), scaled)
    moved = doctor_network.constant_output(walked.logits, config.learning.learn)
    return [*found, moved, doctor_network.dead_gates(walked)]


def _planted(
    case: Case, series: Series, trial: Trial, tried: int, run: Callable[..., Trial]
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
    findings: Sequence[Finding], kind: str, series: Series, labels: int, tried: int
) -> Diagnosis:
    ordered = worst_first(list(findings))
    said = KINDS[kind]
    for level, word in (("fault", "faults"), ("warning", "warnings")):
        names = [one.name for one in ordered if one.level == level]
        if names:
            said += f"; {count(len(names), word)}: {', '.join(names)}"
    return Diagnosis(ordered, kind, said, len(series.elements), labels, tried)
