"""What the package exports, and that importing it is cheap."""

from __future__ import annotations

import subprocess
import sys

import pytest

import stream_lstm


def test_every_public_name_loads_and_the_list_is_sorted() -> None:
    assert stream_lstm.__all__ == sorted(stream_lstm.__all__)
    assert set(stream_lstm.__all__) == set(stream_lstm._HOMES)
    for name in stream_lstm.__all__:
        assert getattr(stream_lstm, name).__name__ == name
        assert getattr(stream_lstm, name).__doc__


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Predictr'"):
        stream_lstm.Predictr  # noqa: B018


def test_the_command_line_starts_without_jax() -> None:
    code = (
        "import stream_lstm.cli.main, sys; print([m for m in ('jax', 'zmq') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
