"""What each stage of a session did, written down byte by byte, so that two runs can be compared.

A witness stands between the session and its element maker, its engine and its listener, changes
nothing that passes, and enters in the book of the stage

* `features`: each element, and each tick that made none;
* `scaler`: the scaler's state before each call of the engine, and the elements of the call;
* `predictions`: the raw probabilities (and, while learning, what else a row holds) of each
  element, or of each window;
* `updates`: what each update was given, the weights that came of it, and its event;
* `calibration`: each published prediction, which a mixture or a calibration may have made of raw
  ones, and each that expired;
* `scores`: each score, which holds what the plain forecasters gave.

Where a block is cut has no meaning, so that the books of a run that ends after element n are the
beginnings of those of any run that had the same elements up to n, if nothing looks ahead.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
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

    session: of one stream; its maker, engine and listener are replaced by ones that tell. emit:
    where events go on to, if anywhere. While `writing` is False nothing is entered.
    """

    def __init__(self, session: Session, emit: Callable[[Output], object] | None = None) -> None:
        self.session = session
        self.books: Books = {}
        self.calls: list[Call] = []
        self.elements = 0
        self.writing = True
        self._n = 0
        self._emit = emit
        self._scaler = 1 + 2 * session.engine.shape.features
        session.emit = self._event
        session.maker = _Maker(session.maker, self)  # type: ignore[assignment]
        session.engine = _Engine(session.engine, self)  # type: ignore[assignment]
        self.open(0)

    def open(self, n: int, *, writing: bool = True) -> None:
        """Begin new books after element `n`, or none."""
        self.writing = writing
        self.books = {stage: [] for stage in STAGES}
        self.calls = []
        self.elements = self._n = n

    def state_at(self, n: int) -> tuple[bytes, bytes]:
        """Return the scaler's state and the network's after element `n`.

        They are made from the start of the call that held it; nothing where no call did.
        """
        for call in self.calls:
            if call.before < n <= call.before + len(call.xs):
                xs = call.xs[: n - call.before]
                carry, _ = self.session.engine.whole.block(call.weights, call.carry, xs)  # type: ignore[attr-defined]
                body = np.asarray(carry)
                return body[: self._scaler].tobytes(), body[self._scaler :].tobytes()
        return b"", b""

    # ---- what the three stand-ins tell ------------------------------------------------

    def made(self, elements: Floats) -> None:
        """Take elements (m, F) of the maker."""
        if not self.writing:
            return
        book = self.books["features"]
        for row in elements:
            self.elements += 1
            book.append(Entry(self.elements, row.tobytes()))

    def stepped(self, weights: Any, carry: Floats, xs: Floats, rows: Floats) -> None:
        """Take a call over elements xs (m, F) from `carry`, and its rows (m, R)."""
        if not self.writing:
            return
        xs = np.array(xs, np.float32)
        self.calls.append(Call(self._n, weights, carry, xs))
        scaler = carry[: self._scaler].tobytes()
        self.books["scaler"].append(Entry(self._n + 1, scaler))
        inputs, raw = self.books["scaler"], self.books["predictions"]
        for x, row in zip(xs, rows, strict=True):
            self._n += 1
            inputs.append(Entry(self._n, x.tobytes()))
            raw.append(Entry(self._n, row.tobytes()))

    def windowed(self, p: float) -> None:
        """Take the probability of one window."""
        if self.writing:
            self.books["predictions"].append(Entry(self._n, np.float32(p).tobytes()))

    def updated(self, given: tuple[Any, ...], weights: Any, info: Any) -> None:
        """Take what an update was given, and made of it."""
        if not self.writing:
            return
        hashed = hashlib.sha256()
        for leaf in jax.tree.leaves((given, weights, info)):
            hashed.update(np.asarray(leaf).tobytes())
        self.books["updates"].append(Entry(self._n, hashed.digest()))

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
                stage = "updates"
            case Refusal():
                stage = ""  # the maker has told of it
        if stage and self.writing:
            self.books[stage].append(Entry(event.n, msgspec.msgpack.encode(event)))  # type: ignore[union-attr]
        if self._emit is not None:
            self._emit(event)


class _Maker:
    """An element maker that tells."""

    def __init__(self, maker: Any, witness: Witness) -> None:
        self._maker, self._witness = maker, witness

    def __getattr__(self, name: str) -> Any:
        return getattr(self._maker, name)

    def __len__(self) -> int:
        return len(self._maker)

    def make(
        self, memory: Any, t_ns: Any, values: Any, refused: Callable[[int, str], None]
    ) -> Iterator[tuple[Any, Floats]]:
        def told(index: int, reason: str) -> None:
            self._witness.refused(index, reason)
            refused(index, reason)

        for run_t, elements in self._maker.make(memory, t_ns, values, told):
            self._witness.made(elements)
            yield run_t, elements


class _Engine:
    """An engine that tells; `whole` is the one behind it. It takes strides element by element."""

    exact_strides = False

    def __init__(self, engine: Any, witness: Witness) -> None:
        self.whole, self._witness = engine, witness

    def __getattr__(self, name: str) -> Any:
        return getattr(self.whole, name)

    def step(self, weights: Any, carry: Any, x: Floats) -> Any:
        before = np.array(carry)
        out = self.whole.step(weights, carry, x)
        self._witness.stepped(weights, before, x[None], self.whole.row_of(out)[None])
        return out

    def block(self, weights: Any, carry: Any, xs: Floats) -> tuple[Any, Any]:
        before = np.array(carry)
        out, rows = self.whole.block(weights, carry, xs)
        self._witness.stepped(weights, before, xs, self.whole.rows(rows, len(xs)))
        return out, rows

    def window(self, weights: Any, xs: Floats) -> float:
        p = float(self.whole.window(weights, xs))
        self._witness.windowed(p)
        return p

    def update(self, weights: Any, state: Any, trace: Any, *given: Any) -> tuple[Any, ...]:
        inputs = (np.array(trace), *map(np.array, given))
        out: tuple[Any, ...] = self.whole.update(weights, state, trace, *given)
        self._witness.updated(inputs, out[0], out[3])
        return out
