"""`--store`, `verify`, `diff`, `inspect` and `export STORE` from the command line."""

from __future__ import annotations

import itertools
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time

import msgspec
import numpy as np
import pyarrow.parquet
import pytest

from stream_lstm.store.lock import StoreLock
from stream_lstm.store.schema import connect_reader
from tests.store.stores import reseal

SMALL = ("--hidden", 4, "--window", 20, "--bptt", 10, "--feature", "x")
KILLS = 3
PATIENCE_S = 500.0


@pytest.fixture
def walk(tmp_path):
    return write(tmp_path / "walk.csv", 900)


def write(path, rows, seed=1):
    values = np.random.default_rng(seed).normal(size=rows).tolist()
    up = np.random.default_rng(seed + 1).integers(0, 2, rows)
    lines = [f"{k},{values[k]!r},{up[k]}" for k in range(rows)]
    path.write_text("\n".join(["t,x,up", *lines]) + "\n")
    return path


def beginning(path, rows):
    """A copy of a file's first rows under the same name, in a folder of its own."""
    folder = path.parent / f"first{rows}"
    folder.mkdir()
    copy = folder / path.name
    copy.write_text("".join(path.read_text().splitlines(keepends=True)[: rows + 1]))
    return copy


def figures(outcome):
    """What a summary says of the series: nothing of this machine or of this run."""
    assert outcome.code == 0, outcome.err
    told = outcome.json()
    apart = ("wall_s", "compile_s", "elements_per_s", "peak_rss_bytes", "store")
    return {key: value for key, value in told.items() if key not in apart}


def count(store, sql="SELECT count(*) FROM predictions"):
    connection = connect_reader(store)
    try:
        return connection.execute(sql).fetchone()[0]
    finally:
        connection.close()


LABELS = ("--label-column", "up", "--label-delay")


@pytest.mark.parametrize(
    "more",
    [
        ("--learn",),
        ("--learn", *LABELS, "3"),
        (*LABELS, "0", "--horizon", "0", "--revisions", "last", "--label-hold", "30"),
        (*LABELS, "12s", "--time", "t", "--time-unit", "s", "--label-expiry", "40"),
    ],
    ids=["series", "delay", "own", "time"],
)
def test_a_file_that_grows_is_gone_on_with_to_the_results_of_the_whole(cli, walk, tmp_path, more):
    line = (*SMALL, *more, "--json")
    whole_out, out = tmp_path / "whole.csv", tmp_path / "out.csv"
    whole = figures(cli("replay", walk, *line, "--out", whole_out))
    store = tmp_path / "s.db"
    for rows in (137, 138, 500):
        part = beginning(walk, rows)
        killed_at_its_end(cli, part, *line, "--store", store)
    last = figures(cli("replay", walk, *line, "--store", store, "--out", out))
    assert last == whole
    assert sorted(out.read_text().splitlines()) == sorted(whole_out.read_text().splitlines())
    again = figures(cli("replay", walk, *line, "--store", store))
    assert again == whole


class OnPurposeError(Exception):
    pass


def settle_nothing(session):
    raise OnPurposeError


