"""The exceptions, in one tree, each with the exit code that a command ends with.

```
StreamLSTMError                    70  a promise of this program is broken
├── UsageError                      2  the command line is wrong
├── ConfigurationError             78  a configuration value is wrong
│   └── ExpressionError            78  a feature expression is wrong
├── DataError                      65  what came from a file or a peer is wrong
│   ├── DecodeError                65  bytes that are not a record of the protocol
│   ├── SnapshotError              65  a snapshot that is damaged or of another kind
│   └── StoreError                 65  a store that is damaged, or none of ours
├── InputMissingError              66  no such input
├── DivergedError                  70  a training has run off, and cannot go on
├── EndpointError                  69  an endpoint cannot be used, or nothing arrives
├── LockedError                    73  another process has what only one can have
└── OutputError                    74  the operating system refused to read or write
    └── GoneError                  74  the file of a store is not where it was
```

`DataError` is the peer's mistake, `UsageError` and `ConfigurationError` are the user's, and
the base class alone is ours. A message names what was wrong, where, and what to do; what it
quotes cannot drive a terminal, see `quoting`. `InputWarning` is a warning, and ends nothing.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import ClassVar, Literal, TypeAlias

from .quoting import printable

DecodeCause: TypeAlias = Literal["frames", "topic", "size", "version", "payload"]


class StreamLSTMError(Exception):
    """Anything that this package raises on purpose; `lines` are those of its message."""

    exit_code: ClassVar[int] = 70

    def __init__(self, *lines: str) -> None:
        self.lines = tuple(map(printable, lines))
        super().__init__("\n".join(self.lines))

    def within(self, place: str) -> tuple[str, ...]:
        """Return the lines with `place` before the first."""
        first, *more = self.lines or ("",)
        return place + first, *more


class UsageError(StreamLSTMError):
    """The command line, or a call, asks for something that cannot be."""

    exit_code: ClassVar[int] = 2


class ConfigurationError(StreamLSTMError):
    """A configuration value is wrong; `key` is its name where one value is to blame."""

    exit_code: ClassVar[int] = 78

    def __init__(self, *lines: str, key: str = "") -> None:
        super().__init__(*lines)
        self.key = key


class ExpressionError(ConfigurationError):
    """A feature expression is wrong; `position` counts characters from 0."""

    def __init__(self, message: str, *, expression: str, position: int) -> None:
        caret = " " * len(printable(expression[:position]))
        super().__init__(message, f"  {printable(expression)}", f"  {caret}^", key="features")
        self.expression = expression
        self.position = position


class DataError(StreamLSTMError):
    """What came from a file or from a peer is wrong."""

    exit_code: ClassVar[int] = 65


class DecodeError(DataError):
    """Bytes that are not a record of the protocol; `cause` is a short name of what is wrong."""

    def __init__(self, *lines: str, cause: DecodeCause = "payload") -> None:
        super().__init__(*lines)
        self.cause = cause


class SnapshotError(DataError):
    """A snapshot is damaged, or of another version or configuration."""


class StoreError(DataError):
    """A store is damaged, has a hole that cannot be crossed, or is no store."""


class LockedError(StreamLSTMError):
    """Another process has what only one at a time can have."""

    exit_code: ClassVar[int] = 73


class InputMissingError(StreamLSTMError):
    """There is no such file."""

    exit_code: ClassVar[int] = 66


class DivergedError(StreamLSTMError):
    """A training has run off: what it learns is no longer finite, or of no use."""


class EndpointError(StreamLSTMError):
    """An endpoint cannot be bound or connected to, or nothing arrives from it."""

    exit_code: ClassVar[int] = 69


class OutputError(StreamLSTMError):
    """The operating system refused to read or to write."""

    exit_code: ClassVar[int] = 74


class GoneError(OutputError):
    """The file of a store was removed, moved, replaced or cut while it was written."""


class InputWarning(UserWarning):
    """The program works, but what it is given is hardly what was meant; shown by `warnings`."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Return `; did you mean 'x'?` for the known name nearest to `name`, or nothing."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""
