"""Trained weights in a safetensors file: plain numbers and text, nothing that can run.

```
layer_0.kernel  float32 (F + H + 1, 4H)     layer_k.kernel  float32 (2H + 1, 4H)
head.kernel     float32 (H + 1,)
scaler.state    float32 (1 + 2F,), optional: what the scaler of a new stream starts from
metadata        format, version, gate_order, hidden, layers; features as a JSON list; scaling,
                memory and clip, where they are known
```

The version is "2" where there is a scaler's state and "1" where there is none, so that what needs
no more is read by every release.

A file is written beside its place and renamed, so that what has the right name is whole. What is
read is checked before it is believed: names, shapes that fit each other, and finite numbers.

The file that `train --history` asks for: one row for each epoch.

The checkpoint of a training, beside the weights that it will end with: OUT.checkpoint.

A safetensors file of all arrays, with what a training of the same settings and data must share,
and its position, as JSON in the metadata. It is written beside its place and renamed, so that a
kill at any instant leaves the last one whole; a checksum tells a damaged one.
"""

from __future__ import annotations

import hashlib
import io
import os
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

FORMAT = "stream-lstm-weights"
VERSION, WITH_SCALER = "1", "2"
SCALER = "scaler.state"
GATE_ORDER = "i,f,g,o"
SUFFIX = ".safetensors"

Arrays: TypeAlias = dict[str, dict[str, Float32s]]


def check_target(path: Path) -> None:
    """Raise UsageError or OutputError if weights cannot be saved at `path`, before it matters."""
    if path.suffix != SUFFIX:
        raise UsageError(f"{path}: weights are saved as {SUFFIX}; give the file that suffix")
    if not path.parent.is_dir():
        raise OutputError(f"cannot write {path}: there is no directory {path.parent}")
    if path.is_dir():
        raise OutputError(f"cannot write {path}: it is a directory")
    if not os.access(path.parent, os.W_OK):
        raise OutputError(f"cannot write {path}: no permission to write in {path.parent}")


def save_weights(
    path: Path,
    weights: Mapping[str, Mapping[str, Any]],
    metadata: Mapping[str, str],
    scaler: Float32s | None = None,
) -> None:
    """Save {layer: {"kernel": array}}; what the format says of itself is added to `metadata`.

    `scaler` (1 + 2F,) is the state that a new stream's scaler is to start from.

    Raises OutputError where the operating system will not write.
    """
    tensors = {
        f"{layer}.kernel": np.ascontiguousarray(body["kernel"], np.float32)
        for layer, body in weights.items()
    }
    about = {
        **metadata,
        "format": FORMAT,
        "version": VERSION if scaler is None else WITH_SCALER,
        "gate_order": GATE_ORDER,
        "hidden": str(len(tensors["head.kernel"]) - 1),
        "layers": str(len(tensors) - 1),
    }
    if scaler is not None:
        tensors[SCALER] = np.ascontiguousarray(scaler, np.float32)
    write_whole(path, safetensors.numpy.save(tensors, metadata=about))


def write_whole(path: Path, data: bytes) -> None:
    """Write a file beside its place and rename it; raises OutputError where that cannot be."""
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from None


def load_weights(path: Path) -> tuple[Arrays, dict[str, str]]:
    """Return ({layer: {"kernel": float32 array}}, metadata) of a file of `save_weights`.

    `hidden` and `layers` of the metadata are those of the arrays. Raises InputMissingError where
    there is no such file, OutputError where it cannot be read, and DataError where it is damaged,
    of another format, or holds a number that is not finite.
    """
    tensors, metadata = read_tensors(path, "weights")
    _check_format(path, metadata)
    tensors.pop(SCALER, None)
    hidden, layers = _check_tensors(path, tensors)
    metadata |= {"hidden": str(hidden), "layers": str(layers)}
    order = [*(f"layer_{k}" for k in range(layers)), "head"]
    return {layer: {"kernel": tensors[f"{layer}.kernel"]} for layer in order}, metadata


