"""A context manager that closes itself at the end.

A call in every forked child process; Windows does not fork.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Self


def call_in_child(function: Callable[[], object]) -> None:
    """Call a function in every child process that is forked later."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=function)


class Closing:
    """Base class of a context manager that calls `close` at the end."""

    def close(self) -> None:
        """Release all resources."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
