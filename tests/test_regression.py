"""Both predictors against ``numpy.linalg.solve`` and against gradient descent."""

from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from mlx_entk import InputError
from mlx_entk.regression import (
    KernelModes,
    kernel_predictions,
    modes_of_jacobian,
    modes_of_kernel,
    predict,
    quality,
)
from mlx_entk.tracing.jacobian import flattened_jacobian
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
    assert same.describes_network
    assert mean.r2 == pytest.approx(0)
    assert mean.accuracy_gap is not None
    assert mean.accuracy_gap > 0.3
    assert not mean.describes_network


def test_the_loss_can_weight_outputs() -> None:
    targets = np.zeros((4, 2))
    network = np.array([[1.0, 1.0]]).repeat(4, axis=0)
    prediction = np.array([[2.0, 1.0]]).repeat(4, axis=0)

    measured = quality(prediction, network, targets, weights=np.array([1.0, 0.0]))

    assert measured.loss == pytest.approx(2.0)
    assert measured.loss_ratio == pytest.approx(4.0)
    assert quality(prediction, targets, targets).loss_ratio is None


def test_bad_input_is_named() -> None:
    J, J_other, targets = problem(20, 8)
    with pytest.raises(InputError, match="not over the same inputs"):
        modes_of_kernel(J @ J.T, J_other @ J_other.T)
    with pytest.raises(InputError, match="pass those by the same parameters"):
        modes_of_jacobian(J, J_other[:, :3])
    modes = KernelModes(np.ones(1), np.ones((1, 1)), np.ones((1, 1)))
    with pytest.raises(InputError, match="ridge is 0"):
        predict(modes, targets[:1], 0)


def settings(**changed: Any) -> dict[str, Any]:
    J, _, targets = problem(20, 8)
    modes = modes_of_jacobian(J, J[:5])
    return {"modes": modes, "targets": targets, "ridge": 0.1} | changed


@pytest.mark.parametrize("linearised", [False, True])
@pytest.mark.parametrize("shape", [(6, 3), (3, 6)])
def test_a_kernel_of_zeros_predicts_nothing_of_its_own(
    linearised: bool, shape: tuple[int, int]
) -> None:
    J = np.zeros(shape)
    R = shape[0]
    targets = np.ones((R, 2))
    base = (np.full((R, 2), 3.0), np.full((2, 2), 4.0)) if linearised else None

    for modes in (modes_of_jacobian(J, J[:2]), modes_of_kernel(J @ J.T, J[:2] @ J.T)):
        assert modes.values.size == modes.mean_eigenvalue == 0
        train, other = predict(modes, targets, 0.1, base)

        assert (train == (3 if linearised else 0)).all()
        assert (other == (4 if linearised else 0)).all()
        assert (train.shape, other.shape) == ((R, 2), (2, 2))


