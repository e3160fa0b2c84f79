"""Settings that a remedy proposes: never those that a configuration has, or that it excludes."""

from __future__ import annotations

from ...config import Config, build, flatten
from ...errors import ConfigurationError


def proposed(config: Config, *settings: str) -> str:
    """Join with "or" the settings, each "--key value", that are allowed and change something."""
    return ", or ".join(setting for setting in settings if _changes(config, setting))


def _changes(config: Config, setting: str) -> bool:
    words, present = setting.split(), flatten(config)
    given = {
        key.removeprefix("--").replace("-", "_"): value
        for key, value in zip(words[::2], words[1::2], strict=True)
    }
    try:
        changed = flatten(build(present | given))
    except ConfigurationError:
        return False
    return any(changed[key] != present[key] for key in given)


def slower(config: Config) -> str:
    """Return the setting that makes the steps of the learner ten times smaller."""
    learning = config.learning
    if learning.optimizer != "dekf":
        return f"--learning-rate {learning.learning_rate / 10:g}"
    given = dict(entry.split("=", 1) for entry in learning.optimizer_args)
    return f"--optimizer-args p0={float(given.get('p0', 1.0)) / 10:g}"
