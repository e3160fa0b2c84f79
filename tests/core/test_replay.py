"""The one driver: nothing depends on its pieces, and it stops where it is told to."""

from __future__ import annotations

import hashlib
import itertools
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_lstm.core import replay
from stream_lstm.core.outcome import Outcome
from stream_lstm.core.replay import Digest, LateLabels, Replay, ReplayRows, send
from stream_lstm.core.session import Session
from stream_lstm.errors import DataError
from stream_lstm.events import Output, Prediction, Score, Ticks
from stream_lstm.records import Batch

from ..engines import engine_for
from ..engines import settings as configuration
from .driving import open_session

COUNT = 700
T_NS = np.arange(COUNT) * 10**9
VALUES = np.random.default_rng(8).normal(size=(COUNT, 1))
NAMES = ("a", "b", "c")
CODES = np.random.default_rng(9).integers(0, 3, COUNT)


def opened(digest: Digest, **values: Any) -> Session:
    config = configuration(**values)

    def deliver(outcome: Outcome) -> None:
        digest.add_batch(outcome.predictions)

    return Session(config, ("x",), deliver=deliver, scored=False, engine=engine_for(config, 1))


def replayed(keyed: bool, blocks: int, **values: Any) -> tuple[str, Any]:
    digest = Digest()
    session = opened(digest, **values)
    whole = ReplayRows(T_NS, VALUES, keys=(NAMES, CODES) if keyed else None)
    assert Replay(session, "s").run(whole.pieces(blocks))
    session.look()
    board = session.scores.total()
    return digest.hexdigest(), (board.labels, board.losses)


