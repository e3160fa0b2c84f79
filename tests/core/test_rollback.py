"""Learning that does harm is taken back, and learning that does not is left alone."""

from __future__ import annotations

from typing import Any

import jax
import msgspec
import numpy as np
import pytest

from stream_lstm.config import build
from stream_lstm.core.learning import CHECK_EVERY
from stream_lstm.core.replay import Digest
from stream_lstm.core.session import SHARED, Session
from stream_lstm.core.snapshot import restore, take
from stream_lstm.errors import ConfigurationError, SnapshotError
from stream_lstm.events import Label, Output, Prediction, Rollback, Score, Ticks, Update
from stream_lstm.feed.synthetic import SOURCES
from stream_lstm.model.engine import Engine

from ..bench_modules import bench_module
from ..engines import SMALL_BANK, engine_for
from ..engines import settings as configuration
from .driving import Action, Run, comparable, drive, state_of, ticks_of

faults = bench_module("faults_learning")
ATTACKS, UNGUARDED, attacked = faults.ATTACKS, faults.UNGUARDED, faults.attacked

NERVOUS: dict[str, Any] = {
    "learn": True,
    "rollback_window": 32,
    "rollback_excess": 0.02,
    "rollback_refusals": 20,
    "freeze_labels": 16,
}
"""A guard that acts often, so that a short series shows it."""

WILD: dict[str, dict[str, Any]] = {
    "adam": {"learning_rate": 0.3},
    "refusals": {"learning_rate": 1e6},
    "filter": {"optimizer": "dekf", "optimizer_args": ["q=1"], "stride": 5},
    "snap1": {"gradient": "snap1", "learning_rate": 0.3, "stride": 5},
    "rtrl": {"gradient": "rtrl", "learning_rate": 0.3, "stride": 5},
    "window": {"mode": "window", "learning_rate": 0.3},
    "until": {"learning_rate": 0.3, "learn_until": 900},
    "shared": {"learning_rate": 0.3, "sharing": "shared"},
    "calibrated, twins": {"learning_rate": 0.5, "calibrate": True, "twins": ["frozen"]},
}


def of(run: Run | list[Output], kind: type) -> list[Any]:
    events = run.events if isinstance(run, Run) else run
    return [event for event in events if isinstance(event, kind)]


def assert_same(one: Run, two: Run) -> None:
    assert comparable(one.events) == comparable(two.events)
    assert state_of(one.session) == state_of(two.session)


def turning(size: int) -> list[Action]:
    """A series whose next sign goes with this one, and then against it, in turns."""
    rng = np.random.default_rng(3)
    xs = np.abs(rng.normal(size=size)) + 0.1
    for k in range(1, size):
        goes_on = (k // 300 % 2 > 0) == (rng.random() < 0.9)
        xs[k] *= np.sign(xs[k - 1]) * (1 if goes_on else -1)
    return list(ticks_of(xs))


# ---- the same bits ----------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("kind", WILD)
def test_rolled_back_runs_have_the_same_bits_cut_and_resumed_anywhere(kind: str) -> None:
    config = configuration(**NERVOUS | {"stride": 2} | WILD[kind])
    actions = turning(1500)
    singly = drive(config, actions, break_at=777)
    whole = drive(config, actions, cuts=(), break_at=1210)
    assert_same(singly, whole)
    assert_same(singly, drive(config, actions, cuts=(7, 333, 334, 801)))
    backs = of(singly, Rollback)
    # how many more there are goes by how the processor rounds
    assert len(backs) == sum(s.counters.rollbacks for s in singly.session.streams.values()) > 1


@pytest.mark.slow
def test_a_bank_rolled_back_has_the_same_bits() -> None:
    members = SMALL_BANK[:3]
    values = NERVOUS | {"stride": 5, "bank": "small.toml", "rollback_excess": 0.005}
    config, actions = configuration(**values), turning(2500)
    singly = drive(config, actions, members=members, break_at=1777)
    assert_same(singly, drive(config, actions, cuts=(), members=members))
    assert of(singly, Rollback)


def test_roll_backs_fall_between_calls_over_several_strides() -> None:
    config, calls = configuration(**NERVOUS, learning_rate=0.3, stride=10), []
    run_strides = Engine.run_strides

    def counting(*given: Any) -> Any:
        calls.append(len(given[4]))
        return run_strides(*given)

    actions = turning(4000)
    engine_for(config)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Engine, "run_strides", counting)
        whole = drive(config, actions, cuts=())
    assert_same(drive(config, actions), whole)
    assert len(of(whole, Rollback)) > 2
    assert calls.count(10 * CHECK_EVERY) > 3


