"""Kernels over training: spectra, overlaps, distances, and when they change."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mlx_entk._linalg import (
    ArrayLike,
    Float64Array,
    FloatArray,
    as_columns,
    as_floats,
    require_finite,
    whole_number,
)
from mlx_entk.errors import InputError
from mlx_entk.progress import Progress, silent
from mlx_entk.spectrum import Modes, Spectrum, eigendecompose

ONSET_RULE = (
    "least-squares fit of a ramp (level, straight rise, level) with its corners at checkpoints; "
    "the onset is the first corner, the completion the second"
)


def kernel_distance(kernel: ArrayLike, other: ArrayLike) -> float:
    """1 − ⟨K, K′⟩ / (‖K‖ ‖K′‖) in Frobenius' inner product: 0 for the same shape, 1 at most.

    The kernel distance of Fort et al., "Deep learning versus kernel learning" (2020). Blind to
    scale. A kernel of zeros, which has no shape, is at 1 from every other and at 0 from zeros.

    Raises
    ------
    InputError
        For kernels of different shapes, and NaN or infinite entries.
    """
    a, b = (
        np.asarray(as_floats(k, name), dtype=np.float64)
        for k, name in ((kernel, "kernel"), (other, "other"))
    )
    if a.shape != b.shape or a.size == 0:
        raise InputError(f"kernels have shapes {a.shape} and {b.shape}: pass two of one shape")
    require_finite(a, "kernel", "rows")
    require_finite(b, "other", "rows")
    largest = [float(np.abs(k).max()) for k in (a, b)]
    if min(largest) == 0:
        return float(max(largest) > 0)
    a, b = a.ravel() / largest[0], b.ravel() / largest[1]
    return max(0.0, 1 - float(a @ b) / float(np.linalg.norm(a) * np.linalg.norm(b)))


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

    Raises
    ------
    InputError
        For no epochs, groups beyond ``top`` or the kernels' modes, kernels that are missing or
        of different sizes, and bases over other inputs.
    """
    if len(epochs) == 0:
        raise InputError("epochs are none: pass at least one checkpoint")
    top = whole_number(top, "top")
    for modes in (modes for of_kernel in groups.values() for modes in of_kernel):
        require_group(modes, top, f"the first {top}")
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
                require_group(modes, spectrum.values.size, f"the {spectrum.values.size}")
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


class Families:
    """Bases next to one another, so that one product a spectrum serves every group and family."""

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
        """‖QᵀF‖_F² by (modes, family); 0 of a kernel of zeros, in which no mode is a mode."""
        if self._together is None:
            return {}
        N = spectrum.vectors.shape[0]
        if self._together.shape[0] != N:
            raise InputError(
                f"bases are over {self._together.shape[0]} inputs, the kernel over {N}"
            )
        squared_cosines = (spectrum.vectors.T @ self._together) ** 2
        if spectrum.values[0] == 0:
            squared_cosines[:] = 0
        return {
            (modes, family): float(squared_cosines[modes[0] : modes[1] + 1, start:end].sum())
            for modes in groups
            for family, (start, end) in self._columns.items()
        }


def require_group(modes: Modes, size: int, of: str) -> None:
    """Raise InputError for a group that does not lie within so many modes."""
    first, last = modes
    if not 0 <= first <= last < size:
        raise InputError(f"modes {first}–{last} are no group of {of} modes")


def derivative(epochs: ArrayLike, series: ArrayLike) -> Float64Array:
    """Change per epoch along the first axis, by central differences.

    Raises
    ------
    InputError
        For fewer than two epochs, epochs that do not rise, and values that are not finite.
    """
    epochs, series = _series(epochs, series)
    if epochs.size < 2:
        raise InputError(f"{epochs.size} checkpoints: a change needs at least two")
    return np.gradient(series, epochs, axis=0)


def _series(epochs: ArrayLike, series: ArrayLike) -> tuple[Float64Array, Float64Array]:
    """Epochs that rise, shape (E,), and finite values by epoch, shape (E, …)."""
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
        raise InputError(f"epochs do not rise after number {stops[0]}: sort them, each once")
    return times, values


def _line(epochs: ArrayLike, series: ArrayLike) -> tuple[Float64Array, Float64Array]:
    """``_series`` of one value an epoch."""
    times, values = _series(epochs, series)
    if values.ndim != 1:
        raise InputError(f"series has shape {values.shape}: pass one value for each epoch")
    return times, values


@dataclass(frozen=True)
class Transition:
    """A rise from one level to another, by ``ONSET_RULE``.

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

    @property
    def rises(self) -> bool:
        """Whether the second level is above the first."""
        return self.after > self.before


def transition(epochs: ArrayLike, series: ArrayLike) -> Transition:
    """Find the one transition in a series, by ``ONSET_RULE``.

    Raises
    ------
    InputError
        For fewer than three epochs, epochs that do not rise, and values that are not finite.
    """
    epochs, series = _line(epochs, series)
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


HALF_RISE_RULE = "the first epoch at which a series is halfway from its first value to its largest"


def half_rise(epochs: ArrayLike, series: ArrayLike) -> float:
    """Where a series has done half of its rise, by ``HALF_RISE_RULE``, interpolated.

    The first epoch for a series that never rises.

    Raises
    ------
    InputError
        For no epochs, epochs that do not rise, and values that are not finite.
    """
    epochs, series = _line(epochs, series)
    level = (series[0] + series.max()) / 2
    after = int(np.argmax(series >= level))
    if after == 0:
        return float(epochs[0])
    before = after - 1
    part = (level - series[before]) / (series[after] - series[before])
    return float(epochs[before] + part * (epochs[after] - epochs[before]))
