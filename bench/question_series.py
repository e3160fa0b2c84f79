"""The series of `python -m bench question`: real returns, else a twin of known best.

The real one is the log returns of EUR/USD mid prices, in `eurusd_quotes.csv.gz` of the folder that
STREAM_LSTM_DATA names, or of `../shared/data`. The twin is the stream `hidden-level`, scaled to
the same standard deviation, on which the recipe as asked fails in the same way.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

SD = 7e-6
"""Standard deviation of the twin: about that of a quote's log return."""

NAME, FEATURE = "eurusd_quotes.csv.gz", "log_return(mid(bid, ask))"

Floats = npt.NDArray[Any]


class Asked(NamedTuple):
    """A series: `elements` float32 (N,); `best` P(next > 0) float64 (N,) where it is known."""

    text: str
    elements: Floats
    best: Floats | None


def folder() -> Path:
    """Return where real data is looked for."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    return Path(os.environ.get("STREAM_LSTM_DATA", beside))


def asked(count: int, seed: int, *, twin: bool) -> Asked:
    """Return the first `count` elements, of the twin if it is asked for or nothing else is there.

    seed: of the twin.
    """
    path = folder() / NAME
    if twin:
        return _twin(count, seed, "the real one was not asked for")
    if not path.is_file():
        return _twin(count, seed, f"{path} is not there (set STREAM_LSTM_DATA)")
    elements = _returns(path, count)
    return Asked(f"{len(elements):,} log returns of mid prices, {NAME}", elements, None)


def _returns(path: Path, count: int) -> Floats:
    from stream_lstm.core.elements import ElementMaker, Memory
    from stream_lstm.feed.files import open_file

    columns = ("bid", "ask")
    maker, memory = ElementMaker((FEATURE,), columns), Memory.empty(len(columns))
    limit = count + 1  # the first tick has no return
    with open_file(path, columns=columns, time="time_ns", limit=limit, on_refusal=print) as source:
        runs = [
            elements[:, 0].copy()
            for block in source.blocks()
            for _, elements in maker.make(memory, block.t_ns, block.values, _refuse)
        ]
    return np.concatenate(runs)


def _refuse(index: int, reason: str) -> None:
    raise ValueError(f"tick {index} of {NAME}: {reason}")


def _twin(count: int, seed: int, why: str) -> Asked:
    from stream_lstm.feed.synthetic import HiddenLevel

    source = HiddenLevel(seed)
    values = source.block(count)
    elements = (values[:, 0] * (SD / values.std())).astype(np.float32)
    text = f"{count:,} elements of the synthetic twin, {source.name} of s.d. {SD:g}: {why}"
    return Asked(text, elements, source.best(values))
