from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from mlx_entk import entk, layerwise_entk
from mlx_entk.kernel.tail import envelope
from mlx_entk.tracing.functions import as_parametric
from tests import models, reference
from tests.kernel.test_structure import find_structure

Params = dict[str, mx.array]


def normal(*shape: int, key: int = 0) -> mx.array:
    return mx.random.normal(shape, key=mx.random.key(key))


def gated(params: Params, x: mx.array) -> mx.array:
    gate = x @ params["gate"]
    hidden = mx.sigmoid(gate) * (x @ params["up"])
    return x[:, :2] + hidden @ params["down"] + params["bias"]


def pooled(params: Params, x: mx.array) -> mx.array:
    return mx.tanh(x @ params["up"] + params["bias"]).mean(axis=1) @ params["down"]


def last_position(params: Params, x: mx.array) -> mx.array:
    return (x + mx.maximum(x @ params["up"], 0) @ params["back"])[:, -1] @ params["down"]


def signed_positions(params: Params, x: mx.array) -> mx.array:
    hidden = mx.tanh(x @ params["up"])
    return (hidden[:, 0] - hidden[:, 1]) @ params["down"]


def wide_outputs(params: Params, x: mx.array) -> mx.array:
    hidden = mx.tanh(mx.softmax(x @ params["up"], axis=-1) @ params["back"])
    return hidden @ params["wide"]


def nonlinear_outputs(params: Params, x: mx.array) -> mx.array:
    return mx.softmax(mx.tanh(x @ params["up"]) @ params["down"], axis=-1)


def elementwise_outputs(params: Params, x: mx.array) -> mx.array:
    return mx.maximum(x @ params["up"] + params["bias"], 0)


PARAMS = {
    "gate": normal(4, 5, key=1),
    "up": normal(4, 5, key=2),
    "back": normal(5, 4, key=3),
    "down": normal(5, 2, key=4),
    "bias": normal(5, key=5),
    "wide": normal(4, 9, key=6),
}
FUNCTIONS: list[tuple[Any, tuple[int, ...], set[str]]] = [
    (gated, (4,), {"gate", "up", "down", "bias"}),
    (pooled, (3, 4), {"up", "bias", "down"}),
    (last_position, (3, 4), {"up", "back", "down"}),
    (signed_positions, (2, 4), {"up", "down"}),
    (wide_outputs, (4,), {"back", "wide"}),
    (nonlinear_outputs, (4,), set()),
    (elementwise_outputs, (4,), {"up", "bias"}),
]


def chosen(function: Any) -> Params:
    names = function.__code__.co_consts
    params = {name: value for name, value in PARAMS.items() if name in names}
    if function is last_position:
        params["down"] = normal(4, 2, key=7)
    if function is gated:
        params["bias"] = normal(2, key=8)
    return params


@pytest.mark.parametrize("reduction", ["full", "trace", "sum-of-logits"])
@pytest.mark.parametrize("function", [f for f, *_ in FUNCTIONS], ids=lambda f: f.__name__)
def test_kernels_behind_the_last_nonlinearity_are_exact(function: Any, reduction: Any) -> None:
    shape = next(shape for f, shape, _ in FUNCTIONS if f is function)
    x, params = normal(6, *shape, key=9), chosen(function)
    options: dict[str, Any] = {"params": params, "reduction": reduction}

    ours = layerwise_entk(function, x, **options)

    formed = layerwise_entk(function, x, **options, strategy="jacobian-contraction")
    for name in params:
        assert reference.relative_error(ours[name], formed[name]) < 1e-5, name


@pytest.mark.parametrize(
    ("function", "shape", "simple"), FUNCTIONS, ids=[f.__name__ for f, *_ in FUNCTIONS]
)
def test_what_needs_no_backward_pass_for_each_output_is_found(
    function: Any, shape: tuple[int, ...], simple: set[str]
) -> None:
    params = chosen(function)

    structure = find_structure(as_parametric(function, params), normal(2, *shape))

    with_a_tail = {
        name
        for name, uses in structure.uses.items()
        if all(use.tap in structure.tails for use in uses)
    }
    assert with_a_tail == simple


def test_outputs_beyond_a_bottleneck_take_as_many_backward_passes_as_it_has_entries() -> None:
    params = chosen(wide_outputs)
    function = as_parametric(wide_outputs, params)

    structure = find_structure(function, normal(2, 4))

    bottleneck, taps = structure.narrowed
    assert bottleneck is not None
    assert structure.graph.shapes[bottleneck] == (1, 4)
    assert taps == [use.tap for use in structure.uses["up"]]


def test_one_row_stands_for_all_where_positions_agree() -> None:
    rows = np.random.default_rng(0).standard_normal((7, 1, 5))
    agreeing = rows * np.array([[[1.0], [0.0], [2.5]]])
    opposed = rows * np.array([[[1.0], [-1.0]]])

    one = envelope(mx.array(agreeing))

    assert one is not None
    np.testing.assert_allclose(
        np.array(one)[:, None] * np.array(one)[None],
        np.einsum("rth,ruh->tuh", agreeing, agreeing),
        rtol=1e-5,
    )
    assert envelope(mx.array(opposed)) is None


def test_tiles_of_unequal_cotangents_agree() -> None:
    """The form of a factor may depend on how many cotangents a tile has."""
    model, x = models.Image(), normal(3, 4, 4, 2, key=1)
    small = entk(model, x, memory_limit=300_000)

    assert reference.relative_error(small, entk(model, x)) < 1e-6


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16])
def test_a_bottleneck_in_half_precision_has_a_kernel(dtype: mx.Dtype) -> None:
    """Its cotangents are narrowed by a decomposition that the host has for float32 alone."""
    first, second = (
        (mx.random.normal(shape, key=mx.random.key(k)) / 3).astype(dtype)
        for k, shape in enumerate([(4, 3), (3, 7)])
    )

    def model(params: dict[str, mx.array], x: mx.array) -> mx.array:
        return mx.tanh(x @ params["deep"]) @ params["first"] @ second

    x = mx.random.normal((5, 6), key=mx.random.key(2)).astype(dtype)
    params = {"deep": mx.random.normal((6, 4), key=mx.random.key(3)).astype(dtype), "first": first}
    wide = {name: value.astype(mx.float32) for name, value in params.items()}

    kernel = entk(model, x, params=params, reduction="trace")

    expected = entk(model, x.astype(mx.float32), params=wide, reduction="full")
    expected = np.einsum("nmcc->nm", expected) / 7
    np.testing.assert_allclose(kernel, expected, atol=0.05 * expected.max())


def test_classes_that_share_nothing_are_no_underflow_in_tiles_of_their_own() -> None:
    shapes = {"a": (12, 16), "r": (16, 4)}
    params = {
        name: mx.random.normal(shape, key=mx.random.key(k))
        for k, (name, shape) in enumerate(shapes.items())
    }
    x = mx.random.normal((7, 20, 12), key=mx.random.key(2))

    def model(params: Params, x: mx.array) -> mx.array:
        return mx.tanh(x @ params["a"]).mean(1) @ params["r"]

    whole = layerwise_entk(model, x, params=params)["r"]
    tiled = layerwise_entk(model, x, params=params, memory_limit=130_000)["r"]

    np.testing.assert_allclose(tiled, whole, atol=1e-6 * np.abs(whole).max())
