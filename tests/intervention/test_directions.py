"""Directions of modes and edits along them, against NumPy in float64."""

from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from numpy.typing import NDArray

import mlx_entk
from mlx_entk import InputError, intervention
from mlx_entk._parameters import flatten_tree
from mlx_entk.kernel.reduction import Reduction, cotangents_of
from mlx_entk.models import QuadraticMLP
from mlx_entk.tracing.functions import as_parametric
from tests.reference import finite_difference_jacobian

N, P, WIDTH = 9, 3, 6
REDUCTIONS: list[Reduction] = ["full", "trace", "sum-of-logits", (1, 1)]


@pytest.fixture(scope="module")
def model() -> QuadraticMLP:
    return QuadraticMLP(P, WIDTH, seed=1)


@pytest.fixture(scope="module")
def x() -> mx.array:
    return mx.random.normal((N, 2 * P), key=mx.random.key(3))


@pytest.fixture(scope="module")
def jacobian(model: QuadraticMLP, x: mx.array) -> NDArray[np.float64]:
    """Shape (N, C, P), by finite differences in float64."""
    by_name = finite_difference_jacobian(model, x)
    return np.concatenate(
        [by_name[name].reshape(N, P, -1) for name in flatten_tree(model.parameters())], axis=2
    )


def joined(change: dict[str, mx.array], model: nn.Module) -> NDArray[np.float64]:
    names = flatten_tree(model.parameters())
    return np.concatenate(
        [np.array(change[name].astype(mx.float32), dtype=np.float64).reshape(-1) for name in names]
    )


def gradients(
    jacobian: NDArray[np.float64], vectors: NDArray[np.float64], reduction: Reduction
) -> NDArray[np.float64]:
    """Jᵀ(v ⊗ w) for every mode and every combination of outputs, in rows."""
    if reduction == "full":
        return np.asarray(np.einsum("cnk,ncp->kp", vectors.reshape(P, N, -1), jacobian))
    combinations = np.array(cotangents_of(reduction, P).left[:])
    rows = np.einsum("nk,rc,ncp->krp", vectors, combinations, jacobian)
    return np.asarray(rows.reshape(-1, jacobian.shape[2]))


def modes(model: nn.Module, x: mx.array, reduction: Reduction) -> mlx_entk.Spectrum:
    kernel = mlx_entk.entk(model, x, reduction=reduction)
    return mlx_entk.eigendecompose(mlx_entk.flatten(kernel) if reduction == "full" else kernel)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_directions_are_orthonormal_and_lie_along_the_gradients(
    model: QuadraticMLP, x: mx.array, jacobian: NDArray[np.float64], reduction: Reduction
) -> None:
    vectors = modes(model, x, reduction).modes(0, 3)
    operator = mlx_entk.entk_operator(model, x, reduction=reduction)
    found = intervention.mode_directions(operator, vectors)
    rows = np.stack([joined(direction.tangent, model) for direction in found])
    np.testing.assert_allclose(rows @ rows.T, np.eye(4), atol=1e-5)
    plain = gradients(jacobian, vectors, reduction)
    projector = np.linalg.pinv(plain) @ plain
    np.testing.assert_allclose(rows @ projector, rows, atol=1e-3)
    for direction, row in zip(found, rows, strict=True):
        np.testing.assert_allclose(direction.outputs, jacobian @ row, atol=1e-3)


def test_the_outputs_of_a_full_kernels_direction_are_its_mode(
    model: QuadraticMLP, x: mx.array
) -> None:
    spectrum = modes(model, x, "full")
    operator = mlx_entk.entk_operator(model, x)
    found = intervention.mode_directions(operator, spectrum.modes(0, 2))
    for number, direction in enumerate(found):
        expected = np.sqrt(spectrum.values[number]) * spectrum.vectors[:, number]
        np.testing.assert_allclose(direction.outputs.T.reshape(-1), expected, atol=1e-3)


