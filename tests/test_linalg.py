from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from mlx_entk import InputError, _blas
from mlx_entk import _linalg as linalg


@pytest.mark.parametrize("library", [None, "libfast.so"])
def test_products_are_the_same_whoever_makes_them(
    library: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_blas, "LIBRARY", library)
    a, b = mx.random.normal((4, 6)), mx.random.normal((5, 6))

    for other in (None, a, b):
        expected = np.array(a) @ np.array(a if other is None else other).T
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


def test_arrays_in_bfloat16_come_as_float32() -> None:
    array = linalg.as_numpy(mx.array([1.0, 2.5]).astype(mx.bfloat16))

    assert array.dtype == np.float32
    assert array.tolist() == [1, 2.5]


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        (np.ones(2, dtype=np.float32), np.float32), (np.ones(2), np.float64),
        (np.ones(2, dtype=np.float16), np.float32), (np.ones(2, dtype=np.int8), np.float64),
        (np.ones(2, dtype=bool), np.float64), ([1, 1.0], np.float64), ((True, True), np.float64),
        (mx.ones(2), np.float32), (mx.ones(2, dtype=mx.bfloat16), np.float32),
        (mx.ones(2, dtype=mx.uint8), np.float64), (np.array([1, 1.0], dtype=object), np.float64),
    ],
)  # fmt: skip
def test_numbers_of_any_library_become_floats(values: Any, dtype: Any) -> None:
    array = linalg.as_floats(values, "values")

    assert array.dtype == dtype
    assert array.tolist() == [1, 1]


def test_what_a_mask_hides_is_no_number() -> None:
    hidden = np.ma.masked_array([1.0, 999.0], mask=[False, True])

    with pytest.raises(InputError, match="values has masked entries"):
        linalg.as_floats(hidden, "values")
    assert linalg.as_floats(np.ma.masked_array([1.0, 2.0]), "values").tolist() == [1, 2]


def test_floats_are_not_copied() -> None:
    for values in (np.ones(3), np.ones(3, dtype=np.float32)):
        assert linalg.as_floats(values, "values") is values


@pytest.mark.parametrize(
    "values", [np.ones(2) * 1j, "text", np.array(["a"]), object(), [[1], [1, 2]], np.zeros(2, "V4")]
)
def test_what_are_no_real_numbers_is_refused(values: Any) -> None:
    with pytest.raises(InputError, match=r"values (has type|cannot be read)") as raised:
        linalg.as_floats(values, "values")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("count", [1, 3, 7])
def test_rows_that_are_not_finite_are_named(count: int) -> None:
    values = np.ones((9, 2))
    values[:count, 1] = np.nan
    named = {1: "(0) has", 3: "(0, 1, 2) have", 7: "(0, 1, 2, 3, 4, …) have"}[count]

    with pytest.raises(InputError) as raised:
        linalg.require_finite(values, "targets")
    assert str(raised.value) == f"{count} of 9 inputs {named} NaN or infinite targets"


def test_the_lowest_eigenvalue_is_told_where_it_is_not_above() -> None:
    matrix = np.random.default_rng(0).standard_normal((40, 40))
    matrix = matrix @ matrix.T
    lowest = np.linalg.eigvalsh(matrix)[0]

    assert linalg.lowest_eigenvalue(matrix, lowest - 1e-6) is None
    assert linalg.lowest_eigenvalue(matrix, lowest + 1e-6) == pytest.approx(lowest)
    assert linalg.lowest_eigenvalue(-matrix, 0) == pytest.approx(-np.linalg.norm(matrix, 2))


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (np.ones(3), r"columns have shape \(3,\): pass a row for each input"),
        (np.ones((0, 2)), r"columns have shape \(0, 2\)"),
        (np.array([[1, np.nan], [1, 1]]), r"1 of 2 inputs \(0\) has NaN or infinite columns"),
    ],
)
def test_columns_without_a_basis_are_refused(columns: np.ndarray, message: str) -> None:
    with pytest.raises(InputError, match=message):
        linalg.orthonormal_basis(columns)


def test_a_basis_is_of_columns_of_any_kind() -> None:
    for columns in (np.eye(3, dtype=int), np.eye(3, dtype=bool), mx.eye(3).astype(mx.bfloat16)):
        assert linalg.orthonormal_basis(columns).shape == (3, 3)
    assert linalg.orthonormal_basis(np.zeros((3, 0))).shape == (3, 0)
