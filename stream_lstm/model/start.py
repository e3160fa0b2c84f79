"""The random weights that a network starts from, as NumPy arrays.

They are what `flax_network.Network.init` draws, bit for bit, without the programs of one
operation that JAX would compile for it. XLA rounds two functions in a way of its own, and computes
them here too: the logarithm of chrono biases, and the inverse error function, which is compiled
once, for `CHUNK` numbers, and serves networks of every size. The QR decomposition is LAPACK's of
SciPy, which JAX calls too.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.linalg import lapack

from . import draws
from .cell import FORGET_BIAS
from .draws import Floats, Key

CHUNK = 4096
"""Numbers of a compiled call: the four recurrent kernels of 32 units."""


def network(key: Key, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Floats]:
    """Return the kernel of each layer, for the shapes of `network.Shape.weights`."""
    return {name: _kernel(_named(key, name), shape) for name, shape in shapes.items()}


def chrono_bias(key: Key, hidden: int, horizon: float) -> Floats:
    """Return the bias row (4H,) of a layer with memories of up to `horizon` elements."""
    times = draws.uniform(key, (hidden,), 1.0, horizon - 1.0)
    # For a length of its own: XLA's logarithm rounds short arrays in another way than long ones.
    forget = np.asarray(jnp.log(times))
    return np.concatenate([-forget, forget, np.zeros(2 * hidden, np.float32)])


def _named(key: Key, name: str) -> Key:
    """Return the key that Flax makes for the first parameter of the module `name`."""
    digest = hashlib.sha1(name.encode() + b"\x01", usedforsecurity=False).digest()
    return draws.fold_in(key, int.from_bytes(digest[:4], "big"))


def _kernel(key: Key, shape: tuple[int, ...]) -> Floats:
    """Return a packed kernel (I + H + 1, 4H) as `flax_network.packed_init`, or a head (H + 1,)."""
    if len(shape) == 1:
        return np.append(_glorot(key, (shape[0] - 1, 1))[:, 0], np.float32(0.0))
    hidden = shape[1] // 4
    inputs = shape[0] - hidden - 1
    keys = draws.split(key, 8)
    top = np.concatenate([_glorot(k, (inputs, hidden)) for k in keys[:4]], axis=1)
    middle = np.concatenate(_orthogonal(keys[4:], hidden), axis=1)
    bias = np.repeat(np.array([0.0, FORGET_BIAS, 0.0, 0.0], np.float32), hidden)
    return np.concatenate([top, middle, bias[None]])


def _glorot(key: Key, shape: tuple[int, int]) -> Floats:
    variance = np.float32(1.0 / (sum(shape) / 2))
    scale: np.float32 = np.sqrt(np.float32(3.0) * variance)
    return draws.uniform(key, shape, -1.0, 1.0) * scale


def _orthogonal(keys: Key, size: int) -> list[Floats]:
    """Return an orthogonal matrix (size, size) of each key."""
    lowest = float(np.nextafter(np.float32(-1.0), np.float32(0.0)))
    drawn = np.stack([draws.uniform(key, (size, size), lowest, 1.0) for key in keys])
    return [_factor(matrix) for matrix in _normal_of(drawn)]


def _factor(matrix: Floats) -> Floats:
    """Return Q (N, N) of the QR decomposition whose R has a positive diagonal."""
    size = len(matrix)
    room = int(lapack.sgeqrf_lwork(size, size)[0])
    packed, scales, _, _ = lapack.sgeqrf(matrix, lwork=room)
    signs = np.sign(np.diag(packed))
    made: Any = lapack.sorgqr(packed, scales, lwork=room)
    q: Floats = np.asarray(made[0] * signs, np.float32)
    return q


def _normal_of(uniform: Floats) -> Floats:
    """Return normal numbers for uniform ones of (-1, 1), in calls of `CHUNK` numbers."""
    padded = np.zeros(-(-uniform.size // CHUNK) * CHUNK, np.float32)
    padded[: uniform.size] = uniform.reshape(-1)
    parts = [np.asarray(_inverse_error()(part)) for part in padded.reshape(-1, CHUNK)]
    return np.concatenate(parts)[: uniform.size].reshape(uniform.shape)


@functools.cache
def _inverse_error() -> Callable[[Floats], Any]:
    return jax.jit(lambda u: np.float32(np.sqrt(2)) * jax.lax.erf_inv(u))
