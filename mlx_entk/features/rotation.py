"""Rotate a group of modes into sparse or independent directions, without knowing any feature.

Within a group of modes the eigenvalues hardly choose a basis, so a single mode may mix several
features. If each feature is active on few inputs, or they are independent of each other, that
alone says which directions of the span are features.
"""

import importlib.util
import warnings
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from mlx_entk._linalg import ArrayLike, Float64Array, as_columns, whole_number
from mlx_entk.errors import InputError

Method = Literal["varimax", "ica", "dictionary"]
"""How ``disentangle`` chooses directions."""

METHODS: tuple[Method, ...] = get_args(Method)
"""All of them."""

# How far the modes may be from orthonormal: some are stored in float32.
_UNIT = 1e-3
# Varimax ends with a step that raises its criterion by less than this share. A step near the
# optimum at least squares what is left of the distance, so the directions are closer than that.
_RISE, _STEPS = 1e-4, 500
# Of scikit-learn: steps of ICA and when they end; rounds through the inputs, inputs in a batch and
# price of a coefficient, relative to the spread of the inputs' coordinates, of dictionary learning.
_ICA_STEPS, _ICA_CHANGE = 500, 1e-4
_ROUNDS, _BATCH, _PRICE = 20, 1024, 1.0


@dataclass(frozen=True)
class Directions:
    """Directions within the span of some modes, the sparsest first.

    Attributes
    ----------
    vectors
        Columns of length 1 over the inputs, shape (N, d). Of each the entry of largest magnitude
        is positive.
    coordinates
        The same in the basis of the modes, shape (k, d).
    kurtosis
        N Σ v⁴ of each column v, shape (d,): 1 if all entries have the same magnitude, about 3 for
        a Gaussian, N if a single entry is not zero.
    converged
        Whether the method ended because it was done; otherwise after its last step.
    """

    vectors: Float64Array
    coordinates: Float64Array
    kurtosis: Float64Array
    converged: bool


def disentangle(
    modes: ArrayLike, method: Method = "varimax", *, components: int | None = None, seed: int = 0
) -> Directions:
    """Rotate modes into sparse or independent directions of their span.

    Parameters
    ----------
    modes
        Orthonormal columns, shape (N, k). The rows are inputs, or inputs and outputs.
    method
        ``"varimax"`` gives the orthonormal basis of the span with the largest sum of fourth powers
        (for orthonormal columns the criterion of Kaiser, Psychometrika, 1958, up to a constant).
        ``"ica"`` gives the orthonormal basis of the most independent columns, by FastICA
        (Hyvärinen, 1999) with log cosh. The modes are uncorrelated already, so they are not
        whitened, and not centred either, which would leave their span. ``"dictionary"`` gives
        atoms of which each row of the modes is a sparse combination (Mairal et al., 2009),
        beginning with those of varimax; they need not be orthogonal, and may be more than the
        modes.
    components
        How many atoms; by default as many as modes. For ``"dictionary"`` alone. Atoms that no row
        uses are left out.
    seed
        Of the random rotation or the order of the rows with which the method begins.

    Raises
    ------
    InputError
        For modes that are not orthonormal or not finite, an unknown method, components that are
        below 1 or of another method, and if scikit-learn is missing, which ``"varimax"`` does not
        need.
    """
    require_available(method)
    columns = as_columns(modes, "modes")
    k = columns.shape[1]
    if not np.allclose(columns.T @ columns, np.eye(k), rtol=0, atol=_UNIT):
        raise InputError("modes are not orthonormal: pass them through orthonormal_basis")
    if components is not None:
        if method != "dictionary":
            raise InputError(f"components are atoms of a dictionary: {method} has none")
        if whole_number(components, "components") < 1:
            raise InputError(f"components is {components}: it must be at least 1")
    if whole_number(seed, "seed") < 0:
        raise InputError(f"seed is {seed}: it must be 0 or more")
    if k == 0:
        return Directions(columns, np.zeros((0, 0)), np.zeros(0), True)
    if method == "varimax":
        coordinates, converged = _varimax(columns, seed)
    elif method == "ica":
        coordinates, converged = _ica(columns, seed)
    else:
        coordinates, converged = _dictionary(columns, components or k, seed)
    return _ordered(columns, coordinates, converged)


