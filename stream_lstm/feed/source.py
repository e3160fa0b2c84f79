"""The text of a table as UTF-8 bytes, whatever it is packed in and however it is encoded.

The first bytes of the file decide, never its name. A zip archive must have one table in it. Text
that is UTF-8 passes unchanged; other encodings are decoded in pieces. Lone carriage returns become
newlines, so that one newline is one line.
"""

from __future__ import annotations

import codecs
import gzip
import lzma
import os
import zipfile
import zlib
from pathlib import Path, PurePosixPath
from typing import IO, Any

import pyarrow as pa

from ..closing import Closing
from ..errors import DataError, OutputError

MAGIC = {
    b"\x1f\x8b": "gzip",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\x04\x22\x4d\x18": "lz4",
    b"BZh": "bz2",
    b"\xfd7zXZ\x00": "xz",
    b"PK\x03\x04": "zip",
    b"PK\x05\x06": "zip",
    b"PAR1": "parquet",
    b"ARROW1": "arrow",
    b"\xff\xff\xff\xff": "arrow",
    b"\x93NUMPY": "npy",
    b"\xd0\xcf\x11\xe0": "xls",
    b"%PDF": "pdf",
    b"SQLite format 3\x00": "sqlite",
    b"\x89HDF": "hdf5",
    b"7z\xbc\xaf\x27\x1c": "7z",
    b"<!DOCTYPE": "html",
    b"<!doctype": "html",
    b"<html": "html",
    b"<?xml": "xml",
    b"version https://git-lfs": "lfs",
}
"""First bytes of the kinds of files that are recognised; anything else is text."""

WORDS = {
    "gzip": "a gzip file",
    "zstd": "a Zstandard file",
    "lz4": "an LZ4 file",
    "bz2": "a bzip2 file",
    "xz": "an xz file",
    "zip": "a zip archive",
    "xlsx": "an Excel workbook",
    "xls": "an old Excel workbook (.xls): save it as .xlsx or CSV",
    "parquet": "a Parquet file",
    "arrow": "an Arrow file",
    "npy": "an .npy file",
    "pdf": "a PDF document",
    "sqlite": "an SQLite database",
    "hdf5": "an HDF5 file",
    "7z": "a 7z archive: unpack it first",
    "tar": "a tar archive: unpack it first",
    "html": "an HTML page: open it in a browser to see what was downloaded",
    "xml": "an XML document: convert it to CSV",
    "lfs": "a pointer of Git LFS: run git lfs pull",
    "json": "JSON",
    "text": "text",
}

TABLES = (".csv", ".tsv", ".txt", ".dat", ".tab")
HEAD_BYTES = 65_536
"""Bytes that decide the encoding and the newlines."""

MAX_PEEKS = 16
"""Reads of that size in a look at the first lines."""

PACKED = ("gzip", "zstd", "lz4", "bz2", "xz", "zip")
"""Kinds with another file in them."""

DAMAGED = (OSError, EOFError, lzma.LZMAError, zlib.error, zipfile.BadZipFile)
"""What decompressors raise for damaged bytes."""


def kind_of(path: Path) -> str:
    """Return what a file is by its first bytes, a key of `WORDS`."""
    with path.open("rb") as file:
        head = file.read(32)
    kind = kind_in(head)
    if kind == "zip":
        try:
            with zipfile.ZipFile(path) as archive:
                kind = "xlsx" if "xl/workbook.xml" in archive.namelist() else "zip"
        except zipfile.BadZipFile as error:
            raise DataError(f"{path} is a damaged zip archive: {error}") from None
    return kind


def kind_in(head: bytes) -> str:
    """Return the kind of a file that begins with `head`, without a look into archives."""
    text = head.lstrip()
    return next(
        (
            kind
            for magic, kind in MAGIC.items()
            if head.startswith(magic) or text.startswith(magic)
        ),
        "text",
    )


