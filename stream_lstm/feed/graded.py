"""The graded streams: seeded series from nothing to learn to memory far beyond a window.

Best accuracy and log loss (nats) that any forecaster can reach on average, over the predictions
of the default settings; `beats` tells which ticks these are about.

| name | what must be done | best | from the last 100 elements alone |
|---|---|---|---|
| `s0-garch` | nothing can be | .5 / .6931 | the same |
| `s1-ar` | use the last value | .7048 / .563 | the same |
| `hidden-level` | smooth | .711 / .555 | about the same |
| `s2-regime` | weigh hundreds of signs | .6413 / .6519 | .5978 / .6691 |
| `s3-product` | and multiply two of them | .6412 / .6519 | .5975 / .6707 |
| `s4-latch` | hold a bit until asked | .525 / .6657, queries .95 | queries .5 |
| `s4l-latch` | hold it three times as long | .5122 / .6797, queries .95 | queries .5 |
| `s5-slope` | average thousands of products | .529 / .6904 | .5213 / .6915 |
| `s6-echo` | hold three bits, and keep time | .6125 / .5695, echoes .95 | echoes .5 |
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from .memory_streams import Echo, Latch, LongLatch
from .plain_streams import Autoregression, Garch
from .regimes import RegimeProduct, RegimeSign, RegimeSlope
from .synthetic import HiddenLevel, Source

SOURCES: Mapping[str, Callable[[int], Source]] = MappingProxyType(
    {
        Garch.name: Garch,
        Autoregression.name: Autoregression,
        RegimeSign.name: RegimeSign,
        RegimeProduct.name: RegimeProduct,
        Latch.name: Latch,
        LongLatch.name: LongLatch,
        RegimeSlope.name: RegimeSlope,
        Echo.name: Echo,
        HiddenLevel.name: HiddenLevel,
    }
)
"""Makes a source from a seed, by its name."""
