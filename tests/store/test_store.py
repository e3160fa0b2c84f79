"""A store has every input and output, and brings a session back to the same bits."""

from __future__ import annotations

import contextlib
import os
import shutil
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
from stream_lstm.store.reading import entries, history, read_setup
from stream_lstm.store.schema import short_digest
from stream_lstm.store.units import Settle
from stream_lstm.store.writer import StoreLock

from ..engines import SMALL_BANK, settings
from .stores import (
    LEARNING,
    StoredSession,
    change,
    cut,
    of,
    predictions,
    query,
    reseal,
    scored,
    scores,
    series,
    shown,
    thaw,
    ticks,
    value,
)


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


def state(stored):
    """The state of a session but for the tape, whose unused room depends on where blocks end."""
    copies = [
        (s.n, s.next_due, s.flag_until, s.counters, s.ledger, np.asarray(s.carry).tobytes())
        for s in stored.session.streams.values()
    ]
    return repr(copies), short_digest(stored.session)


def killed(path, *inputs, options=None, config=None):
    """A store whose process was killed after some inputs."""
    options = {} if options is None else {"options": options}
    return StoredSession(path, config, **options).feed(*inputs).kill()


# ---- the rows ---------------------------------------------------------------------------


def test_every_input_and_output_is_there_in_its_order(path):
    with StoredSession(path, options=StoreConfig(snapshot_every=1000)) as stored:
        stored.feed(*mixed_inputs())
    assert predictions(path) == shown(stored.events)
    assert scores(path) == scored(stored.events)
    assert query(path, "SELECT stream, n, loss, grad_norm FROM updates ORDER BY stream, n") == (
        sorted((u.stream, u.n, u.loss, u.grad_norm) for u in of(Update, stored.events))
    )
    assert query(path, "SELECT kind, stream, session, seq, count FROM events ORDER BY event") == [
        ("gap", "a", "", 101, 3),
        ("session", "b", "s3", None, 1),
        ("end", "a", "s1", None, 1),
        ("stopped", "", "", None, 1),
    ]
    positions = "SELECT stream, session, next_seq, n, ticks FROM streams ORDER BY stream"
    assert query(path, positions) == [("a", "s1", 401, 400, 400), ("b", "s2", 401, 400, 400)]
    rows = query(
        path,
        "SELECT pos FROM ticks UNION ALL SELECT pos FROM labels "
        "UNION ALL SELECT pos FROM events WHERE input = 1 ORDER BY pos",
    )
    assert [pos for (pos,) in rows] == list(range(1, len(rows) + 1))


def test_ticks_are_raw_numbers_that_anyone_can_read(path):
    values = series(50)
    with StoredSession(path) as stored:
        stored.feed(*cut(values, [20]))
    rows = query(path, "SELECT t_ns, fields, seq, count, n_before, n_after FROM ticks")
    t_ns, fields, seq, counts, _, last = zip(*rows, strict=True)
    assert np.frombuffer(b"".join(fields), "<f8").tolist() == values[:, 0].tolist()
    assert np.frombuffer(b"".join(t_ns), "<i8").tolist() == [k * 10**9 for k in range(1, 51)]
    assert (seq[0], sum(counts), last[-1]) == (1, 50, 50)


@pytest.mark.slow
def test_predictions_and_scores_of_a_bank_are_read_back_and_it_resumes(path):
    config = settings(bank="small.toml", publish_experts=True, **LEARNING)
    values = series(90)
    first = StoredSession(path, config, members=SMALL_BANK).feed(*cut(values[:50], [20])).kill()
    with contextlib.closing(schema.connect_reader(path)) as connection:
        read = [
            event for parts in history(connection) for part in parts for event in part.events()
        ]
    assert of(Prediction, read) == of(Prediction, first.events)
    assert read[0].experts
    assert len(read) == len(of(Prediction, first.events)) + len(scores(path))
    with StoredSession(path, config, members=SMALL_BANK) as again:
        again.feed(ticks(values[50:], 51))
        assert again.resumed.predictions
    with pytest.raises(
        ConfigurationError, match=r"bank = filtered, short.*but bank = filtered is"
    ):
        StoredSession(path, config, members=SMALL_BANK[:1])
    whole_path = path.with_name("whole.db")
    with StoredSession(whole_path, config, members=SMALL_BANK) as whole:
        whole.feed(*cut(values, [50]))
    assert predictions(path) == predictions(whole_path)


def test_refusals_are_stored_as_counts(path):
    bad = series(40)
    bad[[5, 6, 7]] = np.nan
    with StoredSession(path) as stored:
        stored.feed(*cut(bad, [5, 6, 7]))
    rows = query(path, "SELECT kind, sum(count), min(reason) FROM events WHERE kind LIKE 'ref%'")
    assert rows == [("refused tick", 3, "x is nan")]


