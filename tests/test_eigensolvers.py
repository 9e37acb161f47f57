from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from scipy.sparse.linalg import LinearOperator, aslinearoperator

from mlx_entk import (
    InputError,
    RunFailedError,
    eigendecompose,
    entk,
    entk_operator,
    estimate_trace,
    flatten,
    top_modes,
)
from mlx_entk.eigensolvers import RecordedOperator, as_operator
from tests import models


def operator_with(values: np.ndarray, seed: int = 0) -> LinearOperator:
    Q, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((values.size, values.size)))
    return aslinearoperator((Q * values) @ Q.T)


@pytest.mark.parametrize("method", ["lanczos", "subspace"])
def test_top_modes_of_an_operator_are_those_of_the_formed_kernel(method: Any) -> None:
    model = models.MLP([3, 16, 4])
    x = mx.random.normal((30, 3), key=mx.random.key(2))
    formed = eigendecompose(flatten(entk(model, x)), 6)

    found = top_modes(entk_operator(model, x), 6, method=method)

    np.testing.assert_allclose(found.spectrum.values, formed.values, rtol=1e-4)
    cosines = np.abs((found.spectrum.vectors * formed.vectors).sum(axis=0))
    assert cosines.min() > 1 - 1e-4
    assert found.residuals.max() < 1e-3


def test_a_formed_kernel_in_single_precision_is_an_operator() -> None:
    model = models.MLP([3, 16, 4])
    kernel = entk(model, mx.random.normal((40, 3), key=mx.random.key(2)), reduction="trace")

    found = top_modes(as_operator(kernel), 5)

    np.testing.assert_allclose(found.spectrum.values, eigendecompose(kernel, 5).values, rtol=1e-5)


@pytest.mark.parametrize("method", ["lanczos", "subspace"])
def test_residuals_are_what_they_say(method: Any) -> None:
    operator = operator_with(np.geomspace(1, 1e-6, 80))

    found = top_modes(operator, 5, method=method, tolerance=1e-3)

    v, values = found.spectrum.vectors, found.spectrum.values
    expected = np.linalg.norm(operator @ v - v * values, axis=0) / values
    np.testing.assert_allclose(found.residuals, expected)
    assert (found.residuals * values).max() <= 1e-3


def test_too_few_iterations_are_said() -> None:
    operator = operator_with(np.linspace(1, 0.9, 100))

    with pytest.raises(RunFailedError, match="allow more, or a larger tolerance"):
        top_modes(operator, 5, method="subspace", tolerance=1e-12, iterations=2)
    with pytest.raises(RunFailedError, match="allow more, or a larger tolerance"):
        top_modes(operator, 5, tolerance=1e-12, iterations=1)


@pytest.mark.parametrize("k", [0, 10])
def test_modes_that_do_not_exist_are_refused(k: int) -> None:
    with pytest.raises(InputError, match=f"k is {k}"):
        top_modes(operator_with(np.ones(10)), k)


def test_traces_are_estimated_closely() -> None:
    values = np.arange(1, 301) ** -1.0
    estimates = [estimate_trace(operator_with(values), 30, seed) for seed in range(20)]

    assert np.mean([e.trace for e in estimates]) == pytest.approx(values.sum(), rel=0.01)
    assert np.mean([e.trace_of_square for e in estimates]) == pytest.approx(
        (values**2).sum(), rel=0.01
    )
    for estimate in estimates:
        assert estimate.trace == pytest.approx(values.sum(), rel=0.1)
        assert estimate.participation_ratio == pytest.approx(
            values.sum() ** 2 / (values**2).sum(), rel=0.2
        )


def test_traces_are_exact_with_as_many_vectors_as_dimensions() -> None:
    estimate = estimate_trace(operator_with(np.arange(1.0, 9.0)), 100)

    assert estimate.trace == pytest.approx(36)
    assert estimate.trace_of_square == pytest.approx(204)
    assert estimate.products == 24


def test_no_vectors_are_refused() -> None:
    with pytest.raises(InputError, match="vectors is 0"):
        estimate_trace(operator_with(np.ones(3)), 0)


def test_recorded_products_are_read_until_the_first_that_is_missing(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    matrix = generator.standard_normal((60, 60))
    kernel = matrix @ matrix.T
    made: list[int] = []

    def operator() -> LinearOperator:
        def multiply(vector: Any) -> Any:
            made.append(len(made))
            return kernel @ vector.ravel()

        return LinearOperator(kernel.shape, matvec=multiply, dtype=np.float64)

    whole = RecordedOperator(operator(), tmp_path / "a")
    expected = top_modes(whole, 4).spectrum
    first = len(made)
    assert whole.products == first

    told: list[int] = []
    again = RecordedOperator(operator(), tmp_path / "a", told.append)
    found = top_modes(again, 4).spectrum
    assert len(made) == first
    assert told == list(range(1, first + 1))
    np.testing.assert_array_equal(found.vectors, expected.vectors)

    files = sorted((tmp_path / "a").iterdir())
    files[5].write_bytes(files[5].read_bytes()[:100])  # damaged
    for path in files[9:]:
        path.unlink()
    found = top_modes(RecordedOperator(operator(), tmp_path / "a"), 4).spectrum
    assert len(made) == first + 1 + (first - 9)
    np.testing.assert_array_equal(found.vectors, expected.vectors)

    other = RecordedOperator(operator(), tmp_path / "a")
    assert not np.array_equal(other @ np.ones(60), other @ np.arange(60.0))  # of other vectors
