"""`stream-lstm train`: weights from historical files, by stateful training in epochs.

Whatever can be wrong with the command line, the files or the places to write to is found before
the first epoch. A checkpoint is written at the end of each epoch and on a signal, so that a
training that was killed goes on with --resume to the same bits.
"""

from __future__ import annotations

import time as clocks
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..config import Config
from ..errors import ConfigurationError, UsageError
from .input_file import (
    JsonOption,
    LimitOption,
    OnBadRowOption,
    TimeOption,
    TimeUnitOption,
    input_file,
)
from .options import configured
from .process import peak_rss_bytes, say_json, warn
from .settings import Settings
from .training_job import UNUSED, Job

if TYPE_CHECKING:
    from ..core.training import Training, TrainingSeries


@configured(("stream", "model", "scaling", "learning", "train"), without=UNUSED)
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
    time: TimeOption = None,
    time_unit: TimeUnitOption = "auto",
    on_bad_row: OnBadRowOption = "fail",
    limit: LimitOption = None,
    history: Annotated[
        Path | None,
        typer.Option(metavar="FILE.parquet", help="Write one row for each epoch here."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the checkpoint beside --out.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Start anew over existing weights or checkpoint.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Train weights on files, for replay, run and Predictor to start from.

    Example: stream-lstm train quotes.csv.gz --feature 'log_return(mid(bid, ask))'
    --out weights.safetensors
    """
    inputs = [
        input_file(path, None, time=time, time_unit=time_unit, on_bad_row=on_bad_row, limit=limit)
        for path in files
    ]
    job = Job(inputs, out, history, resume, overwrite)
    try:
        summary = _train(job, settings)
    except ConfigurationError as error:
        if error.key == "time":
            raise UsageError(f"--time: {error}") from None
        raise settings.blame(error) from None
    if as_json:
        say_json(summary)
        return
    from .training_report import print_training

    print_training(summary)


def _train(job: Job, settings: Settings) -> dict[str, Any]:
    """Run the whole training and return its summary."""
    from ..serve.signals import StopSwitch, stop_on_signals
    from .replay_checks import check_features
    from .warm_start import warm_start

    _check_places(job)
    config, weights, _ = warm_start(settings)
    _check_config(config)
    columns = check_features(job.files[0], config)
    with StopSwitch() as stop:
        from .training_files import Reading, check_series  # JAX is imported here and not before
        from .training_run import TrainingRun

        reading = Reading(config, columns, stop)
        with stop_on_signals(stop):
            series = reading.read(job.files)
        if stop.requested:
            warn("stopped by a signal before the training began")
            raise typer.Exit
        check_series(series, config.stream.features, config.stream.horizon)
        start = clocks.perf_counter()
        training = _training(config, series, weights)
        compile_s = clocks.perf_counter() - start
        run = TrainingRun(job, config, training)
        run.restore()
        start = clocks.perf_counter()
        with stop_on_signals(stop):
            stopped = run.go_on(stop)
            wall_s = clocks.perf_counter() - start
            summary = run.finish(stopped)
    return {
        **summary,
        "ticks": reading.ticks,
        "refused_ticks": reading.refused,
        "compile_s": compile_s,
        "wall_s": wall_s,
        "peak_rss_bytes": peak_rss_bytes(),
    }


def _check_places(job: Job) -> None:
    """Raise where results cannot go, or where something is there that nobody gave up."""
    from ..store.weights import check_history, check_target, checkpoint_path

    if job.resume and job.overwrite:
        raise UsageError("--resume goes on and --overwrite starts anew: give one of them")
    check_target(job.out)
    if job.history is not None:
        check_history(job.history)
    checkpoint = checkpoint_path(job.out)
    if job.overwrite:
        return
    if job.resume:
        if job.out.exists() and not checkpoint.exists():
            raise UsageError(
                f"there is no checkpoint {checkpoint} to go on from, and {job.out} is there: its "
                "training has ended; --overwrite starts anew"
            )
        return
    for path in (checkpoint, job.out):
        if path.exists():
            way = "--resume goes on from it, " if path == checkpoint else ""
            raise UsageError(f"{path} is there already; {way}--overwrite starts anew")


def _check_config(config: Config) -> None:
    if config.model.mode != "carry":
        raise ConfigurationError(
            "mode = 'window' cannot be trained: training carries the state from element to "
            "element; leave it out here (weights that were trained so can be used in both modes)",
            key="mode",
        )


def _training(
    config: Config, series: list[TrainingSeries], weights: dict[str, Any] | None
) -> Training:
    from ..core.training import Training
    from ..model.network import Shape, check_weights, init_weights, seed_key

    shape = Shape(series[0].scaled.shape[1], config.model.hidden, config.model.layers)
    if weights is None:
        start = init_weights(shape, key=seed_key(config.model.seed))
    else:
        start = check_weights(shape, weights)
    return Training(config, series, start)
