"""Files that get their name once they are whole: written as FILE.partial, and renamed."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from ..errors import OutputError


def check_place(path: Path) -> None:
    """Raise OutputError where a file cannot be written at `path`."""
    if not path.parent.is_dir():
        raise OutputError(f"cannot write {path}: there is no directory {path.parent}")
    if path.is_dir():
        raise OutputError(f"cannot write {path}: it is a directory")
    if not os.access(path.parent, os.W_OK):
        raise OutputError(f"cannot write {path}: no permission to write in {path.parent}")


def partial_of(path: Path) -> Path:
    """Return the name of a file while it is written."""
    return path.with_name(path.name + ".partial")


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Open FILE.partial; without an error, flush it to the disk and rename it to `path`."""
    partial = partial_of(path)
    with partial.open("wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def write_whole(path: Path, data: bytes) -> None:
    """Write a file; raises OutputError where the operating system refuses."""
    try:
        with replacing(path) as file:
            file.write(data)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from None
