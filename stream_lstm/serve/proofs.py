"""The proofs on a file: the state helps, nothing looks ahead, live is replay, cuts do not matter.

A look-ahead is searched for by changing the future at random positions: nothing that comes after
element n may change a byte up to n. For live against replay another process publishes the file
over ZeroMQ on loopback, one tick a record, and both runs are compared; each compiles its network.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec
import numpy as np

from .. import __version__
from ..config import build, flatten
from ..core.outcome import Outcome
from ..core.proofs.blocks import BlockCheck
from ..core.proofs.causality import CausalCheck, LookAhead
from ..core.proofs.live import Recording, first_difference
from ..core.proofs.state import StateCheck
from ..core.replay import Replay, ReplayRows
from ..core.session import Session
from ..core.stateful import maker_of
from ..errors import DataError
from ..events import Refusal, Ticks
from ..feed.input_file import InputFile, Progress, SyntheticInput, no_progress
from ..feed.sending import file_feed
from ..model.forecaster import network_shape
from ..model.network import check_weights
from ..quoting import count
from ..store.startup import WarmStart, Warn
from .daemon import Daemon
from .replaying import ReplayResults, session_of, state_record
from .signals import StopSwitch

PIECE = 256
"""Ticks of a block: a trial takes 13 runs over one, and a look-ahead shows within it."""

MAX_SEARCHED = 200_000
"""Ticks in which a column that reveals the label is searched for."""

IDLE_TIMEOUT_S = 60.0
"""Seconds of silence after which a feed on this machine has died."""


class Subject(NamedTuple):
    """The file of a proof, and what its replay starts from."""

    file: InputFile
    start: WarmStart
    columns: tuple[str, ...]
    warn: Warn
    progress: Progress = no_progress

    def results(self) -> ReplayResults:
        """Return the results of a new session."""
        return ReplayResults(self.file, self.warn)

    def session(self, **options: Any) -> Session:
        """Return a new session, which compiles unless it is given an engine."""
        return session_of(self.start, self.columns, **options)


# ---- state ------------------------------------------------------------------------------------


def prove_state(about: Subject) -> dict[str, Any]:
    """Return what carrying the state changes; raises what a replay raises."""
    file, config = about.file, about.start.config
    maker = maker_of(config.stream, about.columns)
    assert about.start.weights is not None
    start = time.perf_counter()
    shape = network_shape(config.model, len(config.stream.features))
    weights = check_weights(shape, about.start.weights)
    queries = file.informative(config.stream)
    check = StateCheck(config, maker, weights, scaler=about.start.scaler, queries=queries)
    compile_s = time.perf_counter() - start
    start, ticks = time.perf_counter(), 0
    with (
        about.results() as results,
        file.open(about.columns, results.refused) as opened,
        about.progress(opened, file.limit) as report,
    ):

        def refused(index: int, reason: str) -> None:
            results.take(Refusal(file.stream, "tick", reason, index))

        for block in opened.blocks():
            results.rows = block.rows
            check.push(Ticks(file.stream, block.t_ns, block.values), refused)
            ticks += len(block.rows)
            report(ticks)
    return {
        "version": __version__,
        "stream": file.stream,
        "ticks": ticks,
        "elements": check.elements,
        "refused_ticks": results.refused.total["tick"],
        **state_record(check),
        "compile_s": compile_s,
        "wall_s": time.perf_counter() - start,
    }


# ---- causal -----------------------------------------------------------------------------------


def prove_causal(about: Subject, trials: int, seed: int) -> dict[str, Any]:
    """Return whether anything looks ahead.

    The file is read three times: to count its ticks, to search for a column that reveals the
    label, and to run the session with trials at random positions. Raises what a replay raises,
    and DataError if no prediction comes before a position.
    """
    known = _revealing_columns(about)
    file, config = about.file, about.start.config
    with file.open(about.columns) as source:
        count = sum(len(block.rows) for block in source.blocks())
    random = np.random.default_rng(seed)
    size = min(trials, max(count - 1, 0))
    drawn = np.sort(1 + random.choice(max(count - 1, 1), size, replace=False))
    places = [int(place) for place in drawn]
    shift = int(random.integers(1, PIECE + 1))
    start = time.perf_counter()
    other = about.session()
    compile_s = time.perf_counter() - start
    start = time.perf_counter()
    with about.results() as results:
        main = about.session(deliver=results.deliver, engine=other.engine)
        check = CausalCheck(main, other, seed=seed)
        with file.open(about.columns, results.refused) as source:
            for first, block in _pieces(source, shift):
                results.rows = block.rows
                push_trials(check, Ticks(file.stream, block.t_ns, block.values), first, places)
        main.settle()
        digest = results.digest.hexdigest()
    record = check.record()
    if not record["predictions_compared"]:
        raise DataError(
            f"{file.path}: {count:,} ticks gave no prediction before a tried position; the "
            f"warm-up is {config.stream.window} elements (--window)"
        )
    stream = main.streams[file.stream]
    summary = {
        "version": __version__,
        "stream": file.stream,
        "ticks": count,
        "elements": stream.n,
        "predictions": stream.counters.predictions,
        "updates": stream.counters.updates,
        "learn": config.learning.learn,
        "seed": seed,
        **record,
        "foreknowing": known,
        "digest": digest,
        "compile_s": compile_s,
        "wall_s": time.perf_counter() - start,
    }
    return summary | {"verdict": _causal_verdict(summary)}


def push_trials(check: CausalCheck, ticks: Ticks, first: int, places: list[int]) -> None:
    """Push a piece whose first tick follows `first` others, and try the positions in it.

    `places` are positions to try, and loses those that are tried. A position at the start of a
    piece has no past in it, and moves to the next free one, in this piece or a later one.
    """
    count = len(ticks.values)
    inside: list[int] = []
    while places and places[0] < first + count:
        at = max(places[0] - first, inside[-1] + 1 if inside else 1)
        if at >= count:
            break
        inside.append(at)
        del places[0]
    check.push(ticks, inside)


def _pieces(source: Any, shift: int) -> Iterator[tuple[int, Any]]:
    """Yield (ticks before it, piece): the first of `shift` ticks, so that cuts fall anywhere."""
    done = 0
    for block in source.blocks():
        start, stop = 0, min(shift, len(block.rows))
        while start < len(block.rows):
            part = slice(start, stop)
            rows = block.rows[part]
            yield done, block._replace(t_ns=block.t_ns[part], values=block.values[part], rows=rows)
            done += stop - start
            start, stop = stop, stop + PIECE


def _revealing_columns(about: Subject) -> list[dict[str, Any]]:
    """Return the columns of a file that reveal the label before it is due."""
    file, stream = about.file, about.start.config.stream
    if isinstance(file, SyntheticInput):
        return []
    limit = MAX_SEARCHED if file.limit is None else min(file.limit, MAX_SEARCHED)
    loose = msgspec.structs.replace(file, on_bad_row="skip", limit=limit)
    try:
        with loose.open(None) as source:
            columns = source.value_columns
            if not set(about.columns) <= set(columns):
                return []
            check = LookAhead(maker_of(stream, columns), stream.horizon)
            for block in source.blocks():
                check.push(Ticks(file.stream, block.t_ns, block.values))
    except DataError:
        return []  # a column without any number; the passes that follow report their own
    return check.found()


def _causal_verdict(summary: dict[str, Any]) -> str:
    leak = summary["leak"]
    if leak is not None:
        return (
            f"something looks ahead in the {leak['stage']}: after element {leak['element']:,} "
            f"(tick {leak['tick']:,}) another future ({leak['future']}) changed the values at "
            f"element {leak['n']:,}"
        )
    clean = (
        f"nothing looks ahead: at {summary['trials']:,} random positions other futures changed "
        f"none of the {summary['bytes_compared']:,} bytes before them"
    )
    return f"{revealing(summary)}; otherwise {clean}" if summary["foreknowing"] else clean


def revealing(summary: dict[str, Any]) -> str:
    """Return a sentence about the columns that reveal the label."""
    names = ", ".join(
        f"{one['column']!r} (the {one['relation']} of its {one['kind']} with the label's element "
        f"is {one['next']:.4f}, with its own {one['own']:.4f})"
        for one in summary["foreknowing"]
    )
    return f"the file reveals the label before it is due, in column {names}; leave it out"


# ---- live -------------------------------------------------------------------------------------


def prove_live(about: Subject) -> dict[str, Any]:
    """Return whether live is replay.

    Raises what a replay and a daemon raise, and DataError without any prediction.
    """
    start = time.perf_counter()
    replayed = _replayed(about)
    counts = replayed.predictions()[0]
    if not len(counts):
        raise DataError(
            f"{about.file.path}: its {replayed.ticks:,} ticks give no prediction; the warm-up is "
            f"{about.start.config.stream.window} elements (--window)"
        )
    daemon, feed = _daemon(about)
    difference = first_difference(daemon, replayed)
    digests = {"live": daemon.digest.hexdigest(), "replay": replayed.digest.hexdigest()}
    summary = {
        "version": __version__,
        "stream": about.file.stream,
        "ticks": {"live": daemon.ticks, "replay": replayed.ticks},
        "predictions": {"live": len(daemon.predictions()[0]), "replay": len(counts)},
        "updates": {"live": len(daemon.updates), "replay": len(replayed.updates)},
        "digest": digests,
        "learn": about.start.config.learning.learn,
        "feed": feed,
        "same": difference is None and digests["live"] == digests["replay"],
        "first_difference": None if difference is None else msgspec.structs.asdict(difference),
        "wall_s": time.perf_counter() - start,
    }
    return summary | {"verdict": _live_verdict(summary)}


def _replayed(about: Subject) -> Recording:
    """Return the recording of a replay."""
    file, recording = about.file, Recording()
    with about.results() as results:

        def deliver(outcome: Outcome) -> None:
            results.deliver(outcome)
            recording.deliver(outcome)

        def begin(piece: ReplayRows) -> None:
            results.rows = piece.numbers
            recording.take(Ticks(file.stream, piece.t_ns, piece.values))

        session = about.session(deliver=deliver)
        recording.start(session)
        with file.open(about.columns, results.refused) as source:
            blocks = (
                ReplayRows(block.t_ns, block.values, block.rows) for block in source.blocks()
            )
            Replay(session, file.stream, before=begin).run(blocks)
    return recording


def _daemon(about: Subject) -> tuple[Recording, dict[str, int]]:
    """Return the recording of the live daemon, and the counters of its feed."""
    recording, start = Recording(), about.start
    with StopSwitch() as stop, file_feed(about.file, about.columns) as feed:
        changes: dict[str, Any] = {"connect": (feed.endpoint(),), "streams": (about.file.stream,)}
        changes |= {"idle_timeout": IDLE_TIMEOUT_S, "curve_dir": None}  # the feed is our own child
        daemon = Daemon(
            build({**flatten(start.config), **changes}),
            about.columns,
            stop=stop,
            observers=(recording,),
            on_input=recording.take,
            weights=start.weights,
            scaler=start.scaler,
            members=start.members,
        )
        with daemon:
            recording.start(daemon.session)
            daemon.run(until_end=True)
            counters = msgspec.structs.asdict(daemon.subscriber.counters)
    return recording, counters


def _live_verdict(summary: dict[str, Any]) -> str:
    if summary["same"]:
        return (
            f"live is replay: the same {summary['predictions']['live']:,} predictions to the "
            f"last bit, digest {summary['digest']['live'][:16]}"
        )
    found = summary["first_difference"]
    if found is None:
        return "live is not replay: the digests differ, but no prediction of the stream does"
    where = "before any prediction" if found["n"] is None else f"from prediction {found['n']:,} on"
    return f"live is not replay ({where}); the {found['cause']}: {found['what']}"


# ---- features ---------------------------------------------------------------------------------


def prove_features(about: Subject, seed: int) -> dict[str, Any]:
    """Return whether features depend on how ticks are cut; raises what reading the file raises."""
    file, start = about.file, time.perf_counter()
    check = BlockCheck(about.start.config.stream.features, about.columns, seed)
    with (
        about.results() as results,
        file.open(about.columns, results.refused) as opened,
        about.progress(opened, file.limit) as report,
    ):
        for block in opened.blocks():
            if not check.push(block.t_ns, block.values, block.rows):
                break
            report(check.found["ticks"])
    if not check.found["ticks"]:
        raise DataError(f"{file.path} has no tick to prove anything with")
    summary = {"version": __version__, "stream": file.stream, "seed": seed, **check.found}
    verdict = _features_verdict(summary)
    return summary | {"wall_s": time.perf_counter() - start, "verdict": verdict}


def _features_verdict(summary: dict[str, Any]) -> str:
    if (failure := summary["failure"]) is not None:
        return f"row {failure['row']:,}: {failure['what']}"
    if (found := summary["difference"]) is not None:
        return (
            f"{found['function']} depends on how ticks are cut into blocks: at row "
            f"{found['row']:,} it is {found['stepped']!r} tick by tick and "
            f"{found['in_blocks']!r} in a block"
        )
    return (
        f"cuts do not matter: {count(len(summary['functions']), 'functions')} with memory and "
        f"{count(len(summary['features']), 'features')} have the same bits tick by tick and in "
        f"{count(summary['blocks'], 'blocks')}, over {count(summary['ticks'], 'ticks')}"
    )
