"""How many programs are compiled before a session is ready."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

MOST = {"off": 9, "adam": 9, "dekf": 8, "bank": 12}
"""Programs of a whole construction, each of which takes 10 ms and more, and a megabyte: the
engine's own (three or four), the inverse error function, the optimiser's state, and a few of one
operation."""

SETTINGS: dict[str, dict[str, Any]] = {
    "off": {},
    "adam": {"learn": True},
    "dekf": {"learn": True, "optimizer": "dekf"},
    "bank": {"learn": True, "bank": "default"},
}

COUNT = """
import json, sys
import jax
from stream_lstm.config import build
from stream_lstm.config import bank_members
from stream_lstm.model.engine import Engine

names = []

def listen(event, seconds, **about):
    if event == "/jax/core/compile/backend_compile_duration":
        names.append(about.get("fun_name", ""))

jax.monitoring.register_event_duration_secs_listener(listen)
config = build({"features": ["x"], **json.loads(sys.argv[1])})
Engine(config, 1, bank_members(config, None))
print(json.dumps(names))
"""


@pytest.mark.parametrize("name", list(SETTINGS))
def test_few_programs_are_compiled_before_a_session_is_ready(name: str) -> None:
    line = [sys.executable, "-c", COUNT, json.dumps(SETTINGS[name])]
    done = subprocess.run(line, capture_output=True, text=True, check=True)
    compiled = json.loads(done.stdout)
    assert 0 < len(compiled) <= MOST[name], compiled
