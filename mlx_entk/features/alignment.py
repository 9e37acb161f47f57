"""How much of a feature family an eigenspace holds, alongside what chance would give."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mlx_entk._linalg import ArrayLike, Float64Array, as_columns, orthonormal_basis
from mlx_entk.errors import InputError
from mlx_entk.spectrum import Modes, Spectrum

if TYPE_CHECKING:
    from mlx_entk.plotting import Drawing

# How far the length of a basis column may be from 1: some bases are stored in float32.
_UNIT = 1e-3


def center(features: ArrayLike) -> Float64Array:
    """Columns minus their means, shape (N, k): the constant function is not a feature.

    Raises
    ------
    InputError
        For any other shape, and for NaN or infinite features.
    """
    columns = as_columns(features, "features")
    mean: Float64Array = columns.mean(axis=0)
    return columns - mean


def _as_basis(columns: ArrayLike, name: str, rows: int | None = None) -> Float64Array:
    """Columns of length 1, over as many inputs as the modes; InputError for anything else."""
    basis = as_columns(columns, name)
    if rows is not None and basis.shape[0] != rows:
        raise InputError(f"modes are over {rows} inputs, {name} over {basis.shape[0]}")
    if not np.allclose(np.linalg.norm(basis, axis=0), 1, rtol=0, atol=_UNIT):
        raise InputError(f"{name} are not orthonormal: pass them through orthonormal_basis")
    return basis


@dataclass(frozen=True, repr=False)
class Overlap:
    """Overlap of two subspaces with orthonormal bases Q and F.

    Attributes
    ----------
    singular_values
        Singular values of QᵀF, largest first: the cosines of the principal angles.
    dimension
        The smaller of the two dimensions, which is the largest possible overlap.
    chance, chance_deviation
        Mean and standard deviation of the overlap of random modes in place of these.
    """

    singular_values: Float64Array
    dimension: int
    chance: float
    chance_deviation: float

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

    def plot(self) -> "Drawing":
        """Draw the cosines of the principal angles, as a matplotlib figure."""
        from mlx_entk.plotting import plot_overlap

        return plot_overlap(self)

    def __repr__(self) -> str:
        return (
            f"Overlap({self.overlap:.4g} of {self.dimension}, {self.percent:.1f}%; by chance "
            f"{self.chance:.4g} ± {self.chance_deviation:.2g})"
        )


def subspace_overlap(
    modes: ArrayLike, family: ArrayLike, before: ArrayLike | None = None
) -> Overlap:
    """Overlap of an eigenspace with a feature family.

    Parameters
    ----------
    modes, family
        Orthonormal columns, shapes (N, d₁) and (N, d₂); see ``mlx_entk.orthonormal_basis``.
    before
        The modes that come before these, shape (N, j). Random modes in their place would be
        orthogonal to them too, so chance counts the rest of the space, of dimension N − j, and
        what is left of the family there. None for no modes.

    Raises
    ------
    InputError
        If the arrays are not over the same inputs, or if modes or family are empty, not finite or
        not orthonormal.

    Notes
    -----
    For a random d-dimensional subspace of n dimensions with the projection P, and a symmetric
    matrix A, tr(PA) has the mean d·tr(A)/n and the variance
    2d(n − d)/(n(n − 1)(n + 2)) · ‖A − tr(A)/n‖_F²: the traceless part of P has the length
    d(1 − d/n) and any direction among the (n − 1)(n + 2)/2 there are. Here A is the projection on
    the family, restricted to the complement of the modes before.
    """
    Q = _as_basis(modes, "modes")
    F = _as_basis(family, "features", Q.shape[0])
    d1, d2 = Q.shape[1], F.shape[1]
    if min(d1, d2) == 0:
        raise InputError("an overlap needs at least one mode and one feature that varies")
    for basis, name in ((Q, "modes"), (F, "features")):
        if not np.allclose(basis.T @ basis, np.eye(basis.shape[1]), rtol=0, atol=_UNIT):
            raise InputError(f"{name} are not orthonormal: pass them through orthonormal_basis")
    singular = np.linalg.svd(Q.T @ F, compute_uv=False)
    left = F
    n = len(F)
    if before is not None:
        P = _as_basis(before, "modes before", n)
        left = F - P @ (P.T @ F)
        n -= P.shape[1]
    return Overlap(np.clip(singular, 0, 1), min(d1, d2), *_by_chance(d1, n, left.T @ left))


def _by_chance(d: int, n: int, gram: Float64Array) -> tuple[float, float]:
    """Mean and standard deviation of tr(PA) for A with this Gram matrix; see above."""
    trace = float(np.trace(gram))
    if n <= 1 or d >= n:
        return trace, 0.0
    spread = float((gram**2).sum()) - trace**2 / n
    variance = 2 * d * (n - d) / (n * (n - 1) * (n + 2)) * spread
    return d * trace / n, float(np.sqrt(max(0.0, variance)))


@dataclass(frozen=True)
class Alignment:
    """The overlap of one group of modes of one kernel with one feature family.

    Attributes
    ----------
    kernel, modes, family
        Names of the kernel and the family; first and last mode of the group, from 0.
    overlap, dimension, percent, chance, chance_deviation
        As in ``Overlap``; modes below the noise floor, which are rounding, hold nothing.
    angles
        The smallest, the median and the largest principal angle, in degrees.
    """

    kernel: str
    modes: Modes
    family: str
    overlap: float
    dimension: int
    percent: float
    chance: float
    chance_deviation: float
    angles: tuple[float, float, float]

    @property
    def chance_percent(self) -> float:
        """``chance`` in per cent of the dimension."""
        return 100 * self.chance / self.dimension


def align(
    spectra: Mapping[str, Spectrum],
    groups: Mapping[str, Iterable[Modes]],
    bases: Mapping[str, Float64Array],
) -> list[Alignment]:
    """Align every group of modes of every kernel with every feature family.

    Parameters
    ----------
    spectra
        Spectra by kernel.
    groups
        Groups of modes by kernel.
    bases
        Orthonormal bases of centred families over the N inputs, shape (N, k) each.

    Raises
    ------
    InputError
        If a kernel has no groups, if groups lie beyond its spectrum's modes, and as for
        ``subspace_overlap``.
    """
    rows: list[Alignment] = []
    for kernel, spectrum in spectra.items():
        if kernel not in groups:
            raise InputError(f"groups has {', '.join(groups) or 'nothing'}: {kernel} is missing")
        for modes in groups[kernel]:
            for family, basis in bases.items():
                rows.append(_align(kernel, spectrum, modes, family, basis))
    return rows


def require_varying(basis: ArrayLike, family: str) -> None:
    """Raise InputError for the basis of a family that does not vary over the inputs."""
    if np.shape(basis)[1] == 0:
        raise InputError(f"features {family} do not vary over the inputs")


def _align(
    kernel: str, spectrum: Spectrum, modes: Modes, family: str, basis: Float64Array
) -> Alignment:
    require_varying(basis, family)
    group = spectrum.modes(*modes)
    dimension = min(group.shape[1], basis.shape[1])
    held = group[:, : max(0, spectrum.rank - modes[0])]
    if held.shape[1] == 0:
        return Alignment(kernel, modes, family, 0.0, dimension, 0.0, 0.0, 0.0, (90.0,) * 3)
    found = subspace_overlap(held, basis, spectrum.vectors[:, : modes[0]])
    angles = np.concatenate([found.angles, np.full(dimension - found.angles.size, 90.0)])
    return Alignment(
        kernel,
        modes,
        family,
        found.overlap,
        dimension,
        100 * found.overlap / dimension,
        found.chance,
        found.chance_deviation,
        (float(angles[0]), float(np.median(angles)), float(angles[-1])),
    )


def equivalent_families(bases: Mapping[str, ArrayLike], rtol: float = 1e-6) -> list[list[str]]:
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

    Raises
    ------
    InputError
        For families that are over different inputs, not finite or not orthonormal.
    """
    groups: list[list[str]] = []
    columns: dict[str, Float64Array] = {}
    for name, given in bases.items():
        rows = len(next(iter(columns.values()))) if columns else None
        basis = columns[name] = _as_basis(given, f"features {name}", rows)
        for group in groups:
            other = columns[group[0]]
            d = basis.shape[1]
            if other.shape[1] == d and np.sum((other.T @ basis) ** 2) > d * (1 - rtol):
                group.append(name)
                break
        else:
            groups.append([name])
    return [group for group in groups if len(group) > 1]


