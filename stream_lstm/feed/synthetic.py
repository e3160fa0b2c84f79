"""Seeded series whose best possible forecast is known exactly.

On real data nobody knows how much there was to learn. Here a written model generates the series,
and the filter that knows the model gives the exact probability. No forecaster does better on
average, and none may use more than it does: the values up to element n, for the sign of n + 1.

**Time.** Ticks are counted from 0: tick t is element t + 1 and row t of the values. A beat is a
tick 10k. The prediction after element 10k is about tick 10k, so with the defaults (W = 100,
S = 10, h = 1) exactly the beats from tick 100 on are predicted. The other nine ticks of a block
are fillers, small unless a stream says otherwise. Every tick uses one normal and two uniform
numbers, whether it needs them or not, each from its own generator, so the values do not depend on
how they are cut into blocks.

**Regimes (S2, S3, S5).** A hidden m = +-1 rarely flips: in S2 and S3 at beats, shown by one noisy
sign a block; in S5 at any tick, shown by a faint slope. The best forecast weighs hundreds to
thousands of observations, far beyond a window of 100. It is the filter of a hidden Markov chain
with two states: multiply the odds of m = +1 by the likelihood ratio of each observation, then let
the regime flip. At ticks that are not beats S2 and S3 are symmetric about zero, so the answer
there is 1/2.

**Bits (S4, S6).** A cue, larger than the fillers, shows a bit b = +-1; more than a hundred ticks
later the sign at one beat is b with probability 0.95. All other signs at beats are coin flips.
Each bit is new, so weights that follow a slow drift are useless; only a carried state knows the
answer. In S4 a query asks for one bit; in S6 the time alone does, with three bits under way. The
best forecast uses the last cue (S4) or the cue of twelve blocks ago (S6). Fillers reach the height
of a cue once in 10^23 ticks.

Best accuracy and log loss (nats) that any forecaster can reach on average, over the predictions
of the default settings:

| name | task | best | from the last 100 elements only |
|---|---|---|---|
| `s0-garch` | none is possible | .5 / .6931 | the same |
| `s1-ar` | use the last value | .7048 / .563 | the same |
| `hidden-level` | smooth | .711 / .555 | about the same |
| `s2-regime` | weigh hundreds of signs | .6413 / .6519 | .5978 / .6691 |
| `s3-product` | and multiply two of them | .6412 / .6519 | .5975 / .6707 |
| `s4-latch` | remember a bit until the query | .525 / .6657, queries .95 | queries .5 |
| `s4l-latch` | remember it three times as long | .5122 / .6797, queries .95 | queries .5 |
| `s5-slope` | average thousands of products | .529 / .6904 | .5213 / .6915 |
| `s6-echo` | remember three bits and the time | .6125 / .5695, echoes .95 | echoes .5 |

Sources: Kalman, "A New Approach to Linear Filtering and Prediction Problems", 1960; Anderson and
Moore, "Optimal Filtering", 1979; Bollerslev, "Generalized autoregressive conditional
heteroskedasticity", 1986; Rabiner, "A tutorial on hidden Markov models", 1989, the forward
recursion; Hochreiter and Schmidhuber, "Long short-term memory", 1997.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import count
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from ..typing import Bools, Float64s, Int64s
from .reader import RawRows, Reader, check_names


class SyntheticSource:
    """A seeded series with a known best forecast.

    `name` is a valid stream name. Two sources of one kind, seed and setting give the same values,
    however they are cut into blocks. The sign of the first column is predicted.
    """

    name: str
    columns: tuple[str, ...] = ("x",)

    def block(self, n: int) -> Float64s:
        """Return the next `n` elements, float64 (n, C)."""
        raise NotImplementedError

    def best(self, values: Float64s) -> Float64s:
        """Return P(first column of element k + 2 > 0 | elements 1 .. k + 1), float64 (n,).

        values: float64 (n, C), a series of this kind from its first element on. Entry k uses
        rows 0 .. k and nothing after them.
        """
        raise NotImplementedError


class HiddenLevel(SyntheticSource):
    """A hidden level and a noisy observation of it: x_t = m_t + e_t.

    m_t = phi m_{t-1} + sqrt(1 - phi^2) w_t has unit variance from the start, w_t is N(0, 1) and
    e_t is N(0, noise^2), all independent. One observation says little about the level; many say
    more, the older ones less. So a carried state beats repeating the last sign. With phi = 0.97
    and noise = 1, repeating is right for 66.1 % in the long run and the best forecast for 71.1 %.
    """

    name = "hidden-level"

    def __init__(self, seed: int, *, phi: float = 0.97, noise: float = 1.0) -> None:
        if not -1 < phi < 1 or not noise > 0:
            raise ValueError(f"phi={phi} must lie within -1 and 1, and noise={noise} above 0")
        self.phi = phi
        self.noise = noise
        self._drift = math.sqrt(1.0 - phi * phi)
        self._random = np.random.default_rng(seed)
        self._level = float(self._random.standard_normal())

    def block(self, n: int) -> Float64s:
        """Return the next `n` elements, float64 (n, 1)."""
        shocks = self._random.standard_normal((n, 2))
        levels, level = np.empty(n), self._level
        for k, shock in enumerate((self._drift * shocks[:, 0]).tolist()):
            # the first level has the stationary distribution, and so do all later ones
            levels[k] = level = self.phi * level + shock
        self._level = level
        return (levels + self.noise * shocks[:, 1])[:, None]

    def best(self, values: Float64s) -> Float64s:
        """Return the Kalman filter's P(x_{k+1} > 0 | x_1 .. x_k), float64 (n,)."""
        observed, drift = self.noise**2, self._drift**2
        scores, mean, variance = np.empty(len(values)), 0.0, 1.0
        for k, x in enumerate(values[:, 0].tolist()):
            gain = variance / (variance + observed)
            mean = self.phi * (mean + gain * (x - mean))
            variance = self.phi**2 * (1.0 - gain) * variance + drift
            scores[k] = mean / math.sqrt(variance + observed)
        return normal_cdf(scores)


