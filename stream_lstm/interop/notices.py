"""Warnings of the public interface, which name the line of the caller."""

from __future__ import annotations

import sys
import warnings

from ..errors import InputWarning

_INSIDE = (__name__.partition(".")[0], "contextlib")


def warn(line: str) -> None:
    """Warn (InputWarning) at the line outside this package that the present call comes from."""
    level, frame = 1, sys._getframe(0)
    while frame.f_back is not None and _is_inside(frame.f_globals.get("__name__", "")):
        level, frame = level + 1, frame.f_back
    warnings.warn(line, InputWarning, stacklevel=level)


def _is_inside(module: str) -> bool:
    return module.partition(".")[0] in _INSIDE
