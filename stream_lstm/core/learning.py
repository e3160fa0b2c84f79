"""Learning: what an update gets, when it is made, and when learning is rolled back.

A session publishes first and learns afterwards. A label that becomes known makes an update due.
The updates of a stream are made after its next publication, in the order of the labels, so no
update is between a tick and its prediction, and new weights serve from the next element on. A
reset, and `settle` at the end, make the remaining ones.

With labels of the series, the tape of an update ends with the newest element whose own target is
known, and each of its elements has its target. A learner of published predictions alone uses the
tape that ends with the labelled element. With external labels the tape is that of the prediction,
stored since then, and only its last element has a target.

**Rollback.** `RollbackPolicy` checks every `CHECK_EVERY` labels whether learning hurts:

* `refusals`: so many updates in a row were refused that nothing can be learned any more;
* `base-rate`: over the window the log loss per label is `rollback_excess` above the base rate's;
* `last-good`: it is above the base rate's at all, and twice as far above the loss of the last
  good weights.

Then weights and optimiser go back to the last good ones, and learning rests for a number of
labels that doubles each time. If the loss shows during the rest that the last good weights are no
better, they are dropped and the network gives the base rate: it gets the body that learning began
with, a head of zero weights, and a bias that follows the base rate until learning resumes. The
same happens where there are no good weights.

The weights that learning starts from count as good. Later weights become a candidate after each
whole window that was no worse than the base rate, and good if the next window, with learning, was
not worse either. So weights learned while a poisoning begins do not count as good. The loss of
the good weights is that of the window that confirmed them; no second network runs. Only labels
move the monitor, so its decisions do not depend on the cut into blocks. A call over several
strides ends where the next check is due.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import msgspec
import numpy as np

from ..config import Config
from ..errors import ConfigurationError, SnapshotError
from ..events import Rollback, RollbackReason, RollbackTarget, Update, UpdateReason
from ..model.engine import Engine
from ..model.forecaster import Params, constant
from ..model.optimizers import ACCEPTED, NOT_FINITE, UPDATE_TOO_LARGE, WEIGHTS_TOO_LARGE, Caps
from ..model.runtime import Packed, is_key, key_data
from ..typing import Float32s
from .stream import DueUpdate, Stream, Tape

CHECK_EVERY = 16
"""Labels between two checks: as many as one call over several strides of ten learns from."""

MAX_RESTS = 16
"""Times `freeze_labels` that a rest can grow to, so that learning resumes in a bounded time."""

GOOD_ENOUGH = 0.25
"""Share of `rollback_excess` that good weights may be above the base rate: learning costs a little
where nothing can be learned. During a rest the last good weights must stay below the same."""


def leaves(tree: Any) -> list[np.ndarray]:
    """Return the leaves of a tree as arrays, in the order of `jax.tree.leaves`."""
    return [np.asarray(key_data(leaf)) for leaf in jax.tree.leaves(tree)]


def copies(tree: Any) -> list[np.ndarray]:
    """Return copies of the leaves of a tree."""
    return [np.array(leaf) for leaf in leaves(tree)]


def check_leaves(like: Any, leaves: list[np.ndarray]) -> None:
    """Raise SnapshotError where the shapes and types of `leaves` are not those of `like`."""
    olds = [key_data(old) for old in jax.tree.leaves(like)]
    if [(n.shape, n.dtype) for n in leaves] != [(o.shape, o.dtype) for o in olds]:
        raise SnapshotError("the snapshot's weights or optimiser state have other shapes")


def rebuild(like: Any, leaves: list[np.ndarray]) -> Any:
    """Return copies of `leaves` in the structure of `like`, a tree of JAX arrays.

    They are placed where the arrays of `like` are: JAX would compile a function again for arrays
    on another device, or for committed ones in place of uncommitted ones. Raises SnapshotError
    where their shapes and types are not those of `like`.
    """
    check_leaves(like, leaves)
    olds, structure = jax.tree.flatten(like)
    news = []
    for old, leaf in zip(olds, leaves, strict=True):
        # `jnp.asarray` would compile a copy for each shape.
        new: Any = jax.device_put(np.array(leaf), old.sharding if old.committed else None)
        key = is_key(old)
        news.append(jax.random.wrap_key_data(new, impl=jax.random.key_impl(old)) if key else new)
    return jax.tree.unflatten(structure, news)


class LossSums(msgspec.Struct):
    """Log losses of model and base rate in nats, summed over the labels between two checks."""

    loss: float = 0.0
    base: float = 0.0


class GoodWeights(msgspec.Struct):
    """Weights and optimiser leaves to roll back to; `optimizer` is empty for a fresh state.

    `loss` is the mean log loss in nats of the window that confirmed them, None before one did.
    """

    weights: list[np.ndarray]
    optimizer: list[np.ndarray]
    loss: float | None = None


class LearningMonitor(
    msgspec.Struct, rename={"since_check": "count", "window": "spells", "on_base_rate": "based"}
):
    """How the learning of one set of weights goes.

    `labels` and `positives` count all labels; `since_check` counts those since the last check,
    whose losses are in `loss` and `base`; `window` are the sums between the last checks.
    `refused` updates were refused in a row. `rest` is the length of the last rest in labels, 0
    since weights were good again, and `resting` what is left of one. `on_base_rate` says that the
    base rate replaces the network; the candidate is `age` checks old.
    """

    good: GoodWeights | None
    candidate: GoodWeights | None = None
    labels: int = 0
    positives: int = 0
    since_check: int = 0
    loss: float = 0.0
    base: float = 0.0
    window: list[LossSums] = []
    refused: int = 0
    rest: int = 0
    resting: int = 0
    on_base_rate: bool = False
    age: int = 0

    @property
    def updates_left(self) -> int:
        """Updates that can be made before the next check, 0 during a rest."""
        return 0 if self.resting else CHECK_EVERY - self.since_check

    def add(self, label: int, loss: float, base_loss: float) -> None:
        """Count a label with the log losses of model and base rate."""
        self.labels += 1
        self.positives += label
        self.since_check += 1
        self.loss += loss
        self.base += base_loss

    def sums(self) -> LossSums:
        """Return the sums over the window."""
        return LossSums(sum(s.loss for s in self.window), sum(s.base for s in self.window))

    def frozen(self) -> LearningMonitor:
        """Return a copy that does not change: what it refers to is replaced, never written to."""
        return msgspec.structs.replace(self, window=list(self.window))


class LearnerState(msgspec.Struct):
    """Packed weights and the optimiser's state, which change together, and their monitor.

    `optimizer` and `monitor` are None where nothing is learned, `monitor` also without rollbacks.
    """

    weights: tuple[Any, ...]
    optimizer: Any
    monitor: LearningMonitor | None = None


class RollbackPolicy:
    """Checks the learning of a session and rolls it back.

    initial: the weights that learning starts from, None for random ones. Raises
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
        self._window = -(-learning.rollback_window // CHECK_EVERY)
        self._rest = -(-learning.freeze_labels // CHECK_EVERY) * CHECK_EVERY
        self._excess = learning.rollback_excess
        # A bank keeps learning where a member is refused: the mixture gives it no weight.
        self._refusals = learning.rollback_refusals if engine.members is None else 0

    def monitor(
        self, weights: list[np.ndarray] | None = None, optimizer: Sequence[np.ndarray] = ()
    ) -> LearningMonitor | None:
        """Return a new monitor, None without rollbacks.

        weights, optimizer: the leaves that count as good, if not those that learning starts from.
        """
        good = GoodWeights(weights or list(self._packed), list(optimizer))
        return LearningMonitor(good) if self.on else None

    def check(
        self, learner: LearnerState, users: Iterable[Stream], stream: Stream, n: int
    ) -> Rollback | None:
        """Check after the label of prediction n; return the rollback, None without one.

        users: the streams of the session.
        """
        monitor = learner.monitor
        assert monitor is not None
        monitor.window.append(LossSums(monitor.loss, monitor.base))
        del monitor.window[: -self._window]
        monitor.loss = monitor.base = 0.0
        monitor.since_check = 0
        rested = monitor.resting > 0
        monitor.resting = max(monitor.resting - CHECK_EVERY, 0)
        if not (monitor.on_base_rate and rested):
            reason = self._harm(monitor, GOOD_ENOUGH if rested else 1.0)
            if reason is not None:
                stream.count("rollbacks")
                for user in users if self._shared else (stream,):
                    self._reset_state(user)
                return self._roll_back(learner, monitor, reason, rested, (stream.name, n))
        if monitor.on_base_rate and rested:
            learner.weights = self._base_rate(monitor)
        if not rested:
            self._confirm(learner, monitor)
        elif not monitor.resting:  # learning and comparing resume
            monitor.on_base_rate, monitor.window, monitor.age = False, [], 0
        return None

    def _harm(self, monitor: LearningMonitor, part: float) -> RollbackReason | None:
        """Return why the learning of the window hurts, None where it does not.

        part: the share of the excess that is allowed.
        """
        if 0 < self._refusals <= monitor.refused:
            return "refusals"
        sums, labels = monitor.sums(), self._window * CHECK_EVERY
        above = sums.loss - sums.base
        if above > part * self._excess * labels:
            return "base-rate"
        good = None if monitor.good is None else monitor.good.loss
        if len(monitor.window) < self._window or good is None or above <= 0:
            return None
        return "last-good" if sums.loss > (good + 2.0 * self._excess) * labels else None

    def _confirm(self, learner: LearnerState, monitor: LearningMonitor) -> None:
        """After a whole window, confirm the candidate and store the present weights."""
        monitor.age += 1
        if monitor.age < self._window or len(monitor.window) < self._window:
            return
        sums, labels = monitor.sums(), self._window * CHECK_EVERY
        confirmed, monitor.candidate, monitor.age = monitor.candidate, None, 0
        if sums.loss - sums.base > GOOD_ENOUGH * self._excess * labels:
            return
        if confirmed is not None:
            monitor.good = msgspec.structs.replace(confirmed, loss=sums.loss / labels)
            monitor.rest = 0
        monitor.candidate = GoodWeights(list(learner.weights), copies(learner.optimizer))

    def _roll_back(
        self,
        learner: LearnerState,
        monitor: LearningMonitor,
        reason: RollbackReason,
        rested: bool,
        at: tuple[str, int],
    ) -> Rollback:
        sums, labels = monitor.sums(), len(monitor.window) * CHECK_EVERY
        good_loss = None if monitor.good is None else monitor.good.loss
        if rested:
            monitor.good = None
        else:
            monitor.rest = min(2 * monitor.rest, MAX_RESTS * self._rest) or self._rest
        good, fresh = monitor.good, self._engine.init_optimizer(self._start)
        to: RollbackTarget = "base-rate" if good is None else "last-good"
        if good is None:
            learner.weights, learner.optimizer = self._base_rate(monitor), fresh
        else:
            learner.weights = rebuild(self._packed, good.weights)
            learner.optimizer = rebuild(fresh, good.optimizer) if good.optimizer else fresh
        monitor.resting, monitor.on_base_rate = monitor.rest, good is None
        monitor.candidate, monitor.window, monitor.refused, monitor.age = None, [], 0, 0
        means = sums.loss / labels, sums.base / labels
        return Rollback(*at, reason, to, monitor.resting, *means, good_loss)

    def _base_rate(self, monitor: LearningMonitor) -> Packed:
        """Return weights that give the base rate of all labels so far."""
        p = (monitor.positives + 0.5) / (monitor.labels + 1.0)
        return self._engine.pack(constant(self._start, p))

    def _reset_state(self, stream: Stream) -> None:
        """Reset the network's state, which the dropped weights made, but not the scaler's."""
        scaler = self._engine.scaler_size
        stream.carry.host[scaler:] = self._engine.init_carry()[scaler:]
        assert stream.extras is not None
        stream.extras.trace = self._engine.init_trace()


def _check_start(weights: Params, limit: float) -> None:
    flat = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(weights)])
    size = float(np.sqrt(np.square(flat, dtype=np.float64).mean()))
    if size > limit:
        raise ConfigurationError(
            f"the weights that learning starts from have a root mean square of {size:.3g}, above "
            f"max_weights={limit:g}, so no update would pass: raise max_weights, or "
            "use 0 for no limit",
            key="max_weights",
        )


