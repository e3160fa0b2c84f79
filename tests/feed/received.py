"""What a feed gives, as tests compare it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from stream_lstm.events import Run


def blocks(events: Iterable[Any]) -> list[Any]:
    """The events, with short runs of ticks as the arrays that they stand for."""
    return [event.block() if isinstance(event, Run) else event for event in events]
