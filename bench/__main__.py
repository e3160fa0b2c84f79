"""The command `python -m bench`: run one benchmark, or all of them, and print a table or JSON."""

from __future__ import annotations

import argparse
import json
import sys

from . import (
    causal,
    decode,
    delays,
    evidence,
    faults,
    features,
    learn,
    learning,
    question,
    roundtrip,
    sequence,
    soak,
    start,
    step,
    streams,
    stride,
    sustained,
    train,
)
from .report import machine, table

BENCHMARKS = {
    "step": step,
    "stride": stride,
    "sequence": sequence,
    "learn": learn,
    "roundtrip": roundtrip,
    "sustained": sustained,
    "streams": streams,
    "start": start,
    "train": train,
}
"""What `all` runs."""

ALONE = {
    "decode": decode,
    "question": question,
    "learning": learning,
    "evidence": evidence,
    "delays": delays,
    "causal": causal,
    "features": features,
    "soak": soak,
    "faults": faults,
}
"""What runs only by its name: one run of minutes, whose figures are scores or counts."""

MODEST = {
    "repeats": 3,
    "gaps": "0,1",
    "file_elements": 200_000,
    "ways": "recorded,back to back,1000",
    "busy_poll": "off",
    "seconds": 3.0,
    "counts": "1,1000,100000",
    "started": "learning on",
}
"""Defaults of `all`, which keep it short; options override them."""

UNITS = {
    "sequence": "elements a second",
    "learn": "microseconds an update, and seconds for a file",
    "train": "seconds an epoch",
    "streams": "elements a second, and bytes",
    "start": "seconds, and megabytes of resident memory",
    "sustained": "ticks a second",
    "decode": "microseconds a message, and the time over that of the first",
    "question": "the last tenth, and all predictions",
    "learning": "nats, and shares of labels",
    "delays": "nats, and counts",
    "evidence": "shares of streams, labels, and microseconds of processor time",
    "features": "nats, microseconds of a tick, and elements a second",
    "faults": "counts, and what each part says",
    "soak": "kilobytes for each million elements, megabytes, and counts",
    "causal": "bytes compared, and how many runs differed",
}
"""What a benchmark counts in where it is not microseconds."""


def parser() -> argparse.ArgumentParser:
    """Return the parser; each benchmark's options are its own, those of `all` are of all in it."""
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--json", action="store_true", help="print one JSON document")
    common.add_argument("--repeats", type=int, default=5, help="runs of each subject (5)")
    top = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    names = top.add_subparsers(dest="name", required=True, metavar="NAME")
    known = BENCHMARKS | ALONE
    for name in [*known, "all"]:
        modules = list(BENCHMARKS.values()) if name == "all" else [known[name]]
        about = "the short ones" if name == "all" else (modules[0].__doc__ or "").splitlines()[0]
        own = names.add_parser(name, parents=[common], help=about, description=about)
        for module in modules:
            if hasattr(module, "arguments"):
                module.arguments(own)
        if name == "all":
            own.set_defaults(**MODEST)
    return top


def main() -> None:
    arguments = parser().parse_args()
    known = BENCHMARKS | ALONE
    names = list(BENCHMARKS) if arguments.name == "all" else [arguments.name]
    results = {}
    for name in names:
        print(f"bench: {name}", file=sys.stderr, flush=True)
        results[name] = known[name].run(arguments)
    if arguments.json:
        print(json.dumps({"machine": machine(), "results": results}, indent=2))
        return
    print(machine()["text"])
    for name, rows in results.items():
        unit = UNITS.get(name, "microseconds")
        runs = "one run" if name in ALONE else f"medians of {arguments.repeats} runs"
        print(f"\n{name}: {unit}, {runs}\n")
        print(getattr(known[name], "show", table)(rows))


if __name__ == "__main__":
    main()