def check_monitor(monitor: LearningMonitor | None, weights: Any, optimizer: Any) -> None:
    """Raise SnapshotError where stored good weights do not have the shapes of `weights`."""
    for good in () if monitor is None else (monitor.good, monitor.candidate):
        if good is not None:
            check_leaves(weights, good.weights)
            if good.optimizer:
                check_leaves(optimizer, good.optimizer)


REASONS: dict[float, tuple[UpdateReason, str]] = {
    NOT_FINITE: ("not-finite", "updates_not_finite"),
    UPDATE_TOO_LARGE: ("update-too-large", "updates_too_large"),
    WEIGHTS_TOO_LARGE: ("weights-too-large", "weights_too_large"),
}
"""The reason and the counter of a refused update, by the code of `model.optimizers`."""


class Learning:
    """Makes the updates of a session.

    initial: the weights that learning starts from, None for random ones. Attributes: `length`, the
    length K of a tape, 0 where nothing is learned; `snapshots`, references to frozen states that
    need a copy of the optimiser before it changes, see `snapshot.Frozen`.
    """

    def __init__(self, config: Config, engine: Engine, initial: Params | None) -> None:
        self.rollback = RollbackPolicy(config, engine, initial)
        self.length = engine.tape_length if config.learning.learn else 0
        self.snapshots: list[weakref.ref[Any]] = []
        self._engine = engine
        self._until = config.learning.learn_until
        self._horizon = config.stream.horizon
        self._carried = config.model.mode == "carry"
        self._ones = np.ones(self.length, np.float32)
        self._last = np.zeros(self.length, np.float32)
        self._last[-1:] = 1.0

    def preserve(self, learner: LearnerState) -> None:
        """Copy the optimiser's state for the snapshots, before an update takes its memory."""
        if self.snapshots:
            for ref in self.snapshots:
                if (frozen := ref()) is not None:
                    frozen.preserve(learner)
            self.snapshots = [ref for ref in self.snapshots if ref() is not None]

    def due(self, n: int) -> bool:
        """Return whether a label that becomes known at element n is learned from."""
        return self.length > 0 and (self._until == 0 or n <= self._until)

    def tape(self, tape: Tape, n: int, back: int = 0) -> tuple[Float32s, Float32s]:
        """Return (inputs, starts) of the tape that ends with element n."""
        inputs, offsets = tape.inputs(n, self.length), self._engine.offsets
        if self._carried:
            return inputs, tape.states([n - offset.before(back) for offset in offsets])
        return inputs, np.zeros((len(offsets), self._engine.state), np.float32)

    def learn(
        self, stream: Stream, users: Iterable[Stream], info: Float32s | None = None
    ) -> list[Update | Rollback]:
        """Make the updates of a stream that are due; return what to report.

        users: the streams with these weights. info: the result (3,) of an update that the engine
        has made already.
        """
        extras, learner = stream.extras, stream.learner
        assert extras is not None
        monitor: LearningMonitor | None = learner.monitor
        reports: list[Update | Rollback] = []
        updates, extras.updates = extras.updates, []
        for due in updates:
            if monitor is not None:
                monitor.add(due.label, due.loss, due.base_loss)
            if monitor is not None and monitor.resting:
                stream.count("updates_rested")
            else:
                result = self._update(learner, stream, due) if info is None else info
                reports.append(self._report(monitor, stream, due.n, result))
            if monitor is not None and monitor.since_check >= CHECK_EVERY:
                rollback = self.rollback.check(learner, users, stream, due.n)
                reports += [] if rollback is None else [rollback]
        return reports

    def _update(self, learner: LearnerState, stream: Stream, due: DueUpdate) -> Float32s:
        extras, example = stream.extras, self._example(stream, due)
        assert extras is not None
        self.preserve(learner)
        learner.weights, learner.optimizer, extras.trace, info = self._engine.update(
            learner.weights, learner.optimizer, extras.trace, *example
        )
        return info

    def _example(self, stream: Stream, due: DueUpdate) -> tuple[Any, ...]:
        """Return (inputs, starts, targets, share, back) as `model.forecaster.Ensemble` takes."""
        if due.inputs is not None and due.starts is not None:
            return due.inputs, due.starts, self._last * due.label, self._last, 0
        assert stream.extras is not None
        assert stream.extras.tape is not None
        tape, end = stream.extras.tape, stream.n - self._horizon
        back = end - due.n
        targets = tape.targets(stream.n, self.length)
        return *self.tape(tape, end, back), targets, self._ones, back

    def _report(
        self, monitor: LearningMonitor | None, stream: Stream, n: int, info: Float32s
    ) -> Update:
        loss, norm, result = info.tolist()
        accepted = result == ACCEPTED
        if monitor is not None:
            monitor.refused = 0 if accepted else monitor.refused + 1
        if accepted:
            stream.count("updates")
            return Update(stream.name, n, loss, norm, True)
        reason, counter = REASONS[result]
        stream.count("updates_refused")
        stream.count(counter)
        return Update(stream.name, n, loss, norm, False, reason)
