"""The graph of one step: its form, and its numbers where each runtime is installed."""

import sys

import numpy as np
import pytest

from stream_lstm.interop.onnx_graph import onnx_bytes, onnx_logits
from stream_lstm.interop.source import pack

from .networks import network

onnx = pytest.importorskip("onnx")


@pytest.fixture(scope="module")
def data():
    return onnx_bytes(onnx, pack(network((3, 3))), '["a","b"]')


def test_the_graph_is_one_step_with_its_state_as_input_and_output(data):
    model = onnx.load_from_string(data)
    onnx.checker.check_model(model, full_check=True)

    def shapes(values):
        return {v.name: tuple(d.dim_value for d in v.type.tensor_type.shape.dim) for v in values}

    assert shapes(model.graph.input) == {"x": (1, 2), "h": (2, 1, 3), "c": (2, 1, 3)}
    assert shapes(model.graph.output) == {
        "logit": (1, 1), "p": (1, 1), "h_out": (2, 1, 3), "c_out": (2, 1, 3),
    }  # fmt: skip
    assert [(o.domain, o.version) for o in model.opset_import] == [("", 13)]
    assert {p.key: p.value for p in model.metadata_props} == {"features": '["a","b"]'}
    assert "scaling is not in the graph" in model.doc_string


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("runtime", ["reference", "onnxruntime"])
def test_a_runtime_computes_what_we_compute(data, runtime, monkeypatch):
    if runtime == "reference":
        monkeypatch.setitem(sys.modules, "onnxruntime", None)
    else:
        pytest.importorskip("onnxruntime")
    xs = np.random.default_rng(0).normal(size=(2, 40, 2)).astype(np.float32)
    name, logits = onnx_logits(onnx, data, xs)
    assert ("reference" in name) == (runtime == "reference")
    np.testing.assert_allclose(logits, network((3, 3)).logits(xs), rtol=0, atol=1e-5)


def test_p_is_the_sigmoid_of_the_logit(data):
    from onnx.reference import ReferenceEvaluator

    zero = np.zeros((2, 1, 3), np.float32)
    feed = {"x": np.ones((1, 2), np.float32), "h": zero, "c": zero}
    logit, p = ReferenceEvaluator(onnx.load_from_string(data)).run(["logit", "p"], feed)
    assert p[0, 0] == pytest.approx(1 / (1 + np.exp(-logit[0, 0])))
