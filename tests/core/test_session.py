"""What the session lets in, what it refuses, and what it does at gaps."""

from __future__ import annotations

import math
from typing import Any

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_lstm.core.scores import Scores
from stream_lstm.core.snapshot import restore, take
from stream_lstm.core.table import Counters
from stream_lstm.errors import ConfigurationError
from stream_lstm.events import (
    MAX_COUNT,
    MAX_SEQ,
    Expiry,
    Gap,
    Label,
    Output,
    Prediction,
    Refusal,
    Score,
    SessionStart,
    Ticks,
    Update,
)

from ..engines import engine_for
from ..engines import settings as configuration
from .driving import BAD, Action, drive, open_session, push, series, state_of, ticks_of

XS = np.random.default_rng(0).normal(size=60)


def kinds(events: list[Output], kind: type) -> list[Any]:
    return [event for event in events if isinstance(event, kind)]


def uncounted(session: Any) -> Any:
    """Everything that a session holds but the counters of its streams."""
    streams, learned = state_of(session)
    return {
        name: {k: v for k, v in stream.items() if k != "counters"}
        for name, stream in streams.items()
    }, learned


# ---- nothing bad gets in (promise 5) ----------------------------------------------------


@pytest.mark.parametrize("learn", [False, True])
@pytest.mark.parametrize("features", [["x"], ["diff(x)"], ["log_return(x)"]])
@settings(max_examples=20)
@given(ticks=series(min_size=30))
def test_a_bad_tick_might_as_well_not_have_come(
    learn: bool, features: list[str], ticks: list[Any]
) -> None:
    config = configuration(features=features, learn=learn, stride=2)
    whole = drive(config, ticks, cuts=())
    bad = {e.index for e in kinds(whole.events, Refusal)}
    kept = [tick for k, tick in enumerate(ticks) if k not in bad]
    without = drive(config, kept, cuts=())
    assert [e for e in whole.events if not isinstance(e, Refusal)] == without.events
    if not kept:
        return
    counters = whole.session.streams["a"].counters
    assert counters.ticks == len(ticks)
    assert counters.refused_ticks == len(bad) == len(kinds(whole.events, Refusal))
    assert uncounted(whole.session) == uncounted(without.session)


@pytest.mark.parametrize("bad", BAD)
def test_a_refusal_names_stream_column_and_value(bad: float) -> None:
    events: list[Output] = []
    session = open_session(configuration(), events.append)
    values = np.array([[1.0], [bad], [2.0]])
    session.push(Ticks("EUR", np.arange(3), values, where="feed.csv, lines 2-4"))
    (refusal,) = events
    assert isinstance(refusal, Refusal)
    assert (refusal.stream, refusal.kind, refusal.index) == ("EUR", "tick", 1)
    assert refusal.where == "feed.csv, lines 2-4"
    assert "x" in refusal.reason
    assert f"{bad:g}" in refusal.reason
    assert session.streams["EUR"].n == 2


def test_a_block_of_nothing_but_bad_ticks() -> None:
    run = drive(configuration(), ticks_of([math.nan] * 30), cuts=())
    assert len(run.events) == 30
    assert run.session.streams["a"].n == 0


def test_no_ticks_are_no_news() -> None:
    events: list[Output] = []
    session = open_session(configuration(), events.append)
    session.push(Ticks("a", np.zeros(0, np.int64), np.zeros((0, 1))))
    assert not events


def test_ticks_of_another_width_are_our_own_mistake() -> None:
    session = open_session(configuration(), lambda event: None)
    with pytest.raises(ConfigurationError, match=r"'a' have 2 values.*columns x"):
        session.push(Ticks("a", np.zeros(1, np.int64), np.zeros((1, 2))))
    assert not session.streams, "a stream was opened for ticks that were not taken"


@pytest.mark.parametrize("shape", [(3,), (3, 1, 1), (2, 1)])
def test_ticks_must_be_a_table_with_a_time_for_each(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="ticks of 'a'"):
        Ticks("a", np.zeros(3, np.int64), np.zeros(shape))


@pytest.mark.slow
@pytest.mark.parametrize("rate", [1e30, 1e38, 3e38])
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_weights_stay_finite_whatever_the_learning_rate(optimizer: str, rate: float) -> None:
    config = configuration(
        learn=True,
        learning_rate=rate,
        optimizer=optimizer,
        stride=2,
        clip_norm=0.0,
        max_update=0.0,
        max_weights=0.0,
        rollback_window=0,
    )
    run = drive(config, ticks_of(np.random.default_rng(1).normal(size=150)), cuts=())
    updates = kinds(run.events, Update)
    assert len(updates) > 50
    weights = run.session.weights_for("a")
    assert all(np.isfinite(np.asarray(leaf)).all() for leaf in jax.tree.leaves(weights))
    counters = run.session.streams["a"].counters
    assert counters.updates == sum(u.accepted for u in updates)
    assert counters.updates_refused == sum(not u.accepted for u in updates)
    if math.isinf(rate):
        assert not counters.updates
        initial = run.session.engine.init_weights()
        assert all(np.array_equal(weights[k]["kernel"], initial[k]["kernel"]) for k in initial)


