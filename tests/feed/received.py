"""What the tests of feeds share: loopback sockets, and events in a form that can be compared."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from stream_lstm.events import End, Run, Ticks
from stream_lstm.feed.subscriber import Subscriber
from stream_lstm.schema import FeedConfig

ANY_PORT = "tcp://127.0.0.1:*"
WAIT_S = 30.0
"""Longer than anything here takes on a busy machine."""

ROUNDS, ROUND_S = 2_000, 0.05


def blocks(events: Iterable[Any]) -> list[Any]:
    """Return the events, with runs of single ticks as arrays."""
    return [event.block() if isinstance(event, Run) else event for event in events]


def of(kind: Any, events: Iterable[Any]) -> list[Any]:
    """Return the events of a kind."""
    return [event for event in events if isinstance(event, kind)]


def xs(events: Iterable[Any], stream: str | None = None) -> list[float]:
    """Return the first value of every tick, of one stream or of all."""
    found = [e.values[:, 0] for e in of(Ticks, events) if stream in (None, e.stream)]
    return np.concatenate([[], *found]).tolist()


def gather(receiver: Any, done: Callable[[list[Any]], Any], idle: Any = lambda: None) -> list[Any]:
    """Receive until `done(events)`, with `idle` called in between."""
    events: list[Any] = []
    for _ in range(ROUNDS):
        events += blocks(receiver.receive(ROUND_S))
        if done(events):
            return events
        idle()
    raise AssertionError(f"it never came, after {len(events)} events")


def ended(events: Iterable[Any]) -> bool:
    """Return whether a stream has ended."""
    return bool(of(End, events))


def subscriber(*connect: Any, security: Any = None, **more: Any) -> Subscriber:
    """Return a subscriber to endpoints or publishers, by default of the column x."""
    own = {name: more.pop(name) for name in ("clock", "wakeup_fd") if name in more}
    endpoints = tuple(getattr(one, "endpoint", one) for one in connect)
    config = FeedConfig(connect=endpoints, **{"columns": ("x",), **more})
    return Subscriber(config, security=security, **own)


def python(program: str) -> list[str]:
    """Run a program in a process of its own; return the lines that it prints."""
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        capture_output=True,
        text=True,
        timeout=2 * WAIT_S,
        check=False,
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    return ran.stdout.splitlines()
