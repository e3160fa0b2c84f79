"""The benchmark of evidence prints a row for each subject; how fast things are is not tested."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]


def test_false_alarms_power_and_cost_are_told() -> None:
    command = ["-m", "bench", "evidence", "--json", "--repeats", "1", "--null-streams", "3"]
    done = subprocess.run(
        [sys.executable, *command], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    rows = json.loads(done.stdout)["results"]["evidence"]
    accuracies = [0.51, 0.52, 0.55, 0.6]
    assert list(rows) == ["coin", "forecaster", *(f"accuracy {a}" for a in accuracies), "scoring"]
    for name in ("coin", "forecaster"):
        assert rows[name]["streams"] == 3
        assert {rows[name][key] * 3 for key in ("better", "worse", "band")} <= {0, 1, 2, 3}
    needed = [rows[f"accuracy {a}"]["at one look"] for a in accuracies]
    assert needed == sorted(needed, reverse=True)
    assert rows["scoring"]["us"] > rows["scoring"]["us of evidence"] > 0