def test_an_expiry_and_a_reset_are_events(path):
    config = settings(labels="external", on_gap="reset", max_pending=2, **LEARNING)
    with StoredSession(path, config) as stored:
        stored.feed(*cut(series(60)), Gap("a", 61, 1))
    rows = query(path, "SELECT kind, n FROM events WHERE kind IN ('expiry', 'reset')")
    expired = [("expiry", e.n) for e in of(Expiry, stored.events)]
    assert sorted(rows) == sorted([*expired, ("reset", 60)])
    assert len(expired) > 2


def test_the_reason_of_a_refused_update_is_stored(path):
    with StoredSession(path, settings(**LEARNING, max_update=1e-9)) as stored:
        stored.feed(*cut(series(60)))
    reasons = query(path, "SELECT DISTINCT accepted, reason FROM updates")
    assert reasons == [(0, "update-too-large")]


def test_the_newest_three_snapshots_stay(path):
    with StoredSession(path, options=StoreConfig(snapshot_every=20)) as stored:
        stored.feed(*cut(series(200), range(20, 200, 20)))
    elements = query(path, "SELECT elements FROM snapshots ORDER BY snapshot")
    assert elements == [(160,), (180,), (200,)]


def test_each_run_names_its_process_versions_and_configuration(path):
    for _ in range(2):
        with StoredSession(path):
            pass
    runs = query(path, "SELECT run, command, pid, runtime, configuration FROM runs")
    assert [row[:3] for row in runs] == [(1, "test", os.getpid()), (2, "test", os.getpid())]
    assert '"jax":' in runs[0][3]
    assert '"features":["x"]' in runs[0][4]


def test_the_options_reach_sqlite(path):
    with contextlib.closing(schema.connect(path, sync="full")) as connection:
        for name, cell in (
            ("synchronous", 2), ("journal_mode", "wal"), ("application_id", schema.APPLICATION_ID)
        ):  # fmt: skip
            assert connection.execute(f"PRAGMA {name}").fetchone() == (cell,)


# ---- resuming ---------------------------------------------------------------------------


@pytest.mark.parametrize("clean", [True, False])
@pytest.mark.parametrize("values", [{}, {"mode": "window"}, {"on_gap": "reset"}])
def test_a_restart_changes_no_bit(path, tmp_path, clean, values):
    config, inputs = settings(**LEARNING | values), mixed_inputs()
    with StoredSession(tmp_path / "whole.db", config) as whole:
        whole.feed(*inputs)
    for low in range(0, len(inputs), 3):
        stored = StoredSession(path, config).feed(*inputs[low : low + 3])
        stored.store.close() if clean else stored.kill()
    assert predictions(path) == predictions(tmp_path / "whole.db")
    assert scores(path) == scores(tmp_path / "whole.db")
    with StoredSession(path, config) as stored:
        assert state(stored) == state(whole)


