"""The figures of hostile peers, at a small count."""

from .bench_modules import bench_module

faults = bench_module("faults_security")


def test_no_intruder_is_let_in():
    figures = faults.keys_refused(3)
    assert (figures["tried"], figures["let_in"], figures["messages_received"]) == (12, 0, 0)
    refused = figures["refused"]
    assert (refused["unknown_key"], refused["bad_key"]) == (3, 6)
    assert sum(refused.values()) == 12


def test_floods_are_cut_off():
    flood = faults.subscription_flood(2)
    assert (flood["attackers"], flood["cut_off"]) == (2, 2)
    assert flood["grown_mib"] < 500
    endless = faults.endless_multipart(1)
    assert endless["cut_off"] == 1
    assert endless["grown_mib"] < 500
