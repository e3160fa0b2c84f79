"""A feed as a process of its own, gone when the command is that started it, however that ends."""

from __future__ import annotations

import subprocess
import sys

from ..closing import Closing
from ..errors import EndpointError

PATIENCE_S = 5.0
"""For a process that was told to end."""


class FeedProcess(Closing):
    """A running module that publishes; a context manager that ends it.

    module: prints its endpoint as its only line, and leaves when its standard input is closed.
    arguments: of its command line; what: it is called in messages.
    """

    def __init__(self, module: str, *arguments: str, what: str = "feed") -> None:
        self._what = what
        self._process = subprocess.Popen(  # noqa: S603 - our own module
            [sys.executable, "-m", module, *arguments],
            # it leaves when this pipe is closed, even by a kill that we cannot catch
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            # Ctrl-C in a terminal reaches a whole group; only the command itself is to act on it
            start_new_session=True,
        )

    @classmethod
    def demo(cls, *, seed: int, speed: float, count: int) -> FeedProcess:
        """Return the demo's feed of a seed: `count` elements, `speed` a second."""
        given = {"--seed": seed, "--speed": speed, "--count": count}
        words = [str(word) for pair in given.items() for word in pair]
        return cls("stream_lstm.feed.demo_feed", *words)

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    def endpoint(self) -> str:
        """Return the endpoint that it publishes at; raises EndpointError if it died."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline().strip()
        if not line:
            code = self._process.wait()
            raise EndpointError(f"the {self._what} ended with code {code} before it was ready")
        return line

    def close(self) -> None:
        """End the process, and return when it is gone."""
        self._process.terminate()
        try:
            self._process.communicate(timeout=PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()
