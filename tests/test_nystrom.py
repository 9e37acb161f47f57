from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from mlx_entk import InputError, eigendecompose, entk, nystrom_modes
from tests import models


def inputs(count: int, width: int = 3) -> mx.array:
    return mx.random.normal((count, width), key=mx.random.key(2))


@pytest.fixture(scope="module")
def network() -> tuple[nn.Module, mx.array, np.ndarray]:
    model, x = models.MLP([8, 32, 4]), inputs(1500, 8)
    return model, x, entk(model, x, reduction="trace").astype(np.float64)


def test_leading_modes_are_close_and_the_residuals_say_how_close(network: Any) -> None:
    model, x, kernel = network
    exact = eigendecompose(kernel)
    before = 1.0
    for landmarks in (100, 400):
        modes = nystrom_modes(model, x, 9, landmarks=landmarks, checks=200)

        v, values = modes.spectrum.vectors, modes.spectrum.values
        np.testing.assert_allclose(v.T @ v, np.eye(9), atol=1e-8)
        np.testing.assert_allclose(values, exact.values[:9], rtol=0.05)
        true = np.linalg.norm(kernel @ v - v * values, axis=0) / values
        assert (np.abs(modes.residuals - true) <= 4 * modes.errors + 0.1 * true).all()
        overlap = np.linalg.norm(v.T @ exact.vectors[:, :9]) ** 2 / 9
        assert 1 - overlap < before
        before = float(1 - overlap)
    assert before < 0.01


def test_residuals_are_right_on_average(network: Any) -> None:
    model, x, kernel = network
    ratios, z = [], []
    for seed in range(6):
        modes = nystrom_modes(model, x, 5, landmarks=60, checks=100, seed=seed)
        v, values = modes.spectrum.vectors, modes.spectrum.values
        true = np.linalg.norm(kernel @ v - v * values, axis=0) / values
        ratios.append(modes.residuals / true)
        z.append((modes.residuals - true) / modes.errors)

    assert np.mean(ratios) == pytest.approx(1, abs=0.1)
    assert np.sqrt(np.mean(np.square(z))) < 2


def test_values_are_better_than_those_of_the_approximation(network: Any) -> None:
    model, x, kernel = network
    modes = nystrom_modes(model, x, 9, landmarks=60, checks=400)

    v = modes.spectrum.vectors
    quotients = np.einsum("nk,nk->k", v, kernel @ v)
    C, W = kernel[:, modes.landmarks], kernel[np.ix_(modes.landmarks, modes.landmarks)]
    itself = np.linalg.eigvalsh(C @ np.linalg.pinv(W) @ C.T)[::-1][:9]
    off = np.abs(modes.spectrum.values / quotients - 1)
    assert off.max() < np.abs(itself / np.sort(quotients)[::-1] - 1).max() / 2
    assert (np.diff(modes.spectrum.values) <= 0).all()


def test_a_kernel_of_low_rank_is_exact() -> None:
    model, x = nn.Linear(3, 2), inputs(200)
    kernel = entk(model, x, reduction="trace")

    modes = nystrom_modes(model, x, 10, landmarks=20, checks=50)

    assert modes.spectrum.values.size == 4  # weights and bias
    np.testing.assert_allclose(modes.spectrum.values, eigendecompose(kernel, 4).values, rtol=1e-5)
    assert modes.residuals.max() < 1e-4


def test_a_kernel_of_zeros_has_no_modes() -> None:
    model = nn.Linear(3, 2, bias=False)

    modes = nystrom_modes(model, mx.zeros((50, 3)), 2, landmarks=10, checks=10)

    assert modes.spectrum.vectors.shape == (50, 0)
    assert modes.residuals.shape == modes.errors.shape == (0,)


def test_inputs_may_be_several_and_columns_may_lie_in_a_file(tmp_path: Path) -> None:
    def summed(params: Any, a: mx.array, b: mx.array) -> mx.array:
        return mx.tanh((a + 2 * b) @ params["weight"])

    x, params = (inputs(80), inputs(80) ** 2), {"weight": inputs(3, 5)}
    several = nystrom_modes(summed, x, 3, landmarks=20, checks=8, params=params)
    named = nystrom_modes(
        summed, {"a": x[0], "b": x[1]}, 3, landmarks=20, checks=8, params=params,
        out=tmp_path / "columns", reduction="trace",
    )  # fmt: skip

    np.testing.assert_allclose(several.spectrum.values, named.spectrum.values, rtol=1e-6)
    assert np.load(tmp_path / "columns" / "kernel.npy").shape == (80, 28)
    again = nystrom_modes(summed, x, 3, landmarks=20, checks=8, params=params)
    np.testing.assert_array_equal(several.spectrum.vectors, again.spectrum.vectors)
    np.testing.assert_array_equal(several.landmarks, again.landmarks)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"k": 0}, "k is 0: 20 landmarks give 1 to 20 modes"),
        ({"k": 21}, "k is 21: 20 landmarks give 1 to 20 modes"),
        ({"landmarks": 0}, "k is 3: 0 landmarks give 1 to 0 modes"),
        ({"landmarks": 2.5}, "landmarks is 2.5: pass a whole number"),
        ({"checks": 1}, "checks is 1: residuals need at least two rows"),
        ({"landmarks": 95}, "95 landmarks and 10 checks are more than the 100 inputs"),
        ({"reduction": "full"}, "reduction is 'full': pass trace or sum-of-logits"),
        ({"reduction": (0, 1)}, r"reduction is \(0, 1\): pass trace or sum-of-logits"),
        ({"seed": -1}, "seed is -1"),
        ({"memory_limit": "20 kB"}, "30 columns over 100 inputs take 12 kB, more than half"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"k": 3, "landmarks": 20, "checks": 10} | settings
    with pytest.raises(InputError, match=message):
        nystrom_modes(nn.Linear(3, 2), inputs(100), **arguments)
