"""The options of all commands, each declared once.

A key of the configuration is one flag: its type, default and help come from the struct that
declares it. Other options that commands share are fields of a group, a frozen dataclass. A command
takes groups as arguments, and `options` replaces each by its fields and adds the flags of
the configuration, which the command receives as resolved `Settings`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
import os
import re
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, get_args, get_origin

import msgspec
import typer

from ..config import KEYS, TABLES, Config, nearest
from ..errors import ConfigurationError, InputMissingError, StreamLSTMError, UsageError
from ..feed.dialect import Asked
from ..feed.input_file import SYNTHETIC_TICKS, InputFile, LabelColumn, SyntheticInput
from ..feed.synthetic import SOURCES
from ..schema import LogFormat, OnBad
from .console import detail, set_level, set_log_format, warn
from .settings import Settings, read_toml, resolve, split_list

# ---- flags of the configuration -------------------------------------------------------------

FLAGS = {"features": "--feature", "streams": "--stream", "twins": "--twin", "plugins": "--plugin"}
"""Keys whose flag has another name: lists that are given one value at a time."""

COMMA_LISTS = ("columns", "fields", "frames", "holidays")
"""Keys whose flag takes a list with commas."""


def flag(key: str) -> str:
    """Return the flag that sets a key."""
    return FLAGS.get(key, "--" + key.replace("_", "-"))


def key_help(key: str) -> str:
    """Return the help of a key: its entry in the docstring of its struct."""
    kinds = TABLES[KEYS[key]].__mro__
    documented = kinds[: kinds.index(msgspec.Struct)]
    text = "\n\n".join(inspect.cleandoc(kind.__doc__ or "") for kind in documented)
    for entry in re.split(r"\n(?=[a-z_, ]+: )", text):
        names, _, body = entry.partition(": ")
        if key in re.split(r",\s*", names):
            return " ".join(body.split("\n\n")[0].split())
    raise LookupError(f"the docstring of {TABLES[KEYS[key]].__name__} does not describe {key}")


def key_default(key: str) -> str:
    """Return the default of a key as people write it."""
    default = _fields(KEYS[key])[key].default
    if default is None or default in ((), ""):
        return "none"
    return str(default).lower() if isinstance(default, bool) else str(default)


@functools.cache
def _fields(table: str) -> dict[str, Any]:
    # msgspec evaluates all annotations of a struct at each call
    return {field.name: field for field in msgspec.structs.fields(TABLES[table])}


@functools.cache
def _option(key: str) -> inspect.Parameter:
    kind, names, metavar = _type(key, _fields(KEYS[key])[key].type)
    option = typer.Option(
        *names,
        parser=_number(names[0], kind) if kind in (int, float) else None,
        help=key_help(key),
        show_default=key_default(key),
        metavar=metavar,
    )
    return _parameter(key, Annotated[kind | None, option], None)


def _parameter(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    kind = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(name, kind, default=default, annotation=annotation)


def _number(name: str, kind: type[int] | type[float]) -> Callable[[str], int | float]:
    """Return the parser of a flag; it raises UsageError for text that is not a number."""

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
        comma = key in COMMA_LISTS
        return str if comma else list[str], [flag(key)], "A,B,..." if comma else "TEXT"
    return (kind, [flag(key)], "NUMBER") if kind in (int, float) else (str, [flag(key)], "TEXT")


# ---- options that commands share --------------------------------------------------------------

JsonOption: TypeAlias = Annotated[
    bool, typer.Option("--json", help="Print the result as one JSON object.")
]
OverwriteOption: TypeAlias = Annotated[
    bool, typer.Option("--overwrite", help="Replace a file of that name.")
]
SpreadsheetOption: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--spreadsheet",
        help="In CSV files of --out, put ' before text that begins with = + - @, a tab or a "
        "carriage return, which a spreadsheet would run as a formula.",
    ),
]
WatchOption: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--watch",
        help="Serve a live page on this machine, at an address that is printed on standard error. "
        "Needs the extra view (pip install 'stream-lstm[view]') and predictions that are "
        "published, with run at --publish.",
    ),
]
ShownStreams: TypeAlias = Annotated[
    list[str] | None,
    typer.Option("--stream", metavar="NAME", help="Show this stream; may be repeated."),
]
QuietOption: TypeAlias = Annotated[
    bool, typer.Option("--quiet", "-q", help="Print errors and the result only.")
]
VerboseOption: TypeAlias = Annotated[
    bool, typer.Option("--verbose", "-v", help="Also print the source of each setting, and times.")
]
AllowPluginsOption: TypeAlias = Annotated[
    bool, typer.Option("--allow-plugins", help="Run the code of the plug-ins that are named.")
]
_CONFIG = Annotated[
    Path | None,
    typer.Option(
        "--config",
        help="A TOML file with settings; flags and STREAM_LSTM_* variables override it.",
        metavar="FILE.toml",
    ),
]


NO_TIMES = "none"
"""The value of --time for a file whose times are not used."""


@dataclasses.dataclass(frozen=True)
class TableOptions:
    """What cannot be found out about the table in a historical file, and a query over it."""

    delimiter: Annotated[
        str | None,
        typer.Option(
            "--delimiter",
            metavar="CHAR",
            help="The sign between the fields of text: , ; | tab or another.",
            show_default="found out",
        ),
    ] = None
    names: Annotated[
        str | None,
        typer.Option(
            "--names",
            metavar="A,B,...",
            help="Names of the columns, for a table of text without a header or in place of it.",
            show_default="the header, or c0, c1, ...",
        ),
    ] = None
    skip_lines: Annotated[
        int,
        typer.Option("--skip-lines", min=0, metavar="N", help="Skip the first N lines of text."),
    ] = 0
    decimal: Annotated[
        str | None,
        typer.Option(
            "--decimal",
            metavar=".|,",
            help="The decimal sign of numbers in text.",
            show_default="found out",
        ),
    ] = None
    missing: Annotated[
        str | None,
        typer.Option(
            "--missing",
            metavar="A,B,...",
            help="Words and numbers that stand for a missing value, such as -999, beside empty "
            "cells, NA, null, - and ?.",
            show_default="none",
        ),
    ] = None
    sql: Annotated[
        str | None,
        typer.Option(
            "--sql",
            metavar="QUERY",
            help="Read the result of this query over the table 'file', such as "
            "'select t, bid from file where bid > 0'. Needs DuckDB.",
        ),
    ] = None

    def asked(self) -> Asked:
        """Return what is asked for; UsageError for an invalid sign."""
        sign = DELIMITERS.get(self.delimiter or "", self.delimiter or "")
        if len(sign) > 1 or not sign.isascii() or sign in ('"', "\n", "\r"):
            raise UsageError(f"--delimiter is one character or tab, not {self.delimiter!r}")
        if self.decimal not in (None, ".", ","):
            raise UsageError(f"--decimal is . or , and not {self.decimal!r}")
        names, missing = split_list(self.names or ""), split_list(self.missing or "")
        return Asked(
            sign, tuple(names), self.skip_lines, self.decimal or "", tuple(missing), self.sql or ""
        )


DELIMITERS = {"tab": "\t", "\\t": "\t"}


@dataclasses.dataclass(frozen=True)
class RowOptions(TableOptions):
    """How the rows of historical files become ticks."""

    time: Annotated[
        str | None,
        typer.Option(
            "--time",
            metavar="COLUMN",
            help="The column of times: numbers since 1970 (see --time-unit), or text such as "
            "2024-03-01T09:30:00.5Z; DATE,CLOCK joins two; none looks for no column.",
            show_default="found, for checks of the order",
        ),
    ] = None
    time_unit: Annotated[
        str,
        typer.Option(
            "--time-unit", metavar="auto|ns|us|ms|s|iso", help="Unit of the numbers of --time."
        ),
    ] = "auto"
    time_format: Annotated[
        str,
        typer.Option(
            "--time-format",
            metavar="FORMAT",
            help="Form of --time, such as %d/%m/%Y %H:%M, or excel (days) or epoch (each number "
            "in the unit of its size).",
            show_default="found",
        ),
    ] = ""
    reverse: Annotated[
        bool,
        typer.Option("--reverse", help="Read the last row first: the newest comes first there."),
    ] = False
    as_is: Annotated[
        bool,
        typer.Option(
            "--as-is",
            help="Take the rows as one series in file order, even if they look like several "
            "series or start with the newest.",
        ),
    ] = False
    on_bad_row: Annotated[
        str,
        typer.Option("--on-bad-row", metavar="fail|skip", help="What to do with an unusable row."),
    ] = "fail"
    limit: Annotated[
        int | None, typer.Option("--limit", min=0, metavar="N", help="Read at most N ticks.")
    ] = None

    @property
    def named_time(self) -> str | None:
        """The column of times that the user named."""
        return None if self.time == NO_TIMES else self.time

    def of(self, path: Path, name: str | None = None, *, warns: bool = True) -> InputFile:
        """Return the file at `path`; UsageError for an option that is invalid in itself.

        warns: whether to print what is odd about the form of a table of text.
        """
        from ..feed.protocol import check_name
        from ..feed.spool import as_file

        path = as_file(path)
        name = path.name.split(".")[0] if name is None else name
        try:
            check_name(name)
        except ValueError as error:
            raise UsageError(f"{error}: give another with --stream") from None
        policy = one_of("--on-bad-row", self.on_bad_row, OnBad)
        asked = self.asked()
        if warns and path.is_file():
            from ..feed.tables import file_notes

            for note in file_notes(path, asked):
                warn(f"{path}: {note}")
        return InputFile(
            path,
            name,
            self.named_time,
            self.time_unit,
            policy,
            self.limit,
            find_time=self.time != NO_TIMES,
            time_format=self.time_format,
            reverse=self.reverse,
            as_is=self.as_is,
            asked=asked,
        )


@dataclasses.dataclass(frozen=True)
class FileOptions(RowOptions):
    """A historical file, or a synthetic stream in its place."""

    file: Annotated[
        Path | None,
        typer.Argument(
            metavar="FILE",
            help="A table: text (CSV and the like, also packed), JSON, .xlsx, Parquet, "
            "Arrow, Feather or .npy. - is standard input.",
        ),
    ] = None
    synthetic: Annotated[
        str | None,
        typer.Option(
            "--synthetic",
            metavar="NAME",
            help=f"In place of FILE, {SYNTHETIC_TICKS:,} ticks (or --limit) of a stream whose "
            "best possible forecast is known (or its first part, such as S4): "
            f"{', '.join(SOURCES)}.",
        ),
    ] = None
    series_seed: Annotated[
        int | None,
        typer.Option(
            "--series-seed",
            min=0,
            metavar="N",
            help="Seed of the synthetic series.",
            show_default="0",
        ),
    ] = None
    stream: Annotated[
        str | None,
        typer.Option(
            "--stream",
            metavar="NAME",
            help="The stream's name.",
            show_default="the file's name up to its first dot",
        ),
    ] = None

    def input(self) -> InputFile:
        """Return the file or the synthetic stream.

        Raises UsageError for both, for neither, and for an option that is invalid in itself, and
        InputMissingError for a directory.
        """
        if (self.file is None) == (self.synthetic is None):
            both = "not both" if self.file else "one of them"
            raise UsageError(f"give a FILE or --synthetic NAME, {both}")
        if self.file is not None:
            if self.series_seed is not None:
                raise UsageError("--series-seed needs --synthetic; a FILE has no seed")
            if self.file.is_dir():
                raise InputMissingError(f"{self.file} is a directory; name a file")
            return self.of(self.file, self.stream)
        name = SHORT.get((self.synthetic or "").lower(), self.synthetic or "")
        if name not in SOURCES:
            raise UsageError(
                f"there is no synthetic stream {name!r}{nearest(name, SOURCES)} (there are "
                f"{', '.join(SOURCES)})"
            )
        if self.time is not None:
            raise UsageError("--time names a column of a file; a synthetic stream has no times")
        if self.asked() != Asked():
            raise UsageError("a synthetic stream is not a file: omit the options about its table")
        file = self.of(Path(name), self.stream)
        return SyntheticInput(file.path, file.stream, limit=self.limit, seed=self.series_seed or 0)


SHORT = {name.split("-")[0]: name for name in SOURCES}
"""`s4` stands for `s4-latch`, and so on."""


@dataclasses.dataclass(frozen=True)
class LabelOptions:
    """Labels from a column of the file."""

    label_column: Annotated[
        str | None,
        typer.Option(
            "--label-column",
            metavar="COLUMN",
            help="Take the labels from this column: the label of a prediction after element n is "
            "in the row of element n + horizon. An empty cell is a label that never comes.",
            show_default="the sign of the first feature",
        ),
    ] = None
    label_delay: Annotated[
        str,
        typer.Option(
            "--label-delay",
            metavar="N|30s",
            help="Elements after its row at which a label arrives, or time (ns, us, ms, s, min, "
            "h).",
        ),
    ] = "0"

    def column(self, config: Config, time: str | None) -> LabelColumn | None:
        """Return the column, None for labels of the series.

        Raises UsageError for an invalid delay, and for options that are missing or in conflict.
        """
        if self.label_column is None:
            if self.label_delay != "0":
                raise UsageError("--label-delay needs --label-column")
            if config.stream.labels == "external":
                raise UsageError(
                    "labels = 'external': a replay takes them from a column of the file; name it "
                    "with --label-column, or omit labels (a daemon, stream-lstm run, takes them "
                    "from its feed)"
                )
            return None
        if config.stream.labels == "series":
            raise UsageError("--label-column implies labels = external; omit --labels series")
        elements, delay_ns = parse_delay(self.label_delay)
        if delay_ns is not None and time is None:
            raise UsageError(
                f"--label-delay {self.label_delay} needs times: name their column with --time"
            )
        return LabelColumn(self.label_column, elements, delay_ns)


UNITS = {"ns": 1, "us": 10**3, "ms": 10**6, "s": 10**9, "min": 60 * 10**9, "h": 3600 * 10**9}


def parse_delay(text: str) -> tuple[int, int | None]:
    """Return (elements, nanoseconds or None) of a delay; UsageError for an invalid one."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-z]*)", text.strip())
    number, unit = found.groups() if found else ("", "")
    if unit in UNITS and number:
        return 0, round(float(number) * UNITS[unit])
    if unit or not number.isdigit():
        raise UsageError(
            f"--label-delay is a number of elements, or a time in {', '.join(UNITS)} such as 30s, "
            f"not {text!r}"
        )
    return int(number), None


