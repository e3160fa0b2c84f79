"""Settings of JAX and XLA, made on import, and the device for small steps.

JAX hands a CPU computation to a worker thread by default and continues. A step of a few
microseconds is shorter than the hand-over (30 us), and its result is needed immediately.

XLA runs a loop as a list of kernels at each turn, unless the loop moves few bytes. The whole loop
is then one kernel, and a turn of an LSTM(32) takes a third of the time, with the same bits. XLA's
limit is 1 KiB; ours is `SMALL_LOOP`.

Both settings take effect if JAX has not started its CPU backend; otherwise the program is slower
and computes the same. A user's own `xla_backend_extra_options` are not changed.

JAX does not work in a process that was forked after JAX had started: a fork copies one thread, the
locks of the other threads are never released, and the first computation never ends.
"""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from typing import Any

import jax
from jax._src import xla_bridge

from ..errors import UsageError
from ..forks import call_in_child

SMALL_LOOP = 1 << 26
"""Most bytes that a one-kernel loop moves: an update of an LSTM(32) over 100 elements moves a
third of it."""

EXTRA_OPTIONS = "--xla_backend_extra_options"


def xla_flags(current: str) -> str:
    """Return the value of XLA_FLAGS that adds our settings to the current one."""
    if EXTRA_OPTIONS in current:
        return current
    return (
        f"{current} {EXTRA_OPTIONS}=xla_cpu_small_while_loop_byte_threshold={SMALL_LOOP}".strip()
    )


# XLA reads the variable when a backend starts; a single compilation has no such option.
os.environ["XLA_FLAGS"] = xla_flags(os.environ.get("XLA_FLAGS", ""))
jax.config.update("jax_cpu_enable_async_dispatch", False)  # type: ignore[no-untyped-call]


def host() -> jax.Device:
    """Return the device for small steps: a CPU, also where JAX has a GPU.

    A GPU needs ten microseconds for each step of a long loop of tiny steps.
    """
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:  # the user's settings start no CPU backend
        return jax.local_devices()[0]


def to_host(tree: Any) -> Any:
    """Return a tree of arrays on `host`; computations with them run there."""
    return jax.device_put(tree, host())


def on_host() -> AbstractContextManager[Any]:
    """Return a context in which computations run on `host`."""
    context: AbstractContextManager[Any] = jax.default_device(host())
    return context


def barrier(value: Any) -> Any:
    """Return arrays unchanged, and keep XLA from fusing operations across this place.

    Operations that are compiled together round together. Two ways of computing that must give the
    same bits have barriers in the same places.
    """
    return jax.lax.optimization_barrier(value)  # type: ignore[no-untyped-call]


ONE_KERNEL = {"xla_cpu_experimental_ynn_fusion_type": ""}
"""Turns off a library for sums, which cannot be part of a one-kernel loop."""


def compiled(lowered: Any) -> Any:
    """Return the executable of a lowered function, in which loops may become one kernel."""
    try:
        return lowered.compile(compiler_options=ONE_KERNEL)
    except jax.errors.JaxRuntimeError:  # a version of XLA without that library, or no CPU
        return lowered.compile()


_forked = False


def check_forked() -> None:
    """Raise UsageError in a process that was forked after JAX had started."""
    if _forked:
        raise UsageError(
            "this process was forked after JAX had started, so JAX would never return a result: "
            'use multiprocessing.set_start_method("spawn"), or fork before you create anything'
        )


def _note_fork() -> None:
    global _forked  # noqa: PLW0603 - of this process
    # JAX has no public function for this; without the private one, assume that JAX has started.
    started = getattr(xla_bridge, "backends_are_initialized", lambda: True)
    _forked = _forked or bool(started())


call_in_child(_note_fork)
