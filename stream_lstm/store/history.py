"""The file that `train --history` asks for: one row for each epoch."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pyarrow as pa
import pyarrow.parquet

from ..core.training import Epoch
from ..errors import OutputError, UsageError
from .weights import write_whole

SUFFIX = ".parquet"

SCHEMA = pa.schema(
    [
        pa.field("epoch", pa.int64(), nullable=False),
        pa.field("train_loss", pa.float64(), nullable=False),
        pa.field("validation_log_loss", pa.float64(), nullable=False),
        pa.field("validation_accuracy", pa.float64(), nullable=False),
        pa.field("learning_rate", pa.float64(), nullable=False),
        pa.field("updates", pa.int64(), nullable=False),
        pa.field("updates_refused", pa.int64(), nullable=False),
        pa.field("seconds", pa.float64(), nullable=False),
        pa.field("best", pa.bool_(), nullable=False),
    ]
)
"""The fields of `Epoch`, in their order; `best` says that none before it was better."""


def check_history(path: Path) -> None:
    """Raise UsageError or OutputError if a history cannot be written at `path`."""
    if path.suffix.lower() != SUFFIX:
        raise UsageError(f"{path}: a history is written as {SUFFIX}; give the file that suffix")
    if not path.parent.is_dir():
        raise OutputError(f"cannot write {path}: there is no directory {path.parent}")
    if path.is_dir():
        raise OutputError(f"cannot write {path}: it is a directory")
    if not os.access(path.parent, os.W_OK):
        raise OutputError(f"cannot write {path}: no permission to write in {path.parent}")


def save_history(path: Path, epochs: Sequence[Epoch]) -> None:
    """Write the history, replacing one of that name; raises OutputError where that cannot be."""
    rows = [msgspec.structs.asdict(epoch) for epoch in epochs]
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), buffer)
    write_whole(path, buffer.getvalue())
