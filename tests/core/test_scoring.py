"""Scores, against plain sums over stored predictions."""

from __future__ import annotations

import math
import tracemalloc

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_lstm.core.ranking import FRESH
from stream_lstm.core.reliability import BINS
from stream_lstm.core.scoring import BATCH, EPSILON, Scoreboard, Tally, log_loss

Rows = list[tuple[float, int, int]]

rows = st.lists(
    st.tuples(
        st.floats(0, 1, width=32) | st.sampled_from([0.0, 0.5, 1.0]),
        st.integers(0, 1),
        st.integers(-1, 1),
    ),
    min_size=1,
    max_size=60,
)
"""(p, label, last label known when p was given, -1 for none)."""


def scored(rows: Rows, board: Scoreboard | None = None) -> Scoreboard:
    board = board or Scoreboard()
    for p, label, last in rows:
        board.add(label, last, p, board.base_rate_p(), board.last_label_p(last))
    return board


def plain(ps: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Accuracy, log loss and Brier score from their definitions."""
    q = np.where(labels == 1, ps, 1 - ps)
    return {
        "accuracy": float(np.mean((ps > 0.5) == labels)),
        "log_loss": float(np.mean(-np.log(np.maximum(q, 2.0**-24)))),
        "brier": float(np.mean((ps - labels) ** 2)),
    }


@given(rows)
def test_the_models_scores_are_means_over_its_predictions(rows: Rows) -> None:
    ps, labels, _ = (np.array(column) for column in zip(*rows, strict=True))
    figures = scored(rows).figures()
    for name, value in plain(ps, labels).items():
        assert figures[name] == pytest.approx(value, abs=1e-12)
    assert figures["base_rate"] == labels.mean()


@given(rows)
def test_the_base_rate_knows_only_what_came_before(rows: Rows) -> None:
    labels = np.array([label for _, label, _ in rows])
    ps = np.array([(labels[:m].sum() + 0.5) / (m + 1) for m in range(len(rows))])
    figures = scored(rows).figures()
    for name, value in plain(ps, labels).items():
        assert figures[f"base_rate_{name}"] == pytest.approx(value, abs=1e-12)


@given(rows)
def test_the_last_label_repeats_as_often_as_labels_did(rows: Rows) -> None:
    labels = np.array([label for _, label, _ in rows])
    lasts = np.array([last for *_, last in rows])
    repeated = labels == lasts
    ps = []
    for m, last in enumerate(lasts):
        share = (repeated[:m].sum() + 0.5) / (m + 1)
        ps.append({-1: 0.5, 0: 1 - share, 1: share}[int(last)])
    figures, wanted = scored(rows).figures(), plain(np.array(ps), labels)
    assert figures["last_label_log_loss"] == pytest.approx(wanted["log_loss"], abs=1e-12)
    assert figures["last_label_brier"] == pytest.approx(wanted["brier"], abs=1e-12)
    assert figures["last_label_accuracy"] == np.mean(np.maximum(lasts, 0) == labels)


@given(st.floats(0, 1, width=32), st.integers(0, 1))
def test_a_loss_is_finite_and_never_negative(p: float, label: int) -> None:
    loss = log_loss(p, label)
    assert 0 <= loss <= -math.log(EPSILON)
    assert math.copysign(1, loss) == 1, "a loss of minus zero would be printed with its sign"


def test_certainty_that_fails_costs_what_float32_can_tell() -> None:
    assert log_loss(0.0, 1) == log_loss(1.0, 0) == 24 * math.log(2)
    assert log_loss(0.0, 0) == log_loss(1.0, 1) == 0
    below_one = float(np.nextafter(np.float32(1), np.float32(0)))
    assert log_loss(below_one, 0) == pytest.approx(24 * math.log(2))


def test_no_labels_no_figures() -> None:
    assert set(Scoreboard().figures().values()) == {None}


SUMS = [
    prefix + name
    for prefix in ("", "base_rate_", "last_label_")
    for name in ("accuracy", "log_loss", "brier")
]


@given(rows, rows)
def test_streams_together_are_their_sums(one: Rows, two: Rows) -> None:
    merged, other = scored(one), scored(two)
    weight = merged.labels, other.labels
    parts = merged.figures(), other.figures()
    merged.merge(other)
    figures = merged.figures()
    for name in SUMS:
        expected = sum(w * p[name] for w, p in zip(weight, parts, strict=True)) / sum(weight)
        assert figures[name] == pytest.approx(expected, abs=1e-12)


@given(rows, rows)
def test_streams_together_are_ranked_and_binned_together(one: Rows, two: Rows) -> None:
    merged, whole = scored(one), Scoreboard()
    merged.merge(scored(two))
    for p, label, _ in one + two:
        whole.add(label, -1, p, 0.5, 0.5)
    figures, (model, *_) = merged.figures(), whole.grades()
    assert figures["auc"] == model.ranking.auc()
    assert figures["ece"] == pytest.approx(model.reliability.error(), abs=1e-12)
    positives = sum(label for _, label, _ in one + two)
    kappa = model.figures(len(one + two), positives, 0)["kappa"]
    assert figures["kappa"] == pytest.approx(kappa, abs=1e-12)


@given(rows, st.integers(0, 40))
def test_a_scoreboard_goes_through_a_snapshot(rows: Rows, window: int) -> None:
    board = scored(rows, Scoreboard.empty(window, ("raw", "frozen")))
    again = msgspec.msgpack.decode(msgspec.msgpack.encode(board), type=Scoreboard)
    assert again == board
    assert scored(rows, again) == scored(rows, board)


def test_further_forecasts_are_scored_on_the_labels_that_they_are_there_for() -> None:
    board = Scoreboard.empty(2, ("raw", "stateless"))
    board.add(1, 0, 0.6, 0.5, 0.5, (0.9, None))
    board.add(0, 0, 0.6, 0.5, 0.5, (0.2, 0.7))
    board.add(1, 0, 0.6, 0.5, 0.5)
    figures = board.figures()
    assert figures["raw_accuracy"] == 1.0
    assert figures["raw_log_loss"] == pytest.approx(-(math.log(0.9) + math.log(0.8)) / 2)
    assert figures["raw_ece"] == pytest.approx((0.1 + 0.2) / 2)
    assert (figures["stateless_accuracy"], figures["stateless_brier"]) == (
        0.0,
        pytest.approx(0.49),
    )
    assert "frozen_accuracy" not in figures
    assert "stateless_ece" not in figures
    assert figures["rolling"]["raw_brier"] == pytest.approx(0.04)
    with pytest.raises(ValueError, match="1 further forecasts come for raw, stateless"):
        board.add(1, 0, 0.6, 0.5, 0.5, (0.5,))


def test_further_forecasts_of_streams_are_merged() -> None:
    together = Scoreboard()
    for p in (0.9, 0.7):
        board = Scoreboard.empty(0, ("frozen",))
        board.add(1, -1, 0.5, 0.5, 0.5, (p,))
        together.merge(board)
    assert together.figures()["frozen_brier"] == pytest.approx((0.01 + 0.09) / 2)


def many(count: int, seed: int = 3) -> Rows:
    """More rows than are counted, or tabulated, in one go."""
    rng = np.random.default_rng(seed)
    ps = rng.random(count).astype(np.float32).tolist()
    return [(p, int(rng.random() < p), int(rng.integers(-1, 2))) for p in ps]


@pytest.mark.parametrize("count", [BATCH - 1, BATCH, BATCH + 1, FRESH + 3 * BATCH // 2])
def test_sums_over_many_labels_have_the_bits_of_a_plain_loop(count: int) -> None:
    board, sums = Scoreboard.empty(), Tally()
    given = [0.0] * BINS
    for p, label, last in many(count):
        loss = board.add(label, last, p, 0.5, 0.5)
        sums.add(p, label, loss, (p > 0.5) == label)
        given[int(p * BINS)] += p
    model, base, _ = board.grades()
    assert (model.correct, model.log_loss, model.brier) == (
        sums.correct,
        sums.log_loss,
        sums.brier,
    )
    assert model.reliability.given == given
    assert model.calls == sum(p > 0.5 for p, *_ in many(count))
    assert sum(model.reliability.labels) == sum(base.reliability.labels) == count
    assert model.ranking.auc() == pytest.approx(5 / 6, abs=0.1)
    assert base.ranking.auc() == 0.5


@pytest.mark.parametrize("cuts", [(), (1, 2, 130), (100, 128, 256, 700, 1300)])
@pytest.mark.parametrize("names", [(), ("raw", "frozen")])
def test_labels_in_blocks_give_the_bits_of_labels_one_by_one(cuts, names) -> None:
    one, blocks, told = (*(Scoreboard.empty(90, names) for _ in range(2)), [])
    rng, columns = np.random.default_rng(5), []
    for p, label, last in many(FRESH + 4 * BATCH + 17):
        p = float(rng.choice([p, 0.0, 0.5, 1.0], p=[0.97, 0.01, 0.01, 0.01]))
        plain = one.base_rate_p(), one.last_label_p(last)
        others = tuple(None if rng.random() < 0.2 else rng.random() for _ in names)
        told.append((one.add(label, last, p, *plain, others), *one.evidence.log_e()))
        columns.append((label, last, p, *plain, *others))
    table = np.array(columns, np.float64).T
    found = [
        np.column_stack(blocks.extend(part[0].astype(np.int8), part[1].astype(np.int8), part[2:]))
        for part in np.split(table, cuts, axis=1)
    ]
    assert np.array_equal(np.concatenate(found), np.array(told))
    assert blocks == one
    assert one.evidence.base.better.reached > 0


@pytest.mark.parametrize("window", [0, 3, BATCH, 1000])
def test_a_look_changes_nothing(window: int) -> None:
    watched, alone = (Scoreboard.empty(window, ("raw",)) for _ in range(2))
    for k, row in enumerate(many(3 * BATCH + 9)):
        scored([row], watched)
        scored([row], alone)
        if k % 50 == 7:
            watched.figures()
            watched.means()
            Scoreboard().merge(watched)
    assert watched == alone


def test_a_scoreboard_goes_through_a_snapshot_between_batches() -> None:
    rows = many(FRESH + 5 * BATCH // 2)
    for cut in (1, BATCH - 1, BATCH, FRESH + BATCH + 3):
        board = scored(rows[:cut], Scoreboard.empty(100, ("raw",)))
        again = msgspec.msgpack.decode(msgspec.msgpack.encode(board), type=Scoreboard)
        assert again == board
        assert scored(rows[cut:], again).figures() == scored(rows[cut:], board).figures()
        assert again == board


def test_streams_of_many_labels_are_merged() -> None:
    one, two = many(FRESH + 9 * BATCH + 5), many(FRESH + 7, seed=4)
    together, whole = Scoreboard(), scored(one + two, Scoreboard.empty(50))
    for rows in (one, two, []):
        together.merge(scored(rows, Scoreboard.empty(50)))
    found, wanted = together.figures(), whole.figures()
    assert found["auc"] == wanted["auc"]
    for name in ("labels", "positive"):
        assert [row[name] for row in found["reliability"]] == [
            row[name] for row in wanted["reliability"]
        ]
    assert found["rolling"]["labels"] == 100


def test_a_stream_takes_little_before_it_has_labels_and_stays_small() -> None:
    def bytes_each(rows: Rows) -> float:
        tracemalloc.start()
        boards = [scored(rows, Scoreboard.empty()) for _ in range(50)]
        taken, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return taken / len(boards)

    assert bytes_each([]) < 512
    assert bytes_each(many(1)) < 1536
    assert bytes_each(many(BATCH)) < 6144
