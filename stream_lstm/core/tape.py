"""The last elements of a stream, kept so that an update can look back over them.

Entry m holds what element m left behind: its scaled input, the network state after it, and
whether its target was positive. Entries stand in one array that is filled to its end and then
moved back to its beginning, so that any stretch of them is one slice and appending is one copy.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

ROOM = 4
"""Blocks that fit behind the entries that must stay: a move every few blocks costs nothing."""


class Tape(msgspec.Struct, omit_defaults=True):
    """Entries `first` to `last`, of which at least the newest `keep` stay.

    `entries` is float32 (capacity, F + N), N the length of a state; `positive` is float32
    (capacity,) of 0 and 1. `lent` says that a frozen copy reads the memory of both, so that
    entries may be added but not moved there.
    """

    keep: int
    features: int
    entries: np.ndarray
    positive: np.ndarray
    first: int
    used: int
    lent: bool = False

    @classmethod
    def start(cls, n: int, *, keep: int, block: int, features: int, state: int) -> Tape:
        """Return a tape of `keep` entries up to element `n`, with zero inputs and states.

        They stand for what came before a stream's first element: nothing, in a zero state.
        """
        capacity = keep + ROOM * block
        entries = np.zeros((capacity, features + state), np.float32)
        positive = np.zeros(capacity, np.float32)
        return cls(keep, features, entries, positive, first=n + 1 - keep, used=keep)

    def frozen(self) -> Tape:
        """Return the newest `keep` entries, which stay as they are while this tape grows."""
        self.lent = True
        held = slice(max(self.used - self.keep, 0), self.used)
        entries, positive = self.entries[held], self.positive[held]
        return Tape(
            self.keep, self.features, entries, positive, self.first + held.start, len(entries)
        )

    def thawed(self, like: Tape) -> Tape:
        """Return these entries in memory as large as that of `like`.

        Raises ValueError where they are not entries of such a tape.
        """
        shape, used = self.entries.shape, self.used
        fits = (self.keep, self.features) == (like.keep, like.features)
        fits &= shape == (used, like.entries.shape[1]) and self.positive.shape == (used,)
        if not fits or used > self.keep or self.entries.dtype != like.entries.dtype:
            raise ValueError(f"a tape of {used} entries {shape} is not one of this session")
        entries, positive = np.zeros_like(like.entries), np.zeros_like(like.positive)
        entries[:used], positive[:used] = self.entries, self.positive
        return Tape(self.keep, self.features, entries, positive, self.first, used)

    def append(self, entries: Floats, positive: npt.NDArray[np.bool_]) -> None:
        """Append entries (m, F + N) and whether their targets were positive (m,)."""
        if len(entries) > len(self.entries) - self.keep:  # more than a block: `keep` stay in all
            drop = max(len(entries) - self.keep, 0)
            entries, positive = entries[drop:], positive[drop:]
            self._leave(self.keep - len(entries))
            self.first += drop
        count = len(entries)
        if self.used + count > len(self.entries):
            self._move()
        end = self.used + count
        self.entries[self.used : end] = entries
        self.positive[self.used : end] = positive
        self.used = end

    def _move(self) -> None:
        self._leave(min(self.used, self.keep))

    def _leave(self, left: int) -> None:
        """Let go of all but the newest `left` entries."""
        drop = self.used - left
        entries = self.entries[drop : self.used].copy()
        positive = self.positive[drop : self.used].copy()
        if self.lent:
            self.entries, self.positive = np.zeros_like(self.entries), np.zeros_like(self.positive)
            self.lent = False
        self.entries[:left], self.positive[:left] = entries, positive
        self.first += drop
        self.used = left

    def inputs(self, n: int, length: int) -> Floats:
        """Return a copy of the scaled inputs (length, F) of the elements up to `n`."""
        end = n + 1 - self.first
        out: Floats = self.entries[end - length : end, : self.features].copy()
        return out

    def states(self, ns: Sequence[int]) -> Floats:
        """Return a copy of the states (D, N) after the elements `ns`."""
        rows = [n - self.first for n in ns]
        out: Floats = self.entries[rows, self.features :]
        return out

    def targets(self, n: int, length: int) -> Floats:
        """Return whether the targets of the elements up to `n` were positive, (length,)."""
        end = n + 1 - self.first
        out: Floats = self.positive[end - length : end].copy()
        return out

    def newest(self, count: int) -> Floats:
        """Return the newest entries (count, F + N + 1) with their targets' signs as last column.

        Those that are not there any more are zero.
        """
        held = min(count, self.used)
        out = np.zeros((count, self.entries.shape[1] + 1), np.float32)
        out[count - held :, :-1] = self.entries[self.used - held : self.used]
        out[count - held :, -1] = self.positive[self.used - held : self.used]
        return out

    def holds(self, n: int) -> bool:
        """Return whether element `n` is on the tape."""
        return self.first <= n < self.first + self.used
