"""What features are worth in log loss: streams that lead, real series, missing cells, a real pair.

Every row is one online pass that learns, in a process of its own. Several streams arrive in the
order of their times through `Session.arrive`; at equal times the first one comes first.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from stream_lstm.config import build
from stream_lstm.core.columnar import Arrivals
from stream_lstm.core.feature_sets import compile_features
from stream_lstm.core.session import Session
from stream_lstm.events import Output, Refusal, Score

from .learning import losses_of

SEED = 11
BLOCK = 4096
SECOND = 1_000_000_000

Streams = Mapping[str, tuple[np.ndarray, np.ndarray]]
"""The times (n,) and values (n, C) of each stream by name."""


class Pass(NamedTuple):
    """The scores of one stream, the refusals of all, and the seconds it took."""

    n: np.ndarray
    t_ns: np.ndarray
    p: np.ndarray
    y: np.ndarray
    base: np.ndarray
    elements: int
    refused: int
    seconds: float

    def loss(self, keep: Any = slice(None)) -> float:
        """Return the mean log loss of some of the predictions."""
        return round(float(losses_of(self.p, self.y)[keep].mean()), 5)

    def base_loss(self, keep: Any = slice(None)) -> float:
        """Return the same of the base rate so far."""
        return round(float(losses_of(self.base, self.y)[keep].mean()), 5)


def one_pass(
    streams: Streams, target: str, columns: Sequence[str], settings: Mapping[str, Any]
) -> Pass:
    """Learn along streams, and return what was predicted of `target`."""
    scores: list[Score] = []
    refused = 0

    def take(event: Output) -> None:
        nonlocal refused
        if isinstance(event, Score) and event.stream == target:
            scores.append(event)
        refused += isinstance(event, Refusal)

    session = Session(build({"learn": True, **settings}), columns, take)
    rows = np.concatenate(
        [np.full(len(t), session.place(name)) for name, (t, _) in streams.items()]
    )
    t_ns = np.concatenate([t for t, _ in streams.values()])
    values = np.concatenate([v for _, v in streams.values()])
    order = np.argsort(t_ns, kind="stable")
    start = time.perf_counter()
    for k in range(0, len(order), BLOCK):
        part = order[k : k + BLOCK]
        session.arrive(Arrivals(rows[part], t_ns[part], values[part]))
    session.settle()
    seconds = time.perf_counter() - start
    names = ("n", "t_ns", "p", "label", "base_rate_p")
    n, t, p, y, base = (np.array([getattr(score, name) for score in scores]) for name in names)
    return Pass(n, t, p, y == 1, base, session.streams[target].n, refused, seconds)


def data(name: str, columns: Sequence[str], rows: int | None = None) -> list[np.ndarray]:
    """Return columns of a file of the data folder; raises FileNotFoundError."""
    import pyarrow.csv

    folder = os.environ.get("STREAM_LSTM_DATA") or Path(__file__).parents[2] / "shared" / "data"
    table = pyarrow.csv.read_csv(Path(folder) / name).slice(0, rows)
    return [table[column].to_numpy() for column in columns]


# ---- a stream that leads -----------------------------------------------------------------------

LEAD, RIGHT = 3, 0.8
"""The sign of b is that of a three ticks before, with this probability."""


def leading(rows: int, seed: int) -> Streams:
    """Return streams a and b: b ticks half a second after a, and repeats its signs later."""
    rng = np.random.default_rng(seed)
    a = rng.normal(size=rows)
    right = np.where(rng.random(rows) < RIGHT, 1.0, -1.0)
    b = np.abs(rng.normal(size=rows)) * np.sign(np.roll(a, LEAD)) * right
    times = np.arange(1, rows + 1) * SECOND
    return {"a": (times, a[:, None]), "b": (times + SECOND // 2, b[:, None])}


SEEN = {"nothing": (), "a": ('of("a", x)',), "its sign": ('of("a", sign(lag(x, 2)))',)}
"""What b sees of a beside its own values; the last is the sign that its next tick repeats."""


def leads(kind: str, bank: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the log loss of b, with and without a, beside that of who knows how it is made."""
    features = ["x", *SEEN[kind]]
    settings = {"features": features, "bank": bank, "sharing": "per-stream", "seed": SEED}
    rows = options["rows"]
    streams = leading(rows, SEED)
    made = one_pass(streams, "b", ["x"], settings)
    after = made.n + (rows - made.elements)  # the row of the element after n
    told = np.roll(streams["a"][1][:, 0], LEAD)[after] > 0
    best = losses_of(np.where(told, RIGHT, 1 - RIGHT), made.y)
    late = {"second half": made.n > rows / 2, "last tenth": made.n > 0.9 * rows}
    above = {f"{name}, above best": made.loss(at) - best[at].mean() for name, at in late.items()}
    rounded = {name: round(float(value), 5) for name, value in above.items()}
    return _halves(made, made.n, rows) | {"best": round(float(best.mean()), 5)} | rounded


