"""The rows of `runs`: the writing program, and everything that can change its results."""

from __future__ import annotations

import os
import platform
import sqlite3
from importlib.metadata import version
from pathlib import Path

import msgspec

from .. import __version__
from ..core.replay import weights_digest
from ..core.session import Session
from .schema import Row


def runtime() -> dict[str, str]:
    """Return everything that can change the bits of a result: versions, machine and flags."""
    libraries = ("jax", "jaxlib", "numpy", "optax", "flax")
    return {
        "stream_lstm": __version__,
        "python": platform.python_version(),
        **{name: version(name) for name in libraries},
        "sqlite": sqlite3.sqlite_version,
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "XLA_FLAGS": os.environ.get("XLA_FLAGS", ""),
    }


def run_row(
    session: Session, run: int, started_ns: int, pos: int, command: str, configuration: str
) -> Row:
    """Return a row of `runs`, with the weights that the session has at its start."""
    about = runtime() | {"weights": short_digest(session)}
    known = msgspec.json.encode(about).decode(), configuration
    return (run, started_ns, pos, command, os.getpid(), about["stream_lstm"], *known)


def short_digest(session: Session) -> str:
    """Return a short digest of a session's weights."""
    weights = {name: learned.weights for name, learned in session.learners.items()}
    return weights_digest(weights)[:16]


def _processor() -> str:
    """Return the processor's name: XLA compiles for its instructions."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor()
    found = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(found, platform.processor())