def require_available(method: str) -> None:
    """Raise InputError for an unknown method, and for one whose package is missing."""
    if method not in METHODS:
        raise InputError(f"method {method!r} is unknown: use {', '.join(METHODS)}")
    if method != "varimax" and importlib.util.find_spec("sklearn") is None:
        raise InputError(
            f"method {method} needs the extra sparse: pip install 'mlx-entk[sparse]'; varimax does "
            "not"
        )


def random_rotation(size: int, seed: int) -> Float64Array:
    """A random orthogonal matrix, shape (size, size)."""
    drawn = np.random.default_rng(seed).standard_normal((size, size))
    rotation: Float64Array = np.linalg.qr(drawn)[0]
    return rotation


def _ordered(columns: Float64Array, coordinates: Float64Array, converged: bool) -> Directions:
    """Columns of length 1 with their signs, the sparsest first."""
    vectors = columns @ coordinates
    lengths = np.linalg.norm(vectors, axis=0)
    used = lengths > 0
    vectors, coordinates = vectors[:, used], coordinates[:, used]
    peaks = vectors[np.abs(vectors).argmax(axis=0), np.arange(vectors.shape[1])]
    scales = np.sign(peaks) / lengths[used]
    kurtosis = len(vectors) * ((vectors * scales) ** 4).sum(axis=0)
    order = np.argsort(-kurtosis, kind="stable")
    return Directions(
        (vectors * scales)[:, order], (coordinates * scales)[:, order], kurtosis[order], converged
    )


def _varimax(columns: Float64Array, seed: int) -> tuple[Float64Array, bool]:
    """The rotation with the largest sum of fourth powers, by repeated polar decomposition.

    The sum is convex, so each step raises it. The modes themselves may be a point where it does
    not rise in any direction, such as the columns of a Hadamard matrix: a random rotation is not.
    """
    rotation = random_rotation(columns.shape[1], seed)
    columns = columns[columns.any(axis=1)]  # rows of zeros add nothing, and may be most of them
    reached = 0.0
    for _ in range(_STEPS):
        rotated = columns @ rotation
        left, singular, right = np.linalg.svd(columns.T @ (rotated * rotated * rotated))
        rotation = left @ right
        criterion = float(singular.sum())
        if criterion <= reached * (1 + _RISE):
            return rotation, True
        reached = criterion
    return rotation, False


def _ica(columns: Float64Array, seed: int) -> tuple[Float64Array, bool]:
    from sklearn.decomposition import fastica

    N, k = columns.shape
    with warnings.catch_warnings():  # the number of steps says whether it converged
        warnings.simplefilter("ignore")
        _, unmixing, _, steps = fastica(
            columns * np.sqrt(N),
            whiten=False,
            w_init=random_rotation(k, seed),
            max_iter=_ICA_STEPS,
            tol=_ICA_CHANGE,
            return_n_iter=True,
        )
    return np.asarray(unmixing).T, steps < _ICA_STEPS


def _dictionary(columns: Float64Array, atoms: int, seed: int) -> tuple[Float64Array, bool]:
    from sklearn.decomposition import MiniBatchDictionaryLearning

    # Fits from elsewhere end in poorer optima. What is random is a start for further atoms.
    rotation, _ = _varimax(columns, seed)
    k = columns.shape[1]
    further = np.random.default_rng(seed).standard_normal((max(0, atoms - k), k))
    further /= np.linalg.norm(further, axis=1, keepdims=True)
    learning = MiniBatchDictionaryLearning(
        atoms,
        dict_init=np.concatenate([rotation.T, further])[:atoms],
        alpha=_PRICE,
        max_iter=_ROUNDS,
        batch_size=min(_BATCH, len(columns)),
        fit_algorithm="cd",
        random_state=seed,
    )
    with warnings.catch_warnings():  # of coefficients that are not exact in an early round
        warnings.simplefilter("ignore")
        learning.fit(columns * np.sqrt(len(columns)))
    return np.asarray(learning.components_, dtype=np.float64).T, learning.n_iter_ < _ROUNDS
