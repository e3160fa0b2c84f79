"""Plain forecasters in a session, against counts in a dict and a regression in float64."""

from __future__ import annotations

import math
from typing import Any

import jax
import msgspec
import numpy as np
import pytest

from stream_lstm.config import LogisticMember, RegimeMember, TableMember
from stream_lstm.core.session import Session
from stream_lstm.errors import ConfigurationError
from stream_lstm.events import Gap, Label, Prediction, Ticks
from stream_lstm.model.learner import Tape
from stream_lstm.model.plain import bank

from ..engines import engine_for, settings
from .oracle import sigmoid

WINDOW, STRIDE = 6, 5
TABLES = (
    TableMember("rate"),
    TableMember("every rate", targets="every"),
    TableMember("fading", signs=1, fade=7.0),
    TableMember("pattern", signs=3, targets="every"),
    TableMember("fading pattern", signs=2, targets="every", fade=40.0),
    TableMember("longer than the warm-up", signs=9),
)
REGRESSIONS = (
    LogisticMember("lags", lags=3),
    LogisticMember("signs", lags=1, signs=4, q=1e-3),
    LogisticMember("published", lags=12, targets="published", p0=0.05),
)
REGIMES = (
    RegimeMember("sides", lasts=8.0),
    RegimeMember("with the last sign or against it", lasts=30.0, relative=True),
)
Said = dict[str, dict[int, float]]


def newest_first(xs: list[float], length: int) -> list[float]:
    """The last values, with zeros for what came before the first."""
    return [*xs[::-1], *[0.0] * length][:length]


class Table:
    """Decayed counts by pattern of signs."""

    def __init__(self, member: TableMember) -> None:
        self.signs, self.counts = member.signs, {}
        self.keep = math.exp(-1 / member.fade) if member.fade else 1.0

    def seen(self, xs: list[float]) -> tuple[bool, ...]:
        return tuple(x > 0 for x in newest_first(xs, self.signs))

    def p(self, xs: list[float]) -> float:
        no, yes = self.counts.get(self.seen(xs), (0.0, 0.0))
        return (yes + 0.5) / (no + yes + 1)

    def learn(self, examples: list[tuple[list[float], int]]) -> None:
        for xs, y in examples:
            self.counts = {k: [self.keep * c for c in v] for k, v in self.counts.items()}
            self.counts.setdefault(self.seen(xs), [0.0, 0.0])[y] += 1


class Regression:
    """The extended Kalman filter of a logistic output, one label after another."""

    def __init__(self, member: LogisticMember) -> None:
        self.member, size = member, member.lags + member.signs + 1
        self.w, self.cov = np.zeros(size), member.p0 * np.eye(size)

    def seen(self, xs: list[float]) -> np.ndarray:
        values = newest_first(xs, self.member.lags)
        return np.array([*values, *np.sign(newest_first(xs, self.member.signs)), 1.0])

    def p(self, xs: list[float]) -> float:
        return float(sigmoid(self.w @ self.seen(xs)))

    def learn(self, examples: list[tuple[list[float], int]]) -> None:
        start = self.w
        for xs, y in examples:
            g = self.seen(xs)
            guess = sigmoid(start @ g)  # all are linearised where the update began
            v = max(guess * (1 - guess), 0.02)
            gain = self.cov @ g / (g @ self.cov @ g + 1 / v)
            self.w = self.w + gain * ((y - guess) / v - g @ (self.w - start))
            self.cov = self.cov - np.outer(gain, gain) * (g @ self.cov @ g + 1 / v)
        self.cov = self.cov + self.member.q * np.eye(len(g))


class WideRegression(Regression):
    """The same on rows of two features."""

    def __init__(self, member: LogisticMember) -> None:
        super().__init__(member)
        size = 2 * member.lags + member.signs + 1
        self.w, self.cov = np.zeros(size), member.p0 * np.eye(size)

    def seen(self, xs: Any) -> np.ndarray:
        rows = np.concatenate([np.zeros((self.member.lags, 2)), xs])[::-1]
        values = rows[: self.member.lags].ravel()
        return np.array([*values, *np.sign(rows[: self.member.signs, 0]), 1.0])


