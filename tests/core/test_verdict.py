"""One plain sentence: better or worse only where it is proven, and odds that can be read."""

from __future__ import annotations

import json
import math

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_lstm.cli.results import summary_lines
from stream_lstm.config import TableMember, build
from stream_lstm.core.evidence import Bet, Evidence
from stream_lstm.core.replay import Digest
from stream_lstm.core.session import Session
from stream_lstm.core.verdict import comparison, odds, summarize, verdict
from stream_lstm.events import Gap, Prediction, Score, Ticks
from stream_lstm.model.engine import Engine

COIN = {side: {"highest_log_e": 99.0} for side in ("better", "worse")}


def against(base, last, labels=2300):
    """The sentence for highest evidence N : 1 of (better, worse) than base rate and last label."""
    named = {
        name: {
            side: {"highest_log_e": math.log(odds)}
            for side, odds in zip(("better", "worse"), pair, strict=True)
        }
        for name, pair in (("base_rate", base), ("last_label", last))
    }
    named["base_rate"]["difference"] = math.log(base[0] / base[1])
    summary = {"predictions": 9, "labels": labels, "base_rate": 0.5}
    return verdict(summary | {"evidence": named | {"coin": COIN}})


@pytest.mark.parametrize(
    ("base", "last", "words"),
    [
        (
            (4178, 1),
            (250, 1),
            (
                "better than the base rate (evidence 4,100 : 1 after 2,300 labels), "
                "and than repeating the last label (evidence 250 : 1)"
            ),
        ),
        (
            (20, 1),
            (19, 19),
            (
                "better than the base rate (evidence 20 : 1 after 2,300 labels); "
                "not shown to be better than repeating the last label"
            ),
        ),
        (
            (20, 1),
            (1, 20),
            (
                "better than the base rate (evidence 20 : 1 after 2,300 labels); "
                "worse than repeating the last label (evidence 20 : 1)"
            ),
        ),
        ((1, 35), (1, 1), "worse than the base rate (evidence 35 : 1 after 2,300 labels)"),
        (
            (35, 35),
            (1, 1),
            (
                "better than the base rate at times, worse at others "
                "(evidence 35 : 1 and 35 : 1 after 2,300 labels)"
            ),
        ),
        (
            (19, 19),
            (999, 1),
            "no evidence yet after 2,300 labels; an accuracy of 0.51 would need about 15,500",
        ),
        (
            (1, 1),
            (21, 22),
            (
                "no evidence yet after 2,300 labels; an accuracy of 0.51 would need about 15,500; "
                "better than repeating the last label at times, worse at others "
                "(evidence 21 : 1 and 22 : 1)"
            ),
        ),
    ],
)
def test_better_and_worse_are_said_where_they_are_proven(base, last, words):
    assert against(base, last) == words


@pytest.mark.parametrize(("side", "sign"), [("better", 1), ("worse", -1)])
def test_a_bet_that_was_won_once_is_held_against_the_mean_of_all(side, sign):
    evidence = Evidence(Bet(), Bet(), Bet())
    for k in range(900):
        evidence.coin.add(1.0)
        evidence.base.add(sign * (0.4 if k < 300 else -0.3))
        evidence.last.add(0.0)
    assert evidence.base.total * sign < 0
    figures = evidence.figures() or {}
    figures["base_rate"]["worse" if sign > 0 else "better"]["highest_log_e"] = 0.0
    assert comparison(figures, 900).startswith(
        f"{side} than the base rate at times, not on the whole (evidence "
    )


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (1, "after 1 label; an accuracy of 0.51 would need about 15,500"),
        (15_455, "after 15,455 labels; an accuracy of 0.505 would need about 61,800"),
        (2_000_000, "after 2,000,000 labels; an accuracy of 0.5005 would need about 6,180,000"),
        (10**10, "after 10,000,000,000 labels"),
    ],
)
def test_labels_that_could_have_shown_an_edge_are_told_of_a_smaller_one(labels, words):
    assert against((1, 1), (1, 1), labels) == f"no evidence yet {words}"


