"""What a check has found, and how bad it is."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias, get_args

import msgspec

Level: TypeAlias = Literal["ok", "note", "warning", "fault"]

LEVELS: tuple[Level, ...] = get_args(Level)
"""From good to bad. A fault is reason enough for a loss that stays where it is, a warning may be
or spoils the scores, and a note is worth knowing."""


class Finding(msgspec.Struct, frozen=True):
    """One check's answer: `evidence` is a sentence with numbers, `remedy` what to do, if anything.

    `figures` are the numbers again, fit for JSON.
    """

    name: str
    level: Level
    evidence: str
    remedy: str = ""
    figures: dict[str, Any] = {}


def worst_first(findings: list[Finding]) -> list[Finding]:
    """Return the findings with faults first, otherwise in their order."""
    return sorted(findings, key=lambda finding: -LEVELS.index(finding.level))


def worst(*levels: Level) -> Level:
    """Return the worst of some levels, `ok` of none."""
    return max(levels, key=LEVELS.index, default="ok")


def percent(share: float) -> str:
    """Return a share as people read it: 12.3 %, 0.04 %."""
    if share in (0.0, 1.0):
        return f"{share:.0%}".replace("%", " %")
    shown = f"{100 * share:.1f}" if 0.001 <= share <= 0.999 else f"{100 * share:.2g}"
    return f"{shown if share <= 0.999 else f'{100 * share:.4g}'} %"