def test_the_direction_of_a_trace_mode_moves_the_outputs_the_most(
    model: QuadraticMLP, x: mx.array, jacobian: NDArray[np.float64]
) -> None:
    vectors = modes(model, x, "trace").modes(1, 1)
    operator = mlx_entk.entk_operator(model, x, reduction="trace")
    (found,) = intervention.mode_directions(operator, vectors)
    leading = np.linalg.svd(gradients(jacobian, vectors, "trace"))[2][0]
    assert abs(leading @ joined(found.tangent, model)) > 0.999


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_a_projection_is_that_of_the_gradients_themselves(
    model: QuadraticMLP, x: mx.array, jacobian: NDArray[np.float64], reduction: Reduction
) -> None:
    vectors = modes(model, x, reduction).modes(1, 3)
    operator = mlx_entk.entk_operator(model, x, reduction=reduction)
    span = intervention.ModeSpan(operator, vectors)
    plain = gradients(jacobian, vectors, reduction)
    assert span.dimension == len(plain)
    params = flatten_tree(model.parameters())
    theta = joined(params, model)
    expected = np.linalg.pinv(plain) @ (plain @ theta)
    np.testing.assert_allclose(
        joined(span.project(params), model), expected, atol=1e-3 * np.abs(theta).max()
    )


def test_what_was_taken_out_is_gone(model: QuadraticMLP, x: mx.array) -> None:
    operator = mlx_entk.entk_operator(model, x, reduction="trace")
    span = intervention.ModeSpan(operator, modes(model, x, "trace").modes(1, 2))
    params = flatten_tree(model.parameters())
    change = intervention.removal(span)
    left = span.project(intervention.applied(params, change))
    assert intervention.norm(left) < 1e-3 * intervention.norm(change)


def test_undoing_takes_out_what_was_learned_and_nothing_else(
    model: QuadraticMLP, x: mx.array
) -> None:
    operator = mlx_entk.entk_operator(model, x, reduction="trace")
    span = intervention.ModeSpan(operator, modes(model, x, "trace").modes(1, 2))
    params = flatten_tree(model.parameters())
    initial = flatten_tree(QuadraticMLP(P, WIDTH, seed=2).parameters())
    change = intervention.removal(span, initial)
    learned = intervention.displacement(params, initial)
    expected = -joined(span.project(learned), model)
    np.testing.assert_allclose(joined(change, model), expected, atol=1e-4)
    unlearned = intervention.removal(span, params)
    assert intervention.norm(unlearned) == 0


def test_directions_of_some_parameters_touch_no_others(model: QuadraticMLP, x: mx.array) -> None:
    operator = mlx_entk.entk_operator(model, x, reduction="trace", parameters="readout.weight")
    vectors = mlx_entk.eigendecompose(
        mlx_entk.entk(model, x, reduction="trace", parameters="readout.weight")
    ).modes(0, 1)
    (first, _) = intervention.mode_directions(operator, vectors)
    assert list(first.tangent) == ["readout.weight"]
    # Every gradient of a readout's output is one outer product.
    assert intervention.effective_rank_of(first.tangent["readout.weight"]) == pytest.approx(1, 0.01)


def test_the_first_order_prediction_is_the_true_change_of_small_steps(
    model: QuadraticMLP, x: mx.array
) -> None:
    """Held against the model in float64, at a step too small for float32 to see."""
    spectrum = modes(model, x, "full")
    operator = mlx_entk.entk_operator(model, x)
    (found,) = intervention.mode_directions(operator, spectrum.modes(0, 0))
    W1, W2 = (
        np.array(model.hidden.weight, dtype=np.float64),
        np.array(model.readout.weight, dtype=np.float64),
    )
    wide = np.array(x, dtype=np.float64)

    def outputs(step: float) -> NDArray[np.float64]:
        U1, U2 = (
            np.array(found.tangent[name], dtype=np.float64)
            for name in ("hidden.weight", "readout.weight")
        )
        hidden = wide @ (W1 + step * U1).T / np.sqrt(2 * P)
        return np.asarray((hidden**2) @ (W2 + step * U2).T / WIDTH)

    step = 1e-5
    true = (outputs(step) - outputs(-step)) / (2 * step)
    np.testing.assert_allclose(found.outputs, true, atol=1e-3 * np.abs(true).max())


