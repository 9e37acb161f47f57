from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from scipy.sparse import csr_array
from scipy.sparse.linalg import LinearOperator, aslinearoperator

from mlx_entk import (
    InputError,
    RunFailedError,
    eigendecompose,
    entk,
    entk_operator,
    estimate_trace,
    flatten,
    jacobian_modes,
    top_modes,
)
from mlx_entk.eigensolvers import FormedOperator, RecordedOperator, as_operator
from tests import models


def operator_with(values: np.ndarray, seed: int = 0) -> LinearOperator:
    Q, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((values.size, values.size)))
    return aslinearoperator((Q * values) @ Q.T)


@pytest.mark.parametrize("method", ["lanczos", "subspace"])
def test_top_modes_of_an_operator_are_those_of_the_formed_kernel(method: Any) -> None:
    model = models.MLP([3, 16, 4])
    x = mx.random.normal((30, 3), key=mx.random.key(2))
    formed = eigendecompose(flatten(entk(model, x)), 6)

    modes = top_modes(entk_operator(model, x), 6, method=method)

    np.testing.assert_allclose(modes.spectrum.values, formed.values, rtol=1e-4)
    cosines = np.abs((modes.spectrum.vectors * formed.vectors).sum(axis=0))
    assert cosines.min() > 1 - 1e-4
    assert modes.residuals.max() < 1e-3


def test_a_formed_kernel_in_single_precision_is_an_operator() -> None:
    model = models.MLP([3, 16, 4])
    kernel = entk(model, mx.random.normal((40, 3), key=mx.random.key(2)), reduction="trace")

    modes = top_modes(as_operator(kernel), 5)

    np.testing.assert_allclose(modes.spectrum.values, eigendecompose(kernel, 5).values, rtol=1e-5)


@pytest.mark.parametrize("method", ["lanczos", "subspace"])
def test_residuals_are_what_they_say(method: Any) -> None:
    operator = operator_with(np.geomspace(1, 1e-6, 80))

    modes = top_modes(operator, 5, method=method, tolerance=1e-3)

    v, values = modes.spectrum.vectors, modes.spectrum.values
    expected = np.linalg.norm(operator @ v - v * values, axis=0) / values
    np.testing.assert_allclose(modes.residuals, expected, atol=1e-15)
    assert (modes.residuals * values).max() <= 1e-3


def test_too_few_iterations_are_said() -> None:
    operator = operator_with(np.linspace(1, 0.9, 100))

    with pytest.raises(RunFailedError, match="allow more, or a larger tolerance"):
        top_modes(operator, 5, method="subspace", tolerance=1e-12, iterations=2)
    with pytest.raises(RunFailedError, match="allow more, or a larger tolerance"):
        top_modes(operator, 5, tolerance=1e-12, iterations=1)


@pytest.mark.parametrize("k", [0, 11, -1])
def test_modes_that_do_not_exist_are_refused(k: int) -> None:
    with pytest.raises(InputError, match=f"k is {k}"):
        top_modes(operator_with(np.ones(10)), k)


def counted(kernel: np.ndarray) -> tuple[LinearOperator, list[int]]:
    made: list[int] = []

    def multiply(vector: Any) -> Any:
        made.append(len(made))
        return kernel @ vector.ravel()

    return LinearOperator(kernel.shape, matvec=multiply, dtype=np.float64), made


def require_modes(modes: Any, operator: Any, expected: np.ndarray) -> None:
    values, vectors = modes.spectrum.values, modes.spectrum.vectors
    np.testing.assert_allclose(values, expected, atol=1e-6 * expected[0])
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(values.size), atol=1e-10)
    residuals = np.linalg.norm(operator @ vectors - vectors * values, axis=0)
    # The solver stops at 1e-5 by its own products, which float32 rounds by up to 1e-6.
    assert residuals.max() <= 1.1e-5 * expected[0]
    assert np.isfinite(modes.residuals).all()


@pytest.mark.parametrize("method", ["lanczos", "subspace"])
@pytest.mark.parametrize("size", [1, 4, 30, 200])
def test_an_operator_of_zeros_has_the_eigenvalue_zero(method: Any, size: int) -> None:
    k = min(3, size)

    modes = top_modes(aslinearoperator(np.zeros((size, size))), k, method=method)

    require_modes(modes, np.zeros((size, size)), np.zeros(k))
    assert modes.spectrum.noise_floor == 0
    assert (modes.residuals == 0).all()


