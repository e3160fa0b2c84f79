"""One peer in a process of its own: `python -m bench.peers NAME KIND FOLDER OPTIONS`.

KIND is `step` or `sequence`, FOLDER holds what is given, OPTIONS are a JSON object of keyword
arguments of `bench.timing`. Prints {way: figures}, or a note why there are none.
"""

from __future__ import annotations

import json
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from .. import timing
from .given import Given, wrong
from .registry import PEERS


def measure(name: str, kind: str, given: Given, options: dict[str, Any]) -> dict[str, Any]:
    """Return the figures of a peer, or {"note": what is wrong with it}."""
    call = getattr(import_module(f".{PEERS[name].module}", __package__), kind)(given)
    if kind == "sequence":
        note = wrong(call(given.xs), given.p)
        return {"note": note} if note else {"": timing.rate(call, **options)}
    note = wrong(np.array([call(x) for x in given.xs]), given.p)
    if note:
        return {"note": note}
    return {way: rows[name] for way, rows in timing.ways({name: call}, **options).items()}


def main() -> None:
    name, kind, folder, options = sys.argv[1:]
    try:
        found = measure(name, kind, Given.load(Path(folder)), json.loads(options))
    except Exception as error:  # whatever a peer's package raises is that peer's own line
        text = " ".join(str(error).split())[:200]
        found = {"note": f"failed: {type(error).__name__}: {text}"}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
