"""A context manager that closes itself at the end."""

from __future__ import annotations

from typing import Self


class Closing:
    """Base class of a context manager that calls `close` at the end."""

    def close(self) -> None:
        """Release all resources."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
