"""The list of peers: what each is called, where it is, and what it needs to be installed."""

from __future__ import annotations

import importlib.util
import shutil
from typing import NamedTuple


class Peer(NamedTuple):
    """`module` is a file here, `packages` what it imports, `kinds` the benchmarks it is in."""

    module: str
    packages: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ("step", "stride", "sequence")


PEERS = {
    "NumPy by hand": Peer("numpy_cell", kinds=("step", "stride")),
    "numba": Peer("numba_cell", ("numba",)),
    "ONNX Runtime": Peer("onnx_lstm", ("onnxruntime", "onnx")),
    "ONNX Runtime, bound": Peer("onnx_bound", ("onnxruntime", "onnx"), ("step",)),
    "torch eager LSTMCell": Peer("torch_cell", ("torch",), ("step",)),
    "torch.jit LSTMCell": Peer("torch_jit", ("torch",), ("step",)),
    "torch nn.LSTM": Peer("torch_lstm", ("torch",), ("sequence",)),
    "Keras, predict_on_batch": Peer("keras_lstm", ("keras",), ("step",)),
    "Keras, jitted": Peer("keras_jit", ("keras",), ("step",)),
    "C loop": Peer("c_cell"),
    "deep-river": Peer("deep_river_lstm", ("deep_river", "river", "torch"), ("learn",)),
}

HOW = {
    "deep_river": "pip install 'river<0.26' pandas sortedcontainers torch, then pip install "
    "--no-deps deep-river: it asks for an older torch than it needs",
}
"""How to install what `pip install` of its own name does not."""

COMPILERS = ("cc", "gcc", "clang")


def compiler() -> str | None:
    """Return the path of a C compiler, None where there is none."""
    return next((path for name in COMPILERS if (path := shutil.which(name))), None)


def missing(peer: Peer) -> str:
    """Return why a peer cannot run here, "" where it can."""
    lacking = [name for name in peer.packages if importlib.util.find_spec(name) is None]
    special = [HOW[name] for name in lacking if name in HOW]
    if special:
        return f"not installed ({special[0]})"
    if lacking:
        return f"not installed (pip install {' '.join(lacking)})"
    if peer.module == "c_cell" and compiler() is None:
        return f"no C compiler found ({', '.join(COMPILERS)})"
    return ""
