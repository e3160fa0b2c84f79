"""A PyTorch `state_dict` of LSTM layers and a linear head as a `SourceNetwork`.

```
PREFIX.weight_ih_l{k} (4H, I)   PREFIX.weight_hh_l{k} (4H, H)   gates i, f, g, o
PREFIX.bias_ih_l{k}, PREFIX.bias_hh_l{k} (4H,)                  both are added up
PREFIX.weight (1 or 2, H), PREFIX.bias (1 or 2,)                the linear layer
```

`LSTMCell` has the same names without `_l{k}`. Any prefixes will do. Several modules follow each
other only where their names differ in a number alone (`lstm1`, `lstm2`): a state_dict does not
say in which order a program uses what it holds.

A `state_dict` from a file: safetensors, or PyTorch's own format read without running code.

A .pt or .pth file is a pickle, which can hold a program. It is only read where PyTorch is
installed, by its loader that builds tensors and plain containers and nothing else.
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
"""Keys under which training programs keep a state_dict among other things."""


def read_tensors(path: Path) -> dict[str, np.ndarray]:
    """Return {name: array} of a file.

    Raises UsageError for our own weights and where PyTorch is needed and missing,
    InputMissingError, OutputError, and DataError where it is damaged or holds more than tensors.
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
                    f"{path} holds weights of this program already: give it to --weights"
                )
            # bfloat16 has no NumPy type, which the library says with a TypeError.
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (safetensors.SafetensorError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{path} is damaged or no .safetensors file: {error}") from None


def _torch(path: Path) -> dict[str, np.ndarray]:
    torch = installed("torch")
    if torch is None:
        raise UsageError(
            f"{path}: a {path.suffix} file needs PyTorch, which is not installed here; where it "
            "is, write safetensors.torch.save_file(model.state_dict(), 'model.safetensors'), and "
            "import that"
        )
    try:
        held = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the loader's errors have no common type
        # What the loader advises is to run the file's code, which is never passed on.
        raise DataError(
            f"{path} is damaged, or holds more than tensors, which is not run here; save "
            f"model.state_dict() ({type(error).__name__})"
        ) from None
    for key in NESTED:
        if isinstance(held, Mapping) and isinstance(held.get(key), Mapping):
            held = held[key]
            break
    if not isinstance(held, Mapping):
        raise DataError(f"{path} holds a {type(held).__name__}, not a state_dict")
    return {name: _array(path, name, tensor, torch) for name, tensor in held.items()}


def _array(path: Path, name: Any, tensor: Any, torch: Any) -> np.ndarray:
    if not isinstance(name, str) or not isinstance(tensor, torch.Tensor) or tensor.is_complex():
        raise DataError(f"{path}: {name!r} is no tensor of numbers; save model.state_dict()")
    exact = tensor.detach()
    small = not exact.is_floating_point() or exact.dtype in (torch.float32, torch.float64)
    return np.asarray((exact if small else exact.float()).numpy())


RECURRENT = re.compile(
    r"(?P<module>(?:.*\.)?)(?P<part>weight|bias)_(?P<kind>ih|hh|hr)(?P<tail>.*)"
)
TAIL = re.compile(r"(?:_l(?P<layer>\d+))?(?P<reverse>_reverse)?")
NUMBER = re.compile(r"\d+")

ONE = "the output of {!r} is taken as the logit of a positive next element"
TWO = "of the two outputs of {!r}, the second is taken as the score of a positive next element"


class _Place(NamedTuple):
    """Where a tensor of a recurrent layer belongs; sorted, places are in the order of use."""

    numbers: tuple[int, ...]
    layer: int
    module: str


def torch_network(path: Any, tensors: Mapping[str, Any], origin: str) -> SourceNetwork:
    """Return the network of a state_dict {name: array}; DataError names what has no place in it.

    `path` is for messages. `origin` says what wrote it.
    """
    places: dict[_Place, dict[str, Float64s]] = {}
    others: dict[str, Float64s] = {}
    for name, tensor in tensors.items():
        array = np.asarray(tensor, np.float64)
        match = RECURRENT.fullmatch(name)
        if match is None:
            others[name] = array
            continue
        place = _place(path, name, match)
        places.setdefault(place, {})[f"{match['part']}_{match['kind']}"] = array
    if not places:
        names = ", ".join(sorted(tensors)[:8]) or "none"
        raise DataError(f"{path} holds no LSTM: its tensors are {names}")
    _check_modules(path, places)
    layers = tuple(_layer(path, place, places[place]) for place in sorted(places))
    head = _head(path, others)
    check_sizes(path, layers, head)
    note = (TWO if len(head.bias) == 2 else ONE).format(head.name)
    dtypes = tuple(sorted({str(np.asarray(tensor).dtype) for tensor in tensors.values()}))
    return SourceNetwork(origin, layers, head, dtypes=dtypes, notes=(note,))


def _place(path: Any, name: str, match: re.Match[str]) -> _Place:
    tail = TAIL.fullmatch(match["tail"])
    if tail is None:
        raise DataError(f"{path}: the tensor {name!r} is of no known layer")
    if tail["reverse"]:
        raise DataError(
            f"{path}: {name!r} belongs to a bidirectional LSTM, which reads the series backwards "
            "too; a live series has no end to start at"
        )
    if match["kind"] == "hr":
        raise DataError(f"{path}: {name!r} belongs to an LSTM with proj_size, which is not ours")
    module = match["module"].removesuffix(".")
    numbers = tuple(int(number) for number in NUMBER.findall(module))
    return _Place(numbers, int(tail["layer"] or 0), module)


def _check_modules(path: Any, places: Mapping[_Place, Any]) -> None:
    stems = {NUMBER.sub("", place.module) for place in places}
    if len(stems) > 1:
        names = ", ".join(sorted({place.module for place in places}))
        raise DataError(
            f"{path} holds the modules {names}, and does not say in which order they are used; "
            "name them alike with a number each (lstm1, lstm2)"
        )


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
        raise DataError(f"{path} holds no linear layer with one output after its LSTM")
    name = matrices[0]
    module = name.removesuffix("weight").removesuffix(".")
    bias = f"{module}.bias" if module else "bias"
    rest = sorted(set(tensors) - {name, bias})
    if len(matrices) > 1 or rest or not name.endswith("weight"):
        odd = [other for other in (*matrices, *rest) if other != name][:1] or [name]
        raise DataError(
            f"{path}: the tensor {odd[0]!r} belongs to a layer that is not ours: the network is "
            "LSTM layers and one linear layer"
        )
    kernel = tensors[name]
    if len(kernel) not in (1, 2):
        raise DataError(f"{path}: {name!r} has {len(kernel)} outputs; one, or two scores, can be")
    values = tensors.get(bias, np.zeros(len(kernel)))
    if values.shape != (len(kernel),):
        raise DataError(f"{path}: {bias!r} has the shape {values.shape}, not {(len(kernel),)}")
    return SourceHead(module, kernel.T, values, "softmax" if len(kernel) == 2 else "linear")
