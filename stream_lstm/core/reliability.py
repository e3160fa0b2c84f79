"""Does it come true as often as was said? Labels by the probability given, in 15 equal bins.

The expected calibration error is the mean, over the labels, of how far the share of positive
labels of their bin lies from the mean probability there. It is never below what chance alone
makes of it: some sqrt(15 / labels) / 4 for forecasts spread over all bins.

Source: Naeini, Cooper and Hauskrecht, "Obtaining well calibrated probabilities using Bayesian
binning", 2015; Murphy and Winkler, "Reliability of subjective probability forecasts", 1977.
"""

from __future__ import annotations

import msgspec
import numpy as np
import numpy.typing as npt

from .tally import Doubles

BINS = 15


class Reliability(msgspec.Struct, frozen=True):
    """For each bin: labels, positive ones, and the sum of the probabilities given."""

    labels: list[int]
    positives: list[int]
    given: list[float]

    def error(self) -> float | None:
        """Return the expected calibration error; None without labels."""
        labels = sum(self.labels)
        if not labels:
            return None
        pairs = zip(self.positives, self.given, strict=True)
        return sum(abs(positives - given) for positives, given in pairs) / labels

    def bins(self) -> list[dict[str, float | int | None]] | None:
        """Return each bin's bounds, labels, mean probability and share of positive labels.

        The mean and the share of a bin without labels are None; without any label so is the list.
        """
        if not any(self.labels):
            return None
        rows = zip(self.labels, self.given, self.positives, strict=True)
        return [
            {
                "low": k / BINS,
                "high": (k + 1) / BINS,
                "labels": n,
                "mean_p": given / n if n else None,
                "positive": positives / n if n else None,
            }
            for k, (n, given, positives) in enumerate(rows)
        ]


def bins_of(p: Doubles) -> npt.NDArray[np.int64]:
    """Return the bin of each probability."""
    return np.minimum((p * BINS).astype(np.int64), BINS - 1)
