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
        called = stream_lstm._HOMES[name].partition(":")[2] or name
        assert getattr(stream_lstm, name).__name__ == called
        assert getattr(stream_lstm, name).__doc__


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Predictr'"):
        stream_lstm.Predictr  # noqa: B018


HEAVY = ("jax", "flax", "optax", "scipy", "pyarrow", "zmq")
"""Libraries that take a tenth of a second or ten megabytes, which help texts do not need."""


@pytest.mark.parametrize("code", ["import stream_lstm", "import stream_lstm.cli.main"])
def test_the_command_line_starts_without_heavy_libraries(code: str) -> None:
    code += f"; import sys; print([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
