"""What a run is computed by: whatever can change the bits of a result."""

from __future__ import annotations

import os
import platform
import sqlite3
from importlib.metadata import version
from pathlib import Path

from .. import __version__
from ..core.recording import weights_digest
from ..core.session import Session

LIBRARIES = ("jax", "jaxlib", "numpy", "optax", "flax")


def runtime() -> dict[str, str]:
    """Return the versions of this program and its libraries, and what the machine is."""
    return {
        "stream_lstm": __version__,
        "python": platform.python_version(),
        **{name: version(name) for name in LIBRARIES},
        "sqlite": sqlite3.sqlite_version,
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "XLA_FLAGS": os.environ.get("XLA_FLAGS", ""),
    }


def held_weights(session: Session) -> str:
    """Return a short digest of the weights that a session holds."""
    held = {name: learned.weights for name, learned in session.learned.items()}
    return weights_digest(held)[:16]


def _processor() -> str:
    """Return the processor's name, whose instructions the compiled code is made of."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor()
    found = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(found, platform.processor())
