"""Features of the user's own modules, as a configuration names them.

An entry `package.module:name` names a `Feature` that `stream_lstm.feature` has made, or a function
without arguments that returns one. Loading a module runs its code, so it has to be allowed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib import import_module

from ..core.plugins import Feature, register_feature
from ..errors import ConfigurationError

ENTRY = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")


def load_plugins(entries: Sequence[str], *, allowed: bool) -> None:
    """Register the features that the entries name.

    Raises ConfigurationError if they are not allowed, and for an entry that cannot be loaded.
    """
    if entries and not allowed:
        raise ConfigurationError(
            f"plugins = {', '.join(entries)}: plug-ins run code of these modules with your "
            "rights; add --allow-plugins if you trust them"
        )
    for entry in entries:
        try:
            register_feature(**_feature(entry)._asdict())
        except ConfigurationError as error:
            raise ConfigurationError(*error.within(f"plug-in {entry}: ")) from None
        except (Exception, SystemExit) as error:
            what = f"loading it raised {type(error).__name__}: {' '.join(str(error).split())}"
            raise ConfigurationError(f"plug-in {entry}: {what}") from None


def _feature(entry: str) -> Feature:
    if not ENTRY.fullmatch(entry):
        raise ConfigurationError("write it as package.module:name")
    module, _, name = entry.partition(":")
    try:
        found = getattr(import_module(module), name, None)
    except ModuleNotFoundError as error:
        if not f"{module}.".startswith(f"{error.name}."):
            raise
        raise ConfigurationError(
            f"there is no module {error.name}; install the package that has it, or name the "
            "folder that it is in with PYTHONPATH"
        ) from None
    if callable(found) and not isinstance(found, Feature):
        found = found()
    if not isinstance(found, Feature):
        what = "does not exist" if found is None else f"is of the type {type(found).__name__}"
        raise ConfigurationError(
            f"{name} {what}; make a feature with stream_lstm.feature(name, init, step)"
        )
    return found
