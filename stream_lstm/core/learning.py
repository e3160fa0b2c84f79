"""Learning: what an update is given, when it is made, and what is reported of it.

Publish first, learn afterwards. A label that becomes known is owed an update. All that a stream
is owed is learned after its next publication, in the order in which the labels came, so that no
update is ever between a tick and the prediction that it leads to. New weights serve from the next
element on. What is owed at the end, at a reset and when `settle` is called is learned then.

With labels from the series the tape of an update ends with the newest element whose own target is
known, and every element of it has its target; a learner of published predictions alone looks at
the tape that ends with the labelled one. With labels from outside the tape is that of the
prediction, kept since then, and only its last element has a target.

Trees of arrays as lists of their leaves, and back.

The watch over learning: what to go back to when it does harm, and when.

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

import weakref
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import msgspec
import numpy as np

from ..config import Config
from ..errors import ConfigurationError, SnapshotError
from ..events import Rollback, RollbackReason, RollbackTarget, Update, UpdateReason
from ..model.buffers import Packed, is_key, key_data
from ..model.engine import Engine
from ..model.forecaster import Params, constant
from ..model.optimizers import ACCEPTED, NOT_FINITE, UPDATE_TOO_LARGE, WEIGHTS_TOO_LARGE, Caps
from ..typing import Float32s
from .stream import Owed, Stream, Tape


def leaves(tree: Any) -> list[np.ndarray]:
    """Return the leaves of a tree as arrays, in the order of `jax.tree.leaves`."""
    return [np.asarray(key_data(leaf)) for leaf in jax.tree.leaves(tree)]


def copies(tree: Any) -> list[np.ndarray]:
    """Return copies of the leaves of a tree."""
    return [np.array(key_data(leaf)) for leaf in jax.tree.leaves(tree)]


def check_leaves(like: Any, leaves: list[np.ndarray]) -> None:
    """Raise SnapshotError where the shapes and types of `leaves` are not those of `like`."""
    olds = [key_data(old) for old in jax.tree.leaves(like)]
    if [(n.shape, n.dtype) for n in leaves] != [(o.shape, o.dtype) for o in olds]:
        raise SnapshotError("the snapshot's weights or optimiser state have other shapes")


def rebuild(like: Any, leaves: list[np.ndarray]) -> Any:
    """Return `leaves` in the structure of `like`, where its arrays are, in memory of their own.

    A compiled function takes them as it takes `like`: for arrays on another device, or bound to
    one where `like` is not, JAX would compile it again. `like` is of JAX arrays.

    Raises SnapshotError where their shapes and types are not those of `like`.
    """
    check_leaves(like, leaves)
    olds, structure = jax.tree.flatten(like)
    news = [_placed(old, leaf) for old, leaf in zip(olds, leaves, strict=True)]
    return jax.tree.unflatten(structure, news)


def _placed(old: Any, leaf: np.ndarray) -> Any:
    # `jnp.asarray` would compile a copy for each shape.
    made = jax.device_put(np.array(leaf), old.sharding if old.committed else None)
    return jax.random.wrap_key_data(made, impl=jax.random.key_impl(old)) if is_key(old) else made


SPELL = 16
"""Labels between two looks: as many as a call over several strides of ten learns from at most."""

LONGEST = 16
"""Times `freeze_labels` that a rest may grow to, so that learning comes back in a bounded time."""

GOOD_ENOUGH = 0.25
"""Part of `rollback_excess` by which weights may be above the base rate and still be good: where
nothing can be learned, learning costs a little. While learning rests, the last good weights have
to stay below the same part, or they are not good for these labels."""


class LossSums(msgspec.Struct):
    """Log losses of the model and the base rate, in nats, summed over labels between two looks."""

    loss: float = 0.0
    base: float = 0.0


class GoodWeights(msgspec.Struct):
    """Weights and the optimiser's leaves to go back to; `optimizer` is empty for a fresh state.

    `loss` is the mean log loss in nats of the window that confirmed them, None before one has.
    """

    weights: list[np.ndarray]
    optimizer: list[np.ndarray]
    loss: float | None = None


class LearningMonitor(msgspec.Struct):
    """What is known of the learning of one set of weights.

    `labels` and `positives` count all labels, `count` those since the last look, whose log
    losses are in `loss` and `base`; `spells` are those of the window. `refused` is the number of
    updates refused in a row, `rest` the labels that learning last rested for, 0 where it has been
    good since, and `resting` those for which it still does. `based` says whether the base rate
    stands in for the network, and `age` is the number of looks since the candidate was kept.
    """

    good: GoodWeights | None
    candidate: GoodWeights | None = None
    labels: int = 0
    positives: int = 0
    count: int = 0
    loss: float = 0.0
    base: float = 0.0
    spells: list[LossSums] = []
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

    def sums(self) -> LossSums:
        """Return the sums over the window."""
        return LossSums(sum(s.loss for s in self.spells), sum(s.base for s in self.spells))


def copy_of(watch: LearningMonitor | None) -> LearningMonitor | None:
    """Return a copy that stays as it is: what a watch refers to is replaced, never written to."""
    if watch is None:
        return None
    return msgspec.structs.replace(watch, spells=list(watch.spells))


class LearnerState(msgspec.Struct):
    """Weights, packed, and the optimiser's state, which move together, and the watch over them.

    `optimizer` and `watch` are None where nothing is learned, `watch` also where nothing is rolled
    back.
    """

    weights: tuple[Any, ...]
    optimizer: Any
    watch: LearningMonitor | None = None


class RollbackPolicy:
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
    ) -> LearningMonitor | None:
        """Return a watch over learning that begins, None where there is none.

        weights, optimizer: the leaves of what counts as good, if not what learning starts from.
        """
        good = GoodWeights(weights or list(self._packed), list(optimizer))
        return LearningMonitor(good) if self.on else None

    def look(
        self, learned: LearnerState, streams: Iterable[Stream], stream: Stream, n: int
    ) -> Rollback | None:
        """Look at a whole spell whose last label is that of prediction n; roll back if need be.

        `streams` are all of the session's. Returns what was done, None for nothing.
        """
        watch = learned.watch
        assert watch is not None
        watch.spells.append(LossSums(watch.loss, watch.base))
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

    def _wake(self, watch: LearningMonitor) -> None:
        """Begin to learn and to compare anew, where the rest is over."""
        if not watch.resting:
            watch.based, watch.spells, watch.age = False, [], 0

    def _harm(self, watch: LearningMonitor, part: float) -> RollbackReason | None:
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

    def _keep(self, learned: LearnerState, watch: LearningMonitor) -> None:
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
        watch.candidate = GoodWeights(list(learned.weights), copies(learned.optimizer))

    def _roll_back(
        self,
        learned: LearnerState,
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

    def _base_rate(self, watch: LearningMonitor) -> Packed:
        """Return the weights that give the base rate of all labels so far."""
        p = (watch.positives + 0.5) / (watch.labels + 1.0)
        return self._engine.pack(constant(self._start, p))

    def _optimizer(self, kept: GoodWeights) -> Any:
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


def _loss(kept: GoodWeights | None) -> float | None:
    return None if kept is None else kept.loss


def check_kept(watch: LearningMonitor | None, weights: Any, optimizer: Any) -> None:
    """Check that what a watch keeps has the shapes of `weights` and an `optimizer`'s state.

    Raises SnapshotError where it has not.
    """
    for kept in () if watch is None else (watch.good, watch.candidate):
        if kept is not None:
            check_leaves(weights, kept.weights)
            if kept.optimizer:
                check_leaves(optimizer, kept.optimizer)


REASONS: dict[float, UpdateReason] = {
    NOT_FINITE: "not-finite",
    UPDATE_TOO_LARGE: "update-too-large",
    WEIGHTS_TOO_LARGE: "weights-too-large",
}

COUNTED: dict[UpdateReason, str] = {
    "not-finite": "updates_not_finite",
    "update-too-large": "updates_too_large",
    "weights-too-large": "weights_too_large",
}


class Keeper(Protocol):
    """Copies weights and optimiser before they change; see `snapshot.Frozen`."""

    def keep(self, learned: LearnerState) -> None:
        """Copy what an update is about to take the memory of."""


class Example(NamedTuple):
    """What an update is given; see `model.forecaster.Ensemble`."""

    inputs: Float32s
    starts: Float32s
    targets: Float32s
    share: Float32s
    back: int


class Learning:
    """Makes the updates of a session; `length` is K, 0 where nothing is learned.

    initial: the weights that learning starts from, if not from random ones.
    """

    def __init__(self, config: Config, engine: Engine, initial: Params | None) -> None:
        self.guard = RollbackPolicy(config, engine, initial)
        self.length = engine.tape_length if config.learning.learn else 0
        self._engine = engine
        self._until = config.learning.learn_until
        self._horizon = config.stream.horizon
        self._carried = config.model.mode == "carry"
        self._offsets, self._state = engine.offsets, engine.state
        self.kept_by: list[weakref.ref[Keeper]] = []
        self._ones = np.ones(self.length, np.float32)
        self._last = np.zeros(self.length, np.float32)
        self._last[-1:] = 1.0

    def preserve(self, learned: LearnerState) -> None:
        """Copy what an update takes the memory of, where a snapshot still needs it."""
        if not self.kept_by:
            return
        keepers = [(ref, keeper) for ref in self.kept_by if (keeper := ref()) is not None]
        for _, keeper in keepers:
            keeper.keep(learned)
        if len(keepers) != len(self.kept_by):
            self.kept_by = [ref for ref, _ in keepers]

    def due(self, n: int) -> bool:
        """Return whether a label that becomes known at element n is learned from."""
        return self.length > 0 and (self._until == 0 or n <= self._until)

    def tape(self, tape: Tape, n: int, back: int = 0) -> tuple[Float32s, Float32s]:
        """Return (inputs, starts) of the tape that ends with element n."""
        inputs = tape.inputs(n, self.length)
        if self._carried:
            return inputs, tape.states([n - offset.before(back) for offset in self._offsets])
        return inputs, np.zeros((len(self._offsets), self._state), np.float32)

    def learn(
        self, stream: Stream, users: Iterable[Stream], info: Float32s | None = None
    ) -> list[Update | Rollback]:
        """Learn from what a stream is owed; return what is to be reported.

        users: the streams that have these weights. info: what came of the one update (3,), where
        it has been made already.
        """
        assert stream.side is not None
        reports: list[Update | Rollback] = []
        owed, stream.side.owed = stream.side.owed, []
        for one in owed:
            reports += self._learn(stream, users, one, info)
        return reports

    def _learn(
        self, stream: Stream, users: Iterable[Stream], owed: Owed, info: Float32s | None
    ) -> list[Update | Rollback]:
        learned: LearnerState = stream.learned
        reports: list[Update | Rollback] = []
        if learned.watch is not None:
            learned.watch.take(owed.label, owed.loss, owed.base_loss)
        if learned.watch is not None and learned.watch.resting:
            stream.count("updates_rested")
        else:
            if info is None:
                info = self._update(learned, stream, self._example(stream, owed))
            reports.append(self._report(learned, stream, owed.n, info))
        if learned.watch is not None and learned.watch.count >= SPELL:
            back = self.guard.look(learned, users, stream, owed.n)
            if back is not None:
                reports.append(back)
        return reports

    def _example(self, stream: Stream, owed: Owed) -> Example:
        if owed.inputs is not None and owed.starts is not None:
            return Example(owed.inputs, owed.starts, self._last * owed.label, self._last, 0)
        assert stream.side is not None
        assert stream.side.tape is not None
        tape, end = stream.side.tape, stream.n - self._horizon
        back = end - owed.n
        targets = tape.targets(stream.n, self.length)
        return Example(*self.tape(tape, end, back), targets, self._ones, back)

    def _update(self, learned: LearnerState, stream: Stream, example: Example) -> Float32s:
        side = stream.side
        assert side is not None
        self.preserve(learned)
        learned.weights, learned.optimizer, side.trace, info = self._engine.update(
            learned.weights, learned.optimizer, side.trace, *example
        )
        return info

    def _report(self, learned: LearnerState, stream: Stream, n: int, info: Float32s) -> Update:
        loss, norm, became = info.tolist()
        watch = learned.watch
        if became == ACCEPTED:
            stream.count("updates")
            if watch is not None:
                watch.refused = 0
            return Update(stream.name, n, loss, norm, True)
        if watch is not None:
            watch.refused += 1
        reason = REASONS[became]
        stream.count("updates_refused")
        stream.count(COUNTED[reason])
        return Update(stream.name, n, loss, norm, False, reason)
