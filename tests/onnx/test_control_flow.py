"""Branches, loops and functions in ONNX files, as onnxruntime runs them."""

import mlx.core as mx
import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import parser

from mlx_entk import InputError, SlowPathWarning, entk
from mlx_entk.onnx.importer import OnnxFunction, from_model
from tests.reference import from_jacobian, relative_error

HEAD = '<ir_version: 9, opset_import: ["" : 18]>'
FUNCTIONS = '<ir_version: 9, opset_import: ["" : 18, "own" : 1]>'
X = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)


def model_of(text: str, head: str = HEAD) -> onnx.ModelProto:
    model: onnx.ModelProto = parser.parse_model(head + text)
    onnx.checker.check_model(model)
    return model


def by_runtime(model: onnx.ModelProto, **inputs: NDArray[np.generic]) -> NDArray[np.float32]:
    session = onnxruntime.InferenceSession(model.SerializeToString())
    (output,) = session.run(None, inputs)
    return np.asarray(output)


def require_same(model: onnx.ModelProto, x: NDArray[np.float32] = X) -> OnnxFunction:
    """The output is onnxruntime's, and the kernel that of finite differences."""
    function = from_model(model)
    output = np.array(function(function.params, mx.array(x)))
    np.testing.assert_allclose(output, by_runtime(model, x=x), rtol=1e-5, atol=1e-6)
    kernel = entk(function.parametric(), mx.array(x), reduction="full")
    assert relative_error(kernel, by_differences(function, x)) < 1e-3
    return function


def by_differences(function: OnnxFunction, x: NDArray[np.float32]) -> NDArray[np.float64]:
    """The kernel by central differences of the graph, one parameter at a time."""
    columns = []
    for name, weight in function.params.items():
        flat = np.array(weight).reshape(-1)
        for k in range(flat.size):
            ends = []
            for step in (1e-2, -1e-2):
                moved = flat.copy()
                moved[k] += step
                given = {**function.params, name: mx.array(moved.reshape(weight.shape))}
                output = np.array(function(given, mx.array(x)), np.float64)
                ends.append(output.reshape(len(x), -1))
            columns.append((ends[0] - ends[1]) / 2e-2)
    return from_jacobian(np.stack(columns, axis=-1))


BRANCHES = """
g (float[N, 4] x) => (float[N, 4] y) <float[4] w = {1., 2., 3., 4.}> {
  one = Constant <value_float: float = 1.> ()
  %s
  y = If (c) <
    then_branch = t () => (float[N, 4] a) <float[4] v = {0.5, 0.4, 0.3, 0.2}> {
      b = Mul (x, w)
      a = Mul (b, v)
    },
    else_branch = e () => (float[N, 4] d) {
      u = Constant <value_floats: floats = [3., 2., 1., 0.5]> ()
      d = Mul (x, u)
    }>
}"""


@pytest.mark.parametrize(
    ("condition", "moving"),
    [
        ("n = Shape (x)\n k = Gather <axis = 0> (n, z)\n c = Greater (k, z)", {"v", "w"}),
        ("n = Shape (x)\n k = Gather <axis = 0> (n, z)\n c = Less (k, z)", {"u"}),
    ],
)
def test_a_branch_whose_condition_is_known_is_taken(condition: str, moving: set[str]) -> None:
    zero = "z = Constant <value_int: int = 0> ()\n "
    function = require_same(model_of(BRANCHES % (zero + condition)))

    kernels = {
        name: entk(function.parametric(), mx.array(X), parameters=name, reduction="trace")
        for name in function.params
    }
    assert function.params.keys() == {"u", "v", "w"}  # of both branches, under names of their own
    assert {name for name, kernel in kernels.items() if np.abs(kernel).max() > 0} == moving


def test_a_branch_that_the_file_decides_has_the_only_parameters() -> None:
    """As a sampling rate that is given with the file."""
    text = BRANCHES % "k = Neg (one)\n zero = Constant <value_float: float = 0.> ()"
    function = require_same(model_of(text.replace("If (c)", "If (f)").replace(
        "  y = If", "  c = Less (k, zero)\n  f = Not (c)\n  y = If"
    )))  # fmt: skip

    assert function.params.keys() == {"u"}
    assert {"v", "w"} <= {c.name for c in function.candidates.judged if c.kind == "unused"}


