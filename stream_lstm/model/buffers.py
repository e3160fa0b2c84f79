"""Memory that Python writes and compiled functions read, and the other way round, as it stands.

NumPy's arrays are copied at each call, and JAX's are wrapped before NumPy sees them: both take
longer than a step. A `Window` is memory that is an array of NumPy and of JAX at once, so that
handing it over costs nothing. `InPlace` reads numbers at their address.

Both are for a CPU alone, and right once the call has ended that reads or writes the memory:
`settle` sees to that.
"""

from __future__ import annotations

import ctypes
import math
import threading
from typing import TYPE_CHECKING, Any, TypeAlias

import jax
import numpy as np
import numpy.typing as npt

Floats: TypeAlias = npt.NDArray[np.float32]

ALIGNMENT = 64
"""Bytes; XLA copies what is not aligned so."""


class Window:
    """One piece of memory for float32: `host` is written, `device` is handed over.

    Where memory cannot be shared, `device` is `host` itself, and is copied at each call.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        size = 4 * math.prod(shape)
        raw = np.zeros(size + ALIGNMENT, np.uint8)
        start = -raw.ctypes.data % ALIGNMENT
        self.host: Any = raw[start : start + size].view(np.float32).reshape(shape)
        self.device: Any = self.host
        shared = jax.dlpack.from_dlpack(self.host)
        if _on_cpu(shared) and shared.unsafe_buffer_pointer() == self.host.ctypes.data:
            self.device = shared

    @property
    def shared(self) -> bool:
        """Whether nothing is copied."""
        return self.device is not self.host


class Windows(threading.local):
    """Windows of the shapes that are given, as attributes; each thread has its own."""

    def __init__(self, **shapes: tuple[int, ...]) -> None:
        for name, shape in shapes.items():
            setattr(self, name, Window(shape))

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Window: ...


def in_place() -> bool:
    """Return whether memory can be shared with compiled functions here: on a CPU."""
    return Window((1,)).shared


def settle(array: Any) -> None:
    """Wait until a call's result is there, and its arguments have been read.

    A call may return sooner: XLA has threads of its own for what has several kernels.
    """
    if not array.is_ready():
        array.block_until_ready()


class InPlace:
    """Reads float32 arrays of JAX where they lie, which must be there: see `settle`."""

    def one(self, array: Any, offset: int) -> float:
        """Return the number at `offset`."""
        address = array.unsafe_buffer_pointer() + 4 * offset
        value: float = ctypes.c_float.from_address(address).value
        return value

    def some(self, array: Any, offset: int, count: int) -> Floats:
        """Return a copy of `count` numbers from `offset` on, in C order."""
        address = array.unsafe_buffer_pointer() + 4 * offset
        return np.array((ctypes.c_float * count).from_address(address))


class Copied:
    """Reads arrays of any kind, wherever they are."""

    def one(self, array: Any, offset: int) -> float:
        """Return the number at `offset`."""
        return float(np.asarray(array).reshape(-1)[offset])

    def some(self, array: Any, offset: int, count: int) -> Floats:
        """Return a copy of `count` numbers from `offset` on, in C order."""
        return np.array(np.asarray(array).reshape(-1)[offset : offset + count])


def _on_cpu(array: Any) -> bool:
    return all(device.platform == "cpu" for device in array.devices())
