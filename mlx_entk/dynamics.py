"""Kernels over training: their spectra, overlaps and distances, and when these change."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

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
from mlx_entk.analysis import Families
from mlx_entk.errors import InputError
from mlx_entk.progress import Progress, silent
from mlx_entk.spectrum import Modes, eigendecompose, require_modes

# A series rises if it does so by this share of its scale, and by a ramp that explains this share of
# its variance: the best ramp through a flat series that is noisy explains some of it too.
MIN_RISE = 0.2
MIN_EXPLAINED = 0.5

ONSET_RULE = (
    "the series is approximated by least squares with a ramp (level, straight rise, level) whose "
    "corners are at checkpoints; the onset is the first corner, the completion the second; it "
    f"rises if the ramp does by {MIN_RISE:.0%} of the scale or more, and explains "
    f"{MIN_EXPLAINED:.0%} of the variance"
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
    a, b = _two(kernel, other)
    if not (a.any() and b.any()):
        return float(a.any() or b.any())
    return max(0.0, 1 - _cosine(a, b))


def centred_alignment(kernel: ArrayLike, other: ArrayLike) -> float:
    """⟨K_c, K′_c⟩ / (‖K_c‖ ‖K′_c‖) of two kernels with centred features, from 0 to 1.

    K_c = H K H with H = 1 − 11ᵀ/N (Cortes, Mohri and Rostamizadeh, 2012; CKA of Kornblith et al.,
    2019). With other = Y Yᵀ it is the alignment with targets Y, shape (N, C), that grows while
    networks learn features (Baratin et al., 2021; Atanasov, Bordelon and Pehlevan, 2021). A kernel
    that is constant, or zero, has the alignment 0 with any.

    Raises
    ------
    InputError
        For kernels that are not square or of different shapes, and for NaN or infinite entries.
    """
    a, b = _two(kernel, other)
    if a.ndim != 2 or a.shape[0] != a.shape[1]:
        raise InputError(f"kernels have shape {a.shape}: pass square ones, shape (N, N)")
    a, b = _centred(a), _centred(b)
    return max(0.0, _cosine(a, b)) if a.any() and b.any() else 0.0


def _two(kernel: ArrayLike, other: ArrayLike) -> tuple[Float64Array, Float64Array]:
    """Two finite kernels of the same shape, their largest entry 1 unless they are zero."""
    a, b = (
        np.asarray(as_floats(k, name), dtype=np.float64)
        for k, name in ((kernel, "kernel"), (other, "other"))
    )
    if a.shape != b.shape or a.size == 0:
        raise InputError(f"kernels have shapes {a.shape} and {b.shape}: pass two of the same shape")
    require_finite(a, "kernel", "rows")
    require_finite(b, "other", "rows")
    scales = [float(np.abs(k).max()) or 1.0 for k in (a, b)]
    return a / scales[0], b / scales[1]


def _centred(kernel: Float64Array) -> Float64Array:
    """H K H; entries that are rounding of the largest become zero."""
    rows = kernel - kernel.mean(axis=0)
    centred: Float64Array = rows - rows.mean(axis=1, keepdims=True)
    rounding = len(kernel) * float(np.finfo(np.float64).eps) * np.abs(kernel).max()
    return np.where(np.abs(centred) > rounding, centred, 0.0)


def _cosine(a: Float64Array, b: Float64Array) -> float:
    a, b = a.ravel(), b.ravel()
    return float(a @ b) / float(np.linalg.norm(a) * np.linalg.norm(b))


def target_columns(targets: ArrayLike) -> Float64Array:
    """Targets Y as they are, shape (N, C), or of N classes, shape (N,), as unit vectors.

    Raises
    ------
    InputError
        For another shape, for NaN or infinite targets, and for classes that are not whole numbers
        from 0 on.
    """
    values = as_floats(targets, "targets")
    if values.ndim == 1:
        if not (np.isfinite(values).all() and (values == np.round(values)).all()) or (
            values.size and values.min() < 0
        ):
            raise InputError("targets of shape (N,) must be classes: whole numbers from 0 on")
        values = np.eye(int(values.max(initial=0)) + 1)[values.astype(np.int64)]
    return as_columns(values, "targets")


def target_kernel(targets: ArrayLike) -> Float64Array:
    """Y Yᵀ of targets Y; as for ``target_columns``."""
    columns = target_columns(targets)
    return columns @ columns.T


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
    velocities
        ``kernel_distance`` from the checkpoint before, per epoch, by kernel, shape (E,); the kernel
        velocity of Fort et al. (2020). 0 at the first.
    with_targets
        ``centred_alignment`` with the targets, by kernel, shape (E,); None without targets.
    with_final
        ``centred_alignment`` with the kernel of the last checkpoint, by kernel, shape (E,).
    measures
        What ``measure`` gave of each checkpoint.
    """

    epochs: Float64Array
    values: dict[str, Float64Array]
    overlaps: dict[tuple[str, Modes, str], Float64Array]
    distances: dict[str, Float64Array]
    velocities: dict[str, Float64Array]
    with_targets: dict[str, Float64Array] | None
    with_final: dict[str, Float64Array]
    measures: list[float]


