"""Section 1 of the design again: one element at a time, nothing kept small, nothing kept fast.

The engine's single step and its update serve for the numbers; what is fed to them, when, with
which weights, and what is emitted in which order is decided here anew, and a bank is mixed here
by its definition: prior weights times likelihoods, in floats of Python.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from stream_lstm.config import Config, LogisticMember, Member, Members, RegimeMember, TableMember
from stream_lstm.events import Expiry, Gap, Label, Prediction, Refusal, Score, SessionStart, Update
from stream_lstm.model.engine import Engine

from .driving import Action, Tick

LEAST = 2.0**-24
"""No forecaster is believed to be surer than this."""


def tape_length(config: Config, member: Member | None = None) -> int:
    """How many elements the update of the network, or of a bank's member, looks back over."""
    stride = config.stream.stride
    if isinstance(member, TableMember | LogisticMember):
        labels = min(stride, config.stream.window) if member.targets == "every" else 1
        lags = member.signs
        if isinstance(member, LogisticMember):
            lags = max(lags, member.lags)
        return max(lags, 1) + labels - 1
    if config.model.mode == "window":
        return config.stream.window
    own = {} if member is None else {k: getattr(member, k) for k in ("gradient", "bptt")}
    method = own.get("gradient") or config.learning.gradient
    optimizer = (member and member.optimizer) or config.learning.optimizer
    if method == "auto":
        series = config.stream.labels == "series" and stride <= config.stream.window
        method = "hybrid" if optimizer == "dekf" and series else "bptt"
    return (own.get("bptt") or config.learning.bptt) if method == "bptt" else stride


def published(config: Config, member: Member | None = None) -> bool:
    """Whether a network or a member learns from the labels of published predictions alone."""
    if isinstance(member, RegimeMember):
        return True
    if isinstance(member, TableMember | LogisticMember):
        return member.targets == "published"
    targets = (member and member.targets) or config.learning.targets
    return targets == "published" and config.stream.labels == "series"


