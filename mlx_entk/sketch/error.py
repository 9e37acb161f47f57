"""How far a sketched kernel is from the exact one, told by exact entries of a sample of inputs."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mlx_entk._linalg import Float64Array, FloatArray

# Inputs whose exact kernel tells the error.
SAMPLED = 64
# Of a normal distribution, for an interval of 95%.
_NORMAL = 1.96


@dataclass(frozen=True)
class SketchError:
    """The error of a sketched kernel, estimated from exact entries for pairs of sampled inputs.

    Attributes
    ----------
    relative
        ‖K̃ − K‖/‖K‖ in Frobenius norm over all N² pairs of inputs.
    low, high
        Its 95% interval by the jackknife over the sampled inputs (Efron and Stein, 1981); both
        equal ``relative`` if every input was sampled.
    inputs
        How many inputs were sampled, all pairs of which were compared.
    """

    relative: float
    low: float
    high: float
    inputs: int


def sampled(N: int, inputs: int) -> NDArray[np.int64]:
    """Different inputs at random, sorted: all of them if there are no more."""
    return np.sort(np.random.default_rng(0).permutation(N)[:inputs])


def error_of(sketched: FloatArray, exact: FloatArray, N: int) -> SketchError:
    """The error from kernels of s of N inputs, shape (s, s) or (s, s, C, C)."""
    wide = exact.astype(np.float64)
    wrong, whole = (
        (values**2).reshape(*values.shape[:2], -1).sum(axis=2) for values in (sketched - wide, wide)
    )
    s = len(wide)
    # Of the N² pairs, N are of an input with itself, and all inputs count equally.
    weights = np.full((s, s), (N - 1) / max(1, s - 1))
    np.fill_diagonal(weights, 1.0)
    relative = _ratio(weights * wrong, weights * whole)
    if s >= N or s < 3:
        return SketchError(relative, relative, relative, s)
    weights = np.full((s, s), (N - 1) / (s - 2))
    np.fill_diagonal(weights, 1.0)
    without = np.array(
        [
            _ratio(*(np.delete(np.delete(weights * of, i, 0), i, 1) for of in (wrong, whole)))
            for i in range(s)
        ]
    )
    spread = (s - 1) / s * ((without - without.mean()) ** 2).sum() * (1 - s / N)
    margin = _NORMAL * float(spread) ** 0.5
    return SketchError(relative, max(0.0, relative - margin), relative + margin, s)


def _ratio(wrong: Float64Array, whole: Float64Array) -> float:
    size = float(whole.sum())
    return float(wrong.sum() / size) ** 0.5 if size else 0.0
