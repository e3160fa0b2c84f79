"""The watch over learning: what to go back to when it does harm, and when.

All labels that are learned from are counted, in spells of `SPELL`. At the end of each it is looked
whether learning does harm:

* `refusals`: the last so many updates were all refused, so that nothing can be learned any more;
* `base-rate`: over the last labels the log loss is above the base rate's, by so much a label;
* `last-good`: it is above the base rate's at all, and above what it was with the last good weights
  by twice as much.

Then the weights and the optimiser's state go back to the last good ones, and learning rests for a
number of labels that doubles each time. Where the loss shows before the end of that rest that the
last good weights are no better, they are given up, and the network gives the base rate and nothing
else: its body is the one that learning began with, the weights of its head are zero and its bias
follows the base rate until learning goes on. So it is too where there are no good weights.

Weights are good once they have been confirmed. Those of the moment are a candidate each time a
whole window was no worse than the base rate, and they become the good ones if the next window, in
which they were learned from, is so too. What is learned while a poisoning begins is therefore not
among them. What learning starts from counts as good.

What is known of the good weights' loss costs no second network: it is that of the window which
confirmed them. Nothing but a label moves the watch, so it is the same however blocks are cut. A
look never falls within a call over several strides, which ends where the next look is due.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import jax
import msgspec
import numpy as np

from ..config import Config
from ..errors import ConfigurationError
from ..events import Rollback, RollbackReason, RollbackTarget
from ..model.engine import Engine
from ..model.forecaster import Params, constant
from ..model.guard import Caps
from ..model.packing import Packed
from .stream import Stream
from .trees import check_leaves, copies, rebuild

SPELL = 16
"""Labels between two looks: as many as a call over several strides of ten learns from at most."""

LONGEST = 16
"""Times `freeze_labels` that a rest may grow to, so that learning comes back in a bounded time."""

GOOD_ENOUGH = 0.25
"""Part of `rollback_excess` by which weights may be above the base rate and still be good: where
nothing can be learned, learning costs a little. While learning rests, the last good weights have
to stay below the same part, or they are not good for these labels."""


class Spell(msgspec.Struct):
    """Log losses of the model and the base rate, in nats, summed over labels between two looks."""

    loss: float = 0.0
    base: float = 0.0


class Kept(msgspec.Struct):
    """Weights and the optimiser's leaves to go back to; `optimizer` is empty for a fresh state.

    `loss` is the mean log loss in nats of the window that confirmed them, None before one has.
    """

    weights: list[np.ndarray]
    optimizer: list[np.ndarray]
    loss: float | None = None


class Watch(msgspec.Struct):
    """What is known of the learning of one set of weights.

    `labels` and `positives` count all labels, `count` those since the last look, whose log
    losses are in `loss` and `base`; `spells` are those of the window. `refused` is the number of
    updates refused in a row, `rest` the labels that learning last rested for, 0 where it has been
    good since, and `resting` those for which it still does. `based` says whether the base rate
    stands in for the network, and `age` is the number of looks since the candidate was kept.
    """

    good: Kept | None
    candidate: Kept | None = None
    labels: int = 0
    positives: int = 0
    count: int = 0
    loss: float = 0.0
    base: float = 0.0
    spells: list[Spell] = []
    refused: int = 0
    rest: int = 0
    resting: int = 0
    based: bool = False
    age: int = 0

    @property
    def room(self) -> int:
        """Updates that can be made before the next look, none where learning rests."""
        return 0 if self.resting else SPELL - self.count

    def take(self, label: int, loss: float, base_loss: float) -> None:
        """Count a label with the log losses of the model and the base rate."""
        self.labels += 1
        self.positives += label
        self.count += 1
        self.loss += loss
        self.base += base_loss

    def sums(self) -> Spell:
        """Return the sums over the window."""
        return Spell(sum(s.loss for s in self.spells), sum(s.base for s in self.spells))


def copy_of(watch: Watch | None) -> Watch | None:
    """Return a copy that stays as it is: what a watch refers to is replaced, never written to."""
    if watch is None:
        return None
    return msgspec.structs.replace(watch, spells=list(watch.spells))


class Learned(msgspec.Struct):
    """Weights, packed, and the optimiser's state, which move together, and the watch over them.

    `optimizer` and `watch` are None where nothing is learned, `watch` also where nothing is rolled
    back.
    """

    weights: tuple[Any, ...]
    optimizer: Any
    watch: Watch | None = None


class Guard:
    """Looks at the learning of a session.

    initial: the weights that learning starts from, if not from random ones. Raises
    ConfigurationError where they are larger than an update may make them.
    """

    def __init__(self, config: Config, engine: Engine, initial: Params | None) -> None:
        learning = config.learning
        self.on = learning.learn and learning.rollback_window > 0
        self._engine = engine
        self._shared = config.model.sharing == "shared"
        self._start: Params = initial or engine.init_weights()
        self._packed = engine.pack(self._start)
        if learning.learn and engine.members is None:
            _check_start(self._start, Caps.of(learning).weights)
        self._window = -(-learning.rollback_window // SPELL)
        self._rest = -(-learning.freeze_labels // SPELL) * SPELL
        self._longest = LONGEST * self._rest
        self._excess = learning.rollback_excess
        # A bank learns on where one member is refused: the mixture leaves that one out.
        self._refusals = learning.rollback_refusals if engine.members is None else 0

    def watch(
        self, weights: list[np.ndarray] | None = None, optimizer: Sequence[np.ndarray] = ()
    ) -> Watch | None:
        """Return a watch over learning that begins, None where there is none.

        weights, optimizer: the leaves of what counts as good, if not what learning starts from.
        """
        good = Kept(weights or list(self._packed), list(optimizer))
        return Watch(good) if self.on else None

    def look(
        self, learned: Learned, streams: Iterable[Stream], stream: Stream, n: int
    ) -> Rollback | None:
        """Look at a whole spell whose last label is that of prediction n; roll back if need be.

        `streams` are all of the session's. Returns what was done, None for nothing.
        """
        watch = learned.watch
        assert watch is not None
        watch.spells.append(Spell(watch.loss, watch.base))
        del watch.spells[: -self._window]
        watch.loss = watch.base = 0.0
        watch.count = 0
        rested = watch.resting > 0
        watch.resting = max(watch.resting - SPELL, 0)
        if watch.based and rested:
            learned.weights = self._base_rate(watch)
            self._wake(watch)
            return None
        reason = self._harm(watch, GOOD_ENOUGH if rested else 1.0)
        if reason is not None:
            stream.count("rollbacks")
            for user in streams if self._shared else (stream,):
                self._start_state(user)
            return self._roll_back(learned, reason, rested, (stream.name, n))
        if rested:
            self._wake(watch)
        else:
            self._keep(learned, watch)
        return None

    def _wake(self, watch: Watch) -> None:
        """Begin to learn and to compare anew, where the rest is over."""
        if not watch.resting:
            watch.based, watch.spells, watch.age = False, [], 0

    def _harm(self, watch: Watch, part: float) -> RollbackReason | None:
        """Return why the learning of the window does harm, None where it does not.

        part: of the excess that is let pass.
        """
        if 0 < self._refusals <= watch.refused:
            return "refusals"
        sums, labels = watch.sums(), self._window * SPELL
        above = sums.loss - sums.base
        if above > part * self._excess * labels:
            return "base-rate"
        good = _loss(watch.good)
        whole = len(watch.spells) == self._window
        if whole and good is not None and above > 0:
            far = sums.loss > (good + 2.0 * self._excess) * labels
            return "last-good" if far else None
        return None

    def _keep(self, learned: Learned, watch: Watch) -> None:
        """Keep the weights of the moment, and confirm those of a window before."""
        watch.age += 1
        if watch.age < self._window or len(watch.spells) < self._window:
            return
        sums, labels = watch.sums(), self._window * SPELL
        confirmed, watch.candidate, watch.age = watch.candidate, None, 0
        if sums.loss - sums.base > GOOD_ENOUGH * self._excess * labels:
            return
        if confirmed is not None:
            watch.good = msgspec.structs.replace(confirmed, loss=sums.loss / labels)
            watch.rest = 0
        watch.candidate = Kept(list(learned.weights), copies(learned.optimizer))

    def _roll_back(
        self,
        learned: Learned,
        reason: RollbackReason,
        rested: bool,
        at: tuple[str, int],
    ) -> Rollback:
        watch = learned.watch
        assert watch is not None
        sums, labels = watch.sums(), len(watch.spells) * SPELL
        good_loss = _loss(watch.good)
        if rested:
            watch.good = None
        to: RollbackTarget = "base-rate" if watch.good is None else "last-good"
        if watch.good is None:
            learned.weights = self._base_rate(watch)
            learned.optimizer = self._engine.init_optimizer(self._start)
        else:
            learned.weights = rebuild(self._packed, watch.good.weights)
            learned.optimizer = self._optimizer(watch.good)
        if not rested:
            watch.rest = min(2 * watch.rest, self._longest) or self._rest
        watch.resting = watch.rest
        watch.based, watch.candidate = to == "base-rate", None
        watch.spells, watch.refused, watch.age = [], 0, 0
        means = sums.loss / labels, sums.base / labels
        return Rollback(*at, reason, to, watch.resting, *means, good_loss)

    def _base_rate(self, watch: Watch) -> Packed:
        """Return the weights that give the base rate of all labels so far."""
        p = (watch.positives + 0.5) / (watch.labels + 1.0)
        return self._engine.pack(constant(self._start, p))

    def _optimizer(self, kept: Kept) -> Any:
        """Return an optimiser's state in memory of its own, to which a call may write."""
        fresh = self._engine.init_optimizer(self._start)
        if not kept.optimizer:
            return fresh
        return rebuild(fresh, kept.optimizer)

    def _start_state(self, stream: Stream) -> None:
        """Start the network's state afresh: weights that are gone made it. The scaler's stays."""
        scaler = self._engine.scaler_size
        stream.carry.host[scaler:] = self._engine.init_carry()[scaler:]
        assert stream.side is not None
        stream.side.trace = self._engine.init_trace()


def _check_start(weights: Params, most: float) -> None:
    flat = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(weights)])
    size = float(np.sqrt(np.square(flat, dtype=np.float64).mean()))
    if size > most:
        raise ConfigurationError(
            f"the weights that learning starts from have a root mean square of {size:.3g}, above "
            f"max_weights={most:g}, so that nothing could be learned: raise it, or leave it at 0",
            key="max_weights",
        )


def _loss(kept: Kept | None) -> float | None:
    return None if kept is None else kept.loss


def check_kept(watch: Watch | None, weights: Any, optimizer: Any) -> None:
    """Check that what a watch keeps has the shapes of `weights` and an `optimizer`'s state.

    Raises SnapshotError where it has not.
    """
    for kept in () if watch is None else (watch.good, watch.candidate):
        if kept is not None:
            check_leaves(weights, kept.weights)
            if kept.optimizer:
                check_leaves(optimizer, kept.optimizer)
