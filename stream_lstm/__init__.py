"""Carry an LSTM along a live series, one element at a time, and predict the next sign.

Names are loaded when they are first used: importing this package is cheap, and JAX starts only
with what needs it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .config import Config
    from .core.atomic import AtomicSession as Session
    from .core.plugins import feature, register_feature
    from .errors import ConfigurationError, DataError, InputWarning, StreamLSTMError
    from .events import Gap, Label, Prediction, Refusal, Rollback, Score, Ticks, Update
    from .feed.bridge import Source, SourceTick, bridge
    from .feed.predictions import PredictionSubscriber
    from .feed.publisher import Publisher
    from .interop.predictor import Predictor, Replayed, replay_frame
    from .interop.river import river_classifier

__version__ = "0.2.0"

__all__ = [
    "Config",
    "ConfigurationError",
    "DataError",
    "Gap",
    "InputWarning",
    "Label",
    "Prediction",
    "PredictionSubscriber",
    "Predictor",
    "Publisher",
    "Refusal",
    "Replayed",
    "Rollback",
    "Score",
    "Session",
    "Source",
    "SourceTick",
    "StreamLSTMError",
    "Ticks",
    "Update",
    "bridge",
    "feature",
    "register_feature",
    "replay_frame",
    "river_classifier",
]

_HOMES = {
    "Config": "config",
    "ConfigurationError": "errors",
    "DataError": "errors",
    "Gap": "events",
    "InputWarning": "errors",
    "Label": "events",
    "Prediction": "events",
    "PredictionSubscriber": "feed.predictions",
    "Predictor": "interop.predictor",
    "Publisher": "feed.publisher",
    "Refusal": "events",
    "Replayed": "interop.predictor",
    "Rollback": "events",
    "Score": "events",
    "Session": "core.atomic:AtomicSession",
    "Source": "feed.bridge",
    "SourceTick": "feed.bridge",
    "StreamLSTMError": "errors",
    "Ticks": "events",
    "Update": "events",
    "bridge": "feed.bridge",
    "feature": "core.plugins",
    "register_feature": "core.plugins",
    "replay_frame": "interop.predictor",
    "river_classifier": "interop.river",
}

_COMPILING = frozenset(("Predictor", "Session", "replay_frame", "river_classifier"))
"""What compiles; `JAX_COMPILATION_CACHE_DIR` names another folder for executables."""


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name in _COMPILING:
        from .store.executables import keep_executables

        keep_executables(None)
    module, _, called = _HOMES[name].partition(":")
    found = globals()[name] = getattr(import_module(f".{module}", __name__), called or name)
    return found
