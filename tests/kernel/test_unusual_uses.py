"""Uses of parameters that kernels were once wrong for, against float64 or plain gradients."""

import warnings
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from mlx_entk import entk, layerwise_entk
from mlx_entk._parameters import Params
from mlx_entk.tracing import primitives
from tests import models
from tests.kernel.cases import traces
from tests.reference import relative_error


def test_a_complex_weight_counts_with_both_parts() -> None:
    def power(W: mx.array, x: mx.array) -> mx.array:
        return mx.abs((x + 0j) @ W)[:, None] ** 2

    x, W = mx.array([[1.0, 0.0], [0.5, 2.0]]), mx.array([1 + 1j, 0.3 - 0.2j])
    inner = np.array(x) @ np.array(W)
    J = 2 * inner[:, None] * np.array(x)  # by the real part its real part, and so on
    expected = (J.conj() @ J.T).real

    assert expected[0, 0] == pytest.approx(8)
    for kernel in traces(power, x, params=W):
        np.testing.assert_allclose(kernel, expected, rtol=1e-5)


@pytest.mark.parametrize("shape", [(), (0,), (3, 0)])
def test_parameters_without_axes_or_entries(shape: tuple[int, ...]) -> None:
    def model(params: Params, x: mx.array) -> mx.array:
        return (x @ params["W"]) * (1 + params["odd"].sum())

    x = mx.random.normal((4, 3), key=mx.random.key(0))
    params = {"W": mx.ones((3, 2)), "odd": mx.zeros(shape)}
    f = np.array(x) @ np.ones((3, 2))

    kernels = layerwise_entk(model, x, params=params, reduction="trace")

    np.testing.assert_allclose(kernels["W"], np.array(x) @ np.array(x).T, rtol=1e-5)
    expected = f @ f.T / 2 if shape == () else np.zeros((4, 4))
    np.testing.assert_allclose(kernels["odd"], expected, rtol=1e-5)


@pytest.mark.parametrize("reduction", ["trace", (0, 49_999), "sum-of-logits"])
def test_a_large_vocabulary_stays_within_the_limit(reduction: Any) -> None:
    V, d = 50_000, 4

    def model(params: Any, x: mx.array) -> mx.array:
        h = mx.tanh(params["E"][x].mean(axis=1))
        return h @ params["E"].T if reduction != "trace" else h

    params = {"E": mx.random.normal((V, d), key=mx.random.key(0))}
    x = mx.random.randint(0, V, (4, 3), key=mx.random.key(1))
    mx.reset_peak_memory()
    before = mx.get_active_memory()

    kernel = entk(model, x, params=params, reduction=reduction, memory_limit="1GB")

    assert mx.get_peak_memory() - before < 1e9
    assert np.isfinite(kernel).all()


class Experts(nn.Module):
    """A mixture whose choice is not taken out of differentiation."""

    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(4, 3)
        self.experts = mx.random.normal((3, 4, 4), key=mx.random.key(0))

    def __call__(self, x: mx.array) -> mx.array:
        gates = mx.softmax(self.router(x), axis=-1)
        chosen = mx.argpartition(-gates, kth=1, axis=-1)[..., :2]
        weights = mx.take_along_axis(gates, chosen, axis=-1)
        h = mx.gather_mm(x[:, None, None], self.experts.swapaxes(-1, -2), rhs_indices=chosen)
        return (mx.tanh(h.squeeze(2)) * weights[..., None]).sum(axis=1)


