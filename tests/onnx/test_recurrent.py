"""LSTM, GRU and RNN: as onnxruntime has them, in every combination of settings."""

from itertools import product
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper
from onnx.reference import ReferenceEvaluator

from mlx_entk import InputError
from tests.onnx.small_graphs import Array, graph_of, node, ours, require_equal

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
FUNCTIONS = {"LSTM": 3, "GRU": 2, "RNN": 1}
STEPS, BATCH, FEATURES, UNITS = 5, 3, 4, 2

# Activations, with how many numbers of their own they take as alpha and as beta.
ACTIVATIONS = {
    "Affine": (1, 1), "Elu": (1, 0), "HardSigmoid": (1, 1), "LeakyRelu": (1, 0), "Relu": (0, 0),
    "ScaledTanh": (1, 1), "Sigmoid": (0, 0), "Softplus": (0, 0), "Softsign": (0, 0),
    "Tanh": (0, 0), "ThresholdedRelu": (1, 0),
}  # fmt: skip

DIRECTIONS = ("forward", "reverse", "bidirectional")
EXTRAS = {
    "LSTM": ({}, {"input_forget": 1}),
    "GRU": ({}, {"linear_before_reset": 1}),
    "RNN": ({},),
}


def layer(
    kind: str, direction: str = "forward", more: tuple[str, ...] = (), **attributes: Any
) -> tuple[onnx.ModelProto, Array]:
    """A layer with some of its optional inputs, and sequences for it."""
    rng = np.random.default_rng(0)
    count, width = 2 if direction == "bidirectional" else 1, GATES[kind] * UNITS
    shapes = {
        "W": (count, width, FEATURES), "R": (count, width, UNITS), "B": (count, 2 * width),
        "lengths": (BATCH,), "h": (count, BATCH, UNITS), "c": (count, BATCH, UNITS),
        "P": (count, 3 * UNITS),
    }  # fmt: skip
    given = ["W", "R", *more]
    constants: dict[str, Any] = {
        name: 0.5 * rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()
    }  # onnxruntime's Softplus overflows if states grow
    constants["lengths"] = np.array([STEPS, 2, 0], dtype=np.int32)
    x = rng.standard_normal((STEPS, BATCH, FEATURES)).astype(np.float32)
    inputs = ["x", *(name if name in given else "" for name in shapes)]
    while not inputs[-1]:
        inputs.pop()
    outputs = ["y", "y_h", *(["y_c"] if kind == "LSTM" else [])]
    made = node(kind, inputs, outputs, hidden_size=UNITS, direction=direction, **attributes)
    kept = {name: constants[name] for name in given}
    return graph_of([made], {"x": x}, kept, outputs), x


@pytest.mark.parametrize(
    ("kind", "direction", "extra"),
    [(kind, *rest) for kind in GATES for rest in product(DIRECTIONS, EXTRAS[kind])],
)
def test_recurrent_layers_are_those_of_onnxruntime(
    kind: str, direction: str, extra: dict[str, int]
) -> None:
    every = ("B", "lengths", "h", *(("c", "P") if kind == "LSTM" else ()))
    for more in ((), ("B",), ("B", "h"), every):
        for clip in ({}, {"clip": 0.6}):
            model, x = layer(kind, direction, more, **extra, **clip)

            require_equal(model, {"x": x})


@pytest.mark.parametrize("kind", GATES)
@pytest.mark.parametrize("direction", ["forward", "bidirectional"])
def test_activations_take_their_numbers_in_turn(kind: str, direction: str) -> None:
    each = FUNCTIONS[kind] * (2 if direction == "bidirectional" else 1)
    for first in range(len(ACTIVATIONS)):
        names = [list(ACTIVATIONS)[(first + k) % len(ACTIVATIONS)] for k in range(each)]
        numbers = {
            f"activation_{word}": [
                0.3 + 0.1 * k for k, name in enumerate(names) for _ in range(ACTIVATIONS[name][i])
            ]
            for i, word in enumerate(("alpha", "beta"))
        }
        given = {word: values for word, values in numbers.items() if values}
        model, x = layer(kind, direction, ("B",), activations=names, **given)

        require_equal(model, {"x": x})


@pytest.mark.parametrize("kind", GATES)
def test_lengths_may_depend_on_the_data(kind: str) -> None:
    model, x = layer(kind, "bidirectional", ("lengths",))
    lengths = np.array([2, STEPS, 4], dtype=np.int32)
    del model.graph.initializer[2]
    model.graph.input.append(helper.make_tensor_value_info("lengths", 6, [BATCH]))

    require_equal(model, {"x": x, "lengths": lengths})
    with pytest.raises(InputError, match=f"index {STEPS + 1} of {STEPS + 1} entries"):
        ours(model, x, np.array([2, STEPS + 1, 4], dtype=np.int32))


