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

Float32 memory that NumPy and compiled functions share, and trees packed into one array.

JAX copies a NumPy argument at each call, and NumPy wraps a JAX result before it reads it. Both
take longer than a step of the network. `SharedArray` is one piece of memory that is an array of
both, so handing it over is free; `copy_out` and `copy_into` read a result at its address. This
works on a CPU only, and the memory is valid after the call that uses it has ended: `wait_ready`
waits for it.

Each argument costs a call more than a microsecond, whatever its size. `Packing` therefore puts the
leaves of a tree into one flat array, in the order of `jax.tree.leaves`. Taking the array apart
inside a compiled function is nearly free.
"""

from __future__ import annotations

import ctypes
import functools
import itertools
import math
import os
import threading
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax._src import xla_bridge

from ..closing import call_in_child
from ..errors import UsageError
from ..typing import Float32s

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


ALIGNMENT = 64
"""Bytes; XLA copies arrays with a smaller alignment."""

LINE = ALIGNMENT // 4
"""Float32 numbers in an aligned line."""


def aligned_zeros(shape: tuple[int, ...]) -> Any:
    """Return aligned float32 zeros; each row is aligned if its length is a multiple of `LINE`."""
    size = 4 * math.prod(shape)
    raw = np.zeros(size + ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start : start + size].view(np.float32).reshape(shape)


class SharedArray:
    """Float32 memory with two views: `host` for NumPy, `device` as an argument of a call.

    array: aligned and contiguous. Without shared memory, `device` is `host` itself, and each call
    copies it.
    """

    __slots__ = ("address", "device", "host")

    def __init__(self, array: Any) -> None:
        self.host: Any = array
        self.address: int = array.ctypes.data
        self.device: Any = jax.dlpack.from_dlpack(array) if in_place() else array


class ThreadBuffers(threading.local):
    """Shared arrays of the given shapes as attributes; each thread has its own."""

    def __init__(self, **shapes: tuple[int, ...]) -> None:
        for name, shape in shapes.items():
            setattr(self, name, SharedArray(aligned_zeros(shape)))

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> SharedArray: ...


@functools.cache
def in_place() -> bool:
    """Return whether compiled functions can share memory with NumPy here."""
    host = aligned_zeros((1,))
    shared = jax.dlpack.from_dlpack(host)
    on_cpu = all(device.platform == "cpu" for device in shared.devices())
    return on_cpu and bool(shared.unsafe_buffer_pointer() == host.ctypes.data)


def wait_ready(array: Any) -> None:
    """Wait until a call has written its result and read its arguments.

    XLA runs some kernels in threads of its own, so a call may return before that.
    """
    if not array.is_ready():
        array.block_until_ready()


def copy_out(array: Any, offset: int, count: int) -> Float32s:
    """Return a copy of `count` numbers of a finished result, from `offset` on, in C order."""
    if not in_place():
        return np.array(np.asarray(array).reshape(-1)[offset : offset + count])
    address = array.unsafe_buffer_pointer() + 4 * offset
    return np.array((ctypes.c_float * count).from_address(address))


def copy_into(array: Any, target: SharedArray, count: int) -> None:
    """Copy the first `count` numbers of a finished result to the start of `target`."""
    if in_place():
        ctypes.memmove(target.address, array.unsafe_buffer_pointer(), 4 * count)
    else:
        target.host[:count] = np.asarray(array).reshape(-1)[:count]


Packed: TypeAlias = tuple[Any]
"""One flat float32 array (P,), as a tree."""


class Packing:
    """Pack float32 trees with the shapes of `tree` into one array of `size` numbers, and back."""

    def __init__(self, tree: Any) -> None:
        leaves, self._structure = jax.tree.flatten(tree)
        assert all(leaf.dtype == np.float32 for leaf in leaves)
        self._shapes = [leaf.shape for leaf in leaves]
        ends = itertools.accumulate((math.prod(shape) for shape in self._shapes), initial=0)
        self._slices = [slice(*pair) for pair in itertools.pairwise(ends)]
        self.size: int = self._slices[-1].stop

    def pack(self, tree: Any) -> Packed:
        """Pack a tree inside a compiled function."""
        return (jnp.concatenate([leaf.reshape(-1) for leaf in jax.tree.leaves(tree)]),)

    def unpack(self, packed: Packed) -> Any:
        """Return the tree; its leaves are of the same library as the flat array."""
        pairs = zip(self._slices, self._shapes, strict=True)
        parts = [packed[0][part].reshape(shape) for part, shape in pairs]
        return jax.tree.unflatten(self._structure, parts)

    def host_pack(self, tree: Any) -> Packed:
        """Pack a tree with NumPy, which compiles nothing."""
        return (np.concatenate([np.asarray(leaf).reshape(-1) for leaf in jax.tree.leaves(tree)]),)

    def host_unpack(self, packed: Packed) -> Any:
        """Return the tree as a NumPy copy."""
        return self.unpack((np.array(packed[0]),))


def key_data(leaf: Any) -> Any:
    """Return the numbers of a leaf if it is a random key, as in some optimisers; else the leaf."""
    return jax.random.key_data(leaf) if is_key(leaf) else leaf


def is_key(leaf: Any) -> bool:
    """Return whether a leaf is a random key."""
    return bool(jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key))
