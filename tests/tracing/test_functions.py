"""What people pass in: inputs of any form, a part of the outputs, some of the parameters."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from mlx_entk import InputError, entk, entk_operator, jacobian, layerwise_entk
from mlx_entk._parameters import Params
from mlx_entk.tracing.functions import from_flat
from mlx_entk.tracing.inputs import as_inputs, different
from tests import models

X = mx.random.normal((5, 3), key=mx.random.key(0))
MASK = mx.array([[1.0, 0, 1], [1, 1, 1], [0, 0, 1], [1, 1, 0], [0, 1, 1]])


class TwoInputs(models.Seeded):
    """Masked inputs, and a sequence of outputs of which a part counts."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = nn.Linear(3, 4)
        self.head = nn.Linear(4, 2)
        self.draw()

    def __call__(self, x: mx.array, mask: mx.array) -> mx.array:
        return self.head(mx.tanh(self.dense(x * mask)))


def masked(model: TwoInputs) -> Any:
    """The same kernel by a model of one input."""
    h = np.array(mx.tanh(model.dense(X * MASK)), dtype=np.float64)
    delta = (1 - h**2) * np.array(model.head.weight)[:, None]  # outputs, inputs, hidden
    inner = np.array(X * MASK, dtype=np.float64)
    front = np.einsum("cnh,cmh->nm", delta, delta) / 2
    return h @ h.T + 1 + front * (inner @ inner.T + 1)


@pytest.mark.parametrize(
    "x",
    [
        (X, MASK),
        (np.array(X), np.array(MASK)),
        {"x": X, "mask": MASK},
        {"mask": np.array(MASK, dtype=np.float64), "x": np.array(X, dtype=np.float64)},
    ],
)
def test_models_of_several_inputs(x: Any) -> None:
    model = TwoInputs()
    expected = masked(model)

    for strategy in ("auto", "jacobian-contraction", "ntk-vector-products"):
        kernel = entk(model, x, reduction="trace", strategy=strategy)
        np.testing.assert_allclose(kernel, expected, rtol=1e-4)
    operator = entk_operator(model, x, reduction="trace", batch=2)
    np.testing.assert_allclose(operator @ np.eye(5), expected, rtol=1e-4)
    rows = np.concatenate([np.array(J).reshape(5, 2, -1) for J in jacobian(model, x).values()], 2)
    np.testing.assert_allclose(np.einsum("ncp,mcp->nm", rows, rows) / 2, expected, rtol=1e-4)


def test_a_kernel_between_two_sets_of_several_inputs() -> None:
    model = TwoInputs()

    kernel = entk(model, (X, MASK), (X[:2], MASK[:2]), reduction="trace")

    np.testing.assert_allclose(kernel, masked(model)[:, :2], rtol=1e-4)
    by_name = entk(model, {"x": X, "mask": MASK}, {"mask": MASK[:2], "x": X[:2]})
    np.testing.assert_allclose(by_name, entk(model, (X, MASK), (X[:2], MASK[:2])), rtol=1e-5)


