"""Networks with whole-number weights: onnxruntime's outputs, and the real weights' kernel."""

from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper, parser
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)

from mlx_entk import InputError, SlowPathWarning, entk
from mlx_entk.onnx import load
from mlx_entk.onnx.importer import from_model
from tests.reference import relative_error

node = helper.make_node
RNG = np.random.default_rng(0)
X = RNG.standard_normal((4, 2, 6, 6)).astype(np.float32)


def network(path: Path) -> onnx.ModelProto:
    """A convolution and two dense layers; the batch is free."""
    weights = {
        "conv": RNG.standard_normal((3, 2, 3, 3)) / 3, "bias": RNG.standard_normal(3),
        "dense": RNG.standard_normal((48, 8)) / 5, "shift": RNG.standard_normal(8) / 5,
        "readout": RNG.standard_normal((8, 3)),
    }  # fmt: skip
    graph = helper.make_graph(
        [
            node("Conv", ["x", "conv", "bias"], ["a"], name="conv"),
            node("Relu", ["a"], ["b"]),
            node("Flatten", ["b"], ["c"]),
            node("MatMul", ["c", "dense"], ["d"], name="dense"),
            node("Add", ["d", "shift"], ["e"]),
            node("Relu", ["e"], ["f"]),
            node("MatMul", ["f", "readout"], ["y"], name="readout"),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 2, 6, 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3])],
        [numpy_helper.from_array(w.astype(np.float32), name) for name, w in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, path)
    return model


class Calibration(CalibrationDataReader):  # type: ignore[misc]
    """Inputs with a wider range than those of the tests, so that nothing is cut off."""

    def __init__(self) -> None:
        self.rest = iter([{"x": 1.5 * X}])

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        return next(self.rest, None)


def by_runtime(path: Path, x: NDArray[np.float32]) -> NDArray[np.float32]:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"x": x})[0])


STATIC: dict[str, dict[str, Any]] = {
    "QDQ": {"quant_format": QuantFormat.QDQ},
    "QDQ, by channel": {"quant_format": QuantFormat.QDQ, "per_channel": True},
    "QOperator": {"quant_format": QuantFormat.QOperator},
    "QOperator, unsigned": {
        "quant_format": QuantFormat.QOperator,
        "activation_type": QuantType.QUInt8,
        "weight_type": QuantType.QUInt8,
    },
}


@pytest.mark.parametrize("how", STATIC)
def test_statically_quantised_networks(how: str, tmp_path: Path) -> None:
    network(tmp_path / "float.onnx")
    path = tmp_path / "quantised.onnx"
    quantize_static(tmp_path / "float.onnx", path, Calibration(), **STATIC[how])
    model = onnx.load(path)
    if any(n.domain == "com.microsoft" for n in model.graph.node):
        with pytest.raises(InputError, match="without an MLX counterpart: com"):
            load(path)
        return

    with pytest.raises(InputError, match=r"is stored as u?int8, which has no derivative"):
        load(path).parametric()
    function = load(path, parameters=["*"])
    output, expected = np.array(function(function.params, mx.array(X))), by_runtime(path, X)
    # A value on the edge between two whole numbers may be rounded to the other one.
    assert np.abs(output - expected).max() < 0.02 * np.abs(expected).max()
    assert np.mean(np.abs(output - expected) < 1e-5) > 0.9
    of_floats = load(tmp_path / "float.onnx")
    close = entk(of_floats.parametric(), mx.array(X), reduction="full")
    kernel = entk(function.parametric(), mx.array(X), reduction="full")
    assert sum(v.size for v in function.params.values()) == sum(
        v.size for v in of_floats.params.values()
    )
    assert relative_error(kernel, close) < 0.1


def test_dynamically_quantised_networks_run_once_for_each_input(tmp_path: Path) -> None:
    """The scale of activations is taken from all that a run gets."""
    network(tmp_path / "float.onnx")
    path = tmp_path / "quantised.onnx"
    quantize_dynamic(tmp_path / "float.onnx", path)

    function = load(path, parameters=["*"])
    expected = np.concatenate([by_runtime(path, x[None]) for x in X])
    output = np.array(function(function.params, mx.array(X)))
    assert relative_error(output, expected) < 1e-4
    with pytest.warns(SlowPathWarning, match="takes 1 input at a time"):
        parametric = function.parametric()
    kernel = entk(parametric, mx.array(X), reduction="full")
    close = entk(load(tmp_path / "float.onnx").parametric(), mx.array(X), reduction="full")
    assert relative_error(kernel, close) < 0.1


