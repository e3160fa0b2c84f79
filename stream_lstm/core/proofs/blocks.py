"""Whether features depend on how ticks are cut into blocks, which live and replay do differently.

The ticks are stepped one by one, and also in blocks cut at random. In between, other ticks are
stepped and taken back, and the state is moved to a new machine. Each function with memory and each
feature must have the same bits in both at every tick.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ...errors import InputWarning
from ...typing import Float64s, Int64s
from ..features import read_features
from ..functions import expand, resolve, series_in
from ..machine import Board, Machine, Program
from ..trees import Call, Expression

SIZES = (2, 4, 8, 32, 256)
"""Each block is shorter than one of these, which is drawn for it."""


def with_memory(tree: Expression) -> Iterator[Call]:
    """Yield the calls of functions with memory in a tree, inner ones first."""
    if isinstance(tree, Call):
        for part in series_in(tree):
            yield from with_memory(part)
        function = resolve(tree)[0]
        if function.memory is not None or function.lag:
            yield tree


class BlockCheck:
    """The check of the features of a configuration, over the ticks of one stream.

    `found` is what `prove features --json` prints of it: the functions and features that are
    compared, counts, and the first difference and the first failure of a plug-in, or None.
    """

    def __init__(self, features: Sequence[str], columns: Sequence[str], seed: int = 0) -> None:
        trees = read_features(features, columns)
        expanded = [expand(tree) for tree in trees]
        calls = {str(call): call for tree in expanded for call in with_memory(tree)}
        self._names = [*calls, *map(str, trees)]
        self._program = Program([*calls.values(), *expanded], columns, Board())
        self._steps, self._blocks = Machine(self._program), Machine(self._program)
        self._random = np.random.default_rng(seed)
        self.found: dict[str, Any] = {"functions": [*calls], "features": [*map(str, trees)]}
        self.found |= dict.fromkeys(("ticks", "blocks", "undone", "restored"), 0)
        self.found |= {"failure": None, "difference": None}

    def push(self, t_ns: Int64s, values: Float64s, rows: Int64s) -> bool:
        """Check ticks t_ns (m,), values (m, C) of rows (m,); return whether all is well so far."""
        board = self._program.board
        for number in board.numbers.values():  # other streams stay as they are within a block
            board.set(number, float(self._random.normal()), int(t_ns[0]))
        stepped, start = [], 0
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore", InputWarning)
            for k, (t, row) in enumerate(zip(t_ns.tolist(), values.tolist(), strict=True)):
                stepped.append(self._steps.step(t, row))
                self._note(self._steps.problem(), int(rows[k]))
            cut = np.empty((len(values), len(self._names)))
            while start < len(values):
                stop = start + int(self._random.integers(1, self._random.choice(SIZES)))
                cut[start:stop] = self._piece(t_ns[start:stop], values[start:stop])
                self._note(self._blocks.problem("block_problem"), int(rows[start]))
                start = stop
        self._compare(np.array(stepped, np.float64), cut, rows)
        self.found["ticks"] += len(values)
        return self.found["failure"] is None and self.found["difference"] is None

    def _note(self, problem: str, row: int) -> None:
        if problem and self.found["failure"] is None:
            self.found["failure"] = {"row": row, "what": problem}

    def _piece(self, t_ns: Int64s, values: Float64s) -> Float64s:
        """Return what the machine of blocks makes of some ticks."""
        self.found["blocks"] += 1
        if self._random.random() < 0.25:
            other = values[-1] * self._random.normal(size=values.shape[1])
            self._blocks.step(int(t_ns[0]), other.tolist())
            self._blocks.undo()
            self.found["undone"] += 1
        if self._random.random() < 0.1:
            state, self._blocks = self._blocks.state(), Machine(self._program)
            self._blocks.restore(state)
            self.found["restored"] += 1
        if len(t_ns) == 1:
            return np.array([self._blocks.step(int(t_ns[0]), values[0].tolist())], np.float64)
        return np.stack(self._blocks.columns(t_ns, values), axis=1)

    def _compare(self, stepped: Float64s, cut: Float64s, rows: Int64s) -> None:
        """Note the first row in which two arrays (m, functions) differ, and what differs."""
        same = (stepped.view(np.int64) == cut.view(np.int64)) | (np.isnan(stepped) & np.isnan(cut))
        if not same.all():
            row = int(same.all(axis=1).argmin())
            k = int(same[row].argmin())
            values = {"stepped": float(stepped[row, k]), "in_blocks": float(cut[row, k])}
            where = {"function": self._names[k], "row": int(rows[row])}
            self.found["difference"] = where | values
