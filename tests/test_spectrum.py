from typing import Any

import ml_dtypes
import mlx.core as mx
import numpy as np
import pytest

from mlx_entk import (
    InputError,
    effective_rank,
    eigendecompose,
    entk,
    find_cliffs,
    flatten,
    layerwise_entk,
)
from tests import models


def kernel_with(values: np.ndarray, seed: int = 0) -> np.ndarray:
    Q, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((values.size, values.size)))
    return np.asarray((Q * values) @ Q.T)


@pytest.mark.parametrize("top", [None, 3])
def test_eigenpairs_are_those_of_the_kernel_largest_first(top: int | None) -> None:
    values = np.geomspace(10, 1e-6, 12)
    kernel = kernel_with(values)

    spectrum = eigendecompose(kernel, top)

    np.testing.assert_allclose(spectrum.values, values[:top], rtol=1e-7)
    residual = kernel @ spectrum.vectors - spectrum.vectors * spectrum.values
    assert np.abs(residual).max() < 1e-12
    np.testing.assert_array_equal(spectrum.modes(1, 2), spectrum.vectors[:, 1:3])


def test_single_precision_kernels_are_decomposed_in_double_precision() -> None:
    spectrum = eigendecompose(kernel_with(np.geomspace(1, 1e-3, 20)).astype(np.float32))

    assert spectrum.values.dtype == np.float64
    gram = spectrum.vectors.T @ spectrum.vectors
    np.testing.assert_allclose(gram, np.eye(20), atol=1e-13)


def test_the_noise_floor_lies_between_rounding_and_signal() -> None:
    rank = 30
    values = np.concatenate([np.geomspace(1, 1e-3, rank), np.zeros(170)])
    spectrum = eigendecompose(kernel_with(values).astype(np.float32))

    assert spectrum.values[rank - 1] > spectrum.noise_floor > np.abs(spectrum.values[rank:]).max()


def with_entry(value: float, row: int, column: int) -> np.ndarray:
    kernel = np.eye(9)
    kernel[row, column] = kernel[column, row] = value
    return kernel


@pytest.mark.parametrize(
    ("kernel", "top", "message"),
    [
        (np.zeros((2, 3)), None, "square"),
        (np.zeros((2, 2, 3, 3)), None, "square"),
        (np.zeros((0, 0)), None, "square"),
        (np.float64(3), None, "square"),
        (np.full((2, 2), np.nan), None, r"2 of 2 rows \(0, 1\) have NaN"),
        (with_entry(np.nan, 4, 4), None, r"kernel: 1 of 9 rows \(4\) has NaN or infinite entries"),
        (with_entry(np.inf, 2, 5), 3, r"kernel: 2 of 9 rows \(2, 5\) have NaN"),
        (np.array([[1.0, 2.0], [0.0, 1.0]]), None, "not symmetric"),
        (np.array([[0, 200], [100, 0]], dtype=np.uint8), None, "not symmetric"),
        (np.array([[0, -3e38], [3e38, 0]], dtype=np.float32), None, "not symmetric"),
        (np.eye(2), 0, "at least one mode"),
        (np.eye(2), 1.5, "top is 1.5: pass a whole number"),
        (np.eye(2) * 1j, None, "kernel has type complex128: pass real numbers"),
        (mx.eye(2).astype(mx.complex64), None, "kernel has type complex64: pass real numbers"),
        ([["a", "b"], ["c", "d"]], None, "kernel has type <U1: pass real numbers"),
        ([[1.0], [1.0, 2.0]], None, "kernel cannot be read as numbers"),
        (None, None, "kernel cannot be read as numbers|square"),
    ],
)
def test_what_has_no_spectrum_is_refused(kernel: Any, top: Any, message: str) -> None:
    with pytest.raises(InputError, match=message) as raised:
        eigendecompose(kernel, top)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("top", [None, 1, 3, 7])
