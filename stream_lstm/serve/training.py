"""One training from files, run to its end: series, epochs, checkpoints, and what is written.

Everything that can be wrong with the files or the output paths is found before the first epoch.
A checkpoint is written at the end of each epoch and on a signal, so a training that was killed
and resumed ends with the same bits.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

import msgspec
import numpy as np
import numpy.typing as npt

from .. import __version__
from ..config import KEYS, NOT_TRAINED, Config, flatten
from ..core.expressions import parse
from ..core.stateful import maker_of
from ..core.training import Epoch, Training, TrainingSeries, make_series, mean_scaler
from ..errors import ConfigurationError, DataError, DivergedError, UsageError
from ..events import Refusal
from ..feed.input_file import InputFile, Progress, check_order
from ..model.network import Shape, check_weights, init_weights, seed_key
from ..store.startup import Warn, about_inputs
from ..store.weights import (
    HISTORY_SUFFIX,
    Terms,
    check_target,
    checkpoint_path,
    load_checkpoint,
    save_checkpoint,
    save_history,
    save_weights,
)
from .logs import EventLog
from .signals import StopSwitch, stop_on_signals

COIN = math.log(2.0)
"""Log loss of a coin flip, nats."""

FEW = 1000
"""Labels below which a comparison is mostly chance, as after a replay."""


class TrainingJob(msgspec.Struct, frozen=True):
    """Where series come from, where results go, and what happens to existing results."""

    files: list[InputFile]
    out: Path
    history: Path | None = None
    resume: bool = False
    overwrite: bool = False


class Display(Protocol):
    """Shows a training that runs."""

    def part(self, training: Training) -> None:
        """Show the progress within an epoch."""

    def epoch(self, training: Training) -> None:
        """Show an epoch that has just ended."""


Displays = Callable[[int, float], AbstractContextManager[Display]]
"""Opens a display of so many epochs and the log loss of the base rate."""


def check_places(job: TrainingJob) -> None:
    """Raise where results cannot be written, or would replace files without permission."""
    if job.resume and job.overwrite:
        raise UsageError("--resume continues and --overwrite restarts: give one of them")
    check_target(job.out)
    if job.history is not None:
        check_target(job.history, HISTORY_SUFFIX)
    checkpoint = checkpoint_path(job.out)
    if job.overwrite:
        return
    if job.resume:
        if job.out.exists() and not checkpoint.exists():
            raise UsageError(
                f"there is no checkpoint {checkpoint} to resume from, and {job.out} exists: its "
                "training has ended; --overwrite restarts it"
            )
        return
    for path in (checkpoint, job.out):
        if path.exists():
            way = "--resume continues from it, " if path == checkpoint else ""
            raise UsageError(f"{path} exists; {way}--overwrite restarts the training")


def check_mode(config: Config) -> None:
    """Raise ConfigurationError for a mode that cannot be trained."""
    if config.model.mode != "carry":
        raise ConfigurationError(
            "mode = 'window' cannot be trained: training carries the state from element to "
            "element; omit it here (trained weights can be used in both modes)",
            key="mode",
        )


def train(
    job: TrainingJob,
    config: Config,
    weights: dict[str, Any] | None,
    columns: Sequence[str],
    *,
    warn: Warn,
    progress: Progress,
    displays: Displays,
) -> dict[str, Any] | None:
    """Run the whole training; return its summary, None if a signal came before it began."""
    with StopSwitch() as stop:
        reader = SeriesReader(config, columns, stop, warn, progress)
        with stop_on_signals(stop):
            series = reader.read(job.files)
        if stop.requested:
            warn("stopped by a signal before the training began")
            return None
        check_series(series, config.stream.features, config.stream.horizon, warn)
        if config.stream.pause and config.stream.on_pause == "reset":
            warn("on_pause = 'reset' counts as 'forget' in training: the state is carried on")
        start = time.perf_counter()
        shape = Shape(series[0].scaled.shape[1], config.model.hidden, config.model.layers)
        if weights is None:
            first = init_weights(shape, key=seed_key(config.model.seed))
        else:
            first = check_weights(shape, weights)
        run = TrainingRun(job, config, Training(config, series, first), warn)
        compile_s = time.perf_counter() - start
        run.restore()
        start = time.perf_counter()
        with stop_on_signals(stop):
            stopped = run.continue_until(stop, displays)
            wall_s = time.perf_counter() - start
            summary = run.finish(stopped)
    return {
        **summary,
        "ticks": reader.ticks,
        "refused_ticks": reader.refused,
        "compile_s": compile_s,
        "wall_s": wall_s,
    }


class SeriesReader:
    """Reads files into series; `ticks` and `refused` count the rows read and left out."""

    def __init__(
        self,
        config: Config,
        columns: Sequence[str],
        stop: StopSwitch,
        warn: Warn,
        progress: Progress,
    ) -> None:
        self.ticks = self.refused = 0
        self._config, self._columns, self._stop = config, columns, stop
        self._warn, self._progress = warn, progress
        self._log = EventLog(warn, time.monotonic)

    def read(self, files: Sequence[InputFile]) -> list[TrainingSeries]:
        """Return one series for each file; fewer after a signal.

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
        memory, runs = maker.empty(), [np.zeros((0, len(maker)), np.float32)]
        warns = self._config.stream.on_old_time == "warn"
        with (
            file.open(self._columns, self._log) as source,
            check_order(file, self._warn, enabled=warns) as order,
            self._progress(source, file.limit) as report,
        ):
            for block in source.blocks():
                order.look(block.t_ns, block.values, block.rows, block.keys)
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
        def refused(index: int, reason: str) -> None:
            where = f"{file.path}:{rows[index]}"
            if file.on_bad_row == "fail":
                raise DataError(f"{where}: {reason}; --on-bad-row skip leaves such rows out")
            self.refused += 1
            self._log(Refusal(file.stream, "tick", reason, where=where))

        return refused