class Reference:
    """One stream; `events` are tuples of the fields that matter."""

    def __init__(self, config: Config, engine: Engine, members: Members | None = None) -> None:
        self.config, self.engine = config, engine
        self.window_mode = config.model.mode == "window"
        self.external = config.stream.labels == "external"
        self.learn = config.learning.learn
        series = config.stream.labels == "series"
        slack = -config.stream.horizon % config.stream.stride if series else 0
        self.tapes = [
            (tape_length(config, member), published(config, member))
            for member in members or [None]
        ]
        self.K = max(length + slack * late for length, late in self.tapes)
        self.names = [member.name for member in members or ()]
        self.mixture = [1.0 / len(self.names) for _ in self.names]
        self.weights = engine.pack(engine.init_weights())
        self.optimizer = engine.init_optimizer(engine.init_weights()) if self.learn else None
        self.events: list[tuple[Any, ...]] = []
        self.n = 0
        self.gap_at: int | None = None
        self.publisher = ""
        self.labels: list[tuple[int, int]] = []  # (label, last label known when predicted)
        self.last_label = -1
        self.opened = False
        self.held: dict[int, list[Any]] = {}  # n -> [label, its time, when it counts, prediction]
        self.early: dict[int, tuple[int, int]] = {}
        self.told: dict[int, int] = {}  # every label that counted, -1 for predictions expired
        self.owed: list[tuple[int, int, Any]] = []  # labels to learn from: n, label, tape
        stream = config.stream
        self.back = 0 if self.external else -stream.horizon % stream.stride
        self.reset()

    def reset(self) -> None:
        self.fresh = self.n
        self.last_x: float | None = None
        self.carry: Any = self.engine.init_carry()
        self.scaled: dict[int, np.ndarray] = {}
        self.state: dict[int, np.ndarray] = {}
        self.trace = self.engine.init_trace() if self.learn else None
        self.positive: dict[int, int] = {}
        self.waiting: dict[int, tuple[Any, ...]] = {}
        self.made_at: dict[int, int] = {}

    # ---- input --------------------------------------------------------------------------

    def take(self, action: Action) -> None:
        self.opened |= not isinstance(action, Label)
        if isinstance(action, Tick):
            self.tick(*action)
        elif isinstance(action, Label):
            self.label(action)
        elif isinstance(action, Gap):
            self.interrupt()
        elif isinstance(action, SessionStart) and action.session != self.publisher:
            self.publisher = action.session
            if self.n:
                self.interrupt(restarted=True)

    def interrupt(self, *, restarted: bool = False) -> None:
        self.gap_at = self.n
        if restarted or self.config.stream.on_gap == "reset":
            self.settle(math.inf)
            for n in list(self.waiting):
                self.expire(n)
        if self.config.stream.on_gap == "reset":
            self.learn_owed()
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
            if self.learns():
                self.owed.append((n - h, y, None))
        p = self.step(np.array([f], np.float32))
        W, S = self.config.stream.window, self.config.stream.stride
        if n - self.fresh >= W and (n - W) % S == 0:
            self.predict(p, t_ns)
            self.learn_owed()
        if self.external:
            self.time_passes(t_ns)

    # ---- labels from outside -------------------------------------------------------------

    def time_passes(self, t_ns: int) -> None:
        stream = self.config.stream
        for n in list(self.waiting):  # in order: one that may stay keeps the later ones
            aged = stream.label_expiry and self.n - n >= stream.label_expiry
            waited = (t_ns - self.made_at[n]) / 1e9
            if not aged and not (stream.label_expiry_s and waited >= stream.label_expiry_s):
                break
            self.expire(n)
        self.settle(self.n)

    def expire(self, n: int) -> None:
        del self.waiting[n]
        self.told[n] = -1
        self.events.append(("expiry", n))

    def label(self, label: Label) -> None:
        if not self.external or not self.opened or not self.accepts(label):
            self.events.append(("refusal", "label"))
        self.settle(self.n)

    def accepts(self, label: Label) -> bool:
        n, stream = label.n, self.config.stream
        last_wins = stream.revisions == "last"
        if stream.threshold is None:
            if label.y not in (0, 1):
                return False
            y = int(label.y)
        elif not math.isfinite(label.y):
            return False
        else:
            y = int(label.y > stream.threshold)
        if n in self.waiting:
            self.hold(n, y, label.t_ns)
            return True
        if n in self.held:
            changes = self.held[n][0] != y
            if changes:
                self.held[n][:2] = y, label.t_ns
            return changes
        W, S = stream.window, stream.stride
        to_come = n > self.n and n >= self.fresh + W and (n - W) % S == 0
        if not to_come or n in self.told or n < W:
            return False
        known = self.early.get(n)
        if known is None and len(self.early) >= stream.max_pending:
            return False
        if known is not None and (known[0] == y or not last_wins):
            return False
        self.early[n] = y, label.t_ns
        return True

    def hold(self, n: int, y: int, t_ns: int) -> None:
        stream = self.config.stream
        later = stream.label_hold if stream.revisions == "last" else 0
        self.held[n] = [y, t_ns, self.n + later, self.waiting.pop(n)]

    def settle(self, until: float) -> None:
        for n, (y, t_ns, counts_at, prediction) in list(self.held.items()):
            if counts_at > until:
                return
            del self.held[n]
            self.told[n] = y
            self.last_label = y
            self.score(n, y, t_ns, prediction)
            if self.learns():
                self.owed.append((n, y, prediction[-1]))

    # ---- learning -----------------------------------------------------------------------

    def learn_owed(self) -> None:
        """Learn from the labels that became known since the last publication."""
        owed, self.owed = self.owed, []
        for n, y, tape in owed:
            if tape is not None:
                last = [0] * (self.K - 1)
                self.update(n, *tape, [*last, y], [*last, 1], 0)
                continue
            h = self.config.stream.horizon
            end = self.n - h  # the newest element whose own next value is known
            stretch = range(end - self.K + 1, end + 1)
            targets = [self.positive.get(m + h, 0) for m in stretch]
            self.update(n, *self.tape(end, end - n), targets, [1] * self.K, end - n)

    # ---- what follows from it -----------------------------------------------------------

    def learns(self) -> bool:
        until = self.config.learning.learn_until
        return self.learn and (until == 0 or self.n <= until)

    def step(self, f: np.ndarray) -> list[float] | None:
        self.carry, rows = self.engine.advance(self.weights, self.carry, f[None])
        row = rows[0]
        if self.window_mode:
            self.scaled[self.n] = row
            return None
        count = max(len(self.names), 1)
        self.scaled[self.n], self.state[self.n] = row[count : count + 1], row[count + 1 :]
        return [float(p) for p in row[:count]]

    def mix(self, ps: list[float]) -> float:
        if not self.names:
            return ps[0]
        bounded = [min(max(p, LEAST), 1 - LEAST) for p in ps]
        mixed = math.fsum(w * p for w, p in zip(self.mixture, bounded, strict=True))
        return float(np.float32(mixed))

    def reweigh(self, ps: list[float], y: int) -> None:
        bounded = [min(max(p, LEAST), 1 - LEAST) for p in ps]
        joint = [w * (p if y else 1 - p) for w, p in zip(self.mixture, bounded, strict=True)]
        share, total = self.config.learning.share, math.fsum(joint)
        self.mixture = [(1 - share) * w / total + share / len(ps) for w in joint]

    def predict(self, ps: list[float] | None, t_ns: int) -> None:
        n, W = self.n, self.config.stream.window
        if ps is None:
            ps = [self.engine.window(self.weights, self.inputs(n, W))]
        p = self.mix(ps)
        k, m = sum(y for y, _ in self.labels), len(self.labels)
        last = self.last_label if self.external else self.positive[n]
        repeats = (sum(y == before for y, before in self.labels) + 0.5) / (m + 1)
        last_p = {-1: 0.5, 0: 1 - repeats, 1: repeats}[last]
        if self.external and len(self.waiting) == self.config.stream.max_pending:
            self.expire(min(self.waiting))
        tape = self.tape(n) if self.learn else None
        self.waiting[n] = p, (k + 0.5) / (m + 1), last_p, last, ps, tape
        # The element after a gap spans it, so the state has seen W whole ones at gap + W + 1.
        flagged = self.gap_at is not None and n - self.gap_at <= W
        said = []
        if self.config.learning.publish_experts:
            said = [
                (name, float(np.float32(weight)), one)
                for name, weight, one in zip(self.names, self.mixture, ps, strict=True)
            ]
        self.events.append(("prediction", n, t_ns, p, flagged, said))
        self.made_at[n] = t_ns
        if n in self.early:
            self.hold(n, *self.early.pop(n))
        for missed in [m for m in self.early if m < n]:
            del self.early[missed]
            self.events.append(("refusal", "label"))

    def score(self, n: int, y: int, t_ns: int, prediction: Any = None) -> None:
        p, base_p, last_p, last, ps, _ = prediction or self.waiting.pop(n)
        if self.names and self.learns():
            self.reweigh(ps, y)
        loss = -math.log(max(p if y else 1 - p, LEAST))
        self.labels.append((y, last))
        self.events.append(("score", n, t_ns, p, y, loss, base_p, last_p))

    def inputs(self, n: int, length: int) -> np.ndarray:
        nothing = np.zeros(1, np.float32)  # before a stream's first element
        stretch = range(n - length + 1, n + 1)
        return np.array([self.scaled.get(m, nothing) for m in stretch], np.float32)

    def tape(self, n: int, back: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """The inputs, and the states before the last of them, as many as each member asks for.

        A member that learns from published predictions alone counts from `back` elements earlier.
        """
        zero = np.zeros(self.engine.state, np.float32)
        before = [k + back * late for k, late in sorted(set(self.tapes))]
        starts = [zero if self.window_mode else self.state.get(n - k, zero) for k in before]
        return self.inputs(n, self.K), np.array(starts, np.float32)

    def update(
        self, n: int, xs: Any, starts: Any, targets: list[int], share: list[int], back: int
    ) -> None:
        self.weights, self.optimizer, self.trace, info = self.engine.update(
            self.weights,
            self.optimizer,
            self.trace,
            xs,
            starts,
            np.array(targets, np.float32),
            np.array(share, np.float32),
            back,
        )
        self.events.append(("update", n, float(info[0]), float(info[1]), bool(info[2])))


def as_tuple(event: Any) -> tuple[Any, ...]:
    """The fields of an event that the reference foretells."""
    match event:
        case Prediction():
            said = [(e.name, float(np.float32(e.weight)), e.p) for e in event.experts]
            return "prediction", event.n, event.t_ns, event.p, event.after_gap, said
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
