"""Activations and the two factors of a layer's kernel, held against NumPy."""

from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from mlx_entk import InputError, activations, layer_factors, layerwise_entk
from mlx_entk.models import ModularTransformer, QuadraticMLP, ToyModel


def relu_mlp() -> nn.Module:
    mx.random.seed(0)
    return nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3))


X = mx.random.normal((11, 5), key=mx.random.key(3))


def test_activations_are_what_weights_are_multiplied_with() -> None:
    model = relu_mlp()

    found = activations(model, X)

    first = model.layers[0]
    x, W, b = (np.array(a, dtype=np.float64) for a in (X, first.weight, first.bias))
    assert list(found) == ["layers.0.weight", "layers.2.weight"]
    np.testing.assert_allclose(found["layers.0.weight"], x, rtol=1e-6)
    np.testing.assert_allclose(
        found["layers.2.weight"], np.maximum(x @ W.T + b, 0), rtol=1e-5, atol=1e-6
    )


def test_weights_that_meet_the_same_values_share_them_and_uses_are_numbered() -> None:
    n, m = np.divmod(np.arange(25), 5)
    tokens = mx.array(np.stack([n, m, np.full(25, 5)], axis=1))
    names = list(activations(ModularTransformer(5, 8, 2, 12), tokens))
    assert "W_K, W_V" in names
    assert names[-1] == "unembedding"

    toy = activations(ToyModel(5, 3), X)
    assert {name: values.shape for name, values in toy.items()} == {
        "W (1)": (11, 5),
        "W (2)": (11, 3),
    }
    np.testing.assert_allclose(toy["W (1)"], np.array(X), rtol=1e-6)


def test_a_model_that_cannot_be_traced_has_no_known_activations() -> None:
    class Hidden(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = mx.ones((5, 2))

        def __call__(self, x: mx.array) -> mx.array:
            return mx.fft.fft(x @ self.weight).real

    assert activations(Hidden(), X) == {}
    assert layer_factors(Hidden(), X) == {}


@pytest.mark.parametrize("reduction", ["trace", "sum-of-logits", (1, 1)])
@pytest.mark.parametrize("limit", [None, 100_000])
def test_the_kernel_of_a_layer_is_the_product_of_its_factors(reduction: Any, limit: Any) -> None:
    model = relu_mlp()
    kernels = layerwise_entk(model, X, reduction=reduction)

    factors = layer_factors(model, X, reduction=reduction, memory_limit=limit)

    assert list(factors) == ["layers.0.weight", "layers.2.weight"]  # biases have no such pair
    for name, pair in factors.items():
        assert pair.is_product
        np.testing.assert_allclose(
            pair.activations * pair.backward, kernels[name], rtol=1e-4, atol=1e-6
        )


def test_the_factors_are_those_of_plain_gradients() -> None:
    """Gram matrices of h and of the derivative by the preactivation, in NumPy."""
    model = QuadraticMLP(5, 7, 0)
    x = mx.random.normal((9, 10), key=mx.random.key(0))
    W1, W2 = (np.array(w, np.float64) for w in (model.hidden.weight, model.readout.weight))
    h = np.array(x, np.float64) @ W1.T / np.sqrt(10)

    factors = layer_factors(model, x)

    np.testing.assert_allclose(factors["readout.weight"].activations, h**2 @ (h**2).T, rtol=1e-4)
    # δ[n, c, k] = 2 W2[c, k] h[n, k] / (H √(2p)), and the mean over c
    delta = 2 * W2 * h[:, None] / (7 * np.sqrt(10)) / np.sqrt(5)
    rows = delta.reshape(9, -1)
    expected = rows @ rows.T
    np.testing.assert_allclose(
        factors["hidden.weight"].activations * factors["hidden.weight"].backward,
        np.array(x, np.float64) @ np.array(x, np.float64).T * expected, rtol=1e-4, atol=1e-9,
    )  # fmt: skip


def test_weights_that_meet_several_positions_are_no_product() -> None:
    mx.random.seed(0)
    model = nn.Sequential(nn.Conv1d(2, 3, 2), nn.ReLU())
    x = mx.random.normal((6, 7, 2), key=mx.random.key(1))

    factors = layer_factors(model, x)

    pair = factors["layers.0.weight"]
    assert not pair.is_product
    assert pair.activations.shape == pair.backward.shape == (6, 6)
    assert np.linalg.eigvalsh(pair.activations).min() > -1e-4


def test_a_full_kernel_has_no_factors_over_inputs() -> None:
    with pytest.raises(InputError, match="reduction is full"):
        layer_factors(relu_mlp(), X, reduction="full")
