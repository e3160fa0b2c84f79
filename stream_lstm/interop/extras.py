"""Optional packages, and how to install them."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from ..errors import UsageError


def need(package: str, extra: str, path: Path) -> Any:
    """Return the imported package that a file needs; see `need_for`."""
    return need_for(f"{path}: a {path.suffix} file", package, extra)


def need_for(what: str, package: str, extra: str) -> Any:
    """Return the imported package that `what` needs.

    Raises UsageError with the command that installs it.
    """
    module = installed(package)
    if module is None:
        raise UsageError(f"{what} needs the package {package}: pip install 'stream-lstm[{extra}]'")
    return module


def installed(package: str) -> Any | None:
    """Return an imported package, or None."""
    try:
        return importlib.import_module(package)
    except ImportError:
        return None
