"""Exceptions injected at the line events of Python code, as an interrupt may come anywhere."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any


class Injected(BaseException):
    """What an interrupt is: no `except Exception` catches it."""


class Injector:
    """A trace function that raises at a line event, counted from 0.

    files: parts of file names. A line counts where one of them is in the name of its file.
    Libraries are to be left out: an exception at the end of a `with` keeps its lock taken, which a
    real interrupt never does. `left` is below 0 where it raised.
    """

    def __init__(self, at: int, files: Sequence[str]) -> None:
        self.left, self._files = at, tuple(files)

    def __call__(self, frame: Any, event: str, _: Any) -> Injector | None:
        if event == "call" and not any(part in frame.f_code.co_filename for part in self._files):
            return None
        if event == "line":
            self.left -= 1
            if self.left < 0:
                sys.settrace(None)
                raise Injected
        return self
