"""Training from files, without clock or file: advance, end an epoch, read, restore.

**Series.** The elements come from the same maker as in a session and are scaled by the same causal
scaler, run over the whole series from its first element. Nothing looks ahead: the held-out part
does not affect how the elements before it are scaled. The last elements are held out. Trained are
the targets before them; scored are the predictions that a session over the whole series would
publish after a held-out element: after element n, for n >= window and (n - window) a multiple of
stride.

**Lanes.** Series are cut into lanes of equal length, none across two series. A series of which N
elements are trained gets lanes in proportion to N, at least one, and each lane as many whole
segments as fit. The remainder, at most a segment per lane, is at the start of the series and is
not trained. Short series get fewer lanes than configured, so that each lane has `MIN_SEGMENTS`
segments and an epoch as many updates.

**Epochs.** An epoch is a few calls of the compiled function, so that the caller can show progress,
obey a signal and write a checkpoint in between; the cut does not change a bit. At its end the
averaged weights are validated in one pass over the held-out part, which starts from the state that
the last lane of each series has reached. The weights of the best epoch are stored, and scored in
the end by a pass over each whole series: these are the figures that a replay with them shows. They
are compared with a coin and with the base rate, which is the share of positive targets among the
trained ones, with half a count on either side.
"""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import msgspec
import numpy as np
import numpy.typing as npt
from jax import lax

from ..compiling import compiling
from ..config import Config
from ..errors import DataError, DivergedError
from ..model.network import Shape, Weights, causal_scaler, seed_key
from ..model.runtime import on_host
from ..model.trainer import LaneBatch, carried_pass, lane_trainer, next_epoch
from ..schema import ScalingConfig, StreamConfig
from ..typing import Bools, Float32s, Float64s, Int8s, Int64s
from .learning import leaves, rebuild
from .losses import EPSILON


class TrainingSeries(NamedTuple):
    """A series of N elements, of which the first `train` are trained on."""

    name: str
    scaled: Float32s  # (N, F)
    positive: Bools  # (N,), whether the target is
    scaler: Float32s  # (1 + 2F,), the scaler's state at the end
    train: int
    digest: str  # SHA-256 of the elements, in hexadecimal

    def labels(self, horizon: int) -> Int8s:
        """Return the target of each trained element, int8 (train,); -1 if it is held out."""
        out = np.full(self.train, -1, np.int8)
        out[: max(self.train - horizon, 0)] = self.positive[horizon : self.train]
        return out

    def due(self, stream: StreamConfig) -> Int64s:
        """Return the n of the held-out labelled predictions, int64 (m,)."""
        n = np.arange(stream.window, len(self.positive) - stream.horizon + 1, stream.stride)
        return n[n > self.train]

    def outcomes(self, stream: StreamConfig) -> Bools:
        """Return the labels of `due`, bool (m,)."""
        return self.positive[self.due(stream) + stream.horizon - 1]


def make_series(name: str, elements: Float32s, config: Config) -> TrainingSeries:
    """Return the series of elements (N, F).

    Raises DataError for a series that is too short to train and validate.
    """
    count, stream = len(elements), config.stream
    train = count - max(round(count * config.train.validation), 1)
    scaled, state = scale(elements, config.scaling)
    digest = hashlib.sha256(np.ascontiguousarray(elements).tobytes()).hexdigest()
    series = TrainingSeries(name, scaled, elements[:, 0] > 0, state, train, digest)
    if train < config.learning.bptt or not len(series.due(stream)):
        raise DataError(
            f"{name} is too short: of its {count:,} elements {max(train, 0):,} are for training, "
            f"which needs at least bptt={config.learning.bptt}, and {count - train:,} are held "
            f"out, which need at least one labelled prediction (window={stream.window}, "
            f"stride={stream.stride}); give a longer file, or lower bptt, window or stride"
        )
    return series


def scale(elements: Float32s, config: ScalingConfig) -> tuple[Float32s, Float32s]:
    """Return (scaled elements (N, F), the scaler's state at the end (1 + 2F,))."""
    scaler = causal_scaler(elements.shape[1], config)
    with on_host():
        state, scaled = jax.jit(lambda xs: lax.scan(scaler.step, scaler.init(), xs))(elements)
    return np.asarray(scaled), np.asarray(state)


def mean_scaler(series: Iterable[TrainingSeries]) -> Float32s:
    """Return the scaler state (1 + 2F,) that a new stream starts from: the mean over the series.

    Means and deviations are averaged. The count, which says how soon the new stream's own values
    replace them, is the smallest.
    """
    states = np.stack([one.scaler for one in series])
    out: Float32s = states.mean(axis=0, dtype=np.float64).astype(np.float32)
    out[0] = states[:, 0].min()
    return out


