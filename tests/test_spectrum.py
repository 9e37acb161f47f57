import numpy as np
import pytest

from mlx_entk import InputError, effective_rank, eigendecompose, find_cliffs, mode_groups


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


@pytest.mark.parametrize(
    ("kernel", "top", "message"),
    [
        (np.zeros((2, 3)), None, "square"),
        (np.full((2, 2), np.nan), None, "NaN"),
        (np.array([[1.0, 2.0], [0.0, 1.0]]), None, "not symmetric"),
        (np.eye(2), 0, "at least one mode"),
    ],
)
def test_what_has_no_spectrum_is_refused(kernel: np.ndarray, top: int | None, message: str) -> None:
    with pytest.raises(InputError, match=message):
        eigendecompose(kernel, top)


def plateaus(
    *sizes_and_levels: tuple[int, float], decay: float = 0.01, seed: int = 0
) -> np.ndarray:
    """Eigenvalues on levels, with an irregular decay of about ``decay`` decades a step."""
    logs = np.concatenate([np.full(size, level) for size, level in sizes_and_levels])
    steps = np.random.default_rng(seed).exponential(decay, logs.size)
    return np.asarray(10 ** (logs - np.cumsum(steps)))


@pytest.mark.parametrize("seed", range(5))
def test_cliffs_are_found_where_the_levels_end(seed: int) -> None:
    values = plateaus((1, 1.0), (56, 0.0), (56, -0.3), (300, -0.6), seed=seed)

    cliffs = find_cliffs(values)

    assert cliffs == [1, 57, 113]
    assert mode_groups(cliffs) == [(0, 0), (1, 56), (57, 112)]


@pytest.mark.parametrize("seed", range(5))
def test_a_smooth_spectrum_has_no_cliffs(seed: int) -> None:
    assert find_cliffs(plateaus((300, 0.0), seed=seed)) == []
    assert find_cliffs(1 / np.linspace(10, 300, 290) ** 2) == []


def test_the_edge_of_the_rank_is_no_cliff() -> None:
    values = np.concatenate([plateaus((50, 0.0)), np.full(50, 1e-9)])

    assert find_cliffs(values) == [50]
    assert find_cliffs(values, noise_floor=1e-8) == []


@pytest.mark.parametrize("values", [np.array([]), np.array([1.0]), np.array([1.0, 0.5])])
def test_short_spectra_have_cliffs_only_where_they_drop(values: np.ndarray) -> None:
    assert find_cliffs(values) == ([1] if values.size == 2 else [])


def test_effective_rank_counts_equal_modes() -> None:
    assert effective_rank(np.array([2.0, 2, 2, 0, -1e-9])) == pytest.approx(3)
    assert effective_rank(np.array([1.0, 1e-12])) == pytest.approx(1)
    assert effective_rank(np.zeros(3)) == 0
