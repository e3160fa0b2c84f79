"""Whether a path is a plain file: a pipe or a device would hold up or feed what opens it."""

from __future__ import annotations

import stat
from pathlib import Path

from ..errors import InputMissingError

KINDS = {
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a named pipe (FIFO)",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}


def other_kind(path: Path) -> str:
    """Return what a path is that is no plain file, "" for one that is, or that is not there."""
    try:
        return KINDS.get(stat.S_IFMT(path.stat().st_mode), "")
    except (OSError, ValueError):
        return ""


def check_plain(path: Path, *, directories: bool = True) -> None:
    """Raise InputMissingError for what is no plain file; called before it is opened.

    directories: they are refused too, and not left to what opens the file.
    """
    kind = other_kind(path)
    if kind and (directories or not path.is_dir()):
        raise InputMissingError(f"{path} is {kind}; name a file")
