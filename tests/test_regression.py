"""Both predictors against ``numpy.linalg.solve`` and against gradient descent."""

import mlx.core as mx
import numpy as np
import pytest

from mlx_entk import InputError
from mlx_entk.jacobian import flattened_jacobian
from mlx_entk.regression import (
    KernelModes,
    modes_of_jacobian,
    modes_of_kernel,
    predict,
    quality,
)
from tests import models


def problem(R: int, P: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    return (
        generator.standard_normal((R, P)),
        generator.standard_normal((5, P)),
        generator.standard_normal((R, 2)),
    )


@pytest.mark.parametrize(("R", "P"), [(20, 8), (12, 30)])
@pytest.mark.parametrize("ridge", [1e-6, 0.1, 10.0])
@pytest.mark.parametrize("linearised", [False, True])
def test_predictors_solve_the_normal_equations(
    R: int, P: int, ridge: float, linearised: bool
) -> None:
    J, J_other, targets = problem(R, P)
    K, K_other = J @ J.T, J_other @ J.T
    lam = ridge * np.trace(K) / R
    base = (np.sin(targets), np.full((5, 2), 0.3)) if linearised else None
    residual = targets - base[0] if base else targets
    solution = np.linalg.solve(K + lam * np.eye(R), residual)
    expected = (K @ solution, K_other @ solution)
    if base:
        expected = (base[0] + expected[0], base[1] + expected[1])

    for modes in (modes_of_jacobian(J, J_other), modes_of_kernel(K, K_other)):
        train, other = predict(modes, targets, ridge, base)

        np.testing.assert_allclose(train, expected[0], rtol=1e-6, atol=1e-7)
        np.testing.assert_allclose(other, expected[1], rtol=1e-6, atol=1e-7)


def test_the_linearised_predictor_is_where_gradient_descent_on_the_linearised_model_ends() -> None:
    """10,000 steps on ½‖y − f(X) − J d‖² + ½λ‖d‖² from d = 0."""
    model = models.MLP([3, 6, 2])
    x = mx.random.normal((10, 3), key=mx.random.key(1))
    J = flattened_jacobian(model, x).astype(np.float64)
    outputs = np.array(model(x), dtype=np.float64).T.reshape(-1, 1)
    targets = outputs + np.random.default_rng(3).standard_normal(outputs.shape)
    ridge = 0.05
    modes = modes_of_jacobian(J, J[:4])
    lam = ridge * modes.mean_eigenvalue
    step = 1 / (np.linalg.eigvalsh(J @ J.T)[-1] + lam)
    d = np.zeros((J.shape[1], 1))
    for _ in range(10_000):
        d -= step * (J.T @ (outputs + J @ d - targets) + lam * d)

    train, other = predict(modes, targets, ridge, base=(outputs, outputs[:4]))

    np.testing.assert_allclose(train, outputs + J @ d, atol=1e-6)
    np.testing.assert_allclose(other, train[:4], atol=1e-9)


def test_modes_add_up() -> None:
    J, J_other, targets = problem(20, 8)
    modes = modes_of_jacobian(J, J_other)

    parts = [predict(modes, targets, 0.1, chosen=[i])[1] for i in range(8)]

    np.testing.assert_allclose(sum(parts), predict(modes, targets, 0.1)[1], atol=1e-12)
    without = predict(modes, targets, 0.1, chosen=[0, 1, 2, 4, 5, 6, 7])[1]
    np.testing.assert_allclose(without + parts[3], sum(parts), atol=1e-12)


def test_quality_of_the_network_itself_and_of_its_mean() -> None:
    generator = np.random.default_rng(1)
    network, targets = generator.standard_normal((2, 30, 3))
    labels = network.argmax(axis=1)

    same = quality(network, network, targets, labels)
    mean = quality(np.tile(network.mean(axis=0), (30, 1)), network, targets, labels)

    assert (same.r2, same.loss_ratio, same.accuracy_gap) == (1, 1, 0)
    assert same.described
    assert mean.r2 == pytest.approx(0)
    assert mean.accuracy_gap is not None
    assert mean.accuracy_gap > 0.3
    assert not mean.described


def test_the_loss_can_weight_outputs() -> None:
    targets = np.zeros((4, 2))
    network = np.array([[1.0, 1.0]]).repeat(4, axis=0)
    prediction = np.array([[2.0, 1.0]]).repeat(4, axis=0)

    found = quality(prediction, network, targets, weights=np.array([1.0, 0.0]))

    assert found.loss == pytest.approx(2.0)
    assert found.loss_ratio == pytest.approx(4.0)
    assert quality(prediction, targets, targets).loss_ratio is None


def test_bad_input_is_named() -> None:
    J, J_other, targets = problem(20, 8)
    with pytest.raises(InputError, match="not over the same inputs"):
        modes_of_kernel(J @ J.T, J_other @ J_other.T)
    with pytest.raises(InputError, match="not by the same parameters"):
        modes_of_jacobian(J, J_other[:, :3])
    modes = KernelModes(np.ones(1), np.ones((1, 1)), np.ones((1, 1)))
    with pytest.raises(InputError, match="ridge is 0"):
        predict(modes, targets[:1], 0)
