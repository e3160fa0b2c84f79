"""The four layers: who may import whom is read from the source, and held."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "stream_lstm"
EXAMPLES = PACKAGE / "manual"
"""Programs for readers; nothing imports them."""
MODULES = sorted(
    path.relative_to(PACKAGE).as_posix()
    for path in PACKAGE.rglob("*.py")
    if EXAMPLES not in path.parents
)

LAYERS = ("vocabulary", "numerics", "core", "shell")
VOCABULARY = {"closing.py", "compiling.py", "errors.py", "events.py", "records.py", "schema.py",
              "config.py", "quoting.py", "reasons.py", "typing.py"}  # fmt: skip
LIBRARIES = {
    "vocabulary": {"numpy", "msgspec"},
    "numerics": {"numpy", "msgspec", "jax", "flax", "optax", "scipy"},
    "core": {"numpy", "msgspec", "jax"},
}
WORLD = {
    "asyncio", "builtins", "datetime", "io", "multiprocessing", "os", "pathlib", "queue", "random",
    "sched", "select", "selectors", "shutil", "signal", "socket", "sqlite3", "subprocess", "sys",
    "tempfile", "threading", "time", "urllib", "zmq",
}  # fmt: skip
"""Clocks, files, sockets, threads and chance: for the shell alone."""

ALLOWED = {
    ("model/runtime.py", "os"),
    ("model/runtime.py", "threading"),
    ("closing.py", "os"),
    ("core/atomic.py", "sys"),
    ("core/clock.py", "datetime"),
    ("schema.py", "datetime"),
    ("core/stepper.py", "datetime"),
}
"""XLA is set up by an environment variable; buffers that are written belong to one thread; JAX
does not survive a fork; stacks tell a call in progress from a torn one; dates are values."""

FORBIDDEN_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__"}
MAX_LINES = 700


def layer_of(module: str) -> str:
    """The layer of a module, named by its path below the package."""
    if module in VOCABULARY:
        return "vocabulary"
    return {"model": "numerics", "core": "core"}.get(module.split("/")[0], "shell")


def imports(module: str, source: str) -> set[str]:
    """Dotted names of what a module imports; this package's own start with a dot."""
    found: set[str] = set()
    parents = module.split("/")[:-1]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            if not node.level:
                found.add(node.module or "")
                continue
            base = parents[: len(parents) - node.level + 1]
            whole = ".".join([*base, *(node.module or "").split(".")]).strip(".")
            found |= {f".{whole}.{alias.name}".replace("..", ".") for alias in node.names}
    return {
        name.replace("stream_lstm", "", 1) if name.split(".")[0] == "stream_lstm" else name
        for name in found
    }


def owner(name: str) -> str:
    """The module of this package that a name starting with a dot is, or is in."""
    parts = name.strip(".").split(".")
    for end in range(len(parts), 0, -1):
        path = "/".join(parts[:end])
        if f"{path}.py" in MODULES:
            return f"{path}.py"
    package = "/".join([*parts[:1], "__init__.py"])
    return package if package in MODULES else "__init__.py"


def called(node: ast.AST) -> str:
    """The dotted name of what is called, as it is written."""
    return ast.unparse(node.func) if isinstance(node, ast.Call) else ""


def faults(module: str, source: str) -> list[str]:
    """What is wrong with a module, in sentences."""
    layer, out = layer_of(module), []
    for name in sorted(imports(module, source)):
        top = name.split(".")[0]
        if name.startswith("."):
            target = layer_of(owner(name))
            if name == ".__version__":
                continue
            bare = owner(name) == "__init__.py"
            if not bare and LAYERS.index(target) > LAYERS.index(layer):
                out.append(f"{module} ({layer}) imports {name} ({target})")
            if bare and layer != "shell":
                out.append(f"{module} ({layer}) imports the whole package")
        elif top in FORBIDDEN_MODULES:
            out.append(f"{module} imports {top}")
        elif layer != "shell":
            known = top in LIBRARIES[layer] or top in sys.stdlib_module_names
            if (top in WORLD and (module, top) not in ALLOWED) or not known:
                out.append(f"{module} ({layer}) imports {name}")
    for node in ast.walk(ast.parse(source)):
        name = called(node)
        if name in FORBIDDEN_CALLS or name in ("time.sleep", "sleep"):
            out.append(f"{module} calls {name}")
        unseeded = name == "np.random.default_rng" and not node.args  # type: ignore[attr-defined]
        if layer != "shell" and (name in ("open", "input", "print") or unseeded):
            out.append(f"{module} ({layer}) calls {name}")
    lines = source.count("\n")
    if lines > MAX_LINES:
        out.append(f"{module} has {lines} lines")
    return out


@pytest.mark.slow
@pytest.mark.parametrize("module", MODULES)
def test_a_module_keeps_to_its_layer(module: str) -> None:
    assert faults(module, (PACKAGE / module).read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("events.py", "import jax"),
        ("config.py", "from .model.cell import lstm"),
        ("config.py", "from .core import session"),
        ("model/cell.py", "from ..core.tape import Tape"),
        ("model/cell.py", "import torch"),
        ("core/tape.py", "from ..feed.wire import decode"),
        ("core/tape.py", "from .. import cli"),
        ("core/tape.py", "from stream_lstm.serve import daemon"),
        ("core/tape.py", "import stream_lstm.feed"),
        ("core/tape.py", "from .. import Predictor"),
        ("core/tape.py", "def f():\n    import time"),
        ("core/tape.py", "from datetime import datetime"),
        ("core/tape.py", "from pathlib import Path"),
        ("core/tape.py", "import threading"),
        ("core/tape.py", "import zmq"),
        ("core/tape.py", "open('x')"),
        ("core/tape.py", "import numpy as np\nnp.random.default_rng()"),
        ("store/rows.py", "import pickle"),
        ("store/rows.py", "from pickle import loads"),
        ("store/rows.py", "eval('1')"),
        ("serve/daemon.py", "import time\ntime.sleep(1)"),
        ("serve/daemon.py", "\n" * 701),
    ],
)
def test_the_check_sees_a_module_that_does_not(module: str, source: str) -> None:
    assert len(faults(module, source)) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("model/cell.py", "import math\nimport jax.numpy as jnp\nfrom ..config import Mode"),
        ("core/tape.py", "from . import ledger\nfrom ..model.engine import Engine"),
        ("feed/wire.py", "import os, time, zmq\nfrom ..core.session import Session"),
        ("cli/main.py", "from .. import __version__\nfrom . import run\nopen('x')"),
        ("model/engine.py", "import re\nre.match('a', 'b')\nmodel.evaluate()"),
    ],
)
def test_the_check_lets_a_good_module_be(module: str, source: str) -> None:
    assert faults(module, source) == []


def test_every_folder_is_known() -> None:
    """A new folder is shell until this test is told otherwise."""
    folders = {module.split("/")[0] for module in MODULES if "/" in module}
    assert folders <= {"model", "core", "feed", "store", "serve", "view", "interop", "cli"}
    assert {module for module in MODULES if "/" not in module} == {
        "__init__.py",
        "__main__.py",
        "platform.py",
        *VOCABULARY,
    }