def normal_cdf(z: Float64s) -> Float64s:
    """Return P(N(0, 1) <= z), elementwise."""
    return np.array([0.5 * math.erfc(-v / math.sqrt(2.0)) for v in z.tolist()])


PERIOD = 10
"""Ticks from beat to beat: the default stride."""

FILLER = 0.1
"""Standard deviation of the ticks that say nothing."""


class Draw(NamedTuple):
    """The chance of consecutive ticks."""

    tick: Int64s  # (n,)
    normal: Float64s  # (n,), N(0, 1)
    uniform: Float64s  # (n, 2), in [0, 1)

    @property
    def on_beat(self) -> Bools:
        """Which ticks are beats, (n,)."""
        return np.equal(self.tick % PERIOD, 0)

    def with_signs(self, signs: Float64s) -> Float64s:
        """Return fillers, and at the beats |N(0, 1)| with these signs; float64 (n,)."""
        return np.where(self.on_beat, signs * np.abs(self.normal), FILLER * self.normal)


class Beats:
    """Draws the chance of tick after tick, from a seed."""

    def __init__(self, seed: int) -> None:
        normal, uniform = np.random.SeedSequence(seed).spawn(2)
        self._normal = np.random.default_rng(normal)
        self._uniform = np.random.default_rng(uniform)
        self._tick = 0

    def draw(self, n: int) -> Draw:
        """Return the chance of the next `n` ticks."""
        ticks = np.arange(self._tick, self._tick + n)
        self._tick += n
        return Draw(ticks, self._normal.standard_normal(n), self._uniform.random((n, 2)))


def signs_where(positive: Bools) -> Float64s:
    """Return +1 where `positive`, else -1."""
    return np.where(positive, 1.0, -1.0)


class Garch(SyntheticSource):
    """S0: x_t = sqrt(h_t) e_t, h_{t+1} = omega + alpha x_t^2 + beta h_t, e_t Student t.

    The shocks have six degrees of freedom and unit variance; h starts at its mean. It moves like
    the returns of a price, but its sign is a coin flip: a forecaster with skill on it has a leak.
    """

    name = "s0-garch"

    omega, alpha, beta = 0.05, 0.08, 0.90
    freedom = 6

    def __init__(self, seed: int) -> None:
        self._random = np.random.default_rng(seed)
        self._variance = self.omega / (1.0 - self.alpha - self.beta)

    def block(self, n: int) -> Float64s:
        """Return the next `n` elements, float64 (n, 1)."""
        scale = math.sqrt((self.freedom - 2) / self.freedom)  # to unit variance
        shocks = scale * self._random.standard_t(self.freedom, n)
        values, variance = np.empty(n), self._variance
        for k, shock in enumerate(shocks.tolist()):
            square = variance * shock * shock
            values[k] = math.sqrt(variance) * shock
            variance = self.omega + self.alpha * square + self.beta * variance
        self._variance = variance
        return values[:, None]

    def best(self, values: Float64s) -> Float64s:
        """Return 1/2 everywhere, float64 (n,): the shocks are symmetric and independent."""
        return np.full(len(values), 0.5)


