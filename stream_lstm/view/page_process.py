"""The live page as a process of its own, beside the daemon that started it.

It prints the page's address as its only line, and leaves when its standard input is closed.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ..feed.parent import leave_with_parent
from ..feed.predictions import PredictionSubscriber
from ..feed.security import Security
from ..tables import SecurityConfig
from .server import serve
from .watcher import Watcher


def main() -> None:
    """Serve the page until a signal comes or the parent goes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--connect", required=True)
    parser.add_argument("--store", type=Path)
    parser.add_argument("--curve-dir")
    given = parser.parse_args()
    leave_with_parent()
    security = Security(SecurityConfig(curve_dir=given.curve_dir))
    subscriber = PredictionSubscriber(given.connect, security=security)
    with Watcher(subscriber, given.connect, given.store) as watcher:
        serve(watcher, given.connect, 0, lambda address: print(address, flush=True))  # noqa: T201


if __name__ == "__main__":
    main()
