"""Blocks of a file read in a thread of their own, one ahead of those that are in use."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from queue import Queue
from typing import TypeVar

T = TypeVar("T")

AHEAD = 2
"""Blocks that wait: while one is in use, the next is read. A block is a few megabytes."""


@contextmanager
def read_ahead(blocks: Iterable[T]) -> Iterator[Iterator[T]]:
    """Give the blocks in their order; an error comes where the block would.

    The thread is at its end when the `with` is left, whether or not all blocks were taken.
    """
    queue: Queue[tuple[T] | BaseException | None] = Queue(AHEAD)
    over = threading.Event()

    def read() -> None:
        end: BaseException | None = None
        try:
            for block in blocks:
                queue.put((block,))
                if over.is_set():
                    return
        except BaseException as error:
            end = error
        queue.put(end)

    def taken() -> Iterator[T]:
        while (item := queue.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item[0]

    thread = threading.Thread(target=read, name="read-ahead", daemon=True)
    thread.start()
    try:
        yield taken()
    finally:
        over.set()
        while thread.is_alive():
            while not queue.empty():
                queue.get_nowait()
            thread.join(0.01)
