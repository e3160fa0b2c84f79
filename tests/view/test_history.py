"""A store that is read for people to look at gives what is in it, in one go or bit by bit."""

from __future__ import annotations

import sqlite3

import numpy as np
import pytest

from stream_lstm.errors import StoreError
from stream_lstm.events import Gap, Score, Update
from stream_lstm.view.history import History
from stream_lstm.view.track import Track
from stream_lstm.view.words import refusals

from ..engines import settings
from ..store.stores import StoredSession, of, query, series, ticks

GAP = 40


@pytest.fixture
def kept(tmp_path):
    with StoredSession(tmp_path / "a.db") as kept:
        kept.feed(ticks(series(300)))
        yield kept


def read(path) -> Track:
    with History(path) as history:
        track = Track("a")
        history.read(track)
    return track


def commit(kept: StoredSession) -> None:
    """Let the writer have written what it was given."""
    kept.store.__exit__(None, None, None)


def test_all_predictions_and_scores_of_a_store_are_taken(tmp_path, kept):
    commit(kept)
    track = read(tmp_path / "a.db")
    scored = of(Score, kept.events)
    assert track.scores.labels == len(scored) > 20
    assert track.last[0] == query(tmp_path / "a.db", "SELECT max(n) FROM predictions")[0][0]
    line = track.lines.rows()
    assert line[-1, 0] == scored[-1].n
    assert line[-1, 9] == pytest.approx(scored[-1].base_rate_evidence)
    assert track.scores.means()["log_loss"] == pytest.approx(
        np.mean([score.log_loss for score in scored])
    )


def test_refused_updates_are_told_of_with_their_reasons(tmp_path):
    config = settings(learn=True, bptt=3, max_update=1e-9)
    with StoredSession(tmp_path / "a.db", config) as kept:
        kept.feed(ticks(series(100)))
        refused = of(Update, kept.events)
    assert refused
    assert {update.reason for update in refused} == {"update-too-large"}
    track = read(tmp_path / "a.db")
    assert (track.updates, track.refused) == (0, len(refused))
    said = f"Refused: {len(refused)} since it would have changed the weights too much."
    assert refusals(track) == [said]
    assert refusals(Track("none")) == []


def test_the_updates_come_with_the_times_of_their_predictions(tmp_path, kept):
    commit(kept)
    track = read(tmp_path / "a.db")
    made = of(Update, kept.events)
    rows = track.norms.rows()
    assert track.updates == len(made) == len(rows)
    assert rows[:, 2].tolist() == pytest.approx([update.grad_norm for update in made])
    assert rows[-1, 1] == rows[-1, 0] * 1e9


def test_the_targets_are_those_of_the_elements(tmp_path, kept):
    commit(kept)
    targets = read(tmp_path / "a.db").targets()
    values = series(300)[:, 0].astype(np.float32)
    assert targets.value.tolist() == values[targets.n - 1].tolist()
    assert targets.n[-1] == 300


def test_lost_ticks_are_counted_and_make_a_spell(tmp_path, kept):
    kept.feed(Gap("a", 301 + GAP, GAP), ticks(series(100, seed=4), 301 + GAP))
    commit(kept)
    track = read(tmp_path / "a.db")
    assert track.missed == GAP
    assert [spell.kind for spell in track.intervals] == ["gap"]
    assert track.intervals[0].start[0] <= 300 < track.intervals[0].end[0]


def test_a_silence_of_the_feed_lies_between_the_predictions_around_it(tmp_path, kept):
    commit(kept)
    with StoredSession(tmp_path / "a.db") as more:
        more.store.note("stale")
        more.feed(ticks(series(50, seed=4), 301))
        more.store.note("stale")
    made = [n for (n,) in query(tmp_path / "a.db", "SELECT n FROM predictions ORDER BY n")]
    before, after = max(n for n in made if n <= 300), min(n for n in made if n > 300)
    spells = [(spell.start[0], spell.end[0]) for spell in read(tmp_path / "a.db").intervals]
    assert spells == [(before, after), (made[-1], made[-1])]


def test_what_is_new_is_followed_without_reading_the_old_again(tmp_path, kept):
    commit(kept)
    with History(tmp_path / "a.db") as history:
        track = Track("a")
        history.read(track)
        before = track.updates
        history.follow(track)
        assert track.updates == before
        with StoredSession(tmp_path / "a.db") as more:
            more.feed(ticks(series(100, seed=5), 301))
        history.follow(track)
        made = query(tmp_path / "a.db", "SELECT count(*) FROM updates")[0][0]
        assert track.updates == made > before


def test_a_damaged_setup_is_said_to_be_damaged(tmp_path, kept):
    commit(kept)
    path = tmp_path / "a.db"
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE setup SET value = 'x' WHERE name = 'configuration'")
    connection.close()
    with pytest.raises(
        StoreError, match=r"a\.db is damaged: the checksum of its configuration is wrong"
    ):
        History(path)