def load_scaler(path: Path) -> Float32s | None:
    """Return the scaler's state (1 + 2F,) in a file of weights, or None where it holds none.

    Raises what `load_weights` raises.
    """
    tensors, metadata = read_tensors(path, "weights")
    _check_format(path, metadata)
    state: Float32s | None = tensors.get(SCALER)
    if state is None:
        return None
    if state.dtype != np.float32 or state.ndim != 1 or not np.isfinite(state).all():
        raise DataError(f"{path}: {SCALER} is not a list of finite float32 numbers")
    return state


def read_tensors(path: Path, what: str) -> tuple[dict[str, Any], dict[str, str]]:
    """Return (tensors by name, metadata) of a safetensors file; `what` it is, for messages.

    Raises InputMissingError, OutputError (unreadable) or DataError (damaged).
    """
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
        raise DataError(f"{path} is damaged or no safetensors file: {error}") from None


def _check_format(path: Path, metadata: Mapping[str, str]) -> None:
    found = metadata.get("format")
    if found != FORMAT:
        said = "says nothing of its format" if found is None else f"has the format {found!r}"
        raise DataError(f"{path} {said}; weights of this program have {FORMAT!r}")
    readable = {"version": (VERSION, WITH_SCALER), "gate_order": (GATE_ORDER,)}
    for key, wanted in readable.items():
        if metadata.get(key) not in wanted:
            found = metadata.get(key, "none")
            known = " and ".join(map(repr, wanted))
            raise DataError(f"{path} has the {key} {found!r}; this program reads {known}")


def _check_tensors(path: Path, tensors: Mapping[str, Any]) -> tuple[int, int]:
    """Return (hidden, layers) of tensors that are a whole network."""
    layers = len(tensors) - 1
    wanted = {*(f"layer_{k}.kernel" for k in range(layers)), "head.kernel"}
    if layers < 1 or set(tensors) != wanted:
        names = ", ".join(sorted(tensors)) or "none"
        raise DataError(f"{path} does not hold a whole network; its tensors are {names}")
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
            raise DataError(f"{path}: {name} holds a number that is not finite")
    return hidden, layers


def _fits(name: str, shape: tuple[int, ...], hidden: int) -> bool:
    if name == "head.kernel":
        return hidden >= 1 and len(shape) == 1
    if len(shape) != 2 or shape[1] != 4 * hidden:
        return False
    return shape[0] >= hidden + 2 if name == "layer_0.kernel" else shape[0] == 2 * hidden + 1


HISTORY_SUFFIX = ".parquet"

SCHEMA = pa.schema(
    [
        pa.field("epoch", pa.int64(), nullable=False),
        pa.field("train_loss", pa.float64(), nullable=False),
        pa.field("validation_log_loss", pa.float64(), nullable=False),
        pa.field("validation_accuracy", pa.float64(), nullable=False),
        pa.field("learning_rate", pa.float64(), nullable=False),
        pa.field("updates", pa.int64(), nullable=False),
        pa.field("updates_refused", pa.int64(), nullable=False),
        pa.field("seconds", pa.float64(), nullable=False),
        pa.field("best", pa.bool_(), nullable=False),
    ]
)
"""The fields of `Epoch`, in their order; `best` says that none before it was better."""


def check_history(path: Path) -> None:
    """Raise UsageError or OutputError if a history cannot be written at `path`."""
    if path.suffix.lower() != HISTORY_SUFFIX:
        raise UsageError(
            f"{path}: a history is written as {HISTORY_SUFFIX}; give the file that suffix"
        )
    if not path.parent.is_dir():
        raise OutputError(f"cannot write {path}: there is no directory {path.parent}")
    if path.is_dir():
        raise OutputError(f"cannot write {path}: it is a directory")
    if not os.access(path.parent, os.W_OK):
        raise OutputError(f"cannot write {path}: no permission to write in {path.parent}")


