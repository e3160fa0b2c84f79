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

import numpy as np

from ..events import Prediction
from ..records import Batch

_PAIR = struct.Struct("<qf")


class Digest:
    """A running digest."""

    def __init__(self) -> None:
        self._hashes: dict[str, Any] = {}

    def add(self, prediction: Prediction) -> None:
        """Count one prediction in."""
        self._add(prediction.stream, prediction.n, prediction.p)

    def _add(self, stream: str, n: int, p: float) -> None:
        running = self._hash(stream)
        running.update(stream.encode())
        running.update(_PAIR.pack(n, p))

    def add_batch(self, predictions: Batch[Prediction]) -> None:
        """Count predictions in, as `add` does one by one."""
        streams = predictions["stream"].tolist()
        if len(set(streams)) > 1:
            rows = zip(streams, predictions["n"].tolist(), predictions["p"].tolist(), strict=True)
            for row in rows:
                self._add(*row)
        elif streams:
            name = streams[0].encode()
            packed = np.empty(
                len(streams), [("name", f"V{len(name)}"), ("n", "<i8"), ("p", "<f4")]
            )
            packed["name"] = np.void(name)
            packed["n"], packed["p"] = predictions["n"], predictions["p"]
            self._hash(streams[0]).update(packed.tobytes())

    def _hash(self, stream: str) -> Any:
        if stream not in self._hashes:
            self._hashes[stream] = hashlib.sha256()
        return self._hashes[stream]

    def hexdigest(self) -> str:
        """Return the digest so far, in hexadecimal."""
        hashes = [self._hashes[name] for name in sorted(self._hashes)]
        if len(hashes) == 1:
            return str(hashes[0].hexdigest())
        return hashlib.sha256(b"".join(one.digest() for one in hashes)).hexdigest()
