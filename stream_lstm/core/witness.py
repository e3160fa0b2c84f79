"""What each stage of a session did, written down byte by byte, so that two runs can be compared.

A witness observes a session and listens to it, changes nothing, and enters in the book of a stage

* `features`: each element, and each tick that made none;
* `scaler`: the scaler's state before each call of the engine, and the elements of the call;
* `predictions`: the raw probabilities (and, while learning, what else a row holds) of each
  element, or of each window;
* `updates`: the inputs of each update, and the weights that it returned;
* `calibration`: each published prediction, which a mixture or a calibration may have made of raw
  ones, and each that expired;
* `scores`: each score, which holds what the plain forecasters gave.

Updates and roll-backs are reported at the end of a block, and so have a book of their own.
Where a block is cut has no meaning, so that the books of a run that ends after element n are the
beginnings of those of any run that had the same elements up to n, if nothing looks ahead.
"""

from __future__ import annotations

import hashlib
from typing import Any, NamedTuple, TypeAlias

import jax
import msgspec
import numpy as np
import numpy.typing as npt

from ..events import Expiry, Output, Prediction, Refusal, Rollback, Score, Update
from .session import Session

Floats: TypeAlias = npt.NDArray[np.float32]

STAGES = ("features", "scaler", "predictions", "updates", "calibration", "scores")
"""In the order in which one takes from the other."""


BOOKS = {stage: (stage,) for stage in STAGES} | {"updates": ("updates", "reports")}
"""The books of each stage."""


class Entry(NamedTuple):
    """What a stage did for element `n`, or when that was the last one stepped."""

    n: int
    data: bytes


class Call(NamedTuple):
    """One call of the engine: elements `before` + 1 and after it."""

    before: int
    weights: Any
    carry: Floats
    xs: Floats


Books: TypeAlias = dict[str, list[Entry]]


class Witness:
    """Watches one session; `books` holds what was entered since `open`.

    session: of one stream; this becomes its listener. While `writing` is False nothing is entered.
    """

    def __init__(self, session: Session) -> None:
        self.session = session
        self.books: Books = {}
        self.calls: list[Call] = []
        self.elements = 0
        self.writing = True
        self._scaler = 1 + 2 * session.engine.shape.features
        session.emit = self._event
        session.watch(self)
        self.open(0)

    def open(self, n: int, *, writing: bool = True) -> None:
        """Begin new books after element `n`, or none."""
        self.writing = writing
        self.books = {name: [] for names in BOOKS.values() for name in names}
        self.calls = []
        self.elements = n

    def state_at(self, n: int) -> tuple[bytes, bytes]:
        """Return the scaler's state and the network's after element `n`.

        They are made from the start of the call that held it; nothing where no call did.
        """
        for call in self.calls:
            if call.before < n <= call.before + len(call.xs):
                xs = call.xs[: n - call.before]
                body, _ = self.session.engine.advance(call.weights, call.carry, xs)
                return body[: self._scaler].tobytes(), body[self._scaler :].tobytes()
        return b"", b""

    # ---- what the session reports -----------------------------------------------------

    def took(self, t_ns: npt.NDArray[np.int64], values: npt.NDArray[np.float64]) -> None:
        """Take ticks, which the books of a run over the same series need not contain."""

    def made(self, elements: Floats) -> None:
        """Take elements (m, F) of the maker."""
        if not self.writing:
            return
        book = self.books["features"]
        for row in elements:
            self.elements += 1
            book.append(Entry(self.elements, row.tobytes()))

    def stepped(self, before: int, weights: Any, carry: Floats, xs: Floats, rows: Floats) -> None:
        """Take a step over elements xs (m, F) from `carry`, and its rows (m, R)."""
        if not self.writing:
            return
        self.calls.append(Call(before, weights, carry, xs))
        inputs, raw = self.books["scaler"], self.books["predictions"]
        inputs.append(Entry(before + 1, carry[: self._scaler].tobytes()))
        for n, (x, row) in enumerate(zip(xs, rows, strict=True), before + 1):
            inputs.append(Entry(n, x.tobytes()))
            raw.append(Entry(n, row.tobytes()))

    def windowed(self, n: int, p: float) -> None:
        """Take the probability of one window."""
        if self.writing:
            self.books["predictions"].append(Entry(n, np.float32(p).tobytes()))

    def updated(self, n: int, given: tuple[Any, ...], weights: Any, info: Floats) -> None:
        """Take what an update was given, and made of it."""
        if not self.writing:
            return
        hashed = hashlib.sha256()
        for leaf in jax.tree.leaves((given, weights, info)):
            hashed.update(np.asarray(leaf).tobytes())
        self.books["updates"].append(Entry(n, hashed.digest()))

    def refused(self, index: int, reason: str) -> None:
        """Take a tick that the maker made nothing of."""
        if not self.writing:
            return
        self.books["features"].append(Entry(self.elements + 1, f"{index} {reason}".encode()))

    def _event(self, event: Output) -> None:
        match event:
            case Prediction() | Expiry():
                stage = "calibration"
            case Score():
                stage = "scores"
            case Update() | Rollback():
                stage = "reports"
            case Refusal():
                stage = ""  # the maker has told of it
        if stage and self.writing:
            self.books[stage].append(Entry(event.n, msgspec.msgpack.encode(event)))  # type: ignore[union-attr]