def killed_at_its_end(cli, *line):
    """Run a replay that ends before it would let the last labels count."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("stream_lstm.core.session.Session.settle", settle_nothing)
        with pytest.raises(OnPurposeError):
            cli("replay", *line)


def test_another_file_is_refused(cli, walk, tmp_path):
    store = tmp_path / "s.db"
    assert cli("replay", walk, *SMALL, "--store", store).code == 0
    shorter = cli("replay", beginning(walk, 200), *SMALL, "--store", store)
    assert shorter.code == 65
    assert "has 200 ticks and the store 900" in shorter.err
    folder = tmp_path / "other"
    folder.mkdir()
    other = cli("replay", write(folder / "walk.csv", 900, seed=4), *SMALL, "--store", store)
    assert other.code == 65
    assert "does not begin with the 900 ticks" in other.err
    timed = cli("replay", walk, *SMALL, "--time", "t", "--store", store)
    assert timed.code == 65
    assert "their times are others: name the column of times as before" in timed.err
    second = cli("replay", folder / "walk.csv", *SMALL, "--store", store, "--stream", "second")
    assert second.code == 0
    assert "holds walk: second is added to it and goes on with its weights" in second.err
    assert count(store, "SELECT count(*) FROM streams") == 2


def test_other_settings_a_store_in_use_and_a_bad_place_are_refused_before_it_compiles(
    cli, walk, tmp_path, monkeypatch
):
    store = tmp_path / "s.db"
    assert cli("replay", walk, *SMALL, "--limit", 50, "--store", store).code == 0
    monkeypatch.setattr("stream_lstm.core.session.Session", None)
    other = cli("replay", walk, *SMALL, "--store", store, "--horizon", 2)
    assert other.code == 78
    assert "was begun with horizon = 1, and now it is 2" in other.err
    lock = StoreLock(store)
    busy = cli("replay", walk, *SMALL, "--store", store)
    lock.close()
    assert busy.code == 73
    assert f"in use by process {os.getpid()} on " in busy.err
    nowhere = cli("replay", walk, *SMALL, "--store", tmp_path / "no" / "s.db")
    assert nowhere.code == 74
    assert "there is no directory" in nowhere.err
    assert cli("replay", walk, *SMALL, "--store", tmp_path).code == 74
    assert cli("replay", walk, *SMALL, "--store", walk).code == 65
    assert cli("replay", walk, *SMALL, "--store", store, "--state-check").code == 2
    alone = cli("run", "--connect", "tcp://127.0.0.1:1", "--feature", "x", "--republish")
    assert alone.code == 2


def test_a_bad_row_ends_a_replay_and_once_it_is_mended_it_goes_on(cli, walk, tmp_path):
    good = walk.read_text().splitlines(keepends=True)
    store = tmp_path / "s.db"
    walk.write_text("".join([*good[:400], "400,oops,1\n", *good[401:]]))
    assert cli("replay", walk, *SMALL, "--learn", "--store", store).code == 65
    walk.write_text("".join(good))
    done = cli("replay", walk, *SMALL, "--learn", "--store", store, "--json")
    assert figures(done) == figures(cli("replay", walk, *SMALL, "--learn", "--json"))


def test_the_speed_of_a_resumed_replay_is_that_of_what_is_new(cli, walk, tmp_path):
    store = tmp_path / "s.db"
    assert cli("replay", walk, *SMALL, "--store", store, "--limit", 400).code == 0
    rest = cli("replay", walk, *SMALL, "--store", store, "--json").json()
    assert (rest["elements"], rest["store"]["held_elements"]) == (900, 400)
    assert rest["elements_per_s"] * rest["wall_s"] == pytest.approx(500)
    again = cli("replay", walk, *SMALL, "--store", store)
    assert "the store held 900 elements of them, 0 are new" in again.out
    assert "elements/s" not in again.out


def test_the_commands_on_a_store(cli, walk, tmp_path):
    one, two = tmp_path / "one.db", tmp_path / "two.db"
    assert cli("replay", walk, *SMALL, "--store", one).code == 0
    assert cli("replay", walk, *SMALL, "--store", two, "--limit", 500).code == 0

    good = cli("verify", one, "--json")
    assert (good.code, good.json()["checked"], good.json()["difference"]) == (0, 89, None)
    assert "the same 89 predictions to the last bit" in cli("verify", one).out

    same = cli("diff", one, one, "--json")
    assert (same.code, same.json()["alike"], same.json()["difference"]) == (0, 89, None)
    differ = cli("diff", one, two)
    assert differ.code == 65
    assert "89 and 49 predictions, of which 49 are the same" in differ.out
    assert "prediction 510 of 'walk'" in differ.err

    shown = cli("inspect", one)
    assert shown.code == 0
    assert "stream walk: 900 ticks, 900 elements" in shown.out
    assert cli("inspect", one, "--json").json()["rows"]["scores"] == 88

    tables = cli("export", one, "--out", tmp_path / "tables", "--json")
    assert tables.json()["rows"]["ticks"] == 900
    assert pyarrow.parquet.read_table(tmp_path / "tables" / "ticks.parquet").num_rows == 900
    assert cli("export", one, "--out", tmp_path / "tables").code == 2
    assert cli("export", one, "--out", tmp_path / "tables", "--overwrite").code == 0
    assert cli("export", one, "--out", walk).code == 2

    with sqlite3.connect(one) as connection:
        connection.execute("UPDATE predictions SET p = 0.25 WHERE n = 300")
    connection.close()
    bad = cli("verify", one, "--json")
    assert bad.code == 65
    assert "are not what was written" in bad.err
    reseal(one)
    bad = cli("verify", one, "--json")
    assert bad.code == 70
    assert bad.json()["difference"]["n"] == 300
    assert "prediction 300 of 'walk'" in bad.err
    with sqlite3.connect(one) as connection:
        connection.execute("UPDATE ticks SET crc = 1")
    connection.close()
    assert cli("verify", one).code == 65

    for words in (("verify",), ("inspect",), ("diff", one)):
        assert cli(*words, tmp_path / "no.db").code == 66
        assert cli(*words, walk).code == 65


def test_a_run_keeps_a_store(cli, tmp_path):
    store = tmp_path / "s.db"
    silent = cli(
        *("run", "--connect", "tcp://127.0.0.1:1", "--idle-timeout", 0.2, *SMALL, "--json"),
        *("--store", store),
    )
    assert silent.code == 69
    assert silent.json()["store"] == {
        "path": str(store),
        "resumed": False,
        "held_elements": 0,
        "replayed_inputs": 0,
        "snapshots_set_aside": 0,
        "inputs_left_out": 0,
        "retries": 0,
    }
    assert count(store, "SELECT command FROM runs") == "run"


# ---- kill -9 ----------------------------------------------------------------------------


def replay_process(file, store):
    program = "from stream_lstm.cli.main import main; main()"
    line = [
        "replay",
        file,
        *SMALL,
        "--learn",
        "--store",
        store,
        "--snapshot-every",
        3000,
        "--json",
    ]
    return subprocess.Popen(
        [sys.executable, "-c", program, *map(str, line)], stdout=subprocess.PIPE, text=True
    )


def stored_ticks(store):
    if not store.exists():
        return 0
    try:
        return count(store, "SELECT coalesce(sum(ticks), 0) FROM streams")
    except Exception:
        return 0  # its tables are being made


@pytest.mark.timeout(600)
def test_killed_again_and_again_it_comes_to_the_same_predictions(cli, tmp_path):
    file, store = write(tmp_path / "long.csv", 400_000), tmp_path / "s.db"
    rng, kills, deadline = random.Random(5), 0, time.monotonic() + PATIENCE_S
    reached = []
    while kills < KILLS:
        before = stored_ticks(store)
        process = replay_process(file, store)
        while process.poll() is None and stored_ticks(store) == before:
            assert time.monotonic() < deadline
            wait(process, 0.02)
        wait(process, rng.uniform(0, 0.1))
        if process.poll() is not None:
            pytest.fail("it ended before it was killed: take a longer file")
        process.send_signal(signal.SIGKILL)
        process.communicate()
        kills += 1
        reached.append(stored_ticks(store))
    assert all(low < high for low, high in itertools.pairwise(reached)), reached
    end = reached[-1] + 5000
    part = beginning(file, end)
    out, _ = replay_process(part, store).communicate()
    last = msgspec.json.decode(out)
    whole = cli("replay", part, *SMALL, "--learn", "--json")
    assert last["digest"] == whole.json()["digest"]
    assert last["predictions"] == count(store) == whole.json()["predictions"]
    assert last["log_loss"] == whole.json()["log_loss"]


def wait(process, seconds):
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return
