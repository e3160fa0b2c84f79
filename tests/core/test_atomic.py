"""Every call of a public session happens wholly or not at all, whatever comes in between."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import stream_lstm
from stream_lstm import Predictor
from stream_lstm.core import atomic
from stream_lstm.core.atomic import AFTER, BEFORE, AtomicSession
from stream_lstm.core.columnar import Arrivals
from stream_lstm.errors import ConfigurationError, UsageError
from stream_lstm.events import Gap, Label, Prediction, SessionStart, Ticks

from ..engines import engine_for, settings
from ..injecting import Injected, Injector
from .driving import members_of

KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "learning": {"learn": True},
    "learning, of their own": {"learn": True, "sharing": "per-stream", "optimizer": "dekf"},
    "bank": {"learn": True, "bank": "small.toml", "share": 0.01},
    "labels from outside": {"learn": True, "labels": "external", "label_hold": 3,
                            "revisions": "last"},
    "with lags": {"features": ["x", "diff(x)"], "on_gap": "reset"},
    "with memory": {"features": ["zscore(x, 7)", "lag(x, 20)", "sum(x, 9ns)"], "learn": True},
    "of another": {"features": ["x", 'of("a", mean(x, 3)) + age("a")', "median(x, 4)"]},
}  # fmt: skip

THOROUGH = "STREAM_LSTM_THOROUGH" in os.environ
"""Whether exceptions come at every line, which takes minutes."""

SPARSE = {"bank": 29, "labels from outside": 11, "learning, of their own": 3}
"""Times that exceptions are further apart where a state is large."""

PACKAGE = os.path.dirname(stream_lstm.__file__)

WARM = 40
"""Elements of each of two streams before a call that is torn."""


def open_session(kind: str, emit: Any = None) -> AtomicSession:
    values = {"stride": 3, "horizon": 2, "window": 10} | KINDS[kind]
    config, members = settings(**values), members_of(values)
    engine = engine_for(config, len(config.stream.features), members)
    return AtomicSession(config, ["x"], emit, members=members, engine=engine)


def block(stream: str, start: int, count: int) -> Ticks:
    rng = np.random.default_rng(start)
    times = np.arange(start, start + count, dtype=np.int64)
    return Ticks(stream, times, rng.normal(size=(count, 1)), "run", start + 1)


def warm(session: AtomicSession) -> None:
    for stream in ("a", "b"):
        session.push(block(stream, 0, WARM))
    if session.config.stream.labels == "external":
        for n in (10, 13, 16):
            session.label(Label("a", n, 1.0))


def external_label(session: AtomicSession) -> None:
    session.label(Label("a", 19, 0.0))


def arrive(session: AtomicSession) -> None:
    rows = np.array([0, 1] * 4)  # of a and b
    times = np.arange(100, 108)
    values = np.random.default_rng(7).normal(size=(8, 1))
    session.arrive(Arrivals(rows, times, values, "run", True))


CALLS: dict[str, Callable[[AtomicSession], object]] = {
    "a silent tick": lambda s: s.tick("a", 100, [0.3], "run", WARM + 1),
    "a tick of a new stream": lambda s: s.tick("c", 100, [0.3], "run", 1),
    "a refused tick": lambda s: s.tick("a", 100, [float("nan")], "run", WARM + 1),
    "a block": lambda s: s.push(block("a", WARM, 8)),
    "ticks of both streams": arrive,
    "a label": external_label,
    "the end": lambda s: s.settle(),
    "a gap": lambda s: s.gap(Gap("a", WARM + 5, 4)),
    "a restart": lambda s: s.session_start(SessionStart("a", "another")),
    "a look": lambda s: s.look(),
}


def every(lines: int, kind: str) -> int:
    """Return the lines between two exceptions."""
    return 1 if THOROUGH else lines * SPARSE.get(kind, 1)


def tear(session: AtomicSession, call: Callable[[AtomicSession], object], at: int) -> Any:
    """Make a call with an exception at a line event; return it, None where there were fewer."""
    injector = Injector(at, [PACKAGE])
    traced = sys.gettrace()
    sys.settrace(injector)
    try:
        call(session)
    except Injected as error:
        return error
    finally:
        sys.settrace(traced)
    return None


def states(session: AtomicSession, call: Callable[[AtomicSession], object]) -> tuple[bytes, bytes]:
    before = session.snapshot()
    call(session)
    after = session.snapshot()
    session.restore(before)
    return before, after


def torn_everywhere(
    session: AtomicSession, call: Callable[[AtomicSession], object], step: int
) -> int:
    """Tear a call at every so many line events; return at how many."""
    before, after = states(session, call)
    for points, at in enumerate(itertools.count(0, step)):
        error = tear(session, call, at)
        if error is None:
            assert session.snapshot() == after
            sys.stdout.write(f"{points} exceptions\n")
            return points
        found = session.snapshot()
        assert found in (before, after), f"another state after line event {at}"
        notes = getattr(error, "__notes__", [])
        if notes:
            assert notes[-1] == (BEFORE if found == before else AFTER) or before == after
        if found != before:
            session.restore(before)
    raise AssertionError


def labels_fit(kind: str, call: str) -> bool:
    return ("label" in call) <= ("outside" in kind) and not (call == "ticks of both streams" and (
        KINDS[kind].get("learn", False)))  # fmt: skip


SLOW = dict.fromkeys(("bank", "learning, of their own"), pytest.mark.slow)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "call"),
    [pytest.param(k, c, marks=SLOW.get(k, ())) for k in KINDS for c in CALLS if labels_fit(k, c)],
)
def test_an_exception_at_any_line_leaves_the_state_before_or_after(kind, call):
    session = open_session(kind)
    warm(session)
    assert torn_everywhere(session, CALLS[call], every(13, kind)) > 0


@pytest.mark.parametrize("kind", KINDS)
def test_an_exception_at_any_line_of_a_publishing_tick(kind):
    heard: list[Any] = []
    session = open_session(kind, heard.append)
    warm(session)
    # predictions come after element 10 and every third from there
    for k in range(-(session.streams["a"].n - 10) % 3 + 2):
        session.tick("a", 100 + k, [0.1 * k - 0.1], "run", WARM + 1 + k)
    heard.clear()
    call = lambda s: s.tick("a", 200, [0.2], "run", WARM + 50)  # noqa: E731
    states(session, call)
    assert any(isinstance(event, Prediction) for event in heard)
    assert torn_everywhere(session, call, every(3, kind)) > 0


@pytest.mark.parametrize("kind", ["plain", "bank", "labels from outside"])
def test_an_exception_at_any_line_of_a_restore(kind):
    session = open_session(kind)
    warm(session)
    other = open_session(kind)
    other.push(block("z", 5, 25))
    data = other.snapshot()
    assert torn_everywhere(session, lambda s: s.restore(data), every(41, kind)) > 0


def test_what_follows_a_torn_call_has_the_bits_of_a_session_that_never_was():
    for kind in KINDS:
        session, whole = open_session(kind), open_session(kind)
        for one in (session, whole):
            warm(one)
        error = tear(session, CALLS["a block"], 60)
        assert error.__notes__ == [BEFORE]
        for one in (session, whole):
            one.push(block("a", WARM, 30))
            one.push(block("b", WARM, 30))
        assert session.snapshot() == whole.snapshot()


def test_mending_may_be_torn_too(monkeypatch):
    session = open_session("learning")
    warm(session)
    before = session.snapshot()
    assert tear(session, CALLS["a block"], 100) is not None
    for at in itertools.count(0, 97):
        error = tear(session, lambda s: s.snapshot(), at)
        if error is None:
            break
    assert at > 200
    assert session.snapshot() == before


@pytest.mark.parametrize("kind", ["plain", "learning"])
def test_a_callback_that_raises_costs_its_call(kind):
    down = [False]

    def emit(event):
        if down[0] and isinstance(event, Prediction):
            raise ConnectionError("the sink is down")
        heard.append(event)

    heard: list[Any] = []
    session, whole = open_session(kind, emit), open_session(kind)
    for one in (session, whole):
        warm(one)
    down[0] = True
    with pytest.raises(ConnectionError) as caught:
        session.push(block("a", WARM, 30))
    assert caught.value.__notes__ == [BEFORE]
    down[0] = False
    heard.clear()
    session.look()
    assert heard == [], "what was heard before is not said again"
    for one in (session, whole):
        one.push(block("a", WARM, 30))
    assert session.snapshot() == whole.snapshot()
    assert any(isinstance(event, Prediction) for event in heard)


def test_arguments_that_a_caller_changes_later_are_no_part_of_a_mended_state():
    session, whole = open_session("plain"), open_session("plain")
    ticks = block("a", 0, 60)
    for one in (session, whole):
        one.push(ticks)
    values = [0.5]
    for one in (session, whole):
        one.tick("a", 60, values, "run", 61)
    ticks.values[:] = 7.0
    values[0] = 9.0
    assert tear(session, lambda s: s.push(block("a", 61, 8)), 60) is not None
    assert session.snapshot() == whole.snapshot()


def test_bases_are_taken_on_the_way(monkeypatch):
    monkeypatch.setattr(atomic, "REBASE_EVERY", 50)
    monkeypatch.setattr(atomic, "REBASE_PER_STREAM", 0)
    session, whole = open_session("learning"), open_session("learning")
    for k in range(230):
        for one in (session, whole):
            one.tick("a", k, [np.sin(k)], "run", k + 1)
        assert len(session._base.calls) <= 51
        assert len(session.learning.snapshots) <= 2, "bases of the past are let go of"
        if k % 37 == 36:
            call = lambda s: s.tick("a", 500, [0.1], "run", 500)  # noqa: E731
            assert tear(session, call, 20) is not None
    assert session.snapshot() == whole.snapshot()


# ---- threads ----------------------------------------------------------------------------


def test_a_second_thread_is_told_the_rule():
    inside, leave, caught = threading.Event(), threading.Event(), []

    def emit(event):
        if isinstance(event, Prediction):
            inside.set()
            leave.wait(30)

    session = open_session("plain", emit)
    thread = threading.Thread(target=lambda: session.push(block("a", 0, 10)))
    thread.start()
    assert inside.wait(30)
    for call in (*CALLS.values(), lambda s: s.snapshot(), lambda s: s.streams):
        with pytest.raises(UsageError, match="one thread at a time"):
            call(session)
        caught.append(call)
    leave.set()
    thread.join()
    whole = open_session("plain")
    whole.push(block("a", 0, 10))
    assert session.snapshot() == whole.snapshot(), "the thread that was there first finished"
    assert len(caught) == len(CALLS) + 2


def test_a_callback_may_look_and_may_not_call():
    seen = []

    def emit(event):
        seen.append((session.config, session.columns))
        session.push(block("a", 50, 1))

    session = open_session("plain", emit)
    with pytest.raises(UsageError, match="not from its own callbacks"):
        session.push(block("a", 0, 10))
    assert seen[0][1] == ("x",)


def test_threads_that_end_in_the_middle_leave_a_session_that_can_be_mended():
    session, whole = open_session("plain"), open_session("plain")
    for one in (session, whole):
        warm(one)
    torn = []
    thread = threading.Thread(target=lambda: torn.append(tear(session, CALLS["a block"], 60)))
    thread.start()
    thread.join()
    assert torn[0] is not None
    assert session.snapshot() == whole.snapshot()


# ---- as users meet it -------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="needs a POSIX signal to this process")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("learn", [False, True])
def test_interrupts_at_random_times_leave_no_third_state(learn, request):
    given = {"window": 10, "hidden": 4, "stride": 3, "learn": learn, "bptt": 5}
    predictor, whole = Predictor("x", **given), Predictor("x", **given)
    rng = np.random.default_rng(3)
    xs = rng.normal(size=3_000_000 if THOROUGH else 110_000).tolist()
    n = interrupts = 0

    def interrupt():
        os.kill(os.getpid(), signal.SIGINT)

    # started in the background of a shell, a process ignores the signal
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))
    while interrupts < (500 if THOROUGH else 20):
        after = float(rng.uniform(0.0005, 0.01))
        timer = threading.Timer(after, interrupt)
        begun = n
        try:
            timer.start()
            while True:
                predictor.step([xs[n]])
                n += 1
                if n - begun >= 5000 and not timer.is_alive():  # a finalizer swallowed it
                    begun, timer = n, threading.Timer(0.001, interrupt)
                    timer.start()
        except KeyboardInterrupt:
            interrupts += 1
        timer.join()
        reached = predictor._session.streams["series"].n if n else 0
        assert reached in (n, n + 1)
        n = reached
    for x in xs[:n]:
        whole.step([x])
    assert predictor.snapshot() == whole.snapshot()
    assert predictor.step([0.1]) == whole.step([0.1])


def test_a_configuration_error_changes_nothing():
    session = open_session("plain")
    warm(session)
    before = session.snapshot()
    wrong = Ticks("a", np.zeros(1, np.int64), np.zeros((1, 2)), "run", 99)
    with pytest.raises(ConfigurationError) as caught:
        session.push(wrong)
    assert caught.value.__notes__ == [BEFORE]
    assert session.snapshot() == before


def test_a_repeated_call_counts_a_refused_tick_once() -> None:
    torn = []

    def emit(event: object) -> None:
        if isinstance(event, Prediction) and not torn:
            torn.append(event)
            raise Injected

    config = settings(features=["x", "1 / x"], window=2, stride=1)
    session = AtomicSession(config, ["x"], emit, engine=engine_for(config, 2))
    session.tick("a", 0, [0.0])
    for t_ns in (1, 2, 3):
        with contextlib.suppress(Injected):
            session.tick("a", t_ns, [0.5])
    session.tick("a", 4, [0.0])
    assert torn
    assert session.refused_by_feature == {"1 / x": 2}
