"""Checks of what the network sees: its scale, and whether there is anything in it."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ..config import Config
from ..model.activity import activity, scaled_inputs
from ..model.forecaster import network_shape
from ..model.network import init_weights, seed_key
from .doctor_series import Floats, Series
from .finding import Finding, Level, percent, worst
from .verdict import count

LOOKED_AT = 20_000
"""Elements whose scaling is followed."""

WALK = 2_000
"""Elements along which a network is watched."""

FAINT, DIM = 0.01, 0.1
"""Standard deviations of an input below which a network does not see it, or hardly does."""

LOUD, DEAFENING = 30.0, 100.0
"""Root mean squares above which gates are full open or shut at most elements."""

BLIND = 1e-3
"""Standard deviation of an untrained network's logits below which it is blind to its inputs."""

CUT = 0.2
"""A share of values at the limit of the scaler above which their size is lost."""


class Seen(NamedTuple):
    """A feature as it comes and as the network sees it, `cut` being the share at the limit."""

    name: str
    raw_sd: float
    raw_mean: float
    sd: float
    rms: float
    cut: float


def input_scale(series: Series, config: Config) -> Finding:
    """Hold the inputs against what an LSTM can see, raw and as they are scaled."""
    name = "input_scale"
    if len(series.elements) < 2:
        return Finding(name, "ok", "there are too few elements to tell")
    elements = series.elements[:LOOKED_AT]
    scaled = seen_inputs(elements, config)
    features = [
        _seen(feature, elements[:, k], scaled[:, k], config)
        for k, feature in enumerate(series.names)
    ]
    raw_spread, spread = (logit_spread(part[-WALK:], config) for part in (elements, scaled))
    figures = {
        "features": [one._asdict() for one in features],
        "logit_sd_raw": raw_spread,
        "logit_sd": spread,
    }
    judged = [(_judge(one), one) for one in features if one.raw_sd > 0]
    level = worst(*(level for level, _ in judged))
    shown = next((one for found, one in judged if found == level), features[0])
    hidden = config.model.hidden
    told = (
        f"{shown.name} has a s.d. of {shown.raw_sd:.2g}, and the network sees {shown.sd:.2g} "
        f"(scaling={config.scaling.scaling}); logits of an untrained LSTM({hidden}) vary by "
        f"{raw_spread:.1g} on raw inputs and by {spread:.2g} on these"
    )
    if shown.cut >= CUT:
        told += f"; {percent(shown.cut)} of its values are cut at {config.scaling.clip:g} s.d."
    return Finding(name, level, told, _scale_remedy(level, shown, raw_spread, config), figures)


def seen_inputs(elements: Floats, config: Config, start: Any = None) -> Floats:
    """Return what the network sees of elements (K, F), the scaler's state before them `start`."""
    return scaled_inputs(config.scaling, elements, start)


def logit_spread(inputs: Floats, config: Config) -> float:
    """Return the standard deviation of an untrained network's logits along inputs (K, F)."""
    shape = network_shape(config.model, inputs.shape[1])
    weights = init_weights(shape, key=seed_key(config.model.seed))
    walked = activity(shape, weights, inputs)
    return float(walked.logits[len(inputs) // 4 :].std())  # without the start from zero


def _seen(name: str, raw: Floats, scaled: Floats, config: Config) -> Seen:
    settled = scaled[len(scaled) // 10 :].astype(np.float64)
    limit = config.scaling.clip * config.scaling.gain
    cut = 0.0
    if config.scaling.scaling != "none":
        cut = float((np.abs(settled) >= 0.999 * limit).mean())
    raw = raw.astype(np.float64)
    rms = float(np.sqrt(np.mean(settled**2)))
    return Seen(name, float(raw.std()), float(raw.mean()), float(settled.std()), rms, cut)


def _judge(seen: Seen) -> Level:
    if seen.sd < FAINT or seen.rms > DEAFENING:
        return "fault"
    if seen.sd < DIM or seen.rms > LOUD or seen.cut >= CUT:
        return "warning"
    return "note" if not FAINT <= seen.raw_sd <= LOUD else "ok"


def _scale_remedy(level: Level, seen: Seen, raw_spread: float, config: Config) -> str:
    if level == "ok":
        return ""
    if level == "note":
        effect = "saturate its gates"
        if seen.raw_sd < FAINT:
            effect = (
                "alone keep a loss at ln 2" if raw_spread < BLIND else "go unseen beside others"
            )
        return (
            "nothing to do here; unscaled, as in a plain Keras or PyTorch model, such inputs "
            f"{effect}: divide them by their s.d. there"
        )
    if config.scaling.scaling == "none":
        return "--scaling sd"
    if seen.cut >= CUT or abs(seen.raw_mean) > 5 * seen.raw_sd:
        return (
            f"its mean is {abs(seen.raw_mean) / max(seen.raw_sd, 1e-300):.0f} s.d. from 0, and "
            f"nothing is centred: use --feature 'diff({seen.name})' or 'log_return({seen.name})', "
            "or --scaling zscore"
        )
    return "--gain 2 --clip 10, the defaults"


STRETCH = 0.1
"""A share of all elements for which a feature may be the same without being told of."""


def constant_inputs(series: Series) -> Finding:
    """Look for features that never change, or not for long."""
    name, elements = "constant_inputs", series.elements
    if not len(elements):
        return Finding(name, "fault", "there are no elements", "give more rows")
    figures: dict[str, Any] = {"features": []}
    constant, stretches = [], []
    for k, feature in enumerate(series.names):
        length, start = longest_run(elements[:, k])
        zeros = float((elements[:, k] == 0).mean())
        row = int(series.table.rows[series.at[start]])
        one = {"name": feature, "zeros": zeros, "longest_run": length, "row": row}
        figures["features"].append(one)
        if length == len(elements):
            constant.append(f"{feature} is always {elements[0, k]:g}")
        elif length > STRETCH * len(elements) or zeros > 0.99:
            stretches.append(
                f"{feature} is {elements[start, k]:g} for {count(length, 'elements')} on end "
                f"from row {row:,}, and 0 in {percent(zeros)} of all"
            )
    if constant:
        level: Level = (
            "fault"
            if len(np.unique(series.target[:1000])) == 1
            and ((series.target == series.target[0]).all())
            else "warning"
        )
        return Finding(
            name, level, "; ".join(constant),
            "leave it out, or look into why it never changes: a constant scales to 0 and says "
            "nothing", figures,
        )  # fmt: skip
    if stretches:
        return Finding(
            name, "note", "; ".join(stretches),
            "see whether the feed stood still there; a feature that does not change scales to 0",
            figures,
        )  # fmt: skip
    return Finding(
        name, "ok", f"each of {count(len(series.names), 'features')} changes", "", figures
    )


def longest_run(values: Floats) -> tuple[int, int]:
    """Return (length, start) of the longest run of equal values (n,), n >= 1."""
    edges = np.flatnonzero(np.concatenate([[True], values[1:] != values[:-1], [True]]))
    lengths = np.diff(edges)
    at = int(lengths.argmax())
    return int(lengths[at]), int(edges[at])
