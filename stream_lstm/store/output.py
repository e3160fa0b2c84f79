"""The file of results that `--out` asks for: one row for each prediction, with its score.

A prediction waits in a bounded book until its score has come, so that a row is written once and
whole; what still waits at the end, and the oldest when the book is full, is written without
label. Rows go to `FILE.partial` and the file gets its name when it is closed without error: what
has the right name is never half a file.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from types import TracebackType
from typing import TypeAlias

import pyarrow as pa

from ..core.tally import log_loss
from ..errors import OutputError, UsageError
from ..events import Prediction, Score
from .rows import ENCODERS, Row

MAX_WAITING = 100_000
"""Predictions that may wait for their scores; far above any delay of labels in use, 20 MB."""

BATCH_ROWS = 8192
"""Rows written at a time: one Parquet row group, or about a megabyte of text."""

_UNKNOWN: Row = (None,) * 12
"""The cells of a prediction without a label."""

Identity: TypeAlias = tuple[str, str, int]


class PredictionWriter:
    """Writes predictions with their scores; a context manager that closes it.

    An error inside the `with` leaves the rows so far in `FILE.partial`, and what had the right
    name before as it was.

    Attributes: `rows_written`; `scores_unmatched`, scores whose prediction was not waiting.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.partial = path.with_name(path.name + ".partial")
        self.rows_written = 0
        self.scores_unmatched = 0
        self._waiting: dict[Identity, Prediction] = {}
        self._batch: list[Row] = []
        self._closed = False
        try:
            self._file = self.partial.open("wb")
            self._rows = ENCODERS[path.suffix.lower()](self._file)
        except (OSError, pa.ArrowException) as error:
            raise self._failure(error) from None

    def __enter__(self) -> PredictionWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is None:
            self.close()
        else:
            self._abandon()

    def write(self, prediction: Prediction) -> None:
        """Take a prediction; its row is written when its score comes.

        Raises OutputError where the operating system will not write.
        """
        self._waiting[prediction.session, prediction.stream, prediction.n] = prediction
        if len(self._waiting) > MAX_WAITING:
            oldest = next(iter(self._waiting))
            self._append(self._waiting.pop(oldest), None)

    def score(self, score: Score) -> None:
        """Take the score of a prediction and write its row.

        A score whose prediction is not waiting is counted and dropped: its row has gone out
        without label, or was never here. Raises OutputError as `write` does.
        """
        prediction = self._waiting.pop((score.session, score.stream, score.n), None)
        if prediction is None:
            self.scores_unmatched += 1
        else:
            self._append(prediction, score)

    def close(self) -> None:
        """Write what still waits, and give the file its name; closing twice is no mistake.

        Raises OutputError where the operating system will not; FILE.partial then stays.
        """
        if self._closed:
            return
        self._finish()
        try:
            self.partial.replace(self.path)
        except OSError as error:
            raise self._failure(error) from None

    def _abandon(self) -> None:
        """Close `FILE.partial` as readable as it can be; an error is already on its way."""
        with contextlib.suppress(OutputError):
            self._finish()

    def _finish(self) -> None:
        if self._closed:
            return
        self._closed = True
        try:
            for prediction in self._waiting.values():
                self._append(prediction, None)
            self._flush()
            self._rows.finish()
            self._file.flush()
            os.fsync(self._file.fileno())
        except (OSError, pa.ArrowException) as error:
            raise self._failure(error) from None
        finally:
            self._waiting.clear()
            # where the last write failed, so does this one; the descriptor is closed all the same
            with contextlib.suppress(OSError):
                self._file.close()

    def _append(self, prediction: Prediction, score: Score | None) -> None:
        self._batch.append(row_of(prediction, score))
        if len(self._batch) >= BATCH_ROWS:
            self._flush()

    def _flush(self) -> None:
        if not self._batch:
            return
        try:
            self._rows.write(self._batch)
        except (OSError, pa.ArrowException) as error:
            raise self._failure(error) from None
        self.rows_written += len(self._batch)
        self._batch.clear()

    def _failure(self, error: Exception) -> OutputError:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        return OutputError(f"cannot write {self.path}: {reason}")


def open_output(path: str | Path) -> PredictionWriter:
    """Open a `.parquet`, `.csv` or `.jsonl` file for results, replacing one of that name.

    Raises UsageError for another suffix, and OutputError where the directory is missing or the
    operating system will not write there.
    """
    path = Path(path)
    if path.suffix.lower() not in ENCODERS:
        known = ", ".join(ENCODERS)
        raise UsageError(f"{path}: cannot tell what to write; known are {known}")
    if not path.parent.is_dir():
        raise OutputError(f"cannot write {path}: there is no directory {path.parent}")
    if path.is_dir():
        raise OutputError(f"cannot write {path}: it is a directory")
    return PredictionWriter(path)


def row_of(prediction: Prediction, score: Score | None) -> Row:
    """Return the cells of `rows.COLUMNS`; `score` is None where no label has come."""
    truth, more = (_UNKNOWN[:4], _UNKNOWN[4:]) if score is None else _truth(score)
    return (
        prediction.stream,
        prediction.n,
        prediction.t_ns,
        prediction.p,
        *truth,
        prediction.session,
        prediction.gaps_visible,
        prediction.after_gap,
        *more,
    )


def _truth(score: Score) -> tuple[Row, Row]:
    """Return the cells that a score brings, in two parts; losses are in nats."""
    return (score.label, score.log_loss, score.base_rate_p, score.last_label_p), (
        log_loss(score.base_rate_p, score.label),
        log_loss(score.last_label_p, score.label),
        score.coin_evidence,
        score.base_rate_evidence,
        score.last_label_evidence,
        score.raw_p,
        score.frozen_p,
        score.stateless_p,
    )
