"""Checks of the rows themselves: what cannot be used, times, gaps, crossed quotes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .doctor_series import Series, Table
from .finding import Finding, Level, percent
from .verdict import count

NS_PER_S = 1e9

MANY = 0.01
"""A share of rows from which on what is wrong with them is no accident."""

GRID = 0.8
"""Share of intervals that are the same in a series of regular times."""

LONG = 30
"""How many times as long as 99 in 100 of them an interval of irregular times is in a gap."""

OFTEN = 0.01
"""A share of all intervals above which gaps in regular times are not closing hours."""

CROSSED = 0.001
"""A share of crossed quotes that is no accident."""

DOUBLE = 0.2
"""A share of repeated rows that is not that of trades alike at one time."""

HOUR_S = 3600


def unusable_rows(series: Series, left_out: int, first: Sequence[str]) -> Finding:
    """Look at rows that could not be read (`left_out`, and why) or that made no element."""
    bad, whole = left_out + series.refusals, left_out + len(series.table.values)
    figures = {"rows": whole, "unusable": bad}
    if not bad:
        return Finding(
            "unusable_rows", "ok", f"all {count(whole, 'rows')} can be used", "", figures
        )
    share = bad / whole
    level: Level = "fault" if share > 0.5 else "warning" if share >= MANY else "note"
    told = "; ".join([*first, *series.refused][:2])
    return Finding(
        "unusable_rows",
        level,
        f"{bad:,} of {count(whole, 'rows')} ({percent(share)}) cannot be used: {told}",
        "mend these rows or leave them out; replay stops at the first without --on-bad-row skip",
        figures,
    )


def time_order(table: Table) -> Finding:
    """Look for times that go back."""
    name = "time_order"
    if table.t_ns is None:
        return Finding(
            name,
            "note",
            "not looked at: no column of times was found",
            "name it with --time COLUMN; without one, see to it that the oldest row comes first",
        )
    steps = np.diff(table.t_ns)
    back = int((steps < 0).sum())
    figures = {"back": back, "intervals": len(steps)}
    if not back:
        return Finding(name, "ok", "times never go back", "", figures)
    at = int(np.argmax(steps < 0)) + 1
    if back > 0.5 * len(steps):
        return Finding(
            name,
            "fault",
            f"the newest row comes first: time goes back in {back:,} of {len(steps):,} intervals",
            "sort the rows by time, oldest first: as they are, the past is predicted from what "
            "came after it",
            figures,
        )
    return Finding(
        name,
        "fault" if back >= MANY * len(steps) else "warning",
        f"time goes back {count(back, 'times')} in {len(steps):,} intervals, first at row "
        f"{table.rows[at]:,} (by {_seconds(-steps[at - 1])})",
        _sorting(float(-steps[steps < 0].min()) / NS_PER_S, back),
        figures,
    )


def repeated_rows(table: Table) -> Finding:
    """Look for rows that are there twice, and for equal times."""
    name = "repeated_rows"
    if table.t_ns is None:
        return _no_times(name)
    same_time = np.diff(table.t_ns) == 0
    before, after = table.values[:-1], table.values[1:]
    equal = (before == after) | (np.isnan(before) & np.isnan(after))
    twice = int((same_time & equal.all(axis=1)).sum())
    together, whole = int(same_time.sum()), max(len(same_time), 1)
    figures = {"repeated": twice, "equal_times": together, "intervals": len(same_time)}
    if twice >= DOUBLE * whole:
        return Finding(
            name,
            "warning",
            f"{twice:,} rows ({percent(twice / whole)}) repeat time and values of the row before",
            "leave repeated rows out: each makes one more element, a return of 0 and a label of 0",
            figures,
        )
    if together:
        return Finding(
            name,
            "note",
            f"{together:,} rows ({percent(together / whole)}) have the time of the row before, "
            f"{twice:,} of them with the same values",
            "nothing to do where these came one by one, in this order, such as trades; leave out "
            "what was written twice",
            figures,
        )
    return Finding(name, "ok", "no two neighbouring rows have the same time", "", figures)


def time_gaps(table: Table) -> Finding:
    """Look for missing stretches: of regular times any, of irregular ones the very long."""
    name = "gaps"
    if table.t_ns is None:
        return _no_times(name)
    steps = np.diff(table.t_ns)
    steps = steps[steps > 0]
    if len(steps) < 2:
        return Finding(name, "ok", "there are too few times to see a gap in them")
    usual = float(np.median(steps))
    regular = float((np.abs(steps - usual) <= 0.01 * usual).mean()) >= GRID
    gaps = steps > (1.5 * usual if regular else LONG * float(np.quantile(steps, 0.99)))
    missed = float((np.round(steps[gaps] / usual) - 1).sum()) if regular else 0.0
    figures = {
        "gaps": int(gaps.sum()),
        "usual_s": usual / NS_PER_S,
        "longest_s": float(steps.max()) / NS_PER_S,
        "regular": regular,
        "missed": int(missed),
    }
    if not gaps.any():
        longest = f"the longest {_seconds(steps.max())}"
        return Finding(name, "ok", f"no gaps: {_usual(usual)}, {longest}", "", figures)
    at = int(np.flatnonzero(np.diff(table.t_ns) == steps.max())[0]) + 1
    often = regular and gaps.sum() > OFTEN * len(steps)
    rows = f", {missed:,.0f} rows missing" if regular else ""
    return Finding(
        name,
        "warning" if often else "note",
        f"{count(int(gaps.sum()), 'gaps')}{rows}: {_usual(usual)}, and the longest interval is "
        f"{_seconds(steps.max())} (before row {table.rows[at]:,})",
        "a difference or a return over a gap is one like any other to the network: add the "
        "feature 'log1p(elapsed())' (with --time), which shows it, or fill the rows in",
        figures,
    )


def _sorting(back_s: float, times: int) -> str:
    told = "sort the rows by time, oldest first: a row in the wrong place shows what came after it"
    if times == 1 and back_s <= HOUR_S:
        told += "; if these are local times, clocks were put back there: write them in UTC"
    return told


def _usual(step: float) -> str:
    return f"the median interval is {_seconds(step)}"


def _seconds(step: float) -> str:
    seconds = step / NS_PER_S
    return f"{seconds:,.0f} s" if seconds >= 1000 else f"{seconds:.4g} s"


def _no_times(name: str) -> Finding:
    return Finding(name, "ok", "not looked at: there are no times (--time COLUMN names them)")


SIZES = ("qty", "quantity", "size", "vol", "amount", "count", "num")
"""Parts of the names of columns that are no prices."""


def crossed_quotes(table: Table) -> Finding:
    """Look for asks below their bids, in columns that are called bid and ask."""
    name = "crossed_quotes"
    pairs = _quotes(table.columns)
    if not pairs:
        return Finding(name, "ok", "no columns are called bid and ask")
    bid, ask = pairs
    bids, asks = (table.values[:, table.columns.index(side)] for side in pairs)
    crossed = int((asks < bids).sum())
    share = crossed / max(len(bids), 1)
    figures = {"crossed": crossed, "rows": len(bids), "bid": bid, "ask": ask}
    if not crossed:
        return Finding(name, "ok", f"{ask} is never below {bid}", "", figures)
    told = f"{ask} is below {bid} in {crossed:,} of {count(len(bids), 'rows')} ({percent(share)})"
    if share > 0.5:
        remedy = f"the two columns are exchanged: {bid} holds the asks"
        return Finding(name, "fault", told, remedy, figures)
    return Finding(
        name,
        "warning" if share >= CROSSED else "note",
        told,
        f"such rows are stale on one side: leave them out, or use mid({bid}, {ask}) rather than "
        f"a spread or one side alone",
        figures,
    )


def _quotes(columns: Sequence[str]) -> tuple[str, str] | None:
    def prices(word: str) -> list[str]:
        found = [name for name in columns if word in name.lower()]
        return [name for name in found if not any(size in name.lower() for size in SIZES)]

    bids, asks = prices("bid"), prices("ask")
    return (bids[0], asks[0]) if bids and asks else None
