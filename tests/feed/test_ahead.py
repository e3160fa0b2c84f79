"""Blocks that are read ahead come in their order, and so does what goes wrong."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from stream_lstm.feed.files import AHEAD, read_ahead


def numbers(count: int, taken: list[int], error: Exception | None = None) -> Iterator[int]:
    for k in range(count):
        taken.append(k)
        yield k
    if error is not None:
        raise error


def test_blocks_come_in_order() -> None:
    with read_ahead(numbers(20, [])) as blocks:
        assert list(blocks) == list(range(20))


def test_an_error_comes_behind_the_blocks_before_it() -> None:
    with read_ahead(numbers(5, [], ValueError("row 6"))) as blocks:
        assert [next(blocks) for _ in range(5)] == [0, 1, 2, 3, 4]
        with pytest.raises(ValueError, match="row 6"):
            next(blocks)


def test_leaving_early_ends_the_thread_and_few_blocks_were_read() -> None:
    taken: list[int] = []
    with read_ahead(numbers(1000, taken)) as blocks:
        assert next(blocks) == 0
    assert len(taken) <= AHEAD + 3
    assert not any(thread.name == "read-ahead" for thread in threading.enumerate())
