"""Whether a store's journal leads to its rows, and if not, why; and comparisons of stores."""

from __future__ import annotations

import contextlib
import csv
import re
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
from stream_lstm.store.output import export_store
from stream_lstm.store.reading import read_setup
from stream_lstm.store.schema import NAMES, VERSION, connect_reader
from stream_lstm.store.verify import Verification, compare

from ..engines import engine_for, settings
from . import stores
from .stores import LEARNING, StoredSession, cut, of, query, reseal, series, singles, ticks, value
from .test_faults import begun, full_disk

PAGE = Path(__file__).parents[2] / "stream_lstm" / "manual" / "store.md"
VALUES = series(200)


@pytest.fixture
def store(path):
    """A store of 200 elements in two runs, with snapshots 2 to 4."""
    StoredSession(path).feed(*cut(VALUES[:70], [60])).kill()
    StoredSession(path).feed(*cut(VALUES[70:], [10, 60, 90, 110], first=71)).kill()
    return path


@pytest.fixture
def other(path):
    return path.with_name("other.db")


def verified(path, begin=None):
    with contextlib.closing(connect_reader(path)) as connection:
        setup = read_setup(connection, str(path))
        session = Session(
            setup.config,
            setup.columns,
            lambda _: None,
            weights=setup.weights,
            engine=engine_for(setup.config),
        )
        return Verification(connection, session).run(begin)


def change(path, sql, *values):
    """Alter a store together with its checksums, as if it had been written so."""
    stores.change(path, sql, *values)
    reseal(path)


# ---- verify -----------------------------------------------------------------------------


def test_an_unchanged_store_leads_to_the_same_predictions_from_any_snapshot(store):
    found = verified(store)
    assert found.difference is None
    assert (found.began, found.checked, found.unchecked) == ([None], 19, 0)
    rows = query(store, "SELECT snapshot, elements FROM snapshots")
    assert len(rows) == 3
    for number, elements in rows:
        found = verified(store, number)
        assert found.difference is None
        assert found.began == [number]
        assert found.unchecked == (elements - 2) // 10
        assert found.checked + found.unchecked == 19
    with pytest.raises(StoreError, match=r"snapshot 9 cannot be used; there are: \d"):
        verified(store, 9)


def test_ticks_that_were_changed_are_the_cause(store):
    pos, count, before = query(store, "SELECT pos, count, n_before FROM ticks ORDER BY pos")[0]
    changed = VALUES[before : before + count].copy()
    changed[20] = 5.0
    change(store, "UPDATE ticks SET fields = ? WHERE pos = ?", changed.tobytes(), pos)
    found = verified(store)
    assert found.difference.cause == "input"
    assert (found.difference.n, found.difference.pos) == (22, pos)
    assert found.difference.made != found.difference.stored
    assert found.checked == 1


def test_ticks_that_were_changed_without_an_effect_are_found_too(store):
    change(store, "UPDATE ticks SET t_ns = zeroblob(8 * count), crc = 1 WHERE pos = 1")
    change(store, "UPDATE predictions SET t_ns = 0 WHERE pos = 1")
    found = verified(store)
    assert (found.difference.cause, found.difference.n) == ("input", None)
    assert found.checked == 19


def test_rows_that_do_not_match_their_checksum_are_the_cause(store):
    stores.change(store, "UPDATE predictions SET p = 0.5 WHERE n = 112")
    found = verified(store).difference
    assert (found.cause, found.n, found.stored) == ("damage", 112, 0.5)


def test_a_prediction_that_was_changed_in_its_last_bit_is_found(store):
    p = value(store, "p FROM predictions WHERE n = 112")
    change(store, "UPDATE predictions SET p = ? WHERE n = 112", np.nextafter(p, 1.0).item())
    found = verified(store).difference
    assert (found.cause, found.n, found.stream) == ("runtime", 112, "a")
    assert found.made == p
    assert "are unchanged" in found.what


def test_another_version_is_named(store):
    change(store, "UPDATE predictions SET p = 0.5 WHERE n = 112")
    change(store, "UPDATE runs SET runtime = json_set(runtime, '$.jax', '0.1.2') WHERE run = 2")
    found = verified(store).difference
    assert found.cause == "runtime"
    assert re.fullmatch(r"jax was '0.1.2' and is '[\d.]+'", found.what)


