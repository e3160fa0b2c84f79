"""A whole predictor as bytes: its settings, what it started from, and a snapshot.

```
SHA-256 of the rest (32 bytes) | msgpack of a `SavedPredictor`
```

It contains numbers and text, never code, and is decoded against a schema.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np

from ..config import Config, build, flatten
from ..core.snapshot import DIGEST, ArrayRecord, differences, settings_of
from ..errors import SnapshotError
from ..events import Score, Update

Arrays = dict[str, dict[str, ArrayRecord]]

_DEFAULTS = flatten(Config())


class SavedPredictor(msgspec.Struct, frozen=True, array_like=True):
    """A predictor: `settings` by key, without defaults; `weights` and `scaler` at its start."""

    settings: dict[str, Any]
    columns: tuple[str, ...]
    stream: str
    snapshot: bytes
    weights: Arrays | None = None
    scaler: ArrayRecord | None = None
    last_update: Update | None = None
    last_score: Score | None = None


def chosen(config: Config) -> dict[str, Any]:
    """Return the settings that differ from their default, without those that name files."""
    return {
        key: value
        for key, value in flatten(config).items()
        if value != _DEFAULTS[key] and key not in ("weights", "compile_cache")
    }


def encode(saved: SavedPredictor) -> bytes:
    """Return the bytes of a predictor."""
    packed = msgspec.msgpack.encode(saved)
    return hashlib.sha256(packed).digest() + packed


def decode(data: bytes, where: str = "the predictor") -> SavedPredictor:
    """Return the predictor in the bytes of `encode`; `where` they are, for messages.

    Raises SnapshotError if they are damaged.
    """
    digest, packed = data[:DIGEST], data[DIGEST:]
    if hashlib.sha256(packed).digest() != digest:
        raise SnapshotError(f"{where} is damaged: the checksum of its state does not match")
    try:
        return msgspec.msgpack.decode(packed, type=SavedPredictor)
    except msgspec.DecodeError as error:
        raise SnapshotError(f"{where} does not fit this version: {error}") from None


def config_of(saved: SavedPredictor, wanted: Mapping[str, Any], where: str) -> Config:
    """Return the configuration of a predictor, with `wanted` settings that its state permits.

    Raises SnapshotError that names each setting which the state depends on and which differs, and
    ConfigurationError for an invalid one.
    """
    config = build(saved.settings)
    if not wanted:
        return config
    other = build({**saved.settings, **wanted})
    both = settings_of(config, saved.columns), settings_of(other, saved.columns)
    if lines := differences(*both):
        raise SnapshotError(
            f"{where} has other settings: load it without them, or make a new predictor", *lines
        )
    return other


def array_record(value: Any) -> ArrayRecord:
    """Return an array of float32 as plain data."""
    array = np.asarray(value, "<f4", order="C")
    return ArrayRecord(array.dtype.str, array.shape, array.tobytes())
