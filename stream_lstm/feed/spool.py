"""Standard input and pipes as files.

A table is read more than once: its first bytes decide what it is, and Parquet, workbooks and zip
archives need seeking. A pipe is therefore copied to a temporary file, which is removed at the end
of the process.
"""

from __future__ import annotations

import atexit
import shutil
import stat
import tempfile
from functools import lru_cache
from pathlib import Path

from ..errors import OutputError

STANDARD_INPUT = "-"
_NUMBERED = ("/dev/fd", "/dev", "/proc/self/fd")
"""Folders whose names of pipes say nothing about what comes through them."""


def as_file(path: Path) -> Path:
    """Return a path as it is, or for `-` and a pipe that of a temporary copy, read to its end.

    Raises OutputError if the copy fails.
    """
    if str(path) in (STANDARD_INPUT, "/dev/stdin"):
        return _spooled(STANDARD_INPUT, "stdin")
    try:
        mode = path.stat().st_mode
    except OSError:
        return path  # the reader reports it
    if not stat.S_ISFIFO(mode):
        return path
    name = "stdin" if str(path.parent) in _NUMBERED else path.name
    return _spooled(str(path), name)


@lru_cache
def _spooled(source: str, name: str) -> Path:
    """Return the temporary copy of a pipe, which can be read only once."""
    folder = tempfile.mkdtemp(prefix="stream-lstm-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    copy = Path(folder) / name
    try:
        standard = source == STANDARD_INPUT
        with (
            open(0 if standard else source, "rb", closefd=not standard) as pipe,
            copy.open("xb") as file,
        ):
            shutil.copyfileobj(pipe, file, 2**20)
    except OSError as error:
        raise OutputError(
            f"cannot copy {source} to {folder}: {error.strerror or error}; TMPDIR names another "
            "folder for copies of pipes"
        ) from None
    return copy