def _halves(made: Pass, row: np.ndarray, rows: int) -> dict[str, Any]:
    """Return the log loss of all predictions and of those made late; row: where they were made."""
    second, tenth = row > rows / 2, row > 0.9 * rows
    return {
        "log loss": made.loss(),
        "second half": made.loss(second),
        "last tenth": made.loss(tenth),
        "base rate, second half": made.base_loss(second),
        "labels": len(row),
        "seconds": round(made.seconds, 1),
    }


# ---- real series -------------------------------------------------------------------------------


class Series(NamedTuple):
    """A file, its columns, and ten features chosen on the first third; the first is the return."""

    file: str
    columns: tuple[str, ...]
    features: tuple[str, ...]
    rows: int | None = None

    def read(self, rows: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Return times (n,) and values (n, C)."""
        t_ns, *values = data(self.file, ("time_ns", *self.columns), rows or self.rows)
        return t_ns, np.column_stack(values).astype(np.float64)


_BOOK, _FX = "mid(bid_px, ask_px)", "mid(bid, ask)"

SERIES = {
    "btcusdt": Series(
        "btcusdt_book.csv.gz",
        ("bid_px", "bid_qty", "ask_px", "ask_qty"),
        (
            f"log_return({_BOOK})",
            f"microprice(bid_px, ask_px, bid_qty, ask_qty) - {_BOOK}",
            "diff(bid_qty)",
            f"sum(log_return({_BOOK}), 200)",
            "rank(ask_qty, 1000)",
            f"count(log_return({_BOOK}) != 0, 1s)",
            "rank(bid_qty, 1000)",
            f"count(log_return({_BOOK}) != 0, 100)",
            f"zscore({_BOOK}, 1000)",
            "log1p(elapsed())",
        ),
    ),
    "eurusd": Series(
        "eurusd_quotes.csv.gz",
        ("bid", "ask"),
        (
            f"log_return({_FX})",
            f"lag(log_return({_FX}), 1)",
            "log1p(elapsed())",
            "diff(bid)",
            f"{_FX} - ewm_mean({_FX}, 3)",
            "spread_bps(bid, ask)",
            f"mean(sign(log_return({_FX})), 5)",
            f"lag(sign(log_return({_FX})), 1) * sign(log_return({_FX}))",
            f"tick_sign({_FX})",
            "spread(bid, ask) < 0",
        ),
        200_000,
    ),
}
"""Features were chosen one after another by the log loss of gradient boosting on the last third of
the first third, trained on the rest of it."""


def book(kind: str, name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the log loss of the return alone, of ten features, or of boosting on them."""
    series = SERIES[name]
    t_ns, values = series.read(options["rows"])
    features = list(series.features[: 1 if kind == "return" else None])
    if kind == "boosting":
        return boosted(series, t_ns, values)
    settings = {"features": features, "bank": options["bank"], "seed": SEED}
    made = one_pass({name: (t_ns, values)}, name, series.columns, settings)
    row = made.n + (len(t_ns) - made.elements - 1)  # that of element n
    return _halves(made, row, len(t_ns))


def boosted(series: Series, t_ns: np.ndarray, values: np.ndarray) -> dict[str, Any]:
    """Return the log loss of gradient boosting on every tenth element of the second half.

    It is trained on every element of the first half, of which its early stopping takes a tenth.
    """
    from sklearn.ensemble import HistGradientBoostingClassifier

    features = compile_features(series.features, series.columns)
    x = np.asarray(features.evaluate(t_ns, values), np.float64)
    start = time.perf_counter()
    y, x = x[1:, 0] > 0, x[:-1]
    n = np.arange(1, len(x) + 1)
    row = n + len(t_ns) - len(x) - 1
    first = row <= len(t_ns) / 2
    model = HistGradientBoostingClassifier(early_stopping=True, random_state=SEED)
    model.fit(x[first], y[first])
    scored = np.flatnonzero(~first & (n % 10 == 0))
    p = model.predict_proba(x[scored])[:, 1]
    losses = losses_of(p, y[scored])
    return {
        "second half": round(float(losses.mean()), 5),
        "last tenth": round(float(losses[row[scored] > 0.9 * len(t_ns)].mean()), 5),
        "labels": len(scored),
        "seconds": round(time.perf_counter() - start, 1),
    }


# ---- missing cells -----------------------------------------------------------------------------

ELEC2 = ("nswprice", "nswdemand", "vicprice", "vicdemand", "transfer", "period")
UP = "nswprice - lag(mean(nswprice, 48))"
"""Positive where the label of the file is 1."""


def missing(share: str, name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the log loss with a share of the cells missing outside the target's columns."""
    if name == "elec2":
        values = np.column_stack(data("elec2.csv.gz", ELEC2, options["rows"])).astype(np.float64)
        t_ns, columns, kept = np.arange(1, len(values) + 1) * 1800 * SECOND, ELEC2, 1
        settings: dict[str, Any] = {"features": [UP, *ELEC2], "stride": 1, "scaling": "zscore"}
    else:
        columns, kept = ("bid_px", "ask_px", "bid_qty", "ask_qty"), 2
        series = SERIES[name]._replace(columns=columns)
        t_ns, values = series.read(options["rows"])
        settings = {"features": list(series.features)}
    settings |= {"on_missing": ["*=last"], "seed": SEED, "bank": options["bank"]}
    rng = np.random.default_rng(SEED)
    gone = rng.random(values[1:, kept:].shape) < float(share)
    values[1:, kept:][gone] = np.nan  # there is no value before the first
    made = one_pass({name: (t_ns, values)}, name, columns, settings)
    lost = len(values) - made.elements
    return {"missing": share, "refused": made.refused, "not elements": lost} | _halves(
        made, made.n, made.elements
    )


# ---- a real pair -------------------------------------------------------------------------------

QUOTES = ("bid_px", "bid_qty", "ask_px", "ask_qty")

FLOW = (
    'of("trades", sum(ask_qty - bid_qty, 100ms))',
    'of("trades", sum(ask_qty - bid_qty, 1s))',
    'of("trades", sum(ask_qty + bid_qty, 1s))',
    'log1p(age("trades"))',
)
"""What the book sees of the trades: bought less sold, and all of it. A trade is a tick with one
price, and its amount is on the side of the aggressor."""


def pair(kind: str, name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the log loss of the order book alone, and beside the trades."""
    book_t, book_v = SERIES["btcusdt"].read(options["rows"])
    t, price, size, sold = data(
        "btcusdt_trades.csv.gz", ("time_ns", "price", "qty", "buyer_is_maker")
    )
    trades = np.column_stack([price, size * (sold == 1), price, size * (sold == 0)])
    keep = book_t > t[0]  # both rows have the same elements
    streams = {"book": (book_t[keep], book_v[keep])}
    features = list(SERIES["btcusdt"].features[: 1 if name == "return" else None])
    if kind == "pair":
        inside = t <= book_t[-1]
        streams = {"trades": (t[inside], trades[inside])} | streams
        features += FLOW
    settings = {"features": features, "bank": options["bank"], "seed": SEED}
    made = one_pass(streams, "book", QUOTES, settings | {"sharing": "per-stream"})
    return _halves(made, made.n, made.elements)


PARTS: dict[str, Any] = {
    "leads": (leads, {
        f"b sees {kind}, {'bank' if bank == 'default' else 'one network'}": (kind, bank)
        for kind in SEEN
        for bank in ("none", "default")
    }),
    "book": (book, {
        f"{name}, {words}": (kind, name)
        for name in SERIES
        for kind, words in {
            "return": "the return alone",
            "features": "ten features",
            "boosting": "ten features, gradient boosting",
        }.items()
    }),
    "missing": (missing, {
        f"{name}, {float(share):.0%} missing": (share, name)
        for name in ("elec2", "btcusdt")
        for share in ("0", "0.05", "0.3")
    }),
    "pair": (pair, {
        f"{words}, {features}": (kind, features)
        for features in ("return", "ten features")
        for kind, words in {"alone": "book alone", "pair": "book beside trades"}.items()
    }),
}  # fmt: skip
"""The rows of each part: their function and its arguments."""


if __name__ == "__main__":
    part, row, given = sys.argv[1:]
    play, rows = PARTS[part]
    try:
        print(json.dumps(play(*rows[row], json.loads(given))))
    except FileNotFoundError as error:
        print(json.dumps({"missing file": Path(str(error.filename or error)).name}))
