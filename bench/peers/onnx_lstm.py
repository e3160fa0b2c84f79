"""ONNX's LSTM operator in ONNX Runtime, on one thread: a step is a series of one element.

ONNX orders gates i, o, f, c and keeps two biases; the state goes in and comes out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from .workload import HIDDEN as H
from .workload import Workload

OPSET, IR_VERSION = 14, 8


def _gates(rows: np.ndarray) -> np.ndarray:
    """Return rows (n, 4H) in our order of gates as (1, 4H, n) in theirs."""
    i, f, g, o = np.split(rows, 4, axis=1)
    return np.ascontiguousarray(np.concatenate([i, o, f, g], axis=1).T[None])


def _model(given: Workload) -> bytes:
    bias = _gates(given.kernel[-1:])[:, :, 0]
    constants = {
        "w": _gates(given.kernel[:1]),
        "r": _gates(given.kernel[1:-1]),
        "b": np.concatenate([bias, np.zeros_like(bias)], axis=1),
        "head": given.head[:-1, None],
        "head_bias": given.head[-1:],
        "flat": np.array([-1, H]),
    }
    lstm = ["x", "w", "r", "b", "", "h", "c"]
    nodes = [
        helper.make_node("LSTM", lstm, ["y", "h_out", "c_out"], hidden_size=H),
        helper.make_node("Reshape", ["y", "flat"], ["rows"]),
        helper.make_node("Gemm", ["rows", "head", "head_bias"], ["logit"]),
        helper.make_node("Sigmoid", ["logit"], ["p"]),
    ]

    def value(name: str, *shape: Any) -> Any:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    inputs = [value("x", "T", 1, 1), value("h", 1, 1, H), value("c", 1, 1, H)]
    outputs = [value("p", "T", 1), value("h_out", 1, 1, H), value("c_out", 1, 1, H)]
    tensors = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "lstm", inputs, outputs, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)])
    model.ir_version = IR_VERSION
    onnx.checker.check_model(model)
    data: bytes = model.SerializeToString()
    return data


def session(given: Workload) -> Any:
    """Return a session of one thread: x (T, 1, 1), h and c -> p (T, 1), h_out and c_out."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    providers = ["CPUExecutionProvider"]
    return onnxruntime.InferenceSession(_model(given), options, providers=providers)


def sequence(given: Workload) -> Callable[[np.ndarray], np.ndarray]:
    """Return the call for a block."""
    run = session(given).run
    names, zero = ["p", "h_out", "c_out"], np.zeros((1, 1, H), np.float32)
    h = c = zero

    def block(xs: np.ndarray) -> np.ndarray:
        nonlocal h, c
        p, h, c = run(names, {"x": xs[:, :, None], "h": h, "c": c})
        return np.asarray(p[:, 0])

    return block


def step(given: Workload) -> Callable[[np.ndarray], float]:
    """Return the call for one element."""
    block = sequence(given)
    return lambda x: float(block(x[None])[0])
