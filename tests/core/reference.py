"""Section 1 of the design again: one element at a time, nothing kept small, nothing kept fast.

The engine's single step and its update serve for the numbers; what is fed to them, when, with
which weights, and what is emitted in which order is decided here anew.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from stream_lstm.config import Config
from stream_lstm.events import Expiry, Gap, Label, Prediction, Refusal, Score, SessionStart, Update
from stream_lstm.model.engine import Engine

from .driving import Action, Tick


class Reference:
    """One stream; `events` are tuples of the fields that matter."""

    def __init__(self, config: Config, engine: Engine) -> None:
        self.config, self.engine = config, engine
        self.window_mode = config.model.mode == "window"
        self.external = config.stream.labels == "external"
        self.learn = config.learning.learn
        self.K = config.stream.window if self.window_mode else config.learning.bptt
        self.weights = engine.init_weights()
        self.optimizer = engine.init_optimizer(self.weights) if self.learn else None
        self.events: list[tuple[Any, ...]] = []
        self.n = 0
        self.gap_at: int | None = None
        self.publisher = ""
        self.labels: list[tuple[int, int]] = []  # (label, last label known when predicted)
        self.last_label = -1
        self.reset()

    def reset(self) -> None:
        self.fresh = self.n
        self.last_x: float | None = None
        self.carry: Any = self.engine.init_carry()
        self.scaled: dict[int, np.ndarray] = {}
        self.state: dict[int, np.ndarray] = {self.n: np.zeros(self.engine.shape.state, np.float32)}
        self.positive: dict[int, int] = {}
        self.waiting: dict[int, tuple[Any, ...]] = {}

    # ---- input --------------------------------------------------------------------------

    def take(self, action: Action) -> None:
        if isinstance(action, Tick):
            self.tick(*action)
        elif isinstance(action, Label):
            self.label(action)
        elif isinstance(action, Gap):
            self.interrupt()
        elif isinstance(action, SessionStart) and action.session != self.publisher:
            self.publisher = action.session
            if self.n:
                self.interrupt()

    def interrupt(self) -> None:
        self.gap_at = self.n
        if self.config.stream.on_gap == "reset":
            self.events += [("expiry", n) for n in self.waiting]
            self.reset()

    def tick(self, x: float, t_ns: int) -> None:
        if not abs(np.float32(min(max(x, -1e38), 1e38))) < 1e37:  # NaN too
            self.events.append(("refusal", "tick"))
        elif self.config.stream.features == ("x",):
            self.element(np.float32(x), t_ns)
        else:
            before, self.last_x = self.last_x, x
            if before is not None:
                self.element(np.float32(x - before), t_ns)

    def element(self, f: np.float32, t_ns: int) -> None:
        self.n += 1
        n, h = self.n, self.config.stream.horizon
        y = int(f > 0)
        self.positive[n] = y
        labelled = not self.external and n - h in self.waiting
        if labelled:
            self.score(n - h, y, t_ns)
        p = self.step(np.array([f], np.float32))
        W, S = self.config.stream.window, self.config.stream.stride
        if n - self.fresh >= W and (n - W) % S == 0:
            self.predict(p, t_ns)
        if labelled and self.learn:
            tape = range(n - h - self.K + 1, n - h + 1)
            targets = [self.positive[m + h] for m in tape]
            self.update(n - h, *self.tape(n - h), targets, [1] * self.K)

    def label(self, label: Label) -> None:
        if not self.external or label.y not in (0, 1) or label.n not in self.waiting:
            self.events.append(("refusal", "label"))
            return
        tape = self.waiting[label.n][-1]
        self.last_label = label.y
        self.score(label.n, label.y, label.t_ns)
        if self.learn:
            last = [0] * (self.K - 1)
            self.update(label.n, *tape, [*last, label.y], [*last, 1])

    # ---- what follows from it -----------------------------------------------------------

    def step(self, f: np.ndarray) -> float | None:
        self.carry, row = self.engine.step(self.weights, self.carry, f)
        row = np.asarray(row)
        if self.window_mode:
            self.scaled[self.n] = row
            return None
        self.scaled[self.n], self.state[self.n] = row[1:2], row[2:]
        return float(row[0])

    def predict(self, p: float | None, t_ns: int) -> None:
        n, W = self.n, self.config.stream.window
        if p is None:
            p = self.engine.window(self.weights, self.inputs(n, W))
        k, m = sum(y for y, _ in self.labels), len(self.labels)
        last = self.last_label if self.external else self.positive[n]
        repeats = (sum(y == before for y, before in self.labels) + 0.5) / (m + 1)
        last_p = {-1: 0.5, 0: 1 - repeats, 1: repeats}[last]
        if self.external and len(self.waiting) == self.config.stream.max_pending:
            oldest = min(self.waiting)
            del self.waiting[oldest]
            self.events.append(("expiry", oldest))
        tape = self.tape(n) if self.learn else None
        self.waiting[n] = p, (k + 0.5) / (m + 1), last_p, last, tape
        # The element after a gap spans it, so the state has seen W whole ones at gap + W + 1.
        flagged = self.gap_at is not None and n - self.gap_at <= W
        self.events.append(("prediction", n, t_ns, p, flagged))

    def score(self, n: int, y: int, t_ns: int) -> None:
        p, base_p, last_p, last, _ = self.waiting.pop(n)
        loss = -math.log(max(p if y else 1 - p, 2.0**-24))
        self.labels.append((y, last))
        self.events.append(("score", n, t_ns, p, y, loss, base_p, last_p))

    def inputs(self, n: int, length: int) -> np.ndarray:
        return np.array([self.scaled[m] for m in range(n - length + 1, n + 1)], np.float32)

    def tape(self, n: int) -> tuple[np.ndarray, np.ndarray]:
        start = self.state[self.fresh] if self.window_mode else self.state[n - self.K]
        if self.window_mode:
            start = np.zeros_like(start)
        return self.inputs(n, self.K), start

    def update(self, n: int, xs: Any, start: Any, targets: list[int], share: list[int]) -> None:
        self.weights, self.optimizer, info = self.engine.update(
            self.weights,
            self.optimizer,
            xs,
            start,
            np.array(targets, np.float32),
            np.array(share, np.float32),
        )
        self.events.append(("update", n, float(info[0]), float(info[1]), bool(info[2])))


def as_tuple(event: Any) -> tuple[Any, ...]:
    """The fields of an event that the reference foretells."""
    match event:
        case Prediction():
            return "prediction", event.n, event.t_ns, event.p, event.after_gap
        case Score():
            plain = event.base_rate_p, event.last_label_p
            return "score", event.n, event.t_ns, event.p, event.label, event.log_loss, *plain
        case Update():
            return "update", event.n, event.loss, event.grad_norm, event.accepted
        case Expiry():
            return "expiry", event.n
        case Refusal():
            return "refusal", event.kind
    raise AssertionError(event)
