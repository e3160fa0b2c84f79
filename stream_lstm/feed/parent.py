"""A feed that another process started must not outlive it, however that one ended."""

from __future__ import annotations

import os
import threading

STDIN = 0


def leave_with_parent() -> None:
    """End this process, from now on, as soon as its standard input is closed."""
    threading.Thread(target=_watch, daemon=True).start()


def _watch() -> None:
    # not through sys.stdin, whose lock would be held when the interpreter ends
    while os.read(STDIN, 1):
        pass
    os._exit(0)