def test_a_prediction_that_is_missing_and_one_too_many_are_found(store):
    change(store, "DELETE FROM predictions WHERE n = 42")
    found = verified(store).difference
    assert (found.n, found.stored) == (42, None)
    pos = value(store, "pos FROM predictions WHERE n = 32")
    change(store, "INSERT INTO predictions VALUES ('a', 33, 0, 0.5, '', 1, 0, NULL, ?)", pos)
    found = verified(store).difference
    assert (found.n, found.stored, found.made) == (33, 0.5, None)


def test_other_initial_weights_are_the_cause(path, other):
    config = settings(**LEARNING)
    with StoredSession(path.with_name("weights.db"), settings(seed=5, **LEARNING)) as seeded:
        weights = {
            name: {"kernel": np.array(layer["kernel"])}
            for name, layer in seeded.session.weights_for("").items()
        }
    with StoredSession(path, config, weights=weights) as stored:
        stored.feed(*cut(series(60)))
    assert verified(path).difference is None
    change(path, "UPDATE setup SET value = x'00' WHERE name = 'start'")
    with pytest.raises(StoreError, match="checksum of its initial weights is wrong"):
        verified(path)
    with StoredSession(other, config):
        pass
    [cells] = query(other, "SELECT value, sha256 FROM setup WHERE name = 'start'")
    change(path, "UPDATE setup SET value = ?, sha256 = ? WHERE name = 'start'", *cells)
    found = verified(path).difference
    assert (found.cause, found.n) == ("weights", 12)
    assert re.match(r"run 1 began with the weights \w{16}, but the journal leads to", found.what)


def test_a_snapshot_with_other_weights_is_named(store, other):
    with StoredSession(other, settings(seed=5, **LEARNING)) as stored:
        stored.feed(*cut(series(60)))
    digest = value(other, "sha256 FROM snapshots")
    number = value(store, "min(snapshot) FROM snapshots")
    change(store, f"UPDATE snapshots SET sha256 = ? WHERE snapshot = {number}", digest)
    change(store, f"DELETE FROM snapshot_pieces WHERE snapshot = {number}")
    for piece in query(other, "SELECT piece, data FROM snapshot_pieces"):
        change(store, f"INSERT INTO snapshot_pieces VALUES ({number}, ?, ?)", *piece)
    found = verified(store).difference
    assert (found.cause, found.n) == ("weights", None)
    assert f"snapshot {number} has the weights" in found.what


def test_behind_a_hole_a_replay_begins_again(path, monkeypatch):
    monkeypatch.setattr(writer, "QUEUE_BYTES", 60_000)
    values = series(900)
    with begun(path, options=StoreConfig(), blocking=False) as stored:
        with full_disk(path):
            stored.feed(*singles(values[100:500], 101))
        stored.settle().feed(ticks(values[500:], 501))
    found = verified(path)
    assert found.difference is None
    assert found.began == [None, 1]
    assert found.unchecked == 0
    assert contents(path)["whole"] is False


@pytest.mark.slow
def test_learning_that_was_rolled_back_leads_to_the_same_bits(path):
    config = settings(
        **LEARNING, learning_rate=1.0, rollback_window=16, rollback_excess=0.01, freeze_labels=16
    )
    with StoredSession(path, config) as stored:
        stored.feed(*cut(series(900), range(100, 900, 100)))
    rollbacks = of(Rollback, stored.events)
    rows = query(path, "SELECT stream, n, count, reason FROM events WHERE kind = 'rollback'")
    assert rows == [
        (b.stream, b.n, 1, f"{b.reason} to {b.to}, rests for {b.frozen} labels") for b in rollbacks
    ]
    assert rollbacks
    assert verified(path).difference is None


# ---- compare ----------------------------------------------------------------------------


def test_two_stores_of_the_same_inputs_are_alike(store, other):
    with StoredSession(other) as stored:
        stored.feed(*cut(VALUES, [33]))
    found = compare(store, other)
    assert (found.predictions, found.alike, found.difference) == (19, 19, None)


def test_the_first_prediction_that_differs_is_named(store, other):
    values = VALUES.copy()
    values[101:] += 1
    with StoredSession(other) as stored:
        stored.feed(*cut(values))
    found = compare(store, other)
    assert (found.alike, found.difference.n) == (9, 102)
    assert found.difference.p != found.difference.other_p
    assert found.older is None
    stores.change(other, f"PRAGMA user_version = {VERSION - 1}")
    assert compare(store, other).older == str(other), "a version with another order of work"


