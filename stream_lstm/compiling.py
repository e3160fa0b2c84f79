"""What is done around each compilation: nothing, unless the shell keeps executables."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TypeAlias

Around: TypeAlias = Callable[[str, str], AbstractContextManager[None]]
"""Takes the kind of what is compiled, and a name that equal programs share."""

_around: list[Around] = [lambda *_: nullcontext()]


def compiling(kind: str, key: str) -> AbstractContextManager[None]:
    """Return the context in which the programs of `key` are compiled, or read."""
    return _around[0](kind, key)


def around_compilations(around: Around) -> None:
    """Enter `around` for each compilation of this process from now on."""
    _around[0] = around
