"""Settings of JAX that every function here relies on, made once on import, and where to run.

JAX hands a CPU computation to a worker thread by default, so that Python can go on. A step of a
few microseconds is dearer to hand over (30 us) than to run, and its result is wanted at once.
The setting counts until JAX starts its CPU backend; a program that started it earlier loses
speed and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import jax

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