def track(
    kernels_at: Callable[[int], dict[str, FloatArray]],
    epochs: Sequence[int],
    groups: dict[str, list[Modes]],
    bases: dict[str, Float64Array],
    top: int,
    progress: Progress = silent,
    *,
    targets: ArrayLike | None = None,
    measure: Callable[[dict[str, FloatArray]], float] | None = None,
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
    targets
        As for ``target_kernel``, to align the kernels with.
    measure
        A number to take of the kernels of every epoch, such as the accuracy of kernel regression.

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
    wanted = None if targets is None else target_kernel(targets)
    aligned: dict[str, list[float]] = {kernel: [] for kernel in groups}
    with_final: dict[str, list[float]] = {kernel: [] for kernel in groups}
    velocities: dict[str, list[float]] = {kernel: [] for kernel in groups}
    measures: list[float] = []
    if any(later <= earlier for earlier, later in pairwise(epochs)):
        raise InputError("epochs do not increase: sort them, and pass each once")
    final = kernels_at(epochs[-1])
    for kernel in groups:
        if kernel not in final:
            raise InputError(f"epoch {epochs[-1]} has no kernel {kernel}")
    first: dict[str, FloatArray] = {}
    last: dict[str, FloatArray] = {}
    for done, epoch in enumerate(epochs):
        progress("kernels over training", done, len(epochs), f"epoch {epoch}")
        kernels = final if done == len(epochs) - 1 else kernels_at(epoch)
        first = first or kernels
        for kernel, modes_of in groups.items():
            if kernel not in kernels:
                raise InputError(f"epoch {epoch} has no kernel {kernel}")
            spectrum = eigendecompose(kernels[kernel], top)
            for modes in modes_of:
                require_modes(modes, spectrum.values.size, f"kernel {kernel}")
            values[kernel].append(spectrum.values)
            distances[kernel].append(kernel_distance(kernels[kernel], first[kernel]))
            since = kernel_distance(kernels[kernel], last[kernel]) if last else 0.0
            passed = epoch - epochs[done - 1] if done else 1
            velocities[kernel].append(since / passed)
            with_final[kernel].append(centred_alignment(kernels[kernel], final[kernel]))
            if wanted is not None:
                aligned[kernel].append(centred_alignment(kernels[kernel], wanted))
            for (modes, family), overlap in families.overlaps(spectrum, modes_of).items():
                overlaps[kernel, modes, family].append(overlap)
        if measure is not None:
            measures.append(measure(kernels))
        last = kernels
    progress("kernels over training", len(epochs), len(epochs))
    return Trajectory(
        np.asarray(epochs, dtype=np.float64),
        {kernel: np.stack(rows) for kernel, rows in values.items()},
        {key: np.asarray(series) for key, series in overlaps.items()},
        _as_arrays(distances),
        _as_arrays(velocities),
        None if wanted is None else _as_arrays(aligned),
        _as_arrays(with_final),
        measures,
    )


def _as_arrays(series: dict[str, list[float]]) -> dict[str, Float64Array]:
    return {kernel: np.asarray(values) for kernel, values in series.items()}


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
    rises
        Whether the series rises.
    """

    onset: float
    completion: float
    before: float
    after: float
    explained: float
    rises: bool


def transition(epochs: ArrayLike, series: ArrayLike, scale: float = 1.0) -> Transition:
    """Find the transition in a series, by ``ONSET_RULE``.

    Parameters
    ----------
    scale
        The largest value that the series can have: 1 for an accuracy, the dimension for an overlap.

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
    deviation = series - series.mean()
    gain, first, second, slope, mean = max(
        (_best_ramp(epochs, i, deviation) for i in range(epochs.size - 1)), key=lambda ramp: ramp[0]
    )
    before = series.mean() - slope * mean
    total = float(deviation @ deviation)
    explained = float(gain / total) if total > 0 else 0.0
    return Transition(
        onset=first,
        completion=second,
        before=float(before),
        after=float(before + slope),
        explained=explained,
        rises=bool(slope >= MIN_RISE * scale and explained >= MIN_EXPLAINED),
    )


def _best_ramp(
    epochs: Float64Array, i: int, deviation: Float64Array
) -> tuple[float, float, float, float, float]:
    """Of the ramps that begin at one checkpoint, the one that explains the most of a series.

    Returns
    -------
    gain, first, second, slope, mean
        Sum of squares that it explains, its corners, how far it rises, and its mean as a ramp from
        0 to 1.
    """
    ends = epochs[i + 1 :, None]
    ramps = np.clip((epochs - epochs[i]) / (ends - epochs[i]), 0, 1)
    means = ramps.mean(axis=1)
    centered = ramps - means[:, None]
    along, norms = centered @ deviation, (centered**2).sum(axis=1)
    best = int(np.argmax(along**2 / norms))
    slope = float(along[best] / norms[best])
    gain = float(slope * along[best])
    return gain, float(epochs[i]), float(ends[best, 0]), slope, float(means[best])


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
