"""Fixtures of the daemon's tests."""

from contextlib import ExitStack

import pytest

from .live import Live


@pytest.fixture
def live():
    """A function that starts a daemon; every one is closed at the end of the test."""
    with ExitStack() as stack:
        yield lambda **settings: stack.enter_context(Live(**settings))