# ---- at most once (promise 6) -----------------------------------------------------------


def external(**values: Any) -> tuple[list[Output], Any]:
    """A session that has published predictions 12, 17, ... 57 and waits for their labels."""
    events: list[Output] = []
    values = {"labels": "external", "learn": True, "stride": 5} | values
    session = open_session(configuration(**values), events.append)
    push(session, ticks_of(XS))
    events.clear()
    return events, session


def test_a_label_scores_and_updates_once() -> None:
    events, session = external()
    session.label(Label("a", 17, 1, 99))
    (score,) = events
    assert (score.n, score.label, score.t_ns) == (17, 1, 99)
    push(session, ticks_of(XS[:2], start=60))
    prediction, update = events[1:]
    assert (prediction.n, update.n, update.accepted) == (62, 17, True)
    before = uncounted(session)
    events.clear()
    for y in (1, 0):
        session.label(Label("a", 17, y))
    assert [e.reason for e in events] == [
        "prediction 17 has this label already",
        "prediction 17 was scored with label 1; a second label is 0",
    ]
    counters = session.streams["a"].counters
    assert (counters.labels_repeated, counters.labels_disagreeing) == (1, 1)
    assert counters.refused_labels == 2
    assert uncounted(session) == before


@pytest.mark.parametrize(
    ("label", "reason", "counter"),
    [
        (Label("a", 63, 1), "ever due", "unknown"),
        (Label("a", 0, 1), "ever due", "unknown"),
        (Label("a", -13, 1), "ever due", "unknown"),
        (Label("a", 7, 1), "after element 12 and every 5", "unknown"),
        (Label("a", 13, 1), "ever due", "unknown"),
        (Label("a", 17, 2), "0 or 1, not 2", "bad"),
        (Label("a", 17, -1), "0 or 1, not -1", "bad"),
        (Label("a", 17, 0.7), "threshold", "bad"),
        (Label("a", 17, math.nan), "not nan", "bad"),
        (Label("b", 17, 1), "no stream 'b'", ""),
    ],
)
def test_a_label_that_fits_nothing_is_refused_and_changes_nothing(
    label: Label, reason: str, counter: str
) -> None:
    events, session = external()
    before = uncounted(session)
    assert session.streams["a"].counters == Counters(ticks=60, predictions=10)
    session.label(label)
    (refusal,) = events
    assert (refusal.stream, refusal.kind) == (label.stream, "label")
    assert reason in refusal.reason
    assert f"n={label.n}" in refusal.where
    counters = session.streams["a"].counters
    assert counters.refused_labels == (label.stream == "a")
    assert session.stray_labels == (label.stream == "b")
    assert not counter or getattr(counters, f"labels_{counter}") == 1
    assert uncounted(session) == before


def test_labels_in_another_order_score_the_same_predictions() -> None:
    order = [57, 12, 32, 17, 52]
    events, session = external(learn=False)
    for n in order:
        session.label(Label("a", n, n % 2))
    published = {e.n: e.p for e in kinds(drive(session.config, ticks_of(XS)).events, Prediction)}
    assert [(e.n, e.p, e.label) for e in events] == [(n, published[n], n % 2) for n in order]
    assert session.streams["a"].scores.labels == 5


def test_a_label_where_the_series_gives_them_is_refused() -> None:
    run = drive(configuration(), [*ticks_of(XS[:20]), Label("a", 12, 1)])
    assert "labels = 'external'" in run.events[-1].reason


@pytest.mark.parametrize("limit", [1, 3])
def test_the_oldest_prediction_expires_when_too_many_wait(limit: int) -> None:
    events, session = external(max_pending=limit)
    waiting = [52, 57] if limit > 1 else [57]
    assert list(session.streams["a"].ledger.waiting)[-len(waiting) :] == waiting
    assert len(session.streams["a"].ledger.waiting) == limit
    session.label(Label("a", 12, 1))
    assert "expired before its label" in events[0].reason
    events.clear()
    push(session, ticks_of(XS[:2], start=60))
    gone, made = events
    assert isinstance(gone, Expiry)
    assert (gone.n, made.n) == (62 - 5 * limit, 62)


