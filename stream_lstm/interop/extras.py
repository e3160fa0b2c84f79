"""Packages that only some files need, and what to install where they are missing."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from ..errors import UsageError


def need(package: str, extra: str, path: Path) -> Any:
    """Return an imported package; UsageError with the line that installs it where it is not."""
    return need_for(f"{path}: a {path.suffix} file", package, extra)


def need_for(what: str, package: str, extra: str) -> Any:
    """Return a package that `what` needs; UsageError with its install line where it is not."""
    found = installed(package)
    if found is None:
        raise UsageError(f"{what} needs the package {package}: pip install 'stream-lstm[{extra}]'")
    return found


def installed(package: str) -> Any | None:
    """Return an imported package, or None."""
    try:
        return importlib.import_module(package)
    except ImportError:
        return None
