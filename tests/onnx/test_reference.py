"""ONNX's reference implementation in float64, operator by operator, against NumPy and SciPy."""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import helper
from scipy import special

from mlx_entk.onnx.reference import evaluator

Array = NDArray[Any]

generator = np.random.default_rng(0)
x, y = generator.standard_normal((2, 4, 5))
above_one, inside = np.abs(x) + 1.1, np.tanh(x)
ONE = np.array([1])


def computed(
    kind: str, inputs: list[Array], outputs: int = 1, **attributes: Any
) -> NDArray[np.float64]:
    """The first output of a graph of one node."""
    names = [f"i{k}" for k in range(len(inputs))]
    given = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape)
        for name, v in zip(names, inputs, strict=True)
    ]
    output_names = [f"o{k}" for k in range(outputs)]
    node = helper.make_node(kind, names, output_names, **attributes)
    graph = helper.make_graph(
        [node], "one", given, [onnx.ValueInfoProto(name=n) for n in output_names]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    return evaluator(model)("o0", dict(zip(names, inputs, strict=True)))


UNARY: dict[str, tuple[Array, Callable[[Array], Array]]] = {
    "Abs": (x, np.abs), "Acos": (inside, np.arccos), "Acosh": (above_one, np.arccosh),
    "Asin": (inside, np.arcsin), "Asinh": (x, np.arcsinh), "Atan": (x, np.arctan),
    "Atanh": (inside, np.arctanh), "Ceil": (x, np.ceil), "Cos": (x, np.cos),
    "Cosh": (x, np.cosh), "Erf": (x, special.erf), "Exp": (x, np.exp), "Floor": (x, np.floor),
    "Identity": (x, np.array), "Log": (above_one, np.log), "Neg": (x, np.negative),
    "Reciprocal": (above_one, np.reciprocal), "Round": (x, np.round),
    "Sigmoid": (x, special.expit), "Sign": (x, np.sign), "Sin": (x, np.sin),
    "Sinh": (x, np.sinh), "Sqrt": (above_one, np.sqrt), "Tan": (x, np.tan), "Tanh": (x, np.tanh),
}  # fmt: skip


@pytest.mark.parametrize("kind", UNARY)
def test_functions_of_a_number_keep_double_precision(kind: str) -> None:
    value, expected = UNARY[kind]

    assert np.abs(computed(kind, [value]) - expected(value)).max() < 1e-15


def scattered(at: Any, updates: Array, combine: Callable[[Array, Array], Array]) -> Array:
    result: Array = x.copy()
    result[at] = combine(result[at], updates)
    return result


ROWS, COLUMNS = np.array([[1], [2]]), np.array([[1], [2], [0], [0]])
EACH_ROW = (np.arange(4), COLUMNS[:, 0])
COMBINED: dict[str, Callable[[Array, Array], Array]] = {
    "none": lambda old, new: new, "add": np.add, "mul": np.multiply, "max": np.maximum,
    "min": np.minimum,
}  # fmt: skip
images, filters = generator.standard_normal((2, 4, 9, 8)), generator.standard_normal((6, 2, 3, 2))
CONVOLVED = torch.nn.functional.conv2d(
    torch.nn.functional.pad(torch.from_numpy(images), [1, 2, 0, 1]),
    torch.from_numpy(filters), stride=2, dilation=2, groups=2,
).numpy()  # fmt: skip

# Kind, inputs, attributes and what is expected.
OTHERS: list[tuple[str, list[Array], dict[str, Any], Array]] = [
    ("Add", [x, y], {}, x + y),
    ("Div", [x, above_one], {}, x / above_one),
    ("Max", [x, y], {}, np.maximum(x, y)),
    ("Min", [x, y], {}, np.minimum(x, y)),
    ("Mul", [x, y], {}, x * y),
    ("Sub", [x, y], {}, x - y),
    ("Pow", [above_one, y], {}, above_one**y),
    ("Mod", [x, above_one], {"fmod": 1}, np.fmod(x, above_one)),
    ("MatMul", [x, y.T.copy()], {}, x @ y.T),
    ("CumSum", [x, np.array(1)], {}, np.cumsum(x, axis=1)),
    (
        "CumSum", [x, np.array(1)], {"exclusive": 1, "reverse": 1},
        np.cumsum(x[:, ::-1], axis=1)[:, ::-1] - x,
    ),
    ("ReduceMax", [x, ONE], {"keepdims": 1}, x.max(axis=1, keepdims=True)),
    ("ReduceMin", [x, ONE], {"keepdims": 1}, x.min(axis=1, keepdims=True)),
    ("ReduceProd", [x, ONE], {"keepdims": 1}, x.prod(axis=1, keepdims=True)),
    ("ReduceSum", [x, ONE], {"keepdims": 1}, x.sum(axis=1, keepdims=True)),
    ("Softmax", [x], {"axis": -1}, special.softmax(x, axis=-1)),
    ("Where", [x > 0, x, y], {}, np.where(x > 0, x, y)),
    (
        "Pad", [x, np.array([1, 2]), np.array(1 / 3), ONE], {},
        np.pad(x, ((0, 0), (1, 2)), constant_values=1 / 3),
    ),
    ("Expand", [x[:, :1].copy(), np.array([4, 5])], {}, np.broadcast_to(x[:, :1], (4, 5))),
    ("Gather", [x, np.array([1, 2])], {"axis": 1}, x[:, 1:3]),
    ("GatherND", [x, ROWS], {}, x[1:3]),
    ("GatherElements", [x, COLUMNS], {"axis": 1}, np.take_along_axis(x, COLUMNS, 1)),
    *(
        ("ScatterND", [x, ROWS, y[:2]], {"reduction": how}, scattered(slice(1, 3), y[:2], combine))
        for how, combine in COMBINED.items()
    ),
    *(
        (
            "ScatterElements", [x, COLUMNS, y[:, :1].copy()], {"reduction": how, "axis": 1},
            scattered(EACH_ROW, y[:, 0], combine),
        )
        for how, combine in COMBINED.items()
    ),
    ("TopK", [x, np.array([5])], {"axis": 1, "largest": 0, "outputs": 2}, np.sort(x, axis=1)),
    ("Slice", [x, -ONE, np.array([-(2**31)]), ONE, -ONE], {}, x[:, ::-1]),
    ("Split", [x, np.array([2, 3])], {"axis": 1, "outputs": 2}, x[:, :2]),
    ("Concat", [x, y], {"axis": 1}, np.concatenate([x, y], axis=1)),
    ("Cast", [np.array([2**53 - 1])], {"to": onnx.TensorProto.DOUBLE}, np.array([2.0**53 - 1])),
    (
        "Conv", [images, filters],
        {"strides": [2, 2], "pads": [0, 1, 1, 2], "dilations": [2, 2], "group": 2}, CONVOLVED,
    ),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "inputs", "attributes", "expected"), OTHERS)
def test_other_operators_keep_double_precision(
    kind: str, inputs: list[Array], attributes: dict[str, Any], expected: Array
) -> None:
    actual = computed(kind, inputs, **attributes)

    assert actual.shape == expected.shape
    assert np.abs(actual - expected).max() < 1e-14


def test_a_side_that_is_not_chosen_may_be_out_of_range() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        values = computed("Sigmoid", [np.array([-800.0, 0.0, 800.0])])

    assert values.tolist() == [0, 0.5, 1]