@pytest.mark.parametrize("method", ["lanczos", "subspace"])
def test_a_dead_network_has_an_operator_of_zeros(method: Any) -> None:
    def dead(params: Any, x: mx.array) -> mx.array:
        return mx.maximum(x @ params["weight"] - 1e3, 0)

    operator = entk_operator(
        dead, mx.random.normal((30, 3)), params={"weight": mx.ones((3, 2))}, reduction="trace"
    )

    assert (top_modes(operator, 2, method=method).spectrum.values == 0).all()
    assert estimate_trace(operator).participation_ratio == 0


@pytest.mark.parametrize("method", ["lanczos", "subspace"])
@pytest.mark.parametrize("rank", [1, 3, 8])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_beyond_the_rank_the_eigenvalues_are_zero(method: Any, rank: int, dtype: Any) -> None:
    values = np.concatenate([np.linspace(2, 1, rank), np.zeros(150 - rank)])
    kernel = (operator_with(values) @ np.eye(150)).astype(dtype)

    require_modes(top_modes(as_operator(kernel), 8, method=method), kernel, values[:8])


def test_repeated_inputs_make_no_difference() -> None:
    model = models.MLP([3, 16, 4])
    x = mx.repeat(mx.random.normal((10, 3), key=mx.random.key(2)), 8, axis=0)
    operator = entk_operator(model, x, reduction="trace")
    kernel = entk(model, x, reduction="trace").astype(np.float64)

    modes = top_modes(operator, 14)

    require_modes(modes, kernel, np.linalg.eigvalsh(kernel)[::-1][:14])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("copies", [3, 10])
@pytest.mark.parametrize("k", [6, 20])
def test_every_copy_of_a_repeated_eigenvalue_is_found(dtype: Any, copies: int, k: int) -> None:
    """The full kernel of a network whose outputs share nothing: K ⊗ 1, each eigenvalue C times."""
    values = 1 / np.arange(1, 61.0)
    kernel = operator_with(values) @ np.eye(60)
    full = np.kron(np.eye(copies), kernel).astype(dtype)

    require_modes(top_modes(as_operator(full), k), full, np.repeat(values, copies)[:k])


