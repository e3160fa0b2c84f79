"""What is closed at the end of a `with`, whatever ends it."""

from __future__ import annotations

from typing import Self


class Closing:
    """A context manager that gives itself, and closes at the end."""

    def close(self) -> None:
        """Let go of what is held."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
