"""Kernels over training: spectra, overlaps, distances, and when they change."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mlx_entk._linalg import (
    ArrayLike,
    Float64Array,
    FloatArray,
    as_columns,
    as_floats,
    orthonormal_basis,
    require_finite,
    whole_number,
)
from mlx_entk.errors import InputError
from mlx_entk.features import center
from mlx_entk.features.bank import FeatureBank
from mlx_entk.kernel import entk
from mlx_entk.kernel.reduction import Reduction, require_kernel
from mlx_entk.progress import Progress, silent
from mlx_entk.spectrum import Spectrum, effective_rank, eigendecompose
from mlx_entk.tracing.functions import Model
from mlx_entk.tracing.inputs import as_inputs, count

Modes = tuple[int, int]

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
        :func:`kernel_distance` from the first checkpoint, by kernel, shape (E,).
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
        _require_group(modes, top, f"the first {top}")
    families = _Families(bases)
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
                _require_group(modes, spectrum.values.size, f"the {spectrum.values.size}")
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


class _Families:
    """Bases side by side, so that one product a spectrum serves every group and family."""

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


def _require_group(modes: Modes, size: int, of: str) -> None:
    first, last = modes
    if not 0 <= first <= last < size:
        raise InputError(f"modes {first}–{last} are no group of {of} modes")


class KernelTracker:
    """A callback for a training loop: every so many steps, the kernels of a fixed probe set.

    ::

        tracker = KernelTracker(model, probe, every=100, features=bank, log=Path("kernels.jsonl"))
        for step in range(steps):
            tracker(step)
            train_step()

    It draws nothing at random and leaves the model as it was, so training goes on as without it.

    Parameters
    ----------
    model
        The module in training.
    probe
        Inputs of the kernels, as x of :func:`mlx_entk.entk`, the same throughout.
    every
        Steps between rows; step 0 has one.
    reduction
        As for :func:`mlx_entk.entk`, other than ``"full"`` and a pair of different classes.
    by_layer
        True follows the kernel of every parameter too.
    features
        Families of features over the probe set, shape (N, k) each.
    groups
        Groups of modes (first, last) to align with the families; by default the leading ``top``
        as one.
    top
        Eigenvalues to log; by default 20, or all of a smaller probe set.
    log
        A file that every row is appended to as a line of JSON.
    memory_limit
        Bytes, as for :func:`mlx_entk.entk`.
    max_share
        The largest share of the time since the first call that may go into rows; a row that is
        due while they have taken more is left out, and counted in ``skipped``.

    Attributes
    ----------
    rows
        What was logged, one dictionary a row: ``step``, ``seconds``, and by kernel ``values``,
        ``effective_rank``, ``distance_from_last``, ``distance_from_first`` (see
        :func:`kernel_distance`) and ``alignment``: ``modes``, ``family``, ``overlap`` and
        ``dimension``.
    seconds
        Time spent on all rows.
    skipped
        Rows left out.

    Raises
    ------
    InputError
        For settings that do not fit together; the message names them.

    Notes
    -----
    A row costs one kernel computation on the probe set, one forward and up to C backward passes
    and the contractions of :func:`mlx_entk.entk`, and one eigendecomposition of N × N a kernel,
    about 9·N³ FLOPs; it holds two kernels of N² float32 a name between rows.
    """

    def __init__(
        self,
        model: Model,
        probe: Any,
        *,
        every: int,
        reduction: Reduction = "trace",
        by_layer: bool = True,
        features: FeatureBank | None = None,
        groups: Sequence[Modes] | None = None,
        top: int | None = None,
        log: Path | None = None,
        memory_limit: int | None = None,
        max_share: float | None = None,
    ):
        if whole_number(every, "every") < 1:
            raise InputError(f"every is {every}: rows are at least one step apart")
        if reduction == "full":
            raise InputError("reduction is full: follow trace, sum-of-logits or one class (c, c)")
        require_kernel(reduction)
        N = count(as_inputs(probe, "probe")[0])
        top = min(20, N) if top is None else whole_number(top, "top")
        if not 1 <= top <= N:
            raise InputError(f"top is {top}: the probe set has {N} modes")
        if max_share is not None and not 0 < max_share < 1:
            raise InputError(f"max_share is {max_share}: a share of the time lies between 0 and 1")
        bases: dict[str, Float64Array] = {}
        for name, values in (features or {}).items():
            columns = as_columns(values, f"features {name}")
            if columns.shape[0] != N:
                raise InputError(
                    f"features {name} are over {columns.shape[0]} inputs, the probe set has {N}"
                )
            bases[name] = orthonormal_basis(center(columns))
        self.rows: list[dict[str, Any]] = []
        self.seconds = 0.0
        self.skipped = 0
        self._model, self._probe, self._every, self._top = model, probe, every, top
        self._reduction, self._by_layer, self._memory_limit = reduction, by_layer, memory_limit
        self._groups = [(0, top - 1)] if groups is None else list(groups)
        for modes in self._groups:
            _require_group(modes, N, str(N))
        self._families = _Families(bases)
        self._dimensions = {name: basis.shape[1] for name, basis in bases.items()}
        self._log = log
        self._max_share = max_share
        self._first: dict[str, FloatArray] = {}
        self._last: dict[str, FloatArray] = {}
        self._began: float | None = None

    def __call__(self, step: int) -> dict[str, Any] | None:
        """Log a row if one is due at this step; returns it."""
        start = time.perf_counter()
        if self._began is None:
            self._began = start
        if step % self._every:
            return None
        if self._max_share is not None and self.seconds > self._max_share * (start - self._began):
            self.skipped += 1
            return None
        kernels = self._kernels()
        self._first = self._first or kernels
        self._last = self._last or kernels
        found = {name: self._describe(name, kernel) for name, kernel in kernels.items()}
        self._last = kernels
        seconds = time.perf_counter() - start
        self.seconds += seconds
        row = {"step": step, "seconds": round(seconds, 4), "kernels": found}
        self.rows.append(row)
        if self._log is not None:
            with self._log.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row, allow_nan=False, ensure_ascii=False) + "\n")
        return row

    def _kernels(self) -> dict[str, FloatArray]:
        by_layer = entk(
            self._model,
            self._probe,
            reduction=self._reduction,
            by_layer=True,
            memory_limit=self._memory_limit,
        )
        whole: FloatArray = np.sum(list(by_layer.values()), axis=0)
        return {"full": whole, **(by_layer if self._by_layer else {})}

    def _describe(self, name: str, kernel: FloatArray) -> dict[str, Any]:
        spectrum = eigendecompose(kernel)
        overlaps = self._families.overlaps(spectrum, self._groups)
        return {
            "values": spectrum.values[: self._top].tolist(),
            "effective_rank": effective_rank(spectrum.values),
            "distance_from_last": kernel_distance(kernel, self._last[name]),
            "distance_from_first": kernel_distance(kernel, self._first[name]),
            "alignment": [
                {
                    "modes": list(modes),
                    "family": family,
                    "overlap": overlap,
                    "dimension": min(self._dimensions[family], modes[1] - modes[0] + 1),
                }
                for (modes, family), overlap in overlaps.items()
            ],
        }


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
    """:func:`_series` of one value an epoch."""
    times, values = _series(epochs, series)
    if values.ndim != 1:
        raise InputError(f"series has shape {values.shape}: pass one value for each epoch")
    return times, values


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


def transition(epochs: ArrayLike, series: ArrayLike) -> Transition:
    """Find the one transition in a series, by :data:`ONSET_RULE`.

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
    """Where a series has done half of its rise, by :data:`HALF_RISE_RULE`, interpolated.

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
