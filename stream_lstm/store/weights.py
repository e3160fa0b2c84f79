"""Trained weights, the history of a training and its checkpoint: files of plain numbers and text.

Weights are a safetensors file, which contains nothing that can run:

```
layer_0.kernel  float32 (F + H + 1, 4H)     layer_k.kernel  float32 (2H + 1, 4H)
head.kernel     float32 (H + 1,)
scaler.state    float32 (1 + 2F,), optional: the initial state of a new stream's scaler
predictor.state uint8, optional: the whole state of a `Predictor`, see `predictors`
metadata        format, version, gate_order, hidden, layers; features as a JSON list; scaling,
                memory and clip, where they are known
```

The version is "3" with a predictor's state, else "2" with a scaler's state, else "1", which every
release can read. The predictor of a bank has no other arrays than its state.
Reading checks names, shapes that fit each other, and finite numbers.

The history (`train --history`) is a Parquet file with a row for each epoch. The checkpoint
(OUT.checkpoint) is a safetensors file of all arrays of a training. Its metadata contain, as JSON,
the position, the settings and data that a continuation must share, and a checksum.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import safetensors
import safetensors.numpy

from ..core.training import Epoch, TrainingPosition
from ..errors import DataError, InputMissingError, OutputError, SnapshotError, UsageError
from ..feed.reader import check_plain
from ..typing import Float32s
from .output import check_place, write_whole

FORMAT = "stream-lstm-weights"
VERSION, WITH_SCALER, WITH_STATE = "1", "2", "3"
SCALER, STATE = "scaler.state", "predictor.state"
GATE_ORDER = "i,f,g,o"
SUFFIX, HISTORY_SUFFIX = ".safetensors", ".parquet"

Arrays: TypeAlias = dict[str, dict[str, Float32s]]


def check_target(path: Path, suffix: str = SUFFIX) -> None:
    """Raise UsageError for another suffix, OutputError where `path` cannot be written."""
    if path.suffix.lower() != suffix:
        raise UsageError(f"{path}: the format is {suffix}; use that suffix")
    check_place(path)


# ---- weights ----------------------------------------------------------------------------


def save_weights(
    path: Path,
    weights: Mapping[str, Mapping[str, Any]],
    metadata: Mapping[str, str],
    scaler: Float32s | None = None,
    state: bytes = b"",
) -> None:
    """Write the file of `weights_bytes`; OutputError where the operating system refuses."""
    write_whole(path, weights_bytes(weights, metadata, scaler, state))


def weights_bytes(
    weights: Mapping[str, Mapping[str, Any]],
    metadata: Mapping[str, str],
    scaler: Float32s | None = None,
    state: bytes = b"",
) -> bytes:
    """Return a file of {layer: {"kernel": array}}; the format's entries are added to `metadata`.

    scaler: (1 + 2F,) the initial state of a new stream's scaler. state: of a predictor.
    """
    tensors = {
        f"{layer}.kernel": np.ascontiguousarray(body["kernel"], np.float32)
        for layer, body in weights.items()
    }
    about = {
        **metadata,
        "format": FORMAT,
        "version": WITH_STATE if state else VERSION if scaler is None else WITH_SCALER,
        "gate_order": GATE_ORDER,
    }
    if weights:
        about["hidden"] = str(len(tensors["head.kernel"]) - 1)
        about["layers"] = str(len(tensors) - 1)
    if scaler is not None:
        tensors[SCALER] = np.ascontiguousarray(scaler, np.float32)
    arrays: dict[str, np.ndarray] = dict(tensors)
    if state:
        arrays[STATE] = np.frombuffer(state, np.uint8)
    return safetensors.numpy.save(arrays, metadata=about)


def load_weights(path: Path) -> tuple[Arrays, dict[str, str]]:
    """Return ({layer: {"kernel": float32 array}}, metadata) of a file of `save_weights`.

    `hidden` and `layers` of the metadata are those of the arrays. Raises InputMissingError where
    there is no such file, OutputError where it cannot be read, and DataError where it is damaged,
    has another format, or contains a number that is not finite.
    """
    tensors, metadata = _read_weights(path)
    tensors.pop(SCALER, None)
    tensors.pop(STATE, None)
    hidden, layers = _check_tensors(path, tensors)
    metadata |= {"hidden": str(hidden), "layers": str(layers)}
    order = [*(f"layer_{k}" for k in range(layers)), "head"]
    return {layer: {"kernel": tensors[f"{layer}.kernel"]} for layer in order}, metadata


def load_scaler(path: Path) -> Float32s | None:
    """Return the scaler's state (1 + 2F,) in a file of weights, None where it has none.

    Raises what `load_weights` raises.
    """
    state: Float32s | None = _read_weights(path)[0].get(SCALER)
    if state is None:
        return None
    if state.dtype != np.float32 or state.ndim != 1 or not np.isfinite(state).all():
        raise DataError(f"{path}: {SCALER} is not a list of finite float32 numbers")
    return state


def load_state(path: Path) -> bytes:
    """Return the state of a predictor in a file of weights.

    Raises what `load_weights` raises, and DataError where it contains weights only.
    """
    state = _read_weights(path)[0].get(STATE)
    if state is None:
        raise DataError(
            f"{path} contains weights and no state of a predictor: start from them with "
            f"Predictor(features, weights={str(path)!r})"
        )
    return np.asarray(state).tobytes()


def _read(path: Path, what: str) -> tuple[dict[str, Any], dict[str, str]]:
    """Return (tensors by name, metadata) of a safetensors file; `what` it is, for messages."""
    check_plain(path, directories=False)
    try:
        path.open("rb").close()  # the library reports a directory and a missing file alike
        with safetensors.safe_open(path, framework="numpy") as file:
            names = list(file.keys())
            return {name: file.get_tensor(name) for name in names}, dict(file.metadata() or {})
    except FileNotFoundError:
        raise InputMissingError(f"no such file of {what}: {path}") from None
    except OSError as error:
        raise OutputError(f"cannot read {path}: {error.strerror or error}") from None
    except (safetensors.SafetensorError, TypeError, ValueError) as error:
        raise DataError(f"{path} is damaged or not a safetensors file: {error}") from None


def _read_weights(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    tensors, metadata = _read(path, "weights")
    readable = {
        "format": (FORMAT,),
        "version": (VERSION, WITH_SCALER, WITH_STATE),
        "gate_order": (GATE_ORDER,),
    }
    for key, wanted in readable.items():
        if metadata.get(key) not in wanted:
            found = repr(metadata[key]) if key in metadata else "none"
            known = " or ".join(map(repr, wanted))
            raise DataError(f"{path} has the {key} {found}; this program reads {known}")
    return tensors, metadata


def _check_tensors(path: Path, tensors: Mapping[str, Any]) -> tuple[int, int]:
    """Return (hidden, layers) of tensors that form a network."""
    layers = len(tensors) - 1
    wanted = {*(f"layer_{k}.kernel" for k in range(layers)), "head.kernel"}
    if layers < 1 or set(tensors) != wanted:
        names = ", ".join(sorted(tensors)) or "none"
        raise DataError(f"{path} does not contain a whole network; its tensors are {names}")
    hidden = tensors["head.kernel"].size - 1
    for name, kernel in tensors.items():
        if kernel.dtype != np.float32:
            raise DataError(f"{path}: {name} is {kernel.dtype}, not float32")
        if not _fits(name, kernel.shape, hidden):
            raise DataError(
                f"{path}: {name} has the shape {kernel.shape}, which does not fit "
                f"the {hidden} hidden units of the head"
            )
        if not np.isfinite(kernel).all():
            raise DataError(f"{path}: {name} contains a number that is not finite")
    return hidden, layers


def _fits(name: str, shape: tuple[int, ...], hidden: int) -> bool:
    if name == "head.kernel":
        return hidden >= 1 and len(shape) == 1
    if len(shape) != 2 or shape[1] != 4 * hidden:
        return False
    return shape[0] >= hidden + 2 if name == "layer_0.kernel" else shape[0] == 2 * hidden + 1


# ---- history ----------------------------------------------------------------------------

_ARROW = {"int": pa.int64(), "float": pa.float64(), "bool": pa.bool_()}
SCHEMA = pa.schema(
    [
        pa.field(name, _ARROW[str(kind)], nullable=False)
        for name, kind in Epoch.__annotations__.items()
    ]
)
"""The fields of `Epoch`; `best` means that no earlier epoch was better."""


def save_history(path: Path, epochs: Sequence[Epoch]) -> None:
    """Write the history; raises OutputError where the operating system refuses."""
    rows = [msgspec.structs.asdict(epoch) for epoch in epochs]
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), buffer)
    write_whole(path, buffer.getvalue())


# ---- checkpoints ------------------------------------------------------------------------

CHECKPOINT = {"format": "stream-lstm-training", "version": "1"}


class Terms(msgspec.Struct, frozen=True):
    """What a training and its checkpoint must share.

    `settings` by key; `data` is (name, elements, SHA-256 of the elements) of each series.
    """

    settings: dict[str, Any]
    data: list[tuple[str, int, str]]


def checkpoint_path(out: Path) -> Path:
    """Return the path of the checkpoint of a training whose weights go to `out`."""
    return out.with_name(out.name + ".checkpoint")


def save_checkpoint(
    path: Path, terms: Terms, position: TrainingPosition, arrays: Mapping[str, np.ndarray]
) -> None:
    """Write a checkpoint; raises OutputError where the operating system refuses."""
    tensors = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    metadata = {
        **CHECKPOINT,
        "terms": msgspec.json.encode(terms).decode(),
        "position": msgspec.json.encode(position).decode(),
    }
    metadata["sha256"] = _checksum(metadata, tensors)
    write_whole(path, safetensors.numpy.save(tensors, metadata=metadata))


def load_checkpoint(path: Path, terms: Terms) -> tuple[TrainingPosition, dict[str, np.ndarray]]:
    """Return (position, arrays) of a checkpoint of the same `terms`.

    Raises SnapshotError where it is damaged, has another version, or other terms: the message
    lists each difference. InputMissingError and OutputError are those of the file.
    """
    tensors, metadata = _read(path, "a training's state")
    if any(metadata.get(key) != value for key, value in CHECKPOINT.items()):
        raise SnapshotError(
            f"{path} is not a checkpoint of this version; --overwrite starts a new training"
        )
    if metadata.pop("sha256", "") != _checksum(metadata, tensors):
        raise SnapshotError(
            f"{path} is damaged: its checksum differs; --overwrite starts a new training"
        )
    try:
        stored = msgspec.json.decode(metadata["terms"], type=Terms)
        position = msgspec.json.decode(metadata["position"], type=TrainingPosition)
    except (msgspec.DecodeError, KeyError) as error:
        raise SnapshotError(f"{path} does not fit this version: {error}") from None
    if differences := differing(stored, terms):
        raise SnapshotError(
            f"{path} belongs to another training: {'; '.join(differences)}. Resume it with the "
            "same settings and data, or start a new training with --overwrite"
        )
    return position, tensors


def differing(stored: Terms, present: Terms) -> list[str]:
    """Return the differences between two terms, in words."""
    # Both as JSON has them: a tuple and a list are the same setting.
    present = msgspec.json.decode(msgspec.json.encode(present), type=Terms)
    before, after = stored.settings, present.settings
    out = [
        f"{key} was {before.get(key)!r} and is {after.get(key)!r}"
        for key in {**before, **after}
        if before.get(key) != after.get(key)
    ]
    if len(stored.data) != len(present.data):
        return [*out, f"it had {len(stored.data)} files and there are {len(present.data)}"]
    return out + [
        f"{name} ({elements:,} elements) differs from {old_name} ({old_elements:,})"
        for (old_name, old_elements, old), (name, elements, new) in zip(
            stored.data, present.data, strict=True
        )
        if (old_elements, old) != (elements, new)
    ]


def _checksum(metadata: Mapping[str, str], tensors: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name in sorted(metadata):
        digest.update(f"{name}={metadata[name]}\n".encode())
    for name in sorted(tensors):
        array = tensors[name]
        digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