@pytest.mark.parametrize("size", [1, 5])
def test_a_kernel_of_zeros_has_eigenvalues_zero_and_no_cliffs(size: int, top: int | None) -> None:
    spectrum = eigendecompose(np.zeros((size, size)), top)

    k = min(size, size if top is None else top)
    assert spectrum.values.tolist() == [0] * k
    np.testing.assert_allclose(spectrum.vectors.T @ spectrum.vectors, np.eye(k))
    assert find_cliffs(spectrum.values, spectrum.noise_floor) == []
    assert effective_rank(spectrum.values) == 0


def test_a_kernel_of_one_input_has_one_mode() -> None:
    spectrum = eigendecompose(np.array([[2.5]]), 1)

    assert spectrum.values == [2.5]
    assert spectrum.vectors == [[1]]
    assert find_cliffs(spectrum.values) == []
    assert effective_rank(spectrum.values) == 1


KINDS: dict[str, Any] = {
    "int64": lambda a: a,
    "uint8": lambda a: a.astype(np.uint8),
    "float16": lambda a: a.astype(np.float16),
    "longdouble": lambda a: a.astype(np.longdouble),
    "object": lambda a: a.astype(object),
    "list": lambda a: a.tolist(),
    "ml_dtypes": lambda a: a.astype(ml_dtypes.bfloat16),
    "mlx int": mx.array,
    "mlx float32": lambda a: mx.array(a).astype(mx.float32),
    "mlx float16": lambda a: mx.array(a).astype(mx.float16),
    "mlx bfloat16": lambda a: mx.array(a).astype(mx.bfloat16),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("top", [None, np.int32(2)])
def test_kernels_of_any_kind_are_decomposed(kind: str, top: Any) -> None:
    spectrum = eigendecompose(KINDS[kind](np.diag([4, 16, 0, 1])), top)

    np.testing.assert_allclose(spectrum.values, [16, 4, 1, 0][: top or 4], atol=1e-14)


def test_truth_values_are_zeros_and_ones() -> None:
    assert eigendecompose(np.eye(3, dtype=bool)).values.tolist() == [1, 1, 1]
    assert eigendecompose(mx.eye(3) > 0).values.tolist() == [1, 1, 1]


def test_the_noise_floor_is_that_of_the_type_that_a_kernel_is_stored_in() -> None:
    floors = [
        eigendecompose(kernel).noise_floor
        for kernel in (
            mx.eye(4).astype(mx.bfloat16), mx.eye(4).astype(mx.float16), mx.eye(4), np.eye(4),
            np.eye(4, dtype=int),
        )
    ]  # fmt: skip

    np.testing.assert_allclose(floors, 4 * 2.0 ** np.array([-7, -10, -23, -52, -52]))


@pytest.mark.parametrize("top", [None, 1, 5, 100])
@pytest.mark.parametrize("size", [10, 100])
def test_the_kernel_of_a_pair_of_different_classes_is_refused(size: int, top: int | None) -> None:
    x = mx.random.normal((size, 3), key=mx.random.key(size))
    kernel = entk(models.MLP([3, 16, 4]), x, reduction=(0, 1))
    lowest = np.linalg.eigvalsh(kernel.astype(np.float64))[0]

    with pytest.raises(InputError) as raised:
        eigendecompose(kernel, top)

    assert str(raised.value) == (
        f"kernel has negative eigenvalues down to −{-lowest:.3g}: it is not an eNTK "
        "(the kernel of a pair of different classes is not one)"
    )


@pytest.mark.parametrize("top", [None, 1])
@pytest.mark.parametrize(
    "kernel",
    [
        -np.eye(3), -np.ones((1, 1)), np.array([[0.0, 1], [1, 0]]), np.array([[1.0, 2], [2, 1]]),
        np.diag([1, 1, -0.01]), np.diag([*np.ones(500), -0.01]),
    ],
)  # fmt: skip
def test_negative_eigenvalues_are_refused(kernel: np.ndarray, top: int | None) -> None:
    with pytest.raises(InputError, match="kernel has negative eigenvalues down to −"):
        eigendecompose(kernel, top)


def few_directions(x: mx.array) -> mx.array:
    return mx.concatenate([mx.ones((x.shape[0], 1)), x[:, :1], 20 + 0 * x[:, :1]], axis=1)


INPUTS: dict[str, Any] = {
    "normal": lambda x: x,
    "shifted": lambda x: x + 30,
    "repeated": lambda x: mx.repeat(x[:10], 10, axis=0),
    "few directions": few_directions,
}


@pytest.mark.parametrize("inputs", INPUTS)
@pytest.mark.parametrize(
    ("strategy", "reduction"),
    [
        ("auto", "trace"), ("auto", "sum-of-logits"), ("auto", (1, 1)), ("auto", "full"),
        ("jacobian-contraction", "trace"), ("ntk-vector-products", "trace"),
    ],
)  # fmt: skip
def test_rounding_of_kernels_is_not_taken_for_negative_eigenvalues(
    inputs: str, strategy: Any, reduction: Any
) -> None:
    x = INPUTS[inputs](mx.random.normal((100, 3), key=mx.random.key(1)))
    x = x[:30] if reduction == "full" else x
    model = models.MLP([3, 32, 32, 4])
    kernels = layerwise_entk(model, x, reduction=reduction, strategy=strategy)
    kernels = {"sum": np.sum(list(kernels.values()), axis=0), **kernels}

    for kernel in kernels.values():
        matrix = flatten(kernel) if reduction == "full" else kernel
        assert eigendecompose(matrix).values.size == len(matrix)
        # What was rounded in float32 is not more precise in float64.
        assert eigendecompose(matrix.astype(np.float64), 3).values.size == 3


@pytest.mark.parametrize("P", [10**4, 10**6])
def test_rounding_of_long_sums_is_not_taken_for_negative_eigenvalues(P: int) -> None:
    """Entries summed one parameter after another, as no BLAS does it."""
    generator = np.random.default_rng(0)
    rows = generator.standard_normal((8, 2)) @ generator.standard_normal((2, P))
    wide = rows.astype(np.float32)
    kernel = np.array([[np.cumsum(a * b)[-1] for a in wide] for b in wide])
    assert np.linalg.eigvalsh(kernel.astype(np.float64))[0] < -1e-7 * np.trace(kernel)

    assert eigendecompose(kernel).values.size == 8


def test_modes_that_a_spectrum_lacks_are_refused() -> None:
    spectrum = eigendecompose(np.eye(4), 3)

    for first, last in ((0, 3), (-1, 1), (2, 1)):
        with pytest.raises(InputError, match=f"modes {first}–{last}: the spectrum has 3 modes"):
            spectrum.modes(first, last)


def test_effective_rank_counts_equal_modes() -> None:
    assert effective_rank(np.array([2.0, 2, 2, 0, -1e-9])) == pytest.approx(3)
    assert effective_rank(np.array([1.0, 1e-12])) == pytest.approx(1)
    assert effective_rank(np.zeros(3)) == 0


def test_effective_rank_is_that_of_eigenvalues_of_any_size() -> None:
    assert effective_rank(np.array([10, 5e-324])) == pytest.approx(1)
    assert effective_rank(np.full(4, 1e308)) == pytest.approx(4)
    assert effective_rank(np.full(4, 5e-324)) == pytest.approx(4)
    assert effective_rank([]) == 0


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.array([3.0, np.nan, 1.0]), r"1 of 3 modes \(1\) has NaN or infinite eigenvalues"),
        (np.array([np.inf, 1.0]), r"1 of 2 modes \(0\) has NaN or infinite eigenvalues"),
        (np.ones((2, 2)), r"values have shape \(2, 2\)"),
        (np.float64(1), r"values have shape \(\)"),
        (np.array([1j]), "values has type complex128"),
        ("none", "values has type <U4"),
    ],
)
def test_what_is_not_eigenvalues_is_refused(values: Any, message: str) -> None:
    for measure in (effective_rank, find_cliffs):
        with pytest.raises(InputError, match=message):
            measure(values)
