"""A module that runs in a child process, which ends with the command however that ends."""

from __future__ import annotations

import subprocess
import sys

from ..closing import Closing
from ..errors import EndpointError
from ..platform import own_group

PATIENCE_S = 5.0
"""Seconds between asking a process to end and killing it."""


class ChildProcess(Closing):
    """A running module that serves an endpoint; a context manager that ends it.

    module: prints its endpoint as its only line, and exits when its standard input is closed.
    arguments: its command line. what: its name in messages.
    """

    def __init__(self, module: str, *arguments: str, what: str = "feed") -> None:
        self._what = what
        self._process: subprocess.Popen[str] = subprocess.Popen(  # noqa: S603 - our own module
            [sys.executable, "-X", "utf8", "-m", module, *arguments],
            # the pipe is closed even by a kill that we cannot catch
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            encoding="utf-8",
            # Ctrl-C reaches the whole group of a terminal, and only the command may act on it
            **own_group(),
        )

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    def endpoint(self) -> str:
        """Return the endpoint that the process serves; raises EndpointError if it died."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline().strip()
        if not line:
            code = self._process.wait()
            raise EndpointError(f"the {self._what} ended with code {code} before it was ready")
        return line

    def close(self) -> None:
        """End the process and wait for it."""
        self._process.terminate()
        try:
            self._process.communicate(timeout=PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()


def demo_feed(*, seed: int, speed: float, count: int) -> ChildProcess:
    """Return the demo's feed: `count` elements, `speed` a second."""
    options = {"--seed": seed, "--speed": speed, "--count": count}
    words = [str(word) for pair in options.items() for word in pair]
    return ChildProcess("stream_lstm.feed.demo_feed", *words)
