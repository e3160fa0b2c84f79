"""How many programs JAX has compiled in this process, or has read from its cache of them.

A daemon compiles before it is ready and not later: a tick that waits for the compiler waits for a
tenth of a second and more. This counts, so that a later compilation shows.
"""

from __future__ import annotations

import threading

import jax

COMPILED = "/jax/core/compile/backend_compile_duration"
"""JAX's event for each program, whether it compiles it or reads it from `compile_cache`."""


class _Counter:
    """A listener to JAX, whose protocol names the arguments."""

    def __init__(self) -> None:
        self.count = 0
        self._lock = threading.Lock()  # any thread may compile

    def __call__(self, event: str, duration_secs: float, **about: str | int) -> None:  # noqa: ARG002
        if event == COMPILED:
            with self._lock:
                self.count += 1


_counter = _Counter()
jax.monitoring.register_event_duration_secs_listener(_counter)


def compilations() -> int:
    """Return how many programs have been compiled, in any thread, since this was imported."""
    return _counter.count
