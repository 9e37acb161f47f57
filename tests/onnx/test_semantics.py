"""Corners of ONNX's operators: as onnxruntime has them, or refused in one line."""

from itertools import pairwise
from typing import Any

import mlx.core as mx
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from mlx_entk import InputError, entk
from mlx_entk.onnx.importer import OnnxFunction, from_model

node = helper.make_node


def model_of(
    nodes: list[onnx.NodeProto],
    x: np.ndarray,
    *,
    opset: int = 18,
    rank: int = 2,
    kind: int | None = None,
    **constants: Any,
) -> onnx.ModelProto:
    """Nodes from x to y; y has the type of x unless ``kind`` is given."""
    of_x = helper.np_dtype_to_tensor_dtype(x.dtype)
    graph = helper.make_graph(
        nodes,
        "corner",
        [helper.make_tensor_value_info("x", of_x, ["N", *x.shape[1:]])],
        [helper.make_tensor_value_info("y", kind or of_x, [None] * rank)],
        [numpy_helper.from_array(np.asarray(v), name) for name, v in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)


def ours(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    function = from_model(model)
    (y,) = function.run(function.params, [mx.array(x)], ["y"])
    return np.array(y)


def require_equal(model: onnx.ModelProto, x: np.ndarray) -> None:
    session = onnxruntime.InferenceSession(model.SerializeToString())
    (expected,) = session.run(None, {"x": x})
    found = ours(model, x)
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


X = np.random.default_rng(0).standard_normal((2, 6)).astype(np.float32)


@pytest.mark.parametrize(
    ("pads", "stride", "size"),
    [
        ([3, 3], 2, 3),
        ([2, 3], 2, 3),
        ([3, 0], 3, 3),
        ([1, 1], 2, 1),
        ([1, 0], 1, 3),
        ([0, 0], 2, 2),
    ],
)
def test_transposed_convolutions_cut_their_output(pads: list[int], stride: int, size: int) -> None:
    x = X[:, None]
    W = np.random.default_rng(1).standard_normal((1, 2, size)).astype(np.float32)
    made = node("ConvTranspose", ["x", "W"], ["y"], pads=pads, strides=[stride])
    model = model_of([made], x, rank=3, W=W)

    require_equal(model, x)
    if ours(model, x).shape[2] == 0:
        return
    function = from_model(model).parametric()
    kernel = entk(function, mx.array(x), reduction="trace")
    J = gradients(function.params["W"], lambda value: ours_with(model, x, value))
    expected = np.einsum("ncp,mcp->nm", J, J) / J.shape[1]
    np.testing.assert_allclose(kernel, expected, rtol=2e-2, atol=1e-3)


def ours_with(model: onnx.ModelProto, x: np.ndarray, W: np.ndarray) -> np.ndarray:
    function = from_model(model)
    (y,) = function.run({"W": mx.array(W)}, [mx.array(x)], ["y"])
    return np.array(y, dtype=np.float64).reshape(len(x), -1)


def gradients(W: mx.array, outputs: Any) -> np.ndarray:
    """∂y/∂W by central differences, shape (N, C, P)."""
    at = np.array(W)
    columns = []
    for p in range(at.size):
        step = np.zeros(at.size, np.float32)
        step[p] = 0.5  # y is linear in W, so that large steps are exact
        shift = step.reshape(at.shape)
        columns.append(outputs(at + shift) - outputs(at - shift))
    return np.stack(columns, axis=-1)


def test_the_largest_of_integers_of_any_kind() -> None:
    for dtype in (np.uint8, np.int8, np.int64, np.uint64, np.int32):
        least = np.iinfo(dtype).min
        x = np.array([[0, 200 % 127, 7, least], [3, 9, 4, 100]], dtype=dtype)
        made = node("TopK", ["x", "k"], ["y", "at"], axis=1)
        if dtype in (np.int64, np.int32, np.uint64, np.uint8, np.int8):
            expected = -np.sort(-x.astype(object), axis=1)[:, :3]
            found = ours(model_of([made], x, k=np.array([3])), x)
            assert found.tolist() == expected.tolist()


def test_pooled_integers_are_padded_with_the_smallest() -> None:
    x = np.array([[[-24, -3, -7, -100]]], dtype=np.int8)
    made = node("MaxPool", ["x"], ["y"], kernel_shape=[3], pads=[1, 1])

    require_equal(model_of([made], x, rank=3), x)


@pytest.mark.parametrize("kind", ["SumSquare", "LogSum", "L1", "L2", "LogSumExp", "Prod", "Sum"])
def test_reductions_over_no_axes_take_each_entry_by_itself(kind: str) -> None:
    x = np.abs(X) if kind == "LogSum" else X
    made = node(f"Reduce{kind}", ["x", "axes"], ["y"], noop_with_empty_axes=1)

    found = ours(model_of([made], x, axes=np.array([], dtype=np.int64)), x)

    expected = {"SumSquare": x**2, "LogSum": np.log(np.abs(x)), "L1": np.abs(x), "L2": np.abs(x)}
    np.testing.assert_allclose(found, expected.get(kind, x), rtol=1e-5)


def test_an_empty_list_of_axes_stands_for_all() -> None:
    made = node("ReduceMean", ["x"], ["y"])
    made.attribute.append(helper.make_attribute("axes", [], attr_type=onnx.AttributeProto.INTS))

    require_equal(model_of([made], X, opset=13), X)


@pytest.mark.parametrize("kind", ["Mean", "L2", "LogSum"])
def test_reductions_of_integers_are_integers(kind: str) -> None:
    x = np.array([[30, 40, 35], [7, 8, 9]], dtype=np.int32)

    require_equal(model_of([node(f"Reduce{kind}", ["x"], ["y"])], x), x)


def test_powers_of_integers_know_negative_exponents() -> None:
    x = np.array([[1, -1, 2, 3]], dtype=np.int64)
    model = model_of([node("Pow", ["x", "e"], ["y"])], x, e=np.array(-1, dtype=np.int64))

    assert ours(model, x).tolist() == [[1, -1, 0, 0]]


def test_a_slice_of_a_long_axis_makes_no_list() -> None:
    made = [
        node("Expand", ["x", "shape"], ["long"]),
        node("Slice", ["long", "start", "end", "axis"], ["y"]),
    ]
    model = model_of(
        made, np.ones((1, 1), np.float32), shape=np.array([1, 10**8]),
        start=np.array([5]), end=np.array([8]), axis=np.array([1]),
    )  # fmt: skip

    assert ours(model, np.ones((1, 1), np.float32)).tolist() == [[1, 1, 1]]


REFUSED: dict[str, tuple[list[onnx.NodeProto], dict[str, Any], str]] = {
    "flatten": ([node("Flatten", ["x"], ["y"], axis=5)], {}, "axis 5"),
    "gather": ([node("Gather", ["x", "i"], ["y"], axis=3)], {"i": np.array([0])}, "axis 3"),
    "reduction": ([node("ReduceSum", ["x", "i"], ["y"])], {"i": np.array([5])}, "axis 5"),
    "unsqueeze": ([node("Unsqueeze", ["x", "i"], ["y"])], {"i": np.array([9])}, "axis 9"),
    "slice twice": (
        [node("Slice", ["x", "a", "b", "i"], ["y"])],
        {"a": np.array([0, 0]), "b": np.array([1, 1]), "i": np.array([1, -1])},
        "name one twice",
    ),
    "pad beyond": ([node("Pad", ["x", "p"], ["y"])], {"p": np.array([0, -7, 0, 3])}, "cut more"),
    "pads": ([node("Pad", ["x", "p"], ["y"])], {"p": np.array([0, 1])}, "2 pads are given"),
    "pad mode": (
        [node("Pad", ["x", "p"], ["y"], mode="foo")],
        {"p": np.zeros(4, int)},
        "mode 'foo'",
    ),
    "gelu": ([node("Gelu", ["x"], ["y"], approximate="foo")], {}, "approximate 'foo'"),
    "split": (
        [node("Split", ["x", "i"], ["y", "z"], axis=1)],
        {"i": np.array([2, 2, 2])},
        "3 lengths are given for 2",
    ),
    "outputs": ([node("Split", ["x"], ["y", "z"], axis=1, num_outputs=3)], {}, "num_outputs is 3"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_onnx_does_not_allow_is_refused(case: str) -> None:
    nodes, constants, message = REFUSED[case]
    opset = 20 if case == "gelu" else 18

    with pytest.raises(InputError, match=message):
        ours(model_of(nodes, X, opset=opset, **constants), X)


def test_windows_that_cannot_be_are_refused() -> None:
    x = X[:, None]
    for made, message in (
        (
            node("MaxPool", ["x"], ["y"], kernel_shape=[1], strides=[10**9], pads=[10**9] * 2),
            "window",
        ),
        (node("MaxPool", ["x"], ["y"], kernel_shape=[2], pads=[5, 5]), "as long as the window"),
        (node("MaxPool", ["x"], ["y"], kernel_shape=[3 * 10**6], pads=[2 * 10**6] * 2), "window"),
        (node("MaxPool", ["x"], ["y"], kernel_shape=[2], auto_pad="FOO"), "auto_pad 'FOO'"),
        (node("Conv", ["x", "W"], ["y"], dilations=[2**30], pads=[2**30] * 2), "window"),
        (node("Conv", ["x", "W"], ["y"], kernel_shape=[2]), "kernel_shape"),
        (node("ConvTranspose", ["x", "W"], ["y"], output_padding=[4]), "output_padding"),
    ):
        with pytest.raises(InputError, match=message):
            ours(model_of([made], x, rank=3, W=np.ones((1, 1, 3), np.float32)), x)


def test_another_shape_than_the_declared_one_is_refused() -> None:
    model = model_of([node("Relu", ["x"], ["y"])], X)

    with pytest.raises(InputError, match=r"takes x of shape \(…, 6\), got \(2, 5\)"):
        ours(model, X[:, :5])


def test_a_chain_that_is_too_long_is_refused() -> None:
    names = ["x", *(f"h{k}" for k in range(6000)), "y"]
    chain = [node("Relu", [a], [b]) for a, b in pairwise(names)]

    with pytest.raises(InputError, match="a chain of more than 5,000 operators"):
        from_model(model_of(chain, X))


def test_a_memory_limit_holds_for_the_values_of_a_graph() -> None:
    made = [
        node("ConstantOfShape", ["n"], ["long"]),
        node("ReduceSum", ["long"], ["one"], keepdims=0),
        node("Add", ["x", "one"], ["y"]),
    ]
    model = model_of(made, X, n=np.array([3 * 10**7]))
    function: OnnxFunction = from_model(model, memory_limit="100MB")

    with pytest.raises(InputError, match="memory limit of 100 MB"):
        function.run(function.params, [mx.array(X)], ["y"])


def test_known_values_that_broadcast_are_bounded_too() -> None:
    made = [node("Mul", ["a", "b"], ["big"]), node("Add", ["x", "big"], ["y"])]
    model = model_of(made, X, a=np.ones((1, 4000), np.float32), b=np.ones((4000, 1), np.float32))
    function = from_model(model, memory_limit="10MB")

    with pytest.raises(InputError, match="memory limit"):
        function.run(function.params, [mx.array(X)], ["y"])


INDEXED = {
    "floats": [
        node("Gather", ["E", "x"], ["e"]),
        node("ReduceSum", ["e", "axes"], ["h"], keepdims=0),
    ],
    "integers": [
        node("Gather", ["T", "x"], ["t"]),
        node("Gather", ["E", "t"], ["e"]),
        node("ReduceSum", ["e", "axes"], ["h"], keepdims=0),
    ],
}  # fmt: skip


@pytest.mark.parametrize("kind", INDEXED)
def test_an_input_with_an_index_that_is_not_there_has_no_kernel(kind: str) -> None:
    """A sum hides NaN from its derivative, and a table of integers has none."""
    nodes = [*INDEXED[kind], node("Mul", ["h", "w"], ["y"])]
    good = np.array([[0, 1], [2, 4], [1, 1]])
    bad = np.array([[0, 1], [2, 7], [1, -9]])
    model = model_of(
        nodes, good, rank=1, kind=TensorProto.FLOAT, E=np.ones((5, 3), np.float32),
        T=np.arange(5), axes=np.array([1, 2]), w=np.ones(1, np.float32),
    )  # fmt: skip
    function = from_model(model, parameters=["E", "w"]).parametric()

    kernel = entk(function, mx.array(good), reduction="trace")
    assert kernel.shape == (3, 3)
    with pytest.raises(InputError, match="leads to the index 7 of 5 entries: is a token outside"):
        entk(function, mx.array(bad), reduction="trace")
    with pytest.raises(InputError, match="leads to the index 7 of 5 entries"):
        entk(function, mx.array(good), mx.array(bad), reduction="trace")


def test_an_output_that_is_left_out_is_no_input_that_is() -> None:
    """Both have no name: what the first layer does not give is not the bias of the second."""
    x = np.random.default_rng(3).standard_normal((3, 4, 2)).astype(np.float32)
    weights: dict[str, Any] = {
        name: np.random.default_rng(k).standard_normal((1, 8, 2)).astype(np.float32)
        for k, name in enumerate(["W", "R", "V", "U"])
    }
    model = model_of(
        [
            node("LSTM", ["x", "W", "R"], ["", "h"], hidden_size=2),
            node("LSTM", ["h", "V", "U", "", "", "h"], ["", "y"], hidden_size=2),
        ],
        x, rank=3, **weights,
    )  # fmt: skip

    require_equal(model, x)