def test_labels_from_outside_are_monitored_too() -> None:
    config = configuration(**NERVOUS, learning_rate=0.3, stride=2, labels="external")
    actions = turning(1200)
    labelled: list[Action] = []
    for k, action in enumerate(actions, 1):
        labelled.append(action)
        if k >= 13 and (k - 13) % 2 == 0:
            labelled.append(Label("a", k - 1, int(action[0] > 0)))  # type: ignore[index,operator]
    one, two = drive(config, labelled, break_at=900), drive(config, labelled, cuts=())
    assert_same(one, two)
    assert len(of(one, Rollback)) > 2


# ---- what happens -----------------------------------------------------------------------


def session_of(**values: Any) -> tuple[Session, list[Output]]:
    config = configuration(**NERVOUS | {"stride": 2} | values)
    events: list[Output] = []
    return Session(config, ["x"], events.append, engine=engine_for(config)), events


def push(session: Session, xs: np.ndarray, stream: str = "a") -> None:
    session.push(Ticks(stream, np.zeros(len(xs), np.int64), np.asarray(xs, float)[:, None]))
    session.catch_up()


def test_a_run_of_refusals_brings_back_what_learning_began_with_and_rests_ever_longer() -> None:
    session, events = session_of(learning_rate=1e6, rollback_excess=1.0)
    push(session, np.random.default_rng(0).normal(size=2600))
    backs = of(events, Rollback)
    assert {(b.reason, b.to) for b in backs} == {("refusals", "last-good")}
    assert [b.frozen for b in backs] == [16, 32, 64, 128, 256, 256, 256, 256]
    assert len(backs) == 8
    assert {u.reason for u in of(events, Update)} == {"update-too-large"}
    counters = session.streams["a"].counters
    assert counters.updates == 0
    assert counters.updates_refused == counters.updates_too_large == 32 * len(backs)
    rested = len(of(events, Score)) - counters.updates_refused
    assert counters.updates_rested == rested
    weights, start = session.weights_for("a"), session.engine.init_weights()
    assert all(np.array_equal(weights[k]["kernel"], start[k]["kernel"]) for k in start)


@pytest.mark.slow
def test_weights_that_no_longer_hold_give_way_to_the_base_rate_until_learning_goes_on() -> None:
    session, events = session_of(
        labels="external", learning_rate=0.03, freeze_labels=64, rollback_window=64
    )
    rng, stand_in, expected = np.random.default_rng(0), [], None
    push(session, rng.normal(size=12))
    for n in range(12, 2400, 2):
        said = next(e for e in reversed(events) if isinstance(e, Prediction))
        assert said.n == n
        if expected is not None:
            stand_in.append((said.p, *expected))
        session.label(Label("a", n, int(said.p <= 0.5)))
        monitor = session.learner_for("a").monitor
        assert monitor is not None
        # The weights of now make the next prediction, and are changed after it.
        base = (monitor.positives + 0.5) / (monitor.labels + 1)
        expected = (base, monitor.since_check) if monitor.on_base_rate else None
        push(session, rng.normal(size=2))
    first = next(b for b in of(events, Rollback) if b.to == "base-rate")
    assert first.log_loss > first.base_rate_log_loss
    assert len(stand_in) >= 64
    for p, base, count in stand_in:
        if count == 0:
            assert p == pytest.approx(base, abs=1e-6)
    resting = [e for e in events if isinstance(e, Update) and first.n < e.n <= first.n + 2 * 64]
    assert not resting


def test_good_weights_are_confirmed_by_a_second_window() -> None:
    session, _ = session_of(learning_rate=1e-3, rollback_excess=1.0)
    xs = np.random.default_rng(0).normal(size=2000)
    start = session.learner_for("a").monitor
    assert start is not None
    seen = []
    for k in range(0, 400, 2):
        push(session, xs[k : k + 2])
        good = session.learner_for("a").monitor.good  # type: ignore[union-attr]
        assert good is not None
        labels = session.streams["a"].scores.labels
        if not seen or seen[-1][1] is not good.weights:
            seen.append((labels, good.weights, good.loss))
    assert [labels for labels, *_ in seen] == [0, 64, 96, 128, 160, 192][: len(seen)]
    assert len(seen) > 3
    assert seen[0][2] is None
    assert all(0.6 < loss < 0.8 for *_, loss in seen[1:])


def test_the_state_begins_anew_and_the_scaler_goes_on() -> None:
    session, events = session_of(learning_rate=1e6)
    xs = np.random.default_rng(0).normal(size=200)
    scalers = []
    for x in xs:
        push(session, np.array([x]))
        size = session.engine.stepper.scaler_size
        scalers.append(np.asarray(session.streams["a"].carry)[:size])
        if of(events[-1:], Rollback):
            break
    assert scalers[-1][0] == len(scalers)
    assert not np.asarray(session.streams["a"].carry)[size:].any()