class Autoregression(SyntheticSource):
    """S1: x_{t+1} = 0.6 x_t + N(0, 1), stationary from the start; the easiest to learn."""

    name = "s1-ar"

    phi = 0.6

    def __init__(self, seed: int) -> None:
        self._random = np.random.default_rng(seed)
        # the first step then gives the stationary distribution, as every later one
        self._last = float(self._random.standard_normal()) / math.sqrt(1.0 - self.phi**2)

    def block(self, n: int) -> Float64s:
        """Return the next `n` elements, float64 (n, 1)."""
        values, last = np.empty(n), self._last
        for k, shock in enumerate(self._random.standard_normal(n).tolist()):
            values[k] = last = self.phi * last + shock
        self._last = last
        return values[:, None]

    def best(self, values: Float64s) -> Float64s:
        """Return P(N(0.6 x_k, 1) > 0), float64 (n,)."""
        return normal_cdf(self.phi * values[:, 0])


SIGN_RIGHT = 0.65
"""How often the sign at a beat equals the regime."""


class Regime:
    """The hidden m, a coin flip at tick 0; it flips with probability `flip` where it may."""

    def __init__(self, flip: float) -> None:
        self._flip = flip
        self._m = 1.0

    def walk(self, draw: Draw, may_flip: Bools) -> Float64s:
        """Return m at each tick, float64 (n,) of -1 and +1; the first uniforms decide."""
        chance = np.where(may_flip, self._flip, 0.0)
        chance[draw.tick == 0] = 0.5
        turns = np.cumprod(signs_where(draw.uniform[:, 0] >= chance), dtype=np.float64)
        m: Float64s = self._m * turns
        self._m = float(m[-1]) if len(m) else self._m
        return m


class Belief:
    """`up` is P(m = +1) at the next observation, given all observations so far."""

    def __init__(self, flip: float) -> None:
        self.up = 0.5
        self._flip = flip

    def see(self, ratio: float) -> None:
        """Add an observation by its likelihood under m = +1 divided by that under m = -1."""
        up = self.up * ratio / (self.up * ratio + 1.0 - self.up)
        self.up = up + self._flip * (1.0 - 2.0 * up)

    def see_sign(self, positive: bool) -> None:
        """Add a sign that equals m with probability SIGN_RIGHT."""
        odds = SIGN_RIGHT / (1.0 - SIGN_RIGHT)
        self.see(odds if positive else 1.0 / odds)

    def of_sign(self) -> float:
        """Return the probability that the next such sign is positive."""
        return self.up * SIGN_RIGHT + (1.0 - self.up) * (1.0 - SIGN_RIGHT)


class RegimeSign(SyntheticSource):
    """S2: the sign at a beat is m with probability 0.65; m flips at one beat in a thousand."""

    name = "s2-regime"

    flip = 1 / 1000

    def __init__(self, seed: int) -> None:
        self._beats = Beats(seed)
        self._regime = Regime(self.flip)

    def block(self, n: int) -> Float64s:
        """Return the next `n` elements, float64 (n, 1)."""
        draw = self._beats.draw(n)
        m = self._regime.walk(draw, draw.on_beat)
        return draw.with_signs(m * signs_where(draw.uniform[:, 1] < SIGN_RIGHT))[:, None]

    def best(self, values: Float64s) -> Float64s:
        """Return the filter's P(x_{k+1} > 0 | x_0 .. x_k), float64 (n,)."""
        p, belief = np.full(len(values), 0.5), Belief(self.flip)
        for beat, x in zip(_beats(values), values[::PERIOD, 0].tolist(), strict=True):
            belief.see_sign(x > 0)
            p[beat + PERIOD - 1 : beat + PERIOD] = belief.of_sign()
        return p


class RegimeProduct(SyntheticSource):
    """S3: as S2, but the sign at a beat is m times the sign of the value before, which is N(0, 1).

    Each sign alone is a coin flip; they must be multiplied. Before tick 0 the sign is positive.
    """

    name = "s3-product"

    flip = 1 / 1000

    def __init__(self, seed: int) -> None:
        self._beats = Beats(seed)
        self._regime = Regime(self.flip)
        self._last = 1.0

    def block(self, n: int) -> Float64s:
        """Return the next `n` elements, float64 (n, 1)."""
        draw = self._beats.draw(n)
        m = self._regime.walk(draw, draw.on_beat)
        before = np.concatenate([[self._last], draw.normal])  # its sign is the value's at tick 9
        self._last = float(before[-1])
        agree = signs_where(draw.uniform[:, 1] < SIGN_RIGHT)
        values = draw.with_signs(m * agree * signs_where(before[:-1] > 0))
        last = draw.tick % PERIOD == PERIOD - 1
        return np.where(last, draw.normal, values)[:, None]

    def best(self, values: Float64s) -> Float64s:
        """Return the filter's P(x_{k+1} > 0 | x_0 .. x_k), float64 (n,)."""
        p, belief = np.full(len(values), 0.5), Belief(self.flip)
        positive, before = (values[:, 0] > 0).tolist(), True
        for beat in _beats(values):
            belief.see_sign(positive[beat] == before)
            last = beat + PERIOD - 1
            if last < len(p):
                before = positive[last]
                p[last] = belief.of_sign() if before else 1.0 - belief.of_sign()
        return p