def save_history(path: Path, epochs: Sequence[Epoch]) -> None:
    """Write the history, replacing one of that name; raises OutputError where that cannot be."""
    rows = [msgspec.structs.asdict(epoch) for epoch in epochs]
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), buffer)
    write_whole(path, buffer.getvalue())


CHECKPOINT_FORMAT = "stream-lstm-training"
CHECKPOINT_VERSION = "1"


class Terms(msgspec.Struct, frozen=True):
    """What a training and its checkpoint must agree on.

    `settings` by key; `data` is (name, elements, SHA-256 of the elements) of each series.
    """

    settings: dict[str, Any]
    data: list[tuple[str, int, str]]


def checkpoint_path(out: Path) -> Path:
    """Return where the checkpoint of a training stands whose weights go to `out`."""
    return out.with_name(out.name + ".checkpoint")


def save_checkpoint(
    path: Path, terms: Terms, position: TrainingPosition, arrays: Mapping[str, np.ndarray]
) -> None:
    """Write a checkpoint; raises OutputError where the operating system will not."""
    tensors = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    metadata = {
        "format": CHECKPOINT_FORMAT,
        "version": CHECKPOINT_VERSION,
        "terms": msgspec.json.encode(terms).decode(),
        "position": msgspec.json.encode(position).decode(),
    }
    metadata["sha256"] = _checksum(metadata, tensors)
    write_whole(path, safetensors.numpy.save(tensors, metadata=metadata))


def load_checkpoint(path: Path, terms: Terms) -> tuple[TrainingPosition, dict[str, np.ndarray]]:
    """Return (position, arrays) of a checkpoint on the same `terms`.

    Raises SnapshotError where it is damaged, of another version, or on other terms: the message
    names each that differs. InputMissingError and OutputError are those of the file.
    """
    tensors, metadata = read_tensors(path, "a training's state")
    if (metadata.get("format"), metadata.get("version")) != (
        CHECKPOINT_FORMAT,
        CHECKPOINT_VERSION,
    ):
        raise SnapshotError(f"{path} is no checkpoint of this version; --overwrite starts anew")
    if metadata.pop("sha256", "") != _checksum(metadata, tensors):
        raise SnapshotError(f"{path} is damaged: its checksum differs; --overwrite starts anew")
    try:
        theirs = msgspec.json.decode(metadata["terms"], type=Terms)
        position = msgspec.json.decode(metadata["position"], type=TrainingPosition)
    except (msgspec.DecodeError, KeyError) as error:
        raise SnapshotError(f"{path} does not fit this version: {error}") from None
    if differences := differing(theirs, terms):
        raise SnapshotError(
            f"{path} belongs to another training: {'; '.join(differences)}. Resume it with what "
            "it was started with, or start anew with --overwrite"
        )
    return position, tensors


def differing(theirs: Terms, ours: Terms) -> list[str]:
    """Return what differs between two terms, in words."""
    # Both as JSON has them: a tuple and a list are the same setting.
    ours = msgspec.json.decode(msgspec.json.encode(ours), type=Terms)
    keys = dict.fromkeys((*theirs.settings, *ours.settings))
    out = [
        f"{key} was {theirs.settings.get(key)!r} and is {ours.settings.get(key)!r}"
        for key in keys
        if theirs.settings.get(key) != ours.settings.get(key)
    ]
    if len(theirs.data) != len(ours.data):
        return [*out, f"it had {len(theirs.data)} files and there are {len(ours.data)}"]
    for (name, count, digest), (our_name, our_count, our_digest) in zip(
        theirs.data, ours.data, strict=True
    ):
        if (count, digest) != (our_count, our_digest):
            out.append(
                f"{our_name} ({our_count:,} elements) does not hold what {name} ({count:,}) did"
            )
    return out


def _checksum(metadata: Mapping[str, str], tensors: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name in sorted(metadata):
        digest.update(f"{name}={metadata[name]}\n".encode())
    for name in sorted(tensors):
        array = tensors[name]
        digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
