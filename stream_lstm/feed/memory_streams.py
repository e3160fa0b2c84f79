"""Graded streams whose every answer is a fresh bit from beyond the window.

A cue, large enough to be told from the fillers, shows a bit b = +-1; more than a hundred ticks
later the sign at one beat is b with probability 0.95. All other signs at beats are coins. Each
bit is new, so weights that follow a slow drift are of no use here: only a state that was carried
knows the answer. In S4 a query says when it is asked for, and one bit must be held; in S6 the
time alone says so, and three bits are under way at once.

The best forecast is read off: the last cue (S4) or the cue of twelve blocks ago (S6). Fillers
reach the height that tells cue and query apart once in 10^23 ticks.

Source of the idea: Hochreiter and Schmidhuber, "Long short-term memory", 1997.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from itertools import count
from typing import NamedTuple

import numpy as np

from .beats import PERIOD, Beats, signs_where
from .synthetic import Floats

RIGHT = 0.95
"""How often an answer is the bit of its cue."""

CUE_PHASE = 5
"""Where in its block a cue stands."""

HEIGHT = 1.0
"""What is larger than this off the beat is no filler."""


class Event(NamedTuple):
    """A tick that is not left to chance: a value there, or only its sign where it is a beat."""

    tick: int
    value: float


class Script:
    """Plays events, in the order of their ticks, into fillers and coins at the beats."""

    def __init__(self, seed: int, events: Iterator[Event]) -> None:
        self._beats = Beats(seed)
        self._events = events
        self._next = next(events)

    def play(self, n: int) -> Floats:
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


class Latch:
    """S4: a cue 4b at tick 10a + 5 is asked for by +2 at tick 10(a + G) - 1.

    The sign at tick 10(a + G) is then b with probability 0.95. G is `least` or more: every beat
    from there on is the one with probability 1/6. The next cue comes a geometric number of
    blocks, two on average, after the answer.
    """

    name = "s4-latch"
    columns = ("x",)

    cue, query = 4.0, 2.0
    least = 11
    asked, again = 1 / 6, 1 / 2

    def __init__(self, seed: int) -> None:
        # a generator of its own: how much it gives depends on how the story goes
        random = np.random.default_rng(np.random.SeedSequence(seed).spawn(3)[2])
        self._script = Script(seed, self._story(random))

    def _story(self, random: np.random.Generator) -> Iterator[Event]:
        at = int(random.geometric(self.again))
        while True:
            bit = 1.0 if random.random() < 0.5 else -1.0
            yield Event(PERIOD * at + CUE_PHASE, self.cue * bit)
            at += self.least + int(random.geometric(self.asked)) - 1
            yield Event(PERIOD * at - 1, self.query)
            yield Event(PERIOD * at, bit if random.random() < RIGHT else -bit)
            at += int(random.geometric(self.again))

    def block(self, n: int) -> Floats:
        """Return the next `n` elements, float64 (n, 1)."""
        return self._script.play(n)

    def best(self, values: Floats) -> Floats:
        """Return P(x_{k+1} > 0 | x_0 .. x_k), float64 (n,).

        Just before a tick where the query may come, that it may makes a positive value likelier.
        """
        x, p = values[:, 0].tolist(), np.full(len(values), 0.5)
        cue, at = 0.0, 0
        for k, value in enumerate(x):
            block, phase = divmod(k, PERIOD)
            if phase == CUE_PHASE and abs(value) > HEIGHT:
                cue, at = value, block
            elif phase == PERIOD - 2 and cue and block + 1 - at >= self.least:
                p[k] = 0.5 + 0.5 * self.asked
            elif phase == PERIOD - 1 and cue and value > HEIGHT:
                p[k] = RIGHT if cue > 0 else 1.0 - RIGHT
                cue = 0.0
        return p


class LongLatch(Latch):
    """S4L: as S4, but never asked for within 294 ticks."""

    name = "s4l-latch"
    least = 30


class Echo:
    """S6: in every fourth block a cue 2b at tick 10k + 5, echoed by the sign at tick 10(k + 12).

    The sign is b with probability 0.95. The first cue is at tick 5.
    """

    name = "s6-echo"
    columns = ("x",)

    cue = 2.0
    every, later = 4, 12

    def __init__(self, seed: int) -> None:
        random = np.random.default_rng(np.random.SeedSequence(seed).spawn(3)[2])
        self._script = Script(seed, self._story(random))

    def _story(self, random: np.random.Generator) -> Iterator[Event]:
        under_way: deque[float] = deque()
        for at in count(0, self.every):
            if at >= self.later:
                bit = under_way.popleft()
                yield Event(PERIOD * at, bit if random.random() < RIGHT else -bit)
            under_way.append(1.0 if random.random() < 0.5 else -1.0)
            yield Event(PERIOD * at + CUE_PHASE, self.cue * under_way[-1])

    def block(self, n: int) -> Floats:
        """Return the next `n` elements, float64 (n, 1)."""
        return self._script.play(n)

    def best(self, values: Floats) -> Floats:
        """Return P(x_{k+1} > 0 | x_0 .. x_k), float64 (n,)."""
        p = np.full(len(values), 0.5)
        echoes = np.arange(PERIOD * self.later, len(values) + 1, PERIOD * self.every)
        cues = values[echoes - PERIOD * self.later + CUE_PHASE, 0]
        p[echoes - 1] = np.where(cues > 0, RIGHT, 1.0 - RIGHT)
        return p