@pytest.mark.slow
@given(data=st.data())
@examples(
    max_examples=15,
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
        killed(folder / "cut.db", *inputs[low:high], options=every, config=config)
    with StoredSession(folder / "cut.db", config, every) as last:
        last.feed(Settle())
    assert predictions(folder / "cut.db") == predictions(folder / "whole.db")
    assert scores(folder / "cut.db") == scores(folder / "whole.db")
    assert state(last) == state(whole)


def test_only_inputs_behind_the_last_snapshot_are_replayed(path):
    killed(path, *cut(series(200)[:130], [100, 120]), options=StoreConfig(snapshot_every=100))
    with StoredSession(path) as again:
        assert again.resumed.snapshot == 1
        assert again.resumed.inputs in (1, 2)  # two blocks, or one where a commit took both
        assert again.events == []
        assert {e.n for e in again.resumed.predictions} == {102, 112, 122}
        assert again.store.positions["a"].next_seq == 131
    with StoredSession(path) as third:
        assert third.resumed.inputs == 0


def test_the_initial_weights_are_in_the_store(path):
    config = settings(sharing="per-stream", **LEARNING)
    with StoredSession(path.with_name("other.db"), settings(seed=9, **LEARNING)) as other:
        weights = {
            name: {"kernel": np.array(layer["kernel"])}
            for name, layer in other.session.weights_for("").items()
        }
    with StoredSession(path, config, weights=weights) as stored:
        stored.feed(*cut(series(60)))
    # A second stream starts from weights that no argument names.
    with StoredSession(path, config) as again:
        again.feed(ticks(series(60), stream="b"))
    rows = predictions(path)
    assert [row[2] for row in rows if row[0] == "b"] == [row[2] for row in rows if row[0] == "a"]
    weights["head"]["kernel"] = weights["head"]["kernel"] + 1
    with pytest.raises(
        ConfigurationError, match=r"weights = SHA-256 \w+, but weights = SHA-256 \w+ is set"
    ):
        StoredSession(path, config, weights=weights)


class OnPurposeError(Exception):
    pass


def test_an_error_within_an_input_leaves_no_snapshot_of_half_of_it(path):
    stored = StoredSession(path).feed(*cut(series(30)))

    def emit(event):
        raise OnPurposeError

    stored.session.emit = emit
    with pytest.raises(OnPurposeError), stored:
        stored.feed(ticks(series(30), 31))
    assert value(path, "ticks FROM streams") == 30
    assert value(path, "count(*) FROM snapshots") == 0
    with StoredSession(path) as again:
        assert again.session.streams["a"].n == 30


# ---- damage -----------------------------------------------------------------------------


@pytest.fixture
def three_snapshots(path):
    killed(path, *cut(series(200), [60, 120, 180]))
    return path


def damage_snapshots(path, condition="1"):
    sql = f"UPDATE snapshot_pieces SET data = zeroblob(length(data)) WHERE {condition}"
    change(path, sql)


def test_a_damaged_snapshot_is_set_aside_and_the_one_before_is_used(three_snapshots):
    damage_snapshots(three_snapshots, "snapshot = 3")
    with StoredSession(three_snapshots) as again:
        assert again.resumed.snapshot == 2
    why = "snapshot 3 is damaged: its checksum does not match"
    assert value(three_snapshots, "set_aside FROM snapshots WHERE snapshot = 3") == why
    reason = value(three_snapshots, "reason FROM events WHERE kind = 'snapshot set aside'")
    assert reason == f"snapshot 3: {why}"


def test_without_a_good_snapshot_the_whole_journal_is_replayed(three_snapshots):
    damage_snapshots(three_snapshots)
    with StoredSession(three_snapshots) as again:
        assert again.resumed.snapshot is None
        assert len(again.resumed.set_aside) == 3
        assert len(again.resumed.predictions) == len(predictions(three_snapshots)) == 19


def test_a_flipped_bit_anywhere_in_a_snapshot_is_noticed(path):
    killed(path, *cut(series(130), [60, 120]))
    data = bytearray(value(path, "data FROM snapshot_pieces WHERE snapshot = 2"))
    with StoredSession(path.with_name("fresh.db")) as fresh:
        for k in range(len(data)):
            data[k] ^= 1 << k % 8
            with pytest.raises(StreamLSTMError, match="snapshot"):
                snapshot.restore(fresh.session, bytes(data))
            data[k] ^= 1 << k % 8
        assert not fresh.session.streams
    for k in (0, 6, len(data) // 2, len(data) - 1):
        data[k] ^= 1
        copy = shutil.copy(path, path.with_name(f"{k}.db"))
        change(copy, "UPDATE snapshot_pieces SET data = ? WHERE snapshot = 2", data)
        data[k] ^= 1
        with StoredSession(copy) as again:
            assert again.resumed.snapshot == 1
        assert predictions(copy) == predictions(path)


ADDED = """
INSERT INTO predictions
SELECT stream, 33, t_ns, p, session, gaps_visible, after_gap, experts, pos FROM predictions
WHERE n = 32 AND stream = 'a'
"""


@pytest.mark.parametrize(
    ("sql", "found", "resealed"),
    [
        (
            "UPDATE ticks SET fields = zeroblob(length(fields))",
            r"inputs 1 to \d+ \(transaction 2\) do not match their checksum",
            "the ticks at position 1 do not match their checksum",
        ),
        (
            "UPDATE predictions SET p = 0.25 WHERE n = 32",
            r"inputs 1 to \d+ ",
            r"another prediction 32 of 'a' .* stored 0\.25",
        ),
        ("DELETE FROM predictions WHERE n = 32", "inputs ", "prediction 32 .* stored none"),
        (
            ADDED,
            "inputs ",
            r"leads to \d+ predictions, but \d+ are stored",
        ),
        ("DELETE FROM events WHERE kind = 'gap'", "inputs ", "nothing at position"),
    ],
)
def test_no_session_resumes_from_altered_rows(path, sql, found, resealed):
    killed(path, *mixed_inputs(), options=StoreConfig())
    change(path, sql)
    with pytest.raises(StoreError, match=f"is damaged: {found}"):
        StoredSession(path)
    reseal(path)  # as if another program had written it
    with pytest.raises(StreamLSTMError, match=resealed):
        StoredSession(path)


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"hidden": 5}, "hidden = 4, but hidden = 5 is set"),
        ({"stride": 7}, "stride = 10, but stride = 7"),
        ({"learn": False}, "learn = True, but learn = False"),
        ({"features": ["diff(x)"]}, r"features = \('x',\), but features = \('diff\(x\)',\)"),
    ],
)
def test_another_configuration_is_refused_with_both_values(path, changed, named):
    with StoredSession(path):
        pass
    with pytest.raises(ConfigurationError, match=named):
        StoredSession(path, settings(**LEARNING | changed))
    with StoredSession(path, settings(**LEARNING, connect=["tcp://127.0.0.1:1"])):
        pass  # the source of data is free