def family_shares(
    modes: ArrayLike, bases: Mapping[str, ArrayLike]
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

    Raises
    ------
    InputError
        If the families are over other inputs than the modes, or if either is not finite or not
        orthonormal.
    """
    columns = _as_basis(modes, "modes")
    shares = np.zeros((columns.shape[1], len(bases)))
    for number, (name, given) in enumerate(bases.items()):
        basis = _as_basis(given, f"features {name}", columns.shape[0])
        shares[:, number] = np.sum((columns.T @ basis) ** 2, axis=1)
    return shares, list(bases)


def frequency_shares(
    modes: ArrayLike, bank: Mapping[str, ArrayLike], families: Sequence[str]
) -> tuple[Float64Array, list[str]]:
    """How much of each single mode lies in each frequency of each family: squared alignments.

    Parameters
    ----------
    modes
        Orthonormal columns, shape (N, d).
    bank
        Fourier families by name, shape (N, 2K) each, as for ``frequency_alignment``.
    families
        Names of the families to use.

    Returns
    -------
    numpy.ndarray, list of str
        Shape (d, families × K), and a name such as ``"sum, k = 3"`` for each column.

    Raises
    ------
    InputError
        If there are no families or the bank lacks one, and as for ``frequency_alignment``.
    """
    missing = [family for family in families if family not in bank]
    if missing or not families:
        problem = f"the bank lacks {', '.join(missing)}" if missing else "there are no families"
        raise InputError(f"{problem}: pass some of {', '.join(bank)}")
    shares = [frequency_alignment(modes, bank[family]) ** 2 for family in families]
    names = [
        f"{family}, k = {k + 1}"
        for family, of_family in zip(families, shares, strict=True)
        for k in range(of_family.shape[1])
    ]
    return np.concatenate(shares, axis=1), names


def frequency_alignment(modes: ArrayLike, family: ArrayLike) -> Float64Array:
    """|cosine| of each mode with each frequency of a Fourier family, regardless of phase.

    Parameters
    ----------
    modes
        Orthonormal columns, shape (N, d).
    family
        The cosines of all frequencies, then the sines, shape (N, 2K), as
        ``mlx_entk.features.bank.fourier_family`` gives them.

    Returns
    -------
    numpy.ndarray
        Shape (d, K), from 0 to 1: the length of each mode's projection on the plane of the
        frequency's cosine and sine.

    Raises
    ------
    InputError
        If the family has an odd number of columns or is over other inputs than the modes, if
        either is not finite, and if the modes are not orthonormal.
    """
    columns, centered = _as_basis(modes, "modes"), center(family)
    if centered.shape[0] != columns.shape[0] or centered.shape[1] % 2:
        raise InputError(
            f"family has shape {centered.shape}: pass a cosine and a sine for each frequency, "
            f"over the modes' {columns.shape[0]} inputs"
        )
    K = centered.shape[1] // 2
    lengths = np.empty((columns.shape[1], K))
    for k in range(K):
        plane = orthonormal_basis(centered[:, [k, K + k]])
        lengths[:, k] = np.linalg.norm(columns.T @ plane, axis=1)
    return lengths


# Names of a space that are written out; how many more there are follows.
_NAMES = 3


def one_of_each_space(
    families: Sequence[str], equivalent: Sequence[Sequence[str]]
) -> dict[str, str]:
    """The first family of each space, and what to call it: ``n = 2n``, with all names.

    Parameters
    ----------
    families
        Names, in the order to show them in.
    equivalent
        From ``equivalent_families``.
    """
    group_of = {name: tuple(group) for group in equivalent for name in group}
    by_space: dict[tuple[str, ...], list[str]] = {}
    for family in families:
        by_space.setdefault(group_of.get(family, (family,)), []).append(family)
    return {names[0]: joined(names) for names in by_space.values()}


def joined(names: Sequence[str]) -> str:
    """The names of one space: ``a = b = c``, of many the first and how many there are more."""
    more = len(names) - _NAMES
    return " = ".join([*names[:_NAMES], *([f"{more} more"] if more > 0 else [])])
