"""Scores, against plain sums over predictions, and one by one against many at a time."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_lstm.core.counts import BATCH, FRESH
from stream_lstm.core.evidence import PROVEN
from stream_lstm.core.losses import EPSILON, TOGETHER, WASTE, Tally, grids, log_loss, log_losses
from stream_lstm.core.scores import BOARD, NAMES, Scores, ScoresState, plain_p

from .scored import Rows, many, scored

rows = st.lists(
    st.tuples(
        st.floats(0, 1, width=32) | st.sampled_from([0.0, 0.5, 1.0]),
        st.integers(0, 1),
        st.integers(-1, 1),
    ),
    min_size=1,
    max_size=60,
)


def plain(ps: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Accuracy, log loss and Brier score from their definitions."""
    q = np.where(labels == 1, ps, 1 - ps)
    return {
        "accuracy": float(np.mean((ps > 0.5) == labels)),
        "log_loss": float(np.mean(-np.log(np.maximum(q, 2.0**-24)))),
        "brier": float(np.mean((ps - labels) ** 2)),
    }


# ---- what a score is --------------------------------------------------------------------


@given(rows)
def test_the_models_scores_are_means_over_its_predictions(rows: Rows) -> None:
    ps, labels, _ = (np.array(column) for column in zip(*rows, strict=True))
    figures = scored(rows).total().figures()
    for name, value in plain(ps, labels).items():
        assert figures[name] == pytest.approx(value, abs=1e-12)
    assert figures["base_rate"] == labels.mean()


@given(rows)
def test_the_base_rate_knows_only_what_came_before(rows: Rows) -> None:
    labels = np.array([label for _, label, _ in rows])
    ps = np.array([(labels[:m].sum() + 0.5) / (m + 1) for m in range(len(rows))])
    figures = scored(rows).total().figures()
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
    figures, wanted = scored(rows).total().figures(), plain(np.array(ps), labels)
    assert figures["last_label_log_loss"] == pytest.approx(wanted["log_loss"], abs=1e-12)
    assert figures["last_label_brier"] == pytest.approx(wanted["brier"], abs=1e-12)
    assert figures["last_label_accuracy"] == np.mean(np.maximum(lasts, 0) == labels)


@given(rows)
def test_plain_forecasts_of_arrays_have_the_bits_of_those_of_one_stream(rows: Rows) -> None:
    scores = scored(rows)
    counts = [np.full(3, value) for value in scores.board[0, :3]]
    found = np.array(plain_p(*counts, np.array([-1, 0, 1], np.int8)))
    wanted = np.array([scores.plain(0, last) for last in (-1, 0, 1)]).T
    assert found.tobytes() == np.ascontiguousarray(wanted).tobytes()


@given(st.floats(0, 1, width=32), st.integers(0, 1))
def test_a_loss_is_finite_and_never_negative(p: float, label: int) -> None:
    loss = log_loss(p, label)
    assert 0 <= loss <= -math.log(EPSILON)
    assert math.copysign(1, loss) == 1, "a loss of minus zero would be printed with its sign"
    assert log_losses(np.array([p]), np.array([label == 1])).tobytes() == np.array(loss).tobytes()


def test_certainty_that_fails_costs_what_float32_can_tell() -> None:
    assert log_loss(0.0, 1) == log_loss(1.0, 0) == 24 * math.log(2)
    assert log_loss(0.0, 0) == log_loss(1.0, 1) == 0
    below_one = float(np.nextafter(np.float32(1), np.float32(0)))
    assert log_loss(below_one, 0) == pytest.approx(24 * math.log(2))


@pytest.mark.parametrize("rows", [0, 1, 3])
def test_no_labels_no_figures(rows: int) -> None:
    scores = Scores(10, ("raw", "frozen"), rows)
    assert set(scores.total().figures().values()) == {None}
    assert scores.total().evidence.log_e() == (0.0, 0.0, 0.0)
    none = np.zeros(0, np.int64), *np.zeros((2, 0), np.int8), np.zeros((5, 0))
    losses, log_e = scores.extend(*none)
    assert (losses.shape, log_e.shape) == ((0,), (0, 3))


