"""What a file of Keras holds: the description of its layers, and their arrays.

```
.keras        a zip of metadata.json (version), config.json (layers) and model.weights.h5, where
              layers/NAME/cell/vars/0, 1, 2 are kernel, recurrent kernel and bias of an LSTM, and
              layers/NAME/vars/0, 1 kernel and bias of a dense layer. NAME counts the layers of
              a class (lstm, lstm_1, ...); newer files say the layer's own name beside it.
.h5, .hdf5    attributes model_config and keras_version, and model_weights/LAYER, whose attribute
              weight_names lists paths that end in kernel:0 (Keras 2) or kernel (Keras 3).
```

Nothing is run, and no link is followed: only arrays and JSON are read, with limits.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from ..errors import DataError, InputMissingError, OutputError
from ..feed.plain_file import check_plain
from .extras import need

HDF5_SUFFIXES = (".h5", ".hdf5")
SUFFIXES = (".keras", *HDF5_SUFFIXES)

MAX_TEXT = 64 * 1024 * 1024
"""Bytes of a description: real ones have kilobytes, and a zip may unpack to anything."""

MAX_BYTES = 2 * 1024**3
"""Bytes of all arrays together, far above the largest network that can be configured."""

Arrays: TypeAlias = dict[str, np.ndarray]
Lookup: TypeAlias = Callable[[str, str, int], Arrays]


class KerasFile(NamedTuple):
    """`arrays(class name, layer name, k)` gives the arrays by name of the k-th of its class."""

    path: Path
    version: str
    config: dict[str, Any]
    arrays: Lookup


def read_keras(path: Path) -> KerasFile:
    """Return what a file holds.

    Raises InputMissingError and OutputError where it cannot be read, UsageError where h5py is
    missing, and DataError where it is damaged or holds weights without their layers.
    """
    h5py = need("h5py", "keras", path)
    check_plain(path, directories=False)
    try:
        path.open("rb").close()
        read = _read_hdf5 if path.suffix.lower() in HDF5_SUFFIXES else _read_zip
        return read(h5py, path)
    except FileNotFoundError:
        raise InputMissingError(f"no such model: {path}") from None
    except (IsADirectoryError, PermissionError) as error:
        raise OutputError(f"cannot read {path}: {error.strerror}") from None
    except (OSError, zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        raise DataError(f"{path} is damaged or no file of Keras: {error}") from None
    except (zlib.error, EOFError) as error:
        raise DataError(f"{path} is damaged: {error}") from None
    except (KeyError, ValueError, TypeError, RecursionError) as error:
        raise DataError(f"{path} is no whole file of Keras: {error}") from None


def _read_zip(h5py: Any, path: Path) -> KerasFile:
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        for wanted in ("config.json", "model.weights.h5"):
            if wanted not in names:
                raise DataError(f"{path} is no whole .keras file: it holds no {wanted}")
        config = _json(path, _member(archive, "config.json", MAX_TEXT))
        about = _member(archive, "metadata.json", MAX_TEXT) if "metadata.json" in names else b"{}"
        weights = _member(archive, "model.weights.h5", MAX_BYTES)
    with _hdf5(h5py, io.BytesIO(weights)) as file:
        arrays, groups = _contents(h5py, path, file)
    version = str(_json(path, about).get("keras_version", "of unknown version"))
    return KerasFile(path, version, config, _counted(arrays, groups))


def _member(archive: zipfile.ZipFile, name: str, limit: int) -> bytes:
    if archive.getinfo(name).file_size > limit:
        raise ValueError(f"{name} is larger than {limit} bytes")
    with archive.open(name) as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise ValueError(f"{name} is larger than {limit} bytes")
    return data


def _json(path: Path, text: bytes | str) -> dict[str, Any]:
    value = json.loads(text)
    if not isinstance(value, dict):
        raise DataError(f"{path} is no whole file of Keras: its description is no JSON object")
    return value


@contextmanager
def _hdf5(h5py: Any, file: Any) -> Iterator[Any]:
    with h5py.File(file, "r") as opened:
        yield opened


def _contents(h5py: Any, path: Path, top: Any) -> tuple[Arrays, dict[str, dict[str, Any]]]:
    """Return ({path: array}, {path of a group: attributes}) of what hard links lead to."""
    arrays: Arrays = {}
    groups: dict[str, dict[str, Any]] = {}
    left = MAX_BYTES

    def visit(name: str, found: Any) -> None:
        nonlocal left
        if not isinstance(found, h5py.Dataset):
            groups[name] = dict(found.attrs)
            return
        if found.dtype.kind not in "fiu":
            return  # text and other objects are no weights
        left -= found.size * found.dtype.itemsize
        if left < 0 or found.external or found.is_virtual:
            raise DataError(f"{path}: {name} holds more than {MAX_BYTES} bytes, or another file's")
        arrays[name] = np.asarray(found[()])

    top.visititems(visit)
    return arrays, groups


def _counted(arrays: Arrays, groups: dict[str, dict[str, Any]]) -> Lookup:
    """Return the lookup of a .keras file."""
    homes = [re.escape(home) for home in ("layers", "_layer_checkpoint_dependencies")]
    pattern = re.compile(rf"(?:{'|'.join(homes)})/([^/]+)/vars")
    named = {
        str(about["name"]): match[1]
        for group, about in groups.items()
        if (match := pattern.fullmatch(group)) and "name" in about
    }
    names = {"LSTM": ("kernel", "recurrent_kernel", "bias"), "Dense": ("kernel", "bias")}

    def lookup(kind: str, layer: str, k: int) -> Arrays:
        group = named.get(layer) or kind.lower() + (f"_{k}" if k else "")
        inner = "cell/vars" if kind == "LSTM" else "vars"
        tail = re.compile(rf"(?:{'|'.join(homes)})/{re.escape(group)}/{inner}/(\d+)")
        found = {
            int(match[1]): array for at, array in arrays.items() if (match := tail.fullmatch(at))
        }
        return {name: found[n] for n, name in enumerate(names[kind]) if n in found}

    return lookup


def _read_hdf5(h5py: Any, path: Path) -> KerasFile:
    with _hdf5(h5py, path) as file:
        about = dict(file.attrs)
        if "model_config" not in about or "model_weights" not in file:
            raise DataError(
                f"{path} does not say which layers its weights belong to; save the whole model "
                "with model.save, not the weights alone"
            )
        config = _json(path, _text(about["model_config"]))
        arrays, groups = _contents(h5py, path, file["model_weights"])
    version = _text(about.get("keras_version", "of unknown version"))

    def lookup(kind: str, layer: str, k: int) -> Arrays:  # noqa: ARG001
        weights = groups.get(layer, {}).get("weight_names", ())
        paths = [_text(name) for name in weights]
        return {
            at.rsplit("/", 1)[-1].removesuffix(":0"): arrays[f"{layer}/{at}"]
            for at in paths
            if f"{layer}/{at}" in arrays
        }

    return KerasFile(path, version, config, lookup)


def _text(value: Any) -> str:
    return value.decode("utf-8") if isinstance(value, bytes) else str(value)