def test_a_prediction_that_one_store_lacks_is_a_difference(store, other):
    with StoredSession(other) as longer:
        longer.feed(*cut(series(230)))
    for one, two, p in ((store, other, True), (other, store, False)):
        found = compare(one, two).difference
        assert found.n == 202
        assert (found.p is None) == p
        assert (found.other_p is None) != p


# ---- contents and files -----------------------------------------------------------------


def test_the_contents_of_a_store_are_counted(store):
    found = contents(store)
    assert found["elements"] == 200
    assert found["rows"]["predictions"] == 19
    assert found["streams"]["a"] == {"session": "s1"} | found["streams"]["a"]
    assert found["streams"]["a"]["next_seq"] == 201
    assert [run["command"] for run in found["runs"]] == ["test", "test"]
    assert found["whole"] is True
    assert found["columns"] == ["x"]
    msgspec.json.encode(found)


def test_every_table_becomes_a_parquet_file(store, tmp_path):
    out = tmp_path / "out"
    rows = export_store(store, out)
    assert set(rows) == set(NAMES)
    tables = {name: pyarrow.parquet.read_table(out / f"{name}.parquet") for name in rows}
    assert {name: table.num_rows for name, table in tables.items()} == rows
    assert tables["ticks"]["x"].to_pylist() == VALUES[:, 0].tolist()
    assert tables["ticks"]["seq"].to_pylist() == list(range(1, 201))
    assert tables["predictions"]["p"].to_pylist() == [
        p for (p,) in query(store, "SELECT p FROM predictions ORDER BY pos, n")
    ]
    assert not list(out.glob("*.partial"))


@pytest.mark.parametrize("start", ["=", "\t", "\r"])
@pytest.mark.parametrize("spreadsheet", [False, True])
def test_every_table_becomes_a_csv_file_that_a_spreadsheet_may_open(
    store, tmp_path, start, spreadsheet
):
    hostile, out, found = f'{start}HYPERLINK("x";A1),\n', tmp_path / "out", {}
    for table in ("ticks", "predictions"):
        stores.change(store, f"UPDATE {table} SET stream = ?", hostile)
    rows = export_store(store, out, form="csv", spreadsheet=spreadsheet)
    for name in rows:
        with (out / f"{name}.csv").open(newline="") as file:
            found[name] = list(csv.DictReader(file))
    assert {name: len(table) for name, table in found.items()} == rows
    shown = f"'{hostile}" if spreadsheet else hostile
    for name in ("ticks", "predictions"):
        assert {row["stream"] for row in found[name]} == {shown}
    assert [float(row["x"]) for row in found["ticks"]] == VALUES[:, 0].tolist()
    assert all(len(row["sha256"]) == 64 for row in found["snapshots"])
    pieces = query(store, "SELECT data FROM snapshot_pieces ORDER BY snapshot, piece")
    assert [(bytes.fromhex(row["data"]),) for row in found["snapshot_pieces"]] == pieces
    assert not list(out.glob("*.partial"))


# ---- the queries of the manual ----------------------------------------------------------


def test_the_manual_has_three_queries_that_run(path):
    with StoredSession(path, settings(learn=True)) as stored:
        stored.feed(*cut(series(300), [100]), Gap("a", 301, 4))
        stored.feed(ticks(series(100, seed=9), 305))
    queries = re.findall(r"```sql\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(queries) == 3
    by_day, by_gap, by_bucket = (query(path, sql) for sql in queries)
    scored = of(Score, stored.events)
    [day] = by_day
    assert day[:3] == ("a", "1970-01-01", len(scored))
    right = sum((s.p > 0.5) == (s.label == 1) for s in scored)
    assert day[3] == pytest.approx(right / len(scored))
    assert day[4] == pytest.approx(np.mean([s.log_loss for s in scored]))
    [gap] = by_gap
    flagged = [p for p in of(Prediction, stored.events) if p.after_gap]
    assert gap[1:4] == ("a", 4, len(flagged))
    assert flagged
    assert sum(row[2] for row in by_bucket) == len(scored)
    assert all(0 <= row[3] <= 1 for row in by_bucket)


def test_the_manual_documents_every_table():
    text = PAGE.read_text(encoding="utf-8").split("## Tables")[1].split("\n## ")[0]
    assert set(NAMES) <= set(re.findall(r"^\| `([a-z_]+)` \|", text, re.MULTILINE))