def test_arrays_of_any_kind_are_fitted() -> None:
    J, J_other, targets = (np.round(4 * part) for part in problem(20, 8))
    expected = predict(modes_of_kernel(J @ J.T, J_other @ J.T), targets, 0.1)
    whole = [part.astype(np.int64) for part in (J, J_other, targets)]

    for J_, other, y in (whole, [mx.array(part) for part in whole]):
        predicted = predict(modes_of_jacobian(J_, other), y, 0.1)
        np.testing.assert_allclose(predicted[1], expected[1], rtol=1e-5, atol=1e-8)
        kernels = np.array(J_) @ np.array(J_).T, np.array(other) @ np.array(J_).T
        np.testing.assert_allclose(
            predict(modes_of_kernel(*kernels), y, 0.1)[1], expected[1], rtol=1e-5, atol=1e-8
        )


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"ridge": np.nan}, "ridge is nan"),
        ({"ridge": np.inf}, "ridge is inf"),
        ({"targets": np.ones(20)}, r"targets have shape \(20,\)"),
        ({"targets": np.ones((19, 2))}, r"targets have shape \(19, 2\): pass 20 inputs"),
        (
            {"targets": np.r_[np.nan, np.ones(19)][:, None]},
            r"1 of 20 inputs \(0\) has NaN or infinite targets",
        ),
        (
            {"targets": np.full((20, 2), np.finfo(np.float64).max)},
            r"targets reach 1\.8e\+308, whose squares overflow",
        ),
        ({"base": (np.ones((20, 1)), np.ones((5, 2)))}, r"outputs have shape \(20, 1\)"),
        ({"base": (np.ones((20, 2)), np.ones((1, 2)))}, r"outputs have shape \(1, 2\)"),
        ({"base": (np.ones((20, 2)), np.full((5, 2), np.inf))}, "5 of 5 inputs"),
        ({"chosen": [8]}, r"chosen modes are \[8\]: pass some of 0 to 7, each once"),
        ({"chosen": [-1]}, r"chosen modes are \[-1\]"),
        ({"chosen": [1, 1]}, r"chosen modes are \[1, 1\]"),
        ({"chosen": [True] * 8}, "chosen modes are true or false"),
        ({"chosen": [1.5]}, "mode is 1.5: pass a whole number"),
    ],
)
def test_what_cannot_be_predicted_is_refused(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        predict(**settings(**changed))


@pytest.mark.parametrize("bad", [np.nan, -np.inf])
def test_kernels_that_are_not_finite_are_refused(bad: float) -> None:
    J, J_other, _ = problem(20, 8)
    for rows in (J, J[:, :30]):
        broken, broken_other = rows.copy(), J_other.copy()
        broken[3, 0] = broken_other[2, 0] = bad
        with pytest.raises(InputError, match=r"1 of 20 inputs \(3\) has NaN or infinite gradients"):
            modes_of_jacobian(broken, J_other)
        with pytest.raises(InputError, match=r"1 of 5 inputs \(2\) has NaN or infinite gradients"):
            modes_of_jacobian(rows, broken_other)
    K, K_other = J @ J.T, J_other @ J.T
    K_other[4, 1] = bad
    with pytest.raises(InputError, match=r"1 of 5 inputs \(4\) has NaN or infinite kernels with"):
        modes_of_kernel(K, K_other)
    K[5, 5] = bad
    with pytest.raises(InputError, match=r"1 of 20 rows \(5\) has NaN or infinite entries"):
        modes_of_kernel(K, K_other)
    with pytest.raises(InputError, match="pass those by the same parameters"):
        modes_of_jacobian(np.ones((3, 0)), np.ones((2, 0)))


def test_a_network_without_spread_has_the_limits_of_r2() -> None:
    constant, targets = np.full((7, 2), 0.1), np.zeros((7, 2))

    assert quality(constant, constant, targets).r2 == 1
    assert quality(targets, constant, targets).r2 == -np.inf
    assert not quality(targets, constant, targets).describes_network


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"prediction": np.ones((6, 1))}, r"predictions have shape \(6, 1\)"),
        ({"targets": np.ones((1, 2))}, r"targets have shape \(1, 2\)"),
        ({"network": np.ones(6)}, r"outputs have shape \(6,\)"),
        ({"network": np.zeros((0, 2))}, r"outputs have shape \(0, 2\)"),
        ({"prediction": np.full((6, 2), np.nan)}, "6 of 6 inputs .* NaN or infinite predictions"),
        ({"network": np.full((6, 2), np.nan)}, "6 of 6 inputs .* NaN or infinite outputs"),
        ({"targets": np.full((6, 2), np.nan)}, "6 of 6 inputs .* NaN or infinite targets"),
        ({"network": np.full((6, 2), 1e200)}, r"outputs reach 1\.0e\+200"),
        ({"labels": np.zeros(5, dtype=int)}, "labels are not 6 classes from 0 to 1"),
        ({"labels": np.full(6, 2)}, "labels are not 6 classes from 0 to 1"),
        ({"labels": np.full(6, np.nan)}, "labels are not 6 classes from 0 to 1"),
        ({"weights": np.ones(3)}, r"weights have shape \(3,\): the network has 2 outputs"),
        ({"weights": np.array([1, np.nan])}, "NaN or infinite weights"),
    ],
)
def test_what_has_no_quality_is_refused(changed: dict[str, Any], message: str) -> None:
    network = np.arange(12.0).reshape(6, 2)
    arrays: dict[str, Any] = {"prediction": network, "network": network, "targets": network}

    with pytest.raises(InputError, match=message):
        quality(**arrays | changed)


@pytest.mark.parametrize("ridge", [1e-6, 1e-2, 1.0])
def test_one_solution_gives_the_predictions_of_the_pure_kernel(ridge: float) -> None:
    generator = np.random.default_rng(0)
    J = generator.standard_normal((30, 50))
    K = J @ J.T
    y = generator.standard_normal((20, 2))
    _, expected = predict(modes_of_kernel(K[:20, :20], K[20:, :20]), y, ridge)

    found = kernel_predictions(K[:20, :20], K[20:, :20], y, ridge)

    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-9)
    assert not kernel_predictions(np.zeros((3, 3)), np.zeros((2, 3)), y[:3], ridge).any()
    with pytest.raises(InputError, match="ridge is 0"):
        kernel_predictions(K[:20, :20], K[20:, :20], y, 0)
    with pytest.raises(InputError, match="not over the same inputs"):
        kernel_predictions(K[:20, :20], K[20:, :19], y, ridge)


def test_what_is_no_kernel_predicts_nothing() -> None:
    for K, message in (
        (np.array([[1.0, 0.5], [0.0, 1.0]]), "not symmetric"),
        (np.array([[0.0, 1.0], [1.0, 0.0]]), "not positive definite"),
    ):
        with pytest.raises(InputError, match=message):
            kernel_predictions(K, np.ones((3, 2)), np.ones((2, 1)), 1e-2)