def test_whole_numbers_that_are_cast_and_scaled(tmp_path: Path) -> None:
    """As tools write it that know no operators for this; derivatives are exact then."""
    whole = RNG.integers(-127, 128, (6, 3)).astype(np.int8)
    scale = (0.01 + RNG.random((1, 3))).astype(np.float32)
    graph = helper.make_graph(
        [
            node("Cast", ["w_q"], ["w_f"], to=TensorProto.FLOAT),
            node("Mul", ["w_f", "w_scale"], ["w"]),
            node("MatMul", ["x", "w"], ["y"]),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3])],
        [numpy_helper.from_array(whole, "w_q"), numpy_helper.from_array(scale, "w_scale")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    x = RNG.standard_normal((4, 6)).astype(np.float32)

    function = from_model(model, parameters=["*"])
    assert list(function.params) == ["w_q"]
    np.testing.assert_allclose(np.array(function.params["w_q"]), whole * scale, rtol=1e-6)
    kernel = entk(function.parametric(), mx.array(x), reduction="full")
    assert relative_error(kernel, np.einsum("nm,cd->nmcd", x @ x.T, np.eye(3))) < 1e-5


def test_derivatives_pass_straight_through_rounding_and_stop_at_its_ends() -> None:
    """Bengio, Léonard and Courville 2013."""
    graph = helper.make_graph(
        [
            node("Mul", ["x", "w"], ["h"]),
            node("QuantizeLinear", ["h", "scale", "zero"], ["q"]),
            node("DequantizeLinear", ["q", "scale", "zero"], ["y"]),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 1])],
        [
            numpy_helper.from_array(np.array([1.0], np.float32), "w"),
            numpy_helper.from_array(np.array(0.1, np.float32), "scale"),
            numpy_helper.from_array(np.array(10, np.uint8), "zero"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    x = np.array([[0.26], [-0.98], [-1.5], [24.53], [40.0]], np.float32)  # from -1.0 to 24.5

    function = from_model(model)
    output = np.array(function(function.params, mx.array(x)))
    np.testing.assert_allclose(output[:, 0], [0.3, -1.0, -1.0, 24.5, 24.5], rtol=1e-6)
    kernel = entk(function.parametric(), mx.array(x), reduction="trace")
    slopes = np.where([True, True, False, True, False], x[:, 0], 0)
    assert relative_error(kernel, np.outer(slopes, slopes)) < 1e-6


FORMS = {
    "no scale known": ("f = Cast <to = 1> (w) y = MatMul (x, f)", False),
    "scaled after the product": ("f = Cast <to = 1> (w) h = MatMul (x, f) y = Mul (h, s)", False),
    "less a zero point": (
        "f = Cast <to = 1> (w) g = Sub (f, one) v = Mul (g, s) y = MatMul (x, v)", False,
    ),
    "through whole numbers": (
        "i = Cast <to = 6> (w) f = Cast <to = 1> (i) v = Mul (f, s) y = MatMul (x, v)", False,
    ),
    "scaled": ("f = Cast <to = 1> (w) v = Mul (f, s) y = MatMul (x, v)", True),
    "dequantised": ("v = DequantizeLinear <axis = 1> (w, s) y = MatMul (x, v)", True),
    "transposed, then by rows": (
        "t = Transpose (w) v = DequantizeLinear <axis = 0> (t, s) u = Transpose (v) "
        "y = MatMul (x, u)", False,
    ),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_whole_numbers_of_unknown_meaning_are_not_left_out(form: str) -> None:
    nodes, known = FORMS[form]
    model = parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 21]> g (float[N, 2] x) => (float[N, 3] z) '
        "<int8[2, 3] w = {1, -2, 30, 4, 5, -6}, float[3] s = {0.1, 0.2, 0.3}, float one = {1.0}, "
        f"float[3] b = {{1., 2., 3.}}> {{ {nodes} z = Add (y, b) }}"
    )
    with pytest.raises(InputError, match="w is stored as int8"):
        from_model(model).parametric()
    if not known:
        with pytest.raises(InputError, match="w is stored as int8, and what it stands for is not"):
            from_model(model, parameters=["*"])
        assert list(from_model(model, parameters=["b"]).params) == ["b"]
        return
    function = from_model(model, parameters=["*"])
    x = RNG.standard_normal((4, 2)).astype(np.float32)
    kernel = entk(function.parametric(), mx.array(x), reduction="full")
    assert relative_error(kernel, np.einsum("nm,cd->nmcd", x @ x.T + 1, np.eye(3))) < 1e-5
