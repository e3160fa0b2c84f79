"""One string that two runs can be compared by.

SHA-256 over the predictions in the order of their emission, each as its stream's name (UTF-8),
n (int64) and the float32 bits of p, numbers little-endian.
"""

from __future__ import annotations

import hashlib
import struct

from ..events import Prediction

_PAIR = struct.Struct("<qf")


class Digest:
    """A running digest."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def add(self, prediction: Prediction) -> None:
        """Count one prediction in."""
        self._hash.update(prediction.stream.encode())
        self._hash.update(_PAIR.pack(prediction.n, prediction.p))

    def hexdigest(self) -> str:
        """Return the digest so far, in hexadecimal."""
        return self._hash.hexdigest()
