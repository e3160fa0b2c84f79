"""A warning where the times of a file go back, after it was read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt

from ..feed.files import TimeOrder
from .input_file import InputFile
from .process import warn

if TYPE_CHECKING:
    from ..feed.reader import Keys

Look: TypeAlias = """Callable[
    [npt.NDArray[np.int64], npt.NDArray[np.float64], npt.NDArray[np.int64], Keys | None], None
]"""


@contextmanager
def row_order(file: InputFile, *, warns: bool = True) -> Iterator[Look]:
    """Give a function that looks at rows: times (m,), values (m, C), numbers (m,), streams.

    What it saw is told at the end.
    """
    order = TimeOrder()
    yield order.look if warns and file.time is not None else lambda *_: None
    if line := order.warning(f"{file.path}:{order.first}"):
        warn(line)
