"""Tables to be examined, healthy unless a test breaks them."""

from __future__ import annotations

from typing import Any

import numpy as np

from stream_lstm.core.doctor.diagnosis import Case, Diagnosis, examine
from stream_lstm.core.doctor.inputs import ExaminedSeries, Finding, TickTable, series_of
from stream_lstm.core.doctor.trials import BASELINES, baseline_config
from stream_lstm.feed.synthetic import SOURCES
from stream_lstm.schema import StreamConfig

from ..engines import engine_for, settings

SECOND = 10**9


def table(values: Any, *, columns: str = "x", t_ns: Any = None, labels: Any = None) -> TickTable:
    """A table of values (m,) or (m, C), whose rows count from 1, a second apart."""
    values = np.asarray(values, float)
    values = values[:, None] if values.ndim == 1 else values
    rows = np.arange(1, len(values) + 1)
    times = rows * SECOND if t_ns is None else np.asarray(t_ns)
    return TickTable(tuple(columns.split()), values, times, rows, labels)


def series(values: Any, *features: str, **more: Any) -> ExaminedSeries:
    return series_of(StreamConfig(features=tuple(features or ("x",))), table(values, **more))


def graded(name: str, count: int, seed: int = 1) -> Any:
    return SOURCES[name](seed).block(count)[:, 0]


def noise(count: int = 3000, seed: int = 5) -> Any:
    return np.random.default_rng(seed).normal(size=count)


def diagnose(values: Any, *, labels: Any = None, more: Any = None, **flat: Any) -> Diagnosis:
    """Examine a series, with a column of labels or without; `more` are fields of the case."""
    base = {"learn": True, "hidden": 8, "window": 20, "learning_rate": 0.01}
    base |= {} if labels is None else {"labels": "external"}
    config = settings(**base | flat)
    count = len(config.stream.features)
    plain = engine_for(baseline_config(config), count, BASELINES)
    columns = " ".join(config.stream.features)
    case = Case(config, table(values, columns=columns, labels=labels), plain_engine=plain)
    case = case._replace(engine=engine_for(config, count), **(more or {}))
    return examine(case)


def named(found: Diagnosis, name: str) -> Finding:
    return next(one for one in found.findings if one.name == name)


def bad(found: Diagnosis) -> dict[str, str]:
    """Level by name of what is a warning or a fault."""
    return {one.name: one.level for one in found.findings if one.level in ("warning", "fault")}
