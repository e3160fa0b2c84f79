"""From a file or a store to the case that the doctor examines."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from ..config import build, flatten
from ..errors import ConfigurationError, DataError, StreamLSTMError, UsageError
from ..events import Refusal
from ..schema import LearningConfig
from ..store.schema import is_store
from .input_file import InputFile
from .label_column import LabelColumn
from .label_column import implied as of_labels
from .settings import Settings, read_environment, read_toml
from .synthetic_input import SyntheticInput

if TYPE_CHECKING:
    from ..core.doctor.diagnosis import Case
    from ..core.doctor.series import TickTable

MOST_ROWS = 2_000_000
"""Rows that are held in memory: some hundred megabytes."""

TOLD = 3
"""Reasons that are kept for rows that cannot be read."""

TIMES = ("ts", "t_ns")
"""Names of a column of times; so is what has `time` in it, and `date` where it is text."""


def implied(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that the arguments of the command imply: of a file, that it learns.

    Whoever says whether to learn, or gives weights, has it so.
    """
    settings, file, path = of_labels(arguments), arguments.get("file"), arguments.get("config")
    if file is not None and is_store(file):
        return settings
    known = (read_toml(path) if path else {}) | read_environment(os.environ) | dict(arguments)
    if "learn" in known or "weights" in known:
        return settings
    window = str(known.get("window", ""))
    if "bptt" not in known and window.isdigit() and int(window) > 0:
        settings["bptt"] = min(LearningConfig().bptt, int(window))
    return settings | {"learn": True}


def file_case(
    file: InputFile, settings: Settings, labels: LabelColumn | None
) -> tuple[Case, InputFile]:
    """Return the case of a file, and the file with the column of times that was found.

    Raises what a replay of it would before it compiles.
    """
    from ..core.doctor.diagnosis import Case
    from .bank_file import read_bank
    from .replay_checks import check_features
    from .warm_start import warm_start

    members = read_bank(settings.config)
    config, weights, scaler = warm_start(settings)
    if not config.stream.features:
        config = build({**flatten(config), "features": file.default_features()})
    if file.time is None and not isinstance(file, SyntheticInput):
        file = msgspec.structs.replace(file, time=_times(file))
    used = check_features(file, config)
    limit = MOST_ROWS if file.limit is None else min(file.limit, MOST_ROWS)
    file = msgspec.structs.replace(file, on_bad_row="skip", limit=limit)
    table, left_out, reasons = _read(file, used, labels)
    delays: dict[str, Any] = {}
    if labels is not None:
        delays = {"delay": labels.delay, "delay_ns": labels.delay_ns}
    case = Case(config, table, weights, scaler, members, delays)
    return case._replace(left_out=left_out, reasons=reasons), file


def _times(file: InputFile) -> str | None:
    """Return the column that holds times by its name and by what is in it, None without one."""
    from ..feed.files import file_columns

    for name in file_columns(file.path):
        word = name.lower()
        unit = file.time_unit
        if word not in TIMES and "time" not in word:
            if "date" not in word:
                continue
            unit = "iso"  # numbers by that name are as often shares of a year, or days
        form = {"time": name, "time_unit": unit}
        probe = msgspec.structs.replace(file, **form, on_bad_row="fail", limit=100)
        try:
            with probe.open(()) as source:
                blocks = [block.t_ns for block in source.blocks()]
        except StreamLSTMError:
            continue
        times = np.concatenate(blocks) if blocks else np.zeros(0, np.int64)
        if len(times) and (times != times[0]).any():
            return name
    return None


def _read(
    file: InputFile, used: tuple[str, ...], labels: LabelColumn | None
) -> tuple[TickTable, int, tuple[str, ...]]:
    """Return the table of all numeric columns, and what of the file could not be read."""
    from ..core.doctor.series import TickTable

    reasons: list[str] = []

    def refused(refusal: Refusal) -> None:
        if len(reasons) < TOLD:
            reasons.append(f"{refusal.where}: {refusal.reason}")

    label = () if labels is None else (labels.name,)
    with file.open(None) as source:
        spare = [n for n in source.value_columns if n not in used and n not in label]
    if isinstance(file, SyntheticInput):
        spare = []
    columns = (*used, *spare)
    wanted = (*columns, *(name for name in label if name not in columns))
    optional = tuple(name for name in (*spare, *label) if name not in used)
    with file.open(wanted, refused, optional=optional) as source:
        blocks = list(source.blocks())
        left_out = source.rows_refused
    if not blocks:
        raise DataError(f"{file.path} has no rows to look at (--limit {file.limit})")
    values = np.concatenate([block.values for block in blocks])
    t_ns = None if file.time is None else np.concatenate([block.t_ns for block in blocks])
    rows = np.concatenate([block.rows for block in blocks])
    truth = values[:, wanted.index(label[0])] if label else None
    return (
        TickTable(columns, values[:, : len(columns)], t_ns, rows, truth),
        left_out,
        tuple(reasons),
    )


def store_case(file: InputFile, stream: str | None, settings: Settings) -> tuple[Case, str]:
    """Return the case of a store, whose settings are its own, and the name of its stream.

    Raises UsageError for settings from the command line, and what reading a store raises.
    """
    from ..core.doctor.diagnosis import Case
    from ..store.examined import examined

    if settings.flags:
        flags = ", ".join("--" + key.replace("_", "-") for key in settings.flags)
        raise UsageError(f"a store has settings of its own: leave {flags} out")
    if file.time is not None:
        raise UsageError("--time names a column of a file; a store has times of its own")
    limit = MOST_ROWS if file.limit is None else min(file.limit, MOST_ROWS)
    found = examined(file.path, stream, limit)
    setup = found.setup
    case = Case(setup.config, found.table, setup.weights, setup.scaler, setup.members)
    return case._replace(further=found.findings), found.stream


def blame(settings: Settings, error: ConfigurationError, label: str | None) -> StreamLSTMError:
    """Return the error with who is to blame for it."""
    if error.key == "time":
        return UsageError(f"--time: {error}")
    if label is not None and f"no column {label!r}" in str(error):
        return UsageError(f"--label-column: {error}")
    return settings.blame(error)
