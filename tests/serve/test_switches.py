"""Threads are switched quickly while anybody wants that, and as before when nobody does."""

import sys
from contextlib import ExitStack

import pytest

from stream_lstm.serve.runtime import SWITCH_S, quick_switches


def test_the_last_to_leave_brings_back_what_was_before_the_first():
    before = sys.getswitchinterval()
    first, second = ExitStack(), ExitStack()
    first.enter_context(quick_switches())
    second.enter_context(quick_switches())
    first.close()
    assert sys.getswitchinterval() == pytest.approx(SWITCH_S, abs=2e-6)
    assert before > SWITCH_S
    second.close()
    assert sys.getswitchinterval() == before


def test_what_is_quicker_already_stays():
    before = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_S / 2)
    try:
        with quick_switches():
            assert sys.getswitchinterval() == pytest.approx(SWITCH_S / 2, abs=2e-6)
    finally:
        sys.setswitchinterval(before)
