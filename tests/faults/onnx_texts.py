"""Small ONNX models with graphs inside nodes, functions, whole numbers and steps, as text."""

import numpy as np
import onnx
from onnx import numpy_helper, parser

TEXTS = {
    "branches": """
<ir_version: 9, opset_import: ["" : 18]>
g (float[N, 4] x) => (float[N, 4] y) <float[4] w = {1., 2., 3., 4.}> {
  zero = Constant <value_int: int = 0> ()
  n = Shape (x)
  k = Gather <axis = 0> (n, zero)
  c = Greater (k, zero)
  p = If (c) <then_branch = t () => (float[N, 4] a) <float[4] v = {1., 2., 2., 1.}> {
                b = Mul (x, v)
                a = Add (b, w)
              },
              else_branch = e () => (float[N, 4] d) { d = Mul (x, w) }>
  m = ReduceMax <keepdims = 0> (p)
  half = Constant <value_float: float = 0.5> ()
  q = Greater (m, half)
  y = If (q) <then_branch = t () => (float[N, 4] a) { a = Tanh (p) },
              else_branch = e () => (float[N, 4] d) { d = Mul (p, w) }>
}""",
    "loops": """
<ir_version: 9, opset_import: ["" : 18]>
g (float[N, 3] x) => (float[N, 3] y)
<float[3, 3] w = {0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9}, float[3] u = {1., 2., 3.}> {
  most = Constant <value_int: int = 3> ()
  true = Constant <value: tensor = bool {1}> ()
  h, every = Loop (most, true, x) <
    body = b (int64 i, bool go, float[N, 3] s) => (bool on, float[N, 3] k, float[N, 3] out) {
      m = MatMul (s, w)
      k = Tanh (m)
      out = Mul (k, u)
      on = Identity (go)
    }>
  last, z = Scan <num_scan_inputs = 1,
    body = b (float[N, 3] s, float[N, 3] e) => (float[N, 3] k, float[N, 3] out) {
      k = Add (s, e)
      out = Mul (k, u)
    }> (h, every)
  y = ReduceSum <keepdims = 0> (z, axes)
  axes = Constant <value_ints: ints = [0]> ()
}""",
    "functions": """
<ir_version: 9, opset_import: ["" : 18, "own" : 1]>
g (float[N, 4] x) => (float[N, 4] y) <float[4] w = {1., 2., 3., 4.}> {
  h = own.outer <by: float = 0.5> (x, w)
  y = own.scaled <by: float = 2.> (h, w)
}
<domain: "own", opset_import: ["" : 18]>
scaled <by> (a, b) => (c) {
  k = Constant <value_float: float = @by> ()
  p = Mul (a, b)
  c = Mul (p, k)
}
<domain: "own", opset_import: ["" : 18, "own" : 1]>
outer <by> (a, b) => (c) {
  s = own.scaled <by: float = @by> (a, b)
  c = Tanh (s)
}""",
    "old": """
<ir_version: 6, opset_import: ["" : 11]>
g (float[N, 4] x) => (float[N, 4] y) <float[4] w = {1., 2., 3., 4.}> {
  h = Mul (x, w)
  u = Unsqueeze <axes = [2]> (h)
  s = Softmax <axis = 1> (u)
  y = Squeeze <axes = [2]> (s)
}""",
    "quantised": """
<ir_version: 9, opset_import: ["" : 18]>
g (float[N, 2] x) => (float[N, 2] y)
<int8[2, 2] w_q = {1, -2, 30, 4}, float s = {0.1}, uint8 z = {3},
 float[2, 2] v = {1., 2., 3., 4.}> {
  q = QuantizeLinear (x, s, z)
  d = DequantizeLinear (q, s, z)
  f = Cast <to = 1> (w_q)
  w = Mul (f, s)
  h = MatMul (d, w)
  r, rs, rz = DynamicQuantizeLinear (h)
  m = MatMulInteger (r, w_q, rz)
  a = Cast <to = 1> (m)
  b = Mul (a, rs)
  c = MatMul (b, v)
  y = Tanh (c)
}""",
    "steps": """
<ir_version: 9, opset_import: ["" : 18]>
g (float[N, 3, 2] x) => (float[N, 2] y)
<float[1, 8, 2] W = {1., 2., 3., 4., 5., 6., 7., 8., 1., 2., 3., 4., 5., 6., 7., 8.},
 float[1, 8, 2] R = {1., 2., 3., 4., 5., 6., 7., 8., 1., 2., 3., 4., 5., 6., 7., 8.},
 float[4] scales = {1., 1., 2., 2.}, int64[1] first = {0}, int64[1] second = {1}> {
  t = Transpose <perm = [1, 0, 2]> (x)
  h, last = LSTM <hidden_size = 2> (t, W, R)
  p = Transpose <perm = [2, 1, 0, 3]> (h)
  q = Resize <mode = "linear"> (p, , scales)
  y = ReduceMean <keepdims = 0> (q, axes)
  axes = Constant <value_ints: ints = [1, 2]> ()
}""",
}


def models() -> dict[str, onnx.ModelProto]:
    """Models by name; of one input x, and with at least one parameter."""
    found = {name: _sorted(parser.parse_model(text)) for name, text in TEXTS.items()}
    sparse = parser.parse_model(
        '<ir_version: 9, opset_import: ["" : 18]> '
        "g (float[N, 3] x, float[3, 2] w) => (float[N, 2] y) { y = MatMul (x, w) }"
    )
    del sparse.graph.input[1]
    sparse.graph.sparse_initializer.append(
        onnx.SparseTensorProto(
            values=numpy_helper.from_array(np.array([3.0, 4.0], np.float32), "w"),
            indices=numpy_helper.from_array(np.array([[0, 1], [2, 0]])),
            dims=[3, 2],
        )
    )
    found["sparse"] = sparse
    for model in found.values():
        onnx.checker.check_model(model)
    return found


def _sorted(model: onnx.ModelProto) -> onnx.ModelProto:
    """With constants first."""
    nodes = sorted(model.graph.node, key=lambda node: node.op_type != "Constant")
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model
