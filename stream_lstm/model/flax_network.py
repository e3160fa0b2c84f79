"""The network as Flax modules, with their initialisation.

They define the weights: `network.init_weights` draws what `Network.init` draws, and
`network.apply` computes what `Network.apply` computes, bit for bit. The daemon needs neither, and
starts without Flax.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from .network import FORGET_BIAS, Array, Shape, lstm

Initializer: TypeAlias = Callable[..., Array]


def packed_init(inputs: int, hidden: int) -> Initializer:
    """Return an initialiser of a packed kernel (inputs + hidden + 1, 4 hidden).

    Input rows are Glorot uniform and recurrent rows orthogonal, each gate on its own; the bias
    row is zero but for the forget gate's, which is `FORGET_BIAS`.
    """
    glorot, orthogonal = nn.initializers.glorot_uniform(), nn.initializers.orthogonal()

    def init(key: Array, shape: tuple[int, int], dtype: DTypeLike = jnp.float32) -> Array:
        if shape != (inputs + hidden + 1, 4 * hidden):
            raise ValueError(
                f"a packed kernel is {(inputs + hidden + 1, 4 * hidden)}, not {shape}"
            )
        keys = jax.random.split(key, 8)
        top = [glorot(k, (inputs, hidden), dtype) for k in keys[:4]]
        middle = [orthogonal(k, (hidden, hidden), dtype) for k in keys[4:]]
        bias = jnp.zeros((4, hidden), dtype).at[1].set(FORGET_BIAS).reshape(1, -1)
        return jnp.concatenate(
            [jnp.concatenate(top, axis=1), jnp.concatenate(middle, axis=1), bias]
        )

    return init


class PackedLSTMCell(nn.Module):
    """One LSTM layer; `hidden` is H. Its only parameter is `kernel` (I + H + 1, 4H)."""

    hidden: int

    @nn.compact
    def __call__(self, state: tuple[Array, Array], x: Array) -> tuple[tuple[Array, Array], Array]:
        """Return ((h', c'), h') for state (h, c), each (H,), and input x (I,)."""
        inputs = x.shape[-1]
        shape = (inputs + self.hidden + 1, 4 * self.hidden)
        kernel = self.param("kernel", packed_init(inputs, self.hidden), shape)
        h, c = lstm(kernel, x, *state)
        return (h, c), h


def head_init(key: Array, shape: tuple[int], dtype: DTypeLike = jnp.float32) -> Array:
    """Return a head (H + 1,): Glorot uniform weights and a bias of zero."""
    body = nn.initializers.glorot_uniform()(key, (shape[0] - 1, 1), dtype)
    return jnp.concatenate([body[:, 0], jnp.zeros((1,), dtype)])


class Head(nn.Module):
    """A linear head; its only parameter is `kernel` (H + 1,)."""

    @nn.compact
    def __call__(self, h: Array) -> Array:
        """Return the logit () of h (H,)."""
        kernel = self.param("kernel", head_init, (h.shape[-1] + 1,))
        return h @ kernel[:-1] + kernel[-1]


class Network(nn.Module):
    """The whole network, for one element."""

    shape: Shape

    @nn.compact
    def __call__(self, state: Array, x: Array) -> tuple[Array, Array]:
        """Return (state' (2 L H,), logit ()) for state (2 L H,) and input x (F,)."""
        hidden, parts = self.shape.hidden, []
        for layer in range(self.shape.layers):
            h, c = jnp.split(state[2 * hidden * layer : 2 * hidden * (layer + 1)], 2)
            (h, c), x = PackedLSTMCell(hidden, name=f"layer_{layer}")((h, c), x)
            parts += [h, c]
        return jnp.concatenate(parts), Head(name="head")(x)