class Regimes:
    """The forward algorithm over both regimes, kept as their joint weights with the labels."""

    def __init__(self, member: RegimeMember) -> None:
        self.relative, flip = member.relative, 1 / member.lasts
        self.joint, self.moves = np.ones(2), np.array([[1 - flip, flip], [flip, 1 - flip]])
        self.with_regime, self.labels = 60.0, 100.0

    def chances(self) -> np.ndarray:
        """P(label leans to 1) in each regime."""
        lean = min(max(self.with_regime / self.labels, 0.5), 0.999)
        return np.array([lean, 1 - lean])

    def p(self, xs: list[float]) -> float:
        p = float(self.joint @ self.chances() / self.joint.sum())
        return 1 - p if self.relative and xs[-1] <= 0 else p

    def learn(self, examples: list[tuple[list[float], int]]) -> None:
        ((xs, y),) = examples
        one = bool(y) != (self.relative and xs[-1] <= 0)
        after = self.joint * (self.chances() if one else 1 - self.chances())
        self.with_regime += after[0 if one else 1] / after.sum()
        self.labels += 1
        self.joint = self.moves @ after / after.sum()


KINDS = {TableMember: Table, LogisticMember: Regression, RegimeMember: Regimes}


def by_hand(member: Any, parts: list[np.ndarray], horizon: int) -> dict[int, float]:
    """What the member gives at each prediction over parts of a series between resets."""
    model = KINDS[type(member)](member)
    count = STRIDE if getattr(member, "targets", "published") == "every" else 1
    said: dict[int, float] = {}
    n = 0
    for part in parts:
        xs: list[float] = []
        first, due, owed = n, {}, list[int]()

        def learn(xs: list[float], owed: list[int]) -> None:
            """From the labels that became known since the last publication."""
            for at in owed:
                end = len(xs) - horizon if count > 1 else at
                ends = range(end - count + 1, end + 1)
                model.learn([(xs[:end], int(xs[end + horizon - 1] > 0)) for end in ends])
            owed.clear()

        for x in part:
            n += 1
            xs.append(float(x))
            if (at := due.get(n - horizon)) is not None:
                owed.append(at)
            if n - first >= WINDOW and (n - WINDOW) % STRIDE == 0:
                said[n] = model.p(xs)
                due[n] = len(xs)
                learn(xs, owed)
        learn(xs, owed)
    return said


def by_hand_from_outside(member: Any, xs: np.ndarray, labels: list[int]) -> dict[int, float]:
    """The same with a label (K,) for each prediction, which comes two elements after it."""
    model, said, owed = KINDS[type(member)](member), {}, []
    for n in range(1, len(xs) + 1):
        if n >= WINDOW and (n - WINDOW) % STRIDE == 0:
            said[n] = model.p(xs[:n].tolist())
            for example in owed:
                model.learn([example])
            owed = []
        if n - 2 in said:
            owed.append((xs[: n - 2].tolist(), labels[n - 3]))
    return said


def opened(members: Any, columns: tuple[str, ...] = ("x",), **values: Any) -> tuple[Said, Session]:
    config = settings(
        learn=True, bank="plain.toml", publish_experts=True, scaling="none", window=WINDOW,
        stride=STRIDE, on_gap="reset", share=0.01, **values,
    )  # fmt: skip
    said: Said = {member.name: {} for member in members}

    def emit(event: Any) -> None:
        if isinstance(event, Prediction):
            for expert in event.experts:
                said[expert.name][event.n] = expert.p

    engine = engine_for(config, features=len(columns), members=members)
    return said, Session(config, columns, emit, members=members, engine=engine)


def by_session(members: Any, parts: list[np.ndarray], horizon: int) -> Said:
    said, session = opened(members, horizon=horizon)
    for k, part in enumerate(parts):
        if k:
            session.gap(Gap("a", 1, 1))
        for piece in np.split(part, [1, 2, 3, 8, 40]):
            if len(piece):
                session.push(Ticks("a", np.arange(len(piece)), piece[:, None].astype(np.float64)))
    return said


@pytest.mark.slow
@pytest.mark.parametrize("horizon", [1, 7])
@pytest.mark.parametrize(
    ("members", "atol"), [(TABLES, 1e-5), (REGRESSIONS, 2e-4), (REGIMES, 1e-5)]
)
def test_a_plain_forecaster_is_what_it_is_by_hand(members: Any, atol: float, horizon: int) -> None:
    """From the first elements on, and after a reset, which keeps what was learned."""
    xs = np.random.default_rng(3).normal(size=400).astype(np.float32)
    xs[1:] += 0.8 * np.sign(xs[:-1])
    parts = [xs[:170], xs[170:183], xs[183:]]
    found = by_session(members, parts, horizon)
    for member in members:
        wanted = by_hand(member, parts, horizon)
        assert list(found[member.name]) == list(wanted)
        np.testing.assert_allclose(
            list(found[member.name].values()), list(wanted.values()), rtol=0, atol=atol
        )
        assert np.ptp(list(wanted.values())) > 0.05, "it has something to say"


