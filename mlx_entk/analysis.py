"""Analysis of kernels: spectra, cliffs, groups of modes, and their alignment with features.

Every study, ``mlx-entk kernel`` and the notebooks analyse kernels with ``analyze_kernels``; they
differ in the groups of modes that they report.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property

import numpy as np

from mlx_entk._linalg import ArrayLike, Float64Array, FloatArray, as_columns, orthonormal_basis
from mlx_entk.cliffs import Cliff, find_cliffs
from mlx_entk.controls import (
    CONTROL_RULE,
    Controls,
    align_controls,
    align_factors,
    equal_to_activations,
)
from mlx_entk.eigensolvers import as_operator, top_modes
from mlx_entk.errors import InputError
from mlx_entk.features import Alignment, align, center, equivalent_families
from mlx_entk.kernel import LayerFactors, flatten
from mlx_entk.progress import Progress, silent
from mlx_entk.spectrum import Modes, Spectrum, effective_rank, eigendecompose

# The whole kernel's name among the kernels of single parameters, also in run folders.
WHOLE = "full"

# How often features are shuffled over the inputs, for a null model.
SHUFFLES = 20

# Up to this many rows all modes are found, by which cliffs are judged best; above, leading ones.
DENSE = 4000
# Lanczos is for at most one mode in so many rows: of 2,000 rows it takes 0.4 s for 100 modes and
# 2.4 s for 400, LAPACK 1.2 and 1.7 s.
_ROWS_A_MODE = 8
# Rows of a kernel that are read at a time.
_ROWS_AT_ONCE = 1024


def groups_at(cliffs: Sequence[Cliff]) -> list[Modes]:
    """The groups of modes that end at a cliff."""
    return [cliff.modes for cliff in cliffs]


def with_whole(by_layer: Mapping[str, FloatArray]) -> dict[str, FloatArray]:
    """The layerwise kernels, preceded by their sum, the whole kernel."""
    first, *others = by_layer.values()
    whole: FloatArray = np.array(first)
    for kernel in others:  # in place, since they may be large
        whole += kernel
    return {WHOLE: whole, **by_layer}


def part_shares(
    modes: ArrayLike, parts: Mapping[str, FloatArray]
) -> tuple[Float64Array, Float64Array]:
    """How much of each mode's eigenvalue is due to each of the kernels that a kernel is the sum of.

    Parameters
    ----------
    modes
        Unit vectors in columns, shape (N, k).
    parts
        The kernels, shape (N, N) each, or with full class axes.

    Returns
    -------
    numpy.ndarray, numpy.ndarray
        vᵀK_l v / Σ_l vᵀK_l v, shape (k, parts), which sums to 1 for each mode, or is zero where
        the sum is not positive; and the traces of the parts, shape (parts,).
    """
    columns = as_columns(modes, "modes")
    products = np.zeros((columns.shape[1], len(parts)))
    traces = np.zeros(len(parts))
    for number, kernel in enumerate(parts.values()):
        matrix = _matrix(kernel)
        traces[number] = np.trace(matrix, dtype=np.float64)
        for i in range(0, len(matrix), _ROWS_AT_ONCE):  # kernels are float32, and may be large
            rows = slice(i, i + _ROWS_AT_ONCE)
            images = matrix[rows].astype(np.float64) @ columns
            products[:, number] += np.einsum("nk,nk->k", columns[rows], images)
    total = products.sum(axis=1, keepdims=True)
    return np.where(total > 0, products / np.where(total > 0, total, 1), 0), traces


def with_sums(
    by_layer: Mapping[str, FloatArray], sums: Mapping[str, Sequence[str]]
) -> dict[str, FloatArray]:
    """The layerwise kernels, followed by sums of some of them.

    The sum is the kernel of those parameters together, such as of query and key, which act on the
    outputs as one product.

    Parameters
    ----------
    by_layer
        Kernels by parameter, of one shape.
    sums
        Names of kernels to add up, by the name of their sum.

    Raises
    ------
    InputError
        For names that no kernel has, for a sum of none, and for one named like a kernel.
    """
    every = dict(by_layer)
    for name, parts in sums.items():
        missing = [part for part in parts if part not in by_layer]
        if missing or not parts or name in by_layer:
            problem = (
                f"there is no kernel {', '.join(missing)}"
                if missing
                else "a kernel has that name already"
                if parts
                else "it adds up nothing"
            )
            raise InputError(f"sum {name}: {problem}; the kernels are {', '.join(by_layer)}")
        total: FloatArray = np.array(by_layer[parts[0]])
        for part in parts[1:]:
            total += by_layer[part]
        every[name] = total
    return every


def bases_of(
    features: Mapping[str, ArrayLike], inputs: int | None = None
) -> dict[str, Float64Array]:
    """Orthonormal bases of the centred families.

    Parameters
    ----------
    features
        Families by name, shape (N, k) each.
    inputs
        N, if it is known.

    Raises
    ------
    InputError
        For families over another number of inputs, and for NaN or infinite features.
    """
    bases: dict[str, Float64Array] = {}
    for name, family in features.items():
        columns = as_columns(family, f"features {name}")
        if inputs is not None and columns.shape[0] != inputs:
            raise InputError(f"features {name} are over {columns.shape[0]} inputs, not {inputs}")
        bases[name] = orthonormal_basis(center(columns))
    return bases


class Families:
    """Bases side by side, so that one product per spectrum serves every group and family."""

    def __init__(self, bases: Mapping[str, ArrayLike]):
        columns = [as_columns(basis, f"bases of {name}") for name, basis in bases.items()]
        if len({basis.shape[0] for basis in columns}) > 1:
            raise InputError("bases are over different inputs: pass one set of inputs")
        self._together = np.concatenate(columns, axis=1) if columns else None
        ends = np.cumsum([basis.shape[1] for basis in columns], dtype=int).tolist()
        self._columns = dict(zip(bases, zip([0, *ends], ends, strict=False), strict=True))

    def overlaps(
        self, spectrum: Spectrum, groups: Sequence[Modes]
    ) -> dict[tuple[Modes, str], float]:
        """‖QᵀF‖_F² by (modes, family); modes below the noise floor, of rounding, hold nothing."""
        if self._together is None:
            return {}
        N = spectrum.vectors.shape[0]
        if self._together.shape[0] != N:
            raise InputError(
                f"bases are over {self._together.shape[0]} inputs, the kernel over {N}"
            )
        squared_cosines = (spectrum.vectors.T @ self._together) ** 2
        squared_cosines[spectrum.rank :] = 0
        return {
            (modes, family): float(squared_cosines[modes[0] : modes[1] + 1, start:end].sum())
            for modes in groups
            for family, (start, end) in self._columns.items()
        }


@dataclass(frozen=True)
class TrainedAlignment(Alignment):
    """An alignment after training, alongside the overlap of the same modes before it.

    Attributes
    ----------
    initial
        The overlap before training.
    """

    initial: float

    @property
    def initial_percent(self) -> float:
        """``initial`` in per cent of the dimension."""
        return 100 * self.initial / self.dimension


@dataclass(frozen=True)
class KernelAnalysis:
    """What an analysis of kernels shows; fields are by the kernels' names unless they say more.

    Attributes
    ----------
    spectra
        Leading eigenpairs.
    cliffs
        Cliffs among the leading modes.
    groups
        Groups of modes (first, last) that are aligned with the features.
    effective_ranks
        Effective ranks; None if not all eigenvalues are known.
    bases
        Orthonormal bases of the centred feature families, by family.
    alignment
        A row for each kernel, group and family.
    controls
        What activations, outputs and the factors of layerwise kernels hold.
    """

    spectra: dict[str, Spectrum]
    cliffs: dict[str, list[Cliff]]
    groups: dict[str, list[Modes]]
    effective_ranks: dict[str, float | None]
    bases: dict[str, Float64Array]
    alignment: list[Alignment]
    controls: Controls

    @property
    def groups_at_cliffs(self) -> dict[str, list[Modes]]:
        """The groups of modes that end at a cliff."""
        return {name: groups_at(cliffs) for name, cliffs in self.cliffs.items()}

    @cached_property
    def equivalent_families(self) -> list[list[str]]:
        """Families that span the same space, so that no overlap can tell them apart."""
        return equivalent_families(self.bases)

    def since(self, before: Mapping[str, FloatArray]) -> list[TrainedAlignment]:
        """The alignment, alongside the overlaps of the same groups before training.

        Parameters
        ----------
        before
            The kernels before training, by the same names.
        """
        last = max((m[1] for groups in self.groups.values() for m in groups), default=0)
        spectra = {name: _leading(_matrix(before[name]), last + 1) for name in self.spectra}
        initial = align(spectra, self.groups, self.bases)
        return [
            TrainedAlignment(**asdict(row), initial=then.overlap)
            for row, then in zip(self.alignment, initial, strict=True)
        ]

    def shuffled(self, seed: int = 0) -> list[tuple[float, float]]:
        """Overlaps of the same groups with features that were shuffled over the inputs.

        Returns
        -------
        list of (float, float)
            Mean and standard deviation over ``SHUFFLES`` shuffles, for each row of the alignment.
        """
        generator = np.random.default_rng(seed)
        draws: list[list[float]] = []
        for _ in range(SHUFFLES if self.alignment else 0):
            order = generator.permutation(len(next(iter(self.bases.values()))))
            families = Families({name: basis[order] for name, basis in self.bases.items()})
            overlaps = {
                (kernel, *key): overlap
                for kernel, spectrum in self.spectra.items()
                for key, overlap in families.overlaps(spectrum, self.groups[kernel]).items()
            }
            draws.append([overlaps[row.kernel, row.modes, row.family] for row in self.alignment])
        return [(float(np.mean(d)), float(np.std(d))) for d in zip(*draws, strict=True)]


def analyze_kernels(
    kernels: Mapping[str, FloatArray],
    features: Mapping[str, ArrayLike] | None = None,
    *,
    groups: Sequence[Modes] | Callable[[list[Cliff]], Sequence[Modes]] = groups_at,
    controls: Mapping[str, ArrayLike] | None = None,
    factors: Mapping[str, LayerFactors] | None = None,
    top: int | None = None,
    progress: Progress = silent,
) -> KernelAnalysis:
    """Decompose kernels, find their cliffs, and align groups of their modes with features.

    Parameters
    ----------
    kernels
        By name, shape (N, N), or (N, N, C, C) with full class axes.
    features
        Families of features over the N inputs, by name, shape (N, k) each.
    groups
        The groups of modes (first, last) to report for every kernel; or a function that gives
        those of one kernel, from its cliffs. By default the groups that end at a cliff.
    controls
        Activations and outputs by name, shape (N, D) each, to compare the kernels with
        (``mlx_entk.controls``).
    factors
        The two Gram matrices of layerwise kernels, from ``mlx_entk.layer_factors``: which of them
        holds a feature.
    top
        How many modes to keep; None for all. Cliffs among them are judged by all eigenvalues,
        unless a kernel has more than ``DENSE`` rows: then the leading modes alone are computed, and
        there is no effective rank.
    progress
        Called for every kernel.

    Raises
    ------
    InputError
        For kernels that are not eNTKs (see ``mlx_entk.eigendecompose``), for features that are
        not over their inputs, and for groups beyond the modes that are kept.
    """
    spectra: dict[str, Spectrum] = {}
    ranks: dict[str, float | None] = {}
    cliffs: dict[str, list[Cliff]] = {}
    for done, (name, kernel) in enumerate(kernels.items()):
        progress("spectra", done, len(kernels), name)
        matrix = _matrix(kernel)
        every, spectra[name] = _decompose(matrix, top)
        kept = spectra[name].values.size
        ranks[name] = effective_rank(every.values) if len(every.values) == len(matrix) else None
        cliffs[name] = [
            cliff for cliff in find_cliffs(every.values, every.noise_floor) if cliff.before < kept
        ]
    progress("spectra", len(kernels), len(kernels))
    reported = {
        name: list(groups(of_kernel) if callable(groups) else groups)
        for name, of_kernel in cliffs.items()
    }
    bases = bases_of(features or {})
    sizes = {last - first + 1 for of_kernel in reported.values() for first, last in of_kernel}
    return KernelAnalysis(
        spectra,
        cliffs,
        reported,
        ranks,
        bases,
        align(spectra, reported, bases),
        Controls(
            CONTROL_RULE,
            align_controls(controls or {}, bases, {1, *sizes} if sizes else sizes),
            align_factors(factors or {}, bases, sizes),
            equal_to_activations(factors or {}),
        ),
    )


def _matrix(kernel: FloatArray) -> FloatArray:
    return flatten(kernel) if kernel.ndim == 4 else kernel


def _leading(matrix: FloatArray, top: int) -> Spectrum:
    """The leading modes alone."""
    if len(matrix) > DENSE and _ROWS_A_MODE * top <= len(matrix):
        return top_modes(as_operator(matrix), top).spectrum
    return eigendecompose(np.asarray(matrix), top)


def _decompose(matrix: FloatArray, top: int | None) -> tuple[Spectrum, Spectrum]:
    """All modes that are found, and the leading ones that are kept."""
    size = matrix.shape[0]
    if top is not None and size > DENSE and top < size:
        found = _leading(matrix, top)
        return found, found
    every = eigendecompose(np.asarray(matrix))
    return every, Spectrum(every.values[:top], every.vectors[:, :top], every.noise_floor)
