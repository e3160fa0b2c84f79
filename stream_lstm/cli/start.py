"""Where the command `stream-lstm` starts, before its parts are imported."""

from __future__ import annotations

import signal

from .standard_streams import open_missing


def main() -> None:
    """Run the command line and exit with its code."""
    open_missing()
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        # an interrupt within an import would end in a traceback: here the signal itself ends it
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        from . import main as _  # noqa: F401

        signal.signal(signal.SIGINT, signal.default_int_handler)
    from .main import main as run

    run()
