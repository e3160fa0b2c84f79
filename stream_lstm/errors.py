"""The exceptions, in one tree, each with the exit code of a command that ends with it.

```
StreamLSTMError                    70  a bug in this program
├── UsageError                      2  wrong command line
├── ConfigurationError             78  wrong configuration value
│   └── ExpressionError            78  wrong feature expression
├── DataError                      65  wrong data in a file or from a peer
│   ├── DecodeError                65  bytes that are not a record of the protocol
│   ├── SnapshotError              65  a snapshot that is damaged or of another kind
│   └── StoreError                 65  a file that is damaged or not a store
├── InputMissingError              66  no such input
├── DivergedError                  70  a training that has diverged
├── EndpointError                  69  an unusable or silent endpoint
├── LockedError                    73  a resource that another process has locked
└── OutputError                    74  a read or write that the operating system refused
    └── GoneError                  74  a store whose file is gone
```

`DataError` is the peer's mistake, `UsageError` and `ConfigurationError` are the user's, and the
base class is ours. A message says what was wrong, where, and what to do. Text that it quotes
cannot control a terminal, see `quoting`. `InputWarning` is a warning and ends nothing.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import ClassVar, Literal, TypeAlias

from .quoting import printable

DecodeCause: TypeAlias = Literal["frames", "topic", "size", "version", "payload"]


class StreamLSTMError(Exception):
    """Base class of all exceptions of this package; `lines` are the lines of the message."""

    exit_code: ClassVar[int] = 70

    def __init__(self, *lines: str) -> None:
        self.lines = tuple(map(printable, lines))
        super().__init__("\n".join(self.lines))

    def within(self, place: str) -> tuple[str, ...]:
        """Return the lines, with `place` before the first."""
        first, *more = self.lines or ("",)
        return place + first, *more


class UsageError(StreamLSTMError):
    """The command line or a call is wrong."""

    exit_code: ClassVar[int] = 2


class ConfigurationError(StreamLSTMError):
    """A configuration value is wrong; `key` is its name if it is a single one."""

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
    """Data in a file or from a peer is wrong."""

    exit_code: ClassVar[int] = 65


class DecodeError(DataError):
    """Bytes are not a record of the protocol; `cause` is a short name of the reason."""

    def __init__(self, *lines: str, cause: DecodeCause = "payload") -> None:
        super().__init__(*lines)
        self.cause = cause


class SnapshotError(DataError):
    """A snapshot is damaged, or of another version or configuration."""


class StoreError(DataError):
    """A store is damaged or has a gap, or a file is not a store."""


class LockedError(StreamLSTMError):
    """Another process has locked what only one can use at a time."""

    exit_code: ClassVar[int] = 73


class InputMissingError(StreamLSTMError):
    """A file does not exist."""

    exit_code: ClassVar[int] = 66


class DivergedError(StreamLSTMError):
    """A training has diverged: its loss is not finite, or too high to recover."""


class EndpointError(StreamLSTMError):
    """An endpoint cannot be bound or connected, or is silent."""

    exit_code: ClassVar[int] = 69


class OutputError(StreamLSTMError):
    """The operating system refused to read or write."""

    exit_code: ClassVar[int] = 74


class GoneError(OutputError):
    """The file of a store was removed, moved, replaced or truncated while it was written."""


class InputWarning(UserWarning):
    """An input works but is probably not what was meant; issued by `warnings`."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Return `; did you mean 'x'?` for the known name nearest to `name`, or ""."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""
