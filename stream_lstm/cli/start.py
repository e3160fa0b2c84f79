"""The entry point of `stream-lstm`, which runs before the other modules are imported.

Some supervisors close standard streams before they start a command. A file that is opened later
would take the number of a closed descriptor, and what is printed would go into it. So `/dev/null`
takes the place of each missing stream, for child processes too.

Pipes and files are UTF-8, also where the system's default is a code page without some letters.
"""

from __future__ import annotations

import io
import os
import signal
import sys

STREAMS = (("stdin", os.O_RDONLY), ("stdout", os.O_WRONLY), ("stderr", os.O_WRONLY))


def main() -> None:
    """Run the command line and exit with its code."""
    open_missing()
    use_utf_8()
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        # an interrupt during an import would end in a traceback; the signal itself ends it here
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        from . import main as _  # noqa: F401

        signal.signal(signal.SIGINT, signal.default_int_handler)
    from .main import main as run

    run()


def open_missing() -> None:
    """Open `/dev/null` as each standard stream that is closed."""
    for descriptor, (name, access) in enumerate(STREAMS):
        if not _is_open(descriptor):
            _open(descriptor, access)
        elif getattr(sys, name) is not None:
            continue
        else:  # it was closed, and its number belongs to another file now
            descriptor = os.open(os.devnull, access)
        stream = open(  # noqa: SIM115 - stays open until the process ends
            descriptor, "r" if access == os.O_RDONLY else "w", encoding="utf-8", closefd=False
        )
        setattr(sys, name, stream)


def use_utf_8() -> None:
    """Make standard streams UTF-8, but those of a terminal, and where PYTHONIOENCODING is set."""
    for name, _ in STREAMS if "PYTHONIOENCODING" not in os.environ else ():
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper) and not stream.isatty():
            stream.reconfigure(encoding="utf-8", errors=stream.errors)


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
