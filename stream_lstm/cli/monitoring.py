"""What `run` has for machines: its pages for monitoring, and its log as JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from ..config import Config
from ..errors import StreamLSTMError
from ..schema import ServeConfig
from ..serve.logs import Log, Pipe

if TYPE_CHECKING:
    from ..serve.daemon import Daemon
    from ..serve.monitor import Monitor


def open_monitor(config: Config, log: Log, pipe: Pipe) -> Monitor | None:
    """Return the pages of a daemon, served from now on; None where no address is configured.

    Raises what `serve.web.bind` raises.
    """
    if config.serve.metrics is None:
        return None
    from ..serve.monitor import Monitor  # with the Prometheus client, for those who want it

    return Monitor(
        config.serve,
        insecure=config.security.insecure,
        dropped=lambda: pipe.dropped,
        say=log.named("page_failed", "error"),
    )


def told(config: ServeConfig, error: StreamLSTMError) -> typer.Exit:
    """Say an error on the log, as far as somebody reads it; return what to raise then."""
    with Pipe() as pipe:
        log = Log(config.log_format, pipe.put)
        log.say("failed", *error.lines, level="error", exit_code=error.exit_code)
    return typer.Exit(error.exit_code)


def ended(daemon: Daemon, wall_s: float) -> dict[str, Any]:
    """Return what the last line of a log says of a run."""
    from ..serve.metrics import totals

    total = totals(daemon.session)
    return {
        "streams": total.streams,
        "elements": total.elements,
        "seconds": round(wall_s, 3),
        "interrupted": daemon.stop.requested,
    }