@settings(max_examples=20)
@given(
    asked=st.lists(
        st.tuples(st.sampled_from([12, 17, 22, 23, 57, 62]), st.integers(0, 1)), max_size=30
    )
)
def test_no_prediction_is_scored_or_learned_from_twice(asked: list[tuple[int, int]]) -> None:
    events, session = external()
    for n, y in asked:
        session.label(Label("a", n, y))
    scores = [e.n for e in kinds(events, Score)]
    push(session, ticks_of(XS[:2], start=60))  # element 62, whose label may be there already
    for scored in (scores, [e.n for e in kinds(events, Update)]):
        assert len(scored) == len(set(scored))
        assert set(scored) == {n for n, _ in asked} & {12, 17, 22, 57}
    assert (62 in {e.n for e in kinds(events, Score)}) == (62 in {n for n, _ in asked})


# ---- gaps and restarts ------------------------------------------------------------------


def flags(events: list[Output]) -> dict[int, bool]:
    return {e.n: e.after_gap for e in kinds(events, Prediction)}


def test_continue_flags_until_a_warm_up_has_passed_and_changes_no_number() -> None:
    config = configuration(window=12, stride=3)
    plain = drive(config, ticks_of(XS))
    actions: list[Action] = list(ticks_of(XS))
    actions.insert(20, Gap("a", 21, 7))
    gapped = drive(config, actions)
    assert [e.p for e in kinds(gapped.events, Prediction)] == [
        e.p for e in kinds(plain.events, Prediction)
    ]
    flagged = {n for n, flag in flags(gapped.events).items() if flag}
    assert flagged == {21, 24, 27, 30}, "elements 21 to 32 came in the warm-up after the gap"
    counters = gapped.session.streams["a"].counters
    assert (counters.gaps, counters.missed, counters.resets) == (1, 7, 0)


def test_no_number_of_lost_ticks_makes_a_counter_overflow() -> None:
    config = configuration(window=12, stride=3)
    session = drive(config, [*ticks_of(XS[:20]), *[Gap("a", 21, MAX_SEQ)] * 6]).session
    assert session.streams["a"].counters.missed == MAX_COUNT
    for stream in "bcd":
        session.gap(Gap(stream, 1, MAX_SEQ))
    assert session.table.totals().missed == MAX_COUNT
    again = open_session(config, [].append)
    restore(again, take(session))
    assert state_of(again) == state_of(session)


@pytest.mark.parametrize("mode", ["carry", "window"])
@pytest.mark.parametrize("learn", [False, True])
def test_reset_starts_anew_but_counts_on(mode: str, learn: bool) -> None:
    config = configuration(
        features=["diff(x)"], mode=mode, window=12, stride=3, on_gap="reset", learn=False
    )
    actions: list[Action] = list(ticks_of(XS))
    actions.insert(22, Gap("a", 23, 7))
    run = drive(config, actions)
    made = {e.n: e.p for e in kinds(run.events, Prediction)}
    # 21 elements before the gap; 12 more must come, and n - 12 must be a multiple of 3.
    assert [n for n in made if n < 40] == [12, 15, 18, 21, 33, 36, 39]
    assert [e.n for e in kinds(run.events, Expiry)] == [21]
    fresh = {e.n: e.p for e in kinds(drive(config, ticks_of(XS[22:])).events, Prediction)}
    assert made[33] == fresh[12]
    assert made[36] == fresh[15]
    assert run.session.streams["a"].counters.resets == 1


def test_reset_with_learning_keeps_what_was_learned() -> None:
    config = configuration(on_gap="reset", learn=True, stride=2)
    actions: list[Action] = [*ticks_of(XS), Gap("a", 61, 1)]
    before, after = drive(config, actions[:-1]), drive(config, actions)
    before.session.settle()  # a reset learns what is owed, too
    learned = [r.session.weights_for("a")["head"]["kernel"] for r in (before, after)]
    assert np.array_equal(*learned)
    assert not np.array_equal(learned[0], engine_for(config).init_weights()["head"]["kernel"])
    scores = after.session.streams["a"].scores
    assert scores.labels == before.session.streams["a"].scores.labels > 0
    assert np.asarray(after.session.streams["a"].carry).sum() == 0


def test_a_new_publisher_is_a_gap_but_the_first_one_is_not() -> None:
    config = configuration(window=5, stride=5)
    actions: list[Action] = [SessionStart("a", "one"), *ticks_of(XS[:20])]
    assert not any(flags(drive(config, actions).events).values())
    again = [*actions, SessionStart("a", "one"), *ticks_of(XS[20:40])]
    assert not any(flags(drive(config, again).events).values())
    restarted = drive(config, [*actions, SessionStart("a", "two"), *ticks_of(XS[20:40])])
    assert [n for n, flag in flags(restarted.events).items() if flag] == [25]
    assert {e.n: e.session for e in kinds(restarted.events, Prediction)}[20] == "one"
    assert {e.n: e.session for e in kinds(restarted.events, Prediction)}[25] == "two"


