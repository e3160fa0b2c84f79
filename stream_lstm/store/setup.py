"""What a store was begun with: all that its journal needs to be replayed, and nothing more.

A store holds one setup for good. What a restart brings must agree with it in every setting that
the session's state depends on; where data come from and go to may change.
"""

from __future__ import annotations

import hashlib
import sqlite3
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
import safetensors.numpy

from ..config import Config, flatten
from ..errors import ConfigurationError
from ..members import Members
from .schema import UNREADABLE, damaged

STATE = ("stream", "model", "scaling", "learning", "scoring")
"""Tables of the configuration that the state depends on."""

FREE = ("weights", "publish_experts", "table")
"""Keys of those that it does not depend on; weights are compared as numbers."""

SCALER = "scaler.state"

DAMAGED: tuple[type[Exception], ...] = (*UNREADABLE, safetensors.SafetensorError)
"""What reading a setup that is damaged raises."""


class Setup(NamedTuple):
    """Configuration and columns, members of a bank, weights and scaler to start from."""

    config: Config
    columns: tuple[str, ...]
    members: Members | None = None
    weights: dict[str, Any] | None = None
    scaler: npt.NDArray[np.float32] | None = None


def write_setup(connection: sqlite3.Connection, setup: Setup) -> None:
    """Write the setup of a store that is new."""
    parts: dict[str, str | bytes] = {
        "configuration": msgspec.json.encode(setup.config).decode(),
        "columns": msgspec.json.encode(setup.columns).decode(),
        "members": msgspec.json.encode(setup.members).decode(),
        "start": _start(setup),
    }
    rows = [(name, value, _digest(value)) for name, value in parts.items()]
    connection.executemany("INSERT INTO setup VALUES (?, ?, ?)", rows)


def read_setup(connection: sqlite3.Connection, store: str) -> Setup | None:
    """Return the setup of a store, None where it has none yet; store: the name of its file.

    Raises StoreError where it is damaged, naming the file and the part.
    """
    rows = connection.execute("SELECT name, value, sha256 FROM setup").fetchall()
    if not rows:
        return None
    parts: dict[str, Any] = {}
    for name, value, digest in rows:
        if not isinstance(value, str | bytes) or _digest(value) != digest:
            what = "weights to start from" if name == "start" else name
            raise damaged(store, f"the checksum of its {what} is wrong")
        parts[name] = value
    try:
        tensors = safetensors.numpy.load(parts["start"])
        scaler = tensors.pop(SCALER, None)
        return Setup(
            msgspec.json.decode(parts["configuration"], type=Config),
            msgspec.json.decode(parts["columns"], type=tuple[str, ...]),
            msgspec.json.decode(parts["members"], type=Members | None),
            {name: {"kernel": kernel} for name, kernel in tensors.items()} or None,
            scaler,
        )
    except DAMAGED as error:
        raise damaged(store, f"its setup does not fit this version ({error})") from None


def check_setup(theirs: Setup, ours: Setup, store: str) -> None:
    """Raise ConfigurationError for the first thing in which a restart differs, naming both."""
    was, now = _settings(theirs.config), _settings(ours.config)
    for key in was:
        if was[key] != now[key]:
            raise _differs(store, key, was[key], now[key])
    if theirs.columns != ours.columns:
        raise _differs(store, "columns", list(theirs.columns), list(ours.columns))
    if theirs.members != ours.members:
        raise _differs(store, "bank", _short(theirs.members), _short(ours.members))
    given = ours.weights is not None or ours.scaler is not None
    before, after = _digest(_start(theirs))[:12], _digest(_start(ours))[:12]
    if given and before != after:
        raise _differs(store, "weights", f"of SHA-256 {before}", f"of SHA-256 {after}")


def _settings(config: Config) -> dict[str, Any]:
    keys = [key for table in STATE for key in getattr(config, table).__struct_fields__]
    values = flatten(config)
    return {key: values[key] for key in keys if key not in FREE}


def _differs(store: str, key: str, was: object, now: object) -> ConfigurationError:
    return ConfigurationError(
        f"{store} was begun with {key} = {was}, and now it is {now}: go on with what it was begun "
        "with, or name another store"
    )


def _short(members: Members | None) -> str:
    return "none" if members is None else ", ".join(member.name for member in members)


def _start(setup: Setup) -> bytes:
    tensors = {
        name: np.ascontiguousarray(layer["kernel"], np.float32)
        for name, layer in (setup.weights or {}).items()
    }
    if setup.scaler is not None:
        tensors[SCALER] = np.ascontiguousarray(setup.scaler, np.float32)
    return safetensors.numpy.save(tensors)


def _digest(value: str | bytes) -> str:
    return hashlib.sha256(value.encode() if isinstance(value, str) else value).hexdigest()
