"""What a service manager hears, on a real datagram socket."""

import os
import socket

import pytest

from stream_lstm.serve.signals import Supervisor

WAIT_S = 20.0


@pytest.fixture(params=["path", "abstract"])
def manager(request, tmp_path):
    """A socket as systemd's, and how the environment names it."""
    path = str(tmp_path / "notify") if request.param == "path" else f"@stream-lstm-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as bound:
        bound.settimeout(WAIT_S)
        bound.bind(path.replace("@", "\0", 1))
        yield bound, path


def heard(bound):
    return bound.recv(4096).decode().splitlines()


def test_it_hears_of_the_start_of_life_and_of_the_end(manager):
    bound, path = manager
    with Supervisor({"NOTIFY_SOCKET": path}) as supervisor:
        supervisor.ready("subscribed")
        assert heard(bound) == ["READY=1", "STATUS=subscribed", f"MAINPID={os.getpid()}"]
        supervisor.alive()
        assert heard(bound) == ["WATCHDOG=1"]
        supervisor.reloading()
        first, second = heard(bound)
        assert first == "RELOADING=1"
        assert second.startswith("MONOTONIC_USEC=")
        assert second.partition("=")[2].isdecimal()
        supervisor.stopping()
        assert heard(bound) == ["STOPPING=1"]


@pytest.mark.parametrize(
    ("more", "period_s"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 10.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 10.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "30"}, 0.1),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_signs_of_life_are_as_frequent_as_asked_for(tmp_path, more, period_s):
    with Supervisor({"NOTIFY_SOCKET": str(tmp_path / "n"), **more}) as supervisor:
        assert supervisor.watchdog_s == period_s


@pytest.mark.parametrize("address", [{}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "vsock:2:1"}])
def test_where_there_is_none_nothing_is_said(address):
    with Supervisor({"WATCHDOG_USEC": "1000000"} | address) as supervisor:
        supervisor.ready("x")
        supervisor.alive()


def test_one_that_is_gone_or_does_not_listen_holds_nobody_up(tmp_path):
    path = str(tmp_path / "notify")
    with Supervisor({"NOTIFY_SOCKET": path}) as supervisor:
        supervisor.ready("nobody there")
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as bound:
            bound.bind(path)
            for _ in range(10_000):
                supervisor.alive()
            assert heard(bound) == ["WATCHDOG=1"]
