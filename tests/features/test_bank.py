from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from mlx_entk import InputError, flatten
from mlx_entk._linalg import orthonormal_basis
from mlx_entk.features import center, equivalent_families, modular_features, readout_family

P = 7
n, m = np.divmod(np.arange(P * P), P)


def test_families_have_the_dimensions_of_the_theory() -> None:
    bank = modular_features(n, m, P)

    ranks = {name: orthonormal_basis(center(columns)).shape[1] for name, columns in bank.items()}

    assert ranks == {
        **dict.fromkeys(("n", "m", "sum", "difference", "2n", "2m"), P - 1),
        **dict.fromkeys(("axis sum", "axis difference", "random"), P - 1),
        **dict.fromkeys(("identity of n", "identity of m", "identity of n+m"), P - 1),
        **dict.fromkeys(("parity of n", "parity of m", "parity of n+m", "carry"), 1),
        "n ∪ m": 2 * (P - 1),
    }


def test_columns_are_the_functions_they_are_called_after() -> None:
    bank = modular_features(n, m, P)
    at = 3 * P + 5  # n = 3, m = 5

    assert bank["sum"][at, 1] == pytest.approx(np.cos(2 * np.pi * 2 * 8 / P))
    assert bank["difference"][at, 3 + 1] == pytest.approx(np.sin(2 * np.pi * 2 * (-2) / P))
    assert bank["axis difference"][at, 0] == pytest.approx(
        np.cos(2 * np.pi * 3 / P) - np.cos(2 * np.pi * 5 / P)
    )
    assert bank["identity of n+m"][at].tolist() == [0, 1, 0, 0, 0, 0, 0]
    assert (bank["parity of n"][at], bank["parity of n+m"][at], bank["carry"][at]) == (1, 1, 1)


def test_the_readout_family_follows_the_order_of_a_flattened_kernel() -> None:
    kernel = np.random.default_rng(0).standard_normal((P * P, P * P, P, P))
    family = readout_family(n, m, P)
    i, q = 3 * P + 5, 4  # n = 3, m = 5 and the output 4

    row = np.flatnonzero(flatten(kernel)[:, 0] == kernel[i, 0, q, 0])

    assert family.shape == (P**3, P - 1)
    np.testing.assert_allclose(family[row, 1], np.cos(2 * np.pi * 2 * (3 + 5 - 4) / P))
    np.testing.assert_allclose(family[row, 3 + 1], np.sin(2 * np.pi * 2 * (3 + 5 - 4) / P))


def test_families_that_span_the_same_space_are_recognised() -> None:
    bases = {
        name: orthonormal_basis(center(columns))
        for name, columns in modular_features(n, m, P).items()
    }

    assert equivalent_families(bases) == [
        ["n", "2n", "identity of n"],
        ["m", "2m", "identity of m"],
        ["sum", "identity of n+m"],
    ]


@pytest.mark.parametrize("p", [-3, 1, 2, 4, 28])
def test_a_modulus_without_fourier_families_is_refused(p: int) -> None:
    with pytest.raises(InputError, match=f"p is {p}: Fourier families need an odd p"):
        modular_features(n, m, p)


@pytest.mark.parametrize("kind", [np.uint8, np.float32, list, mx.array], ids=str)
def test_summands_of_any_kind_have_the_same_families(kind: Any) -> None:
    """Differences of unsigned numbers would wrap around."""
    cast = kind if kind in (list, mx.array) else lambda values: values.astype(kind)
    expected = modular_features(n, m, P)

    for name, columns in modular_features(cast(n), cast(m), P).items():
        np.testing.assert_array_equal(columns, expected[name])


@pytest.mark.parametrize(
    ("first", "second", "p", "message"),
    [
        (n, m[:-1], P, "n and m have 49 and 48 inputs"),
        (n, m[:1], P, "n and m have 49 and 1 inputs"),
        (n + 1, m, P, r"n has numbers outside 0…6: p is 7"),
        (n, -m, P, r"m has numbers outside 0…6"),
        (n + 0.5, m, P, "n are not whole numbers, one for each input"),
        (n, np.full(49, np.nan), P, "m are not whole numbers"),
        (n[None], m[None], P, "n are not whole numbers, one for each input"),
        (n[:0], m[:0], P, "n are not whole numbers, one for each input"),
        (n, m, 7.0, "p is 7.0: pass a whole number"),
    ],
)
def test_what_is_not_a_summand_is_refused(first: Any, second: Any, p: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        modular_features(first, second, p)
