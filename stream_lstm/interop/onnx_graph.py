"""Our network as an ONNX graph of one step, its state going in and coming out.

```
x (1, F), h (L, 1, H), c (L, 1, H)  ->  logit (1, 1), p (1, 1), h_out (L, 1, H), c_out (L, 1, H)
```

The graph has plain operators only (Gemm, Split, Sigmoid, Tanh, ...) of operator set 13, which
every recent runtime supports. The scaler is not in the graph: x is the scaled input.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..typing import Float64s
from .extras import installed
from .source import SourceLayer, SourceNetwork, unpack

OPSET = 13
IR_VERSION = 8

ABOUT = (
    "One step of an LSTM that is carried along a series: feed h_out and c_out back as h and c, "
    "zeros at the start. x is the scaled input: scaling is not in the graph."
)


def onnx_bytes(onnx: Any, weights: Mapping[str, Mapping[str, Any]], features: str) -> bytes:
    """Return the file; `features` is the JSON list of the features in x, "" if unknown."""
    network = unpack(weights, "")
    builder = _Builder(onnx)
    x, hs, cs = "x", [], []
    for k, layer in enumerate(network.layers):
        x, c = builder.layer(k, layer, x)
        hs.append(builder.node("Unsqueeze", [x, builder.constant("axis", [0])], f"h_{k}_out"))
        cs.append(builder.node("Unsqueeze", [c, "axis"], f"c_{k}_out"))
    builder.constant("head.kernel", np.float32(network.head.kernel))
    builder.constant("head.bias", np.float32(network.head.bias))
    builder.node("Gemm", [x, "head.kernel", "head.bias"], "logit")
    builder.node("Sigmoid", ["logit"], "p")
    builder.node("Concat", hs, "h_out", axis=0)
    builder.node("Concat", cs, "c_out", axis=0)
    data: bytes = builder.model(network, features).SerializeToString()
    return data


class _Builder:
    def __init__(self, onnx: Any) -> None:
        self._onnx = onnx
        self._nodes: list[Any] = []
        self._constants: dict[str, Any] = {}

    def constant(self, name: str, value: Any) -> str:
        array = np.asarray(value)
        self._constants[name] = self._onnx.numpy_helper.from_array(array, name)
        return name

    def node(self, kind: str, inputs: list[str], *outputs: str, **attributes: Any) -> str:
        self._nodes.append(self._onnx.helper.make_node(kind, inputs, outputs, **attributes))
        return outputs[0]

    def layer(self, k: int, layer: SourceLayer, x: str) -> tuple[str, str]:
        """Add a layer; return the names of its h' and c', each (1, H)."""
        at = f"layer_{k}"
        both = np.concatenate([layer.kernel, layer.recurrent])
        kernel = self.constant(f"{at}.kernel", np.float32(both))
        bias = self.constant(f"{at}.bias", np.float32(layer.biases[0]))
        index = self.constant(f"{at}.index", np.int64(k))
        h = self.node("Gather", ["h", index], f"{at}.h", axis=0)
        c = self.node("Gather", ["c", index], f"{at}.c", axis=0)
        joined = self.node("Concat", [x, h], f"{at}.input", axis=1)
        z = self.node("Gemm", [joined, kernel, bias], f"{at}.z")
        self.node("Split", [z], *(f"{at}.z_{gate}" for gate in "ifgo"), axis=1)
        i, f, g, o = (
            self.node("Tanh" if gate == "g" else "Sigmoid", [f"{at}.z_{gate}"], f"{at}.{gate}")
            for gate in "ifgo"
        )
        old = self.node("Mul", [f, c], f"{at}.old")
        new = self.node("Mul", [i, g], f"{at}.new")
        c = self.node("Add", [old, new], f"{at}.c_next")
        squashed = self.node("Tanh", [c], f"{at}.squashed")
        return self.node("Mul", [o, squashed], f"{at}.h_next"), c

    def model(self, network: SourceNetwork, features: str) -> Any:
        helper, single = self._onnx.helper, self._onnx.TensorProto.FLOAT
        state = (len(network.layers), 1, network.layers[0].units)

        def values(shapes: Mapping[str, tuple[int, ...]]) -> list[Any]:
            return [helper.make_tensor_value_info(n, single, s) for n, s in shapes.items()]

        graph = helper.make_graph(
            self._nodes,
            "stream_lstm_step",
            values({"x": (1, network.features), "h": state, "c": state}),
            values({"logit": (1, 1), "p": (1, 1), "h_out": state, "c_out": state}),
            list(self._constants.values()),
        )
        opset = helper.make_opsetid("", OPSET)
        model = helper.make_model(graph, opset_imports=[opset], producer_name="stream-lstm")
        model.ir_version = IR_VERSION
        model.doc_string = ABOUT
        if features:
            helper.set_model_props(model, {"features": features})
        self._onnx.checker.check_model(model)
        return model


def onnx_logits(onnx: Any, data: bytes, xs: Any) -> tuple[str, Float64s]:
    """Return (name of the runtime, logits (B, T)) of such a file over inputs xs (B, T, F)."""
    model = onnx.load_from_string(data)
    runtime = installed("onnxruntime")
    if runtime is not None:
        session = runtime.InferenceSession(data, providers=["CPUExecutionProvider"])
        name = f"ONNX Runtime {runtime.__version__}"
    else:
        from importlib import import_module

        session = import_module("onnx.reference").ReferenceEvaluator(model)
        name = f"the reference of ONNX {onnx.__version__}"
    dims = model.graph.input[1].type.tensor_type.shape.dim
    zero = np.zeros([dim.dim_value for dim in dims], np.float32)
    logits = np.zeros(xs.shape[:2])
    for b, series in enumerate(xs):
        h = c = zero
        for t, x in enumerate(series):
            feed = {"x": x[None], "h": h, "c": c}
            logit, h, c = session.run(["logit", "h_out", "c_out"], feed)
            logits[b, t] = logit[0, 0]
    return name, logits
