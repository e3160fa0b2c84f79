"""Features of which the network sees next to nothing, since the scaler cuts or zeroes them.

The scaler divides by a standard deviation and takes no mean off, so a level far from zero, such
as 1000 +- 1, is hundreds of standard deviations away and is always cut to the same number. A
constant is scaled to 0. Both follow from what each stream's scaler carries: no tick is looked at.
"""

from __future__ import annotations

import numpy as np

from ..config import Config
from .table import N, StreamTable

LOOK = 1000
"""Elements between two looks, and before the first: as many as the scaler remembers by default."""

BEYOND = 2.0
"""Standard deviations between a mean and the cut: 98 % of normal values are cut then."""


class Clipped:
    """Names each feature that is cut or constant in some stream, once."""

    def __init__(self, config: Config) -> None:
        self._names, self._scaling = config.stream.features, config.scaling
        self._told = np.zeros(len(self._names), np.bool_)
        if self._scaling.scaling == "none":
            self._told[:] = True

    def look(self, table: StreamTable) -> list[str]:
        """Return a line for each feature found since the last look; O(streams * features)."""
        if self._told.all():
            return []
        features, rows = len(self._names), len(table)
        state = table.carry[:rows, : 1 + 2 * features].astype(np.float64)
        known = (table.ints[:rows, N] >= LOOK) & (state[:, 0] >= min(LOOK, self._scaling.memory))
        mean, sd = state[:, 1 : 1 + features], state[:, 1 + features :]
        found = known[:, None] & (sd == 0)
        if self._scaling.scaling == "sd":
            found |= known[:, None] & (np.abs(mean) > (self._scaling.clip + BEYOND) * sd)
        lines = []
        for k in np.flatnonzero(found.any(0) & ~self._told):
            self._told[k] = True
            row = int(found[:, k].argmax())
            lines.append(self._line(int(k), table.names[row], mean[row, k], sd[row, k]))
        return lines

    def _line(self, k: int, stream: str, mean: float, sd: float) -> str:
        name, clip = self._names[k], self._scaling.clip
        if not sd:
            return (
                f"feature {name} of the stream {stream} has been constant, {mean:g}: the network "
                "sees 0 in its place; leave it out, or check where its values come from"
            )
        return (
            f"feature {name} of the stream {stream} is about {mean:g} with a standard deviation "
            f"of {sd:.3g} (mostly {mean - 2 * sd:.6g} to {mean + 2 * sd:.6g}): nearly all of its "
            f"values are cut to the same number, at {clip:g} standard deviations from zero; use "
            f"diff({name}) or log_return({name}), subtract a typical level first, or set "
            'scaling = "zscore"'
        )
