"""Features in the user's own Python: the bits of their definition, and what they may not do."""

import pickle
import re
import warnings
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import stream_lstm
from stream_lstm.config import build
from stream_lstm.core.features import parse
from stream_lstm.core.functions import FUNCTIONS
from stream_lstm.core.plugins import FEATURES, PluginMemory
from stream_lstm.core.proofs.blocks import BlockCheck
from stream_lstm.errors import ConfigurationError, DataError, InputWarning

from .driving import Tick, open_session, push

A = 0.1


def start():
    return np.zeros(1), np.zeros(1, np.int64)


def ema(state, t_ns, x):
    mean, count = state
    new = x if not count[0] else mean[0] + A * (x - mean[0])
    return (np.array([new]), count + 1), new


def ema_block(state, t_ns, xs):
    mean, count, out = float(state[0][0]), int(state[1][0]), []
    for x in xs.tolist():
        mean = mean + A * (x - mean) if count else x
        count += 1
        out.append(mean)
    return (np.array([mean]), np.array([count])), np.array(out)


def by_hand(values):
    """The exponentially weighted mean, in plain Python."""
    out = list(values[:1])
    for x in values[1:]:
        out.append(out[-1] + A * (x - out[-1]))
    return out


@pytest.fixture(autouse=True)
def registry():
    """What a test registers is forgotten after it."""
    before = dict(FEATURES), dict(FUNCTIONS)
    yield
    for known, old in zip((FEATURES, FUNCTIONS), before, strict=True):
        known.clear()
        known.update(old)


SERIES = [float(k * k % 17 - 5) for k in range(90)]
SMALL = {"window": 10, "stride": 3, "hidden": 4, "bptt": 5}


@pytest.mark.parametrize("block", [None, ema_block])
@pytest.mark.parametrize("learn", [False, True])
def test_the_predictions_are_those_of_the_values_made_by_hand(block, learn):
    stream_lstm.register_feature("mine", start, ema, block)
    own = stream_lstm.Predictor("mine(x)", learn=learn, **SMALL)
    plain = stream_lstm.Predictor("x", learn=learn, **SMALL)
    made = [own.step([x]) for x in SERIES[:40]]
    made += [pickle.loads(pickle.dumps(own)).step([x]) for x in SERIES[40:41]]
    again = stream_lstm.Predictor("mine(x)", learn=learn, **SMALL)
    again.restore(own.snapshot())
    made += [again.step([x]) for x in SERIES[40:]][1:]
    wanted = [plain.step([y]) for y in by_hand(SERIES)]
    assert [m and (m.n, m.p) for m in made] == [w and (w.n, w.p) for w in wanted]
    assert any(wanted)


@given(st.lists(st.integers(1, 50), min_size=1), st.sampled_from([None, ema_block]))
def test_the_session_gives_the_same_bits_in_any_cut(sizes, block):
    stream_lstm.register_feature("mine", start, ema, block, replace=True)
    found = []
    for feature, values in (("mine(x)", SERIES), ("x", by_hand(SERIES))):
        events = []
        config = build({"features": [feature], **SMALL})
        session = open_session(config, events.append)
        at = 0
        for size in [*sizes, len(SERIES)]:
            ticks = [Tick(x, k) for k, x in enumerate(values)][at : at + size]
            if ticks:
                push(session, ticks)
            at += size
        session.settle()
        found.append([(e.n, e.p) for e in events if type(e).__name__ == "Prediction"])
    assert found[0] == found[1] != []


def test_the_first_bad_tick_in_a_block_is_refused_and_leaves_the_state():
    stream_lstm.register_feature("mine", start, ema, ema_block)
    values = [*SERIES[:50], float("nan"), *SERIES[50:]]
    events, kept = [], []
    for series, out in ((values, events), (SERIES, kept)):
        session = open_session(build({"features": ["mine(x)"], **SMALL}), out.append)
        push(session, [Tick(x, 0) for x in series])
        session.settle()
    made = [[e.p for e in out if type(e).__name__ == "Prediction"] for out in (events, kept)]
    assert made[0] == made[1] != []


# ---- what a function may not do ---------------------------------------------------------------


def writes(state, t_ns, x):
    state[0][0] = x
    return state, x


def raises(state, t_ns, x):
    return state, 1 / (x - 3)