@pytest.mark.parametrize("keyed", [False, True])
@pytest.mark.parametrize("learn", [False, True])
def test_nothing_depends_on_blocks_or_pieces(
    keyed: bool, learn: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = replayed(keyed, COUNT, learn=learn)
    assert wanted[1][0] > 50
    for piece, block in ((13, COUNT), (300, 299), (COUNT, 1)):
        monkeypatch.setattr(replay, "PIECE", piece)
        monkeypatch.setattr(replay, "LEARN_PIECE", piece)
        assert replayed(keyed, block, learn=learn) == wanted


def test_it_stops_between_two_pieces_and_says_how_far_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(replay, "PIECE", 100)
    done: list[int] = []
    session = opened(Digest())
    drive = Replay(session, "s")
    assert not drive.run([ReplayRows(T_NS, VALUES)], done.append, lambda: done[-1] == 300)
    assert done == [100, 200, 300]
    assert session.streams["s"].n == 300


def test_a_stream_too_many_is_named_with_its_row() -> None:
    config = configuration()
    session = Session(config, ("x",), engine=engine_for(config, 1), limit=2)
    rows = ReplayRows(T_NS, VALUES, numbers=np.arange(COUNT) + 2, keys=(NAMES, np.sort(CODES)))
    first = int(np.searchsorted(np.sort(CODES), 2)) + 2
    with pytest.raises(DataError, match=f"row {first} is of the stream 'c', and 2 streams"):
        Replay(session).run([rows])


def test_columns_give_what_a_push_gives() -> None:
    one, two = Digest(), Digest()
    opened(one).push(Ticks("s", T_NS, VALUES, "run", 1))
    session = opened(two)
    send(session, Ticks("s", T_NS, VALUES, "run", 1))
    assert one.hexdigest() == two.hexdigest()
    assert (session.streams["s"].run_id, session.streams["s"].gaps_visible) == ("run", True)


# ---- the digest tells two runs apart, and nothing else ---


def digest(*predictions: Prediction) -> str:
    running = Digest()
    for prediction in predictions:
        running.add(prediction)
    return running.hexdigest()


def test_is_what_its_documentation_says() -> None:
    p = float(np.float32(0.3))
    wanted = hashlib.sha256("µ".encode() + struct.pack("<q", 7) + struct.pack("<f", p))
    assert digest(Prediction("µ", 7, 0, p)) == wanted.hexdigest()
    assert digest() == hashlib.sha256().hexdigest()


def test_one_bit_of_p_or_another_order_shows() -> None:
    one, two = Prediction("a", 1, 0, 0.5), Prediction("a", 2, 0, 0.5)
    near = Prediction("a", 2, 0, float(np.nextafter(np.float32(0.5), np.float32(1))))
    assert len({digest(one, two), digest(two, one), digest(one, near), digest(one)}) == 4


def test_time_and_flags_do_not_show() -> None:
    assert digest(Prediction("a", 1, 5, 0.5, "s", True, True)) == digest(
        Prediction("a", 1, 0, 0.5)
    )


def test_of_several_streams_only_the_order_within_each_one_shows() -> None:
    a, later = Prediction("a", 1, 0, 0.5), Prediction("a", 2, 0, 0.5)
    b = Prediction("b", 1, 0, 0.5)
    assert digest(a, later, b) == digest(a, b, later) == digest(b, a, later)
    assert len({digest(a, later, b), digest(later, a, b), digest(a, later), digest(b)}) == 4
    both = b"".join(bytes.fromhex(digest(*part)) for part in ([a, later], [b]))
    assert digest(a, later, b) == hashlib.sha256(both).hexdigest()


def test_a_batch_counts_as_its_predictions_one_by_one() -> None:
    rng = np.random.default_rng(2)
    made = [
        Prediction(str(rng.choice(["a", "bö", "c"])), n, 0, float(np.float32(rng.random())), "")
        for n in range(1, 300)
    ]
    one, other = Digest(), Digest()
    for prediction in made:
        one.add(prediction)
    alone = [prediction for prediction in made if prediction.stream == "c"]
    for part in (made[:1], [], made[1:200], made[200:]):
        other.add_batch(Batch.of(Prediction, part))
    assert one.hexdigest() == other.hexdigest()
    one, other = Digest(), Digest()
    for prediction in alone:
        one.add(prediction)
    other.add_batch(Batch.of(Prediction, alone))
    assert one.hexdigest() == other.hexdigest()


# ---- a file's own labels in their own time, against where each row's label must turn  ---

SIZE = 90


def run(
    cuts: list[int], *, bad: set[int] = frozenset(), config: Any = None, **options: Any
) -> tuple[list[Output], LateLabels, np.ndarray]:
    """Push SIZE rows in blocks; the rows of `bad` make no element."""
    config = config or configuration(labels="external", stride=5)
    events: list[Output] = []
    late = LateLabels(open_session(config, events.append), **options)
    xs = np.random.default_rng(0).normal(size=SIZE)
    xs[list(bad)] = np.nan
    truth = np.random.default_rng(1).integers(0, 2, SIZE).astype(np.float64)
    times = np.arange(SIZE, dtype=np.int64) * 10
    edges = sorted({0, SIZE, *cuts})
    for start, stop in itertools.pairwise(edges):
        part = slice(start, stop)
        late.push(Ticks("a", times[part], xs[part, None], seq=start), truth[part])
    made = np.delete(np.arange(SIZE), list(bad))
    return events, late, truth[made]


cuts = st.lists(st.integers(1, SIZE - 1), max_size=6)


@settings(max_examples=20)
@given(cuts=cuts, bad=st.sets(st.integers(0, SIZE - 1), max_size=9), delay=st.integers(0, 60))
def test_the_label_is_that_of_the_row_that_made_the_element(
    cuts: list[int], bad: set[int], delay: int
) -> None:
    events, late, truth = run(cuts, bad=bad, delay=delay)
    scores = [e for e in events if isinstance(e, Score)]
    due = range(12, len(truth) + 1, 5)
    # with the row of element n + 1 + delay, and before it is stepped
    wanted = [n for n in due if n + 1 + delay <= len(truth)]
    assert [(e.n, e.label) for e in scores] == [(n, truth[n]) for n in wanted]
    read = [n for n in due if n + 1 <= len(truth)]
    assert late.undelivered == len(read) - len(wanted)
    at = {e.n: k for k, e in enumerate(events) if isinstance(e, Prediction)}
    for score in scores:  # not before the last prediction that comes before it
        before = [n for n in due if n <= score.n + delay]
        assert events.index(score) > at[before[-1]]
        assert all(events.index(score) < at[n] for n in due if n > score.n + delay)


@settings(max_examples=12)
@given(one=cuts, two=cuts, seed=st.integers(0, 9))
def test_shuffled_labels_come_alike_however_rows_are_cut(
    one: list[int], two: list[int], seed: int
) -> None:
    runs = [run(at, delay=40, rng=np.random.default_rng(seed))[0] for at in (one, two)]
    assert runs[0] == runs[1]
    order = [e.n for e in runs[0] if isinstance(e, Score)]
    assert len(set(order)) == len(order) > 5


def test_shuffled_means_in_another_order() -> None:
    events, _, _ = run([], delay=60, rng=np.random.default_rng(2))
    order = [e.n for e in events if isinstance(e, Score)]
    assert order != sorted(order)


@pytest.mark.parametrize("delay_ns", [0, 1, 95, 400])
def test_a_delay_in_time_counts_from_the_row_of_the_label(delay_ns: int) -> None:
    events, _, truth = run([17, 40], delay_ns=delay_ns)
    scores = [e for e in events if isinstance(e, Score)]
    assert [e.t_ns for e in scores] == [10 * e.n + delay_ns for e in scores]
    # the row of element m has time 10 (m - 1); a label comes before the first row at its time
    wanted = [n for n in range(12, SIZE, 5) if 10 * n + delay_ns <= 10 * (SIZE - 1)]
    assert [e.n for e in scores] == wanted
    assert [e.label for e in scores] == [truth[n] for n in wanted]


def test_an_elements_own_label_comes_after_its_prediction_and_before_the_next() -> None:
    for delay in (0, 1):
        config = configuration(labels="external", stride=1, horizon=0)
        events, _, truth = run([33], config=config, delay=delay)
        kinds = [(type(e), e.n) for e in events]
        wanted = [(kind, n) for n in range(12, SIZE + 1) for kind in (Prediction, Score)]
        assert kinds == wanted[: len(wanted) - delay]  # the last row has none behind it
        assert [e.label for e in events if isinstance(e, Score)] == truth[
            11 : SIZE - delay
        ].tolist()


def test_what_comes_with_a_row_is_known_to_its_prediction() -> None:
    """A column that holds the signs of the series is scored as the series itself is."""
    config = configuration(labels="external", stride=1)
    events, _, _ = run([20, 21, 60], config=config)
    kinds = [(type(e), e.n) for e in events]
    assert kinds[:4] == [(Prediction, 12), (Score, 12), (Prediction, 13), (Score, 13)]
    late, _, _ = run([20, 21, 60], config=config, delay=1)
    kinds = [(type(e), e.n) for e in late]
    assert kinds[:4] == [(Prediction, 12), (Prediction, 13), (Score, 12), (Prediction, 14)]

    xs = np.random.default_rng(0).normal(size=SIZE)
    outcomes = []
    for labels in ("series", "external"):
        events = []
        session = open_session(configuration(labels=labels, stride=1), events.append)
        ticks = Ticks("a", np.zeros(SIZE, np.int64), xs[:, None], seq=0)
        if labels == "series":
            session.push(ticks)
        else:
            LateLabels(session).push(ticks, (xs > 0).astype(np.float64))
        scores = [e for e in events if isinstance(e, Score)]
        outcomes.append([(e.n, e.p, e.label, e.base_rate_p) for e in scores])
    assert outcomes[0] == outcomes[1]
    assert len(outcomes[0]) == SIZE - 12
