"""Directions that nobody named: groups of modes rotated to sparse or independent ones.

For each direction it is asked which known family explains the most of it. What no family explains
is listed as such, with the inputs on which it is largest: a feature to be looked at.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mlx_entk._files import Arrays
from mlx_entk._linalg import Float64Array
from mlx_entk.analysis import SHUFFLES
from mlx_entk.features import Method, disentangle, family_shares
from mlx_entk.features.rotation import random_rotation
from mlx_entk.spectrum import Modes, Spectrum
from mlx_entk.studies.results import MeanOfRandom

# The share of a direction from which a family explains it: more than everything else together.
EXPLAINED = 0.5
# Inputs that are named of each direction.
_INPUTS = 5


@dataclass(frozen=True)
class KernelDirection:
    """A direction within a group of modes.

    Attributes
    ----------
    kurtosis
        As in ``mlx_entk.features.Directions``.
    family, share
        The family whose span holds the most of the direction, and how much, from 0 to 1; empty
        and 0 without families.
    shuffled
        The share that the best family holds if features are shuffled over the inputs, the mean of
        ``mlx_entk.analysis.SHUFFLES`` shuffles; None without controls.
    inputs
        Those on which the direction is largest, from 0, the largest first.
    """

    kurtosis: float
    family: str
    share: float
    shuffled: float | None
    inputs: list[int]

    @property
    def explained(self) -> bool:
        """Whether a known family explains it."""
        return self.share >= EXPLAINED


@dataclass(frozen=True)
class DisentangledGroup:
    """A group of modes of the whole kernel, rotated.

    Attributes
    ----------
    modes
        The group; modes below the noise floor are left out.
    method
        As for ``mlx_entk.features.disentangle``.
    converged
        Whether the method ended because it was done.
    directions
        The sparsest first; the same as the columns of the array ``directions/FIRST-LAST``.
    by_modes
        How many of the modes themselves a known family explains.
    by_random_rotations
        The same of random rotations of the modes; None without controls.
    before
        How many directions a known family explains of the same modes before training, rotated in
        the same way; None if the model before training is not known.
    """

    modes: Modes
    method: Method
    converged: bool
    directions: list[KernelDirection]
    by_modes: int
    by_random_rotations: MeanOfRandom | None
    before: int | None

    @property
    def explained(self) -> int:
        """How many directions a known family explains."""
        return sum(direction.explained for direction in self.directions)


def disentangle_groups(
    spectrum: Spectrum,
    groups: Sequence[Modes],
    bases: Mapping[str, Float64Array],
    method: Method,
    inputs: int,
    *,
    controls: bool,
    before: Spectrum | None,
) -> tuple[list[DisentangledGroup], Arrays]:
    """Rotate groups of modes, and say what explains each direction.

    Parameters
    ----------
    spectrum
        Of the whole kernel, its modes over N inputs, or C·N channel-major.
    groups
        Those to rotate; one that is all below the noise floor is left out.
    bases
        Orthonormal bases of the known families.
    method
        As for ``mlx_entk.features.disentangle``.
    inputs
        N.
    controls
        Whether to compare with shuffled features and random rotations.
    before
        The spectrum before training, if that is known.

    Returns
    -------
    groups, arrays
        A record for each group; and the directions, ``directions/FIRST-LAST``, float32.
    """
    found: list[DisentangledGroup] = []
    arrays: Arrays = {}
    for modes in groups:
        held = _held(spectrum, modes)
        if held is None:
            continue
        rotated = disentangle(held, method)
        vectors = rotated.vectors
        shares = _shares(vectors, bases)
        shuffled = _of_shuffled(vectors, bases) if controls and bases else None
        peaks = np.argsort(-np.abs(vectors), axis=0, kind="stable")[:_INPUTS] % inputs
        names = list(bases)
        found.append(
            DisentangledGroup(
                modes=modes,
                method=method,
                converged=rotated.converged,
                directions=[
                    KernelDirection(
                        kurtosis=float(rotated.kurtosis[number]),
                        family=names[int(of_families.argmax())] if names else "",
                        share=float(of_families.max(initial=0)),
                        shuffled=None if shuffled is None else float(shuffled[number]),
                        inputs=list(dict.fromkeys(peaks[:, number].tolist())),
                    )
                    for number, of_families in enumerate(shares)
                ],
                by_modes=_explained(held, bases),
                by_random_rotations=_by_random_rotations(held, bases) if controls else None,
                before=None if before is None else _before(before, modes, bases, method),
            )
        )
        arrays[f"directions/{modes[0]}-{modes[1]}"] = vectors.astype(np.float32)
    return found, arrays


def _held(spectrum: Spectrum, modes: Modes) -> Float64Array | None:
    """The modes of a group that are above the noise floor; None if none is."""
    last = min(modes[1], spectrum.rank - 1)
    return None if last < modes[0] else spectrum.modes(modes[0], last)


def _shares(vectors: Float64Array, bases: Mapping[str, Float64Array]) -> Float64Array:
    """How much of each direction lies in each family, shape (d, families)."""
    return family_shares(vectors, bases)[0]


def _explained(vectors: Float64Array, bases: Mapping[str, Float64Array]) -> int:
    return int((_shares(vectors, bases).max(axis=1, initial=0) >= EXPLAINED).sum())


def _of_shuffled(vectors: Float64Array, bases: Mapping[str, Float64Array]) -> Float64Array:
    """The mean share of each direction in the best family of shuffled features."""
    generator = np.random.default_rng(0)
    best = []
    for _ in range(SHUFFLES):
        order = generator.permutation(len(vectors))
        best.append(_shares(vectors[order], bases).max(axis=1))
    return np.asarray(np.mean(best, axis=0))


def _by_random_rotations(held: Float64Array, bases: Mapping[str, Float64Array]) -> MeanOfRandom:
    return MeanOfRandom.of(
        _explained(held @ random_rotation(held.shape[1], seed), bases) for seed in range(SHUFFLES)
    )


def _before(
    spectrum: Spectrum, modes: Modes, bases: Mapping[str, Float64Array], method: Method
) -> int:
    held = _held(spectrum, modes)
    return 0 if held is None else _explained(disentangle(held, method).vectors, bases)
