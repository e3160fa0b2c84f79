"""One plain sentence: better or worse only where it is proven, and odds that can be read."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_lstm.core.evidence import Bet, Evidence
from stream_lstm.core.verdict import comparison, odds, verdict

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