class RegimeSlope(SyntheticSource):
    """S5: x_{t+1} = 0.1 m x_t + N(0, 1); m flips at one tick in five thousand."""

    name = "s5-slope"

    flip = 1 / 5000
    slope = 0.1

    def __init__(self, seed: int) -> None:
        self._beats = Beats(seed)
        self._regime = Regime(self.flip)
        self._last = 0.0

    def block(self, n: int) -> Float64s:
        """Return the next `n` elements, float64 (n, 1)."""
        draw = self._beats.draw(n)
        slopes = self.slope * self._regime.walk(draw, np.ones(n, np.bool_))
        values, last = np.empty(n), self._last
        for k, (slope, shock) in enumerate(
            zip(slopes.tolist(), draw.normal.tolist(), strict=True)
        ):
            values[k] = last = slope * last + shock
        self._last = last
        return values[:, None]

    def best(self, values: Float64s) -> Float64s:
        """Return the filter's P(x_{k+1} > 0 | x_0 .. x_k), float64 (n,)."""
        belief, before = Belief(self.flip), 0.0
        up = np.empty(len(values))
        for k, x in enumerate(values[:, 0].tolist()):
            # of N(slope before, 1) to N(-slope before, 1) at x
            belief.see(math.exp(2.0 * self.slope * before * x))
            up[k], before = belief.up, x
        rising = normal_cdf(self.slope * values[:, 0])
        return up * rising + (1.0 - up) * (1.0 - rising)


def _beats(values: Float64s) -> range:
    return range(0, len(values), PERIOD)


CUE_RIGHT = 0.95
"""How often an answer is the bit of its cue."""

CUE_PHASE = 5
"""Position of a cue in its block."""

HEIGHT = 1.0
"""Larger values off the beat are not fillers."""


class Event(NamedTuple):
    """A tick with a given value; at a beat only the sign is given."""

    tick: int
    value: float


class Script:
    """Puts events, in the order of their ticks, into fillers and random signs at the beats."""

    def __init__(self, seed: int, events: Iterator[Event]) -> None:
        self._beats = Beats(seed)
        self._events = events
        self._next = next(events)

    def play(self, n: int) -> Float64s:
        """Return the next `n` values, float64 (n, 1)."""
        draw = self._beats.draw(n)
        values = draw.with_signs(signs_where(draw.uniform[:, 0] < 0.5))
        start = int(draw.tick[0]) if n else 0
        while n and self._next.tick < start + n:
            tick, value = self._next
            scale = abs(values[tick - start]) if tick % PERIOD == 0 else 1.0
            values[tick - start] = value * scale
            self._next = next(self._events)
        return values[:, None]


class Latch(SyntheticSource):
    """S4: a cue 4b at tick 10a + 5 and a query +2 at tick 10(a + G) - 1.

    The sign at tick 10(a + G) is then b with probability 0.95. G is at least `least`, and each
    block from there on has the query with probability 1/6. The next cue comes a geometric number
    of blocks, two on average, after the answer.
    """

    name = "s4-latch"

    cue, query = 4.0, 2.0
    least = 11
    query_chance, cue_chance = 1 / 6, 1 / 2

    def __init__(self, seed: int) -> None:
        # its own generator: how many numbers are drawn depends on the events
        random = np.random.default_rng(np.random.SeedSequence(seed).spawn(3)[2])
        self._script = Script(seed, self._events(random))

    def _events(self, random: np.random.Generator) -> Iterator[Event]:
        at = int(random.geometric(self.cue_chance))
        while True:
            bit = 1.0 if random.random() < 0.5 else -1.0
            yield Event(PERIOD * at + CUE_PHASE, self.cue * bit)
            at += self.least + int(random.geometric(self.query_chance)) - 1
            yield Event(PERIOD * at - 1, self.query)
            yield Event(PERIOD * at, bit if random.random() < CUE_RIGHT else -bit)
            at += int(random.geometric(self.cue_chance))

    def block(self, n: int) -> Float64s:
        """Return the next `n` elements, float64 (n, 1)."""
        return self._script.play(n)

    def best(self, values: Float64s) -> Float64s:
        """Return P(x_{k+1} > 0 | x_0 .. x_k), float64 (n,).

        Before a tick that may be a query, a positive value is likelier.
        """
        x, p = values[:, 0].tolist(), np.full(len(values), 0.5)
        cue, at = 0.0, 0
        for k, value in enumerate(x):
            block, phase = divmod(k, PERIOD)
            if phase == CUE_PHASE and abs(value) > HEIGHT:
                cue, at = value, block
            elif phase == PERIOD - 2 and cue and block + 1 - at >= self.least:
                p[k] = 0.5 + 0.5 * self.query_chance
            elif phase == PERIOD - 1 and cue and value > HEIGHT:
                p[k] = CUE_RIGHT if cue > 0 else 1.0 - CUE_RIGHT
                cue = 0.0
        return p