@pytest.mark.parametrize("kind", GATES)
def test_the_batch_may_come_first(kind: str) -> None:
    """onnxruntime refuses this; onnx's reference implementation knows it for one direction."""
    states = ("h", "c") if kind == "LSTM" else ("h",)
    model, x = layer(kind, "bidirectional", ("B", "lengths", *states))
    outputs = [value.name for value in model.graph.output]
    expected = ours(model, x, outputs=outputs)
    model.graph.node[0].attribute.append(helper.make_attribute("layout", 1))
    for tensor in model.graph.initializer:
        if tensor.name in states:
            turned = onnx.numpy_helper.to_array(tensor).swapaxes(0, 1)
            tensor.CopyFrom(onnx.numpy_helper.from_array(turned.copy(), tensor.name))
    del model.graph.input[:]
    turned = x.swapaxes(0, 1).copy()
    model.graph.input.append(helper.make_tensor_value_info("x", 1, turned.shape))

    found = ours(model, turned, outputs=outputs)

    np.testing.assert_array_equal(found[0], expected[0].transpose(2, 0, 1, 3))
    for one, other in zip(found[1:], expected[1:], strict=True):
        np.testing.assert_array_equal(one, other.swapaxes(0, 1))


@pytest.mark.parametrize("kind", GATES)
def test_a_layer_in_the_reference_implementation(kind: str) -> None:
    model, x = layer(kind, "forward", ("B", "h"))
    names = [value.name for value in model.graph.output][:2]

    expected = ReferenceEvaluator(model).run(names, {"x": x})

    for one, other in zip(ours(model, x, outputs=names), expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"hidden_size": 3}, r"W has shape \(1, 8, 4\), not \(1, 12, 4\)"),
        ({"activations": ["Tanh"] * 2}, "2 activations are given for 1 directions"),
        ({"activations": ["Tanh", "Tanh", "Foo"]}, "activation 'Foo' is unknown"),
        ({"activations": ["Tanh", "Tanh", "Affine"]}, "Affine needs activation_alpha"),
        ({"clip": -1.0}, "clip is -1.0: it has to be positive"),
        ({"direction": "sideways"}, "direction 'sideways' is unknown"),
    ],
)
def test_layers_that_cannot_be_are_refused(attributes: dict[str, Any], message: str) -> None:
    model, x = layer("LSTM")
    for name, value in attributes.items():
        for old in [a for a in model.graph.node[0].attribute if a.name == name]:
            model.graph.node[0].attribute.remove(old)
        model.graph.node[0].attribute.append(helper.make_attribute(name, value))

    with pytest.raises(InputError, match=message):
        ours(model, x)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("B", np.zeros((1, 7), np.float32), r"B has shape \(1, 7\), not \(1, 16\)"),
        ("P", np.zeros((2, 6), np.float32), r"P has shape \(2, 6\), not \(1, 6\)"),
        ("h", np.zeros((1, 1, 2), np.float32), r"a first state has shape \(1, 1, 2\)"),
        ("lengths", np.array([5, 6, 2], np.int32), "has no length outside 0 … 5"),
        ("lengths", np.array([5, 2], np.int32), r"sequence_lens has shape \(2,\)"),
    ],
)
def test_inputs_that_do_not_fit_a_layer_are_refused(name: str, value: Array, message: str) -> None:
    model, x = layer("LSTM", "forward", (name,))
    model.graph.initializer[2].CopyFrom(onnx.numpy_helper.from_array(value, name))

    with pytest.raises(InputError, match=message):
        ours(model, x)


def test_many_steps_in_many_layers_are_refused() -> None:
    """MLX's recursion survives no chain of any length, in one layer or in many."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((400, 1, 1)).astype(np.float32)
    names = ["x", "a", "y"]
    made = []
    for k in range(2):
        made.append(node("LSTM", [names[k], "W", "R"], [f"long{k}"], hidden_size=1))
        made.append(node("Squeeze", [f"long{k}", "axis"], [names[k + 1]]))
    weights = {name: np.ones((1, 4, 1), np.float32) for name in ("W", "R")}
    model = graph_of(made, {"x": x}, {"axis": np.array([1]), **weights})

    assert ours(model, x[:300])[0].shape == (300, 1, 1)
    with pytest.raises(InputError, match="a chain of more than 5,000 operators"):
        ours(model, x)
