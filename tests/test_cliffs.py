"""Cliffs: found where levels end, and seldom in smooth spectra."""

import numpy as np
import pytest

from benchmarks.cliffs import FAMILIES, draw, share_with_cliffs
from mlx_entk import Cliff, InputError, analyze_kernels, find_cliffs
from mlx_entk.cliffs import LEVEL, NEIGHBOURHOOD, QUANTILE


def before(cliffs: list[Cliff]) -> list[int]:
    return [cliff.before for cliff in cliffs]


def plateaus(
    *sizes_and_levels: tuple[int, float], decay: float = 0.01, seed: int = 0
) -> np.ndarray:
    """Eigenvalues on levels, with an irregular decay of about ``decay`` decades a step."""
    logs = np.concatenate([np.full(size, level) for size, level in sizes_and_levels])
    steps = np.random.default_rng(seed).exponential(decay, logs.size)
    return np.asarray(10 ** (logs - np.cumsum(steps)))


@pytest.mark.parametrize("seed", range(5))
def test_cliffs_are_found_where_the_levels_end(seed: int) -> None:
    values = plateaus((1, 1.5), (56, 0.0), (56, -0.3), (300, -0.6), decay=0.004, seed=seed)

    cliffs = find_cliffs(values)

    assert [cliff.modes for cliff in cliffs] == [(0, 0), (1, 56), (57, 112)]
    for cliff in cliffs:
        assert cliff.drop == pytest.approx(values[cliff.before - 1] / values[cliff.before])
        assert cliff.p <= LEVEL


@pytest.mark.parametrize("family", FAMILIES)
def test_smooth_spectra_seldom_have_cliffs(family: str) -> None:
    assert share_with_cliffs(draw(FAMILIES[family], 40)) <= 0.05


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_at_most_one_smooth_spectrum_in_twenty_has_cliffs(family: str) -> None:
    assert share_with_cliffs(draw(FAMILIES[family], 1000, seed=1)) <= 0.05


def test_the_chance_is_exact_under_the_null_hypothesis() -> None:
    """Spectra whose spacings are exponential have a cliff as often as the level says.

    Bonferroni's bound over few steps is nearly reached; a fall of any size counts here.
    """
    n, spectra = 12, 4000
    i = np.arange(1, n)
    generator = np.random.default_rng(0)
    for level in (0.05, 0.3):
        hits = 0
        for _ in range(spectra):
            steps = generator.exponential(size=n - 1) * n / (i * (n - i))
            values = np.exp(-np.concatenate([[0], np.cumsum(steps)]))
            hits += bool(find_cliffs(values, level=level, min_drop=1.0))
        assert 0.6 * level < hits / spectra <= 1.1 * level


def test_the_chance_is_that_of_an_integral() -> None:
    """P(E ≥ r S) for S the k-th smallest of m exponentials, by drawing them."""
    values = np.exp(-np.arange(40.0) / 10)
    values[20:] /= 3
    (cliff,) = find_cliffs(values, level=1.0)
    assert cliff.before == 20
    i = np.arange(1, 40)
    spacings = i * (40 - i) / 40 * -np.diff(np.log(values))
    around = np.sort(np.delete(spacings, 19)[14:24])  # five to either side, an eighth of forty
    k = int(np.ceil(QUANTILE * around.size))
    drawn = np.sort(np.random.default_rng(0).exponential(size=(200_000, around.size)))[:, k - 1]
    ratio = spacings[19] / around[k - 1]
    weight = 20 * sum(1 / j for j in range(1, 40))

    expected = min(1.0, weight * np.exp(-ratio * drawn).mean())

    assert 0 < expected < 1
    assert cliff.p == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize("n", [10, 20, 30, 50, 70, 100])
def test_short_and_truncated_power_laws_seldom_have_cliffs(n: int) -> None:
    """Independent draws of a power law, whose spacings fall towards the end."""
    generator = np.random.default_rng(n)
    hits = 0
    for _ in range(400):
        short = np.sort(generator.pareto(1.0, n) + 1)[::-1]
        hits += bool(find_cliffs(short))
    assert hits / 400 <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 400)


def test_pairs_and_quadruples_of_equal_eigenvalues_are_no_cliffs() -> None:
    for each in (2, 4):
        values = np.repeat(np.arange(1.0, 80) ** -1.5, each)
        values *= 1 + 1e-12 * np.arange(values.size)[::-1]
        assert find_cliffs(values) == []


def test_a_few_cliffs_close_together_do_not_hide_each_other() -> None:
    values = plateaus((1, 3.0), (4, 2.0), (4, 1.0), (300, 0.0), decay=0.004)

    assert before(find_cliffs(values)) == [1, 5, 9]


def test_a_fall_has_to_be_steep_in_itself() -> None:
    values = np.concatenate([np.full(30, 1.1), np.full(30, 1.0)])

    assert find_cliffs(values) == []
    assert before(find_cliffs(values, min_drop=1.05)) == [30]


def test_the_edge_of_the_rank_is_no_cliff() -> None:
    values = np.concatenate([plateaus((50, 0.0)), np.full(50, 1e-9)])

    assert before(find_cliffs(values)) == [50]
    assert find_cliffs(values, noise_floor=1e-8) == []


@pytest.mark.parametrize("values", [[], [1.0], [1.0, 0.01], [1.0, 0.5, 0.3], [0.0, 0.0]])
def test_spectra_too_short_to_tell_have_no_cliffs(values: list[float]) -> None:
    assert find_cliffs(np.array(values)) == []


def test_a_noise_floor_below_zero_lets_no_zeros_in() -> None:
    assert find_cliffs(np.array([1.0, 0.0, -1e-9]), -1.0) == []


def test_cliffs_of_values_in_another_order_are_refused() -> None:
    with pytest.raises(InputError, match="values rise after number 1: pass the largest first"):
        find_cliffs(np.array([3.0, 1.0, 2.0]))


def test_a_cliff_does_not_depend_on_how_many_modes_are_kept() -> None:
    """The cliffs that ``top`` shows are those of all eigenvalues, as far as it goes."""
    values = plateaus((3, 1.0), (5, 0.0), (3 * NEIGHBOURHOOD, -0.5), decay=0.004)
    kernel = np.diag(values)

    every = analyze_kernels({"w": kernel}).cliffs["w"]
    assert before(every) == [3, 8]
    for top, expected in ((3, []), (4, every[:1]), (8, every[:1]), (9, every), (20, every)):
        assert analyze_kernels({"w": kernel}, top=top).cliffs["w"] == expected
