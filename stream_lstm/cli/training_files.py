"""The files of a training, each read whole and made into a series of its own."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..config import Config
from ..core.elements import Memory, maker_of
from ..core.training import TrainingSeries, make_series
from ..errors import DataError
from ..events import Refusal
from ..schema import OnBad
from ..serve.logs import RefusalLog
from ..serve.signals import StopSwitch
from .input_file import InputFile
from .process import warn
from .progress import file_progress
from .row_order import row_order


class Reading:
    """Reads files into series; `ticks` and `refused` count what was read and left out."""

    def __init__(self, config: Config, columns: Sequence[str], stop: StopSwitch) -> None:
        self.ticks = self.refused = 0
        self._config, self._columns, self._stop = config, columns, stop
        self._log = RefusalLog(warn, time.monotonic)

    def read(self, files: Sequence[InputFile]) -> list[TrainingSeries]:
        """Return one series for each file; fewer where a signal asks for the end.

        Raises what `open_file` and `make_series` raise, and DataError for a tick whose features
        are not finite and for a target that is always or never positive in training.
        """
        series = []
        for file in files:
            elements = self._elements(file)
            if self._stop.requested:
                break
            series.append(make_series(str(file.path), elements, self._config))
        self._log.flush()
        return series

    def _elements(self, file: InputFile) -> npt.NDArray[np.float32]:
        maker = maker_of(self._config.stream, self._columns)
        memory, runs = Memory.empty(len(self._columns)), [np.zeros((0, len(maker)), np.float32)]
        with (
            file.open(self._columns, self._log) as source,
            row_order(file, warns=self._config.stream.on_old_time == "warn") as look,
            file_progress(source, file.limit) as report,
        ):
            for block in source.blocks():
                look(block.t_ns, block.values, block.rows, block.keys)
                refused = self._refused(file, block.rows)
                made = maker.make(memory, block.t_ns, block.values, refused)
                runs += [elements.copy() for _, elements in made]
                report(source.rows_read)
                if self._stop.requested:
                    break
            self.ticks += source.rows_read + source.rows_refused
            self.refused += source.rows_refused
        return np.concatenate(runs)

    def _refused(self, file: InputFile, rows: Any) -> Any:
        policy: OnBad = file.on_bad_row

        def refused(index: int, reason: str) -> None:
            where = f"{file.path}:{rows[index]}"
            if policy == "fail":
                raise DataError(f"{where}: {reason}; --on-bad-row skip leaves such rows out")
            self.refused += 1
            self._log(Refusal(file.stream, "tick", reason, where=where))

        return refused


def check_series(series: Sequence[TrainingSeries], features: Sequence[str], horizon: int) -> None:
    """Raise DataError where there is nothing to learn from; warn of inputs that say nothing."""
    labels = np.concatenate([one.labels(horizon) for one in series])
    known = int((labels >= 0).sum())
    positive = int((labels == 1).sum())
    if positive in (0, known):
        word = "never" if positive == 0 else "always"
        raise DataError(
            f"the target {features[0]} is {word} positive in the {known:,} targets that are "
            "trained on, so there is nothing to learn; name another feature first, such as "
            "diff(...) or log_return(...) of it"
        )
    for k, name in enumerate(features):
        if not any(one.scaled[: one.train, k].any() for one in series):
            warn(f"the feature {name} is constant in training: the model sees zeros")