@pytest.mark.parametrize("taken", [0, 2**22])
def test_a_mixture_of_experts(taken: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(primitives, "_TAKEN", taken)
    mx.random.seed(0)
    model, x = Experts(), mx.random.normal((5, 4), key=mx.random.key(1))
    gates = np.array(mx.softmax(model.router(x), axis=-1), dtype=np.float64)
    chosen = np.argsort(-gates, axis=1)[:, :2]

    def output(flat: np.ndarray) -> np.ndarray:
        """The same in float64, with the experts that the weights choose."""
        R, b, E = flat[:12].reshape(3, 4), flat[12:15], flat[15:].reshape(3, 4, 4)
        z = np.array(x, dtype=np.float64) @ R.T + b
        g = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
        h = np.tanh(np.einsum("nkoi,ni->nko", E[chosen], np.array(x, dtype=np.float64)))
        return np.asarray((h * np.take_along_axis(g, chosen, 1)[..., None]).sum(axis=1))

    theta = np.concatenate(
        [
            np.array(p, dtype=np.float64).ravel()
            for p in (model.router.weight, model.router.bias, model.experts)
        ]
    )
    J = np.stack(
        [(output(theta + e) - output(theta - e)) / 2e-6 for e in 1e-6 * np.eye(theta.size)], axis=2
    )
    expected = np.einsum("ncp,mcp->nm", J, J) / 4

    for kernel in traces(model, x):
        assert relative_error(kernel, expected) < 1e-4


def test_weights_that_were_never_computed() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    model.layers[0].freeze()
    x = mx.random.normal((4, 3), key=mx.random.key(0))

    kernel = entk(model, x, reduction="trace", strategy="structured-derivatives")

    h = np.tanh(np.array(model.layers[0](x)))
    np.testing.assert_allclose(kernel, h @ h.T + 1, rtol=1e-5)


def by_gradients(model: Any, params: Any, x: mx.array, C: int) -> np.ndarray:
    """The trace kernel by plain gradients, one by one."""

    def row(n: int, c: int) -> np.ndarray:
        one = x[n : n + 1]
        (_, gradients) = mx.vjp(
            lambda *values: model(dict(zip(params, values, strict=True)), one)[0].reshape(-1)[c],
            list(params.values()),
            [mx.array(1.0)],
        )
        return np.concatenate([np.array(g, dtype=np.float64).ravel() for g in gradients])

    J = np.stack([[row(n, c) for c in range(C)] for n in range(len(x))])
    return np.asarray(np.einsum("ncp,mcp->nm", J, J) / C)


@pytest.mark.parametrize("shape", [(1, 4), (5, 4), (64, 64)])
def test_a_weight_that_multiplies_columns_behind_the_last_nonlinearity(
    shape: tuple[int, int],
) -> None:
    def model(params: Params, x: mx.array) -> mx.array:
        return mx.tanh(params["w"] @ x.swapaxes(-1, -2)).sum(axis=1)

    params = {"w": mx.random.normal(shape, key=mx.random.key(0))}
    x = mx.random.normal((3, 5, shape[1]), key=mx.random.key(1))

    kernel = entk(model, x, params=params, reduction="trace")

    assert relative_error(kernel, by_gradients(model, params, x, 5)) < 1e-5


def test_tokens_that_count_from_the_end() -> None:
    def model(params: Params, x: mx.array) -> mx.array:
        return params["e"][x].reshape(x.shape[0], -1) @ params["r"]

    draw = [
        mx.random.normal(shape, key=mx.random.key(k))
        for k, shape in enumerate([(400, 32), (32, 2)])
    ]
    params = dict(zip(("e", "r"), draw, strict=True))
    x = mx.array([[-1], [399], [3]])

    kernel = entk(model, x, params=params, reduction="trace")

    assert relative_error(kernel, by_gradients(model, params, x, 2)) < 1e-5


def test_what_lies_before_a_head_of_zeros_is_tried_too() -> None:
    """First with nothing to see, as at the beginning of a training, then with something."""

    def model(params: Params, x: mx.array) -> mx.array:
        h = mx.slice_update(x @ params["w"], mx.zeros((1, 2)), mx.array([1]), (1,))
        return (h + mx.stop_gradient(mx.sin(h))) @ params["head"]

    x = mx.random.normal((4, 3), key=mx.random.key(0))
    params = {"head": mx.zeros((4, 2)), "w": mx.random.normal((3, 4), key=mx.random.key(1))}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        entk(model, x, params=params, reduction="trace")
        params["head"] = mx.random.normal((4, 2), key=mx.random.key(2))
        kernel = entk(model, x, params=params, reduction="trace")

    assert relative_error(kernel, by_gradients(model, params, x, 2)) < 1e-5


def test_nothing_is_said_of_models_that_take_the_usual_way() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        entk(models.Transformer(), mx.random.randint(0, 5, (6, 3), key=mx.random.key(1)))
