"""Signals and the stop switch, and what a service manager receives."""

import os
import select
import signal
import socket
import subprocess
import sys

import pytest

from stream_lstm.platform import STOP_SIGNALS
from stream_lstm.serve.signals import (
    StopSwitch,
    Supervisor,
    note_hangups,
    stop_on_signals,
)

WAIT_S = 30.0


def readable(switch):
    return bool(select.select([switch], [], [], 0.0)[0])


def handlers():
    return [signal.getsignal(number) for number in STOP_SIGNALS]


def run(script):
    """Run a script in a process of its own; return its exit code, output and errors."""
    line = [sys.executable, "-c", script]
    done = subprocess.run(line, capture_output=True, text=True, timeout=WAIT_S, check=False)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_a_signal_sets_the_switch_and_makes_it_readable(number):
    with StopSwitch() as stop, stop_on_signals(stop):
        assert not stop.requested
        assert not readable(stop)
        os.kill(os.getpid(), number)
        assert select.select([stop], [], [], WAIT_S)[0] == [stop]
        stop.set()
        assert stop.requested


def test_the_handlers_of_before_come_back():
    old = handlers()
    with StopSwitch() as outer, stop_on_signals(outer):
        ours = handlers()
        with StopSwitch() as stop, stop_on_signals(stop):
            assert handlers() != ours
        assert handlers() == ours
        assert signal.set_wakeup_fd(outer.wake_fd) == outer.wake_fd
    assert handlers() == old
    assert signal.set_wakeup_fd(-1) == -1


def test_handlers_can_be_installed_later():
    with StopSwitch() as stop, stop_on_signals(stop, later=True) as begin:
        before = handlers()
        begin()
        assert handlers() != before
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.requested
    assert handlers() == before


def test_a_hangup_is_noted_and_does_not_keep_the_poll_awake():
    noted, before = [], signal.getsignal(signal.SIGHUP)
    with StopSwitch() as stop, stop_on_signals(stop), note_hangups(stop, lambda: noted.append(1)):
        os.kill(os.getpid(), signal.SIGHUP)
        assert noted == [1]
        assert not stop.requested
        assert not readable(stop)
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGHUP)
        assert stop.requested
        assert readable(stop)
    assert signal.getsignal(signal.SIGHUP) is before


# ---- the end of the process ---------------------------------------------------------------

SECOND = """
import os, signal
from stream_lstm.serve.signals import StopSwitch, stop_on_signals
with StopSwitch() as stop, stop_on_signals(stop):
    os.kill(os.getpid(), signal.SIGTERM)
    assert stop.requested
    try:
        os.kill(os.getpid(), signal.{name})
    finally:
        print("cleaned up")
"""

ALONE = """
import ctypes, signal
from stream_lstm.serve.signals import StopSwitch, leave_on_signals, stop_on_signals
signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background it is ignored
with leave_on_signals():
    pass
assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
assert signal.set_wakeup_fd(-1) == -1
"""

IN_PYTHON = """
with leave_on_signals():
    signal.raise_signal(signal.{name})
    print("continued")
"""

BEFORE_IT_BEGINS = """
with leave_on_signals(), StopSwitch() as stop, stop_on_signals(stop, later=True) as begin:
    signal.raise_signal(signal.{name})
    print("continued")
"""

IGNORED = """
signal.signal(signal.SIGINT, signal.SIG_IGN)
with leave_on_signals():
    signal.raise_signal(signal.SIGINT)
    print("continued")
"""

IN_C = """
mutex = ctypes.create_string_buffer(64)
with leave_on_signals():
    ctypes.CDLL(None).pthread_mutex_lock(mutex)
    print("here", flush=True)
    ctypes.CDLL(None).pthread_mutex_lock(mutex)
"""
"""The second lock of a mutex never returns and no signal ends it: for Python it is a compiler."""

EACH = [("SIGTERM", 143), ("SIGINT", 130)]


