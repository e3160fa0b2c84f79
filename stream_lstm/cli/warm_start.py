"""Starting from a file of weights, which also says what network it is for, and writing one.

What the user did not set is taken from the file: `hidden`, `layers`, and the features. What the
user did set stays, and the session says so where it does not fit.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from ..config import Config, build, flatten
from ..core.expressions import parse
from ..errors import ConfigurationError, DataError
from .process import warn
from .settings import Settings

if TYPE_CHECKING:
    from ..core.session import Session


def warm_start(settings: Settings) -> tuple[Config, dict[str, Any] | None]:
    """Return the configuration, completed from its file of weights, and the weights.

    None stands for no file. Raises what `load_weights` raises, and a usage or configuration error
    where the file's network is larger than any that can be configured.
    """
    config = settings.config
    if config.model.weights is None:
        return config, None
    # NumPy and the format's library are only needed here.
    from ..store.weights import load_weights

    path = Path(config.model.weights)
    weights, metadata = load_weights(path)
    about: dict[str, Any] = {
        "hidden": int(metadata["hidden"]),
        "layers": int(metadata["layers"]),
        "features": _features(path, metadata),
    }
    missing = {k: v for k, v in about.items() if v and k not in settings.origins}
    try:
        config = build({**flatten(config), **missing})
    except ConfigurationError as error:
        raise settings.blame(ConfigurationError(f"{path}: {error}", key="weights")) from None
    _warn_of_features(path, about["features"], config.stream.features)
    return config, weights


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
    """Write the weights that a stream uses; raises OutputError where they cannot be written."""
    from ..store.weights import save_weights

    names = msgspec.json.encode(session.maker.features.names).decode()
    save_weights(path, session.weights_for(stream).weights, {"features": names})
