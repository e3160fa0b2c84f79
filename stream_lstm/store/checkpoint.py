"""The checkpoint of a training, beside the weights that it will end with: OUT.checkpoint.

A safetensors file of all arrays, with what a training of the same settings and data must share,
and its position, as JSON in the metadata. It is written beside its place and renamed, so that a
kill at any instant leaves the last one whole; a checksum tells a damaged one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import safetensors.numpy

from ..core.training import Position
from ..errors import SnapshotError
from .weights import read_tensors, write_whole

FORMAT = "stream-lstm-training"
VERSION = "1"


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
    path: Path, terms: Terms, position: Position, arrays: Mapping[str, np.ndarray]
) -> None:
    """Write a checkpoint; raises OutputError where the operating system will not."""
    tensors = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    metadata = {
        "format": FORMAT,
        "version": VERSION,
        "terms": msgspec.json.encode(terms).decode(),
        "position": msgspec.json.encode(position).decode(),
    }
    metadata["sha256"] = _checksum(metadata, tensors)
    write_whole(path, safetensors.numpy.save(tensors, metadata=metadata))


def load_checkpoint(path: Path, terms: Terms) -> tuple[Position, dict[str, np.ndarray]]:
    """Return (position, arrays) of a checkpoint on the same `terms`.

    Raises SnapshotError where it is damaged, of another version, or on other terms: the message
    names each that differs. InputMissingError and OutputError are those of the file.
    """
    tensors, metadata = read_tensors(path, "a training's state")
    if (metadata.get("format"), metadata.get("version")) != (FORMAT, VERSION):
        raise SnapshotError(f"{path} is no checkpoint of this version; --overwrite starts anew")
    if metadata.pop("sha256", "") != _checksum(metadata, tensors):
        raise SnapshotError(f"{path} is damaged: its checksum differs; --overwrite starts anew")
    try:
        theirs = msgspec.json.decode(metadata["terms"], type=Terms)
        position = msgspec.json.decode(metadata["position"], type=Position)
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