def test_a_condition_that_depends_on_the_input_takes_either_branch() -> None:
    text = BRANCHES % "s = ReduceSum <keepdims = 0> (x)\n m = Abs (one)\n c = Greater (s, m)"
    model = model_of(text)
    function = from_model(model)

    for x in (X[:1], -X[:1], np.abs(X[:1]), -np.abs(X[:1])):
        output = np.array(function(function.params, mx.array(x)))
        np.testing.assert_allclose(output, by_runtime(model, x=x), rtol=1e-6)
    # In one run all inputs would take one branch, so each has a run of its own.
    both = np.concatenate([np.abs(X), -np.abs(X)])
    with pytest.warns(SlowPathWarning, match="takes 1 input at a time"):
        kernel = entk(function.parametric(), mx.array(both), reduction="full")
    assert relative_error(kernel, by_differences(function, both)) < 1e-3
    output = np.array(function({}, mx.array(both)))
    expected = np.concatenate([by_runtime(model, x=row[None]) for row in both])
    np.testing.assert_allclose(output, expected, rtol=1e-6)


def test_branches_of_one_name_do_not_get_mixed_up() -> None:
    """Both branches call their weight v."""
    text = """
    g (float[N, 2] x) => (float[N, 2] y) {
      zero = Constant <value_int: int = 0> ()
      n = Shape (x)
      k = Gather <axis = 0> (n, zero)
      c = Greater (k, zero)
      p = If (c) <then_branch = t () => (float[N, 2] a) <float[2] v = {2., 3.}> { a = Mul (x, v) },
                  else_branch = e () => (float[N, 2] a) <float[2] v = {5., 7.}> { a = Add (x, v) }>
      d = Not (c)
      y = If (d) <then_branch = t () => (float[N, 2] a) <float[2] v = {1., 1.}> { a = Mul (p, v) },
                  else_branch = e () => (float[N, 2] a) <float[2] v = {4., 6.}> { a = Mul (p, v) }>
    }"""
    function = require_same(model_of(text), X[:, :2])

    assert len(function.params) == 4


LOOP = """
g (float[N, 4] x) => (float[N, 4] y, float[R, N, 4] every) <float[4, 4] w = {%s}> {
  most = Constant <value_int: int = %d> ()
  true = Constant <value: tensor = bool {1}> ()
  y, every = Loop (most, true, x) <
    body = b (int64 i, bool go, float[N, 4] h) => (bool on, float[N, 4] k, float[N, 4] out) {
      m = MatMul (h, w)
      k = Tanh (m)
      out = Identity (k)
      %s
    }>
}"""
WEIGHT = ", ".join(f"{value:.3f}" for value in np.random.default_rng(1).standard_normal(16))


@pytest.mark.parametrize(
    "going", ["on = Identity (go)", "t = Constant <value_int: int = 1> ()\n on = Less (i, t)"]
)
def test_the_rounds_of_a_loop(going: str) -> None:
    model = model_of(LOOP % (WEIGHT, 3, going))
    rounds = 3 if "Identity" in going else 2

    session = onnxruntime.InferenceSession(model.SerializeToString())
    expected = session.run(None, {"x": X})
    function = from_model(model)
    outputs = function.run(function.params, [mx.array(X)])
    for ours, theirs in zip(outputs, expected, strict=True):
        np.testing.assert_allclose(np.array(ours), theirs, rtol=1e-5, atol=1e-6)
    assert outputs[1].shape[0] == rounds
    kernel = entk(function.parametric(), mx.array(X), reduction="full")
    assert relative_error(kernel, by_differences(function, X)) < 1e-3


def test_a_loop_that_nobody_could_finish_is_refused() -> None:
    data = "s = ReduceSum <keepdims = 0> (h)\n z = CastLike (i, s)\n on = Greater (s, z)"
    for text, message in (
        (LOOP % (WEIGHT, 2**40, "on = Identity (go)"), "chain of more than|takes more than"),
        (LOOP % (WEIGHT, 3, data), "the number of rounds depends on the data"),
    ):
        with pytest.raises(InputError, match=message):
            from_model(model_of(text)).parametric().apply({}, mx.array(X))