def check_series(
    series: Sequence[TrainingSeries], features: Sequence[str], horizon: int, warn: Warn
) -> None:
    """Raise DataError if there is nothing to learn from; warn of constant features."""
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


class TrainingRun:
    """Runs a training, and writes its results."""

    def __init__(self, job: TrainingJob, config: Config, training: Training, warn: Warn) -> None:
        self.job, self.config, self.training = job, config, training
        self.checkpoint = checkpoint_path(job.out)
        self._terms = terms_of(config, training.series)
        self._warn = warn

    def restore(self) -> None:
        """Restore the checkpoint if the job resumes; raises SnapshotError."""
        if self.job.overwrite:
            self.checkpoint.unlink(missing_ok=True)
        if not self.job.resume:
            return
        if not self.checkpoint.exists():
            self._warn(f"there is no checkpoint {self.checkpoint} yet; starting from epoch 1")
            return
        self.training.restore(*load_checkpoint(self.checkpoint, self._terms))
        at = self.training.position
        share = at.segment / self.training.segments
        self._warn(f"resuming from {self.checkpoint}: {at.epoch + share:.1f} epochs are done")

    def continue_until(self, stop: StopSwitch, displays: Displays) -> str:
        """Train to the end; return what ended it: `epochs`, `patience` or `signal`."""
        training, at = self.training, self.training.position
        base = self.training.plain_log_loss()
        with displays(self.config.train.epochs, base) as display:
            while not training.finished:
                start = time.perf_counter()
                training.advance()
                at.seconds += time.perf_counter() - start
                display.part(training)
                if training.epoch_over:
                    self._end_epoch()
                    display.epoch(training)
                    self._save()
                if stop.requested and not training.finished:
                    self._save()
                    return "signal"
        return "epochs" if at.epoch >= self.config.train.epochs else "patience"

    def _end_epoch(self) -> None:
        start = time.perf_counter()
        spent = self.training.position.seconds
        try:
            self.training.end_epoch(lambda: spent + time.perf_counter() - start)
        except DivergedError as error:
            if self.training.best is None:
                raise
            self._write()
            best = self.training.position.best_epoch
            raise DivergedError(
                f"{error}. The weights of epoch {best}, the best so far, are in {self.job.out}"
            ) from None

    def _save(self) -> None:
        training = self.training
        save_checkpoint(self.checkpoint, self._terms, training.position, training.arrays())

    def _write(self) -> None:
        """Write the best weights and the history."""
        names = [str(parse(text)) for text in self.config.stream.features]
        scaler = mean_scaler(self.training.series)
        if self.training.best is not None:
            about = about_inputs(names, self.config.scaling)
            save_weights(self.job.out, self.training.best, about, scaler)
        if self.job.history is not None:
            save_history(self.job.history, self.training.position.history)

    def finish(self, stopped: str) -> dict[str, Any]:
        """Write the results, remove the checkpoint of a finished training, return the summary."""
        self._write()
        if stopped != "signal":
            self.checkpoint.unlink(missing_ok=True)
        else:
            self._warn(f"stopped by a signal; --resume continues from {self.checkpoint}")
        return summarize(self.job, self.training, stopped)


