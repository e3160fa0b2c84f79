"""`stream-lstm prove live`: the live daemon gives the bits of a replay.

The file is replayed; then another process publishes it over ZeroMQ on loopback, one tick a
message, as fast as the daemon takes them, and the daemon that `stream-lstm run` starts subscribes
to it. Both runs are kept, and held against each other tick by tick, update by update, prediction
by prediction. Each compiles its own network.
"""

from __future__ import annotations

import time as clocks
from collections.abc import Iterator
from typing import Any

import msgspec

from .. import __version__
from ..config import build, flatten
from ..errors import ConfigurationError, DataError, StreamLSTMError
from ..events import Ticks
from .input_file import (
    FileArgument,
    JsonOption,
    LimitOption,
    OnBadRowOption,
    StreamOption,
    TimeOption,
    TimeUnitOption,
)
from .options import configured
from .proof import Subject, blame, subject, tell
from .settings import Settings
from .synthetic_input import SeriesSeedOption, SyntheticOption, chosen_input

IDLE_TIMEOUT_S = 60.0
"""Without a message from a feed on this machine: it has died."""


@configured(
    ("stream", "model", "scaling", "learning", "scoring"),
    without=("max_pending", "on_gap", "table"),
)
def command(
    *,
    settings: Settings,
    file: FileArgument = None,
    synthetic: SyntheticOption = None,
    series_seed: SeriesSeedOption = None,
    time: TimeOption = None,
    time_unit: TimeUnitOption = "auto",
    on_bad_row: OnBadRowOption = "fail",
    limit: LimitOption = None,
    stream: StreamOption = None,
    as_json: JsonOption = False,
) -> None:
    """Prove that the live daemon predicts, to the bit, what a replay of the same file does.

    Example: stream-lstm prove live quotes.csv.gz --feature 'log_return(mid(bid, ask))' --learn
    """
    source = chosen_input(
        file,
        synthetic,
        stream,
        series_seed=series_seed,
        time=time,
        time_unit=time_unit,
        on_bad_row=on_bad_row,
        limit=limit,
    )
    try:
        summary = prove(subject(source, settings))
    except ConfigurationError as error:
        raise blame(settings, error) from None
    tell(summary, lines(summary), as_json)
    if not summary["same"]:
        raise StreamLSTMError(summary["verdict"])


def prove(about: Subject) -> dict[str, Any]:
    """Run the whole proof and return what it found.

    Raises what a replay and a daemon raise, and DataError where there is no prediction.
    """
    from ..core.proofs.live import first_difference

    start = clocks.perf_counter()
    replayed = _replay(about)
    counts = replayed.predictions()[0]
    if not len(counts):
        raise DataError(
            f"{about.file.path}: its {replayed.ticks:,} ticks bring no prediction; the warm-up "
            f"is {about.config.stream.window} elements (--window)"
        )
    live, feed = _live(about)
    difference = first_difference(live, replayed)
    digests = {"live": live.digest.hexdigest(), "replay": replayed.digest.hexdigest()}
    summary = {
        "version": __version__,
        "stream": about.file.stream,
        "ticks": {"live": live.ticks, "replay": replayed.ticks},
        "predictions": {"live": len(live.predictions()[0]), "replay": len(counts)},
        "updates": {"live": len(live.updates), "replay": len(replayed.updates)},
        "digest": digests,
        "learn": about.config.learning.learn,
        "feed": feed,
        "same": difference is None and digests["live"] == digests["replay"],
        "first_difference": None if difference is None else msgspec.structs.asdict(difference),
        "wall_s": clocks.perf_counter() - start,
    }
    return summary | {"verdict": verdict(summary)}


def _replay(about: Subject) -> Any:
    """Return the recording of a replay."""
    from ..core.outcome import Outcome
    from ..core.proofs.live import Recording
    from ..core.replay import Replay, ReplayRows
    from .replay_results import ReplayResults

    file, recording = about.file, Recording()
    with ReplayResults(str(file.path), file.on_bad_row) as results:

        def deliver(outcome: Outcome) -> None:
            results.deliver(outcome)
            recording.deliver(outcome)

        def begin(piece: ReplayRows) -> None:
            results.rows = piece.numbers
            recording.take(Ticks(file.stream, piece.t_ns, piece.values))

        session = about.session(deliver)
        recording.start(session)
        with file.open(about.columns, results.refused) as source:
            blocks = (
                ReplayRows(block.t_ns, block.values, block.rows) for block in source.blocks()
            )
            Replay(session, file.stream, before=begin).run(blocks)
    return recording


def _live(about: Subject) -> tuple[Any, dict[str, int]]:
    """Return the recording of the live daemon, and what its feed counted."""
    from ..core.proofs.live import Recording
    from ..serve.daemon import Daemon
    from ..serve.signals import StopSwitch
    from .feed_process import FeedProcess
    from .file_feed import FileFeed

    asked = msgspec.json.encode(FileFeed.of(about.file, about.columns)).decode()
    recording = Recording()
    with StopSwitch() as stop, FeedProcess("stream_lstm.cli.file_feed", asked) as feed:
        more: dict[str, Any] = {"connect": (feed.endpoint(),), "streams": (about.file.stream,)}
        more |= {"idle_timeout": IDLE_TIMEOUT_S, "curve_dir": None}  # the feed is our own child
        flat = {**flatten(about.config), **more}
        daemon = Daemon(
            build(flat),
            about.columns,
            stop=stop,
            observers=(recording,),
            on_input=recording.take,
            weights=about.weights,
            scaler=about.scaler,
            members=about.members,
        )
        with daemon:
            recording.start(daemon.session)
            daemon.run(until_end=True)
            counted = msgspec.structs.asdict(daemon.subscriber.counters)
    return recording, counted


def verdict(summary: dict[str, Any]) -> str:
    """Return one plain sentence about what was found."""
    if summary["same"]:
        return (
            f"live is replay: the same {summary['predictions']['live']:,} predictions to the "
            f"last bit, digest {summary['digest']['live'][:16]}"
        )
    found = summary["first_difference"]
    if found is None:
        return "live is not replay: the digests differ, though no prediction of the stream does"
    where = "in no prediction yet" if found["n"] is None else f"from prediction {found['n']:,} on"
    return f"live is not replay ({where}); the {found['cause']}: {found['what']}"


def lines(summary: dict[str, Any]) -> Iterator[str]:
    """Yield what people read."""
    yield f"{summary['stream']}: replayed, and run live over ZeroMQ, in {summary['wall_s']:.1f} s"
    for name in ("ticks", "predictions", "updates"):
        found = summary[name]
        yield f"  {name}: {found['live']:,} live, {found['replay']:,} replayed"
    yield f"  digest: {summary['digest']['live'][:16]}, {summary['digest']['replay'][:16]}"
    yield summary["verdict"]
