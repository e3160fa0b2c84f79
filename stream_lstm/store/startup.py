"""What a session starts from: a file of weights, a bank, kept executables, a store.

A file of weights also describes its network. Settings that the user did not give are taken from
it: `hidden`, `layers`, the features, and how they were scaled. Settings that the user did give
stay, and a warning says where they do not fit.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Container, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from ..config import BANKS, Config, Members, build, flatten, parse_bank
from ..core.expressions import parse
from ..errors import ConfigurationError, DataError, InputMissingError, OutputError, UsageError
from ..feed.reader import check_plain
from ..schema import ScalingConfig
from .executables import keep_executables

if TYPE_CHECKING:
    from ..core.session import Session
    from .store import Store

Warn = Callable[[str], object]

SCALING = ("scaling", "memory", "clip", "gain")
"""Keys that describe the network's inputs in training."""

OLDER = {"clip": 5.0, "gain": 1.0}
"""Scaling of weights whose file does not name it: the settings of the first release."""


class WarmStart(NamedTuple):
    """A configuration completed from its file of weights, and the file's content, or None."""

    config: Config
    weights: dict[str, Any] | None = None
    scaler: npt.NDArray[np.float32] | None = None
    members: Members | None = None


def warm_start(config: Config, given: Container[str], warn: Warn) -> WarmStart:
    """Return what a command starts from, and use kept executables from now on.

    given: the keys that the user set.

    Raises what `load_weights`, `read_bank` and `keep_executables` raise, and ConfigurationError
    where the file's network is larger than any that can be configured.
    """
    members = read_bank(config)
    keep_executables(config.model.compile_cache, warn)
    if config.model.weights is None:
        return WarmStart(config, members=members)
    from .weights import load_scaler, load_weights

    path = Path(config.model.weights)
    weights, metadata = load_weights(path)
    about: dict[str, Any] = {
        **OLDER,
        "hidden": int(metadata["hidden"]),
        "layers": int(metadata["layers"]),
        "features": _features(path, metadata),
        **_scaling(path, metadata),
    }
    missing = {k: v for k, v in about.items() if v and k not in given}
    try:
        config = build({**flatten(config), **missing})
    except ConfigurationError as error:
        raise ConfigurationError(*error.within(f"{path}: "), key="weights") from None
    trained_on, used = about["features"], config.stream.features
    if trained_on and trained_on != tuple(str(parse(text)) for text in used):
        warn(f"{path} was trained on the features {', '.join(trained_on)}, not {', '.join(used)}")
    for key in SCALING:
        if key in about and about[key] != getattr(config.scaling, key):
            warn(
                f"{path} was trained with {key} = {about[key]}, not {getattr(config.scaling, key)}"
            )
    scaler, wanted = load_scaler(path), 1 + 2 * len(used)
    if scaler is not None and len(scaler) != wanted:
        warn(f"{path}: its scaler has {len(scaler)} numbers, not {wanted}; it is not used")
        scaler = None
    return WarmStart(config, weights, scaler, members)


def _scaling(path: Path, metadata: dict[str, str]) -> dict[str, Any]:
    """Return how the inputs of training were scaled, as far as the file describes it."""
    try:
        numbers = {key: float(metadata[key]) for key in SCALING[1:] if key in metadata}
    except ValueError as error:
        raise DataError(f"{path}: {error}") from None
    return numbers | {key: metadata[key] for key in SCALING[:1] if key in metadata}


def _features(path: Path, metadata: dict[str, str]) -> tuple[str, ...]:
    text = metadata.get("features", "[]")
    try:
        return msgspec.json.decode(text, type=tuple[str, ...])
    except msgspec.DecodeError:
        raise DataError(f"{path}: its features {text[:80]!r} are not a JSON list") from None


def keep_weights(path: Path, session: Session, stream: str) -> None:
    """Write the weights and the scaler of a stream; OutputError if they cannot be written."""
    from .weights import save_weights

    metadata = about_inputs(session.maker.features.names, session.config.scaling)
    save_weights(path, session.weights_for(stream), metadata, session.scaler_of(stream))


def about_inputs(features: Sequence[str], scaling: ScalingConfig) -> dict[str, str]:
    """Return the metadata of weights that describe their inputs."""
    names = msgspec.json.encode(list(features)).decode()
    return {"features": names} | {key: str(getattr(scaling, key)) for key in SCALING}


def read_bank(config: Config) -> Members | None:
    """Return the members of a bank's file, None where the configuration names no file.

    Raises InputMissingError, OutputError (unreadable) or ConfigurationError naming the file.
    """
    name = config.learning.bank
    if name in BANKS:
        return None
    path = Path(name)
    check_plain(path, directories=False)
    try:
        return parse_bank(tomllib.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise InputMissingError(
            f"no such file of a bank: {path}; --bank takes default, none or a TOML file"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise OutputError(f"cannot read the bank {path}: {error}") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"{path} is not valid TOML: {error}", key="bank") from None
    except ConfigurationError as error:
        raise ConfigurationError(f"{path}: {error}", key="bank") from None


def check_saving(config: Config, save_weights: Path | None) -> None:
    """Raise UsageError or OutputError where weights cannot be loaded or saved."""
    if config.learning.bank != "none" and config.model.weights is not None:
        raise UsageError(
            f"--weights {config.model.weights}: a bank starts all of its networks afresh; "
            "start from weights with --bank none"
        )
    if save_weights is None:
        return
    if config.learning.bank != "none":
        raise UsageError(
            f"--save-weights {save_weights}: a bank has many networks; save one with --bank none"
        )
    from .weights import check_target  # it imports JAX

    check_target(save_weights)


def check_one_set(config: Config, save_weights: Path | None) -> None:
    """Raise UsageError where several streams have weights of their own and all would be saved."""
    if save_weights is not None and config.model.sharing == "per-stream":
        raise UsageError(
            "--save-weights writes one set of weights, and sharing = 'per-stream' has one set "
            "for each stream: omit one of the two"
        )


def open_store(
    start: WarmStart, columns: tuple[str, ...], *, command: str, blocking: bool, warn: Warn
) -> Store | None:
    """Return the configured store, locked; None without one. Raises what `Store` raises."""
    options = start.config.store
    if options.store is None:
        return None
    path = Path(options.store)
    if not path.parent.is_dir():
        raise OutputError(f"cannot make the store {path}: there is no directory {path.parent}")
    if path.is_dir():
        raise OutputError(f"cannot make the store {path}: it is a directory")
    # it imports the session, and with that JAX, which takes a second
    from .reading import Setup
    from .store import Store

    setup = Setup(start.config, columns, start.members, start.weights, start.scaler)
    return Store(path, setup, options, command=command, blocking=blocking, say=warn)
