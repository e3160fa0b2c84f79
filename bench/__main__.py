"""The command `python -m bench`: run one benchmark, or all of them, and print a table or JSON."""

from __future__ import annotations

import argparse
import json

from . import causal, delays, evidence, learning, question, roundtrip, step, train
from .report import machine, table

BENCHMARKS = {"step": step, "roundtrip": roundtrip, "train": train}
"""What `all` runs."""

ALONE = {
    "question": question,
    "learning": learning,
    "evidence": evidence,
    "delays": delays,
    "causal": causal,
}
"""What runs only by its name: one run of minutes, whose figures are scores or counts."""

UNITS = {
    "train": "seconds an epoch",
    "question": "the last tenth, and all predictions",
    "learning": "nats, and shares of labels",
    "delays": "nats, and counts",
    "evidence": "shares of streams, labels, and microseconds of processor time",
    "causal": "bytes compared, and how many runs differed",
}
"""What a benchmark counts in where it is not microseconds."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("name", choices=[*BENCHMARKS, *ALONE, "all"], help="which benchmark")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--repeats", type=int, default=5, help="runs of each subject (5)")
    parser.add_argument(
        "--seconds", type=float, default=20.0, help="length of a paced run of roundtrip (20)"
    )
    question.arguments(parser)
    learning.arguments(parser)
    evidence.arguments(parser)
    delays.arguments(parser)
    causal.arguments(parser)
    arguments = parser.parse_args()
    names = list(BENCHMARKS) if arguments.name == "all" else [arguments.name]
    known = BENCHMARKS | ALONE
    results = {name: known[name].run(arguments) for name in names}
    if arguments.json:
        print(json.dumps({"machine": machine(), "results": results}, indent=2))
        return
    print(machine()["text"])
    for name, rows in results.items():
        unit = UNITS.get(name, "microseconds")
        runs = "one run" if name in ALONE else f"medians of {arguments.repeats} runs"
        print(f"\n{name}: {unit}, {runs}\n")
        print(table(rows))


if __name__ == "__main__":
    main()
