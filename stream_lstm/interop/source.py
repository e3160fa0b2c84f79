"""A trained network as another framework wrote it, and its own arithmetic in float64.

Keras, PyTorch and Flax order the gates alike (i, f, g, o; Keras calls g "c"), and differ in how
they hold them: a layer here has separate kernels (I, 4H) for the input and (H, 4H) for the state,
and one bias (Keras) or two (PyTorch), or none. `logits` computes with these arrays as they are,
and so is what a conversion is compared with where the framework itself is not installed.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from ..errors import DataError

F64: TypeAlias = npt.NDArray[np.float64]
HeadActivation: TypeAlias = Literal["linear", "sigmoid", "softmax"]


class SourceLayer(NamedTuple):
    """One LSTM layer: `kernel` (I, 4H), `recurrent` (H, 4H), `biases` none or more of (4H,)."""

    name: str
    kernel: F64
    recurrent: F64
    biases: tuple[F64, ...]

    @property
    def units(self) -> int:
        """Hidden units H."""
        return len(self.recurrent)


class SourceHead(NamedTuple):
    """The layer that makes the output: `kernel` (H, 1) or (H, 2), `bias` (1,) or (2,).

    Two outputs are the scores of "not positive" and "positive", in this order, of which a softmax
    is taken; one is a logit, with or without the sigmoid that makes a probability of it.
    """

    name: str
    kernel: F64
    bias: F64
    activation: HeadActivation


class SourceNetwork(NamedTuple):
    """A whole network.

    origin: what wrote it, such as "Keras 3.15.1 Sequential". window: elements of its input, None
    where it takes any number. stateful: whether its state outlives a call. dtypes: of the stored
    numbers. exact: whether it computed in float32 or better. notes: what the user must know.
    """

    origin: str
    layers: tuple[SourceLayer, ...]
    head: SourceHead
    window: int | None = None
    stateful: bool = False
    dtypes: tuple[str, ...] = ("float32",)
    exact: bool = True
    notes: tuple[str, ...] = ()

    @property
    def features(self) -> int:
        """Features F of an element."""
        return len(self.layers[0].kernel)

    def logits(self, xs: npt.ArrayLike) -> F64:
        """Return the logits (B, T) after each element of inputs xs (B, T, F), from zero states."""
        out = np.asarray(xs, np.float64)
        for layer in self.layers:
            out = _layer(layer, out)
        scores = out @ self.head.kernel + self.head.bias
        return scores[..., 1] - scores[..., 0] if scores.shape[-1] == 2 else scores[..., 0]


def check_sizes(path: Any, layers: tuple[SourceLayer, ...], head: SourceHead) -> None:
    """Raise DataError where a layer does not take what the one before it gives."""
    following: list[SourceLayer | SourceHead] = [*layers[1:], head]
    for below, above in zip(layers, following, strict=True):
        if len(above.kernel) != below.units:
            raise DataError(
                f"{path}: {above.name!r} takes {len(above.kernel)} inputs, and {below.name!r} "
                f"before it has {below.units} units"
            )


def sigmoid(z: F64) -> F64:
    """Return 1 / (1 + exp(-z)) without overflow."""
    with np.errstate(invalid="ignore"):  # what is not a number stays that
        return np.exp(-np.logaddexp(0.0, -z))


def _layer(layer: SourceLayer, xs: F64) -> F64:
    """Return the outputs (B, T, H) over inputs xs (B, T, I)."""
    h = np.zeros((len(xs), layer.units))
    c, hs = h, np.zeros((*xs.shape[:2], layer.units))
    for t in range(xs.shape[1]):
        z = xs[:, t] @ layer.kernel + h @ layer.recurrent
        for bias in layer.biases:
            z = z + bias
        i, f, g, o = np.split(z, 4, axis=1)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = hs[:, t] = sigmoid(o) * np.tanh(c)
    return hs