def external_labels(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that a label column implies."""
    return {"labels": "external"} if arguments.get("label_column") else {}


@dataclasses.dataclass(frozen=True)
class ResultOptions:
    """Files that a replay or a daemon writes."""

    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.parquet|.csv|.jsonl", help="Write predictions and their scores here."
        ),
    ] = None
    spreadsheet: SpreadsheetOption = False
    save_weights: Annotated[
        Path | None, typer.Option(metavar="FILE.safetensors", help="Write the final weights here.")
    ] = None
    trace: Annotated[
        Path | None,
        typer.Option(
            "--trace",
            metavar="FILE.json",
            help="Write a timeline of the stages here, for ui.perfetto.dev or chrome://tracing.",
        ),
    ] = None

    def check(self) -> None:
        """Raise UsageError for an option without the file that it is about."""
        if self.spreadsheet and self.out is None:
            raise UsageError("--spreadsheet is for a .csv file of --out: name one")


RING = 100_000
"""Ticks of a stream that a publisher retains by default, as `feed.recovery_server.RING_TICKS`."""


@dataclasses.dataclass(frozen=True)
class PublisherOptions:
    """A publisher's sockets and records."""

    bind: Annotated[
        str, typer.Option(metavar="ENDPOINT", help="ZeroMQ endpoint to publish at.")
    ] = "tcp://127.0.0.1:5555"
    encoding: Annotated[
        str, typer.Option(metavar="msgpack|json", help="Encoding of the records.")
    ] = "msgpack"
    recovery: Annotated[
        str | None,
        typer.Option(
            metavar="ENDPOINT",
            help="ZeroMQ endpoint that answers requests for lost ticks.",
            show_default="none",
        ),
    ] = None
    ring: Annotated[
        int, typer.Option(min=1, metavar="N", help="Ticks retained for replay requests.")
    ] = RING


def one_of(flag: str, text: str, choices: Any) -> Any:
    """Return `text` if it is one of a Literal's choices; UsageError lists them."""
    known = get_args(choices)
    if text not in known:
        raise UsageError(f"{flag} is {' or '.join(known)}, not {text!r}")
    return text


# ---- composition --------------------------------------------------------------------------------


def options(
    *tables: str,
    extra: Sequence[str] = (),
    without: Sequence[str] = (),
    implied: Callable[[Mapping[str, Any]], dict[str, Any]] = lambda _: {},
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the flags of `tables` and of `extra` keys, and the fields of its groups.

    without: keys and fields that are not flags of this command. implied: returns the settings
    that other arguments imply. A command with an argument `settings` also gets --config, and a
    ConfigurationError about one of its flags becomes a UsageError.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        known = [key for key, table in KEYS.items() if key in extra or table in tables]
        keys = [key for key in known if key not in without]
        parameters, groups = _flattened(command, without)
        configured = parameters.pop("settings", None) is not None
        if configured:
            parameters["config"] = _parameter("config", _CONFIG, None)
            parameters |= {key: _option(key) for key in keys}
        if configured and "plugins" in keys:
            parameters["allow_plugins"] = _parameter("allow_plugins", AllowPluginsOption, False)
        for name, kind in (("quiet", QuietOption), ("verbose", VerboseOption)):
            parameters[name] = _parameter(name, kind, False)

        @functools.wraps(command)
        def wrapper(**given: Any) -> None:
            quiet, verbose = given.pop("quiet"), given.pop("verbose")
            if quiet or verbose:  # otherwise the level given before the command stays
                set_level(quiet=quiet, verbose=verbose)
            set_log_format(_log_format(given) if "log_format" in keys else "text")
            settings = _settings(keys, given, implied) if configured else None
            arguments = {name: given.pop(name) for name in list(given) if name not in keys}
            built = {} if settings is None else {"settings": settings}
            for name, group in groups.items():
                fields = [field.name for field in dataclasses.fields(group)]
                built[name] = group(**{n: arguments[n] for n in fields if n in arguments})
            own = inspect.signature(command).parameters
            try:
                command(**{n: arguments[n] for n in arguments if n in own} | built)
            except ConfigurationError as error:
                raise as_usage(error, settings, arguments) from None

        wrapper.__signature__ = inspect.Signature(list(parameters.values()))  # type: ignore[attr-defined]
        wrapper.__annotations__ = {p.name: p.annotation for p in parameters.values()}
        return wrapper

    return decorate


def _flattened(
    command: Callable[..., None], without: Sequence[str]
) -> tuple[dict[str, inspect.Parameter], dict[str, Any]]:
    """Return a command's parameters, those of a group in its place, and the groups by name."""
    parameters: dict[str, inspect.Parameter] = {}
    groups: dict[str, Any] = {}
    for name, own in inspect.signature(command, eval_str=True).parameters.items():
        if not dataclasses.is_dataclass(own.annotation):
            parameters[name] = own.replace(kind=inspect.Parameter.KEYWORD_ONLY)
            continue
        groups[name] = own.annotation
        hints = typing.get_type_hints(own.annotation, include_extras=True)
        for field in dataclasses.fields(own.annotation):
            if field.name not in without:
                parameters[field.name] = _parameter(field.name, hints[field.name], field.default)
    return parameters, groups


def _log_format(given: Mapping[str, Any]) -> LogFormat:
    """Return the wanted format of the log, also if the other settings have errors."""
    wanted = given["log_format"] or os.environ.get("STREAM_LSTM_LOG_FORMAT")
    if wanted is None and given["config"] is not None:
        with contextlib.suppress(StreamLSTMError):
            wanted = read_toml(given["config"]).get("log_format")
    return "json" if wanted == "json" else "text"


def _settings(
    keys: Sequence[str],
    given: Mapping[str, Any],
    implied: Callable[[Mapping[str, Any]], dict[str, Any]],
) -> Settings:
    flags = {key: given[key] for key in keys if given[key] is not None}
    flags |= {key: split_list(flags[key]) for key in COMMA_LISTS if key in flags}
    others = {name: value for name, value in given.items() if name not in keys}
    settings = resolve(implied(others | flags) | flags, given["config"])
    if "table" in settings.origins:
        warn("table has no effect any more, since every stream is kept in a table: omit it")
    if "plugins" in keys:
        use_plugins(settings.config, given["allow_plugins"])
    if settings.config.serve.log_format == "text":
        for line in settings.lines():
            detail(line)
    return settings


def use_plugins(config: Config, allowed: bool) -> None:
    """Load the plug-ins of a configuration; raises what `load_plugins` raises."""
    if config.stream.plugins:
        from ..interop.plugins import load_plugins

        load_plugins(config.stream.plugins, allowed=allowed)


def as_usage(
    error: ConfigurationError, settings: Settings | None, arguments: Mapping[str, Any]
) -> ConfigurationError | UsageError:
    """Return a configuration error, as a usage error if a flag caused it."""
    label = arguments.get("label_column")
    if error.key in ("time", "stream_column"):
        return UsageError(*error.within(f"--{error.key.replace('_', '-')}: "))
    if label is not None and f"no column {label!r}" in str(error):
        return UsageError(*error.within("--label-column: "))
    if settings is not None and error.key and settings.origins.get(error.key) == "flag":
        return UsageError(*error.lines)
    return error
