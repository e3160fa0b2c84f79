"""Whether a store's journal leads to what it holds, and if not, why; stores held side by side."""

from __future__ import annotations

import contextlib
import csv
import re
import sqlite3
from pathlib import Path

import msgspec
import numpy as np
import pyarrow.parquet
import pytest

from stream_lstm.config import StoreConfig
from stream_lstm.core.session import Session
from stream_lstm.errors import StoreError
from stream_lstm.events import Gap, Prediction, Rollback, Score
from stream_lstm.store import writer
from stream_lstm.store.inspection import contents
from stream_lstm.store.reading import read_setup
from stream_lstm.store.schema import NAMES, VERSION, connect_reader
from stream_lstm.store.table_files import export_store
from stream_lstm.store.verify import Verification, compare

from ..engines import engine_for, settings
from . import stores
from .stores import LEARNING, StoredSession, cut, of, query, reseal, series, ticks
from .test_faults import files_no_longer_than, wait_until, written

PAGE = Path(__file__).parents[2] / "stream_lstm" / "manual" / "store.md"


@pytest.fixture
def path(tmp_path):
    return tmp_path / "s.db"


@pytest.fixture
def kept(path):
    """A store of 200 elements in two runs, with snapshots 1 to 4; what it was made by."""
    values = series(200)
    first = StoredSession(path)
    first.feed(*cut(values[:70], [60]))
    first.kill()
    second = StoredSession(path)
    second.feed(*cut(values[70:], [10, 60, 90, 110], first=71))
    second.kill()
    return path


def verified(path, begin=None):
    connection = connect_reader(path)
    try:
        setup = read_setup(connection, str(path))
        session = Session(
            setup.config,
            setup.columns,
            lambda _: None,
            weights=setup.weights,
            engine=engine_for(setup.config),
        )
        return Verification(connection, session).run(begin)
    finally:
        connection.close()


def change(path, sql, *values):
    """Alter a store together with its checksums, as if it had been written so."""
    stores.change(path, sql, *values)
    reseal(path)


def test_a_store_that_nobody_touched_is_as_it_was(kept):
    found = verified(kept)
    assert found.difference is None
    assert (found.began, found.checked, found.unchecked) == ([None], 19, 0)


def test_a_replay_can_begin_at_any_snapshot(kept):
    rows = query(kept, "SELECT snapshot, elements FROM snapshots")
    assert len(rows) == 3
    for number, elements in rows:
        found = verified(kept, number)
        assert found.difference is None
        assert found.began == [number]
        assert found.unchecked == (elements - 2) // 10
        assert found.checked + found.unchecked == 19
    with pytest.raises(StoreError, match=r"snapshot 9 cannot be used; there are: \d"):
        verified(kept, 9)


def test_ticks_that_were_changed_are_the_cause(kept):
    values = series(200)
    pos, count, before = query(kept, "SELECT pos, count, n_before FROM ticks ORDER BY pos")[0]
    changed = values[before : before + count].copy()
    changed[20] = 5.0
    change(kept, "UPDATE ticks SET fields = ? WHERE pos = ?", changed.tobytes(), pos)
    found = verified(kept)
    assert found.difference.cause == "input"
    assert (found.difference.n, found.difference.pos) == (22, pos)
    assert found.difference.made != found.difference.stored
    assert found.checked == 1


def test_ticks_that_were_changed_to_no_effect_are_seen_too(kept):
    change(kept, "UPDATE ticks SET t_ns = zeroblob(8 * count), crc = 1 WHERE pos = 1")
    change(kept, "UPDATE predictions SET t_ns = 0 WHERE pos = 1")
    found = verified(kept)
    assert (found.difference.cause, found.difference.n) == ("input", None)
    assert found.checked == 19


def test_a_prediction_that_was_changed_in_its_last_bit_is_found(kept):
    [(p,)] = query(kept, "SELECT p FROM predictions WHERE n = 112")
    change(kept, "UPDATE predictions SET p = ? WHERE n = 112", np.nextafter(p, 1.0).item())
    found = verified(kept).difference
    assert (found.cause, found.n, found.stream) == ("runtime", 112, "a")
    assert found.made == p
    assert "are unchanged" in found.what


def test_another_version_is_named(kept):
    change(kept, "UPDATE predictions SET p = 0.5 WHERE n = 112")
    change(kept, """UPDATE runs SET runtime = json_set(runtime, '$.jax', '0.1.2') WHERE run = 2""")
    found = verified(kept).difference
    assert found.cause == "runtime"
    assert re.fullmatch(r"jax was '0.1.2' and is '[\d.]+'", found.what)