def terms_of(config: Config, series: Sequence[TrainingSeries]) -> Terms:
    """Return what a checkpoint must agree on: every setting that training depends on."""
    tables = ("stream", "model", "scaling", "learning", "train")
    settings = {
        key: value
        for key, value in flatten(config).items()
        if KEYS[key] in tables and key not in (*NOT_TRAINED, "compile_cache")
    }
    return Terms(settings, [(one.name, len(one.scaled), one.digest) for one in series])


def summarize(job: TrainingJob, training: Training, stopped: str) -> dict[str, Any]:
    """Return what `--json` prints, except for times."""
    at, series = training.position, training.series
    trained = training.trained_elements
    validation = training.final_figures()
    best = at.history[at.best_epoch - 1] if at.history else None
    return {
        "version": __version__,
        "out": str(job.out),
        "written": training.best is not None,
        "files": [str(file.path) for file in job.files],
        "elements": sum(len(one.scaled) for one in series),
        "trained_elements": trained,
        "lanes": training.lanes,
        "segments": training.segments,
        "epochs": at.epoch,
        "best_epoch": at.best_epoch or None,
        "stopped": stopped,
        "interrupted": stopped == "signal",
        "train_log_loss": None if best is None else best.train_loss,
        "validation": validation,
        "updates": sum(epoch.updates for epoch in at.history),
        "updates_refused": sum(epoch.updates_refused for epoch in at.history),
        **timing(at.history, trained),
        "device": training.device,
        "verdict": verdict(validation),
    }


def timing(history: Sequence[Epoch], trained: int) -> dict[str, float | None]:
    """Return the median seconds of an epoch, and elements trained on in a second."""
    if not history:
        return {"seconds_per_epoch": None, "elements_per_s": None}
    median = statistics.median(epoch.seconds for epoch in history)
    return {"seconds_per_epoch": median, "elements_per_s": trained / median if median else None}


def verdict(validation: dict[str, Any] | None) -> str:
    """Return one plain sentence about the validation."""
    if validation is None:
        return "no result yet: no epoch has ended"
    labels: int = validation["labels"]
    few = f" ({labels:,} labels: too few to tell)" * (labels < FEW)
    loss, base = validation["log_loss"], validation["base_rate_log_loss"]
    where, plain = "on the held-out part the model's log loss is", min(COIN, base)
    if loss < plain:
        return f"{where} lower than that of a coin flip and of the base rate{few}"
    whose = "the base rate's" if base < COIN else "a coin flip's"
    return f"{where} no lower than {whose}, {plain:.4f}{few}"
