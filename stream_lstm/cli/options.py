"""The flags that set the configuration, made from its schema.

One key of the configuration is one flag, with its type, its default and its help taken from the
struct that declares it: there is no second list to keep in step. `configured` adds the flags of
the chosen tables to a command, whose function receives the resolved `Settings` instead.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import msgspec
import typer

from ..config import KEYS, TABLES
from ..errors import UsageError
from .process import warn
from .settings import Settings, resolve, split_list

FLAGS = {"features": "--feature", "streams": "--stream", "twins": "--twin"}
"""Keys whose flag is not their own name: lists that are given one value at a time."""

COMMA_LISTS = ("columns",)
"""Keys whose flag takes a list with commas."""


def flag(key: str) -> str:
    """Return the flag that sets a key."""
    return FLAGS.get(key, "--" + key.replace("_", "-"))


def key_help(key: str) -> str:
    """Return the help of a key: what its struct's docstring says of it."""
    text = inspect.cleandoc(TABLES[KEYS[key]].__doc__ or "")
    for entry in re.split(r"\n(?=[a-z_, ]+: )", text):
        names, _, body = entry.partition(": ")
        if key in re.split(r",\s*", names):
            return " ".join(body.split("\n\n")[0].split())
    raise LookupError(f"the docstring of {TABLES[KEYS[key]].__name__} does not tell of {key}")


def key_default(key: str) -> str:
    """Return the default of a key as people write it."""
    default = _field(key).default
    if default is None or default == ():
        return "none"
    return str(default).lower() if isinstance(default, bool) else str(default)


def _field(key: str) -> Any:
    """Return what the struct of a key declares for it."""
    return _fields(KEYS[key])[key]


@functools.cache
def _fields(table: str) -> dict[str, Any]:
    # msgspec evaluates all annotations of a struct anew at each call.
    return {field.name: field for field in msgspec.structs.fields(TABLES[table])}


@functools.cache
def _option(key: str) -> inspect.Parameter:
    field = _field(key)
    kind, names, metavar = _type(key, field.type)
    option = typer.Option(
        *names,
        parser=_number(names[0], kind) if kind in (int, float) else None,
        help=key_help(key),
        show_default=key_default(key),
        metavar=metavar,
        rich_help_panel=f"[{KEYS[key]}] of the configuration",
    )
    annotation = Annotated[kind | None, option]  # type: ignore[valid-type]
    return inspect.Parameter(
        key, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation
    )


def _number(name: str, kind: type[int] | type[float]) -> Callable[[str], int | float]:
    """Return what reads the value of a flag; UsageError where it is no number."""

    def number(text: str) -> int | float:
        try:
            return kind(text)
        except ValueError:
            what = "a whole number" if kind is int else "a number"
            raise UsageError(f"{name} is {what}, not {text!r}") from None

    return number


def _type(key: str, kind: Any) -> tuple[Any, list[str], str | None]:
    if get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    if kind is bool:
        return bool, [f"{flag(key)}/--no-{key.replace('_', '-')}"], None
    if get_origin(kind) is Literal:
        return str, [flag(key)], "|".join(get_args(kind))
    if get_origin(kind) is tuple:
        return (
            (str, [flag(key)], "A,B,...")
            if key in COMMA_LISTS
            else (list[str], [flag(key)], "TEXT")
        )
    if kind in (int, float):
        return kind, [flag(key)], "NUMBER"
    return str, [flag(key)], "TEXT"


_CONFIG = Annotated[
    Path | None,
    typer.Option(
        "--config",
        help="A TOML file with settings; flags and STREAM_LSTM_* variables go before it.",
        metavar="FILE.toml",
    ),
]


def configured(
    tables: Sequence[str],
    *,
    without: Sequence[str] = (),
    implied: Callable[[Mapping[str, Any]], dict[str, Any]] = lambda _: {},
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the flags of `tables` and `--config`; it is called with `settings`.

    implied: returns the settings that the arguments stand for, beside those that they name.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        keys = [key for key, table in KEYS.items() if table in tables and key not in without]

        @functools.wraps(command)
        def wrapper(**arguments: Any) -> None:
            flags = {key: arguments.pop(key) for key in keys}
            said = {key: _listed(key, value) for key, value in flags.items() if value is not None}
            given = implied(arguments | said) | said
            settings: Settings = resolve(given, arguments.pop("config"))
            if "table" in settings.origins:
                warn(
                    "table does nothing any more, as every stream is kept in a table: leave it out"
                )
            command(settings=settings, **arguments)

        own = inspect.signature(command, eval_str=True).parameters
        kept = [p for name, p in own.items() if name != "settings"]
        config = inspect.Parameter(
            "config", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=_CONFIG
        )
        parameters = [*kept, config, *map(_option, keys)]
        keyword = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in parameters]
        wrapper.__signature__ = inspect.Signature(keyword)  # type: ignore[attr-defined]
        wrapper.__annotations__ = {p.name: p.annotation for p in parameters}
        return wrapper

    return decorate


def _listed(key: str, value: Any) -> Any:
    if key in COMMA_LISTS:
        return split_list(value)
    return value
