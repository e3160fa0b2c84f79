"""Features with memory: however ticks are cut, the same elements, refusals and state.

The functions come from the registry, so a new one is tested here without a line.
"""

from __future__ import annotations

import contextlib
import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_lstm.core.columnar import Arrivals
from stream_lstm.core.feature_sets import compile_features
from stream_lstm.core.features import CHECK_EVERY, FeatureMonitor
from stream_lstm.core.functions import FUNCTIONS, Function
from stream_lstm.core.missing import optional_columns
from stream_lstm.core.replay import Digest
from stream_lstm.core.session import Session
from stream_lstm.core.snapshot import restore, take
from stream_lstm.core.stateful import StatefulMaker, maker_of
from stream_lstm.core.verdict import summarize
from stream_lstm.errors import ConfigurationError, ExpressionError, SnapshotError
from stream_lstm.events import Refusal, Ticks
from stream_lstm.schema import StreamConfig

from ..engines import engine_for
from ..engines import settings as configuration

COLUMNS = ("x", "y")
EXAMPLES = {"window": ("3", "7", "4s"), "span": ("3s",), "number": ("0.3",)}
SECOND = 10**9


def calls(function: Function) -> list[str]:
    """Ways to write a function of the columns, one for each kind of window."""
    kinds = [parameter.kind for parameter in function.parameters]
    size = max((len(EXAMPLES.get(kind, ())) for kind in kinds), default=1) or 1
    out = []
    for k in range(size):
        series = iter(("x", "y", "x * y", "x + y"))
        parts = [
            next(series) if kind == "series" else EXAMPLES[kind][min(k, len(EXAMPLES[kind]) - 1)]
            for kind in kinds
        ]
        out.append(f"{function.name}({', '.join(parts)})")
    return out


WITH_MEMORY = [
    call
    for function in FUNCTIONS.values()
    if (function.memory or function.lag or function.expands) and function.name != "elapsed"
    for call in calls(function)
]
NESTED = [
    "mean(diff(x, 2), 5) / (1 + std(y, 4s))",
    "lag(elapsed(), 20)",
    "where(missing(y), lag(x, 17), zscore(y, 6))",
    "ewm_mean(log_return(abs(x) + 1.0, 3s), 4)",
    "where(count(x > y, 5) >= 3, sum(x, 5), since(y < x))",
]
"""Memory inside memory, and beside it."""

