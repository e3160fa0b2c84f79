"""What is to happen in a child process that was forked; Windows has none."""

from __future__ import annotations

import os
from collections.abc import Callable


def call_in_child(function: Callable[[], object]) -> None:
    """Call a function in every child that is forked from now on."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=function)