@pytest.mark.parametrize(
    ("log_e", "words"),
    [
        (0.0, "1 : 1"),
        (math.log(20), "20 : 1"),
        (math.log(99.9), "99 : 1"),
        (math.log(123_456), "120,000 : 1"),
        (math.log(1e6), "10^6 : 1"),
        (math.log(10) * 2173.9, "10^2,173 : 1"),
    ],
)
def test_odds_are_rounded_down(log_e, words):
    assert odds(log_e) == words


@given(st.floats(0, 1e6))
def test_any_odds_can_be_written(log_e):
    assert odds(log_e).endswith(" : 1")


@pytest.mark.parametrize(("rate", "words"), [(0.0, "is never"), (1.0, "is always")])
def test_one_class_alone_is_said(rate, words):
    assert words in verdict({"predictions": 9, "labels": 9, "base_rate": rate})


def test_the_record_of_real_evidence_is_read():
    evidence = Evidence(Bet(), Bet(), Bet())
    for _ in range(200):
        for bet, d in zip(evidence, (1.0, 0.7 - 0.4, 0.5 - 0.4), strict=True):
            bet.add(d)
    said = comparison(evidence.figures() or {}, 200)
    assert said.startswith("better than the base rate (evidence ")
    assert said.endswith("not shown to be better than repeating the last label")


# ---- the closing summary over all streams, and how people read it ---

CONFIG = build({"features": ["x"], "hidden": 2, "window": 5, "stride": 2})


@pytest.fixture(scope="module")
def engine():
    return Engine(CONFIG, 1)


def fed(engine, **streams):
    """A session fed with streams of so many random ticks, its events and its digest."""
    events, digest = [], Digest()

    def emit(event):
        events.append(event)
        if isinstance(event, Prediction):
            digest.add(event)

    session = Session(CONFIG, ("x",), emit, engine=engine)
    for name, count in streams.items():
        values = np.random.default_rng(count).normal(size=(count, 1))
        session.push(Ticks(name, np.zeros(count, np.int64), values))
    return session, events, digest


def test_streams_are_counted_and_scored_together(engine):
    session, events, digest = fed(engine, a=20, b=9)
    session.gap(Gap("b", 12, 2))
    summary = summarize(session, digest, wall_s=2.0, compile_s=1.5)
    scores = [event for event in events if isinstance(event, Score)]
    assert summary["streams"] == 2
    assert summary["elements"] == summary["ticks"] == 29
    assert summary["predictions"] == 8 + 3
    assert summary["labels"] == len(scores) == 8 + 2
    assert (summary["gaps"], summary["missed"]) == (1, 2)
    assert summary["log_loss"] == pytest.approx(np.mean([s.log_loss for s in scores]))
    assert summary["accuracy"] == np.mean([(s.p > 0.5) == s.label for s in scores])
    assert summary["base_rate"] == np.mean([s.label for s in scores])
    assert (summary["wall_s"], summary["compile_s"]) == (2.0, 1.5)
    assert summary["elements_per_s"] == 14.5
    assert summary["digest"] == digest.hexdigest()


def test_without_labels_every_figure_is_none(engine):
    session, _, digest = fed(engine, a=5)
    summary = summarize(session, digest, wall_s=0.0, compile_s=0.0)
    assert (summary["predictions"], summary["labels"]) == (1, 0)
    figures = [key for key in summary if key.endswith(("accuracy", "log_loss", "brier", "rate"))]
    assert len(figures) == 10
    assert {summary[key] for key in figures} == {None}
    assert summary["elements_per_s"] is None