def test_a_prediction_that_is_missing_and_one_too_many_are_found(kept):
    change(kept, "DELETE FROM predictions WHERE n = 42")
    found = verified(kept).difference
    assert (found.n, found.stored) == (42, None)
    [(pos,)] = query(kept, "SELECT pos FROM predictions WHERE n = 32")
    change(kept, "INSERT INTO predictions VALUES ('a', 33, 0, 0.5, '', 1, 0, NULL, ?)", pos)
    found = verified(kept).difference
    assert (found.n, found.stored, found.made) == (33, 0.5, None)


def test_other_weights_to_start_from_are_the_cause(path):
    config = settings(**LEARNING)
    with StoredSession(path, settings(seed=5, **LEARNING)) as other:
        weights = {
            name: {"kernel": np.array(layer["kernel"])}
            for name, layer in other.session.weights_for("").items()
        }
    path.unlink()
    with StoredSession(path, config, weights=weights) as kept:
        kept.feed(*cut(series(60), []))
    with StoredSession(path.with_name("t.db"), config, weights=weights) as other:
        pass
    assert verified(path).difference is None
    change(path, "UPDATE setup SET value = x'00' WHERE name = 'start'")
    with pytest.raises(StoreError, match="checksum of its initial weights is wrong"):
        verified(path)
    with StoredSession(path.with_name("u.db"), config) as unlike:
        unlike.feed()
    [(value, digest)] = query(
        path.with_name("u.db"), "SELECT value, sha256 FROM setup WHERE name = 'start'"
    )
    change(path, "UPDATE setup SET value = ?, sha256 = ? WHERE name = 'start'", value, digest)
    found = verified(path).difference
    assert (found.cause, found.n) == ("weights", 12)
    assert re.match(r"run 1 began with the weights \w{16}, but the journal leads to", found.what)


def test_a_snapshot_with_other_weights_is_named(kept, path):
    with StoredSession(path.with_name("t.db"), settings(seed=5, **LEARNING)) as other:
        other.feed(*cut(series(60), []))
    [(digest,)] = query(path.with_name("t.db"), "SELECT sha256 FROM snapshots")
    pieces = query(path.with_name("t.db"), "SELECT piece, data FROM snapshot_pieces")
    number = query(kept, "SELECT min(snapshot) FROM snapshots")[0][0]
    change(kept, f"UPDATE snapshots SET sha256 = ? WHERE snapshot = {number}", digest)
    change(kept, f"DELETE FROM snapshot_pieces WHERE snapshot = {number}")
    for piece in pieces:
        change(kept, f"INSERT INTO snapshot_pieces VALUES ({number}, ?, ?)", *piece)
    found = verified(kept).difference
    assert (found.cause, found.n) == ("weights", None)
    assert f"snapshot {number} has the weights" in found.what


def test_behind_a_hole_a_replay_begins_again(path, monkeypatch):
    monkeypatch.setattr(writer, "QUEUE_BYTES", 60_000)
    values = series(900)
    with StoredSession(path, options=StoreConfig(), blocking=False) as kept:
        kept.feed(ticks(values[:100], 1))
        wait_until(lambda: written(kept))
        with files_no_longer_than(path.with_name("s.db-wal").stat().st_size):
            kept.feed(*[ticks(values[k : k + 1], k + 1) for k in range(100, 500)])
        wait_until(lambda: written(kept))
        kept.feed(ticks(values[500:], 501))
    found = verified(path)
    assert found.difference is None
    assert found.began == [None, 1]
    assert found.unchecked == 0
    assert contents(path)["whole"] is False


def test_two_stores_of_the_same_are_alike(kept, path):
    with StoredSession(path.with_name("t.db")) as other:
        other.feed(*cut(series(200), [33]))
    found = compare(kept, path.with_name("t.db"))
    assert (found.predictions, found.alike, found.difference) == (19, 19, None)


def test_the_first_prediction_that_differs_is_named(kept, path):
    values = series(200)
    values[101:] += 1
    with StoredSession(path.with_name("t.db")) as other:
        other.feed(*cut(values, []))
    found = compare(kept, path.with_name("t.db"))
    assert (found.alike, found.difference.n) == (9, 102)
    assert found.difference.p != found.difference.other_p
    with StoredSession(path.with_name("u.db")) as longer:
        longer.feed(*cut(series(230), []))
    for one, two, p in ((kept, "u.db", True), ("u.db", kept, False)):
        found = compare(path.parent / one, path.parent / two).difference
        assert found.n == 202
        assert (found.p is None) == p
        assert (found.other_p is None) != p


def test_what_is_in_a_store_is_told(kept):
    found = contents(kept)
    assert found["elements"] == 200
    assert found["rows"]["predictions"] == 19
    assert found["streams"]["a"]["next_seq"] == 201
    assert [run["command"] for run in found["runs"]] == ["test", "test"]
    assert found["whole"] is True
    assert found["columns"] == ["x"]
    msgspec.json.encode(found)


