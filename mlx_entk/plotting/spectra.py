"""Figures of spectra, with their cliffs or over training."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from mlx_entk._linalg import Float64Array
from mlx_entk.analysis import WHOLE
from mlx_entk.cliffs import Cliff, find_cliffs
from mlx_entk.features import Overlap
from mlx_entk.plotting.drawing import Drawing
from mlx_entk.plotting.style import (
    COLORS,
    MUTED,
    SEQUENTIAL,
    kernel_label,
    mode_texts,
    modes_label,
    new_figure,
    styled,
)
from mlx_entk.spectrum import Spectrum


@styled
def plot_spectra(
    values: Mapping[str, Float64Array],
    cliffs: Mapping[str, Sequence[Cliff]],
    shown: int,
    shares: Mapping[str, Float64Array] | None = None,
    features: Sequence[str] = (),
    floors: Mapping[str, float] | None = None,
) -> Drawing:
    """Draw each kernel's leading eigenvalues on a log scale, with the groups at cliffs shaded.

    The noise floor is a dashed line, a little below which the axis ends.

    Parameters
    ----------
    values
        Eigenvalues by kernel, largest first.
    cliffs
        By kernel.
    shown
        How many modes to draw.
    shares, features
        How much of each mode lies in each feature, by kernel, and the features' names; a report
        shows them at the pointer.
    floors
        The noise floor of each kernel (see ``mlx_entk.Spectrum``), if it is known.
    """
    figure, axes = _panels(len(values))
    for axis, (kernel, of_kernel) in zip(axes, values.items(), strict=True):
        head = _positive(of_kernel[:shown])
        axis.plot(np.arange(head.size), head, ".", markersize=4, color=COLORS[0], zorder=3)
        of_modes = shares.get(kernel) if shares else None
        floor = (floors or {}).get(kernel, 0.0)
        figure.hint_spectrum(
            axis, kernel_label(kernel), head, floor, [c.modes for c in cliffs[kernel]],
            mode_texts(head, of_modes, features),
        )  # fmt: skip
        eigenvalue_axes(axis, [head], floor)
        axis.set_xlim(-0.05 * head.size, 1.05 * head.size)
        for number, cliff in enumerate(cliffs[kernel]):
            first, last = cliff.modes
            if last >= head.size:
                continue  # the cliff lies beyond what is shown
            color = COLORS[1 + number % 4]
            axis.axvspan(first - 0.5, last + 0.5, color=color, alpha=0.13, linewidth=0)
            axis.axvline(last + 0.5, color=color, linewidth=1.1)
            axis.annotate(
                modes_label((first, last)),
                (last + 0.5, 0.97 - 0.08 * number),
                xycoords=("data", "axes fraction"),
                xytext=(5, 0),
                textcoords="offset points",
                va="top",
                color=color,
                fontweight="bold",
                fontsize=9.5,
            )
        axis.set_title(kernel_label(kernel))
    axes[0].set_ylabel("eigenvalue")
    return figure


def plot_spectrum(spectrum: Spectrum) -> Drawing:
    """Draw one spectrum with the cliffs among its modes."""
    cliffs = find_cliffs(spectrum.values, spectrum.noise_floor)
    values, floor = spectrum.values, spectrum.noise_floor
    return plot_spectra({WHOLE: values}, {WHOLE: cliffs}, values.size, floors={WHOLE: floor})


@styled
def plot_overlap(overlap: Overlap) -> Drawing:
    """Draw the cosine of each principal angle, largest first, and the mean square by chance."""
    figure, (axis,) = new_figure(4.8, 3.2)
    cosines = overlap.singular_values
    axis.plot(np.arange(cosines.size), cosines, ".", markersize=6, color=COLORS[0])
    by_chance = np.sqrt(overlap.chance / max(1, overlap.dimension))
    axis.axhline(by_chance, color=MUTED, linewidth=1)
    axis.annotate("by chance", (1, by_chance), xycoords=("axes fraction", "data"), ha="right",
                  va="bottom", xytext=(0, 2), textcoords="offset points", color=MUTED)  # fmt: skip
    axis.set_ylim(-0.03, 1.05)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.set_xlabel("principal direction")
    axis.set_ylabel("cosine")
    axis.set_title(f"overlap {overlap.overlap:.3g} of {overlap.dimension}")
    return figure


@styled
def plot_spectra_over_training(
    values: Mapping[str, Float64Array],
    epochs: Sequence[int],
    chosen: Sequence[int],
    shown: int,
    labels: Sequence[str],
    floors: Mapping[str, float] | None = None,
) -> Drawing:
    """Draw each kernel's leading eigenvalues at some epochs; a report shows all of them.

    Parameters
    ----------
    values
        Eigenvalues by kernel, shape (epochs, modes).
    epochs
        The epochs of the rows of ``values``.
    chosen
        The epochs to draw.
    shown
        How many modes to draw.
    labels
        What a report calls each of the epochs.
    floors
        The noise floor of each kernel at the last epoch, if it is known. It is in proportion to
        the kernel's size, and the axis ends below the lowest of the epochs drawn.
    """
    figure, axes = _panels(len(values))
    shades = colormaps[SEQUENTIAL](np.linspace(0.3, 0.9, len(chosen)))
    for axis, (kernel, rows) in zip(axes, values.items(), strict=True):
        heads = [_positive(rows[list(epochs).index(epoch)][:shown]) for epoch in chosen]
        for head, epoch, shade in zip(heads, chosen, shades, strict=True):
            axis.plot(head, color=shade, linewidth=1.6, label=f"epoch {epoch}")
        largest = [float(np.nanmax(head, initial=0.0)) for head in heads]
        at_end = (floors or {}).get(kernel, 0.0)
        floor = at_end * min(largest) / float(rows[-1].max()) if at_end else 0.0
        lowest = chosen[int(np.argmin(largest))]
        eigenvalue_axes(axis, heads, floor, f"noise floor at epoch {lowest}")
        every = np.maximum(rows[:, :shown], np.finfo(float).tiny)
        figure.add_frames(axis, np.arange(every.shape[1]), every, labels)
        axis.set_title(kernel_label(kernel))
    axes[0].set_ylabel("eigenvalue")
    axes[-1].legend(fontsize=9.5, labelcolor=MUTED)
    return figure


def eigenvalue_axes(
    axis: Axes, drawn: Sequence[Float64Array], floor: float, name: str = "noise floor"
) -> None:
    """Whole numbers of modes, and eigenvalues on a log scale that ends below the noise floor.

    What rounding left far below the floor would take most of the axis. The floor is a dashed
    line; if all eigenvalues are far above it, the axis ends below them, and says where it is.

    Parameters
    ----------
    drawn
        The eigenvalues, one array for each line; NaN where there is nothing to see.
    floor
        The noise floor; 0 if it is not known.
    name
        What the floor is called.
    """
    axis.set_xlabel("mode")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    values = np.concatenate([np.asarray(line, dtype=float) for line in drawn])
    values = values[values > 0]
    if not values.size:
        return
    axis.set_yscale("log")
    least = max(floor, _LEAST * values.max())
    above = values[values > least].min(initial=values.max())
    near = above <= _NEAR * least
    if not near:
        least = above
    axis.set_ylim(bottom=least / 3)
    if floor:
        if near:
            axis.axhline(floor, color=MUTED, linestyle="--", linewidth=0.9)
        axis.annotate(
            name if near else f"{name} below, at {floor:.0e}",
            (1, floor if near else axis.get_ylim()[0]), xycoords=("axes fraction", "data"),
            xytext=(0, -3 if near else 3), textcoords="offset points", ha="right",
            va="top" if near else "bottom", color=MUTED, fontsize=9.5,
        )  # fmt: skip
    bottom, top = axis.get_ylim()
    if top < 300 * bottom:  # powers of ten alone would be one or two
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.yaxis.set_major_formatter("{x:g}")
        axis.yaxis.set_minor_formatter(NullFormatter())


# The least eigenvalue that is drawn of a kernel without a noise floor, as a share of the largest;
# and how near, as a factor, the lowest eigenvalue comes to a noise floor that is drawn.
_LEAST, _NEAR = 1e-12, 100


def _positive(values: Float64Array) -> Float64Array:
    """The values that a log scale can show; those that rounding left at zero or below are not."""
    return np.where(values > 0, values, np.nan)


def _panels(count: int) -> tuple[Drawing, list[Axes]]:
    """One panel for each kernel, at most five in a row."""
    columns = min(count, 5)
    rows = -(-count // columns)
    figure, axes = new_figure(3.6 * columns, 3.4 * rows, rows, columns)
    for axis in axes[count:]:
        axis.remove()
    return figure, axes[:count]
