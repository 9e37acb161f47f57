"""Files of TensorFlow, JAX and onnxruntime's optimiser: what is a parameter, and what they lost."""

from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import onnxruntime
import pytest

from mlx_entk import InputError, entk
from mlx_entk.onnx import load
from mlx_entk.onnx.importer import from_model
from tests.onnx.test_parameters import RNG, W, X, kinds, model_of, node, of_product
from tests.reference import relative_error

LEFT = {  # what TensorFlow's optimiser left, by the name of the last operator
    "dense/MatMul/ReadVariableOp:0": "parameter",
    "dense/Cast/ReadVariableOp:0": "parameter",
    "gru/cell/split/ReadVariableOp/resource:0": "parameter",
    "dense/kernel:0": "parameter",
    "lora/add:0": "changed",
    "conv/merged_input:0": "changed",
    "attention/query/Reshape:0": "changed",
    "const_fold_opt__12": "changed",
    "W0__598": "parameter",
    "centred/sub/y:0": "constant",
}


@pytest.mark.parametrize(("name", "kind"), LEFT.items())
def test_of_what_tensorflow_left_its_variables_alone_are_parameters(name: str, kind: str) -> None:
    bias = "dense/BiasAdd/ReadVariableOp:0"
    nodes = [node("MatMul", ["x", name], ["h"], name="dense"), node("Add", ["h", bias], ["y"])]
    stored: dict[str, Any] = {name: W, bias: np.array([1, 2], np.float32)}
    function = from_model(model_of(nodes, "tf2onnx", **stored))

    assert kinds(function) == {name: kind, bias: "parameter"}
    if kind == "changed":
        with pytest.raises(InputError, match=r"perhaps of several|made of several"):
            function.parametric()


def test_a_batch_norm_that_tensorflow_computed_is_refused() -> None:
    """Its scale holds the variance, and its shift the mean as well."""
    scale, shift = "norm/batchnorm/mul:0", "norm/batchnorm/sub:0"
    w, b, two = "dense/ReadVariableOp:0", "dense/Squeeze:0", np.array([1, 2], np.float32)
    nodes = [
        node("MatMul", ["x", w], ["h"]),
        node("Add", ["h", b], ["g"]),
        node("Mul", ["g", scale], ["s"]),
        node("Add", ["s", shift], ["m"]),
        node("Mul", ["m", "temperature/ReadVariableOp:0"], ["t"]),
        node("Mul", ["t", "scaled/Exp:0"], ["y"]),
    ]
    stored: dict[str, Any] = {w: W, b: two, scale: two, shift: two, "scaled/Exp:0": np.float32(3)}
    stored["temperature/ReadVariableOp:0"] = np.float32(1.5)
    function = from_model(model_of(nodes, "tf2onnx", **stored))

    assert [name for name, kind in kinds(function).items() if kind == "changed"] == [
        scale, shift, "scaled/Exp:0",
    ]  # fmt: skip
    assert {w, b, "temperature/ReadVariableOp:0"} == {
        name for name, kind in kinds(function).items() if kind == "parameter"
    }
    with pytest.raises(InputError, match="KERAS_BACKEND=jax"):
        function.parametric()


def test_tensorflow_takes_out_biases_of_zeros_and_merges_what_is_equal() -> None:
    w, b = "a/ReadVariableOp:0", "b/BiasAdd/ReadVariableOp:0"
    weight: dict[str, Any] = {w: W}
    square = RNG.standard_normal((3, 3)).astype(np.float32)
    three = np.ones(3, np.float32)
    without = model_of([node("MatMul", ["x", w], ["y"], name="a/MatMul")], "tf2onnx", **weight)
    with pytest.raises(InputError, match="a/MatMul adds no bias, perhaps because it was zero"):
        from_model(without).parametric()
    of_product(from_model(without, parameters=["*"]))

    stored: dict[str, Any] = {w: square, b: three}
    nodes = [node("MatMul", ["x", w], ["h"]), node("Add", ["h", b], ["g"])]
    nodes += [node("Tanh", ["g"], ["t"]), node("Add", ["t", b], ["y"])]
    with pytest.raises(InputError, match="b/BiasAdd/ReadVariableOp:0 is used 2 times"):
        from_model(model_of(nodes, "tf2onnx", **stored)).parametric()
    nodes[-1:] = [node("Add", ["t", "other/ReadVariableOp:0"], ["y"])]
    stored["other/ReadVariableOp:0"] = three
    assert len(from_model(model_of(nodes, "tf2onnx", **stored)).params) == 3


def test_the_second_bias_that_an_lstm_of_tensorflow_has_in_onnx_is_no_parameter() -> None:
    """Keras has one bias for each gate; tf2onnx writes zeros for another."""
    names, shapes = ["W0__1", "R0__2", "B0__3"], [(1, 8, 3), (1, 8, 2), (1, 16)]
    stored: dict[str, Any] = {
        name: RNG.standard_normal(shape).astype(np.float32)
        for name, shape in zip(names, shapes, strict=True)
    }
    lstm = node("LSTM", ["x", *names], ["", "y"], hidden_size=2)
    function = from_model(model_of([lstm], "tf2onnx", (5, "N", 3), **stored))

    assert list(kinds(function).values()) == ["parameter", "parameter", "changed"]
    with pytest.raises(InputError, match="second bias"):
        function.parametric()


