"""A callback for training loops that follows the kernels on a probe set."""

import json
import math
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from mlx_entk._linalg import ArrayLike, Float64Array, FloatArray, as_floats, whole_number
from mlx_entk.analysis import WHOLE, bases_of, with_whole
from mlx_entk.cliffs import find_cliffs
from mlx_entk.dynamics import (
    centred_alignment,
    kernel_distance,
    target_columns,
    target_kernel,
)
from mlx_entk.errors import InputError, RowsLeftOutWarning
from mlx_entk.features import FeatureBank, align
from mlx_entk.kernel import layerwise_entk
from mlx_entk.kernel.reduction import Reduction, require_kernel
from mlx_entk.regression import AFTER_KERNEL_RIDGE, kernel_predictions, quality
from mlx_entk.spectrum import Modes, effective_rank, eigendecompose, require_modes
from mlx_entk.tracing.functions import Model
from mlx_entk.tracing.inputs import as_inputs, count

if TYPE_CHECKING:
    from mlx_entk._tracked import State


@dataclass(frozen=True)
class _AfterKernel:
    """Kernel regression of targets on some probe inputs from the others."""

    train: NDArray[np.int64]
    other: NDArray[np.int64]
    targets: Float64Array
    labels: NDArray[np.int64] | None

    @classmethod
    def of(cls, targets: ArrayLike | None, held_out: Sequence[int], N: int) -> Self:
        if targets is None:
            raise InputError("held_out needs targets: pass them")
        other = np.array([whole_number(i, "held-out input") for i in held_out], dtype=np.int64)
        if len(set(other.tolist())) < len(other) or not np.isin(other, np.arange(N)).all():
            raise InputError(f"held_out are not numbers of the {N} probe inputs, each once")
        if not 1 < len(other) < N:
            raise InputError(f"{len(other)} of {N} inputs are held out: pass 2 to {N - 1}")
        columns = target_columns(targets)
        labels = columns.argmax(axis=1) if as_floats(targets, "targets").ndim == 1 else None
        return cls(np.setdiff1d(np.arange(N), other), other, columns, labels)

    def quality(self, kernel: FloatArray) -> dict[str, float | None]:
        """R² on the inputs that are held out, and the accuracy if there are classes.

        R² is None if the targets that are held out do not vary.
        """
        predicted = kernel_predictions(
            kernel[np.ix_(self.train, self.train)],
            kernel[np.ix_(self.other, self.train)],
            self.targets[self.train],
            AFTER_KERNEL_RIDGE,
        )
        wanted = self.targets[self.other]
        r2 = quality(predicted, wanted, wanted).r2
        found: dict[str, float | None] = {"r2": r2 if np.isfinite(r2) else None}
        if self.labels is not None:
            found["accuracy"] = float((predicted.argmax(1) == self.labels[self.other]).mean())
        return found