def test_every_table_becomes_a_parquet_file(kept, tmp_path):
    rows = export_store(kept, tmp_path / "out")
    assert set(rows) == set(NAMES)
    tables = {
        name: pyarrow.parquet.read_table(tmp_path / "out" / f"{name}.parquet") for name in rows
    }
    assert {name: table.num_rows for name, table in tables.items()} == rows
    assert tables["ticks"]["x"].to_pylist() == series(200)[:, 0].tolist()
    assert tables["ticks"]["seq"].to_pylist() == list(range(1, 201))
    assert tables["predictions"]["p"].to_pylist() == [
        p for (p,) in query(kept, "SELECT p FROM predictions ORDER BY pos, n")
    ]
    assert not list((tmp_path / "out").glob("*.partial"))


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r"])
def test_every_table_becomes_a_csv_file_that_a_spreadsheet_may_open(kept, tmp_path, start):
    hostile = f'{start}HYPERLINK("x";A1),\n'
    with contextlib.closing(sqlite3.connect(kept)) as connection, connection:
        for table in ("ticks", "predictions"):
            connection.execute(f"UPDATE {table} SET stream = ?", (hostile,))
    for spreadsheet in (False, True):
        out = tmp_path / f"out{spreadsheet}"
        rows = export_store(kept, out, form="csv", spreadsheet=spreadsheet)
        found = {}
        for name in rows:
            with (out / f"{name}.csv").open(newline="") as file:
                found[name] = list(csv.DictReader(file))
        assert {name: len(table) for name, table in found.items()} == rows
        shown = f"'{hostile}" if spreadsheet else hostile
        if spreadsheet or start != "\r":  # no stream has one, and plain files do not quote it
            for name in ("ticks", "predictions"):
                assert {row["stream"] for row in found[name]} == {shown}
        assert [float(row["x"]) for row in found["ticks"]] == series(200)[:, 0].tolist()
        assert all(len(row["sha256"]) == 64 for row in found["snapshots"])
        pieces = query(kept, "SELECT data FROM snapshot_pieces ORDER BY snapshot, piece")
        assert [bytes.fromhex(row["data"]) for row in found["snapshot_pieces"]] == [
            data for (data,) in pieces
        ]
        assert not list(out.glob("*.partial"))


# ---- the queries of the manual ----------------------------------------------------------


def documented_queries():
    return re.findall(r"```sql\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture
def lived(path):
    """A store with scores, a gap and what a daemon would have seen."""
    with StoredSession(path, settings(learn=True)) as kept:
        kept.feed(*cut(series(300), [100]), Gap("a", 301, 4))
        kept.feed(ticks(series(100, seed=9), 305))
    return path, kept.events


def test_the_manual_has_three_queries_that_run(lived):
    path, events = lived
    queries = documented_queries()
    assert len(queries) == 3
    by_day, by_gap, by_bucket = (query(path, sql) for sql in queries)
    scored = of(Score, events)
    [day] = by_day
    assert day[:3] == ("a", "1970-01-01", len(scored))
    right = sum((s.p > 0.5) == (s.label == 1) for s in scored)
    assert day[3] == pytest.approx(right / len(scored))
    assert day[4] == pytest.approx(np.mean([s.log_loss for s in scored]))
    [gap] = by_gap
    assert gap[1:3] == ("a", 4)
    flagged = [p for p in of(Prediction, events) if p.after_gap]
    assert gap[3] == len(flagged) > 0
    assert sum(row[2] for row in by_bucket) == len(scored)
    assert all(0 <= row[3] <= 1 for row in by_bucket)


def test_the_manual_documents_every_table():
    text = PAGE.read_text(encoding="utf-8").split("## Tables")[1].split("\n## ")[0]
    told = set(re.findall(r"^\| `([a-z_]+)` \|", text, re.MULTILINE))
    assert set(NAMES) <= told


def test_learning_that_was_rolled_back_leads_to_the_same_bits(path):
    config = settings(
        **LEARNING, learning_rate=1.0, rollback_window=16, rollback_excess=0.01, freeze_labels=16
    )
    with StoredSession(path, config) as kept:
        kept.feed(*cut(series(1500), range(100, 1500, 100)))
    backs = of(Rollback, kept.events)
    stored = query(path, "SELECT stream, n, count, reason FROM events WHERE kind = 'rollback'")
    assert stored == [
        (b.stream, b.n, 1, f"{b.reason} to {b.to}, rests for {b.frozen} labels") for b in backs
    ]
    assert backs
    assert verified(path).difference is None


def test_a_store_of_another_order_of_work_is_named_by_a_comparison(path, tmp_path):
    other = tmp_path / "other.db"
    for name, values in ((path, series(60)), (other, series(60) + 1e-3)):
        with StoredSession(name) as kept:
            kept.feed(*cut(values, [20]))
    assert compare(path, other).older is None
    connection = sqlite3.connect(other)
    connection.execute(f"PRAGMA user_version = {VERSION - 1}")
    connection.close()
    found = compare(path, other)
    assert found.difference is not None
    assert found.older == str(other)
