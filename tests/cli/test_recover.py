"""`stream-lstm recover` from the command line: what it says, its exit codes, and what follows."""

from __future__ import annotations

import os
import shutil

import pytest

from stream_lstm.store.lock import StoreLock
from tests.store.stores import change, query

from .test_store_commands import SMALL, write


@pytest.fixture(scope="module")
def walk(tmp_path_factory):
    return write(tmp_path_factory.mktemp("walk") / "walk.csv", 900)


@pytest.fixture
def stores(cli, walk, tmp_path):
    """A store of a whole replay in two starts, and a copy whose last tick is altered."""
    whole, damaged = tmp_path / "whole.db", tmp_path / "damaged.db"
    for limit in (500, 900):
        line = ("--learn", "--store", whole, "--limit", limit)
        assert cli("replay", walk, *SMALL, *line).code == 0
    shutil.copy(whole, damaged)
    change(damaged, "UPDATE ticks SET crc = 1 WHERE pos = (SELECT max(pos) FROM ticks)")
    return whole, damaged


def test_a_damaged_store_is_recovered_and_gone_on_with(cli, walk, stores, tmp_path):
    whole, damaged = stores
    new = tmp_path / "new.db"
    moved = shutil.copy(whole, tmp_path / "moved.db")
    change(moved, "UPDATE streams SET n = n + 1")
    for words in (("verify", damaged), ("replay", walk, *SMALL, "--learn", "--store", moved)):
        refused = cli(*words)
        assert refused.code == 65
        assert "stream-lstm recover STORE --to NEW" in refused.err
    done = cli("recover", damaged, "--to", new, "--keep", "longest", "--json")
    assert done.code == 0, done.err
    told = done.json()
    assert (told["store"], told["to"], told["damaged"]) == (str(damaged), str(new), True)
    assert told["kept"]["first"] == 1
    assert told["kept"]["last"] < told["end"]
    assert told["lost"]["rows"]["ticks"] == 900 - told["elements"] > 0
    assert told["lost"]["by_stream"]["walk"]["ticks"] == told["lost"]["rows"]["ticks"]
    assert told["what"].startswith("inputs ")
    assert cli("verify", new).code == 0
    assert cli("inspect", new, "--json").json()["events"]["recovered"] == 1
    assert cli("export", new, "--out", tmp_path / "tables").code == 0
    last = cli("replay", walk, *SMALL, "--learn", "--store", new, "--json")
    assert last.code == 0, last.err
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
    assert f"{damaged} is damaged: inputs " in done.out
    assert "a start continues from 900 elements" in done.out, "the snapshot of the end is whole"
    assert "without the inputs that led to it" in done.out
    assert "of stream walk: 900 ticks" in done.out
    assert "--keep longest would keep inputs 1 to " in done.out


def test_what_is_not_damaged_is_not_copied(cli, stores, tmp_path):
    whole, _ = stores
    new = tmp_path / "new.db"
    done = cli("recover", whole, "--to", new)
    assert (done.code, new.exists()) == (0, False)
    assert "is not damaged: nothing to recover, nothing was written" in done.out
    assert cli("recover", whole, "--to", new, "--json").json() == {
        "store": str(whole),
        "to": str(new),
        "damaged": False,
    }


def test_what_cannot_be_done_is_refused_with_its_code(cli, walk, stores, tmp_path):
    whole, damaged = stores
    before = {path: path.read_bytes() for path in stores}
    new = tmp_path / "new.db"
    (tmp_path / "link.db").symlink_to(damaged)
    lines = [
        (2, (damaged, "--to", damaged, "--overwrite"), "is the file that is read"),
        (2, (damaged, "--to", tmp_path / "link.db", "--overwrite"), "is the file that is read"),
        (2, (damaged, "--to", whole), "is there already; --overwrite replaces it"),
        (2, (damaged, "--to", new, "--keep", "all"), "--keep is newest or longest, not 'all'"),
        (2, (damaged,), "--to"),
        (65, (walk, "--to", new), "nothing can be read of it"),
        (66, (tmp_path / "no.db", "--to", new), "no such store"),
        (66, (tmp_path, "--to", new), "is a directory"),
        (74, (damaged, "--to", tmp_path / "no" / "new.db"), "there is no directory"),
    ]
    for code, words, text in lines:
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
    _, damaged = stores
    change(damaged, "UPDATE setup SET value = 'x' WHERE name = 'start'")
    done = cli("recover", damaged, "--to", tmp_path / "new.db")
    assert done.code == 65
    assert "the checksum of its weights to start from is wrong" in done.err
    assert "Put back a copy, or start a new store" in done.err
    assert not list(tmp_path.glob("new.db*"))