@pytest.mark.parametrize(
    ("streams", "words"),
    [
        ({}, "no predictions: there were no ticks"),
        ({"a": 1}, "no predictions: the series has 1 element and the warm-up is 5"),
        ({"a": 4}, "no predictions: the series has 4 elements and the warm-up is 5"),
        ({"a": 4, "b": 3}, "no predictions: no series has reached the warm-up of 5 elements"),
        ({"a": 5}, "no scores: no prediction has its label yet"),
    ],
)
def test_one_sentence_says_why_there_is_nothing(engine, streams, words):
    session, _, digest = fed(engine, **streams)
    summary = summarize(session, digest, wall_s=1.0, compile_s=0.0)
    assert verdict(summary) == summary["verdict"] == words
    assert list(summary_lines(summary))[-1] == words


def test_the_table_stands_the_model_beside_the_plain_forecasters(engine):
    session, _, digest = fed(engine, a=2001)
    summary = summarize(session, digest, wall_s=0.5, compile_s=0.0)
    out = "\n".join(summary_lines(summary | {"stream": "eurusd", "refused_ticks": 3}))
    assert out.startswith("eurusd: 2,001 ticks (3 refused), 2,001 elements, 999 predictions")
    row = next(line.split() for line in out.splitlines() if "log loss (nats)" in line)
    expected = [summary[key] for key in ("log_loss", "base_rate_log_loss", "last_label_log_loss")]
    assert [float(cell) for cell in row[-3:]] == pytest.approx(expected, abs=5e-5)
    assert all(map(math.isfinite, expected))
    assert "4,002 elements/s" in out
    low, high = summary["accuracy_band"]
    assert f"accuracy, anytime-valid 95 % band: {low:.4f} to {high:.4f}" in out
    assert "\nlast " not in out, "the last labels are all labels"
    assert out.endswith("\n" + summary["verdict"])


def test_the_table_tells_of_the_last_labels_where_they_are_not_all(engine):
    session, _, digest = fed(engine, a=2101)
    summary = summarize(session, digest, wall_s=0.5, compile_s=0.0)
    lines = list(summary_lines(summary))
    recent = summary["rolling"]
    assert (recent["labels"], summary["labels"]) == (1000, 1048)
    assert any(f"last 1,000 labels: accuracy {recent['accuracy']:.4f}" in x for x in lines)


def test_a_summary_is_fit_for_json(engine):
    session, _, digest = fed(engine, a=60, b=40)
    summary = summarize(session, digest, wall_s=0.5, compile_s=0.0)
    assert msgspec.json.decode(msgspec.json.encode(summary)) == json.loads(json.dumps(summary))
    assert len(summary["reliability"]) == 15
    assert sum(row["labels"] for row in summary["reliability"]) == summary["labels"]
    assert set(summary["evidence"]) == {"coin", "base_rate", "last_label"}


def test_experts_are_weighed_over_streams_and_their_losses_over_labels():
    members = (TableMember("rate"), TableMember("sign", signs=1), TableMember("idle", fade=5.0))
    config = build(
        {"features": ["x"], "window": 5, "stride": 2, "bptt": 5, "learn": True, "bank": "b.toml"}
    )
    session = Session(config, ("x",), lambda _: None, members=members)
    empty = summarize(session, Digest(), wall_s=1.0, compile_s=0.0)["experts"]
    assert empty["rate"] == {"weight": None, "log_loss": None}
    for name, count in (("a", 41), ("b", 19)):
        values = np.random.default_rng(count).normal(size=(count, 1))
        session.push(Ticks(name, np.zeros(count, np.int64), values))
    experts = summarize(session, Digest(), wall_s=1.0, compile_s=0.0)["experts"]
    assert list(experts) == ["rate", "sign", "idle"]
    held = [session.streams[name].mixture for name in "ab"]
    assert [m.labels for m in held] == [18, 7]
    for k, figures in enumerate(experts.values()):
        assert {type(value) for value in figures.values()} == {float}, "JSON takes no other"
        assert figures["weight"] == pytest.approx((held[0].weights[k] + held[1].weights[k]) / 2)
        assert figures["log_loss"] == pytest.approx((held[0].losses[k] + held[1].losses[k]) / 25)
