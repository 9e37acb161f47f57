"""Derivatives of ONNX operators in MLX, against differences of what onnxruntime computes."""

from collections.abc import Callable, Sequence

import mlx.core as mx
import numpy as np
import onnx
import pytest
from onnx import helper

from mlx_entk import entk
from mlx_entk.onnx.importer import from_model
from tests.onnx.differentiable import GRAPHS
from tests.onnx.small_graphs import Array, session_of
from tests.reference import from_jacobian

# So long that rounding to single precision makes errors of 1e-4, so short that few kinks are met.
STEP = 2**-8


def differences(model: onnx.ModelProto, values: dict[str, Array]) -> Array:
    """∂y/∂(values in a row), (K, P), by fourth-order differences of onnxruntime's outputs."""
    overridable = onnx.ModelProto()
    overridable.CopyFrom(model)
    for name in values:
        if name != "x":
            of_input = helper.make_tensor_value_info(name, 1, values[name].shape)
            overridable.graph.input.append(of_input)
    session = session_of(overridable)
    columns = []
    for name, value in values.items():
        for p in range(value.size):
            column = 0.0
            for steps, weight in ((1, 8), (-1, -8), (2, -1), (-2, 1)):
                moved = value.copy()
                moved.flat[p] += steps * STEP
                (y,) = session.run(["y"], {**values, name: moved})
                column = column + weight * y.astype(np.float64) / (12 * STEP)
            columns.append(np.ravel(column))
    return np.stack(columns, axis=-1)


def by_cotangents(gradients: Sequence[mx.array]) -> Array:
    return np.concatenate([np.array(g).reshape(len(g), -1) for g in gradients], axis=1)


def by_tangents(outputs: Callable[..., mx.array], at: Sequence[mx.array]) -> Array:
    """∂outputs/∂at, (K, P), a forward pass for each entry."""
    columns = []
    for k, value in enumerate(at):
        for p in range(value.size):
            tangents = [mx.zeros(other.shape) for other in at]
            tangents[k] = (mx.arange(value.size) == p).astype(mx.float32).reshape(value.shape)
            columns.append(np.array(mx.jvp(outputs, list(at), tangents)[1][0]))
    return np.stack(columns, axis=-1)


@pytest.mark.parametrize("case", GRAPHS)
def test_derivatives_in_every_mode_are_differences_of_onnxruntime(case: str) -> None:
    model, x = GRAPHS[case]()
    names = [t.name for t in model.graph.initializer if len(t.name) == 1 and t.name.isupper()]
    function = from_model(model, parameters=names)
    values = {**{name: np.array(v) for name, v in function.params.items()}, "x": x}
    expected = differences(model, values)
    close = {"rtol": 1e-3, "atol": 2e-4 * np.abs(expected).max()}

    def outputs(*at: mx.array) -> mx.array:
        named = dict(zip(values, at, strict=True))
        x = named.pop("x")
        return function(named, x).reshape(-1)

    at = [mx.array(value) for value in values.values()]
    eye = mx.eye(len(expected))
    one_by_one = [mx.vjp(outputs, at, [row])[1] for row in eye]
    by_vjp = by_cotangents([mx.stack(list(g)) for g in zip(*one_by_one, strict=True)])
    np.testing.assert_allclose(by_vjp, expected, **close)

    mapped = mx.vmap(lambda row: mx.vjp(outputs, at, [row])[1])(eye)
    np.testing.assert_allclose(by_cotangents(mapped), expected, **close)

    if "Conv" not in case:  # MLX has no forward rule for convolutions
        np.testing.assert_allclose(by_tangents(outputs, at), expected, **close)

    J = expected[:, : -x.size].reshape(len(x), -1, expected.shape[1] - x.size)
    kernel = entk(function.parametric(), mx.array(x))
    np.testing.assert_allclose(
        kernel, from_jacobian(J, J), rtol=1e-3, atol=1e-3 * np.abs(kernel).max()
    )