def test_a_newer_schema_is_refused_with_both_versions(path):
    with StoredSession(path):
        pass
    change(path, "PRAGMA user_version = 7")
    for opening in (StoredSession, schema.connect_reader):
        with pytest.raises(ConfigurationError, match=f"version 7, .*up to {schema.VERSION}:"):
            opening(path)


def test_another_file_is_refused_and_left_alone(path):
    with pytest.raises(InputMissingError):
        schema.connect_reader(path)
    path.write_text("what a user wrote, and needs\n" * 1000)
    with pytest.raises(StoreError, match="damaged or not a store"):
        StoredSession(path)
    assert path.read_text().startswith("what a user wrote")
    path.unlink()
    change(path, "CREATE TABLE mine (x)")
    with pytest.raises(StoreError, match="another program"):
        StoredSession(path)


def test_a_store_of_version_1_is_read_and_not_resumed(path):
    thaw(path)
    with pytest.raises(ConfigurationError, match=f"schema version 1.*export {path}") as raised:
        StoredSession(path)
    assert raised.value.exit_code == 78
    with pytest.raises(ConfigurationError, match="schema version 1"):
        schema.connect_reader(path, oldest=schema.VERSION)
    with contextlib.closing(schema.connect_reader(path)) as connection:
        setup = read_setup(connection, str(path))
        outputs = [one for parts in history(connection) for part in parts for one in part.events()]
        inputs = list(entries(connection))
        positions = read_positions(connection)
    assert setup.columns == ("x",)
    assert setup.config.stream.window == 12
    assert positions["a"].next_seq == 63
    assert [type(entry.event) for entry in inputs] == [Ticks, Gap, Ticks]
    assert all(entry.intact for entry in inputs)
    assert [one.n for one in of(Prediction, outputs)] == [12, 22, 32, 42, 52]
    assert len(of(Score, outputs)) == 5


# ---- the lock ---------------------------------------------------------------------------

LOCK = """
import sys
from pathlib import Path
from stream_lstm.errors import LockedError
from stream_lstm.store.writer import StoreLock
try:
    lock = StoreLock(Path(sys.argv[1]))
except LockedError as error:
    print(error)
    sys.exit(error.exit_code)
print("locked", flush=True)
sys.stdin.read()
"""


def locked_by_another(path):
    """The exit code and the output of another process that takes the lock."""
    line = [sys.executable, "-c", LOCK, str(path)]
    done = subprocess.run(
        line, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["path", "symbolic link", "relative path", "folder", "mount"])
def test_a_store_in_use_is_refused_under_every_name(path, kind, monkeypatch):
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
        case _:
            other = path
    with StoredSession(path) as stored:
        stored.feed(ticks(series(30), 1))
        if kind == "mount":  # the same file, with no FILE.lock beside it
            path.with_name("s.db.lock").unlink()
        code, text = locked_by_another(other)
        assert code == 73
        if kind == "path":
            assert f"process {os.getpid()} on {os.uname().nodename} since 20" in text
        stored.feed(ticks(series(30), 31))
    assert predictions(path) == shown(stored.events)
    if kind == "path":
        assert locked_by_another(path)[0] == 0


def test_the_lock_of_a_killed_process_is_free(path):
    holder = subprocess.Popen(
        [sys.executable, "-c", LOCK, str(path)], stdin=-1, stdout=-1, text=True
    )
    assert holder.stdout.readline() == "locked\n"
    with pytest.raises(LockedError, match=f"process {holder.pid} "):
        StoredSession(path)
    holder.kill()
    holder.communicate()
    with StoredSession(path):
        pass


def test_a_store_with_two_hard_links_is_refused_and_left_alone(path):
    with StoredSession(path) as stored:
        stored.feed(ticks(series(30), 1))
    before, other = path.read_bytes(), path.with_name("other.db")
    other.hardlink_to(path)
    for name in (path, other):
        with pytest.raises(ConfigurationError, match="has 2 names") as raised:
            StoredSession(name)
        assert raised.value.exit_code == 78
    assert path.read_bytes() == before
    other.unlink()
    with StoredSession(path):
        pass


def test_a_file_that_is_not_regular_is_refused(path):
    os.mkfifo(path)
    with pytest.raises(OutputError, match="not a regular file"):
        StoreLock(path)
    path.unlink()
    path.symlink_to(path)
    with pytest.raises(OutputError, match="cannot lock"):
        StoreLock(path)
