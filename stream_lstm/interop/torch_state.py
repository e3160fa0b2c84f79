"""A PyTorch `state_dict` of LSTM layers and a linear head as a `SourceNetwork`.

```
PREFIX.weight_ih_l{k} (4H, I)   PREFIX.weight_hh_l{k} (4H, H)   gates i, f, g, o
PREFIX.bias_ih_l{k}, PREFIX.bias_hh_l{k} (4H,)                  both are added
PREFIX.weight (1 or 2, H), PREFIX.bias (1 or 2,)                the linear layer
```

`LSTMCell` has the same names without `_l{k}`. Any prefixes are accepted. A state_dict does not
contain the order of its modules, so several modules must have names that differ only in a number
(`lstm1`, `lstm2`).

A `.safetensors` file is read directly. A `.pt` or `.pth` file is a pickle, which can contain a
program: it is read only by PyTorch's loader that builds tensors and plain containers and nothing
else, if PyTorch is installed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors
import safetensors.numpy

from ..errors import DataError, InputMissingError, OutputError, UsageError
from ..feed.reader import check_plain
from ..store.weights import FORMAT
from ..typing import Float64s
from .extras import installed
from .source import SourceHead, SourceLayer, SourceNetwork, check_sizes

SUFFIXES = (".safetensors", ".pt", ".pth")

NESTED = ("state_dict", "model_state_dict", "model")
"""Keys of a state_dict in a larger checkpoint."""


def read_tensors(path: Path) -> dict[str, np.ndarray]:
    """Return {name: array} of a file.

    Raises UsageError for our own weights and if PyTorch is missing, InputMissingError,
    OutputError, and DataError for a damaged file or one with more than tensors.
    """
    check_plain(path, directories=False)
    try:
        path.open("rb").close()
        if path.suffix.lower() == ".safetensors":
            return _safetensors(path)
        return _torch(path)
    except FileNotFoundError:
        raise InputMissingError(f"no such model: {path}") from None
    except OSError as error:
        raise OutputError(f"cannot read {path}: {error.strerror or error}") from None


def _safetensors(path: Path) -> dict[str, np.ndarray]:
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            if dict(file.metadata() or {}).get("format") == FORMAT:
                raise UsageError(
                    f"{path} has weights of this program already: use it with --weights"
                )
            # For bfloat16, which NumPy does not have, the library raises a TypeError.
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (safetensors.SafetensorError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{path} is damaged or not a .safetensors file: {error}") from None


def _torch(path: Path) -> dict[str, np.ndarray]:
    torch = installed("torch")
    if torch is None:
        raise UsageError(
            f"{path}: a {path.suffix} file needs PyTorch, which is not installed. Where it is, "
            "run safetensors.torch.save_file(model.state_dict(), 'm.safetensors'), and import that"
        )
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the loader's errors have no common type
        # The loader's own message advises to run the code in the file.
        raise DataError(
            f"{path} is damaged, or has more than tensors, which is not executed here; save "
            f"model.state_dict() ({type(error).__name__})"
        ) from None
    for key in NESTED:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
            break
    if not isinstance(content, Mapping):
        raise DataError(f"{path} has a {type(content).__name__} instead of a state_dict")
    return {name: _array(path, name, tensor, torch) for name, tensor in content.items()}


def _array(path: Path, name: Any, tensor: Any, torch: Any) -> np.ndarray:
    if not isinstance(name, str) or not isinstance(tensor, torch.Tensor) or tensor.is_complex():
        raise DataError(f"{path}: {name!r} is not a tensor of numbers; save model.state_dict()")
    exact = tensor.detach()
    small = not exact.is_floating_point() or exact.dtype in (torch.float32, torch.float64)
    return np.asarray((exact if small else exact.float()).numpy())


RECURRENT = re.compile(
    r"(?P<module>(?:.*\.)?)(?P<part>weight|bias)_(?P<kind>ih|hh|hr)(?P<tail>.*)"
)
TAIL = re.compile(r"(?:_l(?P<layer>\d+))?(?P<reverse>_reverse)?")
NUMBER = re.compile(r"\d+")

NOTES = {
    1: "the output of {!r} is used as the logit of a positive next element",
    2: "the second output of {!r} is used as the score of a positive next element",
}


class _Place(NamedTuple):
    """The module and the layer of a tensor; sorted, places are in the order of use."""

    numbers: tuple[int, ...]
    layer: int
    module: str


def torch_network(path: Any, tensors: Mapping[str, Any], origin: str) -> SourceNetwork:
    """Return the network of a state_dict {name: array}; DataError names an unsupported part.

    path: for messages. origin: the framework of the file.
    """
    places: dict[_Place, dict[str, Float64s]] = {}
    others: dict[str, Float64s] = {}
    for name, tensor in tensors.items():
        array = np.asarray(tensor, np.float64)
        match = RECURRENT.fullmatch(name)
        if match is None:
            others[name] = array
        else:
            parts = places.setdefault(_place(path, name, match), {})
            parts[f"{match['part']}_{match['kind']}"] = array
    if not places:
        names = ", ".join(sorted(tensors)[:8]) or "none"
        raise DataError(f"{path} has no LSTM: its tensors are {names}")
    if len({NUMBER.sub("", place.module) for place in places}) > 1:
        names = ", ".join(sorted({place.module for place in places}))
        raise DataError(
            f"{path} has the modules {names}, in an unknown order; give them names that differ "
            "only in a number (lstm1, lstm2)"
        )
    layers = tuple(_layer(path, place, places[place]) for place in sorted(places))
    head = _head(path, others)
    check_sizes(path, layers, head)
    note = NOTES[len(head.bias)].format(head.name)
    dtypes = tuple(sorted({str(np.asarray(tensor).dtype) for tensor in tensors.values()}))
    return SourceNetwork(origin, layers, head, dtypes=dtypes, notes=(note,))


def _place(path: Any, name: str, match: re.Match[str]) -> _Place:
    tail = TAIL.fullmatch(match["tail"])
    if tail is None:
        raise DataError(f"{path}: the tensor {name!r} does not belong to a known layer")
    if tail["reverse"]:
        raise DataError(
            f"{path}: {name!r} belongs to a bidirectional LSTM, which also reads the series "
            "backwards; a live series has no end to start from"
        )
    if match["kind"] == "hr":
        raise DataError(
            f"{path}: {name!r} belongs to an LSTM with proj_size, which is not supported"
        )
    module = match["module"].removesuffix(".")
    numbers = tuple(int(number) for number in NUMBER.findall(module))
    return _Place(numbers, int(tail["layer"] or 0), module)


def _layer(path: Any, place: _Place, parts: Mapping[str, Float64s]) -> SourceLayer:
    name = f"{place.module or 'lstm'} layer {place.layer}"
    for part in ("weight_ih", "weight_hh"):
        if part not in parts or parts[part].ndim != 2 or not parts[part].size:
            raise DataError(f"{path}: {name} has no matrix {part}")
    rows, units = parts["weight_hh"].shape
    if rows != 4 * units:
        kind = {3: "a GRU", 1: "a plain RNN"}.get(rows // units, "not an LSTM")
        raise DataError(f"{path}: {name} is {kind}: weight_hh has the shape {(rows, units)}")
    biases = tuple(parts[part] for part in ("bias_ih", "bias_hh") if part in parts)
    for part, array in (("weight_ih", parts["weight_ih"]), *(("bias", b) for b in biases)):
        if len(array) != rows or array.ndim != (2 if part == "weight_ih" else 1):
            raise DataError(
                f"{path}: {name}: {part} has the shape {array.shape}, not ({rows}, ..)"
            )
    return SourceLayer(name, parts["weight_ih"].T, parts["weight_hh"].T, biases)


def _head(path: Any, tensors: Mapping[str, Float64s]) -> SourceHead:
    matrices = [name for name, array in tensors.items() if array.ndim == 2]
    if not matrices:
        raise DataError(f"{path} has no linear layer with one output after its LSTM")
    name = matrices[0]
    module = name.removesuffix("weight").removesuffix(".")
    bias = f"{module}.bias" if module else "bias"
    rest = sorted(set(tensors) - {name, bias})
    if len(matrices) > 1 or rest or not name.endswith("weight"):
        odd = [other for other in (*matrices, *rest) if other != name][:1] or [name]
        raise DataError(
            f"{path}: the tensor {odd[0]!r} belongs to an unsupported layer: the network must "
            "have LSTM layers and one linear layer; see 'stream-lstm help interop'"
        )
    kernel = tensors[name]
    if len(kernel) not in (1, 2):
        raise DataError(f"{path}: {name!r} has {len(kernel)} outputs, not one or two")
    values = tensors.get(bias, np.zeros(len(kernel)))
    if values.shape != (len(kernel),):
        raise DataError(f"{path}: {bias!r} has the shape {values.shape}, not {(len(kernel),)}")
    return SourceHead(module, kernel.T, values, "softmax" if len(kernel) == 2 else "linear")
