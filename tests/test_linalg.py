import mlx.core as mx
import numpy as np
import pytest

from mlx_entk import _blas, linalg


@pytest.mark.parametrize("library", [None, "libfast.so"])
def test_products_are_the_same_whoever_makes_them(
    library: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_blas, "LIBRARY", library)
    a, b = mx.random.normal((4, 6)), mx.random.normal((5, 6))

    for other in (a, b):
        expected = np.array(a) @ np.array(other).T
        np.testing.assert_allclose(np.array(linalg.gram(a, other)), expected, rtol=1e-5, atol=1e-5)


def test_views_share_the_memory_of_the_array() -> None:
    a = mx.random.normal((100, 100))

    assert linalg.as_numpy(a).ctypes.data == linalg.as_numpy(a).ctypes.data
    assert not linalg.as_numpy(a).flags.owndata


def test_eigenvectors_have_one_sign_whatever_the_solver_gives() -> None:
    matrix = np.random.default_rng(0).standard_normal((9, 9))
    matrix = matrix @ matrix.T

    _, everything = linalg.eigh(matrix)
    _, leading = linalg.eigh(matrix, top=3)

    np.testing.assert_allclose(everything[:, :3], leading, atol=1e-10)


def test_a_basis_drops_directions_that_the_columns_repeat() -> None:
    columns = np.random.default_rng(0).standard_normal((10, 2))

    basis = linalg.orthonormal_basis(np.concatenate([columns, columns.sum(1, keepdims=True)], 1))

    assert basis.shape == (10, 2)
    np.testing.assert_allclose(basis.T @ basis, np.eye(2), atol=1e-12)
    np.testing.assert_allclose(basis @ (basis.T @ columns), columns, atol=1e-12)
    assert linalg.orthonormal_basis(np.zeros((10, 2))).shape == (10, 0)