def last_words(name):
    text = f"stopped by {name} before it finished; files contain what was complete"
    return f"stream-lstm: {text}\n"


@pytest.mark.parametrize(("name", "code"), EACH)
def test_the_second_signal_ends_the_process_immediately(name, code):
    assert run(SECOND.format(name=name)) == (code, "", "")


def test_the_second_signal_does_not_wait_for_a_terminal_that_is_stopped():
    terminal, descriptor = os.openpty()
    os.write(terminal, b"\x13")
    line = [sys.executable, "-c", SECOND.format(name="SIGTERM")]
    done = subprocess.run(line, stderr=descriptor, timeout=WAIT_S, check=False)
    os.close(descriptor)
    os.close(terminal)
    assert done.returncode == 143


@pytest.mark.parametrize(
    ("where", "name", "code"),
    [(IN_PYTHON, *EACH[0]), (IN_PYTHON, *EACH[1]), (BEFORE_IT_BEGINS, *EACH[1])],
)
def test_a_signal_before_any_loop_is_one_sentence(where, name, code):
    assert run(ALONE + where.format(name=name)) == (code, "", last_words(name))


def test_a_signal_that_the_process_ignores_stays_ignored():
    assert run(ALONE + IGNORED) == (0, "continued\n", "")


@pytest.mark.parametrize(("name", "code"), EACH)
def test_a_signal_ends_a_call_that_does_not_return_to_python(name, code):
    line = [sys.executable, "-c", ALONE + IN_C]
    with subprocess.Popen(
        line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout.readline() == "here\n"
            process.send_signal(getattr(signal, name))
            out, err = process.communicate(timeout=WAIT_S)
        finally:
            process.kill()
    assert (process.returncode, out, err) == (code, "", last_words(name))


# ---- the service manager ------------------------------------------------------------------


@pytest.fixture(params=["path", "abstract"])
def manager(request, tmp_path):
    """A socket as systemd's, and its name in the environment."""
    path = str(tmp_path / "notify") if request.param == "path" else f"@stream-lstm-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as bound:
        bound.settimeout(WAIT_S)
        bound.bind(path.replace("@", "\0", 1))
        yield bound, path


def received(bound):
    return bound.recv(4096).decode().splitlines()


def test_the_manager_is_notified_of_each_state(manager):
    bound, path = manager
    with Supervisor({"NOTIFY_SOCKET": path}) as supervisor:
        supervisor.ready("subscribed")
        assert received(bound) == ["READY=1", "STATUS=subscribed", f"MAINPID={os.getpid()}"]
        supervisor.alive()
        assert received(bound) == ["WATCHDOG=1"]
        supervisor.reloading()
        first, second = received(bound)
        assert first == "RELOADING=1"
        assert second.startswith("MONOTONIC_USEC=")
        assert second.partition("=")[2].isdecimal()
        supervisor.stopping()
        assert received(bound) == ["STOPPING=1"]


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
def test_the_watchdog_is_fed_three_times_in_its_timeout(tmp_path, more, period_s):
    with Supervisor({"NOTIFY_SOCKET": str(tmp_path / "n"), **more}) as supervisor:
        assert supervisor.watchdog_s == period_s


@pytest.mark.parametrize("address", [{}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "vsock:2:1"}])
def test_without_a_manager_nothing_is_sent(address):
    with Supervisor({"WATCHDOG_USEC": "1000000"} | address) as supervisor:
        supervisor.ready("x")
        supervisor.alive()


def test_a_manager_that_is_gone_or_does_not_read_delays_nothing(tmp_path):
    path = str(tmp_path / "notify")
    with Supervisor({"NOTIFY_SOCKET": path}) as supervisor:
        supervisor.ready("nobody there")
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as bound:
            bound.bind(path)
            for _ in range(10_000):
                supervisor.alive()
            assert received(bound) == ["WATCHDOG=1"]
