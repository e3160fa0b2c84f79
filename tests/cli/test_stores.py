"""`--store`, `verify`, `diff`, `inspect`, `recover` and `export STORE` from the command line."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pyarrow.parquet
import pytest

from stream_lstm.store.schema import connect_reader
from stream_lstm.store.writer import StoreLock
from tests.store.stores import change, query, reseal

from .lines import NOWHERE, write_csv

SMALL = ("--hidden", 4, "--window", 20, "--bptt", 5, "--feature", "x")


def write(path, rows, seed=1):
    up = np.random.default_rng(seed + 1).integers(0, 2, rows)
    return write_csv(path, t=range(rows), x=np.random.default_rng(seed).normal(size=rows), up=up)


@pytest.fixture
def walk(tmp_path):
    return write(tmp_path / "walk.csv", 900)


def beginning(path, rows):
    """A copy of a file's first rows under the same name, in a folder of its own."""
    folder = path.parent / f"first{rows}"
    folder.mkdir()
    lines = path.read_text().splitlines(keepends=True)[: rows + 1]
    (folder / path.name).write_text("".join(lines))
    return folder / path.name


def figures(outcome):
    """What a summary says of the series: nothing of this machine or of this run."""
    assert outcome.code == 0, outcome.err
    apart = ("wall_s", "compile_s", "elements_per_s", "peak_rss_bytes", "store")
    return {key: value for key, value in outcome.json().items() if key not in apart}


def count(store, sql="SELECT count(*) FROM predictions"):
    connection = connect_reader(store)
    try:
        return connection.execute(sql).fetchone()[0]
    finally:
        connection.close()


LABELS = ("--label-column", "up", "--label-delay")


@pytest.mark.slow
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
def test_a_file_that_grows_is_continued_to_the_results_of_the_whole(cli, walk, tmp_path, more):
    line = (*SMALL, *more, "--json")
    whole_out, out, store = (tmp_path / name for name in ("whole.csv", "out.csv", "s.db"))
    whole = figures(cli("replay", walk, *line, "--out", whole_out))
    for rows in (137, 138, 500):
        killed_at_its_end(cli, beginning(walk, rows), *line, "--store", store)
    assert figures(cli("replay", walk, *line, "--store", store, "--out", out)) == whole
    assert sorted(out.read_text().splitlines()) == sorted(whole_out.read_text().splitlines())
    assert figures(cli("replay", walk, *line, "--store", store)) == whole


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
    (tmp_path / "other").mkdir()
    other = write(tmp_path / "other" / "walk.csv", 900, seed=4)
    assert cli("replay", walk, *SMALL, "--store", store).code == 0
    for file, more, words in (
        (beginning(walk, 200), (), "has 200 ticks and the store 900"),
        (other, (), "does not begin with the 900 ticks"),
        (walk, ("--time", "none"), "but with other times: name the column of times as before"),
    ):
        refused = cli("replay", file, *SMALL, "--store", store, *more)
        assert (refused.code, words in refused.err) == (65, True), refused.err
    assert cli("replay", walk, *SMALL, "--store", store, "--time", "t").code == 0
    second = cli("replay", other, *SMALL, "--store", store, "--stream", "second")
    assert second.code == 0
    assert "contains walk: second is added and continues with its weights" in second.err
    assert count(store, "SELECT count(*) FROM streams") == 2


def test_wrong_settings_a_store_in_use_and_a_bad_place_are_refused_before_it_compiles(
    cli, walk, tmp_path, monkeypatch
):
    store = tmp_path / "s.db"
    assert cli("replay", walk, *SMALL, "--limit", 50, "--store", store).code == 0
    monkeypatch.setattr("stream_lstm.serve.replaying.Session", None)
    lock = StoreLock(store)
    busy = cli("replay", walk, *SMALL, "--store", store)
    lock.close()
    assert busy.code == 73
    assert f"in use by process {os.getpid()} on " in busy.err
    for code, place, more, words in (
        (78, store, ("--horizon", 2), "was created with horizon = 1, but horizon = 2"),
        (74, tmp_path / "no" / "s.db", (), "there is no directory"),
        (74, tmp_path, (), "it is a directory"),
        (65, walk, (), "walk.csv"),
        (2, store, ("--state-check",), "omit --store"),
    ):
        done = cli("replay", walk, *SMALL, "--store", place, *more)
        assert (done.code, words in done.err) == (code, True), done.err


def test_a_bad_row_ends_a_replay_and_once_it_is_mended_it_continues(cli, walk, tmp_path):
    good, store = walk.read_text().splitlines(keepends=True), tmp_path / "s.db"
    walk.write_text("".join([*good[:400], "400,oops,1\n", *good[401:]]))
    assert cli("replay", walk, *SMALL, "--learn", "--store", store).code == 65
    walk.write_text("".join(good))
    done = cli("replay", walk, *SMALL, "--learn", "--store", store, "--json")
    assert figures(done) == figures(cli("replay", walk, *SMALL, "--learn", "--json"))


