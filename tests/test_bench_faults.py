"""Faults at a small count: what `python -m bench faults` does at a large one."""

import pytest

from .bench_modules import bench_module

faults = bench_module("faults")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_at_random_instants_a_learning_daemon_loses_and_changes_nothing():
    found = bench_module("faults_kill").kills(8, seed=3)
    assert found["predictions"] > 300
    assert 0 < found["while_starting"] < 8
    assert (found["differing"], found["lost"], found["surplus"]) == (0, 0, 0)
    assert found["heard_differing"] == 0


def test_damaged_payloads_raise_only_the_decoding_error():
    found = bench_module("faults_decoder").payloads(20_000, seed=4)
    assert (found["other_errors"], found["first_error"]) == (0, None)
    assert found["passed"] > 200
    assert found["refused"] > 2_000
    assert found["grown_mib"] < 8


@pytest.mark.slow
def test_a_subscriber_that_stops_reading_costs_the_others_no_prediction():
    found = bench_module("faults_slow").slow_subscriber(1, seconds=1.5)
    assert found["lost"] == 0
    assert found["grown_mb_slow"] < 64


def test_each_part_is_shown_in_a_line():
    rows = {"damage": {"wrong": 0, "valid": 3}, "keys": {"let_in": 0}}
    assert faults.show(rows) == "* damage: wrong 0, valid 3\n* keys: let_in 0"


def test_an_unknown_part_is_named(capsys):
    with pytest.raises(SystemExit):
        bench_module("__main__").parser().parse_args(["faults", "--only", "kil"])
    assert "'kil' is not a part: use kill, schedules" in capsys.readouterr().err
