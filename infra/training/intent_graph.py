"""The intent classifier as one ONNX graph: vectors and n-grams in, label and calibrated confidence out."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from infra.training.calibrating import Calibration
from infra.training.intent_net import GRAM_SCALE, IntentNet

OPSET, IR = 17, 8  # what onnxruntime 1.14 and later read
_EDGE = 1e-6


def graph(nets: list[IntentNet], calibration: Calibration, out_of_scope: int | None) -> bytes:
    """The model's bytes. `out_of_scope`: index of that class, the last one, or None.

    Inputs: `vectors` (n, dimensions) float32, `ngrams` (n, most) int64. Outputs: `label` (n) int64 and `confidence` (n) float32. Where
    out of scope is the likeliest, it is the label, and its probability the confidence. The tables of n-grams are 8-bit numbers with a
    scale for each column: a quarter of the size.
    """
    made = _Graph()
    each = [made.network(net, str(number)) for number, net in enumerate(nets)]
    mean = made.node("Mean", each) if len(each) > 1 else each[0]
    made.answer(mean, nets[0].out.out_features, calibration, out_of_scope)
    inputs = [
        helper.make_tensor_value_info("vectors", TensorProto.FLOAT, ["n", nets[0].hidden.in_features - nets[0].grams.embedding_dim]),
        helper.make_tensor_value_info("ngrams", TensorProto.INT64, ["n", "most"]),
    ]
    outputs = [
        helper.make_tensor_value_info("label", TensorProto.INT64, ["n"]),
        helper.make_tensor_value_info("confidence", TensorProto.FLOAT, ["n"]),
    ]
    whole = helper.make_graph(made.nodes, "intents", inputs, outputs, made.constants)
    model = helper.make_model(whole, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR, producer_name="headrace")
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


class _Graph:
    """Nodes and constants, with names counted up."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def node(self, operation: str, inputs: list[str], name: str = "", **attributes: Any) -> str:
        name = name or f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(operation, inputs, [name], **attributes))
        return name

    def constant(self, value: NDArray[Any] | float) -> str:
        array = np.asarray(value, dtype=np.float32) if isinstance(value, float) else value
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(array, name))
        return name

    def network(self, net: IntentNet, number: str) -> str:
        """Probabilities (n, classes) of one network."""
        table, scale = _in_8_bits(net.grams.weight.detach().numpy())
        rows = self.node("Gather", [self.constant(table), "ngrams"], axis=0)
        axis = self.constant(np.array([1], dtype=np.int64))
        summed = self.node("Mul", [self._summed(self.node("Cast", [rows], to=TensorProto.FLOAT), axis, 0), self.constant(scale)])
        present = self.node("Less", ["ngrams", self.constant(np.array(net.buckets, dtype=np.int64))])
        count = self._summed(self.node("Cast", [present], to=TensorProto.FLOAT), axis, 1)
        root = self.node("Sqrt", [self.node("Max", [count, self.constant(1.0)])])
        grams = self.node("Div", [self.node("Mul", [summed, self.constant(GRAM_SCALE)]), root])
        dimensions = net.hidden.in_features - net.grams.embedding_dim
        vectors = self.node("Mul", ["vectors", self.constant(float(dimensions**0.5))])
        both = self.node("Concat", [vectors, grams], axis=1)
        hidden = self._linear(both, net.hidden.weight.detach().numpy(), net.hidden.bias.detach().numpy())
        erf = self.node("Erf", [self.node("Mul", [hidden, self.constant(2**-0.5)])])
        halved = self.node("Mul", [self.node("Mul", [hidden, self.constant(0.5)]), self.node("Add", [erf, self.constant(1.0)])])
        logits = self._linear(halved, net.out.weight.detach().numpy(), net.out.bias.detach().numpy())
        return self.node("Softmax", [logits], name=f"probabilities{number}", axis=1)

    def answer(self, mean: str, classes: int, calibration: Calibration, out_of_scope: int | None) -> None:
        """Label and confidence of the probabilities (n, classes)."""
        self.node("ArgMax", [mean], name="label", axis=1, keepdims=0)
        best = self.node("ReduceMax", [mean], axes=[1], keepdims=0)
        inside = self.node("Clip", [best, self.constant(_EDGE), self.constant(1 - _EDGE)])
        odds = self.node("Log", [self.node("Div", [inside, self.node("Sub", [self.constant(1.0), inside])])])
        line = self.node("Add", [self.node("Mul", [odds, self.constant(calibration.slope)]), self.constant(calibration.shift)])
        if out_of_scope is None:
            self.node("Sigmoid", [line], name="confidence")
            return
        assert out_of_scope == classes - 1
        sure = self.node("Sigmoid", [line])
        outside = self.node("Equal", ["label", self.constant(np.array(out_of_scope, dtype=np.int64))])
        self.node("Where", [outside, best, sure], name="confidence")

    def _summed(self, what: str, axis: str, keep: int) -> str:
        return self.node("ReduceSum", [what, axis], keepdims=keep)

    def _linear(self, what: str, weight: NDArray[np.float32], bias: NDArray[np.float32]) -> str:
        return self.node("Add", [self.node("MatMul", [what, self.constant(np.ascontiguousarray(weight.T))]), self.constant(bias)])


def _in_8_bits(table: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """The table as 8-bit numbers and the scale of each column. Values beyond 4 deviations are cut, since few may not coarsen all."""
    scale = np.minimum(np.abs(table).max(0), 4 * table.std(0)).astype(np.float32) / 127 + np.float32(1e-12)
    return np.clip(np.round(table / scale), -127, 127).astype(np.int8), scale
