"""A publisher of a file in a process of its own: the feed of `stream-lstm prove live`.

`python -m stream_lstm.cli.file_feed JSON` binds a port that the system chooses, prints the
endpoint as its only line, waits for a subscriber, sends the file at full speed, one tick a
message, says END and leaves. It also leaves when its standard input is closed.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import msgspec

from ..errors import StreamLSTMError
from ..feed.demo_feed import leave_with_parent
from ..feed.pace import Speed
from .input_file import InputFile
from .process import say, warn
from .publish import Publication
from .sending import send_file
from .synthetic_input import SyntheticInput

WAIT_S = 120.0
"""For the subscriber, which compiles first; longer than a slow machine takes."""


class FileFeed(msgspec.Struct, frozen=True):
    """What to publish: an `InputFile` in plain words, `seed` being that of a synthetic one."""

    path: str
    stream: str
    columns: tuple[str, ...]
    time: str | None = None
    time_unit: str = "auto"
    on_bad_row: Any = "fail"
    limit: int | None = None
    seed: int | None = None

    @classmethod
    def of(cls, file: InputFile, columns: tuple[str, ...]) -> FileFeed:
        """Return what publishes the columns of a file."""
        seed = file.seed if isinstance(file, SyntheticInput) else None
        rest = file.time, file.time_unit, file.on_bad_row, file.limit
        return cls(str(file.path), file.stream, columns, *rest, seed)

    def input(self) -> InputFile:
        """Return the file."""
        if self.seed is not None:
            return SyntheticInput(Path(self.path), self.stream, limit=self.limit, seed=self.seed)
        rest = self.time, self.time_unit, self.on_bad_row, self.limit
        return InputFile(Path(self.path), self.stream, *rest)


def main() -> None:
    """Publish, as the one argument says."""
    feed = msgspec.json.decode(sys.argv[1], type=FileFeed)
    leave_with_parent()
    publication = Publication(
        file=feed.input(),
        bind="tcp://127.0.0.1:*",
        columns=feed.columns,
        speed=Speed("max"),
        block=1,
        encoding="msgpack",
        subscribers=1,
        wait_timeout_s=WAIT_S,
        send_timeout_s=WAIT_S,
    )
    try:
        send_file(publication, say)
    except StreamLSTMError as error:
        warn(str(error))
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