BAD = {
    "writes": (writes, r"its step \(writes\) raised ValueError: .*read-only \(return new arrays"),
    "raises": (raises, r"its step \(raises\) raised ZeroDivisionError: "),
    "bare": (lambda s, t, x: x, r"returned of type float \(3.0\) instead of \(state, value\)"),
    "text": (lambda s, t, x: (s, "7"), r"the value of type str \('7'\), not a number"),
    "array": (lambda s, t, x: (s, np.ones(1)), r"the value float64\[1\], not a number"),
    "shape": (
        lambda s, t, x: ((np.zeros(2), s[1]), x),
        r"a state with float64\[2\], int64\[1\] instead of float64\[1\], int64\[1\], as init",
    ),
    "type": (lambda s, t, x: ((s[0], s[1] * 1.0), x), r"float64\[1\], float64\[1\] instead of"),
    "fewer": (lambda s, t, x: (s[:1], x), r"a state with float64\[1\] instead of"),
    "half": (lambda s, t, x: ((s[0].astype("f4"), s[1]), x), "array of float32; use float64"),
    "list": (lambda s, t, x: (list(s), x), "the state of type list"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_step_that_fails_refuses_the_tick_and_says_why(name):
    step, words = BAD[name]

    def at_three(state, t_ns, x):
        return step(state, t_ns, x) if x == 3 else ema(state, t_ns, x)

    at_three.__name__ = getattr(step, "__name__", "")
    stream_lstm.register_feature("mine", start, at_three)
    predictor = stream_lstm.Predictor("mine(x)", **SMALL)
    predictor.step([1.0])
    with pytest.raises(
        DataError, match=r"feature mine\(x\) is nan .x=3.; feature mine: "
    ) as caught:
        predictor.step([3.0])
    assert re.search(words, str(caught.value))
    assert str(caught.value).endswith("; correct it")
    events, kept = [], []
    for series, out in ((SERIES, events), ([x for x in SERIES if x != 3], kept)):
        session = open_session(build({"features": ["mine(x)"], **SMALL}), out.append)
        push(session, [Tick(x, 0) for x in [*series, 3.0, *series]])
        session.settle()
    made = [[e.p for e in out if type(e).__name__ == "Prediction"] for out in (events, kept)]
    assert made[0] == made[1] != []
    assert any(re.search(words, e.reason) for e in events if type(e).__name__ == "Refusal")


@pytest.mark.parametrize(
    ("block", "words"),
    [
        (
            lambda s, t, x: (s, x[1:]),
            r"its block \(<lambda>\) returned the values float64\[89\] for 90",
        ),
        (lambda s, t, x: (s, x.tolist()), "returned the values of type list"),
        (lambda s, t, x: ((), x), "returned a state with no array instead of float64"),
        (lambda s, t, x: x.sort(), "its block .* read-only"),
    ],
)
def test_steps_replace_a_block_that_fails(block, words):
    stream_lstm.register_feature("mine", start, ema, block)
    memory = PluginMemory(FEATURES["mine"])
    x, t = np.array(SERIES), np.zeros(len(SERIES), np.int64)
    with pytest.warns(InputWarning, match=words):
        assert memory.block(t, x).tolist() == by_hand(SERIES)
    with warnings.catch_warnings(action="error"):  # once
        memory.block(t, x)


def test_nobody_can_write_into_a_state():
    mine = np.zeros(3)
    memory = PluginMemory(stream_lstm.feature("mine", lambda: (mine,), lambda s, t, x: (s, x)))
    with pytest.raises(ValueError, match="read-only"):
        mine[0] = 1.0
    memory.state()[0][0] = 1.0
    assert memory.state()[0].tolist() == [0.0] * 3
    arrays = [np.ones(3)]
    memory.restore(arrays)
    arrays[0][0] = 5.0
    assert memory.state()[0].tolist() == [1.0] * 3
    with pytest.raises(ValueError, match=r"a state with float64\[2\] instead of float64\[3\]"):
        memory.restore([np.ones(2)])
    memory.clear()
    assert memory.state()[0].tolist() == [0.0] * 3


class Named(NamedTuple):
    total: np.ndarray


def test_a_named_state_keeps_its_names_after_a_restore():
    def step(state, t_ns, x, factor):
        return Named(state.total + x * factor), float(state.total)

    one = stream_lstm.feature("mine", lambda: Named(np.zeros(())), step, arguments=2)
    memory = PluginMemory(one)
    memory.step(0, 4.0, 2.0)
    memory.restore(memory.state())
    assert memory.step(0, 1.0, 1.0) == 8.0
    memory.undo()
    assert memory.step(0, 1.0, 1.0) == 8.0


# ---- names ------------------------------------------------------------------------------------


def nothing():
    return ()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("a b", nothing, ema), "is an identifier, not 'a b'"),
        (("mid", nothing, ema), "mid is a built-in function: choose another name"),
        (("mine", (), ema), r"feature mine: init is not a function but \(\)"),
        (("mine", nothing, ema, 3), "block is not a function but 3"),
        (("mine", lambda: np.zeros(1), ema), "its init .* the state float64\\[1\\], not a tuple"),
        (("mine", lambda: 1 / 0, ema), "its init .* raised ZeroDivisionError"),
        (("mine", lambda: (np.zeros(10**6 + 1),), ema), "1,000,001 numbers, more than 1,000,000"),
    ],
)
def test_a_wrong_feature_is_refused_when_it_is_made(arguments, words):
    with pytest.raises(ConfigurationError, match=words):
        stream_lstm.register_feature(*arguments)
    assert "mine" not in FUNCTIONS
    with pytest.raises(ConfigurationError, match="arguments is a number from 0 to 16, not 17"):
        stream_lstm.feature("mine", nothing, ema, arguments=17)