def test_the_speed_of_a_resumed_replay_is_that_of_what_is_new(cli, walk, tmp_path):
    line = ("replay", walk, *SMALL, "--store", tmp_path / "s.db")
    assert cli(*line, "--limit", 400).code == 0
    rest = cli(*line, "--json").json()
    assert (rest["elements"], rest["store"]["held_elements"]) == (900, 400)
    assert rest["elements_per_s"] * rest["wall_s"] == pytest.approx(500)
    again = cli(*line)
    assert "of them, 900 elements were in the store and 0 are new" in again.out
    assert "elements/s" not in again.out


@pytest.mark.slow
def test_the_commands_on_a_store(cli, walk, tmp_path):
    one, two, tables = tmp_path / "one.db", tmp_path / "two.db", tmp_path / "tables"
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

    assert cli("export", one, "--out", tables, "--json").json()["rows"]["ticks"] == 900
    assert pyarrow.parquet.read_table(tables / "ticks.parquet").num_rows == 900
    assert cli("export", one, "--out", tables).code == 2
    assert cli("export", one, "--out", tables, "--overwrite").code == 0
    assert cli("export", one, "--out", walk).code == 2

    change(one, "UPDATE predictions SET p = 0.25 WHERE n = 300")
    bad = cli("verify", one, "--json")
    assert bad.code == 65
    assert "do not match their checksum" in bad.err
    reseal(one)
    bad = cli("verify", one, "--json")
    assert bad.code == 70
    assert bad.json()["difference"]["n"] == 300
    assert "prediction 300 of 'walk'" in bad.err
    change(one, "UPDATE ticks SET crc = 1")
    assert cli("verify", one).code == 65

    for words in (("verify",), ("inspect",), ("diff", one)):
        assert cli(*words, tmp_path / "no.db").code == 66
        assert cli(*words, walk).code == 65


def test_a_run_keeps_a_store(cli, tmp_path):
    store = tmp_path / "s.db"
    silent = cli("run", *NOWHERE, "--idle-timeout", 0.2, *SMALL, "--json", "--store", store)
    assert silent.code == 69
    found = silent.json()["store"]
    assert (found.pop("path"), found.pop("resumed")) == (str(store), False)
    counters = ("held_elements", "replayed_inputs", "snapshots_set_aside", "inputs_left_out")
    assert found == dict.fromkeys((*counters, "retries"), 0)
    assert count(store, "SELECT command FROM runs") == "run"


# ---- kill -9 ----------------------------------------------------------------------------------

KILLED = """
import signal, sys
from stream_lstm.store.journal import Journal

after_s, write, before = float(sys.argv.pop(1)), Journal.write, []

def written(journal, units):
    write(journal, units)
    ticks = journal.connection.execute("SELECT coalesce(sum(ticks), 0) FROM streams").fetchone()
    if before and ticks != before[0]:
        signal.setitimer(signal.ITIMER_REAL, after_s)  # nothing handles SIGALRM: the system kills
    before.append(ticks)

Journal.write = written
from stream_lstm.cli.main import main
main()
"""


@pytest.mark.slow
def test_killed_again_and_again_it_comes_to_the_same_predictions(cli, tmp_path):
    """Each time soon after a commit that brought ticks."""
    file, store = write(tmp_path / "long.csv", 100_000), tmp_path / "s.db"
    more = (*SMALL, "--learn", "--snapshot-every", 3000, "--json")
    line, reached = ("replay", file, *more, "--store", store), [0]
    for after_s in (0.001, 0.03):
        code = [sys.executable, "-c", KILLED, str(after_s), *map(str, line)]
        assert subprocess.run(code, check=False).returncode == -signal.SIGALRM
        reached.append(count(store, "SELECT coalesce(sum(ticks), 0) FROM streams"))
    assert all(low < high for low, high in itertools.pairwise(reached)), reached
    part = beginning(file, reached[-1] + 5000)
    last = cli("replay", part, *more, "--store", store).json()
    whole = cli("replay", part, *more).json()
    assert all(last[key] == whole[key] for key in ("digest", "predictions", "log_loss"))
    assert last["predictions"] == count(store)


# ---- recover ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made_stores(module_cli, tmp_path_factory):
    """A store of a whole replay in two starts, and a copy whose last tick is altered."""
    folder = tmp_path_factory.mktemp("made")
    walk, whole, damaged = (folder / name for name in ("walk.csv", "whole.db", "damaged.db"))
    write(walk, 900)
    for limit in (500, 900):
        line = ("--learn", "--store", whole, "--limit", limit)
        assert module_cli("replay", walk, *SMALL, *line).code == 0
    shutil.copy(whole, damaged)
    change(damaged, "UPDATE ticks SET crc = 1 WHERE pos = (SELECT max(pos) FROM ticks)")
    return whole, damaged