@pytest.mark.parametrize(
    ("members", "atol"), [(TABLES, 1e-5), (REGRESSIONS, 2e-4), (REGIMES, 1e-5)]
)
def test_a_plain_forecaster_learns_one_label_at_a_time_from_outside(
    members: Any, atol: float
) -> None:
    """Labels that are not the signs of the series, and come late."""
    xs = np.random.default_rng(4).normal(size=400).astype(np.float32)
    labels = [int(xs[max(k - 2, 0)] + xs[k] > -0.5) for k in range(len(xs))]
    said, session = opened(members, labels="external")
    for n, x in enumerate(xs, 1):
        session.push(Ticks("a", np.array([n]), np.array([[x]], np.float64)))
        session.catch_up()
        if n - 2 in said[members[0].name]:
            session.label(Label("a", n - 2, labels[n - 3]))
    assert session.streams["a"].counters.updates > 70
    for member in members:
        wanted = by_hand_from_outside(member, xs, labels)
        assert list(said[member.name]) == list(wanted)
        found = list(said[member.name].values())
        np.testing.assert_allclose(found, list(wanted.values()), rtol=0, atol=atol)
        assert np.ptp(found) > 0.05, "it has something to say"


def test_a_regression_of_all_features_is_what_it_is_by_hand() -> None:
    member = LogisticMember("wide", lags=4, signs=2, all_features=True, p0=0.05, q=1e-4)
    xs = np.random.default_rng(5).normal(size=(300, 2)).astype(np.float32)
    xs[3:, 0] += 1.5 * np.sign(xs[:-3, 1])
    said, session = opened((member,), features=["x", "z"], columns=("x", "z"))
    for piece in np.split(xs, [1, 2, 3, 8, 40]):
        session.push(Ticks("a", np.arange(len(piece)), piece.astype(np.float64)))
    model, wanted = WideRegression(member), {}
    for n in range(WINDOW, len(xs) + 1, STRIDE):
        wanted[n] = model.p(xs[:n])
        if n - STRIDE >= WINDOW:
            model.learn([(xs[:end], int(xs[end, 0] > 0)) for end in range(n - STRIDE, n)])
    np.testing.assert_allclose(
        list(said["wide"].values()), list(wanted.values()), rtol=0, atol=2e-4
    )
    right = [(p > 0.5) == (xs[n, 0] > 0) for n, p in wanted.items() if 100 < n < len(xs)]
    assert np.mean(right) > 0.75, "it has found the other feature"


def test_of_one_feature_all_features_are_the_target() -> None:
    xs = np.random.default_rng(6).normal(size=200).astype(np.float32)
    alone = LogisticMember("r", lags=7, signs=3)
    wide = msgspec.structs.replace(alone, all_features=True)
    assert by_session((alone,), [xs], 1) == by_session((wide,), [xs], 1)


def test_with_more_features_a_regression_looks_less_far_back() -> None:
    wide = LogisticMember("wide", lags=100, all_features=True, targets="published")
    config = settings(learn=True, bank="x")
    behind = 9  # a tape ends with the newest known target, nine behind the published one
    tapes = {f: bank(config, f, (wide,)).tape_length - behind for f in (1, 5, 6, 10, 512)}
    assert tapes == {1: 100, 5: 100, 6: 85, 10: 51, 512: 1}
    with pytest.raises(ConfigurationError, match=r"member 'wide'.*512 features at most"):
        bank(config, 513, (wide,))


def test_an_update_that_is_not_finite_leaves_a_plain_forecaster_unchanged() -> None:
    config = settings(learn=True, bank="x", stride=STRIDE, window=WINDOW)
    ensemble = bank(config, 1, (*TABLES[3:4], *REGRESSIONS[:1], *REGIMES))
    weights = ensemble.init()
    xs, ones = np.ones((ensemble.tape_length, 1), np.float32), np.ones(ensemble.tape_length, "f4")
    xs[-1] = np.nan
    starts = np.zeros((len(ensemble.offsets), ensemble.state), np.float32)
    state = ensemble.init_optimizer(weights)
    new, state_after, _, info = jax.jit(ensemble.update)(
        weights, state, ensemble.init_trace(), Tape(xs, starts, ones, ones), 0
    )
    assert info[2] == 0
    pairs = zip(
        jax.tree.leaves((new, state_after)), jax.tree.leaves((weights, state)), strict=True
    )
    assert all(np.asarray(a).tobytes() == np.asarray(b).tobytes() for a, b in pairs)
