"""A training from start to end, without clock or file: advance, end an epoch, take, restore.

An epoch is a few calls of the compiled function, so that whoever drives can show progress, obey
a signal and write a checkpoint in between; where it is cut changes no bit. At its end the
averaged weights are validated in one pass over what is held out, which starts from the state
that the last lane of each series has carried to there. The weights of the best epoch are kept,
and scored once more in the end by a pass over each whole series: these are the figures that a
replay with them shows.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import msgspec
import numpy as np

from ..config import Config
from ..errors import DivergedError
from ..model.network import Shape, Weights, seed_key
from ..model.runtime import on_host
from ..model.trainer import carried_pass, lane_trainer, next_epoch
from .lanes import cut_lanes, last_lanes
from .series import Floats, Series
from .trees import leaves, rebuild
from .validation import accuracy, figures, log_loss, truth_of

CALLS = 8
"""Calls that an epoch is cut into: a tenth of a second each for a million elements."""

PASS_BLOCK = 65536
"""Elements of a call that learns nothing."""

DIVERGED = 10.0
"""Nats. A network that knows nothing has 0.7; one whose mean loss is this does not come back."""


class Epoch(msgspec.Struct, frozen=True):
    """What one epoch came to, epochs counted from 1; losses are log losses in nats."""

    epoch: int
    train_loss: float
    validation_log_loss: float
    validation_accuracy: float
    learning_rate: float
    updates: int
    updates_refused: int
    seconds: float
    best: bool


class Position(msgspec.Struct):
    """Where a training stands: `epoch` epochs are done, and `segment` segments of the next."""

    epoch: int = 0
    segment: int = 0
    seconds: float = 0.0
    best_epoch: int = 0
    history: list[Epoch] = msgspec.field(default_factory=list)


class Training:
    """Trains one set of weights on all of `series`.

    config: the model, learning and train tables say how. weights: what to start from.

    Everything is compiled on construction. Attributes: `position`; `lanes`, their number;
    `segments`, of an epoch; `best`, the best weights so far, None before the first epoch's end.
    Raises ConfigurationError for an optimiser that does not exist.
    """

    def __init__(self, config: Config, series: Sequence[Series], weights: Weights) -> None:
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
        self._run, self._next = run.compile(), jax.jit(next_epoch)
        self._pass = jax.jit(functools.partial(carried_pass, self.shape))
        self._last = last_lanes(self._lanes)
        self._truth = truth_of(series, config.stream)
        self.position = Position()
        self.best: Weights | None = None

    # ---- going on -----------------------------------------------------------------------

    @property
    def finished(self) -> bool:
        """Whether every epoch is done, or too many came without a better validation."""
        done, patience = self.position.epoch, self.config.train.patience
        waited = done - self.position.best_epoch
        return done >= self.config.train.epochs or 0 < patience <= waited

    @property
    def epoch_over(self) -> bool:
        """Whether all segments of the epoch under way are done."""
        return self.position.segment >= self.segments

    @property
    def train_loss(self) -> float:
        """Mean log loss in nats over the epoch under way; NaN before its first target."""
        loss, count = (float(x) for x in np.asarray(self._train.sums[:2]))
        return loss / count if count else math.nan

    def advance(self) -> None:
        """Train on the next part of the epoch under way."""
        at = self.position
        stop = min(at.segment + -(-self.segments // CALLS), self.segments)
        numbers = (np.int32(x) for x in (at.epoch, at.segment, stop))
        self._train = self._run(self._train, self._lanes, *numbers)
        np.asarray(self._train.sums)  # what is timed and shown has happened
        at.segment = stop

    def end_epoch(self, spent: Callable[[], float]) -> Epoch:
        """Validate, keep the weights if they are the best so far, and make ready for the next.

        spent: tells the seconds that the epoch took; it is asked after the validation. Raises
        DivergedError where a loss is not finite or beyond `DIVERGED`, or where every update was
        refused.
        """
        at, loss = self.position, self.train_loss
        _, _, taken, refused = (float(x) for x in np.asarray(self._train.sums))
        self._check(loss, taken, refused)
        p = self.validate()
        validation = log_loss(p, self._truth.label)
        self._check(validation, taken, refused)
        better = not at.history or validation < self._best_loss()
        epoch = Epoch(
            epoch=at.epoch + 1,
            train_loss=loss,
            validation_log_loss=validation,
            validation_accuracy=accuracy(p, self._truth.label),
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
        """Return the step size at the start of the epoch under way."""
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

    # ---- what it is and has found -------------------------------------------------------

    @property
    def trained_elements(self) -> int:
        """Elements that an epoch trains on, of all series."""
        return int(np.asarray(self._lanes.lengths).sum()) * self.config.learning.bptt

    @property
    def device(self) -> str:
        """Where it computes, as JAX names it: `cpu`, `gpu`."""
        return str(next(iter(self._lanes.xs.devices())).platform)

    def plain_log_loss(self) -> float:
        """Return the base rate's mean log loss in nats on what is held out."""
        return log_loss(self._truth.base_rate_p, self._truth.label)

    def final_figures(self) -> dict[str, Any] | None:
        """Return the scores of the best weights in a pass over each whole series, None so far."""
        if self.best is None:
            return None
        return figures(self._truth, self.validate_from_start(self.best))

    # ---- validation ---------------------------------------------------------------------

    def validate(self) -> Floats:
        """Return p (m,) of the held out predictions, going on from the states of the lanes."""
        states = np.asarray(self._train.state)[self._last]
        return self._held_out(self._train.average, states, [one.train for one in self.series])

    def validate_from_start(self, weights: Weights) -> Floats:
        """Return p (m,) of the held out predictions, each series stepped from its beginning."""
        states = np.zeros((len(self.series), self.shape.state), np.float32)
        return self._held_out(weights, states, [0] * len(self.series))

    def _held_out(self, weights: Weights, states: Floats, starts: Sequence[int]) -> Floats:
        weights, out = jax.tree.map(np.asarray, weights), []
        with on_host():
            for one, state, start in zip(self.series, states, starts, strict=True):
                p = self._carried(weights, state, one.scaled[start:])
                out.append(p[one.due(self.config.stream) - start - 1])
        return np.concatenate(out)

    def _carried(self, weights: Weights, state: Any, xs: Floats) -> Floats:
        """Return p (T,) over scaled inputs xs (T, F), in blocks of few lengths: each compiles."""
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
        """Return all arrays that `restore` wants, by name."""
        held = {"train": self._train} | ({} if self.best is None else {"best": self.best})
        return {
            f"{name}.{k}": leaf
            for name, tree in held.items()
            for k, leaf in enumerate(leaves(tree))
        }

    def restore(self, position: Position, arrays: Mapping[str, np.ndarray]) -> None:
        """Go on from where another training of the same settings and data stood.

        Raises SnapshotError where the arrays are of other shapes.
        """
        self._train = rebuild(self._train, _named(arrays, "train"))
        if position.history:
            self.best = rebuild(self._train.average, _named(arrays, "best"))
        self.position = position


def _named(arrays: Mapping[str, np.ndarray], name: str) -> list[np.ndarray]:
    count = sum(key.startswith(f"{name}.") for key in arrays)
    return [arrays[f"{name}.{k}"] for k in range(count)]