SCAN = """
g (float[N, 5, 2] x) => (float[N, 2] y, float[N, 5, 2] every)
<float[2, 2] w = {0.3, 0.9, -0.7, 0.2}> {
  zero = Constant <value: tensor = float[1, 2] {0, 0}> ()
  n = Shape <start = 0, end = 1> (x)
  two = Constant <value_ints: ints = [2]> ()
  sizes = Concat <axis = 0> (n, two)
  first = Expand (zero, sizes)
  y, every = Scan <num_scan_inputs = 1, scan_input_axes = [1], scan_output_axes = [1],
                   scan_input_directions = [%(back)d], scan_output_directions = [%(back)d],
    body = b (float[N, 2] h, float[N, 2] e) => (float[N, 2] k, float[N, 2] out) {
      m = MatMul (h, w)
      s = Add (m, e)
      k = Tanh (s)
      out = Identity (k)
    }> (first, x)
}"""


def test_a_loop_of_no_rounds_gives_what_it_was_given() -> None:
    function = from_model(model_of(LOOP % (WEIGHT, 0, "on = Identity (go)")))

    np.testing.assert_array_equal(np.array(function({}, mx.array(X))), X)


EMPTY = """
g (float[N, 4] x) => (float[N, 4] y) <float[4] w = {1., 2., 3., 4.}> {
  %s
  true = Constant <value: tensor = bool {1}> ()
  u = Loop (%s, true, x) <
    body = b (int64 i, bool go, float[N, 4] h) => (bool on, float[N, 4] k) {
      on = Identity (go)
      k = Identity (h)
    }>
  y = Mul (u, w)
}"""


@pytest.mark.parametrize(
    ("most", "name"), [("m = Constant <value_int: int = 1099511627776> ()", "m"), ("", "")]
)
def test_rounds_that_do_nothing_count_as_well(most: str, name: str) -> None:
    function = from_model(parser.parse_model(HEAD + EMPTY % (most, name)))

    with pytest.raises(InputError, match=r"chain of more than|takes more than"):
        function({}, mx.array(X))


def test_calls_of_a_function_share_its_weights() -> None:
    text = """
    g (float[N, 2] x) => (float[N, 2] y) {
      h = own.layer (x)
      t = Tanh (h)
      y = own.layer (t)
    }
    <domain: "own", opset_import: ["" : 18]>
    layer (a) => (c) {
      w = Constant <value: tensor = float[2, 2] {0.5, -1.0, 0.25, 0.75}> ()
      c = MatMul (a, w)
    }"""
    function = require_same(model_of(text, FUNCTIONS), X[:, :2])

    assert list(function.params) == ["w"]


@pytest.mark.parametrize("backwards", [0, 1])
def test_a_scan_along_a_sequence(backwards: int) -> None:
    text = SCAN % {"back": backwards}
    x = np.random.default_rng(2).standard_normal((3, 5, 2)).astype(np.float32)
    model = model_of(text)

    expected = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": x})
    function = from_model(model)
    for ours, theirs in zip(function.run({}, [mx.array(x)]), expected, strict=True):
        np.testing.assert_allclose(np.array(ours), theirs, rtol=1e-5, atol=1e-6)
    kernel = entk(function.parametric(), mx.array(x), reduction="full")
    assert relative_error(kernel, by_differences(function, x)) < 1e-3


def test_functions_of_a_file_are_written_out() -> None:
    text = """
    g (float[N, 4] x) => (float[N, 4] y) <float[4] w = {1., 2., 3., 4.}> {
      h = own.scaled <by: float = 0.5> (x, w)
      y = own.scaled <by: float = 2.> (h, w)
    }
    <domain: "own", opset_import: ["" : 18]>
    scaled <by> (a, b) => (c) {
      k = Constant <value_float: float = @by> ()
      p = Mul (a, b)
      c = Mul (p, k)
    }"""
    function = require_same(model_of(text, FUNCTIONS))

    assert function.params.keys() == {"w"}


def test_functions_that_multiply_without_end_are_refused() -> None:
    parts = [
        f'<domain: "own", opset_import: ["" : 18, "own" : 1]>\n'
        f"f{k} (a) => (c) {{ b = own.f{k + 1} (a)\n c = own.f{k + 1} (b) }}"
        for k in range(40)
    ]
    parts.append('<domain: "own", opset_import: ["" : 18]>\nf40 (a) => (c) { c = Neg (a) }')
    text = "g (float[N, 4] x) => (float[N, 4] y) { y = own.f0 (x) }\n" + "\n".join(parts)
    model = parser.parse_model(FUNCTIONS + text)

    with pytest.raises(InputError, match="more than 200,000 nodes"):
        from_model(model)
    model.functions[-1].node[0].op_type, model.functions[-1].node[0].domain = "f0", "own"
    with pytest.raises(InputError, match=r"calls itself|functions written out"):
        from_model(model)