class TextSource(Closing):
    """The text of one file. Attributes: `kind`, a key of `WORDS`; `encoding`; `member` of a zip.

    Raises DataError for a file that is not text, and for an archive without exactly one table.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.kind = kind_of(path)
        self.member = ""
        self._raw: IO[bytes] = path.open("rb")
        self._at = 0
        self._peeked = b""
        try:
            self._stream: Any = self._open()
            self._head = self._take(HEAD_BYTES)
            self._check_inside()
        except BaseException:
            self.close()
            raise
        self.encoding = encoding_of(self._head)
        decoder = codecs.getincrementaldecoder(self.encoding)
        self._decoder = None if self.encoding == "utf-8" else decoder()
        self._checker = codecs.getincrementaldecoder("utf-8")()
        text = self._head.decode(self.encoding, "ignore")
        self._returns = "\r" in text.replace("\r\n", "").removesuffix("\r")
        self._held = b""

    @property
    def bytes_read(self) -> int:
        """Bytes of the file read so far, compressed ones if it is compressed."""
        return self._at if self._raw.closed else self._raw.tell()

    def close(self) -> None:
        """Close the file."""
        self._at = self.bytes_read
        self._raw.close()

    def peek(self, lines: int) -> bytes:
        """Return the first lines, as many as that or a megabyte; `read` gives them again."""
        parts: list[bytes] = []
        while lines > 0 and len(parts) < MAX_PEEKS and (data := self.read(HEAD_BYTES)):
            parts.append(data)
            lines -= data.count(b"\n")
        self._peeked = b"".join(parts)
        return self._peeked

    def read(self, size: int) -> bytes:
        """Return about `size` bytes of UTF-8 with newlines, b"" at the end.

        Raises DataError for damaged bytes, and for text in another encoding than its beginning.
        """
        if self._peeked:
            text, self._peeked = self._peeked, b""
            return text
        while True:
            data, self._head = self._head[:size] or self._take(size), self._head[size:]
            text = self._newlines(self._utf8(data, not data), not data)
            if text or not data:
                return text

    def _open(self) -> Any:
        if self.kind == "text":
            return self._raw
        if self.kind == "gzip" and self._is_padded():
            return gzip.open(self._raw)  # Arrow takes the zeros for a damaged member
        if self.kind in ("gzip", "zstd", "bz2", "lz4"):
            return pa.CompressedInputStream(pa.PythonFile(self._raw, "r"), self.kind)
        if self.kind == "xz":
            return lzma.open(self._raw)
        if self.kind == "zip":
            return self._open_member(zipfile.ZipFile(self._raw))
        raise DataError(f"{self.path} is {WORDS[self.kind]}, not a table of text")

    def _is_padded(self) -> bool:
        """Return whether zeros follow the last member, as on a tape."""
        self._raw.seek(-8, os.SEEK_END)
        padded = not any(self._raw.read())
        self._raw.seek(0)
        return padded

    def _check_inside(self) -> None:
        """Name what is in a packed file if it is not text."""
        tar = self._head[257:262] == b"ustar"
        inside = "tar" if tar else kind_in(self._head)
        if inside not in ("text", "arrow") or (inside == "arrow" and self.kind != "text"):
            within = f"{WORDS[self.kind]} with " if self.kind in PACKED else ""
            raise DataError(f"{self.path} is {within}{WORDS[inside]}")

    def _open_member(self, archive: zipfile.ZipFile) -> IO[bytes]:
        files = [
            info
            for info in archive.infolist()
            if not info.is_dir() and not info.filename.startswith(("__MACOSX/", "."))
        ]
        tables = [f for f in files if PurePosixPath(f.filename).suffix.lower() in TABLES]
        one = tables if len(tables) == 1 else files
        if len(one) != 1:
            names = ", ".join(info.filename for info in files[:10]) or "nothing"
            message = f"contains {names}: unpack it and name one of its files"
            raise DataError(f"{self.path} is a zip archive and {message}")
        self.member = one[0].filename
        if one[0].flag_bits & 1:
            raise DataError(f"{self.path} is an encrypted zip archive: unpack it first")
        return archive.open(one[0])

    def _take(self, size: int) -> bytes:
        try:
            return bytes(self._stream.read(size))
        except DAMAGED as error:
            if isinstance(error, OSError) and error.errno:
                raise OutputError(f"cannot read {self.path}: {error}") from None
            message = f"is {WORDS[self.kind]} that is damaged or cut short: {error}"
            raise DataError(f"{self.path} {message}") from None

    def _utf8(self, data: bytes, final: bool) -> bytes:
        try:
            if self._decoder is not None:
                return self._decoder.decode(data, final).removeprefix("\ufeff").encode()
            if final or not data.isascii() or self._checker.getstate()[0]:
                self._checker.decode(data, final)
        except UnicodeDecodeError as error:
            raise DataError(
                f"{self.path} begins as {self.encoding.upper()}, but not all of it is "
                f"({error.reason}); convert it with iconv -f CP1252 -t UTF-8 FILE > NEW.csv"
            ) from None
        return data

    def _newlines(self, data: bytes, final: bool) -> bytes:
        if not self._returns:
            return data
        data, self._held = self._held + data, b""
        if data.endswith(b"\r") and not final:
            data, self._held = data[:-1], b"\r"
        return data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")


def encoding_of(head: bytes) -> str:
    """Return the name of the codec that decodes a text which begins with `head`."""
    for mark, encoding in (
        (codecs.BOM_UTF8, "utf-8-sig"),
        (codecs.BOM_UTF16_LE, "utf-16-le"),
        (codecs.BOM_UTF16_BE, "utf-16-be"),
    ):
        if head.startswith(mark):
            return encoding
    even, odd = head[::2].count(0), head[1::2].count(0)
    if 3 * max(even, odd) > len(head) // 2 > 0:
        return "utf-16-be" if even > odd else "utf-16-le"
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return "cp1252"
    return "utf-8"
