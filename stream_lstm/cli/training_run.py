"""One training, driven to its end: epochs, checkpoints, progress, and what is written."""

from __future__ import annotations

import time as clocks
from collections.abc import Sequence
from typing import Any

from .. import __version__
from ..config import KEYS, Config, flatten
from ..core.expressions import parse
from ..core.training import Training, TrainingSeries, mean_scaler
from ..errors import DivergedError
from ..serve.signals import StopSwitch
from ..store.weights import (
    Terms,
    checkpoint_path,
    load_checkpoint,
    save_checkpoint,
    save_history,
    save_weights,
)
from .process import warn
from .training_job import UNUSED, Job
from .training_report import TrainingProgress, timing, verdict
from .warm_start import about_inputs


class TrainingRun:
    """Drives a training, and writes what comes of it."""

    def __init__(self, job: Job, config: Config, training: Training) -> None:
        self.job, self.config, self.training = job, config, training
        self.checkpoint = checkpoint_path(job.out)
        self._terms = terms_of(config, training.series)

    def restore(self) -> None:
        """Go on from the checkpoint where that is asked for; raises SnapshotError."""
        if self.job.overwrite:
            self.checkpoint.unlink(missing_ok=True)
        if not self.job.resume:
            return
        if not self.checkpoint.exists():
            warn(f"there is no checkpoint {self.checkpoint} yet; starting from the beginning")
            return
        self.training.restore(*load_checkpoint(self.checkpoint, self._terms))
        at = self.training.position
        share = at.segment / self.training.segments
        warn(f"going on from {self.checkpoint}: {at.epoch + share:.1f} epochs are done")

    def go_on(self, stop: StopSwitch) -> str:
        """Train to the end; return what ended it: `epochs`, `patience` or `signal`."""
        training, at = self.training, self.training.position
        base = self.training.plain_log_loss()
        with TrainingProgress(self.config.train.epochs, base) as progress:
            while not training.finished:
                start = clocks.perf_counter()
                training.advance()
                at.seconds += clocks.perf_counter() - start
                progress.part(training)
                if training.epoch_over:
                    self._end_epoch()
                    progress.epoch(training)
                    self._save()
                if stop.requested and not training.finished:
                    self._save()
                    return "signal"
        return "epochs" if at.epoch >= self.config.train.epochs else "patience"

    def _end_epoch(self) -> None:
        start = clocks.perf_counter()
        spent = self.training.position.seconds
        try:
            self.training.end_epoch(lambda: spent + clocks.perf_counter() - start)
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
        """Write what there is, remove the checkpoint of a whole training; return the summary."""
        self._write()
        if stopped != "signal":
            self.checkpoint.unlink(missing_ok=True)
        else:
            warn(f"stopped by a signal; --resume goes on from {self.checkpoint}")
        return summarize(self.job, self.training, stopped)


def terms_of(config: Config, series: Sequence[TrainingSeries]) -> Terms:
    """Return what a checkpoint must agree on: every setting that training depends on."""
    tables = ("stream", "model", "scaling", "learning", "train")
    settings = {
        key: value
        for key, value in flatten(config).items()
        if KEYS[key] in tables and key not in (*UNUSED, "compile_cache")
    }
    return Terms(settings, [(one.name, len(one.scaled), one.digest) for one in series])


def summarize(job: Job, training: Training, stopped: str) -> dict[str, Any]:
    """Return what `--json` prints, but for times."""
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