def test_a_name_is_registered_once_or_replaced():
    stream_lstm.register_feature("mine", start, ema)
    stream_lstm.register_feature("mine", start, ema)
    with pytest.raises(ConfigurationError, match=r"another feature mine: .* replace=True"):
        stream_lstm.register_feature("mine", start, raises)
    stream_lstm.register_feature("mine", start, ema, arguments=2, replace=True)
    assert str(parse("mine(x, 2)")) == "mine(x, 2)"
    with pytest.raises(ConfigurationError, match=r"mine takes 2 arguments, not 1: mine.x1, x2."):
        parse("mine(x)")
    with pytest.raises(ConfigurationError, match="--plugin adds a function of your own"):
        parse("zzzzz(x)")


# ---- the proof --------------------------------------------------------------------------------


def checked(feature):
    check = BlockCheck([feature], ["x"], seed=1)
    rows = np.arange(5000)
    values = np.random.default_rng(2).normal(size=(5000, 1))
    values[::97] = np.nan
    for k in range(0, 5000, 1700):
        part = slice(k, k + 1700)
        if not check.push(rows[part] * 10**9, values[part], rows[part]):
            break
    return check.found


def leak(state, t_ns, xs):
    return state, np.append(xs[1:], xs[-1:])


def counting():
    calls = [0]

    def step(state, t_ns, x):
        calls[0] += 1
        return state, float(calls[0])

    return step


def test_good_functions_pass_the_proof():
    stream_lstm.register_feature("mine", start, ema, ema_block)
    found = checked("mine(where(missing(x), 0, x)) - lag(abs(x), 3)")
    assert (found["difference"], found["failure"], found["ticks"]) == (None, None, 5000)
    assert found["functions"] == ["mine(where(missing(x), 0, x))", "lag(abs(x), 3)"]
    assert min(found[key] for key in ("blocks", "undone", "restored")) > 5


def test_a_feature_without_memory_passes_too():
    found = checked("diff(x)")
    assert found["difference"] is None
    assert found["functions"] == ["diff(x)"]


@pytest.mark.parametrize(
    ("step", "block"), [(lambda s, t, x: (s, x), leak), (counting(), None)], ids=["leak", "impure"]
)
def test_a_function_that_leaks_or_is_impure_is_found(step, block):
    stream_lstm.register_feature("mine", nothing, step, block)
    found = checked("abs(mine(x))")
    assert found["difference"] is not None
    assert found["difference"]["function"] == "mine(x)"
    assert found["difference"]["stepped"] != found["difference"]["in_blocks"]


def test_a_step_that_keeps_what_was_taken_back_is_found():
    last = [0.0]

    def step(state, t_ns, x):
        before, last[0] = last[0], x
        return state, before

    stream_lstm.register_feature("mine", nothing, step)
    assert checked("mine(x)")["difference"] is not None


@pytest.mark.parametrize(("step", "block"), [(raises, None), (ema, lambda s, t, x: (s, 0.0))])
def test_a_function_that_fails_is_named(step, block):
    stream_lstm.register_feature("mine", start, step, block)
    check = BlockCheck(["mine(x)"], ["x"])
    rows = np.arange(90)
    assert not check.push(rows, np.array(SERIES)[:, None], rows + 2)
    assert "feature mine: its " in check.found["failure"]["what"]
    assert check.found["failure"]["row"] == 2 + (SERIES.index(3.0) if step is raises else 0)