def test_shared_weights_go_back_for_all_streams() -> None:
    session, events = session_of(learning_rate=1e6, sharing="shared")
    rng = np.random.default_rng(0)
    for _ in range(60):
        for name in ("a", "b"):
            push(session, rng.normal(size=4), name)
    (first, *_) = of(events, Rollback)
    behind = events[events.index(first) + 1 :]
    refused_before = [e.stream for e in events[: events.index(first)] if isinstance(e, Update)]
    assert {"a", "b"} == set(refused_before)
    assert len(refused_before) == 32
    scores = [k for k, e in enumerate(behind) if isinstance(e, Score)][: first.frozen]
    assert not [e for e in behind[: scores[-1] + 1] if isinstance(e, Update)]
    assert set(session.learners) == {SHARED}


@pytest.mark.slow
def test_a_bank_learns_on_where_one_member_is_refused() -> None:
    members = (msgspec.structs.replace(SMALL_BANK[1], learning_rate=1e9), *SMALL_BANK[3:])
    config = configuration(**NERVOUS | {"stride": 5, "bank": "x", "rollback_excess": 1.0})
    run = drive(config, turning(1500), cuts=(), members=members)
    updates = of(run, Update)
    assert not of(run, Rollback)
    assert sum(u.reason == "update-too-large" for u in updates) > 100


# ---- attacks ----------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_costs_little_with_the_guard(name: str) -> None:
    found = attacked(name, clean=600, bad=800)
    assert found["sound"]
    assert found["weights"] < 10
    assert found["log loss"] < found["base rate"] + 0.2, found
    if not name.startswith("inputs"):
        assert found["roll-backs"] >= 1
        assert found["without the guard"] > found["log loss"] + 0.15, found
    else:
        assert found["roll-backs"] == 0


# ---- what is left alone -----------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("values", [{}, {"optimizer": "dekf", "init": "chrono", "hidden": 8}])
def test_healthy_learning_is_never_rolled_back_and_has_the_bits_of_no_guard(
    values: dict[str, Any],
) -> None:
    digests: list[list[str]] = []
    for more in ({}, UNGUARDED):
        config = build({"features": ["x"], "learn": True} | values | more)
        engine = Engine(config, 1)
        found = []
        for source in SOURCES.values():
            digest, events = Digest(), list[Output]()
            session = Session(config, ["x"], events.append, engine=engine)
            push(session, source(1).block(2_000)[:, 0])
            assert not of(events, Rollback)
            assert session.streams["a"].counters.updates_refused == 0
            for event in of(events, Prediction):
                digest.add(event)
            found.append(digest.hexdigest())
        digests.append(found)
    assert digests[0] == digests[1]


# ---- what is kept -----------------------------------------------------------------------


def test_a_snapshot_holds_the_good_weights_and_refuses_others() -> None:
    session, _ = session_of(learning_rate=1e-3, rollback_excess=1.0)
    push(session, np.random.default_rng(0).normal(size=400))
    data = take(session)
    other, _ = session_of(learning_rate=1e-3, rollback_excess=1.0)
    restore(other, data)
    monitor, kept = other.learner_for("a").monitor, session.learner_for("a").monitor
    assert monitor is not None
    assert kept is not None
    assert monitor.good is not None
    assert kept.good is not None
    assert monitor.candidate is not None
    for one, two in zip(monitor.good.weights, kept.good.weights, strict=True):
        assert np.array_equal(one, two)
    assert monitor.good.loss == kept.good.loss
    kept.good.optimizer[0] = np.zeros(99, np.float32)
    with pytest.raises(SnapshotError, match="other shapes"):
        restore(other, take(session))


def test_weights_above_the_cap_cannot_be_learned_from() -> None:
    config = configuration(learn=True)
    weights = jax.tree.map(lambda leaf: leaf * 1e3, engine_for(config).init_weights())
    with pytest.raises(ConfigurationError, match="max_weights=10, so no update"):
        Session(config, ["x"], print, weights=weights, engine=engine_for(config))
    Session(configuration(), ["x"], print, weights=weights)


def test_without_a_window_there_is_no_monitor() -> None:
    session, events = session_of(learning_rate=1e6, rollback_window=0)
    push(session, np.random.default_rng(0).normal(size=400))
    assert session.learner_for("a").monitor is None
    assert not of(events, Rollback)
    assert session.streams["a"].counters.updates_refused == len(of(events, Score))
