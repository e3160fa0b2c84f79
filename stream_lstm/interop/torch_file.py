"""A `state_dict` from a file: safetensors, or PyTorch's own format read without running code.

A .pt or .pth file is a pickle, which can hold a program. It is only read where PyTorch is
installed, by its loader that builds tensors and plain containers and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from ..errors import DataError, InputMissingError, OutputError, UsageError
from ..feed.plain_file import check_plain
from ..store.weights import FORMAT
from .extras import installed

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
