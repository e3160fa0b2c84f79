"""Where a daemon's events go: the digest, the file of results, the summary."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import msgspec

from ..core.replay import Digest
from ..events import Input, Notice, Output, Prediction, Score
from .process import peak_rss_bytes

if TYPE_CHECKING:
    from ..serve.daemon import Daemon
    from ..store.output import PredictionWriter


class LiveResults:
    """An observer of a daemon, and a context manager that ends the file of results.

    out: file of results, or None. spreadsheet: as `open_output` takes it.

    Raises what `open_output` raises.
    """

    def __init__(self, out: Path | None = None, *, spreadsheet: bool = False) -> None:
        self.digest = Digest()
        self._writer: PredictionWriter | None = None
        if out is not None:
            from ..store.output import open_output  # Arrow is imported here and not before

            self._writer = open_output(out, spreadsheet=spreadsheet)

    def __call__(self, event: Input | Output | Notice) -> None:
        """Take an event."""
        if isinstance(event, Prediction):
            self.digest.add(event)
            if self._writer is not None:
                self._writer.write(event)
        elif isinstance(event, Score) and self._writer is not None:
            self._writer.score(event)

    def summary(self, daemon: Daemon, *, wall_s: float) -> dict[str, Any]:
        """Return the closing record: that of a replay, and what the feed counted."""
        from ..core.verdict import summarize

        store, took = daemon.store, {"wall_s": wall_s, "compile_s": daemon.compile_s}
        kept = {} if store is None else {"store": store.figures()}
        held = 0 if store is None else store.held
        return {
            **summarize(daemon.session, self.digest, **took, held=held),
            "compilations_after_ready": daemon.compilations,
            "feed": msgspec.structs.asdict(daemon.subscriber.counters),
            **kept,
            "refused_peers": daemon.security.counts(),
            "peak_rss_bytes": peak_rss_bytes(),
            "interrupted": daemon.stop.requested,
        }

    def __enter__(self) -> LiveResults:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._writer is not None:
            self._writer.__exit__(kind, error, trace)