class KernelTracker:
    """A callback for a training loop that logs the kernels on a fixed probe set every few steps.

    It draws no random numbers and leaves the model as it was, so it does not affect the training.

    Parameters
    ----------
    model
        The module in training.
    probe
        Inputs of the kernels, like x of ``mlx_entk.entk``; they stay the same throughout.
    every
        Steps from one row to the next; step 0 has a row.
    reduction
        As for ``mlx_entk.entk``, except ``"full"`` and a pair of different classes.
    by_layer
        Whether to follow the kernel of every parameter as well as the whole kernel.
    features
        Families of features over the probe set, shape (N, k) each.
    groups
        Groups of modes (first, last) to align with the families; by default the leading ``top``
        modes as a single group.
    top
        How many eigenvalues to log; by default 20, or all of a smaller probe set.
    targets
        Targets of the probe set, shape (N, C), or classes, shape (N,), to align the kernels with.
    held_out
        Numbers of probe inputs that kernel regression predicts from the others; needs targets.
    keep
        Whether to keep the kernels of every row, for ``alignment_with_last``: N × N float32 each.
    log
        A file to which every row is appended as a line of JSON.
    memory_limit
        Bytes, as for ``mlx_entk.entk``.
    max_share
        The largest share of the time since the first call that rows may take, with their part of
        the page. If they have taken more, a row that is due is left out and counted in
        ``skipped``; the first time, a ``RowsLeftOutWarning`` says so. Neither the first row nor
        that of ``close`` is left out.
    page
        An HTML file that is written after rows, to be open in a browser while the training runs: it
        shows the rows, and reloads itself until ``close``. It is written at most once a second,
        and for at most a twentieth of the time.

    Attributes
    ----------
    rows
        What was logged, one dictionary per row: ``step``, ``seconds``, ``skipped``, ``metrics``
        (what the call was given) and ``kernels``. The last has, for each kernel, ``values``,
        ``noise_floor``, ``cliffs`` (``modes``, ``drop`` and ``p`` of each, see ``find_cliffs``),
        ``effective_rank``, ``distance_from_last`` and
        ``distance_from_first`` (see ``kernel_distance``), ``velocity``, the first of these per
        step, ``with_targets`` (``centred_alignment``, if there are targets), and ``alignment``, a
        list of ``modes``, ``family``, ``overlap``, ``chance`` and ``dimension``. With ``held_out``,
        ``after_kernel`` has the R² of regression with the whole kernel, with the ridge
        ``mlx_entk.regression.AFTER_KERNEL_RIDGE``, and its accuracy if the targets are classes.
    seconds
        Seconds spent on all rows and the page.
    skipped
        How many rows were left out.

    Raises
    ------
    InputError
        For settings that are out of range or contradict the probe set; the message names them.

    Notes
    -----
    A row costs one computation of the kernels on the probe set (one forward pass, up to C
    backward passes and the contractions of ``mlx_entk.entk``), and one eigendecomposition of an
    N × N matrix for each kernel, about 9·N³ FLOPs. Between rows the tracker keeps two N × N
    float32 matrices for each kernel.

    Examples
    --------
    >>> with KernelTracker(model, probe, every=100, features=bank, page="live.html") as tracker:
    ...     for step in range(steps):
    ...         tracker(step, loss=loss)
    ...         loss = train_step()
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
        targets: ArrayLike | None = None,
        held_out: Sequence[int] | None = None,
        keep: bool = False,
        log: Path | None = None,
        memory_limit: int | None = None,
        max_share: float | None = None,
        page: Path | str | None = None,
    ):
        if whole_number(every, "every") < 1:
            raise InputError(f"every is {every}: pass at least one step")
        if reduction == "full":
            raise InputError("reduction is full: follow trace, sum-of-logits or one class (c, c)")
        require_kernel(reduction)
        N = count(as_inputs(probe, "probe")[0])
        top = min(20, N) if top is None else whole_number(top, "top")
        if not 1 <= top <= N:
            raise InputError(f"top is {top}: the probe set has {N} modes")
        if max_share is not None and not 0 < max_share < 1:
            raise InputError(f"max_share is {max_share}: pass a share of the time between 0 and 1")
        bases = bases_of(features or {}, inputs=N)
        self.rows: list[dict[str, Any]] = []
        self.seconds = 0.0
        self.skipped = 0
        self._model, self._probe, self._every, self._top = model, probe, every, top
        self._reduction, self._by_layer, self._memory_limit = reduction, by_layer, memory_limit
        self._groups = [(0, top - 1)] if groups is None else list(groups)
        for modes in self._groups:
            require_modes(modes, N, "the probe set")
        self._bases = bases
        self._wanted = None if targets is None else target_kernel(targets)
        if self._wanted is not None and len(self._wanted) != N:
            raise InputError(f"targets are of {len(self._wanted)} inputs, the probe set has {N}")
        self._after = None if held_out is None else _AfterKernel.of(targets, held_out, N)
        self._kept: list[dict[str, FloatArray]] | None = [] if keep else None
        self._step = 0
        self._log = log
        self._max_share = max_share
        self._page = None if page is None else Path(page)
        if self._page is not None and not self._page.parent.is_dir():
            raise InputError(f"page is {page}: there is no folder {self._page.parent}")
        self._first: dict[str, FloatArray] = {}
        self._last: dict[str, FloatArray] = {}
        self._began: float | None = None
        self._called = -1
        self._open = True
        self._page_due = 0.0

    def __call__(self, step: int, **metrics: Any) -> dict[str, Any] | None:
        """Log a row if one is due at this step, and return it.

        Parameters
        ----------
        step
            Steps of training so far.
        metrics
            Numbers to log with the row, such as ``loss=loss``: NumPy's, MLX's or Python's. They
            are read only if a row is due, and are None where they are not finite.

        Raises
        ------
        InputError
            If a metric is not a number, or the tracker is closed.
        """
        start = time.perf_counter()
        if not self._open:
            raise InputError("the tracker is closed: make another one")
        if self._began is None:
            self._began = start
        self._called = step
        if step % self._every:
            return None
        if self._max_share is not None:
            passed = start - self._began
            if self.seconds > self._max_share * passed:
                self._leave_out(step, self._max_share, passed)
                return None
        row = self._row(step, metrics, start)
        self._write_page("Training")
        return row

    def close(self, step: int | None = None, **metrics: Any) -> dict[str, Any] | None:
        """Log the last row, and let the page say that the training is done.

        As a context manager, the tracker does this at the end of the block; after an error it logs
        no row. Closing it again does nothing.

        Parameters
        ----------
        step
            Steps of training so far; by default one more than in the last call, as after a loop
            that calls the tracker before each step.
        metrics
            As for a call.

        Returns
        -------
        dict or None
            The row; None if that step has one, or the tracker was never called.
        """
        if not self._open:
            return None
        row = None
        if self._called >= 0:
            step = self._called + 1 if step is None else step
            if not self.rows or self.rows[-1]["step"] != step:
                row = self._row(step, metrics, time.perf_counter())
        self._end("Done")
        return row

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()
        else:
            self._end("Stopped by an error")

    def _end(self, state: "State") -> None:
        if self._open:
            self._open = False
            self._page_due = 0.0
            self._write_page(state)

    def _leave_out(self, step: int, share: float, passed: float) -> None:
        self.skipped += 1
        if self.skipped == 1:
            warnings.warn(
                f"the row of step {step} is left out: rows have taken "
                f"{self.seconds / max(passed, 1e-9):.0%} of the time, and max_share is {share:g}. "
                "More will be left out, which tracker.skipped counts; pass a larger every or "
                "max_share, a smaller probe set or by_layer=False",
                RowsLeftOutWarning,
                stacklevel=3,
            )

    def _row(self, step: int, metrics: dict[str, Any], start: float) -> dict[str, Any]:
        measured = {name: _number(value, name) for name, value in metrics.items()}
        kernels = self._kernels()
        self._first = self._first or kernels
        self._last = self._last or kernels
        passed = max(step - self._step, 1)
        described = {n: self._describe(n, kernel, passed) for n, kernel in kernels.items()}
        self._last, self._step = kernels, step
        if self._kept is not None:
            self._kept.append(kernels)
        row: dict[str, Any] = {"step": step, "skipped": self.skipped, "kernels": described}
        if measured:
            row["metrics"] = measured
        if self._after is not None:
            row["after_kernel"] = self._after.quality(kernels[WHOLE])
        seconds = time.perf_counter() - start
        self.seconds += seconds
        row["seconds"] = round(seconds, 4)
        self.rows.append(row)
        if self._log is not None:
            with self._log.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row, allow_nan=False, ensure_ascii=False) + "\n")
        return row

    def _write_page(self, state: "State") -> None:
        start = time.perf_counter()
        if self._page is None or not self.rows or start < self._page_due:
            return
        # What draws pages takes half a second to import: only for those who want one.
        from mlx_entk._tracked import page_of
        from mlx_entk.report.live import write_live

        write_live(page_of(self.rows, self.skipped, state), self._page)
        end = time.perf_counter()
        self.seconds += end - start
        self._page_due = end + max(_PAGE_SECONDS, _PAGE_PAUSE * (end - start))

    def _kernels(self) -> dict[str, FloatArray]:
        by_layer = layerwise_entk(
            self._model, self._probe, reduction=self._reduction, memory_limit=self._memory_limit
        )
        kernels = with_whole(by_layer)
        return kernels if self._by_layer else {WHOLE: kernels[WHOLE]}

    def alignment_with_last(self) -> dict[str, list[float]]:
        """Centred alignment of the kernels of every row with those of the last row, by kernel.

        Raises
        ------
        InputError
            Unless the tracker was made with ``keep=True``.
        """
        if self._kept is None:
            raise InputError("the kernels were not kept: make the tracker with keep=True")
        last = self._kept[-1] if self._kept else {}
        return {
            name: [centred_alignment(kernels[name], last[name]) for kernels in self._kept]
            for name in last
        }

    def _describe(self, name: str, kernel: FloatArray, passed: int) -> dict[str, Any]:
        spectrum = eigendecompose(kernel)
        overlaps = align({name: spectrum}, {name: self._groups}, self._bases)
        distance = kernel_distance(kernel, self._last[name])
        aligned = {}
        if self._wanted is not None:
            aligned["with_targets"] = centred_alignment(kernel, self._wanted)
        return {
            "values": spectrum.values[: self._top].tolist(),
            "noise_floor": float(spectrum.noise_floor),
            "cliffs": [
                {"modes": list(cliff.modes), "drop": cliff.drop, "p": cliff.p}
                for cliff in find_cliffs(spectrum.values, spectrum.noise_floor)
            ],
            "effective_rank": effective_rank(spectrum.values),
            "distance_from_last": distance,
            "velocity": distance / passed,
            **aligned,
            "distance_from_first": kernel_distance(kernel, self._first[name]),
            "alignment": [
                {
                    "modes": list(found.modes),
                    "family": found.family,
                    "overlap": found.overlap,
                    "chance": found.chance,
                    "dimension": found.dimension,
                }
                for found in overlaps
            ],
        }


# Seconds from one page to the next at least, and as a multiple of what the last one took.
_PAGE_SECONDS, _PAGE_PAUSE = 1.0, 19.0


def _number(value: Any, name: str) -> float | None:
    """A metric as a float; None if it is not finite, which JSON has no number for."""
    try:
        number = float(value.item() if hasattr(value, "item") else value)
    except (TypeError, ValueError) as error:
        raise InputError(f"{name} is no number: pass one number for each metric") from error
    return number if math.isfinite(number) else None