def test_further_forecasts_are_scored_on_the_labels_that_they_are_there_for() -> None:
    scores = Scores(2, ("raw", "stateless"))
    scores.add(0, 1, 0, 0.6, 0.5, 0.5, (0.9, None))
    scores.add(0, 0, 0, 0.6, 0.5, 0.5, (0.2, 0.7))
    scores.add(0, 1, 0, 0.6, 0.5, 0.5)
    figures = scores.of(0).figures()
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
    before = scores.board.tobytes()
    with pytest.raises(ValueError, match="1 further forecasts come for raw, stateless"):
        scores.add(0, 1, 0, 0.6, 0.5, 0.5, (0.5,))
    assert scores.board.tobytes() == before
    assert len(scores.of(0).losses) == 5


@pytest.mark.parametrize("count", [BATCH - 1, BATCH, BATCH + 1, FRESH + 3 * BATCH // 2])
def test_sums_over_many_labels_have_the_bits_of_a_plain_loop(count: int) -> None:
    scores, sums = Scores(), Tally()
    for p, label, last in many(count):
        loss, *_ = scores.add(0, label, last, p, 0.5, 0.5)
        sums.add(p, label, loss, (p > 0.5) == label)
    model, base, _ = scores.total().ways
    assert (model.correct, model.log_loss, model.brier) == (
        sums.correct,
        sums.log_loss,
        sums.brier,
    )
    assert model.calls == sum(p > 0.5 for p, *_ in many(count))
    assert scores.total().means()["accuracy"] == sums.means(count)["accuracy"]
    assert base.calls == 0


# ---- one by one, and many at a time -----------------------------------------------------


def bits(scores: Scores) -> tuple[Any, ...]:
    """All that scores contain, in a form that tells every bit apart."""
    board, counts = msgspec.structs.astuple(scores.state(len(scores.board)))
    others = [getattr(counts, name) for name in counts.__struct_fields__ if name != "bins"]
    return board.tobytes(), counts.bins.tobytes(), *others


def agree(
    table: np.ndarray, streams: np.ndarray, cuts: list[int], names: tuple[str, ...] = ()
) -> Scores:
    """Check that labels one by one and in blocks give the same bits; return the scores."""
    count = int(streams.max(initial=0)) + 1
    one, blocks, told = Scores(90, names, count), Scores(90, names, count), []
    for row, (label, last, *ps) in zip(streams.tolist(), table.T.tolist(), strict=True):
        others = tuple(None if math.isnan(p) else p for p in ps[3:])
        told.append(one.add(row, int(label), int(last), *ps[:3], others))
    found = []
    for low, high in zip([0, *cuts], [*cuts, len(streams)], strict=True):
        label, last, *ps = table[:, low:high]
        part = streams[low:high], label.astype(np.int8), last.astype(np.int8), np.array(ps)
        found.append(np.column_stack(blocks.extend(*part)))
    assert np.concatenate(found).tobytes() == np.array(told).reshape(-1, 4).tobytes()
    assert bits(blocks) == bits(one)
    return one


def table_of(rng: np.random.Generator, count: int, names: int) -> np.ndarray:
    """Labels, last labels and forecasts (5 + names, count), the model's better than chance."""
    label, last = rng.integers(0, 2, count), rng.integers(-1, 2, count)
    p = rng.random((3 + names, count))
    p[0] = np.clip(0.4 + 0.2 * label + rng.normal(0, 0.1, count), 0, 1)
    p[:3] = np.where(rng.random((3, count)) < 0.03, rng.choice([0.0, 0.5, 1.0]), p[:3])
    p[3:] = np.where(rng.random((names, count)) < 0.2, np.nan, p[3:])
    return np.concatenate([[label, last], p])


@given(
    st.integers(0, 2**32 - 1),
    st.integers(0, 300),
    st.sampled_from([1, 2, 5, 40]),
    st.floats(0, 1),
    st.integers(0, 3),
    st.lists(st.floats(0, 1), max_size=4),
)
def test_any_mixture_of_streams_in_any_blocks_gives_the_bits_of_labels_one_by_one(
    seed: int, count: int, streams: int, crowded: float, names: int, cuts: list[float]
) -> None:
    rng = np.random.default_rng(seed)
    at = rng.integers(0, streams, count)
    at[rng.random(count) < crowded] = rng.integers(streams)
    places = sorted(int(cut * count) for cut in cuts)
    agree(table_of(rng, count, names), at, places, NAMES[:names])


@pytest.mark.parametrize("cuts", [[], [1, 2, 130], [100, 128, 256, 700, 1300]])
@pytest.mark.parametrize("names", [(), ("raw", "frozen")])
def test_long_series_in_blocks_give_the_bits_of_labels_one_by_one(cuts, names) -> None:
    rng, count = np.random.default_rng(5), FRESH + 4 * BATCH + 17
    scores = agree(table_of(rng, count, len(names)), np.zeros(count, np.int64), cuts, names)
    assert scores.of(0).evidence.base.better.reached > 0, "or it is not compared"


@pytest.mark.parametrize("cuts", [[], [900]])
def test_evidence_of_many_streams_is_won_at_the_same_labels(cuts) -> None:
    rng, count = np.random.default_rng(6), 2400
    scores = agree(table_of(rng, count, 0), rng.integers(0, 6, count), cuts)
    reached = scores.board[:, BOARD.index("base_better_reached")]
    assert np.count_nonzero(reached) >= 3
    assert len(set(reached.tolist())) >= 3


def test_more_streams_than_one_grid_has_give_the_bits_of_labels_one_by_one() -> None:
    rng, count = np.random.default_rng(7), 2 * TOGETHER + 900
    agree(table_of(rng, count, 1), rng.permutation(count), [3, TOGETHER + 77], ("raw",))


@given(st.lists(st.integers(0, 9) | st.just(3), max_size=200))
def test_grids_contain_each_label_once_and_little_else(streams: list[int]) -> None:
    rows, seen = np.array(streams, np.int64), []
    for grid in grids(rows):
        seen += grid.order.tolist()
        padded = grid.pad(grid.order + 1)
        assert padded.size <= WASTE * len(grid.order)
        assert grid.real(padded).tolist() == (grid.order + 1).tolist()
        for row, labels in zip(grid.streams.tolist(), padded.tolist(), strict=True):
            found = [label - 1 for label in labels if label]
            assert found == np.flatnonzero(rows == row).tolist()
    assert sorted(seen) == list(range(len(rows)))


# ---- what they contain ------------------------------------------------------------------


@pytest.mark.parametrize("window", [0, 3, BATCH, 1000])
def test_a_look_changes_nothing(window: int) -> None:
    watched, alone = (Scores(window, ("raw",), 2) for _ in range(2))
    for k, row in enumerate(many(3 * BATCH + 9)):
        scored([row], watched)
        scored([row], alone)
        if k % 50 == 7:
            watched.of(0).figures()
            watched.of(1).means()
            watched.total().figures()
            watched.state(1)
    assert bits(watched) == bits(alone)


def test_a_record_stays_what_it_was() -> None:
    scores = scored(many(BATCH + 3), Scores(50))
    record = scores.of(0)
    wanted = scores.of(0).figures()
    scored(many(2 * BATCH, seed=4), scores)
    assert record.figures() == wanted
    assert scores.of(0).figures() != wanted


SUMS = [
    prefix + name
    for prefix in ("", "base_rate_", "last_label_")
    for name in ("accuracy", "log_loss", "brier")
]


def two(one: Rows, other: Rows) -> Scores:
    """Scores of two streams, one after the other."""
    return scored(other, scored(one, Scores(100, rows=2)), 1)


@pytest.mark.slow
@given(rows, rows)
def test_streams_together_are_their_sums(one: Rows, other: Rows) -> None:
    scores = two(one, other)
    parts, figures = [scores.of(k) for k in range(2)], scores.total().figures()
    for name in SUMS:
        expected = sum(part.labels * part.figures()[name] for part in parts)
        assert figures[name] == pytest.approx(expected / len(one + other), abs=1e-12)
    repeats = scores.total().repeats
    assert repeats == sum(part.repeats for part in parts)


@given(rows, rows)
def test_streams_together_are_ranked_and_binned_together(one: Rows, other: Rows) -> None:
    whole, figures = Scores(100), two(one, other).total().figures()
    for p, label, last in one + other:
        whole.add(0, label, last, p, 0.5, 0.5)
    wanted = whole.total().figures()
    for name in ("auc", "ece", "kappa", "kappa_temporal", "reliability", "accuracy"):
        assert figures[name] == wanted[name], name
    for name in ("auc", "ece", "kappa", "brier", "labels"):
        assert figures["rolling"][name] == wanted["rolling"][name], name


@given(rows)
def test_the_figures_of_one_stream_are_the_same_beside_streams_without_labels(rows: Rows) -> None:
    alone, beside = scored(rows, Scores(9)), scored(rows, Scores(9, rows=3), 1)
    wanted = alone.of(0).figures()
    assert alone.total().figures() == beside.total().figures() == beside.of(1).figures() == wanted


def test_one_of_several_streams_has_no_ranking_of_its_own() -> None:
    found = two(many(40), many(30, seed=4)).of(1).figures()
    for name in ("auc", "last_label_auc", "ece", "reliability", "rolling"):
        assert found[name] is None
    assert found["accuracy"] is not None
    assert found["kappa"] is not None
    assert found["evidence"] is not None


def test_further_forecasts_of_streams_are_added_up() -> None:
    scores = Scores(0, ("frozen",), 2)
    for row, p in enumerate((0.9, 0.7)):
        scores.add(row, 1, -1, 0.5, 0.5, 0.5, (p,))
    assert scores.total().figures()["frozen_brier"] == pytest.approx((0.01 + 0.09) / 2)


def test_a_table_grows() -> None:
    scores, wide = scored(many(300), Scores(20)), scored(many(300), Scores(20, rows=5))
    scores.grow(5)
    assert bits(scores) == bits(wide)
    for either in (scores, wide):
        scored(many(50, seed=4), either, 4)
    assert bits(scores) == bits(wide)


def test_a_stream_takes_a_row_of_the_board_and_nothing_else() -> None:
    assert len(BOARD) <= 45
    scores = Scores(rows=1000)
    assert scores.board.nbytes == 1000 * 8 * len(BOARD)
    state = scores.state(0)
    assert len(state.counts.last) == len(state.counts.waiting) == 0


# ---- snapshots --------------------------------------------------------------------------


def through_a_snapshot(scores: Scores, names: tuple[str, ...]) -> Scores:
    """Return scores restored from the bytes of their state."""
    found = scores.state(len(scores.board))
    data = msgspec.msgpack.encode(found, enc_hook=lambda array: (array.shape, array.tobytes()))

    def array(_: type, value: Any) -> np.ndarray:
        return np.frombuffer(value[1], np.float64).reshape(value[0])

    state = msgspec.msgpack.decode(data, type=ScoresState, dec_hook=array)
    again = Scores(found.counts.window, names)
    again.restore(state)
    return again


@pytest.mark.parametrize("cut", [0, 1, BATCH - 1, BATCH, FRESH + BATCH + 3])
def test_scores_go_through_a_snapshot_to_the_same_bits(cut: int) -> None:
    names = ("raw", "frozen")
    rows = many(FRESH + 5 * BATCH // 2)
    scores = scored(rows[:cut], Scores(100, names, 2))
    again = through_a_snapshot(scores, names)
    assert bits(again) == bits(scores)
    for either in (scores, again):
        scored(rows[cut:], either, 1)
    assert bits(again) == bits(scores)
    assert again.total().figures() == scores.total().figures()


def test_a_state_has_the_rows_that_are_asked_for() -> None:
    scores = scored(many(30), Scores(rows=8))
    state = scores.state(2)
    assert state.board.shape == (2, len(BOARD))
    scores.add(0, 1, 1, 0.9, 0.5, 0.5)
    assert state.board[0, 0] == state.counts.labels == 30, "a state does not change any more"
    again = Scores(rows=8)
    again.restore(state)
    assert again.board.shape == (8, len(BOARD))
    again.add(7, 1, 1, 0.9, 0.5, 0.5)
    assert again.total().labels == 31


def test_a_state_of_another_table_is_refused() -> None:
    other = scored(many(3), Scores(0, ("raw",))).state(1)
    with pytest.raises(ValueError, match="are not of this table"):
        Scores().restore(other)
    plain = Scores().state(1)
    with pytest.raises(ValueError, match="counts of 4 forecasters do not fit"):
        Scores().restore(msgspec.structs.replace(plain, counts=other.counts))
    with pytest.raises(ValueError, match="float32"):
        Scores().restore(msgspec.structs.replace(plain, board=plain.board.astype(np.float32)))


def test_evidence_is_what_a_label_returns() -> None:
    scores = Scores(rows=2)
    for p, label, last in many(400):
        scores.add(0, label, last, p, 0.5, 0.5)
        *_, last_e = found = scores.add(1, label, last, p, 0.5, 0.5)
    assert found[1:] == scores.of(1).evidence.log_e()
    assert last_e == scores.total().evidence.last.better.log_e > PROVEN
