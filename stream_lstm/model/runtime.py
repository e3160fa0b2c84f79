"""Settings of JAX that every function here relies on, made once on import, and where to run.

JAX hands a CPU computation to a worker thread by default, so that Python can go on. A step of a
few microseconds is dearer to hand over (30 us) than to run, and its result is wanted at once.

XLA runs a loop as a list of kernels for each turn, unless the loop moves few bytes: then the
whole loop is one kernel, and a turn of an LSTM(32) takes a third of the time with the same bits.
Its idea of few is 1 KiB; ours is `SMALL_LOOP`.

Both settings count until JAX starts its CPU backend; a program that started it earlier loses
speed and nothing else. A user's own `xla_backend_extra_options` stay as they are.

Whether this process was forked from one in which JAX ran.

Fork copies one thread. JAX and XLA have others, whose locks the copy finds taken for good, so that
the first computation never ends.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax
from jax._src import xla_bridge

from ..errors import UsageError
from ..forks import call_in_child

SMALL_LOOP = 1 << 26
"""Bytes that a loop moves and that still becomes one kernel: an update of an LSTM(32) over 100
elements moves a third of it."""

EXTRA_OPTIONS = "--xla_backend_extra_options"


def xla_flags(given: str) -> str:
    """Return the value for XLA_FLAGS, which has been `given` until now."""
    if EXTRA_OPTIONS in given:
        return given
    return f"{given} {EXTRA_OPTIONS}=xla_cpu_small_while_loop_byte_threshold={SMALL_LOOP}".strip()


# XLA reads the variable when a backend starts; there is no such option of one compilation.
os.environ["XLA_FLAGS"] = xla_flags(os.environ.get("XLA_FLAGS", ""))
jax.config.update("jax_cpu_enable_async_dispatch", False)  # type: ignore[no-untyped-call]


def host() -> jax.Device:
    """Return the device where small steps run: the CPU, where JAX has one beside a GPU.

    A long loop of tiny steps is what a CPU is for: a GPU takes ten microseconds for each.
    """
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:  # JAX was told to start no CPU backend
        return jax.local_devices()[0]


def to_host(tree: Any) -> Any:
    """Return a tree of arrays on `host`, to which whatever is computed with them is bound then."""
    return jax.device_put(tree, host())


@contextmanager
def on_host() -> Iterator[None]:
    """Let what is computed inside the `with` run on `host`."""
    with jax.default_device(host()):
        yield


def seam(value: Any) -> Any:
    """Return arrays as they are, so that nothing is fused or known across this place.

    What is compiled together rounds together: where two ways of computing must give the same bits,
    both have their seams in the same places.
    """
    return jax.lax.optimization_barrier(value)  # type: ignore[no-untyped-call]


ONE_KERNEL = {"xla_cpu_experimental_ynn_fusion_type": ""}
"""Sums by a library cannot be part of the one kernel that a loop becomes, so they are not used."""


def compiled(lowered: Any) -> Any:
    """Return the executable of a lowered function, in which loops may become one kernel."""
    try:
        return lowered.compile(compiler_options=ONE_KERNEL)
    except jax.errors.JaxRuntimeError:  # a version of XLA without such a library, or no CPU
        return lowered.compile()


_forked = False


def check_forked() -> None:
    """Raise UsageError in a process that was forked after JAX had started."""
    if _forked:
        raise UsageError(
            "this process was forked from one in which JAX had started, where nothing that JAX "
            "computes ends: use the spawn start method, "
            'multiprocessing.set_start_method("spawn"), or fork before anything is constructed'
        )


def _note() -> None:
    global _forked  # noqa: PLW0603 - of this process
    # There is no public way to ask; without this one, importing JAX counts as starting it.
    started = getattr(xla_bridge, "backends_are_initialized", lambda: True)
    _forked = _forked or bool(started())


call_in_child(_note)
