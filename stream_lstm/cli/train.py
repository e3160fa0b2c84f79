"""`stream-lstm train`: weights from historical files, by stateful training in epochs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self

import typer

from ..config import NOT_TRAINED
from ..feed.input_file import look_over
from ..platform import peak_rss_bytes
from ..quoting import printable
from ..store.startup import warm_start
from .console import detail, file_progress, note, progress_bar, result, warn
from .options import JsonOption, RowOptions, options
from .replay import check_features, with_optional
from .settings import Settings

if TYPE_CHECKING:
    from ..core.training import Epoch, Training


@options("stream", "model", "scaling", "learning", "train", without=NOT_TRAINED)
def command(
    *,
    settings: Settings,
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE...",
            help="Each is one series: CSV or TSV (also .gz, .zst), Parquet, Arrow, Feather, .npy.",
        ),
    ],
    out: Annotated[
        Path, typer.Option(metavar="FILE.safetensors", help="Write the best weights here.")
    ],
    rows: RowOptions,
    history: Annotated[
        Path | None,
        typer.Option(metavar="FILE.parquet", help="Write one row for each epoch here."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue from the checkpoint beside --out.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Restart over existing weights or checkpoint.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Train weights on files, for replay, run and Predictor to start from.

    Example: stream-lstm train quotes.csv.gz --feature 'log_return(mid(bid, ask))'
    --out weights.safetensors
    """
    inputs = [rows.of(path) for path in files]
    config, weights, *_ = warm_start(settings.config, settings.origins, warn)
    columns = check_features(inputs[0], config)
    inputs = [look_over(one, used=columns, warn=warn, detail=detail)[0] for one in inputs]
    inputs = [with_optional(one, config, columns) for one in inputs]
    from ..serve.training import (  # JAX is imported here and not before
        TrainingJob,
        check_mode,
        check_places,
        train,
    )

    job = TrainingJob(inputs, out, history, resume, overwrite)
    check_places(job)
    check_mode(config)
    summary = train(
        job, config, weights, columns, warn=warn, progress=file_progress, displays=TrainingDisplay
    )
    if summary is not None:
        detail(f"compiled in {summary['compile_s']:.2f} s")
        summary["peak_rss_bytes"] = peak_rss_bytes()
        result(summary, _lines(summary), as_json=as_json)


class TrainingDisplay:
    """A bar over the epochs on a terminal, plain lines elsewhere, both on standard error."""

    def __init__(self, epochs: int, base_rate: float) -> None:
        self._epochs, self._base_rate = epochs, base_rate
        self._bar = progress_bar("{task.fields[loss]}")
        self._task: Any = None

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._task = self._bar.add_task("training", total=float(self._epochs), loss="")
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def part(self, training: Training) -> None:
        """Show the progress within an epoch."""
        if self._bar is None:
            return
        at = training.position
        self._bar.update(
            self._task,
            completed=at.epoch + at.segment / training.segments,
            description=f"epoch {at.epoch + 1}/{self._epochs}",
            loss=f"train {training.train_loss:.4f} (base rate {self._base_rate:.4f})",
        )

    def epoch(self, training: Training) -> None:
        """Print the line of an epoch that has just ended."""
        history = training.position.history
        best = history[training.position.best_epoch - 1]
        line = epoch_line(history[-1], self._epochs, self._base_rate, best)
        if self._bar is not None:
            self._bar.console.print(printable(line), markup=False, soft_wrap=True)
        else:
            note(line)


def epoch_line(epoch: Epoch, epochs: int, base_rate: float, best: Epoch) -> str:
    """Return the line of an epoch; `base_rate` is its log loss on the same labels, nats."""
    from ..serve.training import COIN

    refused = f", {epoch.updates_refused:,} updates refused" * (epoch.updates_refused > 0)
    return (
        f"epoch {epoch.epoch}/{epochs}: train {epoch.train_loss:.4f}, validation "
        f"{epoch.validation_log_loss:.4f} (coin {COIN:.4f}, base rate {base_rate:.4f}), accuracy "
        f"{epoch.validation_accuracy:.4f}, best {best.validation_log_loss:.4f} in epoch "
        f"{best.epoch}, {epoch.seconds:.2f} s{refused}"
    )


def _lines(summary: dict[str, Any]) -> Iterator[str]:
    files = f"{len(summary['files'])} file{'s' * (len(summary['files']) != 1)}"
    yield (
        f"{summary['elements']:,} elements of {files}, {summary['trained_elements']:,} trained on "
        f"in {summary['lanes']} lanes; {summary['epochs']} epochs, stopped by {summary['stopped']}"
    )
    if (found := summary["validation"]) is not None:
        yield (
            f"validation, {found['labels']:,} labels: log loss {found['log_loss']:.4f} (coin "
            f"{found['coin_log_loss']:.4f}, base rate {found['base_rate_log_loss']:.4f}), "
            f"accuracy {found['accuracy']:.4f} (base rate {found['base_rate_accuracy']:.4f}), "
            f"weights of epoch {summary['best_epoch']}"
        )
        yield (
            f"{summary['seconds_per_epoch']:.2f} s an epoch, {summary['elements_per_s']:,.0f} "
            f"elements/s; compiled in {summary['compile_s']:.2f} s"
        )
    if summary["written"]:
        yield f"weights: {summary['out']}"
    yield summary["verdict"]
