"""The file of results that `--out` asks for: one row for each prediction, with its score.

A prediction waits in a bounded book until its score has come, so that a row is written once and
whole; what still waits at the end, and the oldest when the book is full, is written without
label. Rows go to `FILE.partial` and the file gets its name when it is closed without error: what
has the right name is never half a file.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from itertools import count, islice
from pathlib import Path
from types import TracebackType
from typing import TypeAlias

import numpy as np
import pyarrow as pa

from ..errors import OutputError, UsageError
from ..events import Prediction, Score
from ..records import Batch, Gathered
from .rows import ENCODERS, RowEncoder, SheetRows, table_of

MAX_WAITING = 100_000
"""Predictions that may wait for their scores; far above any delay of labels in use, 20 MB."""

BATCH_ROWS = 8192
"""Rows written at a time: one Parquet row group, or about a megabyte of text."""

Identity: TypeAlias = tuple[str, str, int]


class PredictionWriter:
    """Writes predictions with their scores; a context manager that closes it.

    An error inside the `with` leaves the rows so far in `FILE.partial`, and what had the right
    name before as it was.

    Attributes: `rows_written`; `scores_unmatched`, scores whose prediction was not waiting.
    """

    def __init__(self, path: Path, *, spreadsheet: bool = False) -> None:
        self.path = path
        self.partial = path.with_name(path.name + ".partial")
        self.rows_written = 0
        self.scores_unmatched = 0
        self._book, self._scores = Gathered(Prediction), Gathered(Score)
        self._waiting: dict[Identity, int] = {}  # rows of the book
        self._due: list[tuple[int, int]] = []  # rows of the book and of the scores, -1 for none
        self._closed = False
        try:
            self._file = self.partial.open("wb")
            encoder = SheetRows if spreadsheet else ENCODERS[path.suffix.lower()]
            self._rows: RowEncoder = encoder(self._file)
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
        self._waiting[prediction.session, prediction.stream, prediction.n] = len(self._book)
        self._book.add(prediction)
        self._settle()

    def score(self, score: Score) -> None:
        """Take the score of a prediction and write its row.

        A score whose prediction is not waiting is counted and dropped: its row has gone out
        without label, or was never here. Raises OutputError as `write` does.
        """
        row = self._waiting.pop((score.session, score.stream, score.n), None)
        if row is None:
            self.scores_unmatched += 1
            return
        self._due.append((row, len(self._scores)))
        self._scores.add(score)
        self._settle()

    def write_batch(self, predictions: Batch[Prediction], scores: Batch[Score]) -> None:
        """Take predictions, then scores, as `write` and `score` do.

        The oldest leave a full book only after the scores of the batch are matched.
        """
        self._waiting.update(zip(_identities(predictions), count(len(self._book)), strict=False))
        self._book.extend(predictions)
        rows = [self._waiting.pop(identity, -1) for identity in _identities(scores)]
        self._due += [
            (row, score) for score, row in enumerate(rows, len(self._scores)) if row >= 0
        ]
        self._scores.extend(scores)
        self.scores_unmatched += rows.count(-1)
        self._settle()

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
            self._due += [(row, -1) for row in self._waiting.values()]
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

    def _settle(self) -> None:
        """Let the oldest go where too many wait, and write where enough rows are due."""
        if len(self._waiting) > MAX_WAITING:
            for identity in list(islice(self._waiting, len(self._waiting) - MAX_WAITING)):
                self._due.append((self._waiting.pop(identity), -1))
        if len(self._due) >= BATCH_ROWS:
            self._flush()

    def _flush(self) -> None:
        """Write the rows that are due."""
        if not self._due:
            return
        predictions, scores = self._book.join(), self._scores.join()
        due = np.array(self._due, np.int64)
        try:
            for part in np.array_split(due, max(len(due) // BATCH_ROWS, 1)):
                self._rows.write(table_of(predictions.take(part[:, 0]), scores, part[:, 1]))
                self.rows_written += len(part)
        except (OSError, pa.ArrowException) as error:
            raise self._failure(error) from None
        self._due.clear()
        self._scores = Gathered(Score)
        if len(self._book) > 2 * len(self._waiting):
            self._book = Gathered(Prediction)
            self._book.extend(predictions.take(np.array([*self._waiting.values()], np.int64)))
            self._waiting = dict(zip(self._waiting, count(), strict=False))

    def _failure(self, error: Exception) -> OutputError:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        return OutputError(f"cannot write {self.path}: {reason}")


def _identities(batch: Batch[Prediction] | Batch[Score]) -> Iterator[Identity]:
    return zip(*(batch[name].tolist() for name in ("session", "stream", "n")), strict=True)


def open_output(path: str | Path, *, spreadsheet: bool = False) -> PredictionWriter:
    """Open a `.parquet`, `.csv` or `.jsonl` file for results, replacing one of that name.

    spreadsheet: of a `.csv` file, quote text that a spreadsheet would run as a formula.

    Raises UsageError for another suffix, and OutputError where the directory is missing or the
    operating system will not write there.
    """
    path = Path(path)
    if path.suffix.lower() not in ENCODERS:
        known = ", ".join(ENCODERS)
        raise UsageError(f"{path}: cannot tell what to write; known are {known}")
    if spreadsheet and path.suffix.lower() != ".csv":
        raise UsageError(f"{path}: --spreadsheet is for a .csv file of --out")
    if not path.parent.is_dir():
        raise OutputError(f"cannot write {path}: there is no directory {path.parent}")
    if path.is_dir():
        raise OutputError(f"cannot write {path}: it is a directory")
    return PredictionWriter(path, spreadsheet=spreadsheet)
