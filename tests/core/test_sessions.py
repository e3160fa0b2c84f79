"""Which state machine serves, and what is said where it serves more slowly."""

from __future__ import annotations

import pytest

from stream_lstm.core.sessions import fallbacks, session_for
from stream_lstm.model.engine import Engine

from ..engines import settings


def opened(**values: object) -> list[str]:
    return fallbacks(session_for(settings(**values), ["x"], lambda _: None))


def test_nothing_is_said_where_all_bits_agree() -> None:
    assert opened(learn=True) == []


@pytest.mark.parametrize(
    ("broken", "values", "said"),
    [
        ("_parity", {}, "the step gave other bits"),
        ("_strides_parity", {"learn": True}, "one call gave other bits"),
    ],
)
def test_each_way_that_is_not_taken_is_told(
    broken: str, values: dict[str, object], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Engine, broken, lambda _: False)
    told = opened(**values)
    assert len(told) == 1
    assert said in told[0]


def test_windows_know_no_strides_and_say_nothing() -> None:
    assert opened(learn=True, mode="window") == []
