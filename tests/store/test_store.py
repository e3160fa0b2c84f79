"""A store holds what came and what came of it, and brings a session back to the same bits."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from stream_lstm.config import StoreConfig
from stream_lstm.core import snapshot
from stream_lstm.errors import (
    ConfigurationError,
    InputMissingError,
    LockedError,
    OutputError,
    StoreError,
    StreamLSTMError,
)
from stream_lstm.events import (
    End,
    Expiry,
    Gap,
    Label,
    Prediction,
    Score,
    SessionStart,
    Ticks,
    Update,
)
from stream_lstm.store import schema
from stream_lstm.store.journal import read_positions
from stream_lstm.store.lock import StoreLock
from stream_lstm.store.reading import entries, history, read_setup
from stream_lstm.store.schema import short_digest
from stream_lstm.store.units import Settle

from ..engines import SMALL_BANK, settings
from .frozen import thaw
from .stores import (
    LEARNING,
    StoredSession,
    cut,
    of,
    predictions,
    query,
    reseal,
    scored,
    scores,
    series,
    shown,
    ticks,
)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "s.db"


def mixed_inputs(n=400):
    """Two streams in turn, with a gap, a restart of the publisher, and an end."""
    a, b = series(n), series(n, seed=5)
    out = []
    for low, high in zip([0, 37, 38, 100, 230], [37, 38, 100, 230, n], strict=True):
        out.append(ticks(a[low:high], low + 1))
        out.append(ticks(b[low:high], low + 1, stream="b", session="s2"))
        if high == 100:
            out.append(Gap("a", 101, 3))
        if high == 230:
            out += [SessionStart("b", "s3"), End("a", "s1")]
    return out


def state(kept):
    """The state of a session but for the tape, whose unused room depends on where blocks end."""
    copies = [
        (s.n, s.next_due, s.flag_until, s.counters, s.ledger, np.asarray(s.carry).tobytes())
        for s in kept.session.streams.values()
    ]
    return repr(copies), short_digest(kept.session)


# ---- what is there ----------------------------------------------------------------------


def test_everything_that_came_and_came_out_is_there(path):
    with StoredSession(path, options=StoreConfig(snapshot_every=1000)) as kept:
        kept.feed(*mixed_inputs())
    assert predictions(path) == shown(kept.events)
    assert scores(path) == scored(kept.events)
    updates = of(Update, kept.events)
    assert query(path, "SELECT stream, n, loss, grad_norm FROM updates ORDER BY stream, n") == [
        (u.stream, u.n, u.loss, u.grad_norm)
        for u in sorted(updates, key=lambda one: (one.stream, one.n))
    ]
    kinds = "SELECT kind, stream, session, seq, count FROM events ORDER BY event"
    assert query(path, kinds) == [
        ("gap", "a", "", 101, 3),
        ("session", "b", "s3", None, 1),
        ("end", "a", "s1", None, 1),
        ("stopped", "", "", None, 1),
    ]
    assert query(
        path, "SELECT stream, session, next_seq, n, ticks FROM streams ORDER BY stream"
    ) == [
        ("a", "s1", 401, 400, 400),
        ("b", "s2", 401, 400, 400),
    ]


def test_what_came_stands_in_its_order_without_a_hole(path):
    with StoredSession(path) as kept:
        kept.feed(*mixed_inputs())
    rows = query(
        path,
        "SELECT pos FROM ticks UNION ALL SELECT pos FROM labels "
        "UNION ALL SELECT pos FROM events WHERE input = 1 ORDER BY pos",
    )
    assert [pos for (pos,) in rows] == list(range(1, len(rows) + 1))


def test_ticks_are_raw_numbers_that_anyone_can_read(path):
    values = series(50)
    with StoredSession(path) as kept:
        kept.feed(*cut(values, [20]))
    rows = query(path, "SELECT t_ns, fields, seq, count, n_before, n_after FROM ticks")
    assert np.array_equal(
        np.concatenate([np.frombuffer(row[1], "<f8") for row in rows]), values[:, 0]
    )
    times = np.concatenate([np.frombuffer(row[0], "<i8") for row in rows])
    assert times.tolist() == [k * 10**9 for k in range(1, 51)]
    assert sum(row[3] for row in rows) == 50
    assert rows[0][2] == 1
    assert rows[-1][5] == 50


def test_predictions_and_scores_are_read_back_as_they_were(path):
    config = settings(bank="small.toml", publish_experts=True, **LEARNING)
    with StoredSession(path, config, members=SMALL_BANK) as kept:
        kept.feed(*cut(series(80), [33]))
    connection = schema.connect_reader(path)
    read = [event for parts in history(connection) for part in parts for event in part.events()]
    connection.close()
    assert of(Prediction, read) == of(Prediction, kept.events)
    assert read[0].experts
    assert len(read) == len(of(Prediction, kept.events)) + len(scores(path))


def test_refusals_are_stored_as_counts(path):
    bad = series(40)
    bad[[5, 6, 7]] = np.nan
    with StoredSession(path) as kept:
        kept.feed(*cut(bad, [5, 6, 7]))
    told = query(path, "SELECT kind, sum(count), min(reason) FROM events WHERE kind LIKE 'ref%'")
    assert told == [("refused tick", 3, "x is nan")]


def test_an_expiry_and_a_reset_are_events(path):
    config = settings(labels="external", on_gap="reset", max_pending=2, **LEARNING)
    with StoredSession(path, config) as kept:
        kept.feed(*cut(series(60), []), Gap("a", 61, 1))
    said = query(path, "SELECT kind, n FROM events WHERE kind IN ('expiry', 'reset')")
    expired = [("expiry", e.n) for e in of(Expiry, kept.events)]
    assert sorted(said) == sorted([*expired, ("reset", 60)])
    assert len(expired) > 2


# ---- going on ---------------------------------------------------------------------------


@pytest.mark.parametrize("clean", [True, False])
@pytest.mark.parametrize("values", [{}, {"mode": "window"}, {"on_gap": "reset"}])
def test_a_restart_changes_no_bit(path, tmp_path, clean, values):
    config = settings(**LEARNING | values)
    inputs = mixed_inputs()
    with StoredSession(tmp_path / "whole.db", config) as whole:
        whole.feed(*inputs)
    for low in range(0, len(inputs), 3):
        kept = StoredSession(path, config)
        kept.feed(*inputs[low : low + 3])
        kept.store.close() if clean else kept.kill()
    assert predictions(path) == predictions(tmp_path / "whole.db")
    assert scores(path) == scores(tmp_path / "whole.db")
    with StoredSession(path, config) as kept:
        assert state(kept) == state(whole)


@given(data=st.data())
@examples(
    max_examples=25,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_a_restart_anywhere_with_labels_from_outside_changes_no_bit(tmp_path, data):
    config = settings(
        labels="external", horizon=1, revisions="last", label_hold=7, label_expiry=40, **LEARNING
    )
    values, inputs = series(150), []
    for low in range(0, 150, 10):
        inputs.append(ticks(values[low : low + 10], low + 1))
        of_n = data.draw(st.integers(12, 150), label="n")
        inputs.append(Label("a", of_n, data.draw(st.integers(0, 1), label="y")))
    stops = sorted(data.draw(st.sets(st.integers(1, len(inputs) - 1), max_size=4), label="stops"))
    folder = tmp_path / os.urandom(8).hex()
    folder.mkdir()
    every = StoreConfig(snapshot_every=data.draw(st.integers(20, 200), label="every"))
    with StoredSession(folder / "whole.db", config, every) as whole:
        whole.feed(*inputs, Settle())
    for low, high in zip([0, *stops], [*stops, len(inputs)], strict=True):
        kept = StoredSession(folder / "cut.db", config, every)
        kept.feed(*inputs[low:high])
        kept.kill()
    with StoredSession(folder / "cut.db", config, every) as last:
        last.feed(Settle())
    assert predictions(folder / "cut.db") == predictions(folder / "whole.db")
    assert scores(folder / "cut.db") == scores(folder / "whole.db")
    assert state(last) == state(whole)


def test_only_what_is_behind_the_last_snapshot_is_replayed(path):
    values = series(200)
    kept = StoredSession(path, options=StoreConfig(snapshot_every=100))
    kept.feed(*cut(values[:130], [100, 120]))
    kept.kill()
    with StoredSession(path) as again:
        assert again.resumed.snapshot == 1
        assert again.resumed.inputs in (1, 2)  # two blocks, or one where a commit took both
        assert again.events == []
        assert {e.n for e in again.resumed.predictions} == {102, 112, 122}
        assert again.store.positions["a"].next_seq == 131
    with StoredSession(path) as third:
        assert third.resumed.inputs == 0


def test_a_bank_comes_back_too(path):
    config = settings(bank="small.toml", **LEARNING)
    values = series(90)
    kept = StoredSession(path, config, members=SMALL_BANK)
    kept.feed(*cut(values[:50], [20]))
    kept.kill()
    with StoredSession(path, config, members=SMALL_BANK) as again:
        again.feed(ticks(values[50:], 51))
        assert again.resumed.predictions
    with pytest.raises(
        ConfigurationError, match=r"bank = filtered, short.*but bank = filtered is"
    ):
        StoredSession(path, config, members=SMALL_BANK[:1])
    with StoredSession(path.with_name("whole.db"), config, members=SMALL_BANK) as whole:
        whole.feed(*cut(values, [50]))
    assert predictions(path) == predictions(path.with_name("whole.db"))


def test_the_newest_three_snapshots_are_kept(path):
    with StoredSession(path, options=StoreConfig(snapshot_every=20)) as kept:
        kept.feed(*cut(series(200), range(20, 200, 20)))
    assert query(path, "SELECT elements FROM snapshots ORDER BY snapshot") == [
        (160,), (180,), (200,)
    ]  # fmt: skip


def test_the_weights_to_start_from_are_in_the_store(path):
    config = settings(sharing="per-stream", **LEARNING)
    with StoredSession(path.with_name("other.db"), settings(seed=9, **LEARNING)) as other:
        weights = {
            name: {"kernel": np.array(layer["kernel"])}
            for name, layer in other.session.weights_for("").items()
        }
    with StoredSession(path, config, weights=weights) as kept:
        kept.feed(*cut(series(60), []))
    # A second stream starts from weights that are named nowhere any more.
    with StoredSession(path, config) as again:
        again.feed(ticks(series(60), stream="b"))
    made = predictions(path)
    assert [row[2] for row in made if row[0] == "b"] == [row[2] for row in made if row[0] == "a"]
    weights["head"]["kernel"] = weights["head"]["kernel"] + 1
    with pytest.raises(ConfigurationError, match=r"weights = SHA-256 \w+, but weights = SHA-256"):
        StoredSession(path, config, weights=weights)


# ---- what is wrong ----------------------------------------------------------------------


def test_a_damaged_snapshot_is_set_aside_and_the_one_before_is_used(path):
    values = series(200)
    kept = StoredSession(path)
    kept.feed(*cut(values, [60, 120, 180]))
    kept.kill()
    damage(path, 3)
    with StoredSession(path) as again:
        assert again.resumed.snapshot == 2
    assert query(path, "SELECT set_aside FROM snapshots WHERE snapshot = 3") == [
        ("snapshot 3 is damaged: its checksum does not match",)
    ]
    assert query(path, "SELECT reason FROM events WHERE kind = 'snapshot set aside'") == [
        ("snapshot 3: snapshot 3 is damaged: its checksum does not match",)
    ]


def test_without_a_good_snapshot_the_whole_journal_is_replayed(path):
    kept = StoredSession(path)
    kept.feed(*cut(series(200), [60, 120, 180]))
    kept.kill()
    for number in (1, 2, 3):
        damage(path, number)
    with StoredSession(path) as again:
        assert again.resumed.snapshot is None
        assert len(again.resumed.set_aside) == 3
        assert len(again.resumed.predictions) == len(predictions(path)) == 19


def damage(path, number):
    with sqlite3.connect(path) as connection:
        connection.execute(
            "UPDATE snapshot_pieces SET data = zeroblob(length(data)) WHERE snapshot = ?",
            (number,),
        )
    connection.close()


def test_a_flipped_bit_anywhere_in_a_snapshot_is_seen(path):
    kept = StoredSession(path)
    kept.feed(*cut(series(130), [60, 120]))
    kept.kill()
    [(piece,)] = query(path, "SELECT data FROM snapshot_pieces WHERE snapshot = 2")
    state = bytearray(piece)
    with StoredSession(path.with_name("fresh.db")) as fresh:
        for k in range(len(state)):
            state[k] ^= 1 << k % 8
            with pytest.raises(StreamLSTMError, match="snapshot"):
                snapshot.restore(fresh.session, bytes(state))
            state[k] ^= 1 << k % 8
        assert not fresh.session.streams
    for k in (0, 5, 6, 40, len(state) // 2, len(state) - 1):
        state[k] ^= 1
        copy = path.with_name(f"{k}.db")
        shutil.copy(path, copy)
        with sqlite3.connect(copy) as connection:
            connection.execute("UPDATE snapshot_pieces SET data = ? WHERE snapshot = 2", (state,))
        connection.close()
        state[k] ^= 1
        with StoredSession(copy) as again:
            assert again.resumed.snapshot == 1
        assert predictions(copy) == predictions(path)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"hidden": 5}, "hidden = 4, but hidden = 5 is set"),
        ({"stride": 7}, "stride = 10, but stride = 7"),
        ({"learn": False}, "learn = True, but learn = False"),
        ({"features": ["diff(x)"]}, r"features = \('x',\), but features = \('diff\(x\)',\)"),
    ],
)
def test_another_configuration_is_refused_with_both_values(path, change, named):
    with StoredSession(path):
        pass
    with pytest.raises(ConfigurationError, match=named):
        StoredSession(path, settings(**LEARNING | change))
    with StoredSession(path, settings(**LEARNING, connect=["tcp://127.0.0.1:1"])):
        pass  # where data come from is free


def test_a_newer_schema_is_refused_with_both_versions(path):
    with StoredSession(path):
        pass
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 7")
    connection.close()
    told = f"version 7, and this program supports up to {schema.VERSION}:"
    for opening in (StoredSession, schema.connect_reader):
        with pytest.raises(ConfigurationError, match=told):
            opening(path)


def test_a_file_of_something_else_is_refused_and_left_alone(path):
    path.write_text("what a user wrote, and needs\n" * 1000)
    with pytest.raises(StoreError, match="damaged or not a store"):
        StoredSession(path)
    assert path.read_text().startswith("what a user wrote")
    path.unlink()
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE mine (x)")
    connection.close()
    with pytest.raises(StoreError, match="another program"):
        StoredSession(path)


def test_a_store_that_is_not_there_is_missing_input(path):
    with pytest.raises(InputMissingError):
        schema.connect_reader(path)


def test_ticks_that_were_changed_are_not_gone_on_from(path):
    kept = StoredSession(path, options=StoreConfig())
    kept.feed(*cut(series(50), []))
    kept.kill()
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE ticks SET fields = zeroblob(length(fields))")
    connection.close()
    with pytest.raises(
        StoreError, match=r"inputs 1 to 1 \(transaction 2\) do not match their checksum"
    ):
        StoredSession(path)


def test_a_prediction_that_was_changed_is_not_gone_on_from(path):
    kept = StoredSession(path, options=StoreConfig())
    kept.feed(*cut(series(50), []))
    kept.kill()
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE predictions SET p = 0.25 WHERE n = 32")
    connection.close()
    with pytest.raises(StoreError, match="is damaged: inputs 1 to 1"):
        StoredSession(path)
    reseal(path)  # as if another machine had made it
    with pytest.raises(StreamLSTMError, match=r"another prediction 32 of 'a' .* stored 0\.25"):
        StoredSession(path)


def test_a_row_that_is_missing_is_seen(path):
    kept = StoredSession(path, options=StoreConfig())
    kept.feed(*mixed_inputs())
    kept.kill()
    with sqlite3.connect(path) as connection:
        connection.execute("DELETE FROM events WHERE kind = 'gap'")
    connection.close()
    with pytest.raises(StoreError, match="is damaged: inputs"):
        StoredSession(path)
    reseal(path)
    with pytest.raises(StoreError, match="nothing at position"):
        StoredSession(path)


# ---- the lock ---------------------------------------------------------------------------


def test_a_second_process_is_refused_and_told_who_holds_the_store(path):
    with StoredSession(path):
        program = (
            "import sys; from pathlib import Path; from stream_lstm.store.lock import StoreLock\n"
            "from stream_lstm.errors import LockedError\n"
            "try: StoreLock(Path(sys.argv[1]))\n"
            "except LockedError as error: print(error); sys.exit(error.exit_code)\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=False
        )
        assert done.returncode == 73
        assert f"process {os.getpid()} on {os.uname().nodename} since 20" in done.stdout
    done = subprocess.run([sys.executable, "-c", program, str(path)], check=False)
    assert done.returncode == 0


def test_the_lock_of_a_killed_process_is_free(path):
    program = (
        "import sys; from pathlib import Path; from stream_lstm.store.lock import StoreLock\n"
        "lock = StoreLock(Path(sys.argv[1])); print('held', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", program, str(path)], stdin=-1, stdout=-1, text=True
    )
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(LockedError, match=f"process {holder.pid} "):
        StoredSession(path)
    holder.kill()
    holder.communicate()
    with StoredSession(path):
        pass


@pytest.mark.parametrize("kind", ["symbolic link", "relative path", "folder", "mount"])
def test_a_store_in_use_is_refused_under_every_other_name(path, kind, monkeypatch):
    other = path.with_name("other.db")
    match kind:
        case "symbolic link":
            other.symlink_to(path.name)
        case "relative path":
            monkeypatch.chdir(path.parent)
            other = Path(path.name)
        case "folder":
            path.with_name("folder").symlink_to(path.parent)
            other = path.with_name("folder") / path.name
        case "mount":  # the same file, with no FILE.lock beside it
            other = path
    with StoredSession(path) as kept:
        kept.feed(ticks(series(30), 1))
        if kind == "mount":
            path.with_name("s.db.lock").unlink()
        program = (
            "import sys; from pathlib import Path; from stream_lstm.store.lock import StoreLock\n"
            "from stream_lstm.errors import LockedError\n"
            "try: StoreLock(Path(sys.argv[1]))\n"
            "except LockedError as error: sys.exit(error.exit_code)\n"
        )
        done = subprocess.run([sys.executable, "-c", program, str(other)], check=False)
        assert done.returncode == 73
        kept.feed(ticks(series(30), 31))
    assert predictions(path) == shown(kept.events)


def test_a_store_with_two_hard_links_is_refused_and_left_alone(path):
    with StoredSession(path) as kept:
        kept.feed(ticks(series(30), 1))
    before = path.read_bytes()
    other = path.with_name("other.db")
    other.hardlink_to(path)
    for name in (path, other):
        with pytest.raises(ConfigurationError, match="has 2 names") as raised:
            StoredSession(name)
        assert raised.value.exit_code == 78
    assert path.read_bytes() == before
    other.unlink()
    with StoredSession(path):
        pass


def test_what_is_no_regular_file_is_refused(path):
    os.mkfifo(path)
    with pytest.raises(OutputError, match="not a regular file"):
        StoreLock(path)
    path.unlink()
    path.symlink_to(path)
    with pytest.raises(OutputError, match="cannot lock"):
        StoreLock(path)


# ---- older schemas ----------------------------------------------------------------------


def test_a_store_of_an_older_order_of_work_is_refused_with_the_way_out(path):
    thaw(path)
    with pytest.raises(ConfigurationError, match=f"schema version 1.*export {path}") as raised:
        StoredSession(path)
    assert raised.value.exit_code == 78
    with pytest.raises(ConfigurationError, match="schema version 1"):
        schema.connect_reader(path, oldest=schema.VERSION)


def test_why_an_update_was_refused_is_stored(path):
    config = settings(**LEARNING, max_update=1e-9)
    with StoredSession(path, config) as kept:
        kept.feed(*cut(series(60), []))
    refused = query(path, "SELECT DISTINCT accepted, reason FROM updates")
    assert refused == [(0, "update-too-large")]


class OnPurposeError(Exception):
    pass


def fail_within_an_input(kept):
    kept.feed(*cut(series(30), []))

    def emit(event):
        raise OnPurposeError

    kept.session.emit = emit
    kept.feed(ticks(series(30), 31))


def test_an_error_within_an_input_leaves_no_snapshot_of_half_of_it(path):
    kept = StoredSession(path)
    with pytest.raises(OnPurposeError), kept:
        fail_within_an_input(kept)
    assert query(path, "SELECT ticks FROM streams") == [(30,)]
    assert query(path, "SELECT count(*) FROM snapshots") == [(0,)]
    with StoredSession(path) as again:
        assert again.session.streams["a"].n == 30


def test_a_store_says_who_wrote_it_and_with_what(path):
    with StoredSession(path):
        pass
    with StoredSession(path):
        pass
    runs = query(path, "SELECT run, command, pid, runtime, configuration FROM runs")
    assert [row[:3] for row in runs] == [(1, "test", os.getpid()), (2, "test", os.getpid())]
    assert '"jax":' in runs[0][3]
    assert '"features":["x"]' in runs[0][4]


def test_the_options_reach_sqlite(path):
    connection = schema.connect(path, sync="full")
    assert connection.execute("PRAGMA synchronous").fetchone() == (2,)
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert connection.execute("PRAGMA application_id").fetchone() == (schema.APPLICATION_ID,)
    connection.close()


def test_the_frozen_store_of_version_1_is_read(path):
    thaw(path)
    connection = schema.connect_reader(path)
    setup = read_setup(connection, str(path))
    stored = [one for parts in history(connection) for part in parts for one in part.events()]
    came = list(entries(connection))
    positions = read_positions(connection)
    connection.close()
    assert setup.columns == ("x",)
    assert setup.config.stream.window == 12
    assert positions["a"].next_seq == 63
    assert [type(entry.event) for entry in came] == [Ticks, Gap, Ticks]
    assert all(entry.intact for entry in came)
    assert [made.n for made in of(Prediction, stored)] == [12, 22, 32, 42, 52]
    assert len(of(Score, stored)) == 5
