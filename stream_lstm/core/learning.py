"""Learning: what an update is given, when it is made, and what is reported of it.

Publish first, learn afterwards. A label that becomes known is owed an update. All that a stream
is owed is learned after its next publication, in the order in which the labels came, so that no
update is ever between a tick and the prediction that it leads to. New weights serve from the next
element on. What is owed at the end, at a reset and when `settle` is called is learned then.

With labels from the series the tape of an update ends with the newest element whose own target is
known, and every element of it has its target; a learner of published predictions alone looks at
the tape that ends with the labelled one. With labels from outside the tape is that of the
prediction, kept since then, and only its last element has a target.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import NamedTuple, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from ..config import Config
from ..events import Rollback, Update, UpdateReason
from ..model.engine import Engine
from ..model.forecaster import Params
from ..model.guard import ACCEPTED, NOT_FINITE, UPDATE_TOO_LARGE, WEIGHTS_TOO_LARGE
from .observer import Observer
from .rollback import SPELL, Guard, Learned
from .stream import Owed, Stream
from .tape import Tape

Floats: TypeAlias = npt.NDArray[np.float32]

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

    def keep(self, learned: Learned) -> None:
        """Copy what an update is about to take the memory of."""


class Example(NamedTuple):
    """What an update is given; see `model.forecaster.Ensemble`."""

    inputs: Floats
    starts: Floats
    targets: Floats
    share: Floats
    back: int


class Learning:
    """Makes the updates of a session; `length` is K, 0 where nothing is learned.

    initial: the weights that learning starts from, if not from random ones.
    """

    def __init__(self, config: Config, engine: Engine, initial: Params | None) -> None:
        self.observer: Observer | None = None
        self.guard = Guard(config, engine, initial)
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

    def preserve(self, learned: Learned) -> None:
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

    def tape(self, tape: Tape, n: int, back: int = 0) -> tuple[Floats, Floats]:
        """Return (inputs, starts) of the tape that ends with element n."""
        inputs = tape.inputs(n, self.length)
        if self._carried:
            return inputs, tape.states([n - offset.before(back) for offset in self._offsets])
        return inputs, np.zeros((len(self._offsets), self._state), np.float32)

    def learn(
        self, stream: Stream, users: Iterable[Stream], info: Floats | None = None
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
        self, stream: Stream, users: Iterable[Stream], owed: Owed, info: Floats | None
    ) -> list[Update | Rollback]:
        learned: Learned = stream.learned
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

    def _update(self, learned: Learned, stream: Stream, example: Example) -> Floats:
        side = stream.side
        assert side is not None
        given = None if self.observer is None else (np.array(side.trace), *example)
        self.preserve(learned)
        learned.weights, learned.optimizer, side.trace, info = self._engine.update(
            learned.weights, learned.optimizer, side.trace, *example
        )
        if self.observer is not None and given is not None:
            self.observer.updated(stream.n, given, learned.weights, info)
        return info

    def _report(self, learned: Learned, stream: Stream, n: int, info: Floats) -> Update:
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
