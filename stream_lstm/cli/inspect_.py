"""`stream-lstm inspect`: what is in a store."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from .input_file import JsonOption
from .process import say, say_json
from .verify import StoreArgument


def command(store: StoreArgument, *, as_json: JsonOption = False) -> None:
    """Show what is in a store: streams, runs, snapshots and events.

    Example: stream-lstm inspect quotes.db
    """
    from ..store.examined import contents

    found = contents(store)
    if as_json:
        say_json(found)
        return
    for line in lines(found):
        say(line)


def lines(found: dict[str, Any]) -> Iterator[str]:
    """Yield what people read."""
    rows, whole = found["rows"], "" if found["whole"] else ", with holes"
    yield f"{found['path']}: {found['bytes']:,} bytes, schema version {found['schema']}"
    yield (
        f"  {found['elements']:,} elements in {found['journal']:,} inputs{whole}; "
        f"{rows['predictions']:,} predictions, {rows['scores']:,} scores, "
        f"{rows['updates']:,} updates"
    )
    for name, stream in found["streams"].items():
        numbers = "" if stream["next_seq"] is None else f", number {stream['next_seq']:,} is due"
        yield f"  stream {name}: {stream['ticks']:,} ticks, {stream['n']:,} elements{numbers}"
    for run in found["runs"]:
        yield f"  run {run['run']}: {run['command']} {run['version']}, {_when(run['started_ns'])}"
    for snapshot in found["snapshots"]:
        aside = f", set aside: {snapshot['set_aside']}" if snapshot["set_aside"] else ""
        yield (
            f"  snapshot {snapshot['snapshot']}: after {snapshot['elements']:,} elements, "
            f"{_when(snapshot['taken_ns'])}{aside}"
        )
    for kind, count in found["events"].items():
        yield f"  {kind}: {count:,}"


def _when(ns: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(ns / 1e9))
