"""Packages that only some files need, and what to install where they are missing."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from ..errors import UsageError


def need(package: str, extra: str, path: Path) -> Any:
    """Return an imported package; UsageError with the line that installs it where it is not."""
    try:
        return importlib.import_module(package)
    except ImportError:
        raise UsageError(
            f"{path}: a {path.suffix} file needs the package {package}: "
            f"pip install 'stream-lstm[{extra}]'"
        ) from None


def installed(package: str) -> Any | None:
    """Return an imported package, or None."""
    try:
        return importlib.import_module(package)
    except ImportError:
        return None