class LongLatch(Latch):
    """S4L: as S4, but without a query for 294 ticks."""

    name = "s4l-latch"
    least = 30


class Echo(SyntheticSource):
    """S6: in every fourth block k a cue 2b at tick 10k + 5, echoed by the sign at 10(k + 12).

    The sign is b with probability 0.95. The first cue is at tick 5.
    """

    name = "s6-echo"

    cue = 2.0
    every, later = 4, 12

    def __init__(self, seed: int) -> None:
        random = np.random.default_rng(np.random.SeedSequence(seed).spawn(3)[2])
        self._script = Script(seed, self._events(random))

    def _events(self, random: np.random.Generator) -> Iterator[Event]:
        under_way: deque[float] = deque()
        for at in count(0, self.every):
            if at >= self.later:
                bit = under_way.popleft()
                yield Event(PERIOD * at, bit if random.random() < CUE_RIGHT else -bit)
            under_way.append(1.0 if random.random() < 0.5 else -1.0)
            yield Event(PERIOD * at + CUE_PHASE, self.cue * under_way[-1])

    def block(self, n: int) -> Float64s:
        """Return the next `n` elements, float64 (n, 1)."""
        return self._script.play(n)

    def best(self, values: Float64s) -> Float64s:
        """Return P(x_{k+1} > 0 | x_0 .. x_k), float64 (n,)."""
        p = np.full(len(values), 0.5)
        echoes = np.arange(PERIOD * self.later, len(values) + 1, PERIOD * self.every)
        cues = values[echoes - PERIOD * self.later + CUE_PHASE, 0]
        p[echoes - 1] = np.where(cues > 0, CUE_RIGHT, 1.0 - CUE_RIGHT)
        return p


SOURCES: Mapping[str, Callable[[int], SyntheticSource]] = MappingProxyType(
    {
        kind.name: kind
        for kind in (
            Garch,
            Autoregression,
            RegimeSign,
            RegimeProduct,
            Latch,
            LongLatch,
            RegimeSlope,
            Echo,
            HiddenLevel,
        )
    }
)
"""Constructors from a seed, by name."""


class SyntheticReader(Reader):
    """The first `count` elements of a fresh `source`, as rows without times.

    columns: the wanted ones in order, or None for all. Raises ConfigurationError for a missing
    one.
    """

    row_word = "row"

    def __init__(
        self,
        source: SyntheticSource,
        *,
        columns: Sequence[str] | None,
        count: int,
        chunk_rows: int,
    ) -> None:
        self.columns = source.columns
        check_names(Path(source.name), self.columns, columns or (), ())
        self.value_columns = self.columns if columns is None else tuple(columns)
        self.bytes_total = self._bytes(count)
        self._source = source
        self._count = count
        self._chunk_rows = chunk_rows
        self._row = 0

    def _bytes(self, rows: int) -> int:
        return rows * len(self.columns) * np.dtype(np.float64).itemsize

    @property
    def bytes_read(self) -> int:
        """Bytes of the values drawn so far."""
        return self._bytes(self._row)

    def close(self) -> None:
        """Close the file."""

    def chunks(self) -> Iterator[RawRows]:
        """Give the rows in runs."""
        places = [self.columns.index(name) for name in self.value_columns]
        while self._row < self._count:
            start = self._row
            self._row = min(start + self._chunk_rows, self._count)
            values = self._source.block(self._row - start)[:, places]
            rows = np.arange(start + 1, self._row + 1)
            yield RawRows(np.zeros_like(rows), np.ascontiguousarray(values), rows, ())
