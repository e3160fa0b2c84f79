"""What a training says: a bar or a line for each epoch, and its figures at the end."""

from __future__ import annotations

import math
import statistics
import sys
from collections.abc import Sequence
from types import TracebackType
from typing import Any

from ..core.training import Epoch, Training
from ..quoting import printable
from .process import say

COIN = math.log(2.0)

FEW = 1000
"""Labels below which a comparison is little more than luck, as after a replay."""


def epoch_line(epoch: Epoch, epochs: int, base_rate: float, best: Epoch) -> str:
    """Return what is said of an epoch; `base_rate` is its log loss on the same labels, nats."""
    refused = f", {epoch.updates_refused:,} updates refused" * (epoch.updates_refused > 0)
    return (
        f"epoch {epoch.epoch}/{epochs}: train {epoch.train_loss:.4f}, validation "
        f"{epoch.validation_log_loss:.4f} (coin {COIN:.4f}, base rate {base_rate:.4f}), accuracy "
        f"{epoch.validation_accuracy:.4f}, best {best.validation_log_loss:.4f} in epoch "
        f"{best.epoch}, {epoch.seconds:.2f} s{refused}"
    )


class TrainingProgress:
    """A bar over the epochs on a terminal, plain lines elsewhere, both on standard error."""

    def __init__(self, epochs: int, base_rate: float) -> None:
        self._epochs, self._base_rate = epochs, base_rate
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> TrainingProgress:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.fields[loss]}"),
                TimeRemainingColumn(),
                console=Console(stderr=True, highlight=False),
                transient=True,
            )
            self._task = self._bar.add_task("training", total=float(self._epochs), loss="")
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def part(self, training: Training) -> None:
        """Show how far the epoch under way has come."""
        if self._bar is None:
            return
        at = training.position
        loss = (
            f"train {training.train_loss:.4f} (coin {COIN:.4f}, base rate {self._base_rate:.4f})"
        )
        done = at.epoch + at.segment / training.segments
        self._bar.update(
            self._task,
            completed=done,
            description=f"epoch {at.epoch + 1}/{self._epochs}",
            loss=loss,
        )

    def epoch(self, training: Training) -> None:
        """Print the line of the epoch that has just ended."""
        history = training.position.history
        best = history[training.position.best_epoch - 1]
        line = epoch_line(history[-1], self._epochs, self._base_rate, best)
        if self._bar is not None:
            self._bar.console.print(printable(line), markup=False, soft_wrap=True)
        else:
            say(line, err=True)


def verdict(validation: dict[str, Any] | None) -> str:
    """Return one plain sentence about the validation."""
    if validation is None:
        return "nothing is known yet: no epoch has ended"
    labels: int = validation["labels"]
    few = f" ({labels:,} labels: too few to tell)" * (labels < FEW)
    return _compare(validation) + few


def _compare(validation: dict[str, float]) -> str:
    loss, base = validation["log_loss"], validation["base_rate_log_loss"]
    where, plain = "on what was held out the model's log loss is", min(COIN, base)
    if loss >= plain:
        whose = "the base rate's" if base < COIN else "a coin's"
        return f"{where} no lower than {whose}, {plain:.4f}"
    return f"{where} lower than a coin's and the base rate's"


def timing(history: Sequence[Epoch], trained: int) -> dict[str, float | None]:
    """Return seconds an epoch (the median) and elements trained on in a second."""
    if not history:
        return {"seconds_per_epoch": None, "elements_per_s": None}
    median = statistics.median(epoch.seconds for epoch in history)
    return {"seconds_per_epoch": median, "elements_per_s": trained / median if median else None}


def print_training(summary: dict[str, Any]) -> None:
    """Print the summary on standard output, for people."""
    files = f"{len(summary['files'])} file{'s' * (len(summary['files']) != 1)}"
    say(
        f"{summary['elements']:,} elements of {files}, {summary['trained_elements']:,} trained on "
        f"in {summary['lanes']} lanes; {summary['epochs']} epochs, stopped by {summary['stopped']}"
    )
    if (held := summary["validation"]) is not None:
        say(
            f"validation, {held['labels']:,} labels: log loss {held['log_loss']:.4f} (coin "
            f"{COIN:.4f}, base rate {held['base_rate_log_loss']:.4f}), accuracy "
            f"{held['accuracy']:.4f} (base rate {held['base_rate_accuracy']:.4f}), weights of "
            f"epoch {summary['best_epoch']}"
        )
        say(
            f"{summary['seconds_per_epoch']:.2f} s an epoch, {summary['elements_per_s']:,.0f} "
            f"elements/s; compiled in {summary['compile_s']:.2f} s"
        )
    if summary["written"]:
        say(f"weights: {summary['out']}")
    say(summary["verdict"])