@pytest.mark.parametrize(
    ("x", "x2", "message"),
    [
        ((X, MASK), X, r"x2 has inputs of shape \(3,\) of .*float32, x of \(3,\) .*, \(3,\)"),
        ((X, MASK), (X, MASK > 0), r"x2 has inputs of shape .* of mlx.core.bool"),
        ({"x": X, "mask": MASK}, {"x": X, "m": MASK}, "x2 has inputs called x, m, x has x, mask"),
        ({"x": X, "mask": MASK}, (X, MASK), "x2 has inputs called no names, x has x, mask"),
    ],
)
def test_both_sets_need_the_same_form(x: Any, x2: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        entk(TwoInputs(), x, x2)


@dataclass
class Returned:
    logits: mx.array
    hidden: mx.array


FORMS: dict[str, tuple[Any, Any]] = {
    "tuple": (lambda y, h: (h, y), 1),
    "list": (lambda y, h: [y, h], 0),
    "dictionary": (lambda y, h: {"hidden": h, "logits": y}, "logits"),
    "dataclass": (lambda y, h: Returned(y, h), "logits"),
    "function": (lambda y, h: {"a": (h, y)}, lambda returned: returned["a"][1]),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_part_of_what_a_model_returns(form: str) -> None:
    made, output = FORMS[form]
    W = mx.random.normal((3, 2), key=mx.random.key(1))

    def model(W: mx.array, x: mx.array) -> Any:
        return made(mx.tanh(x @ W), x)

    expected = entk(lambda W, x: mx.tanh(x @ W), X, params=W)

    kernel = entk(model, X, params=W, output=output)

    np.testing.assert_array_equal(kernel, expected)
    operator = entk_operator(model, X, params=W, output=output, reduction="trace")
    assert operator.shape == (5, 5)


def test_the_last_position_of_a_sequence() -> None:
    model = nn.Sequential(nn.Embedding(7, 3), nn.Linear(3, 2))
    tokens = mx.array([[1, 2, 3], [4, 5, 6]])

    kernel = entk(model, tokens, output=lambda y: y[:, -1], reduction="trace")

    h = np.array(model.layers[0](tokens)[:, -1])
    W = np.array(model.layers[1].weight)
    expected = h @ h.T + 1 + np.eye(2) * (W**2).sum() / 2
    np.testing.assert_allclose(kernel, expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("model", "output", "message"),
    [
        (lambda W, x: (x @ W, x), None, r"returned a tuple of 2: choose with output=0, 1, …"),
        (lambda W, x: {"y": x @ W}, None, r"returned dict: choose with output='y'"),
        (lambda W, x: Returned(x @ W, x), None, r"choose with output='logits', 'hidden'"),
        (lambda W, x: (x @ W, x), 2, r"output 2 does not fit .* tuple of length 2"),
        (lambda W, x: {"y": x @ W}, "z", r"output z does not fit .* dict of 'y'"),
        (lambda W, x: x @ W, 1, r"output 1 chooses among several, the model returns one array"),
        (lambda W, x: mx.argmax(x @ W, axis=1), None, r"returned mlx.core.uint32, .* take logits"),
        (lambda W, x: (x @ W) + 1j, None, r"returned mlx.core.complex64"),
    ],
)
def test_what_a_model_returns_and_what_counts_have_to_fit(
    model: Any, output: Any, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        entk(model, X, params=mx.ones((3, 2)), output=output)


@pytest.mark.parametrize(
    ("parameters", "names"),
    [
        ("layers.0.weight", {"layers.0.weight"}),
        ("layers.*.bias", {"layers.0.bias", "layers.1.bias"}),
        (["layers.0.*", "layers.1.bias"], {"layers.0.weight", "layers.0.bias", "layers.1.bias"}),
        (lambda name: name.endswith("1.weight"), {"layers.1.weight"}),
    ],
)
def test_some_of_the_parameters(parameters: Any, names: set[str]) -> None:
    model = models.MLP([3, 4, 2])
    every = layerwise_entk(model, X, reduction="trace")

    kernels = layerwise_entk(model, X, reduction="trace", parameters=parameters)

    assert kernels.keys() == names
    for name in names:
        np.testing.assert_allclose(kernels[name], every[name], rtol=1e-5)
    operator = entk_operator(model, X, reduction="trace", parameters=parameters)
    whole = sum((every[name] for name in names), np.zeros(()))
    np.testing.assert_allclose(operator @ np.eye(5), whole, rtol=1e-4)


def test_names_that_fit_no_parameter_are_said() -> None:
    with pytest.raises(InputError, match=r"parameters has head\.\*: the model has layers"):
        entk(models.MLP([3, 2]), X, parameters="head.*")
    with pytest.raises(InputError, match="parameters is 5: pass names, patterns or a predicate"):
        entk(models.MLP([3, 2]), X, parameters=5)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="parameters has a predicate that takes none"):
        entk(models.MLP([3, 2]), X, parameters=lambda name: False)


def test_limits_and_folders_as_text(tmp_path: Path) -> None:
    model = models.MLP([3, 2])

    kernel = entk(model, X, out=str(tmp_path / "kernel"), memory_limit="100MB")

    np.testing.assert_array_equal(kernel, entk(model, X))
    with pytest.raises(InputError, match="memory_limit is -5: pass a number of bytes above 0"):
        entk(model, X, memory_limit=-5)
    with pytest.raises(InputError, match="'much' is not a size: write 500MB or 4GB"):
        entk(model, X, memory_limit="much")


def test_whole_numbers_among_the_parameters_do_not_count() -> None:
    params = {"W": mx.ones((3, 2)), "order": mx.array([1, 0])}

    def model(params: Params, x: mx.array) -> mx.array:
        return (x @ params["W"])[:, params["order"]]

    assert set(layerwise_entk(model, X, params=params)) == {"W"}


def test_outputs_in_half_precision_have_kernels_in_single() -> None:
    W = mx.random.normal((3, 2), key=mx.random.key(1))

    kernel = entk(lambda W, x: (x @ W).astype(mx.bfloat16), X, params=W, reduction="trace")

    np.testing.assert_allclose(kernel, np.array(X) @ np.array(X).T, rtol=0.02, atol=0.02)


def test_names_of_parameters_are_no_paths(tmp_path: Path) -> None:
    params = {"a/b": mx.ones((3, 2)), "../c": mx.ones(2), "%2F": mx.ones(2)}

    def model(params: Params, x: mx.array) -> mx.array:
        return x @ params["a/b"] + params["../c"] * params["%2F"]

    function = from_flat(model, params)
    folder = tmp_path / "inner" / "kernels"

    kernels = layerwise_entk(function, X, reduction="trace", out=folder)

    assert kernels.keys() == params.keys()
    assert len(list(folder.iterdir())) == len(params)
    assert [path.name for path in (tmp_path / "inner").iterdir()] == ["kernels"]
    assert [path.name for path in tmp_path.iterdir()] == ["inner"]


def test_trees_of_any_shape_arrive_as_they_are() -> None:
    params: Any = ({"a.b": mx.ones((3, 2))}, [], {"0": mx.ones(2)})

    def model(params: Any, x: mx.array) -> Any:
        return x @ params[0]["a.b"] + params[2]["0"]

    assert set(layerwise_entk(model, X, params=params)) == {"0.a.b", "2.0"}
    with pytest.raises(InputError, match="two parameters of one dotted name"):
        entk(model, X, params={"a": {"b": mx.ones(1)}, "a.b": mx.ones(1)})


def test_arrays_that_cannot_be_read() -> None:
    class Elsewhere:
        def __array__(self, *_: Any, **__: Any) -> Any:
            raise TypeError("copy it to the host first")

    with pytest.raises(InputError, match="x is no array that NumPy reads: copy it to the host"):
        as_inputs(Elsewhere())


def test_two_inputs_that_differ_are_found_or_made() -> None:
    rows = mx.array([[1.0, 2], [1, 2], [3, 4]])
    assert np.array(different((rows,))[0]).tolist() == [[1, 2], [3, 4]]
    (floats,) = different((rows[:2],))
    assert not mx.array_equal(floats[0], floats[1])
    (tokens,) = different((mx.array([[4, 5, 6]]),))
    assert tokens.tolist() == [[4, 5, 6], [6, 5, 4]]
    (palindrome,) = different((mx.array([[4, 5, 4]]),))
    assert palindrome.tolist() == [[4, 5, 4], [4, 5, 0]]


@pytest.mark.parametrize(
    ("x", "message"),
    [
        ((), "x is empty"),
        ((X, X[:2]), r"x\[0\] has 5, x\[1\] has 2 inputs"),
        ({1: X}, "x has keys that are no text"),
        ("text", "x is str: pass an array"),
        (mx.array(1.0), r"x has shape \(\): it needs at least one input"),
    ],
)
def test_inputs_that_are_none(x: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        as_inputs(x)
