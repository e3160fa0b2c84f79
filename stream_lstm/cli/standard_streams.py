"""Standard input, output and error, which some supervisors close before they start a command.

A file that is opened later would take a closed descriptor's number, and what is printed would go
into it. So `/dev/null` takes the place of each that is missing, for child processes too.
"""

from __future__ import annotations

import os
import sys

STREAMS = (("stdin", os.O_RDONLY), ("stdout", os.O_WRONLY), ("stderr", os.O_WRONLY))


def open_missing() -> None:
    """Open `/dev/null` as each standard stream that is closed."""
    for descriptor, (name, access) in enumerate(STREAMS):
        if not _is_open(descriptor):
            _open(descriptor, access)
        elif getattr(sys, name) is not None:
            continue
        else:  # it was closed, and its number is another file's by now
            descriptor = os.open(os.devnull, access)
        stream = open(  # noqa: SIM115 - for as long as the process lasts
            descriptor, "r" if access == os.O_RDONLY else "w", encoding="utf-8", closefd=False
        )
        setattr(sys, name, stream)


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def _open(descriptor: int, access: int) -> None:
    opened = os.open(os.devnull, access)
    if opened != descriptor:
        os.dup2(opened, descriptor)
        os.close(opened)
    os.set_inheritable(descriptor, True)
