"""Starting from a file of weights, which also says what network it is for, and writing one.

What the user did not set is taken from the file: `hidden`, `layers`, the features, and how they
were scaled. What the user did set stays, and the session says so where it does not fit.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from ..config import Config, build, flatten
from ..core.expressions import parse
from ..errors import ConfigurationError, DataError
from ..schema import ScalingConfig
from .compile_cache import keep_compiled
from .process import warn
from .settings import Settings

if TYPE_CHECKING:
    from ..core.session import Session


SCALING = ("scaling", "memory", "clip", "gain")
"""Keys that say what the network's inputs were in training."""


OLDER = {"clip": 5.0, "gain": 1.0}
"""What the inputs of weights were that do not say: the settings of the first release."""


class WarmStart(NamedTuple):
    """A configuration completed from its file of weights, and what the file holds, or None."""

    config: Config
    weights: dict[str, Any] | None = None
    scaler: npt.NDArray[np.float32] | None = None


def warm_start(settings: Settings) -> WarmStart:
    """Return what a command starts from, its executables among it where some were kept.

    Raises what `load_weights` and `keep_compiled` raise, and a usage or configuration error
    where the file's network is larger than any that can be configured.
    """
    config = settings.config
    if config.model.compile_cache is not None:
        keep_compiled(config.model.compile_cache)
    if config.model.weights is None:
        return WarmStart(config)
    # The format's library is only needed here.
    from ..store.weights import load_scaler, load_weights

    path = Path(config.model.weights)
    weights, metadata = load_weights(path)
    about: dict[str, Any] = {
        **OLDER,
        "hidden": int(metadata["hidden"]),
        "layers": int(metadata["layers"]),
        "features": _features(path, metadata),
        **_scaling(path, metadata),
    }
    missing = {k: v for k, v in about.items() if v and k not in settings.origins}
    try:
        config = build({**flatten(config), **missing})
    except ConfigurationError as error:
        blamed = ConfigurationError(*error.within(f"{path}: "), key="weights")
        raise settings.blame(blamed) from None
    _warn_of_features(path, about["features"], config.stream.features)
    _warn_of_scaling(path, about, config.scaling)
    return WarmStart(config, weights, _scaler(path, config, load_scaler(path)))


def _scaling(path: Path, metadata: dict[str, str]) -> dict[str, Any]:
    """Return how the inputs of training were scaled, as far as the file says."""
    try:
        numbers = {key: float(metadata[key]) for key in SCALING[1:] if key in metadata}
    except ValueError as error:
        raise DataError(f"{path}: {error}") from None
    return numbers | {key: metadata[key] for key in SCALING[:1] if key in metadata}


def _warn_of_scaling(path: Path, about: dict[str, Any], used: ScalingConfig) -> None:
    for key in SCALING:
        if key in about and about[key] != getattr(used, key):
            warn(f"{path} was trained with {key} = {about[key]}, not {getattr(used, key)}")


def _scaler(
    path: Path, config: Config, state: npt.NDArray[np.float32] | None
) -> npt.NDArray[np.float32] | None:
    """Return the file's scaler state where it fits the features that are used."""
    wanted = 1 + 2 * len(config.stream.features)
    if state is not None and len(state) != wanted:
        warn(f"{path}: its scaler has {len(state)} numbers, not {wanted}; it is left out")
        return None
    return state


def _features(path: Path, metadata: dict[str, str]) -> tuple[str, ...]:
    text = metadata.get("features", "[]")
    try:
        return msgspec.json.decode(text, type=tuple[str, ...])
    except msgspec.DecodeError:
        raise DataError(f"{path}: its features {text[:80]!r} are not a JSON list") from None


def _warn_of_features(path: Path, made_for: tuple[str, ...], used: tuple[str, ...]) -> None:
    if made_for and made_for != tuple(str(parse(text)) for text in used):
        theirs, ours = ", ".join(made_for), ", ".join(used)
        warn(f"{path} was made for the features {theirs}, not {ours}")


def keep_weights(path: Path, session: Session, stream: str) -> None:
    """Write the weights that a stream uses, and where its scaler has got to.

    Raises OutputError where they cannot be written.
    """
    from ..store.weights import save_weights

    metadata = about_inputs(session.maker.features.names, session.config.scaling)
    scaler = session.scaler_of(stream)
    save_weights(path, session.weights_for(stream), metadata, scaler)


def about_inputs(features: Sequence[str], scaling: ScalingConfig) -> dict[str, str]:
    """Return the metadata of weights that say what their inputs are."""
    names = msgspec.json.encode(list(features)).decode()
    return {"features": names} | {key: str(getattr(scaling, key)) for key in SCALING}
