"""How many programs are compiled before a session is ready."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

MOST = {"off": 9, "adam": 9, "dekf": 8, "bank": 12}
"""Each program takes 10 ms or more and a megabyte: the engine's own (three or four), the inverse
error function, the optimiser's state, and a few of one operation."""

COUNT = """
import json, sys
import jax
from stream_lstm.config import bank_members, build
from stream_lstm.model.engine import Engine

names = []

def listen(event, seconds, **about):
    if event == "/jax/core/compile/backend_compile_duration":
        names.append(about.get("fun_name", ""))

jax.monitoring.register_event_duration_secs_listener(listen)
settings = {
    "off": {}, "adam": {"learn": True}, "dekf": {"learn": True, "optimizer": "dekf"},
    "bank": {"learn": True, "bank": "default"},
}
found = {}
for name in sys.argv[1:]:
    config = build({"features": ["x"], "hidden": 4, **settings[name]})
    Engine(config, 1, bank_members(config, None))
    found[name] = list(names)
    names.clear()
    jax.clear_caches()
print(json.dumps(found))
"""


@pytest.mark.parametrize(
    "names", [["off", "adam", "dekf"], pytest.param(["bank"], marks=pytest.mark.slow)], ids=str
)
def test_few_programs_are_compiled_before_a_session_is_ready(names: list[str]) -> None:
    line = [sys.executable, "-c", COUNT, *names]
    done = subprocess.run(line, capture_output=True, text=True, check=True)
    for name, compiled in json.loads(done.stdout).items():
        assert 0 < len(compiled) <= MOST[name], (name, compiled)
