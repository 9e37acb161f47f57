"""Kernels over training: spectra, overlaps, and when they change."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from mlx_entk.errors import InputError
from mlx_entk.linalg import Float64Array, FloatArray
from mlx_entk.progress import Progress, silent
from mlx_entk.spectrum import eigendecompose

Modes = tuple[int, int]

ONSET_RULE = (
    "least-squares fit of a ramp (level, straight rise, level) with its corners at checkpoints; "
    "the onset is the first corner, the completion the second"
)


@dataclass(frozen=True)
class Trajectory:
    """What a set of kernels did over training.

    Attributes
    ----------
    epochs
        The checkpoints, shape (E,).
    values
        Leading eigenvalues by kernel, shape (E, k).
    overlaps
        ‖QᵀF‖_F² by (kernel, modes, family), shape (E,).
    """

    epochs: Float64Array
    values: dict[str, Float64Array]
    overlaps: dict[tuple[str, Modes, str], Float64Array]


def track(
    kernels_at: Callable[[int], dict[str, FloatArray]],
    epochs: Sequence[int],
    groups: dict[str, list[Modes]],
    bases: dict[str, Float64Array],
    top: int,
    progress: Progress = silent,
) -> Trajectory:
    """Decompose the kernels of every checkpoint and overlap fixed mode groups with families.

    Parameters
    ----------
    kernels_at
        The kernels of an epoch by name, shape (N, N) each.
    groups
        Groups of modes by kernel, the same at every epoch.
    bases
        Orthonormal bases of centred feature families.
    top
        How many eigenvalues to keep; at least the last mode of any group plus one.
    """
    if any(last >= top for modes in groups.values() for _, last in modes):
        raise InputError(f"top is {top}: the groups reach beyond these modes")
    values: dict[str, list[Float64Array]] = {kernel: [] for kernel in groups}
    overlaps: dict[tuple[str, Modes, str], list[float]] = {
        (kernel, modes, family): []
        for kernel in groups
        for modes in groups[kernel]
        for family in bases
    }
    # One product a kernel serves every group and family.
    every_basis = np.concatenate(list(bases.values()), axis=1)
    ends = np.cumsum([basis.shape[1] for basis in bases.values()]).tolist()
    columns = dict(zip(bases, zip([0, *ends], ends, strict=False), strict=True))
    for done, epoch in enumerate(epochs):
        progress("kernels over training", done, len(epochs), f"epoch {epoch}")
        kernels = kernels_at(epoch)
        for kernel, modes_of in groups.items():
            spectrum = eigendecompose(kernels[kernel], top)
            values[kernel].append(spectrum.values)
            squared_cosines = (spectrum.vectors.T @ every_basis) ** 2
            for modes in modes_of:
                for family, (start, end) in columns.items():
                    part = squared_cosines[modes[0] : modes[1] + 1, start:end]
                    overlaps[kernel, modes, family].append(float(part.sum()))
    progress("kernels over training", len(epochs), len(epochs))
    return Trajectory(
        np.asarray(epochs, dtype=np.float64),
        {kernel: np.stack(rows) for kernel, rows in values.items()},
        {key: np.asarray(series) for key, series in overlaps.items()},
    )


def derivative(epochs: Float64Array, series: Float64Array) -> Float64Array:
    """Change per epoch along the first axis, by central differences."""
    return np.gradient(series, epochs, axis=0)


@dataclass(frozen=True)
class Transition:
    """A rise from one level to another, by :data:`ONSET_RULE`.

    Attributes
    ----------
    onset, completion
        Where the rise begins and ends, in epochs.
    before, after
        The two levels.
    explained
        The share of the series' variance that the ramp explains (R²), from 0 to 1.
    """

    onset: float
    completion: float
    before: float
    after: float
    explained: float


def transition(epochs: Float64Array, series: Float64Array) -> Transition:
    """Find the one transition in a series, by :data:`ONSET_RULE`.

    Raises
    ------
    InputError
        For fewer than three epochs.
    """
    if epochs.size < 3:
        raise InputError(f"{epochs.size} checkpoints: a transition needs at least three")
    corners = [(i, j) for i in range(epochs.size - 1) for j in range(i + 1, epochs.size)]
    first, second = epochs[np.array(corners)].T[:, :, None]
    ramps = np.clip((epochs - first) / (second - first), 0, 1)
    centered = ramps - ramps.mean(axis=1, keepdims=True)
    deviation = series - series.mean()
    along = centered @ deviation
    norms = (centered**2).sum(axis=1)
    best = int(np.argmax(along**2 / norms))
    slope = along[best] / norms[best]
    before = series.mean() - slope * ramps[best].mean()
    total = float(deviation @ deviation)
    return Transition(
        onset=float(first[best, 0]),
        completion=float(second[best, 0]),
        before=float(before),
        after=float(before + slope),
        explained=float(slope * along[best] / total) if total > 0 else 0.0,
    )
