"""The node-decoupled extended Kalman filter, as an optax transformation with extra arguments.

The weights are an unknown that each observed logit tells about. A node is what has one
pre-activation: a column of a packed kernel, or the head; each has a covariance P (J, J) of its
own, and covariances between nodes are taken as zero. For M logits observed together, with
sensitivities G (M, J) at a node, innovations e (M,) and noise r (M,), both in logits:

```
K = G P                        of each node
S = diag(r) + sum over nodes of K G^T
weights += K^T S^-1 e
P -= K^T S^-1 K;  P += q I
```

M logits at once are the update of the undecoupled filter from these P, whose blocks are kept; for
one node that is what one after another would give, the sensitivities staying as they are. There
is no learning rate: P_0 says how far the weights may be from where they start, and q how fast
what is sought may move.

For a Bernoulli output with probability p and label y, e = (y - p) / v and r = 1 / v with
v = p (1 - p), which `logistic_innovation` gives.

Source: Puskorius and Feldkamp, "Neurocontrol of nonlinear dynamical systems with Kalman filter
trained recurrent networks", 1994; Perez-Ortiz et al., "Kalman filters improve LSTM network
performance in problems unsolvable by traditional recurrent nets", 2003.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from .cell import Array

MAX_TOGETHER = 16
"""Logits taken at once; more are taken in turns of as many, which keeps S small."""

VARIANCE_FLOOR = 0.02
"""A prediction that is nearly certain and wrong must not count as infinitely informative."""

LEAST_VARIANCE = 1e-9
"""Rounding must not take a variance of P below zero."""


class KalmanState(NamedTuple):
    """`covariance`: for each leaf (J, U) of the weights (J, J, U), for (J,) (J, J); float32."""

    covariance: Any


def logistic_innovation(logits: Array, labels: Array, share: Array) -> tuple[Array, Array]:
    """Return innovations and noise (M,) of labels (M,), each counted `share` (M,) times."""
    p = jax.nn.sigmoid(logits)
    variance = jnp.maximum(p * (1.0 - p), VARIANCE_FLOOR)
    return (labels - p) / variance, 1.0 / (variance * jnp.maximum(share, 1e-6))


def dekf(*, p0: float = 1.0, q: float = 1e-6) -> optax.GradientTransformationExtraArgs:
    """Return the filter with initial variance `p0` and process noise `q` per update.

    Its `update` takes the sensitivities of M logits, a pytree like the weights with a leading
    axis of M, in place of a gradient, and wants `innovation` (M,) and `noise` (M,).
    """

    def init(params: Any) -> KalmanState:
        return KalmanState(jax.tree.map(lambda leaf: _initial(leaf, p0), params))

    def update(
        updates: Any,
        state: KalmanState,
        params: Any = None,
        *,
        innovation: Array,
        noise: Array,
        **extra: Any,
    ) -> tuple[Any, KalmanState]:
        del params, extra
        leaves, structure = jax.tree.flatten(updates)
        covariances = jax.tree.leaves(state.covariance)
        changes = [jnp.zeros_like(leaf[0]) for leaf in leaves]
        for start in range(0, len(innovation), MAX_TOGETHER):
            part = slice(start, start + MAX_TOGETHER)
            seen = [leaf[part] for leaf in leaves]
            # What the turns before have explained already.
            known = sum(_dot(g, c) for g, c in zip(seen, changes, strict=True))
            left = innovation[part] - known
            more, covariances = _observe(seen, covariances, left, noise[part])
            changes = [c + m for c, m in zip(changes, more, strict=True)]
        covariances = [_drift(p, q) for p in covariances]
        new = jax.tree.unflatten(jax.tree.structure(state.covariance), covariances)
        return jax.tree.unflatten(structure, changes), KalmanState(new)

    return optax.GradientTransformationExtraArgs(init, update)


def _initial(leaf: Array, p0: float) -> Array:
    """Return the covariance of a leaf, made with NumPy: nothing has to be compiled for it."""
    size = leaf.shape[0]
    eye = np.float32(p0) * np.eye(size, dtype=leaf.dtype)
    whole = eye if leaf.ndim == 1 else np.tile(eye[:, :, None], (1, 1, leaf.shape[1]))
    made: Array = jax.device_put(whole)
    return made


def _observe(
    seen: list[Array], covariances: list[Array], innovation: Array, noise: Array
) -> tuple[list[Array], list[Array]]:
    """Return (change of each leaf, covariance' of each leaf) after M logits."""
    turns = jnp.sum(noise > 0, dtype=jnp.int32)
    gains = [_gain(g, p, turns) for g, p in zip(seen, covariances, strict=True)]
    count = len(innovation)
    spread = jnp.diag(noise) + sum(
        g.reshape(count, -1) @ k.reshape(count, -1).T for g, k in zip(seen, gains, strict=True)
    )
    inverse = jnp.linalg.inv(spread)
    scaled = [(inverse @ k.reshape(count, -1)).reshape(k.shape) for k in gains]
    changes = [jnp.tensordot(innovation, d, 1) for d in scaled]
    pairs = zip(covariances, scaled, gains, strict=True)
    return changes, [p - _outer(d, k) for p, d, k in pairs]


def _gain(seen: Array, covariance: Array, count: Array) -> Array:
    """Return K (M, J, U) of sensitivities (M, J, U) and a covariance (J, J, U).

    Nodes are the last axis, so that each sum is one pass over whole vectors; a batched product
    of small matrices takes three times as long. `count` () is M as a number that the compiler
    does not know: it would put the sums of a short loop into each element of what uses K.
    """
    if covariance.ndim == 2:
        return seen @ covariance
    size = covariance.shape[0]

    def turn(a: Array, gains: Array) -> Array:
        g = lax.dynamic_index_in_dim(seen, a, keepdims=False)
        gain = functools.reduce(jnp.add, [covariance[j] * g[j] for j in range(size)])
        new: Array = lax.dynamic_update_index_in_dim(gains, gain, a, 0)
        return new

    out: Array = lax.fori_loop(0, count, turn, jnp.zeros_like(seen))
    return out


def _outer(scaled: Array, gains: Array) -> Array:
    """Return the sum over M of scaled_i gains_j, (J, J) or (J, J, U)."""
    if gains.ndim == 2:
        return scaled.T @ gains
    pairs = zip(scaled, gains, strict=True)
    out: Array = functools.reduce(jnp.add, [d[:, None, :] * k[None, :, :] for d, k in pairs])
    return out


def _drift(covariance: Array, q: float) -> Array:
    eye = jnp.eye(covariance.shape[0], dtype=bool)
    diagonal = eye if covariance.ndim == 2 else eye[:, :, None]
    return jnp.where(diagonal, jnp.maximum(covariance, LEAST_VARIANCE) + q, covariance)


def _dot(seen: Array, change: Array) -> Array:
    return seen.reshape(len(seen), -1) @ change.reshape(-1)
