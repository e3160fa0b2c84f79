"""The loops of `cell.c`, compiled on the spot for the machine at hand and called by ctypes."""

from __future__ import annotations

import ctypes
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from .registry import compiler
from .workload import HIDDEN, Workload

FLAGS = (
    "-O3",
    "-march=native",
    # The parts of -ffast-math that let loops be vectorised. The whole of it would also link
    # start-up code that flushes subnormal numbers to zero in the process that loads the library.
    "-fassociative-math",
    "-fno-signed-zeros",
    "-fno-trapping-math",
    "-fno-math-errno",
    "-ffinite-math-only",
    "-freciprocal-math",
    "-shared",
    "-fPIC",
)


def compiled() -> ctypes.CDLL:
    """Return the library, which is loaded when its folder is removed.

    Raises RuntimeError where there is no compiler, and what the compiler says where it fails.
    """
    path = compiler()
    if path is None:
        raise RuntimeError("no C compiler was found")
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "cell.so"
        source = Path(__file__).with_name("cell.c")
        command = [path, *FLAGS, "-o", str(library), str(source)]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(done.stderr)
        loaded = ctypes.CDLL(str(library))
    pointer = ctypes.c_void_p
    loaded.lstm_step.argtypes = (pointer, pointer, pointer, ctypes.c_float)
    loaded.lstm_step.restype = ctypes.c_float
    loaded.lstm_sequence.argtypes = (pointer,) * 5 + (ctypes.c_size_t,)
    loaded.lstm_sequence.restype = None
    return loaded


def step(given: Workload) -> Callable[[np.ndarray], float]:
    """Return the call for one element."""
    library, state = compiled(), np.zeros(2 * HIDDEN, np.float32)
    held = (given.kernel, given.head, state)
    kernel, head, moved = (ctypes.c_void_p(array.ctypes.data) for array in held)
    function = library.lstm_step

    def call(x: np.ndarray, _held: object = held) -> float:
        return float(function(kernel, head, moved, float(x[0])))

    return call


def sequence(given: Workload) -> Callable[[np.ndarray], np.ndarray]:
    """Return the call for a block."""
    library, state = compiled(), np.zeros(2 * HIDDEN, np.float32)

    def block(xs: np.ndarray) -> np.ndarray:
        xs, p = np.ascontiguousarray(xs), np.empty(len(xs), np.float32)
        arrays = (given.kernel, given.head, state, xs, p)
        library.lstm_sequence(*(array.ctypes.data for array in arrays), len(xs))
        return p

    return block
