"""Altered stores, rubbish of peers, and a soak with faults, at a small count."""

import random

import pytest

from .bench_modules import bench_module

altered = bench_module("faults_altered")
peers = bench_module("faults_peers")
rubbish = bench_module("rubbish")
soak = bench_module("soak_faults")


@pytest.mark.slow
@pytest.mark.parametrize("part", [altered.cells, altered.altered_bytes])
def test_a_store_that_was_altered_leads_to_its_state_or_is_refused(part):
    found = part(30, seed=5)
    assert found["right"] + found["refused"] == found["altered"] == 30
    assert found["right"] > 5
    assert found["refused"] > 5
    assert found["first"] == ""


@pytest.mark.slow
def test_what_is_wrong_is_counted_and_shown(monkeypatch):
    monkeypatch.setattr(altered, "alter_cell", lambda *_: "nothing")
    monkeypatch.setattr(altered, "state", lambda *_: random.randbytes(9))
    found = altered.cells(3)
    assert (found["wrong"], found["right"]) == (3, 0)
    assert found["first"].endswith("another state than any that was stored")


@pytest.mark.parametrize("where", ["feed", "recovery", "publisher", "http"])
def test_there_are_a_hundred_kinds_whose_beginnings_depend_on_the_seed_alone(where):
    known = rubbish.kinds(where)
    assert len(known) > 100
    for kind in known[::7]:
        one, other = (
            [item for _, item in zip(range(4), kind.script(random.Random(1)), strict=False)]
            for _ in range(2)
        )
        assert one == other


@pytest.mark.slow
@pytest.mark.parametrize("where", ["feed", "recovery", "publisher", "http"])
def test_beside_rubbish_every_honest_tick_is_taken(where):
    found = peers.rubbish(where, 3, seconds=0.2, lanes=1)
    assert (found["kinds"], found["lost"], found["deaths"]) == (3, 0, 0), found["worst"]
    assert found["taken"] == found["sent"] > 100
    assert found["grown_mib"] < 50


@pytest.mark.slow
def test_a_process_that_ends_is_a_death_and_the_next_kinds_are_said_to_another(monkeypatch):
    killed = []

    def kill(kind, meet, *_):
        target = meet.__self__
        if not killed:
            killed.append(target)
            target.process.kill()
            target.process.wait()
        return 1

    monkeypatch.setattr(peers, "attack", kill)
    found = peers.rubbish("publisher", 2, seconds=0.1, lanes=1)
    assert (found["kinds"], found["deaths"]) == (2, 1)
    assert found["lost"] > 0


@pytest.mark.slow
def test_a_short_soak_accounts_for_every_tick(monkeypatch):
    monkeypatch.setattr(soak, "FAULT_S", 0.5)
    monkeypatch.setattr(soak, "LASTS_S", 0.3)
    monkeypatch.setattr(soak, "RESTART_S", 2.0)
    monkeypatch.setattr(soak, "CALM_S", 3.0)
    found = soak.soak(5.0, 300.0, seed=1)
    assert sum(found["faults"].values()) > 5
    assert found["sessions"] > 1
    assert found["sent"] == found["taken"] + found["gaps"] > 1000
    zero = ("unaccounted", "verify_exit", "unchecked", "compilations", "deaths", "unanswered")
    assert [found[key] for key in zero] == [0] * 6, found
    assert found["checked"] > 50
    assert found["faults_failed"] == []