@pytest.fixture
def stores(made_stores, tmp_path):
    return tuple(shutil.copy(path, tmp_path / path.name) for path in made_stores)


@pytest.mark.slow
def test_a_damaged_store_is_recovered_and_continued(cli, walk, stores, tmp_path):
    whole, damaged = stores
    new, moved = tmp_path / "new.db", shutil.copy(whole, tmp_path / "moved.db")
    change(moved, "UPDATE streams SET n = n + 1")
    for words in (("verify", damaged), ("replay", walk, *SMALL, "--learn", "--store", moved)):
        refused = cli(*words)
        assert refused.code == 65
        assert "stream-lstm recover STORE --to NEW" in refused.err
    done = cli("recover", damaged, "--to", new, "--keep", "longest", "--json")
    assert done.code == 0, done.err
    found = done.json()
    assert (found["store"], found["to"], found["damaged"]) == (str(damaged), str(new), True)
    assert found["kept"]["first"] == 1
    assert found["kept"]["last"] < found["end"]
    assert found["lost"]["rows"]["ticks"] == 900 - found["elements"] > 0
    assert found["lost"]["by_stream"]["walk"]["ticks"] == found["lost"]["rows"]["ticks"]
    assert found["what"].startswith("inputs ")
    assert cli("verify", new).code == 0
    assert cli("inspect", new, "--json").json()["events"]["recovered"] == 1
    assert cli("export", new, "--out", tmp_path / "tables").code == 0
    last = cli("replay", walk, *SMALL, "--learn", "--store", new, "--json")
    plain = cli("replay", walk, *SMALL, "--learn", "--json")
    assert last.json()["digest"] == plain.json()["digest"]
    assert cli("diff", new, whole).code == 0


def test_people_read_what_is_lost(cli, stores, tmp_path):
    _, damaged = stores
    # what comes behind the last ticks is damaged too
    last = "(SELECT max(event) FROM events WHERE kind = 'settle')"
    change(damaged, f"UPDATE events SET reason = 'x' WHERE event >= {last}")
    done = cli("recover", damaged, "--to", tmp_path / "new.db")
    assert done.code == 0, done.err
    for words in (
        f"{damaged} is damaged: inputs ",
        "a start continues from 900 elements",  # the snapshot of the end is whole
        "without the inputs that led to it",
        "of stream walk: 900 ticks",
        "--keep longest would keep inputs 1 to ",
    ):
        assert words in done.out


def test_an_undamaged_store_is_not_copied(cli, stores, tmp_path):
    line = ("recover", stores[0], "--to", tmp_path / "new.db")
    done = cli(*line)
    assert (done.code, line[-1].exists()) == (0, False)
    assert "is not damaged: nothing to recover, nothing was written" in done.out
    about = {"store": str(stores[0]), "to": str(line[-1]), "damaged": False}
    assert cli(*line, "--json").json() == about


def test_what_cannot_be_recovered_is_refused_with_its_code(cli, walk, stores, tmp_path):
    whole, damaged = stores
    before = {path: path.read_bytes() for path in stores}
    new, link = tmp_path / "new.db", tmp_path / "link.db"
    link.symlink_to(damaged)
    for code, words, text in (
        (2, (damaged, "--to", damaged, "--overwrite"), "is the file that is read"),
        (2, (damaged, "--to", link, "--overwrite"), "is the file that is read"),
        (2, (damaged, "--to", whole), "exists; --overwrite replaces it"),
        (2, (damaged, "--to", new, "--keep", "all"), "--keep is newest or longest, not 'all'"),
        (2, (damaged,), "--to"),
        (65, (walk, "--to", new), "nothing can be read"),
        (66, (tmp_path / "no.db", "--to", new), "no such store"),
        (66, (tmp_path, "--to", new), "is a directory"),
        (74, (damaged, "--to", tmp_path / "no" / "new.db"), "there is no directory"),
    ):
        done = cli("recover", *words)
        assert (done.code, text in done.err) == (code, True), (words, done.err)
    lock = StoreLock(damaged)
    busy = cli("recover", damaged, "--to", new)
    lock.close()
    assert busy.code == 73
    assert f"in use by process {os.getpid()} on " in busy.err
    assert not new.exists()
    assert before == {path: path.read_bytes() for path in stores}
    assert cli("recover", damaged, "--to", whole, "--overwrite").code == 0
    assert query(whole, "SELECT count(*) FROM events WHERE kind = 'recovered'") == [(1,)]


def test_without_its_setup_nothing_is_of_use(cli, stores, tmp_path):
    change(stores[1], "UPDATE setup SET value = 'x' WHERE name = 'start'")
    done = cli("recover", stores[1], "--to", tmp_path / "new.db")
    assert done.code == 65
    assert "the checksum of its initial weights is wrong" in done.err
    assert "Restore a backup, or start a new store" in done.err
    assert not list(tmp_path.glob("new.db*"))