@pytest.mark.parametrize("on_gap", ["continue", "reset"])
def test_what_waits_for_a_label_expires_where_the_publisher_restarts(on_gap: str) -> None:
    config = configuration(window=5, stride=5, horizon=7, on_gap=on_gap)
    begun: list[Action] = [SessionStart("a", "one"), *ticks_of(XS[:20])]
    actions = [*begun, SessionStart("a", "two"), *ticks_of(XS[20:40])]
    restarted = drive(config, actions).events
    assert [e.n for e in kinds(restarted, Expiry)] == [15, 20]
    assert [e.n for e in kinds(restarted, Score)] == [5, 10, 25, 30]
    lost = drive(config, [*begun, Gap("a", 22, 1), *ticks_of(XS[20:40])]).events
    assert bool(kinds(lost, Expiry)) == (on_gap == "reset"), "a gap alone leaves it to the policy"


def test_predictions_tell_whether_gaps_can_be_seen() -> None:
    events: list[Output] = []
    session = open_session(configuration(window=5, bptt=5, stride=5), events.append)
    values = XS[:5, None]
    session.push(Ticks("a", np.arange(5), values, seq=None))
    session.push(Ticks("a", np.arange(5), values, seq=6))
    assert [e.gaps_visible for e in kinds(events, Prediction)] == [False, True]


# ---- bounds, weights --------------------------------------------------------------------


def test_too_many_streams_are_refused() -> None:
    events: list[Output] = []
    session = open_session(configuration(), events.append, limit=2)
    for name in ("a", "b", "c"):
        push(session, ticks_of(XS[:3]), stream=name)
        session.gap(Gap(name, 1, 1))
        session.session_start(SessionStart(name, "s"))
    (refusal,) = events
    assert (refusal.stream, refusal.kind) == ("c", "tick")
    assert "2 streams" in refusal.reason
    assert list(session.streams) == ["a", "b"]


def test_given_weights_are_used_and_wrong_ones_refused() -> None:
    config = configuration()
    engine = engine_for(config)
    weights = {
        name: {"kernel": np.asarray(layer["kernel"]) * 2}
        for name, layer in engine.init_weights().items()
    }
    events: list[Output] = []
    push(open_session(config, events.append, weights=weights), ticks_of(XS))
    assert [e.p for e in kinds(events, Prediction)] != [
        e.p for e in kinds(drive(config, ticks_of(XS)).events, Prediction)
    ]
    for wrong in ({}, {"head": weights["head"]}):
        with pytest.raises(ConfigurationError, match="shapes"):
            open_session(config, events.append, weights=wrong)


@pytest.mark.parametrize("scaling", ["sd", "zscore", "none"])
def test_no_finite_tick_makes_the_state_anything_but_finite(scaling: str) -> None:
    rng = np.random.default_rng(0)
    xs = rng.choice([0.0, 1e-45, 1e-38, 1e-30, 1.0, 9e36, -9e36, -1e-30], size=300)
    config = configuration(scaling=scaling, learn=True, stride=1)
    run = drive(config, ticks_of(xs), cuts=())
    assert not kinds(run.events, Refusal)
    assert np.isfinite(np.asarray(run.session.streams["a"].carry)).all()
    assert len(kinds(run.events, Prediction)) == 289


def test_scores_carry_the_evidence_so_far_and_the_window_is_the_configured_one() -> None:
    config = configuration(window=5, stride=1, score_window=7)
    run = drive(config, ticks_of(XS))
    scores, alone = kinds(run.events, Score), Scores(7)
    lasts = {n + 5: int(x > 0) for n, x in enumerate(XS[4:])}
    for score in scores:
        plain = score.p, score.base_rate_p, score.last_label_p
        loss, *log_e = alone.add(0, score.label, lasts[score.n], *plain)
        told = score.coin_evidence, score.base_rate_evidence, score.last_label_evidence
        assert (score.log_loss, *told) == (loss, *log_e)
    assert any(score.coin_evidence for score in scores)
    board = run.session.streams["a"].scores
    assert board.evidence == alone.total().evidence
    rolling = board.figures()["rolling"]
    assert (rolling["window"], rolling["labels"]) == (7, 7)
    assert rolling["accuracy"] == np.mean([(s.p > 0.5) == s.label for s in scores[-7:]])
