from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from mlx_entk import entk
from mlx_entk.kernel.factors import Factor, Outers, Rows
from mlx_entk.kernel.outer import Outer
from mlx_entk.kernel.sides import Side
from mlx_entk.sketch.draws import Draws
from mlx_entk.sketch.features import Sketcher, Subject
from mlx_entk.sketch.projection import Projection
from tests import models

TOKENS = mx.random.randint(0, 5, (6, 3), key=mx.random.key(1))


def normal(*shape: int) -> mx.array:
    return mx.random.normal(shape, key=mx.random.key(7))


CASES: dict[str, tuple[Any, mx.array]] = {
    "dense": (models.MLP([30, 90, 4]), normal(5, 30)),
    "tokens and attention": (models.Transformer(), TOKENS),
    "convolution": (models.Convolution(), normal(4, 4, 2)),
    "a weight used as it is and transposed": (models.TiedDecoder(), normal(5, 4)),
    "a weight used three times": (models.Recurrent(), normal(5, 3)),
    "a weight that multiplies columns": (models.ColumnProduct(), normal(4, 5, 3)),
}


@pytest.mark.parametrize("outer", [True, False], ids=["outer products", "cheaper form"])
@pytest.mark.parametrize("reduction", ["trace", "full"])
@pytest.mark.parametrize("case", CASES)
def test_kernels_are_right_on_average_and_vary_no_more_than_with_independent_signs(
    case: str, reduction: Any, outer: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if outer:
        monkeypatch.setattr(Projection, "_prefers_rows", lambda self, factor: False)
    model, x = CASES[case]
    exact = entk(model, x, reduction=reduction).astype(np.float64)
    k, seeds = 16, 60
    sketcher = Sketcher(Subject(model), x, reduction, k, 0)

    kernels = []
    for seed in range(seeds):
        sketcher._projection = Projection(k, seed)
        (made,) = [features for _, features in sketcher.tiles(2**30)]
        wide = made.astype(np.float64)
        kernels.append(wide @ wide.T if wide.ndim == 2 else np.einsum("nck,mdk->nmcd", wide, wide))

    diagonal = np.einsum("nn->n", exact) if exact.ndim == 2 else np.einsum("nncc->nc", exact)
    products = np.multiply.outer(diagonal, diagonal)
    products = products if exact.ndim == 2 else products.transpose(0, 2, 1, 3)
    allowed = np.sqrt((products + exact**2) / k)
    chosen = allowed > 1e-9 * allowed.max()
    bias = (np.mean(kernels, axis=0) - exact)[chosen] / allowed[chosen] * seeds**0.5
    assert np.abs(bias).max() < 5  # standard deviations, of up to 900 entries
    spread = np.std(kernels, axis=0)[chosen] / allowed[chosen]
    assert np.sqrt(np.mean(spread**2)) < 1.15


def dense_map(projection: Projection, A: int, B: int, k: int, R: int) -> np.ndarray:
    """The projection as a matrix (R·A·B, k), entry by entry from its definition."""
    columns = np.zeros((R, A, B, k))
    for r, i, j in np.ndindex(R, A, B):
        block, slot = divmod(r * B + j, k)
        start = i // k * k
        row, places, signs = map(np.array, projection._table("w", start, min(k, A - start), block))
        place = (i - start + places[slot]) % k
        columns[r, i, j, place] = row[i - start] * signs[slot]
    return columns.reshape(-1, k)


@pytest.mark.parametrize("A", [3, 11])
@pytest.mark.parametrize(
    ("tokens", "turned"),  # tokens do not depend on a cotangent
    [("no", False), ("first", False), ("no", True), ("second", True)],
)
def test_outer_products_are_projected_as_the_definition_says(
    A: int, tokens: str, turned: bool
) -> None:
    B, k, n, R, T = 5, 8, 4, 3, 2
    generator = np.random.default_rng(0)
    a = generator.standard_normal((n, 1, T, A)).astype(np.float32)
    delta = generator.standard_normal((n, R, T, B)).astype(np.float32)
    first, second = mx.array(a), mx.array(delta)
    if turned:  # the cotangent is along the first axis
        a = generator.standard_normal((n, R, T, A)).astype(np.float32)
        delta = generator.standard_normal((n, 1, T, B)).astype(np.float32)
        first, second = mx.array(a), mx.array(delta)
    if tokens == "first":
        chosen = generator.integers(0, A, (n, 1, T))
        first, a = mx.array(chosen), np.eye(A, dtype=np.float32)[chosen]
    if tokens == "second":
        chosen = generator.integers(0, B, (n, 1, T))
        second, delta = mx.array(chosen), np.eye(B, dtype=np.float32)[chosen]
    outer = Outer(Side(first, ("a",)), Side(second, ("d",), backward=True))
    factor = Outers((outer,), (A, B))
    projection = Projection(k, seed=3)
    projection._prefers_rows = lambda factor: False  # type: ignore[method-assign]
    jacobian = np.einsum("nrti,nstj->nrsij", a, delta).reshape(n, R, A, B)

    together = np.array(projection.apply("w", factor, paired=True))[:, 0]
    apart = np.array(projection.apply("w", factor, paired=False))

    expected = jacobian.reshape(n, -1) @ dense_map(projection, A, B, k, R)
    np.testing.assert_allclose(together, expected, atol=1e-4)
    expected = jacobian.reshape(n * R, -1) @ dense_map(projection, A, B, k, 1)
    np.testing.assert_allclose(apart.reshape(n * R, k), expected, atol=1e-4)


def test_signs_are_fair_and_independent_between_names_and_seeds() -> None:
    draws = Draws(5)
    rows = np.stack([draws.signs(4096, "a", i) for i in range(8)] + [Draws(6).signs(4096, "a", 0)])
    assert set(np.unique(rows)) == {-1.0, 1.0}
    assert np.abs(rows @ rows.T - 4096 * np.eye(9)).max() < 5 * 64
    assert np.abs(rows.sum(axis=1)).max() < 5 * 64
    np.testing.assert_array_equal(draws.signs(100, "a", 0), rows[0, :100])
    np.testing.assert_array_equal(np.sort(draws.order(50, "b")), np.arange(50))


def test_random_numbers_never_change() -> None:
    """A store of an earlier version would be refused if they did."""
    draws = Draws(0)
    assert draws.signs(8, "w").tolist() == [1, -1, -1, -1, -1, -1, -1, 1]
    assert draws.order(6, "w").tolist() == [5, 4, 2, 3, 1, 0]
    assert draws.places(3, 1000, "w").tolist() == [870, 679, 895]


def test_rows_are_projected_linearly_and_keep_their_length_on_average() -> None:
    values = mx.array(np.random.default_rng(1).standard_normal((2, 3, 100)).astype(np.float32))
    factor: Factor = Rows(values)
    made = [np.array(Projection(32, seed).apply("w", factor, True))[:, 0] for seed in range(200)]
    wide = np.array(values, dtype=np.float64).reshape(2, -1)
    gram = np.mean([one @ one.T for one in made], axis=0)
    assert np.abs(gram - wide @ wide.T).max() < 5 * 300 * (2 / 32 / 200) ** 0.5
