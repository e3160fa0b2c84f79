"""The source of each setting: flag, else environment, else file, else default.

The environment variable of the key `hidden` is `STREAM_LSTM_HIDDEN`. Lists are separated by
commas, except for commas in parentheses or double quotes.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_origin

import msgspec

from ..config import KEYS, TABLES, Config, build, flatten, nearest, parse_tables
from ..errors import ConfigurationError, InputMissingError, OutputError, UsageError
from ..feed.reader import check_plain

PREFIX = "STREAM_LSTM_"

RESERVED = ("STREAM_LSTM_DATA", "STREAM_LSTM_BROWSER")
"""Variables of this prefix that are not settings: the folder of real series for tests, and the
browser of `report`."""

Origin: TypeAlias = Literal["flag", "environment", "file", "default"]


class Settings(msgspec.Struct, frozen=True):
    """A configuration, and the source of each value that is not a default.

    flags, file: the inputs that it was resolved from, beside the environment.
    """

    config: Config
    origins: dict[str, Origin]
    flags: dict[str, Any] = {}
    file: Path | None = None

    def again(self) -> Config:
        """Return the configuration that the same flags and the same file give now."""
        return resolve(self.flags, self.file).config

    def lines(self) -> list[str]:
        """Return each value that is not a default, with its source."""
        values = flatten(self.config)
        return [f"{key} = {values[key]!r} ({origin})" for key, origin in self.origins.items()]


def read_toml(path: Path) -> dict[str, Any]:
    """Return the flat settings {key: value} of a TOML file.

    Raises InputMissingError, OutputError (unreadable) or ConfigurationError naming the file.
    """
    check_plain(path, directories=False)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputMissingError(f"no such configuration file: {path}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise OutputError(f"cannot read the configuration {path}: {error}") from None
    try:
        return parse_tables(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"{path} is not valid TOML: {error}") from None
    except ConfigurationError as error:
        raise ConfigurationError(*error.within(f"{path}: "), key=error.key) from None


def read_environment(environment: Mapping[str, str]) -> dict[str, Any]:
    """Return the flat settings {key: text} of the environment.

    Raises ConfigurationError for a variable of our prefix that sets nothing.
    """
    flat: dict[str, Any] = {}
    for name, text in environment.items():
        if not name.startswith(PREFIX) or name in RESERVED:
            continue
        key = name.removeprefix(PREFIX).lower()
        if key not in KEYS:
            raise ConfigurationError(
                f"the environment variable {name} sets nothing{nearest(key, KEYS)}", key=key
            )
        kind = {f.name: f for f in msgspec.structs.fields(TABLES[KEYS[key]])}[key].type
        flat[key] = split_list(text) if get_origin(kind) is tuple else text
    return flat


def split_list(text: str) -> list[str]:
    """Split a list at its commas, except for those in parentheses or double quotes."""
    parts, depth, quoted = [""], 0, False
    for character in text:
        quoted ^= character == '"'
        depth += (not quoted) * ((character == "(") - (character == ")"))
        if character == "," and not quoted and depth <= 0:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts if part.strip()]


def resolve(flags: Mapping[str, Any], file: Path | None) -> Settings:
    """Return the settings that flags, the environment and a file give together.

    Raises UsageError for a wrong flag, ConfigurationError for another wrong setting.
    """
    sources: list[tuple[Origin, Mapping[str, Any]]] = [
        ("file", read_toml(file) if file else {}),
        ("environment", read_environment(os.environ)),
        ("flag", flags),
    ]
    values: dict[str, Any] = {}
    origins: dict[str, Origin] = {}
    for origin, given in sources:
        values.update(given)
        origins.update(dict.fromkeys(given, origin))
    try:
        return Settings(build(values), origins, dict(flags), file)
    except ConfigurationError as error:
        # an error about a conflict of keys names no single one: a flag among them is the cause
        conflict = any(f"{key}=" in str(error) for key in flags) and not error.key
        if conflict or origins.get(error.key) == "flag":
            raise UsageError(*error.lines) from None
        if error.key and origins.get(error.key) == "environment":
            place = f"the environment variable {PREFIX}{error.key.upper()}: "
            raise ConfigurationError(*error.within(place), key=error.key) from None
        where = f"{file}: " if file and origins.get(error.key) == "file" else ""
        raise ConfigurationError(*error.within(where), key=error.key) from None
