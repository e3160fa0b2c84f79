"""A trained network between two frameworks, and its own arithmetic in float64.

Keras, PyTorch and Flax order the gates alike (i, f, g, o; Keras calls g "c"). A `SourceLayer` has
separate kernels (I, 4H) for the input and (H, 4H) for the state, and one bias (Keras), two
(PyTorch), or none. `SourceNetwork.logits` computes with these arrays; a conversion is compared
with it, also where the framework is not installed.

`pack` makes our packed kernels. Layers of unequal size are padded with idle units: their columns
are zero, so g = tanh(0) = 0, c stays 0 and h = 0, and the rows that read them are zero too. That
is exact. Two biases are added, and two scores subtracted, in float64 before one rounding to
float32.

The cell of Flax has a dense layer for each gate: `ii`, `if`, `ig`, `io` over the input, without
bias, and `hi`, `hf`, `hg`, `ho` over the state, with one. Its carry is (c, h); ours is (h, c).

The exported tensors:

```
torch   lstm.weight_ih_l{k} (4H, I)  lstm.weight_hh_l{k} (4H, H)  gates i, f, g, o
        lstm.bias_ih_l{k} (4H,)      lstm.bias_hh_l{k} (4H,) zero
        fc.weight (1, H)             fc.bias (1,)
flax    layer_{k}.ii.kernel (I, H) and if, ig, io; layer_{k}.hi.kernel (H, H), .bias (H,) and
        hf, hg, ho; head.kernel (H, 1), head.bias (1,)
```

The first fits `torch.nn.LSTM(F, H, L)` named lstm and `torch.nn.Linear(H, 1)` named fc; the second
is a `flax.linen.OptimizedLSTMCell` for each layer and a `flax.linen.Dense(1)`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from ..config import build
from ..errors import ConfigurationError, DataError
from ..schema import MAX_LAYERS
from ..typing import Float32s, Float64s

HeadActivation: TypeAlias = Literal["linear", "sigmoid", "softmax"]


class SourceLayer(NamedTuple):
    """One LSTM layer: `kernel` (I, 4H), `recurrent` (H, 4H), any number of `biases` (4H,)."""

    name: str
    kernel: Float64s
    recurrent: Float64s
    biases: tuple[Float64s, ...]

    @property
    def units(self) -> int:
        """Hidden units H."""
        return len(self.recurrent)


class SourceHead(NamedTuple):
    """The output layer: `kernel` (H, 1) or (H, 2), `bias` (1,) or (2,).

    One output is a logit, or a probability after a sigmoid. Two are the scores of "not positive"
    and "positive", in this order, before a softmax.
    """

    name: str
    kernel: Float64s
    bias: Float64s
    activation: HeadActivation


class SourceNetwork(NamedTuple):
    """A whole network.

    origin: its framework, such as "Keras 3.15.1 Sequential". window: elements of its input, None
    for any number. stateful: whether it keeps its state between calls. dtypes: of the stored
    numbers. exact: whether it computes in float32 or better. notes: for the user.
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

    def logits(self, xs: npt.ArrayLike) -> Float64s:
        """Return the logits (B, T) after each element of inputs xs (B, T, F), from zero states."""
        out = np.asarray(xs, np.float64)
        for layer in self.layers:
            out = _layer(layer, out)
        scores = out @ self.head.kernel + self.head.bias
        return scores[..., 1] - scores[..., 0] if scores.shape[-1] == 2 else scores[..., 0]


def check_sizes(path: Any, layers: tuple[SourceLayer, ...], head: SourceHead) -> None:
    """Raise DataError if a layer does not fit the one before it."""
    following: list[SourceLayer | SourceHead] = [*layers[1:], head]
    for below, above in zip(layers, following, strict=True):
        if len(above.kernel) != below.units:
            raise DataError(
                f"{path}: {above.name!r} takes {len(above.kernel)} inputs, but {below.name!r} "
                f"before it has {below.units} units"
            )


def sigmoid(z: Float64s) -> Float64s:
    """Return 1 / (1 + exp(-z)) without overflow."""
    with np.errstate(invalid="ignore"):  # NaN stays NaN
        return np.exp(-np.logaddexp(0.0, -z))


def _layer(layer: SourceLayer, xs: Float64s) -> Float64s:
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


Kernels: TypeAlias = dict[str, dict[str, Float32s]]


def pack(source: SourceNetwork) -> Kernels:
    """Return {layer: {"kernel": float32 array}} in the form of `model.network`.

    Raises DataError for a number that is not finite in float32, and for too many layers or units.
    """
    hidden = max(layer.units for layer in source.layers)
    if len(source.layers) > MAX_LAYERS:
        names = ", ".join(layer.name for layer in source.layers)
        raise DataError(
            f"the model has {len(source.layers)} LSTM layers ({names}); the limit is {MAX_LAYERS}"
        )
    try:
        build({"hidden": hidden})
    except ConfigurationError as error:
        raise DataError(f"the model has layers of {hidden} units: {error}") from None
    wide = {
        f"layer_{k}": _pack_layer(layer, hidden, padded=k > 0)
        for k, layer in enumerate(source.layers)
    }
    wide["head"] = _pack_head(source.head, hidden)
    return {name: {"kernel": _narrow(name, kernel)} for name, kernel in wide.items()}