def test_a_batch_norm_that_is_written_out_is_refused() -> None:
    """As Keras writes it with the backend JAX: const_2 is the variance, const_1 the mean."""
    nodes = [
        node("Reshape", ["const_2", "shape"], ["v"]),
        node("Add", ["v", "const_4"], ["e"]),
        node("Sqrt", ["e"], ["s"]),
        node("Sub", ["x", "const_1"], ["m"]),
        node("Div", ["m", "s"], ["n"]),
        node("MatMul", ["n", "const_0"], ["y"]),
    ]
    three = np.array([1, 2, 3], np.float32)
    stored: dict[str, Any] = {
        "const_0": W,
        "const_1": three,
        "const_2": three,
        "const_4": np.float32(1e-3),
    }
    stored["shape"] = np.array([1, 3])
    function = from_model(model_of(nodes, "jax2onnx", **stored))

    assert kinds(function)["const_2"] == "unclear"
    with pytest.raises(
        InputError, match=r"const_2 goes through a square root.*Name the parameters"
    ):
        function.parametric()
    chosen = from_model(model_of(nodes, "jax2onnx", **stored), parameters=["const_0"])
    kernel = entk(chosen.parametric(), mx.array(X), reduction="trace")
    normalised = (X - three) / np.sqrt(three + 1e-3)
    assert relative_error(kernel, normalised @ normalised.T) < 1e-5


def test_the_small_number_of_a_norm_is_no_parameter() -> None:
    nodes = [
        node("MatMul", ["x", "const_0"], ["h"]),
        node("Mul", ["h", "h"], ["q"]),
        node("Add", ["q", "const_1"], ["e"]),
        node("Sqrt", ["e"], ["y"]),
    ]
    for producer in ("jax2onnx", ""):
        model = model_of(nodes, producer, const_0=W, const_1=np.array([1e-3], np.float32))
        assert list(from_model(model).params) == ["const_0"]


def test_numbers_that_jax2onnx_makes_and_those_of_which_it_does_not_tell() -> None:
    zeros = [
        node("Gemm", ["x", "const_0", "dot_bias_0"], ["h"]),
        node("Expand", ["const_3", "shape"], ["z"]),
        node("MatMul", ["z", "const_1"], ["g"]),
        node("Add", ["h", "g"], ["y"]),
    ]
    zero, shape = np.float32(0), np.array([1, 3])
    stored: dict[str, Any] = {"const_0": W, "const_1": W + 1, "dot_bias_0": zero, "const_3": zero}
    function = from_model(model_of(zeros, "jax2onnx", shape=shape, **stored))
    assert list(function.params) == ["const_0", "const_1"]
    of_product(from_model(model_of([*zeros[:1], node("Identity", ["h"], ["y"])], "jax2onnx",
               const_0=W, dot_bias_0=zero)))  # fmt: skip

    scaled = [node("MatMul", ["x", "const_0"], ["h"]), node("Mul", ["h", "const_1"], ["y"])]
    with pytest.raises(InputError, match="const_1 may be a parameter or a constant"):
        from_model(model_of(scaled, "jax2onnx", const_0=W, const_1=np.float32(2))).parametric()
    literal = [scaled[0], node("Mul", ["h", "const_2"], ["y"])]
    model = model_of(literal, "jax2onnx", const_0=W, const_2=np.float32(2))
    assert list(from_model(model).params) == ["const_0"]
    twice = [node("MatMul", ["x", "const_0"], ["h"])]
    twice += [node("Add", ["h", "const_4"], ["g"]), node("Tanh", ["g"], ["t"])]
    twice += [node("Add", ["t", "const_5"], ["y"])]
    bias = np.array([[1, 2]], np.float32)
    with pytest.raises(InputError, match="const_4 has the numbers of another"):
        from_model(model_of(twice, "jax2onnx", const_0=W, const_4=bias, const_5=bias)).parametric()


def test_a_file_that_onnxruntime_saved_is_refused(tmp_path: Path) -> None:
    """It adds what a low-rank adaptation adds to a weight."""
    nodes = [
        node("MatMul", ["u", "v"], ["d"]),
        node("Add", ["w", "d"], ["a"]),
        node("MatMul", ["x", "a"], ["y"]),
    ]
    u, v = RNG.standard_normal((3, 1)), RNG.standard_normal((1, 2))
    model = model_of(nodes, w=W, u=u.astype(np.float32), v=v.astype(np.float32))
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(tmp_path / "m.onnx")
    onnxruntime.InferenceSession(model.SerializeToString(), options)

    assert list(from_model(model).params) == ["w", "u", "v"]
    with pytest.raises(InputError, match=r"saved by onnxruntime.*Take the file"):
        load(tmp_path / "m.onnx").parametric()
    of_product(load(tmp_path / "m.onnx", parameters=["*"]))
