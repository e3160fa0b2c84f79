"""Optimisers by name with their arguments, the check of an update, and the Kalman filter.

**The check** rejects an update if any number that it touches is not finite, or if it is too large.
`optax.apply_if_finite` checks the gradients only, and accepts a bad update after a number of
rejections. A large update is rejected, not scaled down: the optimiser's state is as wrong as the
step, and a rejection can be counted.

**The filter** is the node-decoupled extended Kalman filter, as an optax transformation with extra
arguments. The weights are an unknown, and each observed logit is evidence about it. A node has one
pre-activation: it is a column of a packed kernel, or the head. Each node has a covariance P (J,
J); covariances between nodes are taken as zero. For M logits observed together, with sensitivities
G (M, J) at a node, innovations e (M,) and noise r (M,), both in logits:

```
K = G P                        of each node
S = diag(r) + sum over nodes of K G^T
weights += K^T S^-1 e
P -= K^T S^-1 K;  P += q I
```

M logits together give the update of the undecoupled filter from these P, whose diagonal blocks are
kept. For a single node, updates by one logit after another would give the same, at fixed
sensitivities. There is no learning rate: P_0 is the prior variance of the weights around their
start, and q how fast the true weights may move.

For a Bernoulli output with probability p and label y, e = (y - p) / v and r = 1 / v with
v = p (1 - p); see `logistic_innovation`.

Sources: Puskorius and Feldkamp, "Neurocontrol of nonlinear dynamical systems with Kalman filter
trained recurrent networks", 1994; Perez-Ortiz et al., "Kalman filters improve LSTM network
performance in problems unsolvable by traditional recurrent nets", 2003.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from ..config import nearest
from ..errors import ConfigurationError
from ..schema import LearningConfig
from .network import Array

Tree = TypeVar("Tree")

ACCEPTED, NOT_FINITE, UPDATE_TOO_LARGE, WEIGHTS_TOO_LARGE = 1.0, 0.0, -1.0, -2.0
"""Outcomes of an update, in its info."""

LARGEST = 2.0**127


class Caps(NamedTuple):
    """Largest root mean squares of an update's changes and of the weights; infinite for no cap.

    A root mean square is a norm over the root of the number of weights, so a cap means the same
    for a network of any size.
    """

    update: float
    weights: float

    @classmethod
    def of(cls, config: LearningConfig) -> Caps:
        """Return the caps of a configuration."""
        return cls(config.max_update or math.inf, config.max_weights or math.inf)

    def judge(self, sound: Array, changes: Array, weights: Array, count: int) -> Array:
        """Return the outcome of an update, float32 ().

        sound: whether all else is finite, (). changes, weights: the norms () of the `count`
        changes and new weights; a norm that overflows is too large, also without a cap.
        """
        root = math.sqrt(count)
        update, most = (min(cap * root, LARGEST) for cap in self)
        sound &= ~(jnp.isnan(changes) | jnp.isnan(weights))
        large = jnp.where(weights <= most, ACCEPTED, WEIGHTS_TOO_LARGE)
        large = jnp.where(changes <= update, large, UPDATE_TOO_LARGE)
        return jnp.where(sound, large, NOT_FINITE).astype(jnp.float32)


def size_of(tree: Any) -> int:
    """Return the number of elements in a tree."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def all_finite(*trees: Any) -> Array:
    """Return a boolean () that is True where every floating-point leaf is finite."""
    leaves = [leaf for leaf in jax.tree.leaves(trees) if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    # x * 0 is 0 only for finite x, and a sum is one pass where isfinite().all() is two.
    return jnp.asarray(sum(_total(leaf, lambda row: row * 0.0) for leaf in leaves) == 0.0)


def norm(tree: Any) -> Array:
    """Return the Euclidean norm () of all leaves together."""
    return jnp.sqrt(sum(_total(leaf, jnp.square) for leaf in jax.tree.leaves(tree)))


def _total(array: Array, of: Callable[[Array], Array]) -> Array:
    """Return the sum () of `of` over the rows of an array.

    Row by row, with one sum for each column: XLA's code for one large sum in a loop takes ten
    times as long.
    """
    if array.ndim < 2:
        return jnp.sum(of(array))
    rows = array.reshape(-1, array.shape[-1])

    def add(k: Array, sums: Array) -> Array:
        return sums + of(lax.dynamic_index_in_dim(rows, k, 0, keepdims=False))

    return jnp.sum(lax.fori_loop(0, len(rows), add, jnp.zeros_like(rows[0])))


def choose(accepted: Array, new: Tree, old: Tree) -> Tree:
    """Return `new` where `accepted` (), else `old`, leaf by leaf."""
    chosen: Tree = jax.tree.map(lambda a, b: jnp.where(accepted, a, b), new, old)
    return chosen


MAX_TOGETHER = 16
"""Logits observed together; more are observed in turns of as many, which keeps S small."""

VARIANCE_FLOOR = 0.02
"""A wrong prediction that is nearly certain must not be infinitely informative."""

LEAST_VARIANCE = 1e-9
"""Rounding must not make a variance of P negative."""


class KalmanState(NamedTuple):
    """`covariance`: float32 (J, J, U) for a leaf (J, U) of the weights, and (J, J) for (J,)."""

    covariance: Any


def logistic_innovation(logits: Array, labels: Array, label_weights: Array) -> tuple[Array, Array]:
    """Return innovations and noise (M,) of weighted labels (M,)."""
    p = jax.nn.sigmoid(logits)
    variance = jnp.maximum(p * (1.0 - p), VARIANCE_FLOOR)
    return (labels - p) / variance, 1.0 / (variance * jnp.maximum(label_weights, 1e-6))


def dekf(*, p0: float = 1.0, q: float = 1e-6) -> optax.GradientTransformationExtraArgs:
    """Return the filter with initial variance `p0` and process noise `q` per update.

    Its `update` takes the sensitivities of M logits, a tree like the weights with a leading axis
    of M, instead of a gradient, and also `innovation` (M,) and `noise` (M,).
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
            rows = [leaf[part] for leaf in leaves]
            # The turns before explain a part of the innovation.
            known = sum(
                g.reshape(len(g), -1) @ c.reshape(-1) for g, c in zip(rows, changes, strict=True)
            )
            more, covariances = _observe(rows, covariances, innovation[part] - known, noise[part])
            changes = [c + m for c, m in zip(changes, more, strict=True)]
        covariances = [_drift(p, q) for p in covariances]
        new = jax.tree.unflatten(jax.tree.structure(state.covariance), covariances)
        return jax.tree.unflatten(structure, changes), KalmanState(new)

    return optax.GradientTransformationExtraArgs(init, update)


def _initial(leaf: Array, p0: float) -> Array:
    """Return the first covariance of a leaf; NumPy makes it, since JAX would compile a program."""
    eye = np.float32(p0) * np.eye(leaf.shape[0], dtype=leaf.dtype)
    whole = eye if leaf.ndim == 1 else np.tile(eye[:, :, None], (1, 1, leaf.shape[1]))
    out: Array = jax.device_put(whole)
    return out


def _observe(
    rows: list[Array], covariances: list[Array], innovation: Array, noise: Array
) -> tuple[list[Array], list[Array]]:
    """Return (change of each leaf, covariance' of each leaf) after M logits."""
    turns = jnp.sum(noise > 0, dtype=jnp.int32)
    gains = [_gain(g, p, turns) for g, p in zip(rows, covariances, strict=True)]
    count = len(innovation)
    spread = jnp.diag(noise) + sum(
        g.reshape(count, -1) @ k.reshape(count, -1).T for g, k in zip(rows, gains, strict=True)
    )
    inverse = jnp.linalg.inv(spread)
    scaled = [(inverse @ k.reshape(count, -1)).reshape(k.shape) for k in gains]
    changes = [jnp.tensordot(innovation, d, 1) for d in scaled]
    triples = zip(covariances, scaled, gains, strict=True)
    return changes, [p - _outer(d, k) for p, d, k in triples]


def _gain(rows: Array, covariance: Array, count: Array) -> Array:
    """Return K (M, J, U) of sensitivities (M, J, U) and a covariance (J, J, U).

    Nodes are the last axis, so each sum is one pass over whole vectors; a batched product of small
    matrices takes three times as long. `count` () is M as data: if the compiler knew it, it would
    repeat the sums of a short loop at each use of K.
    """
    if covariance.ndim == 2:
        return rows @ covariance
    size = covariance.shape[0]

    def turn(a: Array, gains: Array) -> Array:
        g = lax.dynamic_index_in_dim(rows, a, keepdims=False)
        gain = functools.reduce(jnp.add, [covariance[j] * g[j] for j in range(size)])
        new: Array = lax.dynamic_update_index_in_dim(gains, gain, a, 0)
        return new

    out: Array = lax.fori_loop(0, count, turn, jnp.zeros_like(rows))
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


KALMAN = "dekf"
"""The optimiser that takes sensitivities instead of a gradient."""

FLAGS = {"true": True, "false": False}


def known_optimizers() -> tuple[str, ...]:
    """Return the names of optax factories that take a learning rate, and of the filter."""
    return tuple(sorted([KALMAN, *(name for name in vars(optax) if _factory(name) is not None)]))


def _factory(name: str) -> Callable[..., optax.GradientTransformation] | None:
    candidate = vars(optax).get(name)
    # `scale_by_*` are parts of optimisers; some of them ascend on their own.
    if name.startswith(("_", "scale_by_")) or not inspect.isfunction(candidate):
        return None
    parameters = inspect.signature(candidate).parameters
    required = [p.name for p in parameters.values() if p.default is p.empty]
    takes_rate = next(iter(parameters), "") == "learning_rate"
    return candidate if takes_rate and set(required) <= {"learning_rate"} else None


def build_kalman(config: LearningConfig) -> optax.GradientTransformationExtraArgs:
    """Return the Kalman filter with the configured arguments.

    Raises ConfigurationError for an unknown argument or an invalid value.
    """
    arguments = _arguments(config.optimizer_args, KALMAN, dekf)
    for name, value in arguments.items():
        if isinstance(value, bool) or not 0 <= value < 1e6 or (name == "p0" and value == 0):
            raise ConfigurationError(
                f"optimizer_args: {name}={value} is not a variance: dekf needs p0 > 0 and q >= 0",
                key="optimizer_args",
            )
    return dekf(**arguments)


def build_optimizer(
    config: LearningConfig, name: str | None = None, rate: float | None = None
) -> optax.GradientTransformation:
    """Return an optimiser of optax with the configured arguments, behind gradient clipping.

    `name` and `rate` override `optimizer`, whose arguments are then unused, and `learning_rate`.

    Raises ConfigurationError for a name that optax does not have, for an optimiser that needs more
    than gradients (a line search, say), and for arguments that it does not take.
    """
    chosen = config.optimizer if name is None else name
    factory = _factory(chosen)
    if factory is None:
        hint = nearest(chosen, known_optimizers()) or "; for example dekf, adam, sgd or rmsprop"
        raise ConfigurationError(
            f"optimizer = {chosen!r} is not an optimiser of optax that needs only a learning "
            f"rate{hint}",
            key="optimizer" if name is None else "train_optimizer",
        )
    arguments = _arguments(config.optimizer_args, chosen, factory) if name is None else {}
    try:
        optimizer = factory(config.learning_rate if rate is None else rate, **arguments)
        clip = [_clip_by_norm(config.clip_norm)] if config.clip_norm > 0 else []
        chained: optax.GradientTransformation = optax.chain(*clip, optimizer)
    except (TypeError, ValueError) as error:
        raise ConfigurationError(
            f"optimizer_args: {chosen} rejects them: {error}", key="optimizer_args"
        ) from None
    _probe(chosen, chained)
    return chained


def _clip_by_norm(limit: float) -> optax.GradientTransformation:
    """Do the same as `optax.clip_by_global_norm`, with a norm that is fast in a loop."""

    def init(_: Any) -> optax.EmptyState:
        return optax.EmptyState()

    def update(
        updates: Any, state: optax.EmptyState, _: Any = None
    ) -> tuple[Any, optax.EmptyState]:
        size = norm(updates)
        factor = jnp.where(size < limit, 1.0, limit / size)
        return jax.tree.map(lambda leaf: leaf * factor, updates), state

    return optax.GradientTransformation(init, update)


def _arguments(
    texts: Sequence[str], name: str, factory: Callable[..., Any]
) -> Mapping[str, float | bool]:
    """Return {argument: value} of NAME=VALUE texts for the parameters of a factory."""
    known = [p for p in inspect.signature(factory).parameters if p != "learning_rate"]
    arguments: dict[str, float | bool] = {}
    for text in texts:
        argument, equals, value = (part.strip() for part in text.partition("="))
        fault = ""
        if not equals:
            fault = f"{text!r} has no value; write NAME=NUMBER, such as b1=0.9"
        elif argument not in known:
            hint = nearest(argument, known) or f"; it has {', '.join(known) or 'none'}"
            fault = f"{name} has no argument {argument!r}{hint}; write NAME=NUMBER"
        else:
            try:
                arguments[argument] = FLAGS[value] if value in FLAGS else float(value)
                if not math.isfinite(arguments[argument]):
                    fault = f"{argument}={value} is not a finite number"
            except ValueError:
                fault = f"{argument}={value} is not a number, true or false"
        if fault:
            raise ConfigurationError(f"optimizer_args: {fault}", key="optimizer_args")
    return arguments


def _probe(name: str, optimizer: optax.GradientTransformation) -> None:
    """Raise ConfigurationError if an update needs more than gradients; computes nothing."""
    tree: Any = {"layer_0": {"kernel": np.ones((2, 4))}, "head": {"kernel": np.ones((2,))}}
    try:
        jax.eval_shape(lambda t: optimizer.update(t, optimizer.init(t), t), tree)
    except (TypeError, ValueError) as error:
        raise ConfigurationError(
            f"optimizer = {name!r} needs more than gradients ({error}); use another one",
            key="optimizer",
        ) from None
