"""Memory that Python writes and compiled functions read, and the other way round, as it stands.

NumPy's arrays are copied at each call, and JAX's are wrapped before NumPy sees them: both take
longer than a step. `Shared` is memory that is an array of NumPy and of JAX at the same time, so
that handing it over costs nothing. `read` and `move` take results from their address.

Sharing is for a CPU alone, and right once the call that reads or writes the memory has ended:
`settle` waits for that.
"""

from __future__ import annotations

import ctypes
import functools
import math
import threading
from typing import TYPE_CHECKING, Any, TypeAlias

import jax
import numpy as np
import numpy.typing as npt

from . import runtime as runtime

Floats: TypeAlias = npt.NDArray[np.float32]

ALIGNMENT = 64
"""Bytes; XLA copies what is not aligned so."""

LINE = ALIGNMENT // 4
"""Float32 numbers of an aligned line."""

_FLOAT = ctypes.c_float


def aligned(shape: tuple[int, ...]) -> Any:
    """Return aligned zeros, float32; rows are aligned where a row is a multiple of `LINE`."""
    size = 4 * math.prod(shape)
    raw = np.zeros(size + ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start : start + size].view(np.float32).reshape(shape)


class Shared:
    """One piece of float32 memory: `host` is read and written, `device` is handed over.

    array: aligned and contiguous. Where memory cannot be shared, `device` is `host` itself, which
    is copied at each call.
    """

    __slots__ = ("address", "device", "host")

    def __init__(self, array: Any) -> None:
        self.host: Any = array
        self.address: int = array.ctypes.data
        self.device: Any = array
        if in_place():
            self.device = jax.dlpack.from_dlpack(array)


class Windows(threading.local):
    """Shared memory of the shapes that are given, as attributes; each thread has its own."""

    def __init__(self, **shapes: tuple[int, ...]) -> None:
        for name, shape in shapes.items():
            setattr(self, name, Shared(aligned(shape)))

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Shared: ...


@functools.cache
def in_place() -> bool:
    """Return whether memory can be shared with compiled functions here: on a CPU."""
    host = aligned((1,))
    shared = jax.dlpack.from_dlpack(host)
    on_cpu = all(device.platform == "cpu" for device in shared.devices())
    return on_cpu and bool(shared.unsafe_buffer_pointer() == host.ctypes.data)


def settle(array: Any) -> None:
    """Wait until a call's result is there, and its arguments have been read.

    A call may return sooner: XLA has threads of its own for what has several kernels.
    """
    if not array.is_ready():
        array.block_until_ready()


def read(array: Any, offset: int, count: int) -> Floats:
    """Return a copy of `count` numbers of a settled result from `offset` on, in C order."""
    if not in_place():
        return np.array(np.asarray(array).reshape(-1)[offset : offset + count])
    address = array.unsafe_buffer_pointer() + 4 * offset
    return np.array((_FLOAT * count).from_address(address))


def move(array: Any, target: Shared, count: int) -> None:
    """Copy the first `count` numbers of a settled result to the beginning of `target`."""
    if in_place():
        ctypes.memmove(target.address, array.unsafe_buffer_pointer(), 4 * count)
    else:
        target.host[:count] = np.asarray(array).reshape(-1)[:count]