MIN_SEGMENTS = 16
"""Segments of a lane before the series is cut into more lanes."""


def plan(trained: Sequence[int], lanes: int, segment: int) -> list[tuple[int, int]]:
    """Return (lanes, segments of each) for every series of `trained` elements.

    There are at most `lanes` in all, or one for each series.
    """
    whole = [count // segment for count in trained]
    length = max(sum(whole) // lanes, MIN_SEGMENTS)
    while sum(count // length for count in whole) > lanes:
        length += 1
    cut = [max(count // length, 1) for count in whole]
    return [(parts, count // parts) for parts, count in zip(cut, whole, strict=True)]


def cut_lanes(
    series: Sequence[TrainingSeries], *, lanes: int, segment: int, horizon: int
) -> LaneBatch:
    """Return the lanes of all series together, those of a series in order."""
    planned = plan([one.train for one in series], lanes, segment)
    total, longest = sum(parts for parts, _ in planned), max(length for _, length in planned)
    features = series[0].scaled.shape[1]
    xs = np.zeros((longest, segment, total, features), np.float32)
    labels = np.full((longest, segment, total), -1, np.int8)
    lengths, before = np.zeros(total, np.int32), np.full(total, -1, np.int32)
    first = 0
    for one, (parts, length) in zip(series, planned, strict=True):
        mine = slice(first, first + parts)
        xs[:length, :, mine] = _stacked(one.scaled[: one.train], parts, length, segment)
        labels[:length, :, mine] = _stacked(one.labels(horizon), parts, length, segment)
        lengths[mine] = length
        before[first + 1 : first + parts] = np.arange(first, first + parts - 1)
        first += parts
    return LaneBatch(*map(jnp.asarray, (xs, labels, lengths, before)))


def last_lanes(lanes: LaneBatch) -> list[int]:
    """Return the index of the last lane of each series."""
    first = np.flatnonzero(np.asarray(lanes.before) < 0)
    return [*(int(k) - 1 for k in first[1:]), len(lanes.before) - 1]


def _stacked(array: np.ndarray, parts: int, length: int, segment: int) -> np.ndarray:
    """Return the end of an array (n, ...) as (length, segment, parts, ...)."""
    end = array[len(array) - parts * length * segment :]
    return np.moveaxis(end.reshape(parts, length, segment, *array.shape[1:]), 0, 2)


class HeldOutLabels(msgspec.Struct, frozen=True):
    """What is predicted: `label` bool (m,), and `base_rate_p` float64 (m,)."""

    label: Bools
    base_rate_p: Float64s


def held_out_labels(series: Sequence[TrainingSeries], stream: StreamConfig) -> HeldOutLabels:
    """Return the labels of all series, one after the other."""
    label = [one.outcomes(stream) for one in series]
    rate = [base_rate(one, stream) for one in series]
    return HeldOutLabels(np.concatenate(label), np.repeat(rate, [len(part) for part in label]))


def base_rate(series: TrainingSeries, stream: StreamConfig) -> float:
    """Return the share of positive targets among the trained ones."""
    known = series.labels(stream.horizon)
    return (int((known == 1).sum()) + 0.5) / (int((known >= 0).sum()) + 1.0)


def figures(held_out: HeldOutLabels, p: npt.NDArray[Any]) -> dict[str, Any]:
    """Return the scores of forecasts p (m,) and of the plain ones; log losses in nats."""
    base = held_out.base_rate_p
    return {
        "labels": len(held_out.label),
        "log_loss": held_out_log_loss(p, held_out.label),
        "accuracy": held_out_accuracy(p, held_out.label),
        "brier": float(np.mean((np.asarray(p, np.float64) - held_out.label) ** 2)),
        "positive": float(held_out.label.mean()),
        "base_rate_log_loss": held_out_log_loss(base, held_out.label),
        "base_rate_accuracy": held_out_accuracy(base, held_out.label),
        "coin_log_loss": math.log(2.0),
    }


def held_out_log_loss(p: npt.NDArray[Any], label: Bools) -> float:
    """Return the mean log loss in nats; NaN for a p of NaN."""
    p = np.asarray(p, np.float64)
    return float(-np.log(np.maximum(np.where(label, p, 1.0 - p), EPSILON)).mean())


def held_out_accuracy(p: npt.NDArray[Any], label: Bools) -> float:
    """Return the share of labels that were predicted."""
    return float(((p > 0.5) == label).mean())


CALLS = 8
"""Calls of an epoch: a tenth of a second each for a million elements."""

PASS_BLOCK = 65536
"""Elements of a call that only predicts."""

DIVERGED = 10.0
"""Nats. A network that knows nothing has 0.7; one with a mean loss of 10 does not recover."""


class Epoch(msgspec.Struct, frozen=True):
    """The result of an epoch, counted from 1; losses are log losses in nats."""

    epoch: int
    train_loss: float
    validation_log_loss: float
    validation_accuracy: float
    learning_rate: float
    updates: int
    updates_refused: int
    seconds: float
    best: bool


class TrainingPosition(msgspec.Struct):
    """How far a training is: `epoch` epochs, and `segment` segments of the next."""

    epoch: int = 0
    segment: int = 0
    seconds: float = 0.0
    best_epoch: int = 0
    history: list[Epoch] = msgspec.field(default_factory=list)


class Training:
    """Trains one set of weights on all of `series`.

    config: its tables model, learning and train. weights: what to start from.

    Everything is compiled on construction. Attributes: `position`; `lanes`, their number;
    `segments`, of an epoch; `best`, the best weights so far, None before the first epoch ends.
    Raises ConfigurationError for an unknown optimiser.
    """

    def __init__(self, config: Config, series: Sequence[TrainingSeries], weights: Weights) -> None:
        self.config, self.series = config, series
        settings = config.train
        self._lanes = cut_lanes(
            series,
            lanes=settings.lanes,
            segment=config.learning.bptt,
            horizon=config.stream.horizon,
        )
        self.segments, _, self.lanes, features = self._lanes.xs.shape
        self.shape = Shape(features, config.model.hidden, config.model.layers)
        key = seed_key(config.model.seed)
        trainer = lane_trainer(self.shape, config.learning, settings, self.segments, key=key)
        self._train = trainer.init(jax.tree.map(jax.numpy.asarray, weights), self.lanes)
        zero = np.int32(0)
        run = jax.jit(trainer.run).lower(self._train, self._lanes, zero, zero, zero)
        with compiling("training", hashlib.sha256(run.as_text().encode()).hexdigest()[:16]):
            self._run = run.compile()
        self._next = jax.jit(next_epoch)
        self._pass = jax.jit(functools.partial(carried_pass, self.shape))
        self._last = last_lanes(self._lanes)
        self._labels = held_out_labels(series, config.stream)
        self.position = TrainingPosition()
        self.best: Weights | None = None

    # ---- progress -----------------------------------------------------------------------

    @property
    def finished(self) -> bool:
        """Whether every epoch is done, or too many passed without a better validation."""
        done, patience = self.position.epoch, self.config.train.patience
        waited = done - self.position.best_epoch
        return done >= self.config.train.epochs or 0 < patience <= waited

    @property
    def epoch_over(self) -> bool:
        """Whether all segments of the present epoch are done."""
        return self.position.segment >= self.segments

    @property
    def train_loss(self) -> float:
        """Mean log loss in nats over the present epoch; NaN before its first target."""
        loss, count = (float(x) for x in np.asarray(self._train.sums[:2]))
        return loss / count if count else math.nan

    def advance(self) -> None:
        """Train on the next part of the present epoch."""
        at = self.position
        stop = min(at.segment + -(-self.segments // CALLS), self.segments)
        numbers = (np.int32(x) for x in (at.epoch, at.segment, stop))
        self._train = self._run(self._train, self._lanes, *numbers)
        np.asarray(self._train.sums)  # wait, so that the caller's times are right
        at.segment = stop

    def end_epoch(self, spent: Callable[[], float]) -> Epoch:
        """Validate, store the weights if they are the best so far, and prepare the next epoch.

        spent: returns the seconds of the epoch; it is called after the validation. Raises
        DivergedError if a loss is not finite or above `DIVERGED`, or if every update was refused.
        """
        at, loss = self.position, self.train_loss
        _, _, taken, refused = (float(x) for x in np.asarray(self._train.sums))
        self._check(loss, taken, refused)
        p = self.validate()
        validation = held_out_log_loss(p, self._labels.label)
        self._check(validation, taken, refused)
        better = not at.history or validation < self._best_loss()
        epoch = Epoch(
            epoch=at.epoch + 1,
            train_loss=loss,
            validation_log_loss=validation,
            validation_accuracy=held_out_accuracy(p, self._labels.label),
            learning_rate=self._rate(),
            updates=int(taken),
            updates_refused=int(refused),
            seconds=spent(),
            best=better,
        )
        if better:
            self.best, at.best_epoch = self._train.average, epoch.epoch
        at.history.append(epoch)
        at.epoch, at.segment, at.seconds = epoch.epoch, 0, 0.0
        self._train = self._next(self._train, self._lanes.before)
        return epoch

    def _best_loss(self) -> float:
        return self.position.history[self.position.best_epoch - 1].validation_log_loss

    def _rate(self) -> float:
        """Return the step size at the start of the present epoch."""
        settings, done = self.config.train, self.position.epoch / self.config.train.epochs
        share = 0.5 * (1.0 + math.cos(math.pi * done)) if settings.schedule == "cosine" else 1.0
        return settings.train_rate * share

    def _check(self, loss: float, taken: float, refused: float) -> None:
        if refused and not taken:
            why = f"all {refused:.0f} updates of epoch {self.position.epoch + 1} were not finite"
        elif not loss < DIVERGED:  # NaN too
            why = f"the loss of epoch {self.position.epoch + 1} is {loss:.3g} nats"
        else:
            return
        raise DivergedError(
            f"the training has diverged: {why}; lower train_rate "
            f"(it is {self.config.train.train_rate:g}), or set clip_norm"
        )

    # ---- results ------------------------------------------------------------------------

    @property
    def trained_elements(self) -> int:
        """Elements of an epoch, of all series."""
        return int(np.asarray(self._lanes.lengths).sum()) * self.config.learning.bptt

    @property
    def device(self) -> str:
        """The platform that computes, as JAX names it: `cpu`, `gpu`."""
        return str(next(iter(self._lanes.xs.devices())).platform)

    def plain_log_loss(self) -> float:
        """Return the base rate's mean log loss in nats on the held-out labels."""
        return held_out_log_loss(self._labels.base_rate_p, self._labels.label)

    def final_figures(self) -> dict[str, Any] | None:
        """Return the scores of the best weights in a pass over each whole series; None without."""
        if self.best is None:
            return None
        return figures(self._labels, self.validate_from_start(self.best))

    # ---- validation ---------------------------------------------------------------------

    def validate(self) -> Float32s:
        """Return p (m,) of the held-out predictions, from the states of the lanes on."""
        states = np.asarray(self._train.state)[self._last]
        return self._held_out(self._train.average, states, [one.train for one in self.series])

    def validate_from_start(self, weights: Weights) -> Float32s:
        """Return p (m,) of the held-out predictions, each series from its beginning on."""
        states = np.zeros((len(self.series), self.shape.state), np.float32)
        return self._held_out(weights, states, [0] * len(self.series))

    def _held_out(self, weights: Weights, states: Float32s, starts: Sequence[int]) -> Float32s:
        weights, out = jax.tree.map(np.asarray, weights), []
        with on_host():
            for one, state, start in zip(self.series, states, starts, strict=True):
                p = self._carried(weights, state, one.scaled[start:])
                out.append(p[one.due(self.config.stream) - start - 1])
        return np.concatenate(out)

    def _carried(self, weights: Weights, state: Any, xs: Float32s) -> Float32s:
        """Return p (T,) over scaled inputs xs (T, F), in blocks of few lengths."""
        out = []
        for start in range(0, len(xs), PASS_BLOCK):
            part = xs[start : start + PASS_BLOCK]
            padded = np.zeros((max(1 << (len(part) - 1).bit_length(), 256), xs.shape[1]), "f4")
            padded[: len(part)] = part
            p, state = self._pass(weights, state, padded)
            out.append(np.asarray(p)[: len(part)])
        return np.concatenate(out)

    # ---- checkpoints --------------------------------------------------------------------

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the arrays that `restore` takes, by name."""
        trees = {"train": self._train} | ({} if self.best is None else {"best": self.best})
        return {
            f"{name}.{k}": leaf
            for name, tree in trees.items()
            for k, leaf in enumerate(leaves(tree))
        }

    def restore(self, position: TrainingPosition, arrays: Mapping[str, np.ndarray]) -> None:
        """Continue from the position of another training with the same settings and data.

        Raises SnapshotError for arrays of other shapes.
        """
        self._train = rebuild(self._train, _named(arrays, "train"))
        if position.history:
            self.best = rebuild(self._train.average, _named(arrays, "best"))
        self.position = position


def _named(arrays: Mapping[str, np.ndarray], name: str) -> list[np.ndarray]:
    count = sum(key.startswith(f"{name}.") for key in arrays)
    return [arrays[f"{name}.{k}"] for k in range(count)]