def _pack_layer(layer: SourceLayer, hidden: int, *, padded: bool) -> Float64s:
    """Return (I + H + 1, 4H); `padded` if the input is the output of a padded layer."""
    units, inputs = layer.units, len(layer.kernel)
    rows = hidden if padded else inputs
    packed = np.zeros((rows + hidden + 1, 4, hidden))
    packed[:inputs, :, :units] = layer.kernel.reshape(inputs, 4, units)
    packed[rows : rows + units, :, :units] = layer.recurrent.reshape(units, 4, units)
    packed[-1, :, :units] = sum(layer.biases, np.zeros(4 * units)).reshape(4, units)
    return packed.reshape(rows + hidden + 1, 4 * hidden)


def _pack_head(head: SourceHead, hidden: int) -> Float64s:
    packed = np.zeros(hidden + 1)
    two = head.kernel.shape[1] == 2
    packed[: len(head.kernel)] = head.kernel[:, -1] - head.kernel[:, 0] * two
    packed[-1] = head.bias[-1] - head.bias[0] * two
    return packed


def _narrow(name: str, kernel: Float64s) -> Float32s:
    with np.errstate(over="ignore"):
        single = kernel.astype(np.float32)
    if not np.isfinite(single).all():
        raise DataError(f"the weights of {name} have a number that is not finite in float32")
    return single


def unpack(weights: Mapping[str, Mapping[str, Any]], origin: str) -> SourceNetwork:
    """Return packed weights as separate arrays in float64, one bias for each layer."""
    head = np.asarray(weights["head"]["kernel"], np.float64)
    hidden = len(head) - 1
    layers: list[SourceLayer] = []
    while (name := f"layer_{len(layers)}") in weights:
        kernel = np.asarray(weights[name]["kernel"], np.float64)
        cut = len(kernel) - hidden - 1
        layers.append(SourceLayer(name, kernel[:cut], kernel[cut:-1], (kernel[-1],)))
    linear = SourceHead("head", head[:-1, None], head[-1:], "linear")
    return SourceNetwork(origin, tuple(layers), linear)


GATES = "ifgo"


def to_flax(kernel: Any) -> dict[str, dict[str, Any]]:
    """Return the parameters of a cell for a packed kernel (I + H + 1, 4H)."""
    kernel = np.asarray(kernel)
    hidden = kernel.shape[1] // 4
    cut = len(kernel) - hidden - 1
    if cut < 1 or kernel.shape[1] != 4 * hidden:
        raise ValueError(f"a packed kernel is (I + H + 1, 4H), not {kernel.shape}")
    params: dict[str, dict[str, Any]] = {}
    for gate, part in zip(GATES, np.split(kernel, 4, axis=1), strict=True):
        params[f"i{gate}"] = {"kernel": part[:cut]}
        params[f"h{gate}"] = {"kernel": part[cut:-1], "bias": part[-1]}
    return params


def from_flax(params: Mapping[str, Mapping[str, Any]]) -> np.ndarray:
    """Return the packed kernel (I + H + 1, 4H) of a cell's parameters."""
    columns = []
    for gate in GATES:
        state = params[f"h{gate}"]
        parts = params[f"i{gate}"]["kernel"], state["kernel"], np.asarray(state["bias"])[None]
        columns.append(np.concatenate([np.asarray(part) for part in parts]))
    return np.concatenate(columns, axis=1)


def torch_tensors(weights: Mapping[str, Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """Return the state_dict of packed weights."""
    network = unpack(weights, "")
    tensors: dict[str, np.ndarray] = {}
    for k, layer in enumerate(network.layers):
        tensors[f"lstm.weight_ih_l{k}"] = layer.kernel.T
        tensors[f"lstm.weight_hh_l{k}"] = layer.recurrent.T
        tensors[f"lstm.bias_ih_l{k}"] = layer.biases[0]
        tensors[f"lstm.bias_hh_l{k}"] = np.zeros_like(layer.biases[0])
    tensors |= {"fc.weight": network.head.kernel.T, "fc.bias": network.head.bias}
    return _single(tensors)


def flax_tensors(weights: Mapping[str, Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """Return the parameters of packed weights, their path with dots."""
    tensors: dict[str, np.ndarray] = {}
    for name, body in weights.items():
        if name == "head":
            kernel = np.asarray(body["kernel"])
            tensors |= {"head.kernel": kernel[:-1, None], "head.bias": kernel[-1:]}
            continue
        for gate, parameters in to_flax(body["kernel"]).items():
            tensors |= {f"{name}.{gate}.{part}": value for part, value in parameters.items()}
    return _single(tensors)


def flax_logits(tensors: Mapping[str, np.ndarray], xs: Any) -> Any:
    """Return the logits (B, T) of Flax's own cells with these parameters, over xs (B, T, F)."""
    import flax.linen as nn
    import jax
    import jax.numpy as jnp

    nested: dict[str, dict[str, Any]] = {}
    for name, value in tensors.items():
        *modules, part = name.split(".")
        node = nested
        for module in modules:
            node = node.setdefault(module, {})
        node[part] = value  # type: ignore[assignment]
    head = nested.pop("head")
    cell = nn.OptimizedLSTMCell(len(head["kernel"]))
    zero = jnp.zeros((len(head["kernel"]),))

    def one(xs: Any) -> Any:
        for k in range(len(nested)):
            params = {"params": nested[f"layer_{k}"]}
            step = lambda carry, x, params=params: cell.apply(params, carry, x)  # noqa: E731
            xs = jax.lax.scan(step, (zero, zero), xs)[1]
        scores: Any = nn.Dense(1).apply({"params": head}, xs)
        return scores[:, 0]

    return np.asarray(jax.jit(lambda many: jax.lax.map(one, many))(xs), np.float64)


def _single(tensors: Mapping[str, Any]) -> dict[str, np.ndarray]:
    return {name: np.ascontiguousarray(value, np.float32) for name, value in tensors.items()}
