"""Pages to browse modes, made of spectra, features and controls: what all studies share."""

from collections.abc import Mapping, Sequence

import numpy as np

from mlx_entk._linalg import ArrayLike, Float64Array, FloatArray
from mlx_entk.analysis import WHOLE
from mlx_entk.controls import Controls
from mlx_entk.features import family_shares
from mlx_entk.report import FamilyView, KernelView, ModeView
from mlx_entk.spectrum import Modes, noise_floor

# What the whole kernel is called at the beginning of a heading.
WHOLE_NAME = "Whole kernel"


def families_of(
    dimensions: Mapping[str, int], N: int, controls: Controls | None = None
) -> list[FamilyView]:
    """Families of features, with the share of a random mode and that of activations alone.

    Parameters
    ----------
    dimensions
        Of the centred families, by name.
    N
        Values of a mode. A random mode that is orthogonal to the constants has the share
        dimension/(N − 1) in a family.
    controls
        What activations and outputs hold; of them, groups of one mode count.
    """
    families = []
    for name, dimension in dimensions.items():
        best = None if controls is None else controls.strongest(name, 1)
        families.append(
            FamilyView(
                name,
                dimension,
                min(1.0, dimension / max(1, N - 1)),
                None if best is None else best.overlap,
                "" if best is None else f"{best.control}, {best.scaling}, mode {best.modes[0]}",
            )
        )
    return families


def kernel_view(
    kernel: str,
    values: ArrayLike,
    vectors: ArrayLike,
    *,
    floor: float | None = None,
    trace: float | None = None,
    groups: Sequence[Modes] = (),
    families: Sequence[FamilyView] = (),
    shares: ArrayLike | None = None,
    bases: Mapping[str, ArrayLike] | None = None,
    parts: Mapping[str, ArrayLike] | None = None,
) -> KernelView:
    """The modes of a kernel of a study.

    Parameters
    ----------
    kernel
        Its name in results.
    values, vectors
        Eigenvalues, and eigenvectors in columns: shapes (k or more,) and (N, k).
    floor
        The noise floor; by default that of a kernel of this size in float32.
    trace
        Of the kernel, if it is known.
    groups
        Those that end at a cliff.
    families
        What the modes are compared with.
    shares
        Of the modes in the families, shape (k, families).
    bases
        Instead of ``shares``: orthonormal bases of the families, by name.
    parts
        The share of each part of the kernel in its modes, shape (k,) each, by name.
    """
    eigenvalues = np.asarray(values, dtype=np.float64)
    columns: FloatArray = np.asarray(vectors)
    k = columns.shape[1]
    if bases is not None:
        shares, _ = family_shares(columns, bases)
    held: Float64Array = np.zeros((k, 0)) if shares is None else np.asarray(shares)
    if floor is None:  # no entry of a kernel is larger than its largest eigenvalue
        scale, epsilon = float(eigenvalues.max(initial=0)), float(np.finfo(np.float32).eps)
        floor = noise_floor(len(columns), scale, epsilon)
    rank = int((eigenvalues > floor).sum())
    modes = [
        ModeView(
            number,
            float(eigenvalues[number]),
            columns[:, number],
            of_trace=float(eigenvalues[number]) / trace if trace else None,
            features=held[number].tolist(),
            parts=[float(np.asarray(part)[number]) for part in (parts or {}).values()]
            if number < rank
            else [],
        )
        for number in range(k)
    ]
    return KernelView(
        WHOLE_NAME if kernel == WHOLE else kernel, modes, groups, rank, families, list(parts or {})
    )
