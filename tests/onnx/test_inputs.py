"""What ONNX files take: fixed batches, several inputs, inputs that are the same for all."""

from typing import Any

import mlx.core as mx
import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from mlx_entk import InputError, SlowPathWarning, entk
from mlx_entk.onnx.importer import from_model, with_constants
from tests.reference import relative_error

node = helper.make_node
RNG = np.random.default_rng(0)
W = RNG.standard_normal((6, 3)).astype(np.float32)
X = RNG.standard_normal((5, 2, 3)).astype(np.float32)


def model_of(
    nodes: list[onnx.NodeProto], stored: dict[str, Any], **inputs: tuple[Any, ...]
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in inputs.items()],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in stored.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def dense(batch: int | str, sizes: list[int]) -> onnx.ModelProto:
    nodes = [
        node("Reshape", ["x", "sizes"], ["flat"]),
        node("MatMul", ["flat", "w"], ["h"]),
        node("Tanh", ["h"], ["y"]),
    ]
    return model_of(nodes, {"w": W, "sizes": np.array(sizes)}, x=(batch, 2, 3))


def expected_kernel() -> NDArray[np.float64]:
    flat = X.reshape(5, 6)
    slopes = 1 - np.tanh(flat @ W) ** 2
    kernel: NDArray[np.float64] = np.einsum(
        "nm,nc,mc,cd->nmcd", flat @ flat.T, slopes, slopes, np.eye(3)
    )
    return kernel


@pytest.mark.parametrize(
    ("batch", "sizes", "slow"),
    [
        ("N", [-1, 6], False),
        (1, [-1, 6], False),  # declared, but the graph takes any
        (1, [1, 6], True),  # as a tracer writes the batch into a reshape
        (2, [2, 6], True),  # five inputs: the last run is filled up
        (3, [-1, 6], False),
    ],
)
def test_any_number_of_inputs_whatever_the_batch(
    batch: int | str, sizes: list[int], slow: bool
) -> None:
    function = from_model(dense(batch, sizes))
    if slow:
        with pytest.warns(SlowPathWarning, match=rf"takes {batch} inputs? at a time"):
            parametric = function.parametric()
    else:
        parametric = function.parametric()

    output = np.array(function(function.params, mx.array(X)))
    np.testing.assert_allclose(output, np.tanh(X.reshape(5, 6) @ W), rtol=1e-5, atol=1e-6)
    kernel = entk(parametric, mx.array(X), reduction="full")
    assert relative_error(kernel, expected_kernel()) < 1e-5
    assert function.batch == (batch if slow else None)


def test_a_graph_that_mixes_its_fixed_batch_is_refused() -> None:
    """Runs of a fixed batch hold different inputs, so that this shows."""
    nodes = [
        node("ReduceMean", ["x", "first"], ["mean"]),
        node("Sub", ["x", "mean"], ["c"]),
        node("Reshape", ["c", "sizes"], ["flat"]),
        node("MatMul", ["flat", "w"], ["y"]),
    ]
    stored = {"w": W, "sizes": np.array([2, 6]), "first": np.array([0])}
    function = from_model(model_of(nodes, stored, x=(2, 2, 3)))

    with (
        pytest.warns(SlowPathWarning),
        pytest.raises(InputError, match="outputs of an input depend on the rest of its batch"),
    ):
        entk(function.parametric(), mx.array(X))


def test_an_input_whose_batch_axis_is_not_the_first() -> None:
    """A state of shape (layers, batch, units): each row brings one, and runs by itself."""
    nodes = [
        node("Gather", ["state", "last"], ["of_last"], axis=0),
        node("MatMul", ["x", "w"], ["h"]),
        node("Add", ["h", "of_last"], ["s"]),
        node("Tanh", ["s"], ["y"]),
    ]
    stored = {"w": W, "last": np.array(1)}
    function = from_model(model_of(nodes, stored, x=("N", 6), state=(2, "N", 3)))
    flat, states = X.reshape(5, 6), RNG.standard_normal((5, 2, 1, 3)).astype(np.float32)

    kernel = entk(function.parametric(), (mx.array(flat), mx.array(states)), reduction="full")

    slopes = 1 - np.tanh(flat @ W + states[:, 1, 0]) ** 2
    expected = np.einsum("nm,nc,mc,cd->nmcd", flat @ flat.T, slopes, slopes, np.eye(3))
    assert relative_error(kernel, expected) < 1e-5
    with pytest.raises(InputError, match="x, state declare different first axes"):
        function({}, mx.array(flat), mx.array(states[:, :, 0].transpose(1, 0, 2)))


def test_an_input_that_is_the_same_for_all_rows_becomes_a_constant() -> None:
    nodes = [
        node("MatMul", ["x", "w"], ["h"]),
        node("Mul", ["h", "rate"], ["s"]),
        node("Tanh", ["s"], ["y"]),
    ]
    model = model_of(nodes, {"w": W}, x=("N", 6), rate=())
    flat = X.reshape(5, 6)

    function = from_model(with_constants(model, {"rate": 0.5}))
    assert function.inputs == ["x"]
    assert list(function.params) == ["w"]
    np.testing.assert_allclose(
        np.array(function({}, mx.array(flat))), np.tanh(flat @ W / 2), rtol=1e-5, atol=1e-6
    )
    with pytest.raises(InputError, match="no input 'speed': it takes x, rate"):
        with_constants(model, {"speed": 1})
    with pytest.raises(InputError, match="takes rate as no array of complex128"):
        with_constants(model, {"rate": 1j})


def test_an_output_without_a_batch_axis_is_refused() -> None:
    nodes = [node("MatMul", ["x", "w"], ["h"]), node("Transpose", ["h"], ["y"])]
    function = from_model(model_of(nodes, {"w": W}, x=("N", 6)))

    with pytest.raises(InputError, match=r"has shape \(3, 5\) for 5 inputs, so its first axis"):
        function({}, mx.array(X.reshape(5, 6)))
    rows = mx.array(X.reshape(5, 1, 6))  # an axis more: one run for each
    kernel = entk(function.parametric(), rows, reduction="full")
    flat = X.reshape(5, 6)
    assert relative_error(kernel, np.einsum("nm,cd->nmcd", flat @ flat.T, np.eye(3))) < 1e-5


def test_inputs_of_another_type_are_refused_or_converted() -> None:
    table = RNG.standard_normal((7, 3)).astype(np.float32)
    graph = helper.make_graph(
        [node("Gather", ["table", "ids"], ["y"])],
        "g",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["N"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(table, "table")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    function = from_model(model)

    np.testing.assert_array_equal(np.array(function({}, mx.array([6, -1, 0]))), table[[6, 6, 0]])
    with pytest.raises(InputError, match=r"takes ids as int64, got mlx\.core\.float32"):
        function({}, mx.array([1.0]))
    for token in (7, -8, 2**30):
        with pytest.raises(InputError, match=r"leads to the index -?\d+ of 7 entries: is a token"):
            entk(function.parametric(), mx.array([0, token, 1]))
    whole = from_model(dense("N", [-1, 6]))
    assert np.array(whole({}, mx.ones((2, 2, 3), dtype=mx.int32))).shape == (2, 3)
