"""A text file, compressed or not, as runs of whole lines in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from ..errors import DataError, OutputError

MAX_LINE_BYTES = 1 << 20
"""A longer line is no table of numbers; this bounds what is held while looking for its end."""

MARKS = {"gzip": b"\x1f\x8b", "zstd": b"\x28\xb5\x2f\xfd", "": b""}
"""What a file begins with, by its compression."""


class LineChunks:
    """Iterate over runs of whole lines, each line closed by a newline, the last one too.

    compression: "gzip", "zstd", or "" for none.
    read_bytes: decompressed bytes taken at a time.

    Raises DataError where the compressed file is damaged or cut short, or a line is too long.
    """

    def __init__(self, path: Path, compression: str, read_bytes: int) -> None:
        self.path = path
        self.lines_given = 0
        self.bytes_total = path.stat().st_size
        self._read_bytes = read_bytes
        self._compression = compression
        self._closed_at = 0
        self._raw = pa.OSFile(str(path))
        self._stream = (
            pa.CompressedInputStream(self._raw, compression) if compression else self._raw
        )

    @property
    def bytes_read(self) -> int:
        """Bytes of the file consumed so far."""
        return self._closed_at if self._raw.closed else int(self._raw.tell())

    def __iter__(self) -> Iterator[bytes]:
        rest = b""
        while data := self._read():
            cut = data.rfind(b"\n") + 1
            if cut:
                yield self._give(rest + data[:cut])
                rest = data[cut:]
            else:
                rest += data
            if len(rest) > MAX_LINE_BYTES:
                message = f"is longer than {MAX_LINE_BYTES} bytes: is this a text file?"
                raise DataError(f"{self.path}, line {self.lines_given + 1} {message}")
        if rest:
            yield self._give(rest + b"\n")

    def _give(self, chunk: bytes) -> bytes:
        self.lines_given += chunk.count(b"\n")
        return chunk

    def _read(self) -> bytes:
        try:
            data: bytes = self._stream.read(self._read_bytes)
        except OSError as error:
            # Arrow sets errno for the operating system's errors only, not for its decoders'
            if error.errno:
                raise OutputError(f"cannot read {self.path}: {error}") from None
            if not self.lines_given and (name := self._other_kind()):
                raise DataError(
                    f"{self.path} is no {name} file, though it is called one"
                ) from None
            message = (
                f"{self.path} is damaged or cut short behind line {self.lines_given}: {error}"
            )
            raise DataError(message) from None
        return data

    def _other_kind(self) -> str:
        """Return the compression that the file should have where it has not even its mark."""
        with self.path.open("rb") as file:
            begins = file.read(4)
        return "" if begins.startswith(MARKS[self._compression]) else self._compression

    def close(self) -> None:
        """Close the file."""
        self._closed_at = self.bytes_read
        self._stream.close()
        self._raw.close()
