"""Cliffs: falls of a spectrum that are too steep for a smooth one, with an error rate.

The null hypothesis is a smooth spectrum at its most irregular: the logarithms of the n
eigenvalues are independent draws from a density that changes little over a neighbourhood of
modes. Their spacings, times that density, are then independent and exponentially distributed
with the same mean (Pyke, "Spacings", 1965). Up to a factor that changes slowly, the density at
rank i is n over i(n − i): a power law at the top, its mirror image at the bottom. So each

    E[i] = i (n − i)/n · log(λ[i−1]/λ[i])

is compared with S, the k-th smallest of the m around it. S is a sum of independent exponential
variables of means 1/m, 1/(m − 1), …, 1/(m − k + 1) (Rényi, 1953), which gives the exact chance

    P(E ≥ r S) = Π_{j<k} (m − j)/(m − j + r).

The chance is multiplied with i Σ 1/j over all steps: Bonferroni's bound with weights, so that the
leading modes, which are what one asks about, do not pay for hundreds of steps in the tail.

k is 90% of m and not half of it, so that a few more cliffs nearby change the scale little, and a
smooth fall in pairs or quadruples of equal eigenvalues, as symmetries make them, is no cliff. Of
pairs and quadruples that are independent draws, the chance says too little: their spacings of
zero are none of the null hypothesis. The spacings to either side are at most an eighth of all,
since those of a short spectrum, or of the leading eigenvalues alone, fall towards its end.
Eigenvalues of random matrices repel each other, which makes their spacings more regular than the
null hypothesis has them, so that cliffs are found in them less often.
"""

from dataclasses import dataclass

import numpy as np

from mlx_entk._linalg import ArrayLike, Float64Array
from mlx_entk.errors import InputError
from mlx_entk.spectrum import Modes, as_eigenvalues

# The chance of any cliff at all in a spectrum that satisfies the null hypothesis.
LEVEL = 0.05
# A cliff is also steep in itself: the eigenvalue falls to 1/1.25 or less.
MIN_DROP = 1.25
# Spacings to either side that a spacing is compared with, and the share of them that lies below
# the one that gives the scale.
NEIGHBOURHOOD = 25
QUANTILE = 0.9

CLIFF_RULE = (
    f"a cliff lies before mode i if λ[i-1]/λ[i] ≥ {MIN_DROP:g} and the spacing E[i] = "
    f"i (n-i)/n log(λ[i-1]/λ[i]) is too large, at p ≤ {LEVEL:g} for the whole spectrum, for an "
    f"exponential variable of the scale of the {NEIGHBOURHOOD} spacings to either side; n counts "
    "the eigenvalues above the noise floor"
)


@dataclass(frozen=True)
class Cliff:
    """A sharp fall of a spectrum.

    Attributes
    ----------
    modes
        The group that ends at the cliff: from the cliff before it, or mode 0, to the last mode
        before this one.
    drop
        The last eigenvalue before the cliff over the first behind it.
    p
        The chance of a fall like this anywhere in a smooth spectrum, at most: Bonferroni's bound
        with weights 1/i.
    """

    modes: Modes
    drop: float
    p: float

    @property
    def before(self) -> int:
        """The mode before which the cliff lies."""
        return self.modes[1] + 1


def find_cliffs(
    values: ArrayLike,
    noise_floor: float = 0.0,
    *,
    level: float = LEVEL,
    min_drop: float = MIN_DROP,
    neighbourhood: int = NEIGHBOURHOOD,
    quantile: float = QUANTILE,
) -> list[Cliff]:
    """Cliffs of a spectrum by ``CLIFF_RULE``, in the order of the modes.

    Eigenvalues at or below ``noise_floor`` are left out, so the edge where the rank ends is not a
    cliff, and a kernel of zeros has none. Pass all eigenvalues if they are known: the last ones
    have fewer to be compared with.

    Parameters
    ----------
    values
        Eigenvalues, largest first, shape (k,).
    noise_floor
        As in ``Spectrum``.
    level
        The largest p.
    min_drop
        The least λ[i−1]/λ[i].
    neighbourhood, quantile
        How many spacings to either side give the scale, at most an eighth of all, and the share of
        them below it.

    Raises
    ------
    InputError
        If the values are not finite numbers of shape (k,), largest first.
    """
    eigenvalues = as_eigenvalues(values)
    rises = np.flatnonzero(eigenvalues[1:] > eigenvalues[:-1])
    if rises.size:
        raise InputError(f"values rise after number {rises[0]}: pass the largest first")
    logs = np.log(eigenvalues[eigenvalues > max(noise_floor, 0.0)])
    steps = -np.diff(logs)
    neighbourhood = min(neighbourhood, max(2, logs.size // 8))
    i = np.arange(1, logs.size)
    spacings = i * (logs.size - i) / max(logs.size, 1) * steps
    total = (1 / i).sum()
    cliffs: list[Cliff] = []
    first = 0
    for before in np.flatnonzero(steps >= np.log(min_drop)) + 1:
        at = int(before) - 1
        around = np.concatenate(
            [spacings[max(0, at - neighbourhood) : at], spacings[at + 1 :][:neighbourhood]]
        )
        p = min(1.0, float(before * total) * _chance(spacings[at], around, quantile))
        if p <= level:
            cliffs.append(Cliff((first, at), float(np.exp(steps[at])), p))
            first = at + 1
    return cliffs


def _chance(spacing: float, around: Float64Array, quantile: float) -> float:
    """P(E ≥ r S) for S the ``quantile`` of the spacings around; 1 if there are none."""
    m = around.size
    if m == 0:
        return 1.0
    k = max(1, int(np.ceil(quantile * m)))
    scale = float(np.partition(around, k - 1)[k - 1])
    if scale == 0:
        return 0.0
    return float(np.exp(-np.log1p(spacing / scale / (m - np.arange(k))).sum()))
