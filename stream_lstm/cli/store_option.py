"""The store of `run` and `replay`, where `--store` names one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ..config import Members
from ..errors import OutputError

if TYPE_CHECKING:
    from ..store.store import Store
    from .warm_start import WarmStart


def open_store(
    start: WarmStart,
    columns: tuple[str, ...],
    members: Members | None,
    *,
    command: str,
    blocking: bool,
    say: Callable[[str], object],
) -> Store | None:
    """Return the store that is configured, locked; None where there is none.

    Raises what `Store` raises.
    """
    options = start.config.store
    if options.store is None:
        return None
    path = Path(options.store)
    if not path.parent.is_dir():
        raise OutputError(f"cannot make the store {path}: there is no directory {path.parent}")
    if path.is_dir():
        raise OutputError(f"cannot make the store {path}: it is a directory")
    # It knows the session, and with that JAX, which takes a second to import.
    from ..store.reading import Setup
    from ..store.store import Store

    setup = Setup(start.config, columns, members, start.weights, start.scaler)
    return Store(path, setup, options, command=command, blocking=blocking, say=say)
