"""Settings of JAX that every function here relies on, made once on import.

JAX hands a CPU computation to a worker thread by default, so that Python can go on. A step of a
few microseconds is dearer to hand over (30 us) than to run, and its result is wanted at once.
The setting counts until JAX starts its CPU backend; a program that started it earlier loses
speed and nothing else.
"""

from __future__ import annotations

import jax

jax.config.update("jax_cpu_enable_async_dispatch", False)  # type: ignore[no-untyped-call]
