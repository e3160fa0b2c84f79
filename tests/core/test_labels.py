"""Labels from outside: late, early, shuffled, repeated, revised, expired; all of them counted."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_lstm.config import build
from stream_lstm.core.labels import MIN_CLOSED, NO_LABEL, Ledger, LedgerEntry, TimedLabel
from stream_lstm.core.replay import Digest
from stream_lstm.core.verdict import summarize
from stream_lstm.errors import ConfigurationError
from stream_lstm.events import Expiry, Label, Output, Prediction, Refusal, Score, Update

from ..engines import settings as configuration
from .driving import Action, drive, open_session, plain, push, ticks_of

XS = np.random.default_rng(3).normal(size=160)
DUE = range(12, 161, 5)
TRUTH = {n: int(np.random.default_rng(n).integers(2)) for n in DUE}


def session_of(**values: Any) -> tuple[list[Output], Any]:
    events: list[Output] = []
    config = configuration(**{"labels": "external", "stride": 5} | values)
    return events, open_session(config, events.append)


def story(arrivals: dict[int, float]) -> list[Action]:
    """The ticks, and each label after as many elements as it says; in the order of arrival."""
    actions: list[tuple[float, int, Action]] = [
        (k + 1, 0, tick) for k, tick in enumerate(ticks_of(XS))
    ]
    actions += [(at, 1, Label("a", n, TRUTH[n])) for n, at in arrivals.items()]
    return [action for _, _, action in sorted(actions, key=lambda one: one[:2])]


def of(events: list[Output], kind: type) -> list[Any]:
    return [event for event in events if isinstance(event, kind)]


@settings(max_examples=20)
@given(delays=st.lists(st.integers(0, 200), min_size=len(DUE), max_size=len(DUE)))
def test_scores_are_those_of_labels_in_order_whatever_the_delays(delays: list[int]) -> None:
    """Frozen weights: each published prediction meets its own label, once."""
    config = configuration(labels="external", stride=5)
    late = {n: n + delay for n, delay in zip(DUE, delays, strict=True)}
    one = drive(config, story(late), cuts=())
    two = drive(config, story({n: n for n in DUE}))
    scored = [
        {e.n: (e.p, e.label, e.log_loss) for e in of(run.events, Score)} for run in (one, two)
    ]
    assert scored[0] == scored[1]
    assert len(of(one.events, Score)) == len(DUE)
    published = {e.n: e.p for e in of(one.events, Prediction)}
    assert {n: p for n, (p, *_) in scored[0].items()} == published
    assert one.session.streams["a"].counters.refused_labels == 0


@settings(max_examples=12)
@given(delays=st.lists(st.integers(0, 60), min_size=len(DUE), max_size=len(DUE)))
def test_nothing_is_learned_twice_and_every_label_is_accounted_for(delays: list[int]) -> None:
    """Each label comes twice; with an expiry, each prediction is scored or expires."""
    config = configuration(labels="external", stride=5, learn=True, label_expiry=30)
    late = {n: n + delay for n, delay in zip(DUE, delays, strict=True)}
    twice = [a for action in story(late) for a in [action] * (1 + isinstance(action, Label))]
    run = drive(config, twice, cuts=())
    run.session.settle()
    scored, updated = ([e.n for e in of(run.events, kind)] for kind in (Score, Update))
    assert len(scored) == len(set(scored))
    assert updated == scored
    expired = {e.n for e in of(run.events, Expiry)}
    waiting = set(run.session.streams["a"].ledger.waiting)
    assert sorted([*scored, *expired, *waiting]) == list(DUE)
    counters = run.session.streams["a"].counters
    taken = len(scored)
    assert counters.labels_late == 2 * len(expired & set(late))
    assert counters.labels_repeated == taken
    assert counters.refused_labels == counters.labels_late + counters.labels_repeated
    assert taken + counters.refused_labels == 2 * len(late)


def test_a_late_label_learns_from_the_elements_and_the_carry_of_its_own_time() -> None:
    """The first label after everything: the update is that of a label that came at once."""
    values = {"labels": "external", "stride": 5, "learn": True, "window": 12}
    at_once, late = (
        drive(configuration(**values), story({52: at}), cuts=()).session for at in (52, 160)
    )
    late.settle()
    assert plain(at_once.learners) == plain(late.learners)
    other = drive(configuration(**values), story({57: 160}), cuts=()).session
    other.settle()
    assert plain(other.learners) != plain(late.learners)


# ---- early, revised, expired -------------------------------------------------------------


def test_a_label_before_its_prediction_waits_for_it() -> None:
    events, session = session_of()
    push(session, ticks_of(XS[:20]))
    session.label(Label("a", 27, 1, 7))
    assert not of(events, Refusal)
    assert session.streams["a"].counters.labels_early == 1
    push(session, ticks_of(XS[20:40], start=20))
    (score,) = of(events, Score)
    assert (score.n, score.label, score.t_ns) == (27, 1, 7)
    kinds = [(type(e), e.n) for e in events]
    assert kinds.index((Score, 27)) == kinds.index((Prediction, 27)) + 1
    assert of(events, Prediction)[3].p == score.p


def test_early_labels_are_bounded() -> None:
    events, session = session_of(max_pending=2)
    push(session, ticks_of(XS[:20]))
    for n in (22, 27, 32):
        session.label(Label("a", n, 1))
    assert len(session.streams["a"].ledger.early) == 2
    (refusal,) = of(events, Refusal)
    assert "2 labels wait" in refusal.reason


def test_an_early_label_whose_prediction_falls_into_a_reset_is_refused_not_lost() -> None:
    events, session = session_of(on_gap="reset")
    push(session, ticks_of(XS[:20]))
    session.label(Label("a", 27, 1))
    from stream_lstm.events import Gap

    session.gap(Gap("a", 21, 1))
    push(session, ticks_of(XS[20:60], start=20))
    (refusal,) = of(events, Refusal)
    assert refusal.where == "n=27"
    assert not session.streams["a"].ledger.early


@pytest.mark.parametrize(("revisions", "counted"), [("first", 1), ("last", 0)])
def test_of_two_labels_that_disagree_the_policy_chooses(revisions: str, counted: int) -> None:
    events, session = session_of(revisions=revisions, label_hold=4, learn=True)
    push(session, ticks_of(XS[:18]))
    session.label(Label("a", 17, 1))
    push(session, ticks_of(XS[18:20], start=18))
    session.label(Label("a", 17, 0))
    push(session, ticks_of(XS[20:40], start=20))
    (score,), (update,) = of(events, Score), of(events, Update)
    assert (score.n, score.label, update.n) == (17, counted, 17)
    counters = session.streams["a"].counters
    assert counters.labels_disagreeing == (revisions == "first")
    assert counters.labels_revised == (revisions == "last")
    session.label(Label("a", 17, 1 - counted))
    assert f"scored with label {counted}" in events[-1].reason
    assert len(of(events, Score)) == 1


def test_a_held_label_counts_after_its_time_and_at_the_end_at_the_latest() -> None:
    events, session = session_of(revisions="last", label_hold=10)
    push(session, ticks_of(XS[:18]))
    session.label(Label("a", 17, 1))
    push(session, ticks_of(XS[18:27], start=18))
    assert not of(events, Score)
    push(session, ticks_of(XS[27:28], start=27))
    assert [e.n for e in of(events, Score)] == [17]
    session.label(Label("a", 22, 0))
    session.settle()
    assert [e.n for e in of(events, Score)] == [17, 22]


def test_predictions_expire_by_elements_and_by_the_time_of_the_ticks() -> None:
    for values in ({"label_expiry": 8}, {"label_expiry_s": 8.0}):
        events, session = session_of(**values)
        push(session, ticks_of(XS[:19]))
        assert not of(events, Expiry)
        push(session, ticks_of(XS[19:20], start=19))
        assert [e.n for e in of(events, Expiry)] == [12]
        push(session, ticks_of(XS[20:33], start=20))
        assert [e.n for e in of(events, Expiry)] == [12, 17, 22]
        order = [(type(e), e.n) for e in events]
        assert order.index((Expiry, 12)) == order.index((Prediction, 17)) + 1  # after element 20
        session.label(Label("a", 12, 1))
        assert "expired before its label came" in events[-1].reason
        assert session.streams["a"].counters.labels_late == 1


def test_real_labels_need_a_threshold() -> None:
    events, session = session_of(threshold=-0.5)
    push(session, ticks_of(XS[:30]))
    for n, y in ((12, -0.4), (17, -0.6), (22, math.inf)):
        session.label(Label("a", n, y))
    assert [(e.n, e.label) for e in of(events, Score)] == [(12, 1), (17, 0)]
    assert "finite" in events[-1].reason


@pytest.mark.parametrize("values", [{"horizon": 0}, {"threshold": 0.5}])
def test_what_is_for_labels_from_outside_says_so(values: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="labels=external"):
        build({"features": ["x"], **values})
    build({"features": ["x"], "labels": "external", **values})


def test_labels_of_streams_that_are_not_there_are_in_the_summary() -> None:
    _, session = session_of()
    push(session, ticks_of(XS[:20]))
    session.label(Label("b", 12, 1))
    summary = summarize(session, Digest(), wall_s=1.0, compile_s=0.0)
    assert (summary["refused_labels"], summary["labels_unknown"]) == (1, 1)


# ---- the book of waiting predictions, against a plain list ---


def pending(n: int) -> LedgerEntry:
    return LedgerEntry(n, 0.5, 0.5, 0.5, -1)


@given(limit=st.integers(1, 5), moves=st.lists(st.integers(0, 12), max_size=60))
def test_a_prediction_leaves_once_by_its_label_or_as_the_oldest(
    limit: int, moves: list[int]
) -> None:
    ledger, book, expired, n = Ledger(), [], 0, 0
    for move in moves:
        if move < 6:
            n += 10
            gone = ledger.add(pending(n), limit)
            book.append(n)
            wanted = book.pop(0) if len(book) > limit else None
            expired += wanted is not None
            assert (gone.n if gone else None) == wanted
        else:
            asked = n - 10 * (move - 7)
            if asked in book:
                ledger.label(asked, TimedLabel(1, 0), asked)
                labelled = ledger.settle(asked, limit)
                assert labelled is not None
                assert labelled.entry.n == asked
                book.remove(asked)
        assert list(ledger.waiting) == book
        assert getattr(ledger.oldest(), "n", None) == (book[0] if book else None)
        assert ledger.expired == expired
    assert [ledger.expire(limit).n for _ in list(book)] == book
    assert ledger.expired == expired + len(book)
    assert ledger.oldest() is None


def test_what_has_left_is_remembered_up_to_a_bound() -> None:
    ledger = Ledger()
    for n in range(1, 3 * MIN_CLOSED):
        ledger.add(pending(n), 1)
    assert list(ledger.closed) == list(range(2 * MIN_CLOSED - 1, 3 * MIN_CLOSED - 1))
    assert set(ledger.closed.values()) == {NO_LABEL}
