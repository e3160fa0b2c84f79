"""What `import` and `export` share: where they write, and how they tell of their proofs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

from ..errors import OutputError, UsageError

if TYPE_CHECKING:
    from ..interop.parity import FrameworkParity, Parity

OverwriteOption: TypeAlias = Annotated[
    bool, typer.Option("--overwrite", help="Replace a file of that name.")
]


def check_free(out: Path, source: Path, overwrite: bool, option: str = "--out") -> None:
    """Raise UsageError where `out` is what is read or is there already.

    option: the one that names it.

    Raises OutputError where it cannot be written.
    """
    if not out.parent.is_dir():
        raise OutputError(f"cannot write {out}: there is no directory {out.parent}")
    if out.is_dir():
        raise OutputError(f"cannot write {out}: it is a directory")
    if not os.access(out.parent, os.W_OK):
        raise OutputError(f"cannot write {out}: no permission to write in {out.parent}")
    if out.exists() and source.exists() and out.samefile(source):
        raise UsageError(f"{option} {out} is the file that is read; name another")
    if out.exists() and not overwrite:
        raise UsageError(f"{out} is there already; --overwrite replaces it")


def parity_record(parity: Parity, framework: FrameworkParity | None) -> dict[str, Any]:
    """Return what a proof found, fit for JSON."""
    return {
        "reference": parity.reference,
        "steps": parity.steps,
        "windows": parity.windows,
        "window": parity.window,
        "carried": parity.carried._asdict(),
        "windowed": parity.windowed._asdict(),
        "framework": None if framework is None else framework._asdict(),
    }


def parity_lines(parity: Parity, framework: FrameworkParity | None) -> list[str]:
    """Return what a proof found, for people."""
    lines = [f"compared with {parity.reference}, largest difference of p (and of the logit):"]
    many = f"{parity.windows:,} rolling windows of {parity.window:,} from a zero state"
    pairs = (f"{parity.steps:,} steps, state carried", parity.carried), (many, parity.windowed)
    lines += [f"  {what}: {found.p:.1e} ({found.logit:.1e})" for what, found in pairs]
    if framework is not None and framework.p is not None:
        lines.append(
            f"  {framework.framework} itself, {framework.compared:,} outputs: {framework.p:.1e}"
        )
    elif framework is not None:
        lines.append(f"  {framework.framework} could not run the model: {framework.why}")
    return lines
