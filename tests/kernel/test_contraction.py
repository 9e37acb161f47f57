"""Sums of outer products over positions, in every order of contraction, against NumPy's einsum."""

from collections.abc import Iterator
from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest
from numpy.typing import NDArray

from mlx_entk.kernel import outer
from mlx_entk.kernel.outer import Outer
from mlx_entk.kernel.sides import Products, Side

TOKENS, EXPERTS = 5, 3


def side(
    generator: np.random.Generator, name: str, inputs: int, R: int, T: int, width: int
) -> Side:
    values = generator.standard_normal((inputs, R, T, width)).astype(np.float32)
    return Side(mx.array(values), (name,), backward=R > 1)


def tokens(generator: np.random.Generator, inputs: int, T: int) -> Side:
    return Side(mx.array(generator.integers(0, TOKENS, (inputs, 1, T)).astype(np.int32)), ("t",))


def dense(one: Side, inputs: int, R: int) -> NDArray[np.float64]:
    """Its values for every input and cotangent, shape (n, R, T, A)."""
    values = np.array(one.values)
    if one.is_tokens:
        values = np.eye(TOKENS)[values]
    return np.broadcast_to(values, (inputs, R, *values.shape[2:])).astype(np.float64)


def jacobian(term: Outer, inputs: int, R: int) -> NDArray[np.float64]:
    """Σ_t first ⊗ second, with an axis for the matrix of a stack: shape (n, R, P)."""
    first, second = (dense(one, inputs, R) for one in term.sides)
    matrices = np.zeros((inputs, first.shape[2]), int)
    if term.blocks is not None:
        matrices = np.array(term.blocks)
    chosen = np.eye(EXPERTS)[matrices]
    found: NDArray[np.float64] = np.einsum("nrta,nrtb,nte->nreab", first, second, chosen)
    return found.reshape(inputs, R, -1)


def pairs() -> Iterator[tuple[str, Outer, Outer, int, int, int]]:
    """Two outer products of n and m inputs, and R."""
    generator = np.random.default_rng(0)
    n, m = 4, 3
    for R in (1, 3):
        for T, U in ((1, 1), (2, 2), (3, 2), (20, 20)):
            given = [side(generator, f"a{k}", k, 1, t, 6) for k, t in ((n, T), (m, U))]
            delta = [side(generator, f"d{k}", k, R, t, 7) for k, t in ((n, T), (m, U))]
            name = f"R={R} T={T} U={U}"
            yield f"{name} dense", Outer(given[0], delta[0]), Outer(given[1], delta[1]), n, m, R
            yield f"{name} turned", Outer(delta[0], given[0]), Outer(delta[1], given[1]), n, m, R
            looked_up = [tokens(generator, k, t) for k, t in ((n, T), (m, U))]
            yield (
                f"{name} tokens",
                Outer(looked_up[0], delta[0]),
                Outer(looked_up[1], delta[1]),
                n,
                m,
                R,
            )
            tied = [side(generator, f"v{k}", k, R, t, TOKENS) for k, t in ((n, T), (m, U))]
            columns = side(generator, "c", m, 1, U, 7)
            yield (
                f"{name} tied",
                Outer(looked_up[0], delta[0]),
                Outer(tied[1], columns),
                n,
                m,
                R,
            )
            met = [mx.array(generator.integers(0, EXPERTS, (k, t))) for k, t in ((n, T), (m, U))]
            yield (
                f"{name} experts",
                Outer(given[0], delta[0], blocks=met[0]),
                Outer(given[1], delta[1], blocks=met[1]),
                n,
                m,
                R,
            )
            fixed = [side(generator, f"f{t}", 1, R, t, 7) for t in (T, U)]
            yield (
                f"{name} fixed",
                Outer(given[0], fixed[0], fixed=True),
                Outer(given[1], fixed[1], fixed=True),
                n,
                m,
                R,
            )


CASES = list(pairs())


@pytest.mark.parametrize("paired", [True, False], ids=["paired", "every pair"])
@pytest.mark.parametrize("folds", [None, True, False], ids=["by cost", "folded", "by position"])
@pytest.mark.parametrize("case", CASES, ids=[name for name, *_ in CASES])
def test_every_order_gives_the_products_of_the_jacobians(
    case: tuple[str, Outer, Outer, int, int, int],
    folds: bool | None,
    paired: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _, one, other, n, m, R = case
    if folds is not None:
        monkeypatch.setattr(outer, "_SMALL", 0 if folds else 1e9)
        monkeypatch.setattr(outer, "_AT_ONCE", 2**8)  # several steps
    expected = np.einsum(
        "nrp,mrp->nm" if paired else "nrp,msp->nrms", jacobian(one, n, R), jacobian(other, m, R)
    )

    found = np.array(one.contract(other, paired, Products(symmetric=False)))

    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, atol=2e-5 * np.abs(expected).max())


@pytest.mark.parametrize("paired", [True, False], ids=["paired", "every pair"])
@pytest.mark.parametrize("T", [1, 2, 20])
def test_a_factor_that_meets_itself_gives_a_symmetric_block(T: int, paired: bool) -> None:
    generator = np.random.default_rng(1)
    given, delta = (side(generator, str(R), 5, R, T, 6) for R in (1, 3))
    term = Outer(given, delta)
    renamed = Outer(replace(given, name=("another",)), replace(delta, name=("another",)))

    found = np.array(term.contract(term, paired, Products(symmetric=True)))
    without = np.array(term.contract(renamed, paired, Products(symmetric=False)))

    np.testing.assert_allclose(found, without, rtol=0, atol=1e-5 * np.abs(without).max())
    turned = found.T if paired else found.transpose(2, 3, 0, 1)
    np.testing.assert_allclose(found, turned, rtol=0, atol=1e-6 * np.abs(found).max())
