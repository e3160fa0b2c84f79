"""The members of a bank from the file that `--bank` names."""

from __future__ import annotations

import tomllib
from pathlib import Path

from ..config import BANKS, Config, Members, parse_bank
from ..errors import ConfigurationError, InputMissingError, OutputError, UsageError
from ..feed.reader import check_plain


def read_bank(config: Config) -> Members | None:
    """Return the members that a file gives, None where the configuration names none.

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


def check_bank(config: Config, save_weights: Path | None) -> None:
    """Raise UsageError for what a bank cannot do."""
    if config.learning.bank == "none":
        return
    if save_weights is not None:
        raise UsageError(
            f"--save-weights {save_weights}: a bank has many networks; save one with --bank none"
        )
    if config.model.weights is not None:
        raise UsageError(
            f"--weights {config.model.weights}: a bank starts all of its networks afresh; "
            "start from weights with --bank none"
        )
