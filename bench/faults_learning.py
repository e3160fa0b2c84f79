"""Poisoned learning: with roll-backs, and the same run without them.

The series is a persistent hidden level, most of whose signs can be predicted. After `clean` labels
one fault begins and lasts for `bad` labels:

* learning rate: it is 1e6 from the first label on;
* flipped: in every other spell of a hundred labels each is the opposite of the truth, so that what
  has been learned is always wrong again;
* adversarial: every label is chosen against the prediction;
* inputs x 1e12: the series becomes a million million times as large; once more without scaling.

Log losses are means in nats over the bad labels from the first roll-back on, or over all bad ones
where there was none: of the predictions, of the base rate so far, and of the same labels' numbers
in the run without the guard. `weights` is the largest root mean square that was seen.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from stream_lstm.config import Config, build
from stream_lstm.core.losses import log_loss
from stream_lstm.core.session import Session
from stream_lstm.events import Label, Output, Prediction, Rollback, Score, Ticks, Update
from stream_lstm.feed.synthetic import HiddenLevel

SEED = 0

STRIDE, WINDOW = 10, 100

UNGUARDED = {"max_update": 0.0, "max_weights": 0.0, "rollback_window": 0}

FLIPPED = 100
"""Labels in a row that are flipped, and as many that are not."""

Labeller = Callable[[int, int, float], int]
"""Makes the label that is sent of its number, the true one and the prediction."""


class Attack(NamedTuple):
    """Settings, what becomes of the labels (None: those of the series), and of the inputs."""

    settings: Mapping[str, Any] = {}
    label: Labeller | None = None
    factor: float = 1.0


def flipped(k: int, truth: int, _p: float) -> int:
    """Return the opposite of the truth in every other spell."""
    return truth if k // FLIPPED % 2 else 1 - truth


def adversarial(_k: int, _truth: int, p: float) -> int:
    """Return the label that p was against."""
    return int(p <= 0.5)


ATTACKS: dict[str, Attack] = {
    "learning rate 1e6": Attack({"learning_rate": 1e6}),
    "labels flipped": Attack({"learning_rate": 0.1}, flipped),
    "labels adversarial": Attack({"learning_rate": 0.1}, adversarial),
    "inputs x 1e12": Attack({}, factor=1e12),
    "inputs x 1e12, not scaled": Attack({"scaling": "none"}, factor=1e12),
}


class Run:
    """One run under an attack: `events`, and the largest root mean square of the weights."""

    def __init__(self, attack: Attack, clean: int, bad: int, more: Mapping[str, Any]) -> None:
        self.events: list[Output] = []
        self.weights = 0.0
        self._attack, self._clean = attack, clean
        self.config = self._configured(more)
        self.session = Session(self.config, ["x"], self.events.append)
        count = WINDOW + STRIDE * (clean + bad) + 1
        x = HiddenLevel(SEED, phi=0.99, noise=0.3).block(count)
        self.first_bad = WINDOW + STRIDE * clean if clean else 0
        x[self.first_bad :] *= attack.factor
        self._push(x)

    def _configured(self, more: Mapping[str, Any]) -> Config:
        labels = "series" if self._attack.label is None else "external"
        given = {"features": ["x"], "learn": True, "labels": labels, "seed": SEED}
        return build(given | dict(self._attack.settings) | dict(more))

    def _push(self, x: np.ndarray) -> None:
        done = 0
        for n in range(WINDOW, len(x), STRIDE):
            part = x[done:n]
            self.session.push(Ticks("a", np.zeros(len(part), np.int64), part))
            done = n
            if self._attack.label is not None:
                said = next(e for e in reversed(self.events) if isinstance(e, Prediction))
                assert said.n == n
                truth = int(x[n, 0] > 0)
                k = (n - self.first_bad) // STRIDE
                y = self._attack.label(k, truth, said.p) if k > 0 else truth
                self.session.label(Label("a", n, y))
            if n % (16 * STRIDE) == 0:
                self.weights = max(self.weights, root_mean_square(self.session))
        self.session.push(Ticks("a", np.zeros(1, np.int64), x[done : done + 1]))

    def of(self, kind: type[Any]) -> list[Any]:
        """Return the events of a kind."""
        return [event for event in self.events if isinstance(event, kind)]

    def losses(self, since: int) -> tuple[float, float]:
        """Return the mean log losses of the predictions and the base rate after element n."""
        scores = [s for s in self.of(Score) if s.n > since]
        base = [log_loss(s.base_rate_p, s.label) for s in scores]
        return float(np.mean([s.log_loss for s in scores])), float(np.mean(base))


def root_mean_square(session: Session) -> float:
    """Return that of the weights of the stream."""
    leaves = [np.asarray(leaf).ravel() for leaf in jax.tree.leaves(session.weights_for("a"))]
    return float(np.sqrt(np.square(np.concatenate(leaves), dtype=np.float64).mean()))


def attacked(name: str, clean: int = 600, bad: int = 1500, **more: Any) -> dict[str, Any]:
    """Make the two runs of an attack; return their figures."""
    attack = ATTACKS[name]
    guarded, bare = Run(attack, clean, bad, more), Run(attack, clean, bad, more | UNGUARDED)
    backs = [back for back in guarded.of(Rollback) if back.n > guarded.first_bad]
    since = backs[0].n if backs else guarded.first_bad
    loss, base = guarded.losses(since)
    p = np.array([event.p for event in guarded.of(Prediction)])
    return {
        "log loss": round(loss, 4),
        "base rate": round(base, 4),
        "without the guard": round(bare.losses(since)[0], 4),
        "roll-backs": len(backs),
        "reasons": ", ".join(dict.fromkeys(f"{b.reason} to {b.to}" for b in backs)),
        "labels to the first": (backs[0].n - guarded.first_bad) // STRIDE if backs else None,
        "updates": sum(event.accepted for event in guarded.of(Update)),
        "refused": sum(not event.accepted for event in guarded.of(Update)),
        "weights": round(guarded.weights, 3),
        "weights without": float(f"{bare.weights:.3g}"),
        "sound": bool(np.isfinite(p).all() and (p >= 0).all() and (p <= 1).all()),
    }


def figures(clean: int = 600, bad: int = 1500) -> dict[str, dict[str, Any]]:
    """Return {attack: figures}."""
    return {name: attacked(name, clean, bad) for name in ATTACKS}
