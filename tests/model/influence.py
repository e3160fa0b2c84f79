"""How logits depend on weights, in float64 NumPy: forward, one element after the other.

`Influence` carries d(state)/d(weights) as a dense matrix, (2 L H, P), by the chain rule of every
element: J' = D J + I. Nothing of it is shared with the code, which goes backward through tapes.
"""

from __future__ import annotations

import numpy as np

from .oracle import F64, Kernels, run

STEP = 1e-6


def flat(kernels: Kernels) -> F64:
    """The weights of all layers, then the head, in the order of their names."""
    return np.concatenate([kernels[name].ravel() for name in _names(kernels)])


def unflat(vector: F64, like: Kernels) -> Kernels:
    """The inverse of `flat`."""
    out, at = {}, 0
    for name in _names(like):
        out[name] = vector[at : at + like[name].size].reshape(like[name].shape)
        at += like[name].size
    return out


def _names(kernels: Kernels) -> list[str]:
    return [*sorted(name for name in kernels if name != "head"), "head"]


def after(kernels: Kernels, x: F64, state: F64) -> F64:
    """The state after one element."""
    return run(kernels, x[None], state)[1][-1]


def slope(function: object, at: F64) -> F64:
    """Central differences of a vector function, one column for each entry of `at`: error 1e-9."""
    columns = []
    for k in range(len(at)):
        moved = [at.copy(), at.copy()]
        moved[0][k] += STEP
        moved[1][k] -= STEP
        columns.append((function(moved[0]) - function(moved[1])) / (2 * STEP))  # type: ignore[operator]
    return np.array(columns).T


def element(kernels: Kernels, x: F64, state: F64) -> tuple[F64, F64]:
    """(D, I): how the next state depends on this one (S, S) and on the weights (S, P)."""
    direct = slope(lambda w: after(unflat(w, kernels), x, state), flat(kernels))
    return slope(lambda s: after(kernels, x, s), state), direct


def own_only(kernels: Kernels, size: int, layers: int) -> tuple[F64, F64]:
    """Masks (S, S) of a unit's own h and c, and (S, P) of a unit's own weights."""
    hidden = size // (2 * layers)
    unit = np.array(
        [layer * hidden + u for layer in range(layers) for _ in "hc" for u in range(hidden)]
    )
    owners = [
        layer * hidden + np.tile(np.arange(4 * hidden) % hidden, len(kernels[f"layer_{layer}"]))
        for layer in range(layers)
    ]
    of = np.concatenate([*owners, np.full(hidden + 1, -1)])
    return (unit[:, None] == unit) * 1.0, (unit[:, None] == of) * 1.0


def logit_slope(kernels: Kernels, state: F64, influence: F64) -> F64:
    """How the logit after a state depends on every weight, given how the state does."""
    head, hidden = kernels["head"], len(kernels["head"]) - 1
    top = slice(len(state) - 2 * hidden, len(state) - hidden)
    out = head[:-1] @ influence[top]
    out[-hidden - 1 :] += [*state[top], 1.0]
    return out
