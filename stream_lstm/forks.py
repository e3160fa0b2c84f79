"""A call in every forked child process; Windows does not fork."""

from __future__ import annotations

import os
from collections.abc import Callable


def call_in_child(function: Callable[[], object]) -> None:
    """Call a function in every child process that is forked later."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=function)
