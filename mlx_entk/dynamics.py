"""Kernels over training: their spectra, overlaps and distances, and when these change."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from mlx_entk._linalg import (
    ArrayLike,
    Float64Array,
    FloatArray,
    as_floats,
    require_finite,
    whole_number,
)
from mlx_entk.analysis import Families
from mlx_entk.errors import InputError
from mlx_entk.progress import Progress, silent
from mlx_entk.spectrum import Modes, eigendecompose, require_modes

ONSET_RULE = (
    "the series is approximated by least squares with a ramp (level, straight rise, level) whose "
    "corners are at checkpoints; the onset is the first corner, the completion the second"
)


def kernel_distance(kernel: ArrayLike, other: ArrayLike) -> float:
    """1 − ⟨K, K′⟩ / (‖K‖ ‖K′‖) in the Frobenius inner product, from 0 to 1.

    The kernel distance of Fort et al., "Deep learning versus kernel learning" (2020). It ignores
    scale: proportional kernels have the distance 0. A kernel of zeros has the distance 1 from any
    other kernel, and 0 from another kernel of zeros.

    Raises
    ------
    InputError
        For kernels of different shapes, and for NaN or infinite entries.
    """
    a, b = (
        np.asarray(as_floats(k, name), dtype=np.float64)
        for k, name in ((kernel, "kernel"), (other, "other"))
    )
    if a.shape != b.shape or a.size == 0:
        raise InputError(f"kernels have shapes {a.shape} and {b.shape}: pass two of the same shape")
    require_finite(a, "kernel", "rows")
    require_finite(b, "other", "rows")
    largest = [float(np.abs(k).max()) for k in (a, b)]
    if min(largest) == 0:
        return float(max(largest) > 0)
    a, b = a.ravel() / largest[0], b.ravel() / largest[1]
    return max(0.0, 1 - float(a @ b) / float(np.linalg.norm(a) * np.linalg.norm(b)))


@dataclass(frozen=True)
class Trajectory:
    """How a set of kernels changed over training.

    Attributes
    ----------
    epochs
        The checkpoints, shape (E,).
    values
        Leading eigenvalues by kernel, shape (E, k).
    overlaps
        ‖QᵀF‖_F² by (kernel, modes, family), shape (E,).
    distances
        ``kernel_distance`` from the first checkpoint, by kernel, shape (E,).
    """

    epochs: Float64Array
    values: dict[str, Float64Array]
    overlaps: dict[tuple[str, Modes, str], Float64Array]
    distances: dict[str, Float64Array]


def track(
    kernels_at: Callable[[int], dict[str, FloatArray]],
    epochs: Sequence[int],
    groups: dict[str, list[Modes]],
    bases: dict[str, Float64Array],
    top: int,
    progress: Progress = silent,
) -> Trajectory:
    """Decompose the kernels of every checkpoint, and overlap fixed groups of modes with families.

    Parameters
    ----------
    kernels_at
        Returns the kernels of an epoch by name, shape (N, N) each.
    epochs
        The checkpoints.
    groups
        Groups of modes by kernel, the same at every epoch.
    bases
        Orthonormal bases of centred feature families.
    top
        How many eigenvalues to keep; at least the last mode of any group plus one.
    progress
        Called for every epoch.

    Raises
    ------
    InputError
        For no epochs, for groups beyond ``top`` or the kernels' modes, for kernels that are
        missing or of different sizes, and for bases over other inputs.
    """
    if len(epochs) == 0:
        raise InputError("there are no epochs: pass at least one checkpoint")
    top = whole_number(top, "top")
    for modes in (modes for of_kernel in groups.values() for modes in of_kernel):
        require_modes(modes, top, "a spectrum cut off at top")
    families = Families(bases)
    values: dict[str, list[Float64Array]] = {kernel: [] for kernel in groups}
    distances: dict[str, list[float]] = {kernel: [] for kernel in groups}
    overlaps: dict[tuple[str, Modes, str], list[float]] = {
        (kernel, modes, family): []
        for kernel in groups
        for modes in groups[kernel]
        for family in bases
    }
    first: dict[str, FloatArray] = {}
    for done, epoch in enumerate(epochs):
        progress("kernels over training", done, len(epochs), f"epoch {epoch}")
        kernels = kernels_at(epoch)
        first = first or kernels
        for kernel, modes_of in groups.items():
            if kernel not in kernels:
                raise InputError(f"epoch {epoch} has no kernel {kernel}")
            spectrum = eigendecompose(kernels[kernel], top)
            for modes in modes_of:
                require_modes(modes, spectrum.values.size, f"kernel {kernel}")
            values[kernel].append(spectrum.values)
            distances[kernel].append(kernel_distance(kernels[kernel], first[kernel]))
            for (modes, family), overlap in families.overlaps(spectrum, modes_of).items():
                overlaps[kernel, modes, family].append(overlap)
    progress("kernels over training", len(epochs), len(epochs))
    return Trajectory(
        np.asarray(epochs, dtype=np.float64),
        {kernel: np.stack(rows) for kernel, rows in values.items()},
        {key: np.asarray(series) for key, series in overlaps.items()},
        {kernel: np.asarray(series) for kernel, series in distances.items()},
    )


def derivative(epochs: ArrayLike, series: ArrayLike) -> Float64Array:
    """Change per epoch along the first axis, by central differences.

    Raises
    ------
    InputError
        For fewer than two epochs, for epochs out of order, and for values that are not finite.
    """
    epochs, series = _series(epochs, series)
    if epochs.size < 2:
        raise InputError(f"number of checkpoints is {epochs.size}: a change needs at least two")
    return np.gradient(series, epochs, axis=0)


def _series(epochs: ArrayLike, series: ArrayLike) -> tuple[Float64Array, Float64Array]:
    """Epochs in increasing order, shape (E,), and finite values for each, shape (E, …)."""
    times = np.asarray(as_floats(epochs, "epochs"), dtype=np.float64)
    values = np.asarray(as_floats(series, "series"), dtype=np.float64)
    if times.ndim != 1 or values.shape[:1] != times.shape or times.size == 0:
        raise InputError(
            f"epochs have shape {times.shape}, series {values.shape}: pass a value for each epoch"
        )
    require_finite(times, "epochs", "checkpoints")
    require_finite(values, "values", "checkpoints")
    stops = np.flatnonzero(np.diff(times) <= 0)
    if stops.size:
        raise InputError(
            f"epochs do not increase after number {stops[0]}: sort them, and pass each once"
        )
    return times, values


def _line(epochs: ArrayLike, series: ArrayLike) -> tuple[Float64Array, Float64Array]:
    """As ``_series``, with one value for each epoch."""
    times, values = _series(epochs, series)
    if values.ndim != 1:
        raise InputError(f"series has shape {values.shape}: pass one value for each epoch")
    return times, values


@dataclass(frozen=True)
class Transition:
    """A change from one level to another, by ``ONSET_RULE``.

    Attributes
    ----------
    onset, completion
        Where the change begins and ends, in epochs.
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

    @property
    def rises(self) -> bool:
        """Whether the second level is above the first."""
        return self.after > self.before


def transition(epochs: ArrayLike, series: ArrayLike) -> Transition:
    """Find the transition in a series, by ``ONSET_RULE``.

    Raises
    ------
    InputError
        For fewer than three epochs, for epochs out of order, and for values that are not finite.
    """
    epochs, series = _line(epochs, series)
    if epochs.size < 3:
        raise InputError(
            f"number of checkpoints is {epochs.size}: a transition needs at least three"
        )
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


HALF_RISE_RULE = "the first epoch at which a series is halfway from its first value to its largest"


def half_rise(epochs: ArrayLike, series: ArrayLike) -> float:
    """The epoch at which a series has made half of its rise, by ``HALF_RISE_RULE``.

    It is interpolated between checkpoints. For a series that never rises it is the first epoch.

    Raises
    ------
    InputError
        For no epochs, for epochs out of order, and for values that are not finite.
    """
    epochs, series = _line(epochs, series)
    level = (series[0] + series.max()) / 2
    after = int(np.argmax(series >= level))
    if after == 0:
        return float(epochs[0])
    before = after - 1
    part = (level - series[before]) / (series[after] - series[before])
    return float(epochs[before] + part * (epochs[after] - epochs[before]))
