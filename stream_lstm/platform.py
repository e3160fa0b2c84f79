"""What POSIX systems and Windows do differently, and what takes its place.

| here | on POSIX | on Windows |
|---|---|---|
| locks of files | `flock`, released when the process ends | `LockFileEx` of a byte, the same |
| reload | SIGHUP | a change of the configuration or the list of clients, looked at once a second |
| stop | SIGTERM, SIGINT | Ctrl-C and Ctrl-Break |
| `ipc://` | a path with a lock beside it | refused: its path could be taken by a second process |
| modes and owners of files | checked | access lists, which a warning says how to set |
| folders | written to disk with their files | cannot be opened, and need not be |
| replacing a file that is read | done | refused while it is open, so tried for 1 s |
| children and Ctrl-C | a session of their own | a process group of their own |
| `asyncio` | watches sockets | a selector's loop, since the default one watches none |
| text in pipes | UTF-8 | UTF-8, not the code page |
| peak memory | `getrusage` | 0 |
"""

from __future__ import annotations

import errno
import os
import signal
import socket
import struct
import sys
import threading
from pathlib import Path
from typing import Any

WINDOWS = sys.platform == "win32"

STOP_SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGBREAK") if hasattr(signal, name)
)
"""Signals that request an orderly end."""

HANGUP: int | None = getattr(signal, "SIGHUP", None)
"""The signal that requests a reload; None where there is none."""

TEXT_OFFSET = 1 if WINDOWS else 0
"""Where others read a locked file: on Windows a lock keeps them from its first byte."""

ATTEMPTS, PAUSE_S = 20, 0.05
"""How often, and after which time, a file that others have open is replaced."""

SIOCGIFADDR = 0x8915


def lock_file(descriptor: int) -> None:
    """Lock an open file for this descriptor; raises BlockingIOError."""
    from filelock import lock_descriptor  # a first import takes 30 ms, and few commands lock

    if not lock_descriptor(descriptor, blocking=False):
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))


def lock_byte(descriptor: int, byte: int) -> None:
    """Lock a byte of an open file for this descriptor; raises BlockingIOError.

    Only Linux has such locks.
    """
    if sys.platform == "linux":
        import fcntl

        request = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, byte, 1, 0)
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, request)


def interface_address(name: str) -> bytes:
    """Return the IPv4 address of a network interface; OSError where that cannot be found out."""
    if sys.platform != "linux" or not 0 < len(name.encode()) < 16:
        raise OSError(errno.ENODEV, "No such device")
    import fcntl

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as query:
        request = struct.pack("256s", name.encode())
        return fcntl.ioctl(query.fileno(), SIOCGIFADDR, request)[20:24]


def peak_rss_bytes() -> int:
    """Return the most memory that this process has held so far; 0 where that is unknown."""
    try:
        import resource
    except ImportError:
        return 0
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def access_advice(folder: Path) -> str:
    """Return what to do about a folder of secrets whose access is not checked; "" where it is."""
    if not WINDOWS:
        return ""
    return (
        f"Windows: who may read or change {folder} is not checked; to allow this user alone, run "
        f'icacls "{folder}" /inheritance:r /grant:r "%USERNAME%:(OI)(CI)F"'
    )


def own_group() -> dict[str, Any]:
    """Return the options of a child process that Ctrl-C in our terminal does not reach."""
    if not WINDOWS:
        return {"start_new_session": True}
    import subprocess

    return {"creationflags": getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0)}


def is_ours(about: os.stat_result) -> bool:
    """Return whether a file belongs to this user, or on Windows to anybody."""
    return sys.platform == "win32" or about.st_uid == os.geteuid()


def replace(new: Path, old: Path) -> None:
    """Rename a file to the name of another one, which may exist; raises OSError.

    Windows refuses it while anybody (a virus scanner) has the other one open.
    """
    for _ in range(ATTEMPTS - 1 if WINDOWS else 0):
        try:
            os.replace(new, old)
        except PermissionError:
            threading.Event().wait(PAUSE_S)
        else:
            return
    os.replace(new, old)


def sync_folder(folder: Path) -> None:
    """Write the names in a folder to disk."""
    if sys.platform == "win32":
        return
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