@pytest.mark.parametrize("levels", [[1.0], [3.0, 2.0, 1.0], [1.0, 0.0]])
def test_few_different_eigenvalues_are_no_hurdle(levels: list[float]) -> None:
    """A Krylov space of as many dimensions is invariant, and Lanczos goes on at random."""
    kernel = np.diag(np.repeat(levels, 120 // len(levels)))

    modes, again = (top_modes(aslinearoperator(kernel), 8) for _ in range(2))

    require_modes(modes, kernel, np.full(8, levels[0]))
    np.testing.assert_array_equal(modes.spectrum.vectors, again.spectrum.vectors)


SPECTRA = {
    "slow": 1 / np.arange(1, 501.0),
    "fast": np.geomspace(1, 1e-9, 500),
    "one copied": np.concatenate([np.ones(60), np.linspace(0.5, 0, 440)]),
    "in groups": np.repeat(1 / np.arange(1, 26.0), 20),
    "of rank 1": np.eye(1, 500)[0],
    "of rank 30": np.concatenate([np.linspace(2, 1, 30), np.zeros(470)]),
    "flat": np.ones(500),
    "zero": np.zeros(500),
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("k", [1, 20, 90])
@pytest.mark.parametrize("kind", SPECTRA)
def test_modes_of_a_formed_kernel_are_those_of_single_products(
    kind: str, k: int, dtype: Any
) -> None:
    """A formed kernel is large enough here for blocks of vectors."""
    values = SPECTRA[kind]
    kernel = (operator_with(values) @ np.eye(500)).astype(dtype)
    kernel = (kernel + kernel.T) / 2

    modes, again = top_modes(kernel, k), top_modes(kernel, k)

    require_modes(modes, kernel.astype(np.float64), values[:k])
    np.testing.assert_array_equal(modes.spectrum.vectors, again.spectrum.vectors)
    singly = top_modes(aslinearoperator(kernel), k)
    np.testing.assert_allclose(modes.spectrum.values, singly.spectrum.values, atol=1e-5 * values[0])


def test_a_formed_kernel_that_is_no_entk_is_refused_in_blocks() -> None:
    generator = np.random.default_rng(0)
    lopsided = generator.random((500, 500)) + 10 * np.eye(500)
    indefinite = operator_with(np.linspace(1, -1, 500)) @ np.eye(500)
    np.fill_diagonal(indefinite, np.abs(np.diagonal(indefinite)))

    with pytest.raises(InputError, match="operator is not symmetric"):
        top_modes(np.triu(lopsided), 3)
    with pytest.raises(InputError, match="operator has negative eigenvalues down to −"):
        top_modes(indefinite, 3)


def test_a_formed_kernel_is_read_a_few_times() -> None:
    kernel = operator_with(np.geomspace(1, 1e-6, 800)) @ np.eye(800)
    formed, passes = as_operator(kernel), [0]

    def multiply(vectors: Any) -> Any:
        passes[0] += 1
        return formed @ vectors

    modes = top_modes(FormedOperator(800, multiply), 40)

    require_modes(modes, kernel, np.geomspace(1, 1e-6, 800)[:40])
    assert passes[0] < 30  # 12 of them look for what is missing


def test_modes_take_few_products() -> None:
    operator, made = counted(operator_with(np.geomspace(1, 1e-6, 300)) @ np.eye(300))

    top_modes(operator, 20)

    # One round of 41 steps, a part of another, and 12 to look for what is missing.
    assert len(made) < 80


def test_a_larger_tolerance_takes_fewer_products() -> None:
    operator, made = counted(operator_with(np.geomspace(1, 1e-6, 300)) @ np.eye(300))

    exact = top_modes(operator, 20)
    for_exact = len(made)
    modes = top_modes(operator, 20, tolerance=0.1)

    # It stops as soon as the modes have converged.
    assert len(made) - for_exact <= for_exact - 10
    assert exact.residuals.max() < 1e-3 < modes.residuals.max()
    assert (modes.residuals * modes.spectrum.values).max() <= 0.1


def test_products_have_a_limit_and_residuals_tell_what_they_were_not_enough_for() -> None:
    matrix = operator_with(np.linspace(1, 0.5, 300)) @ np.eye(300)
    operator, made = counted(matrix)

    modes = top_modes(operator, 10, products=15)

    assert len(made) == 15
    v, values = modes.spectrum.vectors, modes.spectrum.values
    expected = np.linalg.norm(matrix @ v - v * values, axis=0) / values
    np.testing.assert_allclose(modes.residuals, expected)
    assert modes.residuals.max() > 0.01
    with pytest.raises(InputError, match="products is 10: 10 modes need at least 11"):
        top_modes(operator, 10, products=10)


@pytest.mark.parametrize("size", [1, 2, 15, 25])
def test_all_the_modes_of_an_operator_can_be_asked_for(size: int) -> None:
    operator = operator_with(np.arange(size, 0, -1.0))

    require_modes(top_modes(operator, size), operator, np.arange(size, 0, -1.0))


@pytest.mark.parametrize("method", ["lanczos", "subspace"])
@pytest.mark.parametrize(
    "matrix",
    [
        np.diag(np.arange(40)),
        mx.diag(mx.arange(40)),
        mx.diag(mx.arange(40)).astype(mx.bfloat16),
        np.diag(np.arange(40)).astype(np.float16),
        np.diag(np.arange(40)).tolist(),
        csr_array(np.diag(np.arange(40.0))),
    ],
    ids=["int", "mlx", "bfloat16", "float16", "list", "sparse"],
)
def test_matrices_of_any_kind_are_operators(matrix: Any, method: Any) -> None:
    modes = top_modes(matrix, np.int64(3), method=method)  # type: ignore[arg-type]

    np.testing.assert_allclose(modes.spectrum.values, [39, 38, 37], rtol=1e-5)


def test_an_operator_may_return_the_vector_itself() -> None:
    identity = LinearOperator((50, 50), matvec=lambda vector: vector, dtype=np.float64)

    require_modes(top_modes(identity, 3), np.eye(50), np.ones(3))


@pytest.mark.parametrize("method", ["lanczos", "subspace"])
@pytest.mark.parametrize("size", [10, 100])
@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("negative", "operator has negative eigenvalues down to −"),
        ("indefinite", "operator has negative eigenvalues down to −"),
        ("asymmetric", "operator is not symmetric"),
        ("other factors", "operator is not symmetric"),
    ],
)
def test_an_operator_that_is_no_entk_is_refused(
    method: Any, size: int, kind: str, message: str
) -> None:
    generator = np.random.default_rng(0)
    J, other = generator.standard_normal((2, size, 5))
    matrix = {
        "negative": -np.eye(size),
        "indefinite": operator_with(np.linspace(1, -1, size)) @ np.eye(size),
        "asymmetric": generator.standard_normal((size, size)),
        "other factors": J @ other.T,
    }[kind]

    with pytest.raises(InputError, match=message):
        top_modes(aslinearoperator(matrix), 3, method=method)
    if kind != "indefinite" or size == 10:  # 20 vectors see of a hundred what is large
        with pytest.raises(InputError, match=message):
            estimate_trace(aslinearoperator(matrix))


def test_the_kernel_of_a_pair_of_different_classes_is_refused() -> None:
    model = models.MLP([3, 16, 4])
    kernel = entk(model, mx.random.normal((40, 3), key=mx.random.key(2)), reduction=(0, 1))
    np.testing.assert_allclose(kernel, kernel.T, atol=1e-5)

    with pytest.raises(InputError, match="negative entries on the diagonal down to −"):
        as_operator(kernel)
    with pytest.raises(InputError, match="operator has negative eigenvalues"):
        top_modes(aslinearoperator(kernel), 3)


@pytest.mark.parametrize("dtype", [mx.float32, mx.float16, mx.bfloat16], ids=str)
@pytest.mark.parametrize("reduction", ["full", "trace"])
def test_rounding_of_products_is_not_taken_for_an_operator_that_is_none(
    dtype: Any, reduction: str
) -> None:
    model = models.MLP([3, 32, 32, 4])
    model.set_dtype(dtype)
    x = mx.random.normal((40, 3), key=mx.random.key(2)).astype(dtype)
    formed = entk(model, x, reduction=reduction)
    kernel = (flatten(formed) if reduction == "full" else formed).astype(np.float64)

    modes = top_modes(entk_operator(model, x, reduction=reduction), 5, tolerance=0.05)

    np.testing.assert_allclose(
        modes.spectrum.values, np.linalg.eigvalsh(kernel)[::-1][:5], rtol=0.05
    )


@pytest.mark.parametrize("method", ["lanczos", "subspace"])
@pytest.mark.parametrize("size", [10, 100])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_products_that_are_not_finite_are_refused(method: Any, size: int, bad: float) -> None:
    kernel = np.eye(size)
    kernel[3, 3] = bad
    message = rf"1 of {size} rows \(3\) has NaN or infinite entries in a product of the operator"

    for operator in (as_operator(kernel), aslinearoperator(kernel)):
        with pytest.raises(RunFailedError, match="NaN or infinite entries in a product"):
            top_modes(operator, 3, method=method)
        with pytest.raises(RunFailedError, match="NaN or infinite entries in a product"):
            estimate_trace(operator)
    if np.isnan(bad):
        with pytest.raises(RunFailedError, match=message):
            top_modes(csr_array(kernel), 3, method=method)


@pytest.mark.parametrize("method", ["lanczos", "subspace"])
@pytest.mark.parametrize(
    ("operator", "settings", "message"),
    [
        (np.ones((30, 20)), {}, r"operator has shape \(30, 20\)"),
        (aslinearoperator(np.ones((30, 20))), {}, r"operator has shape \(30, 20\)"),
        (np.zeros((0, 0)), {}, r"operator has shape \(0, 0\)"),
        (np.eye(30) * 1j, {}, "operator has type complex128"),
        (aslinearoperator(np.eye(30) * 1j), {}, "operator has type complex128"),
        (np.eye(30), {"k": 2.5}, "k is 2.5: pass a whole number"),
        (np.eye(30), {"iterations": 0}, "iterations is 0"),
        (np.eye(30), {"tolerance": 0.0}, "tolerance is 0.0"),
        (np.eye(30), {"tolerance": np.nan}, "tolerance is nan"),
        (np.eye(30), {"seed": -1}, "seed is -1"),
        (np.eye(30), {"method": "arnoldi"}, "method 'arnoldi' is unknown"),
    ],
)
def test_settings_that_do_not_fit_are_refused(
    operator: Any, settings: dict[str, Any], message: str, method: str
) -> None:
    arguments: dict[str, Any] = {"k": 2, "method": method} | settings
    with pytest.raises(InputError, match=message):
        top_modes(operator, **arguments)


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


def test_the_trace_of_zeros_is_that_of_no_modes() -> None:
    estimate = estimate_trace(aslinearoperator(np.zeros((9, 9))))

    assert (estimate.trace, estimate.trace_of_square, estimate.participation_ratio) == (0, 0, 0)


@pytest.mark.parametrize(
    ("operator", "settings", "message"),
    [
        (np.eye(3), {"vectors": 0}, "vectors is 0"),
        (np.eye(3), {"vectors": 1.5}, "vectors is 1.5: pass a whole number"),
        (np.eye(3), {"seed": -2}, "seed is -2"),
        (aslinearoperator(np.ones((3, 2))), {}, r"operator has shape \(3, 2\)"),
    ],
)
def test_traces_that_cannot_be_estimated_are_refused(
    operator: Any, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        estimate_trace(operator, **settings)


@pytest.mark.parametrize("shape", [(6, 4), (4, 6), (1, 1)])
def test_a_jacobian_of_zeros_has_eigenvalues_zero_and_no_modes(shape: tuple[int, int]) -> None:
    spectrum, values = jacobian_modes(np.zeros(shape), 1)

    assert (values == 0).all()
    assert values.size == min(shape)
    assert spectrum.values.size == 0
    assert spectrum.vectors.shape == (shape[0], 0)


@pytest.mark.parametrize("shape", [(5, 8), (5, 3)])
def test_rows_that_repeat_add_no_modes(shape: tuple[int, int]) -> None:
    rows = np.random.default_rng(0).standard_normal(shape)
    twice = np.concatenate([rows, rows])

    spectrum, values = jacobian_modes(twice, min(twice.shape))

    expected = np.linalg.eigvalsh(twice @ twice.T)[::-1][: min(shape)]
    np.testing.assert_allclose(spectrum.values, expected)
    np.testing.assert_allclose(values[: min(shape)], expected)
    np.testing.assert_allclose(values[min(shape) :], 0, atol=1e-12)
    gram = spectrum.vectors.T @ spectrum.vectors
    np.testing.assert_allclose(gram, np.eye(min(shape)), atol=1e-10)


@pytest.mark.parametrize("dtype", [np.int64, np.bool_, np.float16, "mlx", "bfloat16"])
def test_jacobians_of_any_kind_have_modes(dtype: Any) -> None:
    rows: Any = np.array([[1, 0], [0, 0], [1, 1]])
    if dtype == "mlx":
        rows = mx.array(rows)
    elif dtype == "bfloat16":
        rows = mx.array(rows).astype(mx.bfloat16)
    else:
        rows = rows.astype(dtype)

    np.testing.assert_allclose(jacobian_modes(rows, 2)[0].values, [2.618034, 0.381966], rtol=1e-6)


@pytest.mark.parametrize(
    ("rows", "top", "message"),
    [
        (np.ones(3), 1, r"rows have shape \(3,\)"),
        (np.zeros((0, 4)), 1, r"a Jacobian of shape \(0, 4\) has 1 to 0 modes"),
        (np.ones((3, 2)), 1.0, "top is 1.0: pass a whole number"),
        (np.array([[1, np.nan], [1, 2]]), 1, r"1 of 2 rows of the Jacobian \(0\) has NaN"),
    ],
)
def test_jacobians_without_modes_are_refused(rows: Any, top: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        jacobian_modes(rows, top)


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
    spectrum = top_modes(again, 4).spectrum
    assert len(made) == first
    assert told == list(range(1, first + 1))
    np.testing.assert_array_equal(spectrum.vectors, expected.vectors)

    files = sorted((tmp_path / "a").iterdir())
    files[5].write_bytes(files[5].read_bytes()[:100])  # damaged
    for path in files[9:]:
        path.unlink()
    spectrum = top_modes(RecordedOperator(operator(), tmp_path / "a"), 4).spectrum
    assert len(made) == first + 1 + (first - 9)
    np.testing.assert_array_equal(spectrum.vectors, expected.vectors)

    other = RecordedOperator(operator(), tmp_path / "a")
    assert not np.array_equal(other @ np.ones(60), other @ np.arange(60.0))  # of other vectors
