"""`--label-column`: the truth from a column of the file, each label in its own time."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import msgspec
import typer

from ..config import Config
from ..errors import UsageError

if TYPE_CHECKING:
    from ..core.replay import LateLabels, OnInput, OnPiece
    from ..core.session import Session

LabelColumnOption: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--label-column",
        metavar="COLUMN",
        help="Take the labels from this column: that of a prediction after element n stands in "
        "the row of element n + horizon. An empty cell is a label that never comes.",
        show_default="the sign of the first feature",
    ),
]
LabelDelayOption: TypeAlias = Annotated[
    str,
    typer.Option(
        "--label-delay",
        metavar="N|30s",
        help="Elements after its row at which a label comes, or time (ns, us, ms, s, min, h).",
    ),
]

UNITS = {"ns": 1, "us": 10**3, "ms": 10**6, "s": 10**9, "min": 60 * 10**9, "h": 3600 * 10**9}


class LabelColumn(msgspec.Struct, frozen=True):
    """The column, and its delay in elements, or in nanoseconds where `delay_ns` is not None."""

    name: str
    delay: int = 0
    delay_ns: int | None = None

    def columns(self, used: Sequence[str]) -> tuple[str, ...]:
        """Return the columns to be read: those in use, and this one."""
        return (*used, *((self.name,) if self.name not in used else ()))

    def schedule(self, session: Session, on_piece: OnPiece, on_input: OnInput) -> LateLabels:
        """Return what gives a session the labels in their time."""
        from ..core.replay import LateLabels

        delays: dict[str, Any] = {"delay": self.delay, "delay_ns": self.delay_ns}
        return LateLabels(session, **delays, on_piece=on_piece, on_input=on_input)


def implied(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that the arguments of a command imply."""
    return {"labels": "external"} if arguments.get("label_column") else {}


def label_column(
    name: str | None, delay: str, *, config: Config, time: str | None
) -> LabelColumn | None:
    """Return what the arguments ask for, None for labels of the series.

    Raises UsageError for a delay that is none, or where something is missing or at odds.
    """
    if name is None:
        if delay != "0":
            raise UsageError("--label-delay is of labels from a column: give --label-column too")
        if config.stream.labels == "external":
            raise UsageError(
                "labels = 'external': in a replay they come from a column of the file; name it "
                "with --label-column, or leave labels out (a daemon, stream-lstm run, takes them "
                "from its feed)"
            )
        return None
    if config.stream.labels == "series":
        raise UsageError("--label-column brings labels = external; leave --labels series out")
    elements, delay_ns = parse_delay(delay)
    if delay_ns is not None and time is None:
        raise UsageError(f"--label-delay {delay} needs times: name their column with --time")
    return LabelColumn(name, elements, delay_ns)


def parse_delay(text: str) -> tuple[int, int | None]:
    """Return (elements, nanoseconds or None) of a delay; UsageError for what is none."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-z]*)", text.strip())
    number, unit = found.groups() if found else ("", "")
    if unit in UNITS and number:
        return 0, round(float(number) * UNITS[unit])
    if unit or not number.isdigit():
        known = ", ".join(UNITS)
        raise UsageError(
            f"--label-delay is a number of elements, or a time in {known} such as 30s, "
            f"not {text!r}"
        )
    return int(number), None