def test_the_linear_range_ends_where_the_model_bends(model: QuadraticMLP, x: mx.array) -> None:
    """Of a readout's weight the outputs are linear; of all weights they are cubic."""
    function = as_parametric(model)
    for parameters, bends in (("readout.weight", False), (None, True)):
        operator = mlx_entk.entk_operator(model, x, reduction="trace", parameters=parameters)
        change = {name: value for name, value in function.params.items() if name in operator.params}
        found = intervention.linear_range(model, x, operator, change)
        if not bends:
            assert found.radius is None
            assert max(found.deviation) < 1e-2
            continue
        # f((1 + t)θ) = (1 + t)³ f(θ), so that the deviation is t + t²/3.
        expected = [dose + dose**2 / 3 for dose in found.doses]
        np.testing.assert_allclose(found.deviation, expected, rtol=0.02, atol=1e-3)
        assert found.radius == pytest.approx(0.097, rel=0.05)


def test_random_edits_have_the_norm_of_each_parameter(model: QuadraticMLP) -> None:
    params = flatten_tree(model.parameters())
    drawn = intervention.random_edit(params, np.random.default_rng(0))
    for name, value in params.items():
        assert float(mx.linalg.norm(drawn[name])) == pytest.approx(
            float(mx.linalg.norm(value)), rel=1e-5
        )
        cosine = float(mx.sum(drawn[name] * value) / mx.linalg.norm(value) ** 2)
        assert abs(cosine) < 0.6


class TwoWays(nn.Module):
    """A weight that arrives as it is and one that arrives as its transpose, both square."""

    def __init__(self) -> None:
        super().__init__()
        self.straight = mx.random.normal((4, 4), key=mx.random.key(0))
        self.turned = mx.random.normal((4, 4), key=mx.random.key(1))

    def __call__(self, x: mx.array) -> mx.array:
        return mx.tanh(x @ self.straight) @ self.turned.T


def test_principal_directions_are_taken_out_on_the_side_of_the_inputs() -> None:
    model = TwoWays()
    x = mx.random.normal((12, 4), key=mx.random.key(2))
    change = intervention.principal_edit(model, x, 1)
    met: dict[str, NDArray[Any]] = {
        "straight": np.array(x),
        "turned": np.tanh(np.array(x @ model.straight)),
    }
    for name, values in met.items():
        leading = np.linalg.svd(values.astype(np.float64))[2][0]
        weight = np.array(model[name] + change[name], dtype=np.float64)
        read = leading @ weight if name == "straight" else weight @ leading
        np.testing.assert_allclose(read, 0, atol=1e-5)
        assert np.linalg.matrix_rank(np.array(change[name]), tol=1e-5) == 1


def test_modes_without_a_direction_are_refused(model: QuadraticMLP, x: mx.array) -> None:
    operator = mlx_entk.entk_operator(model, x, reduction="trace")
    vectors = modes(model, x, "trace").vectors
    with pytest.raises(InputError, match="moves no weights of its own"):
        intervention.mode_directions(operator, vectors[:, [0, 0]])
    with pytest.raises(InputError, match="rows"):
        intervention.ModeSpan(operator, vectors[:-1])


def test_half_precision_gives_the_same_edit_to_its_own_accuracy(x: mx.array) -> None:
    edits = []
    for dtype in (mx.float32, mx.float16, mx.bfloat16):
        model = QuadraticMLP(P, WIDTH, seed=1)
        model.set_dtype(dtype)
        operator = mlx_entk.entk_operator(model, x, reduction="trace")
        kernel = mlx_entk.entk(model, x, reduction="trace")
        span = intervention.ModeSpan(operator, mlx_entk.eigendecompose(kernel).modes(1, 2))
        edits.append(joined(intervention.removal(span), model))
    for edit, accuracy in zip(edits[1:], (0.02, 0.1), strict=True):
        assert np.linalg.norm(edit - edits[0]) < accuracy * np.linalg.norm(edits[0])
