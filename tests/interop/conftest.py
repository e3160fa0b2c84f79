"""Fixtures of these tests."""

import pytest

from stream_lstm.core import session

from ..engines import engine_for


@pytest.fixture
def shared_engines(monkeypatch):
    """Sessions use the compiled engines of other tests."""
    monkeypatch.setattr(session, "Engine", engine_for)
