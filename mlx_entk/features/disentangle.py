"""Rotate a group of modes to sparse or independent directions, without knowing any feature.

Eigenvectors with nearly equal eigenvalues are an arbitrary basis of their space, and a feature may
be spread over all of it. Features are often sparse: each is about few inputs, or few outputs. So
the basis of the same space whose directions are as sparse as they can be is a guess at them.
"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, get_args

import numpy as np

from mlx_entk._linalg import ArrayLike, Float64Array, as_columns, whole_number
from mlx_entk.errors import InputError

# Varimax (Kaiser, 1958); independent components; a dictionary of which few atoms make up each row.
Rotation = Literal["varimax", "ica", "dictionary"]
ROTATIONS: tuple[Rotation, ...] = get_args(Rotation)

# Where an iteration ends: the relative rise of its criterion, and how many steps it takes at most.
_RISE, _STEPS = 1e-7, 300
# The penalty of the dictionary's codes, in units of the root mean square of an entry.
_PENALTY = 1.0


def disentangle(
    modes: ArrayLike, method: Rotation = "varimax", *, atoms: int | None = None, seed: int = 0
) -> Float64Array:
    """Directions inside the span of some modes that are as sparse, or as independent, as may be.

    Parameters
    ----------
    modes
        Orthonormal columns, shape (N, k); (C·N, k) of a full kernel.
    method
        ``"varimax"``: the rotation with the largest variance of squared entries (Kaiser, 1958).
        ``"ica"``: that with the most independent columns by FastICA (Hyvärinen, 1999).
        ``"dictionary"``: unit vectors, not orthogonal, of which few make up each row (Mairal et
        al., 2009). The last two need scikit-learn.
    atoms
        Of a dictionary, how many; by default k. There may be more.
    seed
        Of what is drawn.

    Returns
    -------
    numpy.ndarray
        Unit columns in the span, shape (N, k) or (N, atoms), the sparsest (see ``sparsity``)
        first, each with the sign that makes its largest entries positive.

    Raises
    ------
    InputError
        For an unknown method, modes that are not orthonormal, ``atoms`` below 1 or without a
        dictionary, and a method whose package is missing.
    """
    columns = as_columns(modes, "modes")
    k = columns.shape[1]
    if method not in ROTATIONS:
        raise InputError(f"method {method!r} is unknown: use {', '.join(ROTATIONS)}")
    if atoms is not None and (method != "dictionary" or whole_number(atoms, "atoms") < 1):
        raise InputError(f"atoms is {atoms}: a dictionary has at least 1, a rotation has k")
    if not np.allclose(columns.T @ columns, np.eye(k), atol=1e-3):
        raise InputError("modes are not orthonormal: pass them through orthonormal_basis")
    if k < 2 and atoms is None:
        return _ordered(columns)
    ways: dict[str, Callable[[], Float64Array]] = {
        "varimax": lambda: varimax(columns),
        "ica": lambda: _independent(columns, seed),
        "dictionary": lambda: _dictionary(columns, atoms or k, seed),
    }
    return _ordered(columns @ ways[method]())


def sparsity(directions: ArrayLike) -> Float64Array:
    """Excess kurtosis about zero of each column, N Σ v⁴ / (Σ v²)² − 3, shape (k,).

    0 for entries from a normal distribution, N − 3 for a single entry.
    """
    squared = as_columns(directions, "directions") ** 2
    fourth, second = (squared**2).sum(axis=0), squared.sum(axis=0)
    return np.asarray(len(squared) * fourth / np.where(second > 0, second, 1) ** 2 - 3)


def varimax(columns: Float64Array) -> Float64Array:
    """The rotation of orthonormal columns with the largest variance of squared entries, (k, k).

    By the iteration of singular value decompositions of Kaiser's criterion; it is followed until
    the criterion rises by less than 10⁻⁷ of itself, for at most 300 steps.
    """
    rotation, last = np.eye(columns.shape[1]), 0.0
    for _ in range(_STEPS):
        rotated = columns @ rotation
        squared = rotated * rotated
        gradient = columns.T @ (rotated * (squared - squared.mean(axis=0)))
        left, values, right = np.linalg.svd(gradient)
        rotation = left @ right
        if values.sum() < (1 + _RISE) * last:
            break
        last = float(values.sum())
    return rotation


def _independent(columns: Float64Array, seed: int) -> Float64Array:
    """Rotation by FastICA; orthonormal columns are white already."""
    decomposition = _scikit_learn()
    rows, k = columns.shape
    generator = np.random.default_rng(seed)
    start = np.linalg.qr(generator.standard_normal((k, k)))[0]
    found = decomposition.FastICA(whiten=False, fun="cube", w_init=start, max_iter=_STEPS, tol=1e-4)
    with _to_the_last_step():
        found.fit(columns * np.sqrt(rows))
    rotation: Float64Array = np.asarray(found.components_, dtype=np.float64).T
    return rotation


def _dictionary(columns: Float64Array, atoms: int, seed: int) -> Float64Array:
    """Atoms as combinations of the columns, shape (k, atoms)."""
    decomposition = _scikit_learn()
    found = decomposition.MiniBatchDictionaryLearning(
        atoms, alpha=_PENALTY, random_state=seed, fit_algorithm="cd", max_iter=20, batch_size=256
    )
    with _to_the_last_step():
        found.fit(columns * np.sqrt(len(columns)))
    found_atoms = np.asarray(found.components_, dtype=np.float64)
    lengths = np.linalg.norm(found_atoms, axis=1, keepdims=True)
    return np.asarray((found_atoms / np.where(lengths > 0, lengths, 1)).T)


@contextmanager
def _to_the_last_step() -> Iterator[None]:
    """Take what an iteration has when it ends: directions in the span, if less sparse ones."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _scikit_learn() -> Any:
    try:
        from sklearn import decomposition
    except ImportError as error:
        raise InputError(
            "ica and dictionary need scikit-learn: pip install 'mlx-entk[sparse]', or use varimax"
        ) from error
    return decomposition


def _ordered(directions: Float64Array) -> Float64Array:
    """The sparsest first, with the largest entries positive."""
    signs = np.sign((directions**3).sum(axis=0))
    return (directions * np.where(signs == 0, 1, signs))[
        :, np.argsort(-sparsity(directions), kind="stable")
    ]
