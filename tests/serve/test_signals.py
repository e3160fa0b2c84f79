"""Signals: the first sets the switch and wakes a poll, the second ends the process at once."""

import os
import select
import signal
import subprocess
import sys

import pytest

from stream_lstm.serve.signals import SIGNALS, StopSwitch, note_hangups, stop_on_signals

WAIT_S = 30.0


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_sets_the_switch_and_makes_it_readable(number):
    with StopSwitch() as stop, stop_on_signals(stop):
        assert not stop.requested
        assert select.select([stop], [], [], 0.0)[0] == []
        os.kill(os.getpid(), number)
        assert select.select([stop], [], [], WAIT_S)[0] == [stop]
        assert stop.requested


def test_what_was_there_before_comes_back():
    old = [signal.getsignal(number) for number in SIGNALS]
    with StopSwitch() as outer, stop_on_signals(outer):
        ours = [signal.getsignal(number) for number in SIGNALS]
        with StopSwitch() as stop, stop_on_signals(stop):
            assert [signal.getsignal(number) for number in SIGNALS] != ours
        assert [signal.getsignal(number) for number in SIGNALS] == ours
        assert signal.set_wakeup_fd(outer.wake_fd) == outer.wake_fd
    assert [signal.getsignal(number) for number in SIGNALS] == old
    assert signal.set_wakeup_fd(-1) == -1


def test_set_twice_is_no_mistake():
    with StopSwitch() as stop:
        stop.set()
        stop.set()
        assert stop.requested


STUBBORN = """
import os, signal
from stream_lstm.serve.signals import stop_on_signals
from stream_lstm.serve.signals import StopSwitch
with StopSwitch() as stop, stop_on_signals(stop):
    os.kill(os.getpid(), signal.{first})
    assert stop.requested
    try:
        os.kill(os.getpid(), signal.{second})
    finally:
        print("cleaned up")
"""


@pytest.mark.parametrize(
    ("first", "second", "code"), [("SIGTERM", "SIGTERM", 143), ("SIGTERM", "SIGINT", 130)]
)
def test_the_second_signal_ends_at_once(first, second, code):
    script = STUBBORN.format(first=first, second=second)
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, timeout=WAIT_S, check=False
    )
    assert done.returncode == code, done.stderr
    assert done.stdout == b""


def test_the_second_signal_does_not_wait_for_a_terminal_that_is_stopped():
    terminal, descriptor = os.openpty()
    os.write(terminal, b"\x13")
    script = STUBBORN.format(first="SIGTERM", second="SIGTERM")
    done = subprocess.run(
        [sys.executable, "-c", script], stderr=descriptor, timeout=WAIT_S, check=False
    )
    os.close(descriptor)
    os.close(terminal)
    assert done.returncode == 143


ALONE = """
import ctypes, os, signal, sys
from stream_lstm.serve.signals import leave_on_signals, stop_on_signals
from stream_lstm.serve.signals import StopSwitch
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

IN_C = """
mutex = ctypes.create_string_buffer(64)
with leave_on_signals():
    ctypes.CDLL(None).pthread_mutex_lock(mutex)
    print("here", flush=True)
    ctypes.CDLL(None).pthread_mutex_lock(mutex)
"""
"""The second lock of a mutex never returns and no signal ends it: for Python it is a compiler."""

BEFORE_IT_BEGINS = """
with leave_on_signals(), StopSwitch() as stop, stop_on_signals(stop, later=True) as begin:
    signal.raise_signal(signal.{name})
    print("continued")
"""

EACH = [("SIGTERM", 143), ("SIGINT", 130)]


def told(name):
    said = f"stopped by {name} before it was done: stores and files keep what they held"
    return f"stream-lstm: {said}\n"


@pytest.mark.parametrize(("name", "code"), EACH)
@pytest.mark.parametrize("where", [IN_PYTHON, BEFORE_IT_BEGINS])
def test_a_signal_before_any_loop_is_one_sentence(where, name, code):
    script = ALONE + where.format(name=name)
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=WAIT_S, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (code, "", told(name))


@pytest.mark.parametrize(("name", "code"), EACH)
def test_a_signal_ends_what_does_not_return_to_python(name, code):
    with subprocess.Popen(
        [sys.executable, "-c", ALONE + IN_C],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout.readline() == "here\n"
            process.send_signal(getattr(signal, name))
            out, err = process.communicate(timeout=WAIT_S)
        finally:
            process.kill()
    assert (process.returncode, out, err) == (code, "", told(name))


def test_a_loop_that_begins_later_takes_signals_until_its_end():
    with StopSwitch() as stop, stop_on_signals(stop, later=True) as begin:
        before = [signal.getsignal(number) for number in SIGNALS]
        begin()
        assert [signal.getsignal(number) for number in SIGNALS] != before
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.requested
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_what_somebody_has_chosen_to_ignore_stays_ignored():
    script = (
        ALONE
        + """
signal.signal(signal.SIGINT, signal.SIG_IGN)
with leave_on_signals():
    signal.raise_signal(signal.SIGINT)
    print("continued")
"""
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=WAIT_S, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "continued\n", "")


def test_a_hangup_is_noted_and_does_not_keep_the_poll_awake():
    noted = []
    with StopSwitch() as stop, stop_on_signals(stop), note_hangups(stop, lambda: noted.append(1)):
        os.kill(os.getpid(), signal.SIGHUP)
        assert noted == [1]
        assert not stop.requested
        assert select.select([stop], [], [], 0.0)[0] == []
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGHUP)
        assert stop.requested
        assert select.select([stop], [], [], 0.0)[0] == [stop]
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_DFL
