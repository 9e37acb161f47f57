"""How much of a feature family an eigenspace holds, beside what chance would give."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mlx_entk.errors import InputError
from mlx_entk.linalg import Float64Array, FloatArray, orthonormal_basis
from mlx_entk.spectrum import Spectrum


def center(features: FloatArray) -> Float64Array:
    """Columns less their mean: the constant function is no feature."""
    columns: Float64Array = np.asarray(features, dtype=np.float64)
    mean: Float64Array = columns.mean(axis=0)
    return columns - mean


@dataclass(frozen=True)
class Overlap:
    """Overlap of two subspaces with orthonormal bases Q and F.

    Attributes
    ----------
    singular_values
        Of QᵀF, largest first: cosines of the principal angles.
    dimension
        The smaller of the two dimensions: the largest overlap there can be.
    chance
        The overlap expected of two random subspaces: d₁·d₂ over the rank of the space.
    """

    singular_values: Float64Array
    dimension: int
    chance: float

    @property
    def overlap(self) -> float:
        """‖QᵀF‖_F², from 0 to ``dimension``."""
        return float((self.singular_values**2).sum())

    @property
    def percent(self) -> float:
        """``overlap`` in per cent of the smaller dimension."""
        return 100 * self.overlap / self.dimension

    @property
    def angles(self) -> Float64Array:
        """Principal angles in degrees, smallest first."""
        return np.degrees(np.arccos(np.clip(self.singular_values, 0, 1)))


def subspace_overlap(modes: Float64Array, family: Float64Array, rank: int) -> Overlap:
    """Overlap of an eigenspace with a feature family.

    Parameters
    ----------
    modes, family
        Orthonormal columns, shapes (N, d₁) and (N, d₂); see
        :func:`mlx_entk.linalg.orthonormal_basis`.
    rank
        Dimension of the space both live in: N − 1 for centred functions of N inputs.

    Raises
    ------
    InputError
        Where the two are not over the same inputs, or one of them is empty.
    """
    if modes.shape[0] != family.shape[0]:
        raise InputError(f"modes are over {modes.shape[0]} inputs, features over {family.shape[0]}")
    if modes.shape[1] == 0 or family.shape[1] == 0:
        raise InputError("an overlap needs at least one mode and one feature that varies")
    singular = np.linalg.svd(modes.T @ family, compute_uv=False)
    d1, d2 = modes.shape[1], family.shape[1]
    return Overlap(np.clip(singular, 0, 1), min(d1, d2), d1 * d2 / rank)


def alignment_rows(
    spectra: Mapping[str, Spectrum],
    groups: Mapping[str, Iterable[tuple[int, int]]],
    bases: Mapping[str, Float64Array],
) -> list[dict[str, Any]]:
    """The table kernel × mode group × family, one row each, ready for JSON.

    Parameters
    ----------
    spectra
        By kernel.
    groups
        (first, last) modes by kernel.
    bases
        Orthonormal bases of centred families over the N inputs.

    Returns
    -------
    list of dict
        ``kernel``, ``modes``, ``family``, ``overlap``, ``dimension``, ``percent`` (of the
        dimension), ``chance``, and ``angles``: the smallest, the median and the largest
        principal angle in degrees.
    """
    rows: list[dict[str, Any]] = []
    for kernel, spectrum in spectra.items():
        for modes in groups[kernel]:
            for family, basis in bases.items():
                found = subspace_overlap(spectrum.modes(*modes), basis, basis.shape[0] - 1)
                angles = found.angles.tolist()
                rows.append(
                    {
                        "kernel": kernel,
                        "modes": list(modes),
                        "family": family,
                        "overlap": found.overlap,
                        "dimension": found.dimension,
                        "percent": found.percent,
                        "chance": found.chance,
                        "angles": [angles[0], float(np.median(angles)), angles[-1]],
                    }
                )
    return rows


def equivalent_families(bases: dict[str, Float64Array], rtol: float = 1e-6) -> list[list[str]]:
    """Groups of families that span the same space, which no overlap can tell apart.

    For odd p, for instance, n and 2n do: multiplication by 2 permutes the frequencies.

    Parameters
    ----------
    bases
        Orthonormal columns by family.

    Returns
    -------
    list of list of str
        Groups of two or more names, in the order given.
    """
    groups: list[list[str]] = []
    for name, basis in bases.items():
        for group in groups:
            other = bases[group[0]]
            d = basis.shape[1]
            if other.shape[1] == d and np.sum((other.T @ basis) ** 2) > d * (1 - rtol):
                group.append(name)
                break
        else:
            groups.append([name])
    return [group for group in groups if len(group) > 1]


def family_shares(
    modes: Float64Array, bases: Mapping[str, Float64Array]
) -> tuple[Float64Array, list[str]]:
    """How much of each single mode lies in each family: ‖Fᵀv‖², from 0 to 1.

    Parameters
    ----------
    modes
        Orthonormal columns, shape (N, d).
    bases
        Orthonormal bases of centred families, shapes (N, k).

    Returns
    -------
    numpy.ndarray, list of str
        Shape (d, families), and the families' names.
    """
    squared = [np.sum((modes.T @ basis) ** 2, axis=1) for basis in bases.values()]
    return np.stack(squared, axis=1), list(bases)


def frequency_shares(
    modes: Float64Array, bank: Mapping[str, FloatArray], families: Sequence[str]
) -> tuple[Float64Array, list[str]]:
    """How much of each single mode is one frequency of one family: its squared alignment.

    Parameters
    ----------
    modes
        Orthonormal columns, shape (N, d).
    bank
        Fourier families by name, shape (N, 2K) each, as for :func:`frequency_alignment`.
    families
        Which of them.

    Returns
    -------
    numpy.ndarray, list of str
        Shape (d, families × K), and a name such as ``"sum, k = 3"`` for each column.
    """
    shares = [frequency_alignment(modes, bank[family]) ** 2 for family in families]
    names = [
        f"{family}, k = {k + 1}"
        for family, of_family in zip(families, shares, strict=True)
        for k in range(of_family.shape[1])
    ]
    return np.concatenate(shares, axis=1), names


def frequency_alignment(modes: Float64Array, family: FloatArray) -> Float64Array:
    """|cosine| of each mode with each frequency of a Fourier family, whatever the phase.

    Parameters
    ----------
    modes
        Orthonormal columns, shape (N, d).
    family
        Cosines of all frequencies, then the sines, shape (N, 2K), as
        :func:`mlx_entk.features.bank.fourier_family` gives them.

    Returns
    -------
    numpy.ndarray
        Shape (d, K), from 0 to 1: the length of each mode's projection on the plane of the
        frequency's cosine and sine.
    """
    centered = center(family)
    K = centered.shape[1] // 2
    lengths = np.empty((modes.shape[1], K))
    for k in range(K):
        plane = orthonormal_basis(centered[:, [k, K + k]])
        lengths[:, k] = np.linalg.norm(modes.T @ plane, axis=1)
    return lengths
