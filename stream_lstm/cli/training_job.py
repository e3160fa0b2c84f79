"""What a training is asked for on the command line, beside its configuration."""

from __future__ import annotations

from pathlib import Path

import msgspec

from .input_file import InputFile

UNUSED = ("max_pending", "on_gap", "labels", "table", "mode", "sharing", "learn", "learning_rate")
"""Keys of the live session that mean nothing here."""


class Job(msgspec.Struct, frozen=True):
    """Where series come from, where results go, and what to do with what is there already."""

    files: list[InputFile]
    out: Path
    history: Path | None
    resume: bool
    overwrite: bool