usual = st.floats(-100, 100, allow_subnormal=False).map(lambda x: round(x, 3))
values = st.one_of(usual, usual, usual, st.sampled_from([0.0, -0.0, 1e12, math.nan, math.inf]))
steps = st.sampled_from([0, 1, SECOND // 2, SECOND, SECOND, 3 * SECOND, -SECOND, 20 * SECOND])


@st.composite
def series(draw: st.DrawFn, longest: int = 90) -> tuple[np.ndarray, np.ndarray]:
    rows = draw(st.lists(st.tuples(values, values, steps), min_size=2, max_size=longest))
    if draw(st.booleans()):  # long enough for blocks
        rows = rows * (1 + 80 // len(rows))
    table = np.array([(x, y) for x, y, _ in rows])
    return 1_700_000_000 * SECOND + np.cumsum([step for *_, step in rows]), table


def elements_of(
    features: tuple[str, ...],
    t_ns: np.ndarray,
    table: np.ndarray,
    cuts: list[int],
    **more: Any,
) -> tuple[list[bytes], list[tuple[int, str]], Any]:
    """Elements, refusals and the state of a stream whose ticks are cut into blocks."""
    maker = maker_of(StreamConfig(features=features, **more), COLUMNS)
    memory = maker.empty()
    elements, refused = [], []
    edges = [0, *cuts, len(table)]
    for start, stop in itertools.pairwise(edges):
        part = slice(start, stop)
        for sifted in maker.sift(memory, t_ns[part], table[part]):
            elements += [b"pause"] * sifted.paused
            elements += [row.tobytes() for row in sifted.elements]
            refused += [(start + index, why) for _, index, why in sifted.refused]
    machine = memory.machine
    state = machine and plain(machine.state())
    return elements, refused, (state, memory.latest, memory.last.tobytes())


def plain(state: list[list[np.ndarray]]) -> list[list[bytes]]:
    return [[array.tobytes() for array in one] for one in state]


@pytest.mark.parametrize("call", [*WITH_MEMORY, *NESTED])
@settings(max_examples=25, deadline=None)
@given(
    given_series=series(),
    data=st.data(),
    refuse=st.booleans(),
    filled=st.booleans(),
    on_pause=st.sampled_from([None, "continue", "forget"]),
)
def test_any_cut_gives_the_same_elements_and_refusals(
    call: str,
    given_series: Any,
    data: st.DataObject,
    refuse: bool,
    filled: bool,
    on_pause: str | None,
) -> None:
    t_ns, table = given_series
    more: dict[str, Any] = {"on_old_time": "refuse"} if refuse else {}
    if on_pause is not None:
        more |= {"pause": "10s", "on_pause": on_pause}
    if filled:
        more["on_missing"] = ("x=last:5s", "y=zero")
    features = (call, "x")
    whole = elements_of(features, t_ns, table, [], **more)
    cuts = sorted(data.draw(st.sets(st.integers(1, len(table) - 1), max_size=8)))
    assert elements_of(features, t_ns, table, cuts, **more) == whole
    singly = list(range(1, len(table)))
    assert elements_of(features, t_ns, table, singly, **more) == whole


def test_every_function_with_memory_is_tested() -> None:
    names = {name for name, one in FUNCTIONS.items() if one.memory}
    assert names <= {call.partition("(")[0] for call in WITH_MEMORY}
    assert len(WITH_MEMORY) > 50


# ---- a session with all kinds of memory --------------------------------------------------------

MIXED = (
    "log_return(x)",
    "zscore(x, 20)",
    "ewm_std(x, 4s)",
    "median(x, 9)",
    "sum(y, 5s) / 10.0",
    "lag(x, 25) / x",
    "bar_close(x, 7s) / x",
    "corr(x, y, 12)",
)


def walk(count: int = 400, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = 100 * np.exp(np.cumsum(rng.normal(0, 1e-3, count)))
    table = np.stack([x, rng.integers(0, 9, count).astype(float)], axis=1)
    return 1_700_000_000 * SECOND + np.cumsum(rng.integers(1, 2 * SECOND, count)), table


def session_of(features: tuple[str, ...], out: list[Any], **more: Any) -> Session:
    config = configuration(features=features, window=10, stride=5, **more)
    return Session(config, COLUMNS, out.append, engine=engine_for(config, len(features)))


def run(session: Session, t_ns: np.ndarray, table: np.ndarray, edges: list[int]) -> None:
    for start, stop in itertools.pairwise(edges):
        if stop - start == 1:
            session.tick("a", int(t_ns[start]), table[start].tolist())
        else:
            session.push(Ticks("a", t_ns[start:stop], table[start:stop]))


@pytest.mark.parametrize("learn", [False, True])
def test_a_session_gives_the_same_records_however_ticks_come(learn: bool) -> None:
    t_ns, table = walk()
    table[200:203, 0] = (0.0, math.nan, math.inf)
    found = []
    for edges in ([0, 400], list(range(401)), [0, 7, 8, 100, 199, 202, 300, 400]):
        out: list[Any] = []
        session = session_of(MIXED, out, learn=learn)
        run(session, t_ns, table, edges)
        session.settle()
        refused = [event.reason for event in out if isinstance(event, Refusal)]
        found.append(([e for e in out if not isinstance(e, Refusal)], refused, take(session)))
    assert len(found[0][0]) > 60
    assert len(found[0][1]) == 3
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize("at", [3, 60, 133, 250])
def test_a_snapshot_continues_to_the_same_bits(at: int) -> None:
    t_ns, table = walk()
    whole: list[Any] = []
    session = session_of(MIXED, whole)
    run(session, t_ns, table, [0, at])
    data, rest = take(session), []
    other = session_of(MIXED, rest)
    restore(other, data)
    assert take(other) == data
    whole.clear()
    for one in (session, other):
        run(one, t_ns[at:], table[at:], [0, 10, 11, 12, 400 - at])
        one.settle()
    assert rest == whole
    assert take(other) == take(session)


def test_a_snapshot_of_other_memory_is_refused_and_changes_nothing() -> None:
    t_ns, table = walk()
    session = session_of(MIXED, [])
    run(session, t_ns, table, [0, 100])
    before = take(session)
    machine = session.machines["a"]
    wrong = [machine.state()[0], *machine.state()[2:]]
    with pytest.raises(ValueError, match="memories"):
        machine.restore(wrong)
    with pytest.raises(SnapshotError):
        restore(session_of(("mean(x, 5)",), []), before)
    assert take(session) == before


def test_a_refused_tick_leaves_all_memory_as_it_was() -> None:
    t_ns, table = walk()
    one, two = session_of(MIXED, []), session_of(MIXED, [])
    for k in range(200):
        for session in (one, two):
            session.tick("a", int(t_ns[k]), table[k].tolist())
        for bad in ([0.0, 1.0], [math.inf, 1.0], [None, 1.0]):
            if k % 7 == 0:
                assert one.tick("a", int(t_ns[k]) + 1, bad) == 0
    a, b = (plain(s.streams["a"].memory.machine.state()) for s in (one, two))
    assert a == b


# ---- when elements begin -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("feature", "fill"),
    [
        ("mean(x, 50)", 0),
        ("lag(x, 40)", 40),
        ("lag(diff(mean(x, 3), 20), 10)", 30),
        ("elapsed() + mean(x, 2)", 1),
        ("lag(x, 5s)", 0),
    ],
)
def test_only_lags_of_elements_delay_the_first_element(feature: str, fill: int) -> None:
    t_ns, table = walk()
    session = session_of((feature,), [])
    run(session, t_ns, table, [0, 3, 60, 400])
    assert session.streams["a"].n == 400 - fill


def test_a_bar_is_known_only_at_its_end() -> None:
    t_ns = np.arange(10, dtype=np.int64) * SECOND
    table = np.stack([np.arange(10.0), np.zeros(10)], axis=1)
    maker = maker_of(StreamConfig(features=("bar_close(x, 4s)", "bar_high(x, 4s) + 0.0")), COLUMNS)
    made = [part.elements for part in maker.sift(maker.empty(), t_ns, table)]
    # The bars end at 4 s and 8 s; the tick that shows the first end fills the memory.
    assert np.concatenate(made)[:, 0].tolist() == [3, 3, 3, 7, 7]


@pytest.mark.parametrize("singly", [False, True])
@pytest.mark.parametrize("policy", ["continue", "reset", "forget"])
def test_memory_forgets_in_a_pause_if_asked_to(policy: str, singly: bool) -> None:
    t_ns, table = walk(160)
    t_ns[80:] += 3600 * SECOND
    features = ("mean(x, 30)", "lag(x, 20) - x", "sum(y, 9s)", "elapsed()")
    pauses = {"pause": "10m", "on_pause": policy}

    def elements(part: slice) -> list[bytes]:
        cuts = list(range(1, len(table[part]))) if singly else [33]
        return elements_of(features, t_ns[part], table[part], cuts, **pauses)[0]

    whole = elements(slice(160))
    assert whole.count(b"pause") == 1
    before, after = whole[: whole.index(b"pause")], whole[whole.index(b"pause") + 1 :]
    assert before == elements(slice(80))
    if policy == "continue":
        assert len(after) == 80
        assert np.frombuffer(after[0], np.float32)[3] == 600  # at most the pause
    else:
        assert after == elements(slice(80, 160))


@pytest.mark.parametrize(
    "features",
    [
        ("where(missing(y), 0, y)", "where(missing(lag(y, 1)), 0, 1)"),
        ("x", "where(missing(y), 0, diff(where(missing(y), 0, y)))"),
        ("diff(y, 3)", "mean(y, 4)"),
    ],
)
def test_missing_values_never_stop_a_stream_for_good(features: tuple[str, ...]) -> None:
    rng = np.random.default_rng(1)
    t_ns, table = walk()
    table[rng.random(400) < 0.4, 1] = math.nan
    session = session_of(features, [], on_missing=("y=last",) if "3" in features[0] else ())
    run(session, t_ns, table, [0, 50, 51, 400])
    assert session.streams["a"].n > 380


@pytest.mark.parametrize("sizes", [[1] * 400, [400], [7] * 57 + [1]])
@pytest.mark.parametrize(
    ("feature", "made"),
    [
        ("y / lag(y)", 395),
        ("y / lag(y, 20)", 376),
        ("lag(1 / y, 20)", 376),
        ("log(500 + diff(x))", 396),
        ("log(500 + diff(x, 20s))", 370),
        ("where(y > 0, diff(log(y)), 0)", 395),
    ],
)
def test_no_memory_refuses_good_ticks_for_good(feature: str, made: int, sizes: list[int]) -> None:
    t_ns, table = np.arange(400, dtype=np.int64) * SECOND, walk()[1]
    table[:, 1] = 1 + table[:, 1] ** 2
    table[50, 1] = 0  # lasts as long as the lag
    table[200:, 0] -= 1000  # another level
    session = session_of((feature,), [])
    run(session, t_ns, table, [0, *np.cumsum(sizes).clip(max=400).tolist()])
    assert made <= session.streams["a"].n < 400


@pytest.mark.parametrize(
    "features",
    [
        ("x / std(x, 20)",),
        ("diff(x)", "log(ewm_std(x, 20))"),
        ("x", "realized_volatility(x, 5) / realized_volatility(x, 50)"),
        ("diff(x) / diff(y)", "x"),
    ],
)
def test_what_no_repeated_tick_makes_begins_once_it_can(features: tuple[str, ...]) -> None:
    t_ns, table = walk()
    table = 10 + np.abs(table)
    table[:5] = table[0]  # nothing changes at first
    session = session_of(features, [])
    assert [session.tick("a", int(t), row) for t, row in zip(t_ns[:8], table, strict=False)] == [
        *[0] * 5, 1, 1, 1,
    ]  # fmt: skip
    assert session.streams["a"].counters.refused_ticks == 0
    assert session.tick("a", int(t_ns[8]), [math.nan, 1.0]) == 0
    assert session.streams["a"].counters.refused_ticks == 1


def test_a_feature_that_is_never_finite_refuses_ticks_after_a_while() -> None:
    maker = maker_of(StreamConfig(features=("x / std(x, 20)",)), COLUMNS)
    refused: list[int] = []
    times = np.arange(2000, dtype=np.int64)
    list(maker.make(maker.empty(), times, np.ones((2000, 2)), lambda k, _: refused.append(k)))
    assert refused == list(range(1000, 2000))


@pytest.mark.parametrize("cut", [1, 60, 400])
@pytest.mark.parametrize(
    "function",
    [
        "var(x, 20)", "std(x, 20)", "zscore(x, 20)", "corr(x, y, 20)", "beta(x, y, 20)",
        "ewm_mean(x, 20)", "ewm_var(x, 20)", "ewm_std(x, 9s)", "cumulative(x)", "sum(x, 20)",
    ],
)  # fmt: skip
def test_an_overflow_is_no_value_and_leaves_nothing_behind(function: str, cut: int) -> None:
    t_ns, table = np.arange(400, dtype=np.int64) * SECOND, walk()[1]
    table[100], table[101] = 1.5e308, (-1.5e308 if "ewm_mean" in function else 1.5e308)
    machine = (
        maker_of(StreamConfig(features=(f"tanh(1e-3 * {function})",)), COLUMNS).empty().machine
    )
    made = np.concatenate(
        [machine.block(t_ns[k : k + cut], table[k : k + cut]) for k in range(0, 400, cut)]
    )[:, 0]
    assert not 0 <= made[101] < 1
    later = np.ptp(made[125:])
    assert (later > 0) or "ewm" in function or function == "cumulative(x)"
    state = np.concatenate(
        [np.ravel(one).astype(float) for part in machine.state() for one in part]
    )
    assert not np.isinf(state).any()


@pytest.mark.parametrize("sizes", [[1] * 200, [200], [7] * 29])
@pytest.mark.parametrize("columnar", [False, True])
@pytest.mark.parametrize(
    "feature",
    ["lag(y, 2)", "lag(y, 20)", "mean(y, 20)", "tanh(y)", "where(x > 0, 1, y)", "bar_high(y, 5s)",
     "x / (1 + y * y)", "max(lag(y), 30)"],
)  # fmt: skip
def test_a_bad_value_is_refused_wherever_it_hides(
    feature: str, sizes: list[int], columnar: bool
) -> None:
    t_ns, table = np.arange(200, dtype=np.int64) * SECOND, walk()[1][:200]
    clean = session_of(("x", feature), [])
    run(clean, t_ns, table, [0, 200])
    bad = [50, 51, 90, 120]
    at = np.insert(np.arange(200), bad, np.array(bad) - 1)
    worse = table[at].copy()
    worse[np.array(bad) + np.arange(4), 1] = math.nan, math.inf, -math.inf, 1e38
    session = session_of(("x", feature), [])
    cuts = [0, *np.cumsum(sizes).clip(max=200).tolist(), 204]
    for a, b in itertools.pairwise(cuts):
        if columnar and a < b:
            rows = np.full(b - a, session.place("a"))
            session.arrive(Arrivals(rows, t_ns[at][a:b], worse[a:b]))
        elif a < b:
            session.push(Ticks("a", t_ns[at][a:b], worse[a:b]))
    session.look()
    assert session.streams["a"].counters.refused_ticks == 4
    assert session.streams["a"].n == clean.streams["a"].n


def test_functions_of_missing_values_permit_them() -> None:
    t_ns, table = walk()
    table[::3, 1] = math.nan
    session = session_of(("x", "zero(y)", "last(y)"), [])
    run(session, t_ns[1:], table[1:], [0, 399])
    assert session.streams["a"].n == 399
    assert optional_columns(StreamConfig(features=("x", "last(y, 5s)")), COLUMNS) == ("y",)


# ---- streams that see each other ----------------------------------------------------------------

OTHERS = ("x", 'of("ES", x * 2)', 'age("ES")', 'of("ES", lag(x, 2))', 'mean(of("ES", x), 3)')
NAMES = ("ES", "NQ", "YM")


def of_by_hand(who: list[str], t_ns: np.ndarray, x: np.ndarray) -> dict[str, list[list[float]]]:
    """What OTHERS are, tick by tick, in plain Python; x is never missing."""
    es: list[tuple[int, float]] = []
    out: dict[str, list[list[float]]] = {name: [] for name in NAMES}
    seen: dict[str, list[float]] = {name: [] for name in NAMES}
    for name, t, value in zip(who, t_ns.tolist(), x.tolist(), strict=True):
        if name == "ES":
            es.append((t, value))
        if name != "ES" and len(es) < 3:
            continue  # what ES shows is not known
        seen[name].append(es[-1][1])
        if len(es) < 3:
            continue
        mean = sum(seen[name][-3:]) / len(seen[name][-3:])
        out[name].append([value, 2 * es[-1][1], (t - es[-1][0]) / 1e9, es[-3][1], mean])
    return out


@pytest.mark.parametrize("blocks", [False, True])
def test_a_stream_sees_the_last_tick_of_another(blocks: bool) -> None:
    rng = np.random.default_rng(3)
    who = [NAMES[k] for k in rng.integers(0, 3, 300)]
    t_ns, table = walk(300)
    config = configuration(features=OTHERS, window=5, stride=1)
    session = Session(config, COLUMNS, engine=engine_for(config, len(OTHERS)))
    seen: dict[str, list[np.ndarray]] = {name: [] for name in NAMES}
    walked = session._walk

    def watch(stream: Any, times: Any, elements: np.ndarray) -> None:
        seen[stream.name] += list(elements.copy())
        walked(stream, times, elements)

    session._walk = watch  # type: ignore[method-assign]
    start = 0
    while start < 300:
        stop = start + 1
        while blocks and stop < 300 and who[stop] == who[start]:
            stop += 1
        session.push(Ticks(who[start], t_ns[start:stop], table[start:stop]))
        start = stop
    session.catch_up()
    wanted = of_by_hand(who, t_ns, table[:, 0])
    for name in NAMES:
        got = np.array(seen[name])
        # ES makes no element at its first two ticks either, which fill its own lag
        np.testing.assert_allclose(got, np.array(wanted[name][-len(got) :]), rtol=1e-6)
        assert len(got) >= len(wanted[name]) - 2


def test_what_other_streams_showed_is_restored_before_what_depends_on_it() -> None:
    """A snapshot from before the other stream's first tick, in a session that has seen it."""
    t_ns, table = walk(60)
    features = ('of("ES", x) - x', 'mean(of("ES", x), 3)')
    early = session_of(features, [])
    early.tick("a", int(t_ns[0]), table[0].tolist())
    data = take(early)
    known: list[Any] = []
    session = session_of(features, known)
    for k, name in enumerate(("ES", "a", "ES", "a", "a")):
        session.tick(name, int(t_ns[k]), table[k].tolist())
    restore(session, data)
    known.clear()
    for k in range(5, 60):
        for one in (early, session):
            one.tick("ES" if k % 7 == 6 else "a", int(t_ns[k]), table[k].tolist())
    assert not [event for event in known if isinstance(event, Refusal)]
    assert take(session) == take(early)
    assert session.streams["a"].n > 40


def test_a_failed_restore_leaves_what_streams_showed() -> None:
    t_ns, table = walk(40)
    session = session_of(OTHERS, [])
    for k in range(40):
        session.tick(NAMES[k % 3], int(t_ns[k]), table[k].tolist())
    later, board = take(session), plain([session.maker.board_state()])
    fewer = session_of(OTHERS, [])
    fewer.tick("ES", int(t_ns[0]), table[0].tolist())
    data = take(fewer)
    session.table.restore = fail  # type: ignore[method-assign]
    with pytest.raises(SnapshotError):
        restore(session, data)
    assert plain([session.maker.board_state()]) == board
    del session.table.restore  # type: ignore[method-assign]
    assert take(session) == later


def fail(_: Any) -> None:
    raise ValueError("rows do not fit")


def test_a_limit_of_age_makes_a_value_missing() -> None:
    features = ('where(missing(of("ES", x, 5s)), -1, of("ES", x, 5s))',)
    session = session_of(features, [])
    seen: list[float] = []
    walked = session._walk
    session._walk = lambda stream, t, made: (  # type: ignore[method-assign]
        seen.extend(made[:, 0].tolist()) if stream.name == "a" else None,
        walked(stream, t, made),
    )
    session.tick("ES", 1 * SECOND, [7.0, 0.0])
    for at in (2, 6, 7):
        session.tick("a", at * SECOND, [1.0, 0.0])
    session.catch_up()
    assert seen == [7.0, 7.0, -1.0]


def test_streams_in_snapshots_and_any_way_of_arrival() -> None:
    rng = np.random.default_rng(4)
    places = rng.integers(0, 3, 400)
    t_ns, table = walk()
    found = []
    for cut in (0, 37, 200):
        out: list[Any] = []
        session = session_of(OTHERS, out)
        for name in NAMES:
            session.place(name)
        for start, stop in ((0, cut), (cut, 400)):
            for k in range(start, stop):
                session.tick(NAMES[places[k]], int(t_ns[k]), table[k].tolist())
            data = take(session)
            session = session_of(OTHERS, out)
            restore(session, data)
        session.settle()
        predictions = [(e.stream, e.n, e.p) for e in out if hasattr(e, "gaps_visible")]
        machines = {name: plain(machine.state()) for name, machine in session.machines.items()}
        found.append((sorted(predictions), machines, plain([session.maker.board_state()])))
    assert len(found[0][0]) > 60
    assert found[0] == found[1] == found[2]


@settings(max_examples=20, deadline=None)
@given(data=st.data(), cut=st.integers(1, 149))
def test_nothing_looks_ahead_across_streams(data: st.DataObject, cut: int) -> None:
    """What any stream does later changes nothing that any stream gave before."""
    t_ns, table = walk(150)
    places = np.array(data.draw(st.lists(st.integers(0, 2), min_size=150, max_size=150)))

    def arrived(other: bool) -> list[Any]:
        values = table.copy()
        if other:
            values[cut:] = values[cut:][::-1] * 3 + 1
        out: list[Any] = []
        session = session_of(OTHERS, out)
        for name in NAMES:
            session.place(name)
        session.arrive(Arrivals(places, t_ns, values))
        session.settle()
        return [e for e in out if hasattr(e, "gaps_visible") and e.t_ns <= t_ns[cut - 1]]

    assert arrived(False) == arrived(True)


def test_a_stream_that_never_comes_is_named() -> None:
    config = configuration(features=('of("ESS", x) - x',), window=5)
    session = Session(config, COLUMNS, engine=engine_for(config))
    monitor = FeatureMonitor(config)
    session.push(Ticks("ES", np.arange(1, CHECK_EVERY) * SECOND, np.ones((CHECK_EVERY - 1, 2))))
    assert monitor.check(session) == []
    session.push(Ticks("ES", np.array([10**13]), np.ones((1, 2))))
    (line,) = monitor.check(session)
    assert "refer to the stream ESS" in line
    assert "did you mean 'ES'" in line
    assert monitor.check(session) == []
    summary = summarize(session, Digest(), wall_s=1.0, compile_s=1.0)
    assert summary["elements"] == 0
    assert summary["refused_ticks"] == 0
    assert "ESS" in summary["verdict"]


def test_what_other_streams_show_of_a_stream_of_their_own_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="refers to another stream"):
        compile_features(['of("ES", of("NQ", x))'], COLUMNS)


@pytest.mark.parametrize(
    ("feature", "message"),
    [
        ("mean(x, 100001)", "100,?000"),
        ("quantile(x, 1.5, 10)", "between 0 and 1"),
        ("mean(x, 0)", "whole number"),
        ("meen(x, 3)", "did you mean 'mean'"),
        ("lag(x, 1.5)", "whole number"),
    ],
)
def test_wrong_memory_is_refused_before_anything_is_compiled(feature: str, message: str) -> None:
    with pytest.raises((ConfigurationError, ExpressionError), match=message):
        compile_features([feature], COLUMNS)


RIGHT = {"series": "x", "window": "20", "span": "30s", "number": "0.5", "text": '"UTC"'}


@pytest.mark.parametrize("function", [f for f in FUNCTIONS.values() if f.name.isidentifier()])
@pytest.mark.parametrize("wrong", ["5", "0.5", "-2", "30s", '"a b"', "x", "x + 1"])
def test_arguments_of_any_wrong_kind_are_named(function: Function, wrong: str) -> None:
    rights = [RIGHT[one.kind] for one in function.parameters]
    if function.group == "clock" and rights:
        rights = ['"09:30-16:00"', *rights[1:-1], '"2024-07-04"'][-len(rights) :]
    for k in range(len(rights)):
        arguments = ", ".join([*rights[:k], wrong, *rights[k + 1 :]])
        with contextlib.suppress(ConfigurationError):
            compile_features([f"{function.name}({arguments})", "x"], COLUMNS)


@pytest.mark.parametrize(
    ("feature", "message"),
    [
        ("bar_open(x, 20)", "must be a span such as 30s, not 20"),
        ("last(x, 5)", "must be a span such as 30s, not 5"),
        ("of(ES, x, 5)", "must be a span such as 30s, not 5"),
        ('session("09:30-16:00", "UTC", "2024-13-45")', "'2024-13-45' is not a date"),
        (
            'since_open("09:30-16:00", "UTC", "2024-07-04,")',
            "'2024-07-04,' is not a date",
        ),
    ],
)
def test_a_number_for_a_span_and_a_wrong_date_are_named(feature: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        compile_features([feature], COLUMNS)


def test_features_without_new_functions_take_the_way_they_always_took() -> None:
    for features in (["log_return(x)"], ["lag(lag(x))", "elapsed()"], ["mid(x, y)", "log1p(x)"]):
        stream = StreamConfig(features=tuple(features))
        assert not isinstance(maker_of(stream, COLUMNS), StatefulMaker)
