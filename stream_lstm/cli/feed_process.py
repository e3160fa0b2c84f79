"""The demo's feed as a process of its own, gone when the demo is, however it ends."""

from __future__ import annotations

import subprocess
import sys
from types import TracebackType

from ..errors import EndpointError

PATIENCE_S = 5.0
"""For a process that was told to end."""


class FeedProcess:
    """A running `feed.demo_feed`; a context manager that ends it.

    seed: of the series. speed: elements a second. count: elements in all.
    """

    def __init__(self, *, seed: int, speed: float, count: int) -> None:
        self._process = subprocess.Popen(  # noqa: S603 - our own module
            [
                *(sys.executable, "-m", "stream_lstm.feed.demo_feed"),
                *("--seed", str(seed), "--speed", str(speed), "--count", str(count)),
            ],
            # it leaves when this pipe is closed, even by a kill that we cannot catch
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            # Ctrl-C in a terminal reaches a whole group; only the demo itself is to act on it
            start_new_session=True,
        )

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
            raise EndpointError(f"the demo's feed ended with code {code} before it was ready")
        return line

    def close(self) -> None:
        """End the process, and return when it is gone."""
        self._process.terminate()
        try:
            self._process.communicate(timeout=PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()

    def __enter__(self) -> FeedProcess:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
