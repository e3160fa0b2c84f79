"""Raw ticks become elements, alone or in blocks, and what is bad is refused alone."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_lstm.core import elements, functions
from stream_lstm.core.elements import ElementMaker, Memory

Element = tuple[int, bytes]
Refusals = list[tuple[int, str]]

COLUMNS = ("bid", "ask", "volume", "note")
EXPRESSIONS = {
    "plain": ["bid"],
    "return": ["log_return(mid(bid, ask))", "spread(bid, ask)", "log1p(volume)"],
    "deep": ["diff(diff(bid))", "elapsed()", "imbalance(bid, ask)"],
    "operators": ["bid / ask - 1", "diff(log(bid), 3) < 0", "clip(volume, 0, 3)"],
}

value = st.floats(0.5, 2.0) | st.sampled_from([math.nan, math.inf, -1.0, 0.0, 1e300, -math.inf])
table = st.lists(st.tuples(value, value, value, value), min_size=1, max_size=30)


def make(
    maker: ElementMaker, values: np.ndarray, cuts: set[int]
) -> tuple[list[Element], Refusals, Memory]:
    """Elements, refusals with the index of their tick in the whole series, and the memory."""
    memory, made, refusals = Memory.empty(len(maker.columns)), [], []
    t_ns = np.arange(len(values), dtype=np.int64) * 10**9
    edges = sorted({0, len(values), *(c for c in cuts if c < len(values))})
    for start, stop in itertools.pairwise(edges):

        def refused(index: int, reason: str, start: int = start) -> None:
            refusals.append((start + index, reason))

        for times, rows in maker.make(memory, t_ns[start:stop], values[start:stop], refused):
            assert rows.dtype == np.float32
            assert rows.flags.c_contiguous
            assert len(times) == len(rows) > 0
            made += [(int(t), row.tobytes()) for t, row in zip(times, rows, strict=True)]
    return made, refusals, memory


@pytest.mark.parametrize("name", EXPRESSIONS)
@given(rows=table, cuts=st.sets(st.integers(1, 30)), run=st.integers(1, 9))
def test_blocks_of_any_length_give_the_same_elements(
    name: str, rows: list[tuple[float, ...]], cuts: set[int], run: int
) -> None:
    maker, values = ElementMaker(EXPRESSIONS[name], COLUMNS), np.array(rows)
    singly = make(maker, values, set(range(len(rows))))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(elements, "RUN", run)
        cut = make(maker, values, cuts)
    assert cut[:2] == singly[:2]
    assert cut[2].values.tobytes() == singly[2].values.tobytes()
    assert cut[2].t_ns.tobytes() == singly[2].t_ns.tobytes()
    assert all(np.isfinite(np.frombuffer(row, np.float32)).all() for _, row in cut[0])


@pytest.mark.parametrize("name", EXPRESSIONS)
@given(rows=table)
def test_a_refused_tick_might_as_well_not_have_come(
    name: str, rows: list[tuple[float, ...]]
) -> None:
    maker, values = ElementMaker(EXPRESSIONS[name], COLUMNS), np.array(rows)
    _, refusals, memory = make(maker, values, set())
    bad = {index for index, _ in refusals}
    kept = np.array([k for k in range(len(rows)) if k not in bad], dtype=int)
    with pytest.MonkeyPatch.context() as patch:
        # The clock goes on over a refused tick; `elapsed` is not what is compared here.
        patch.setattr(functions, "NS_PER_S", math.inf)
        made = make(maker, values, set())[0]
        alone, none, other = make(maker, values[kept], set())
    assert [row for _, row in alone] == [row for _, row in made]
    assert not none
    assert memory.values.tobytes() == other.values.tobytes()
    assert len(made) + len(bad) + min(maker.features.lag, len(kept)) == len(rows)


def test_times_are_those_of_the_ticks_that_made_the_elements() -> None:
    maker = ElementMaker(["diff(bid)"], ["bid"])
    made, refusals, _ = make(maker, np.array([[1.0], [2.0], [math.nan], [4.0]]), set())
    assert [(t // 10**9, np.frombuffer(row, np.float32)[0]) for t, row in made] == [(1, 1), (3, 2)]
    assert refusals == [(2, "bid is nan")]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ((math.nan, 1.0, 1.0), "bid is nan"),
        ((1.0, -math.inf, 1.0), "ask is -inf"),
        ((1.0, -2.0, 1.0), "feature log_return(mid(bid, ask)) is nan (bid=1, ask=-2, volume=1)"),
        ((1.0, 1.0, -2.0), "feature log1p(volume) is nan (bid=1, ask=1, volume=-2)"),
    ],
)
def test_the_reason_names_the_column_or_the_feature(row: tuple[float, ...], reason: str) -> None:
    maker = ElementMaker(["log_return(mid(bid, ask))", "log1p(volume)"], COLUMNS[:3])
    _, refusals, _ = make(maker, np.array([(1.0, 1.0, 1.0), row, (1.0, 1.0, 1.0)]), set())
    assert refusals == [(1, reason)]


def test_a_value_too_large_for_float32_is_refused() -> None:
    maker = ElementMaker(["bid"], ["bid"])
    made, refusals, _ = make(maker, np.array([[9e36], [1.1e37], [-1e300], [1.0]]), set())
    assert [t // 10**9 for t, _ in made] == [0, 3]
    assert [index for index, _ in refusals] == [1, 2]


def test_columns_that_no_feature_reads_may_hold_anything() -> None:
    maker = ElementMaker(["bid"], ["bid", "note"])
    made, refusals, _ = make(maker, np.array([[1.0, math.nan], [2.0, math.inf]]), set())
    assert len(made) == 2
    assert not refusals


@pytest.mark.parametrize("first", [-5.0, 0.0])
@pytest.mark.parametrize("name", ["log_return(x)", "diff(log_return(x))"])
def test_a_bad_first_tick_does_not_shut_the_stream_for_ever(first: float, name: str) -> None:
    """The first tick makes no element, so only its refusal keeps it from all later ones."""
    maker = ElementMaker([name], ["x"])
    good = np.linspace(100, 101, 20)[:, None]
    made, refusals, _ = make(maker, np.concatenate([[[first]], good]), set())
    assert [index for index, _ in refusals] == [0]
    assert [row for _, row in made] == [row for _, row in make(maker, good, set())[0]]


def test_two_negative_prices_have_no_log_return() -> None:
    maker = ElementMaker(["log_return(x)"], ["x"])
    made, refusals, _ = make(maker, np.array([[-5.0], [-6.0], [-7.0]]), set())
    assert not made
    assert len(refusals) == 3


def test_a_first_tick_far_out_of_range_does_not_shut_the_stream_for_ever() -> None:
    maker = ElementMaker(["diff(x)"], ["x"])
    good = np.linspace(100, 101, 20)[:, None]
    made, refusals, _ = make(maker, np.concatenate([[[1e300]], good]), set())
    assert len(made) == len(good) - 1
    assert len(refusals) == 1


# ---- against a maker that knows nothing of blocks ----------------------------------------------

PATTERNS = {
    "plain": ["bid"],
    "difference": ["diff(bid)"],
    "return": ["log_return(mid(bid, ask))", "log1p(volume)"],
    "deep": ["diff(diff(bid))", "lag(lag(lag(ask)))", "elapsed()"],
    "before": ["lag(bid)", "imbalance(bid, ask)"],
    "never alone": ["log_return(diff(bid))"],
    "operators": ["where(missing(volume), 0, diff(bid, 3) / ask)", "min(bid, 2.0) * ask"],
}

LARGE = 9e36
odd = st.sampled_from(
    [math.nan, math.inf, -math.inf, 0.0, -0.0, -1.0, 1.0, 2.0, 1e300, LARGE, -LARGE]
) | st.sampled_from(
    [5e-324, -5e-324, 1e-310, 1e-45, -1e-40, 1.1754943508222875e-38, 1.1754942106924411e-38,
     3.4028234663852886e38, -1.7976931348623157e308, math.nextafter(elements.LIMIT, 0.0),
     elements.LIMIT, math.nextafter(-elements.LIMIT, -math.inf), math.nextafter(1.0, 2.0)]
)  # fmt: skip


@st.composite
def hard_rows(draw: st.DrawFn) -> np.ndarray:
    """Rows in which good and bad ones alternate, come in stretches, or depend on each other."""
    size = draw(st.integers(1, 60))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    rows = np.exp(rng.normal(size=(size, len(COLUMNS))))
    for _ in range(draw(st.integers(0, 4))):
        start, stop = sorted(draw(st.tuples(st.integers(0, size), st.integers(0, size))))
        step, column = draw(st.integers(1, 4)), draw(st.integers(0, len(COLUMNS) - 1))
        rows[start:stop:step, column] = draw(odd)
    return rows


def one_by_one(maker: ElementMaker, rows: np.ndarray) -> tuple[list[Element], Refusals, Memory]:
    """What `make` is to give, by its definition: each tick behind the last ones accepted."""
    lag, features, memory = maker.features.lag, maker.features, Memory.empty(len(maker.columns))
    made: list[Element] = []
    refusals: Refusals = []
    for k, row in enumerate(rows):
        t_ns, values = np.array([k * 10**9]), row[None]
        first = len(memory.values) < lag
        if first:
            seconds = np.arange(lag + 1) * 10**9
            one = features.evaluate(seconds, np.repeat(values, lag + 1, axis=0))[0]
        else:
            times = np.concatenate([memory.t_ns, t_ns])
            one = features.evaluate(times, np.concatenate([memory.values, values]))[0]
        good = bool((np.abs(one) < elements.LIMIT).all())
        if first:
            used = [maker.columns.index(name) for name in features.columns_used]
            good = good and bool((np.abs(row[used]) < elements.LIMIT).all())
        if not good:
            refusals.append((k, maker.reason(row, one)))
            continue
        if not first:
            made.append((k * 10**9, one.tobytes()))
        if lag:
            memory.t_ns = np.concatenate([memory.t_ns, t_ns])[-lag:]
            memory.values = np.concatenate([memory.values, values])[-lag:]
    return made, refusals, memory


@pytest.mark.parametrize("name", PATTERNS)
@settings(max_examples=60)
@given(
    rows=hard_rows(),
    cuts=st.sets(st.integers(1, 60), max_size=4),
    run=st.integers(2, 70),
    short=st.integers(1, 9),
    passes=st.integers(1, 4),
)
def test_a_block_is_sifted_as_if_its_ticks_came_one_by_one(
    name: str, rows: np.ndarray, cuts: set[int], run: int, short: int, passes: int
) -> None:
    """Elements, refusals with their reasons and order, and the memory: all to the bit."""
    maker = ElementMaker(PATTERNS[name], COLUMNS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(elements, "RUN", run)
        patch.setattr(elements, "SHORT", short)
        patch.setattr(elements, "PASSES", passes)
        made, refusals, memory = make(maker, rows, cuts)
    known = one_by_one(maker, rows)
    assert made == known[0]
    assert refusals == known[1]
    assert memory.values.tobytes() == known[2].values.tobytes()
    assert memory.t_ns.tobytes() == known[2].t_ns.tobytes()


@pytest.mark.parametrize("name", ["plain", "difference", "return", "deep"])
@pytest.mark.parametrize("bad", [math.nan, 1e300, math.inf])
def test_a_block_full_of_bad_ticks_costs_a_few_evaluations(name: str, bad: float) -> None:
    """Every other tick, as a peer may send on purpose; one by one it took 32,768 calls."""
    maker = ElementMaker(PATTERNS[name], COLUMNS)
    evaluate, calls = maker.features.evaluate, []

    def counting(t_ns: np.ndarray, values: np.ndarray) -> np.ndarray:
        calls.append(len(values))
        return evaluate(t_ns, values)

    maker.features.evaluate = counting  # type: ignore[method-assign]
    rows = np.exp(np.random.default_rng(0).normal(size=(65_536, len(COLUMNS))) / 100)
    rows[1::2] = bad
    _, refusals, _ = make(maker, rows, set())
    taken = name == "return" and bad == 1e300  # its logarithm is an element like any other
    assert [index for index, _ in refusals] == ([] if taken else list(range(1, 65_536, 2)))
    assert len(calls) <= 6 * (len(rows) // elements.RUN + 1)
    assert sum(calls) <= (3 + maker.features.lag) * len(rows)
