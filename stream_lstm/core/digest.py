"""One string that two runs can be compared by.

SHA-256 over the predictions of a stream in the order of their emission, each as the stream's name
(UTF-8), n (int64) and the float32 bits of p, numbers little-endian. Of several streams it is
SHA-256 over the digests of them all, in the order of their names: which stream came first is a
matter of timing, and no result.
"""

from __future__ import annotations

import hashlib
import struct
from typing import Any

from ..events import Prediction

_PAIR = struct.Struct("<qf")


class Digest:
    """A running digest."""

    def __init__(self) -> None:
        self._hashes: dict[str, Any] = {}

    def add(self, prediction: Prediction) -> None:
        """Count one prediction in."""
        running = self._hashes.get(prediction.stream)
        if running is None:
            running = self._hashes[prediction.stream] = hashlib.sha256()
        running.update(prediction.stream.encode())
        running.update(_PAIR.pack(prediction.n, prediction.p))

    def hexdigest(self) -> str:
        """Return the digest so far, in hexadecimal."""
        hashes = [self._hashes[name] for name in sorted(self._hashes)]
        if len(hashes) == 1:
            return str(hashes[0].hexdigest())
        return hashlib.sha256(b"".join(one.digest() for one in hashes)).hexdigest()
