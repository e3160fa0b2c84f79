"""Settings of JAX that every function here relies on, made once on import, and where to run.

JAX hands a CPU computation to a worker thread by default, so that Python can go on. A step of a
few microseconds is dearer to hand over (30 us) than to run, and its result is wanted at once.

XLA runs a loop as a list of kernels for each turn, unless the loop's buffers are small: then the
whole loop is one kernel, and a turn of an LSTM(32) takes a third of the time with the same bits.
Its idea of small is 1 KiB; ours is `SMALL_LOOP`. Above that, in training with many lanes, the
matrix products of a library are faster than those of a kernel.

Both settings count until JAX starts its CPU backend; a program that started it earlier loses
speed and nothing else. A user's own `xla_backend_extra_options` stay as they are.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import jax

SMALL_LOOP = 1 << 20
"""Bytes of the buffers of a loop that becomes one kernel."""

EXTRA_OPTIONS = "--xla_backend_extra_options"


def xla_flags(given: str) -> str:
    """Return the value for XLA_FLAGS, which has been `given` until now."""
    if EXTRA_OPTIONS in given:
        return given
    return f"{given} {EXTRA_OPTIONS}=xla_cpu_small_while_loop_byte_threshold={SMALL_LOOP}".strip()


# XLA reads the variable when a backend starts; there is no such option of one compilation.
os.environ["XLA_FLAGS"] = xla_flags(os.environ.get("XLA_FLAGS", ""))
jax.config.update("jax_cpu_enable_async_dispatch", False)  # type: ignore[no-untyped-call]


@contextmanager
def on_host() -> Iterator[None]:
    """Let what is computed inside the `with` run on the CPU, where JAX has one beside a GPU.

    A long loop of tiny steps is what a CPU is for: a GPU takes ten microseconds for each.
    """
    try:
        host = jax.local_devices(backend="cpu")[0]
    except RuntimeError:  # JAX was told to start no CPU backend
        yield
        return
    with jax.default_device(host):
        yield
