"""Linear probes: what a linear readout of activations, told the answer, can tell.

A probe is a ridge regression of the unit vectors of some classes; the class is that of its
largest output. With as many coordinates as inputs it tells any classes of the inputs that it was
fitted on, so only held-out inputs count, and the same probe of shuffled classes says how many of
either it gets right without anything to find.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from mlx_entk._linalg import ArrayLike, Float64Array, as_columns, as_floats
from mlx_entk.errors import InputError
from mlx_entk.features.bank import indicators

# The smallest is above the rounding of float32, whose square is about 1e-14.
RIDGES: tuple[float, ...] = tuple(10.0**k for k in range(-8, 1))
"""Ridges that are tried, as shares of the largest squared singular value of the activations."""

PROBE_RULE = (
    "ridge regression of the unit vectors of the classes on the training inputs, with the ridge "
    "that predicts each of them best from the others (leave-one-out); the class is that of the "
    "largest output"
)
"""How a probe is fitted, in words."""


@dataclass(frozen=True)
class ProbeAccuracy:
    """How often a linear probe is right, from 0 to 1.

    Attributes
    ----------
    train, held_out
        On the inputs that it was fitted on, and on the others.
    shuffled_train, shuffled_held_out
        The same of a probe that was fitted and judged on classes shuffled over all inputs.
    chance
        Of the held-out inputs, the share of the class that the training inputs have most often.
    ridge
        The ridge that was chosen, as a share of the largest squared singular value.
    """

    train: float
    held_out: float
    shuffled_train: float
    shuffled_held_out: float
    chance: float
    ridge: float


def linear_probes(
    activations: ArrayLike,
    targets: Mapping[str, ArrayLike],
    train: ArrayLike,
    held_out: ArrayLike,
    seed: int = 0,
) -> dict[str, ProbeAccuracy]:
    """Probe activations for classes, by ``PROBE_RULE``.

    Parameters
    ----------
    activations
        Shape (N, D).
    targets
        Classes of the N inputs by name: whole numbers of at least 0, shape (N,).
    train, held_out
        Indices of the inputs to fit on, at least two, and to judge on.
    seed
        Of the order by which classes are shuffled.

    Raises
    ------
    InputError
        For activations that are not finite or of another shape, for targets that are not classes
        of their inputs, and for indices that are no inputs or are in both parts.
    """
    columns = as_columns(activations, "activations")
    N = len(columns)
    fitted, judged = _indices(train, N, "train"), _indices(held_out, N, "held_out")
    if fitted.size < 2 or judged.size == 0 or np.intersect1d(fitted, judged).size:
        raise InputError(
            f"train and held_out have {fitted.size} and {judged.size} inputs: a probe needs two or "
            "more to fit and others to be judged on"
        )
    classes = {name: _classes(values, N, name) for name, values in targets.items()}
    order = np.random.default_rng(seed).permutation(N)
    probe = _Probe(columns, fitted)
    rows = {}
    for name, of_name in classes.items():
        ridge, predicted = probe.predict(of_name)
        shuffled = of_name[order]
        _, by_chance = probe.predict(shuffled)
        usual = np.bincount(of_name[fitted]).argmax()
        rows[name] = ProbeAccuracy(
            train=_share(predicted == of_name, fitted),
            held_out=_share(predicted == of_name, judged),
            shuffled_train=_share(by_chance == shuffled, fitted),
            shuffled_held_out=_share(by_chance == shuffled, judged),
            chance=_share(of_name == usual, judged),
            ridge=ridge,
        )
    return rows


class _Probe:
    """Ridge regressions on some inputs, which share one singular value decomposition."""

    def __init__(self, columns: Float64Array, fitted: NDArray[np.int64]):
        centred = columns - columns[fitted].mean(axis=0)
        self._fitted = fitted
        left, singular, right = scipy.linalg.svd(centred[fitted], full_matrices=False)
        varies = singular > 0
        self._left, self._squares = left[:, varies], singular[varies] ** 2
        # Every input in the same coordinates as the rows of `left`.
        self._every = centred @ (right[varies].T / singular[varies])

    def predict(self, classes: NDArray[np.int64]) -> tuple[float, NDArray[np.int64]]:
        """The ridge by leave-one-out, and the classes of all inputs that it predicts."""
        wanted = indicators(classes, int(classes.max()) + 1)[self._fitted]
        mean = wanted.mean(axis=0)
        coefficients = self._left.T @ (wanted - mean)
        largest = self._squares.max(initial=0)

        def shrunk(ridge: float) -> Float64Array:
            kept: Float64Array = self._squares / (self._squares + ridge * largest)
            return kept

        def left_out(ridge: float) -> float:
            kept = shrunk(ridge)
            residual = wanted - mean - self._left @ (kept[:, None] * coefficients)
            leverage = 1 / len(wanted) + (self._left**2) @ kept
            return float(((residual / (1 - leverage)[:, None]) ** 2).sum())

        best = min(RIDGES, key=left_out) if largest else RIDGES[-1]
        outputs = mean + self._every @ (shrunk(best)[:, None] * coefficients)
        return best, outputs.argmax(axis=1)


def _share(right: NDArray[np.bool_], inputs: NDArray[np.int64]) -> float:
    return float(right[inputs].mean())


def _whole(values: ArrayLike, name: str) -> NDArray[np.int64]:
    floats = as_floats(values, name)
    whole = floats.astype(np.int64) if np.isfinite(floats).all() else np.zeros(0, dtype=np.int64)
    if floats.ndim != 1 or not np.array_equal(whole, floats) or whole.min(initial=0) < 0:
        raise InputError(f"{name} are not whole numbers of at least 0, shape (N,)")
    return whole


def _indices(values: ArrayLike, N: int, name: str) -> NDArray[np.int64]:
    found = _whole(values, name)
    if found.max(initial=-1) >= N or np.unique(found).size < found.size:
        raise InputError(f"{name} has indices that repeat or are not below {N}, the inputs' number")
    return found


def _classes(values: ArrayLike, N: int, name: str) -> NDArray[np.int64]:
    found = _whole(values, f"targets {name}")
    if found.size != N:
        raise InputError(f"targets {name} are of {found.size} inputs, the activations of {N}")
    return found
