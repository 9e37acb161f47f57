"""Charts of the toy models of superposition."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.image import AxesImage
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from mlx_entk._files import Arrays
from mlx_entk._linalg import Float64Array
from mlx_entk.plotting import eigenvalue_axes
from mlx_entk.plotting.drawing import MOST_CELLS, Drawing, require_drawable
from mlx_entk.plotting.style import (
    COLORS,
    DIVERGING,
    MUTED,
    SEQUENTIAL,
    mode_texts,
    new_figure,
    styled,
)
from mlx_entk.studies.results import DatasetSize, Learned, Recovery
from mlx_entk.studies.toy_models.study import INITIAL, NETWORKS, SHUFFLED, TRAINED, TMSResults

_LABELS = {
    TRAINED: "trained",
    INITIAL: "before training",
    SHUFFLED: "trained on shuffled targets",
}
_HEATMAP_LABEL = "|cosine|, over the largest of its feature"
# A loss of 0 has no place on a log scale.
_LEAST_LOSS = 1e-12


@styled
def spectra(results: TMSResults, arrays: Arrays) -> Drawing:
    """Leading eigenvalues of the flattened kernel of each network, with its cliffs.

    Parameters
    ----------
    arrays
        ``values/NETWORK/0`` and ``alignment/NETWORK/0``.
    """
    figure, axes = new_figure(3.4 * len(NETWORKS), 3.4, 1, len(NETWORKS), sharey=True)
    for axis, network in zip(axes, NETWORKS, strict=True):
        _spectrum(
            figure,
            axis,
            arrays[f"values/{network}/0"],
            arrays[f"alignment/{network}/0"],
            results.kernel(network),
            float(arrays.get(f"noise floor/{network}/0", 0.0)),
        )
        axis.set_title(_LABELS[network])
    axes[0].set_ylabel("eigenvalue")
    return figure


def _spectrum(
    figure: Drawing,
    axis: Axes,
    values: Float64Array,
    cosines: NDArray[Any],
    kernel: Recovery,
    floor: float,
) -> None:
    """Eigenvalues on a log scale, cliffs by full lines, the number of features by a dotted one.

    Parameters
    ----------
    cosines
        |cosine| of each mode with each feature, shape (modes, n).
    """
    n = cosines.shape[1]
    positive = np.where(values > 0, values, np.nan)
    axis.plot(np.arange(positive.size), positive, ".", markersize=4, color=COLORS[0], zorder=3)
    eigenvalue_axes(axis, [positive], floor)
    axis.axvline(n - 0.5, color=MUTED, linestyle=":", linewidth=1.0)
    for number, cliff in enumerate(kernel.cliffs):
        axis.axvline(cliff.before - 0.5, color=COLORS[1], linewidth=1.1)
        axis.annotate(
            f"{cliff.before}",
            (cliff.before - 0.5, 0.97 - 0.09 * (number % 3)),
            xycoords=("data", "axes fraction"),
            xytext=(3, 0),
            textcoords="offset points",
            va="top",
            color=COLORS[1],
            fontweight="bold",
            fontsize=9.5,
        )
    figure.hint_spectrum(
        axis, _LABELS[kernel.network], positive, floor, [c.modes for c in kernel.cliffs],
        mode_texts(positive, cosines**2, _feature_names(n)),
    )  # fmt: skip


@styled
def recovery(results: TMSResults, arrays: Arrays) -> Drawing:
    """|cosine| of modes with features, a network a row and an exponent β a column.

    Parameters
    ----------
    arrays
        ``alignment/NETWORK/BETA``.
    """
    betas = results.rescalings
    figure, axes = new_figure(
        4.4 * len(betas), 2.9 * len(NETWORKS), len(NETWORKS), len(betas), sharex=True, sharey=True
    )
    for number, axis in enumerate(axes):
        network, beta = NETWORKS[number // len(betas)], betas[number % len(betas)]
        image = _heatmap(figure, axis, arrays[f"alignment/{network}/{beta:g}"])
        recovered = results.kernel(network, beta).recovered
        axis.set_title(f"{_LABELS[network]}, β = {beta:g}: {recovered} recovered")
        if number % len(betas) == 0:
            axis.set_ylabel("mode")
        if number >= len(axes) - len(betas):
            axis.set_xlabel("feature")
    figure.colorbar(image, ax=axes, label=_HEATMAP_LABEL, pad=0.01)
    return figure


def _feature_names(n: int) -> list[str]:
    return [f"feature {number}" for number in range(n)]


def _heatmap(figure: Drawing, axis: Axes, cosines: NDArray[Any]) -> AxesImage:
    """Modes × features, each feature's column over its largest entry, as in the paper."""
    modes, n = cosines.shape
    names = [f"mode {number}" for number in range(modes)]
    figure.hint_cells(axis, names, _feature_names(n), cosines, "|cosine|")
    largest = np.maximum(cosines.max(axis=0), np.finfo(float).tiny)
    return axis.imshow(
        cosines / largest, cmap=SEQUENTIAL, vmin=0, vmax=1, aspect="auto", interpolation="nearest"
    )


@styled
def superposition(W: NDArray[Any]) -> Drawing:
    """WᵀW, and each feature's norm coloured by how much it shares its direction with others.

    Parameters
    ----------
    W
        Of the trained network, shape (m, n).
    """
    figure, (products, bars) = new_figure(8.6, 3.4, 1, 2, width_ratios=(1, 1.35))
    require_drawable(W.shape[1] ** 2, MOST_CELLS)
    gram = W.T @ W
    bound = float(np.abs(gram).max())
    image = products.imshow(gram, cmap=DIVERGING, vmin=-bound, vmax=bound)
    products.set_title("WᵀW")
    products.set_xlabel("feature")
    products.set_ylabel("feature")
    names = _feature_names(len(gram))
    figure.hint_cells(products, names, names, gram, "wᵢ·wⱼ")
    figure.colorbar(image, ax=products, pad=0.02)
    norms = np.linalg.norm(W, axis=0)
    units = W / np.maximum(norms, np.finfo(float).tiny)
    shared = ((units.T @ W) ** 2).sum(axis=1) - norms**2
    shades = ScalarMappable(Normalize(0, 1), SEQUENTIAL)
    colors = shades.to_rgba(np.clip(shared, 0, 1))
    bars.bar(np.arange(norms.size), norms, width=0.85, color=colors)
    texts = [
        f"{name}: norm {norm:.3g}, superposition {other:.3g}"
        for name, norm, other in zip(names, norms, shared, strict=True)
    ]
    figure.hint_points(bars, np.arange(norms.size), norms, texts)
    figure.colorbar(shades, ax=bars, label="superposition Σⱼ (ŵᵢ·wⱼ)²", pad=0.01)
    bars.set_title("‖wᵢ‖ of each feature")
    bars.set_xlabel("feature")
    return figure


@styled
def over_training(rows: Sequence[Learned], values: Float64Array) -> Drawing:
    """Features, alignments of the kernel and its spectrum over training.

    Parameters
    ----------
    rows
        By checkpoint.
    values
        Eigenvalues of the flattened kernel, shape (checkpoints, modes).
    """
    steps = [row.step for row in rows]
    figure, (counts, aligned, spectrum) = new_figure(12.2, 3.4, 1, 3)
    counts.plot(
        steps, [row.reconstructed for row in rows], "o-", color=COLORS[0], markersize=4,
        label="reconstructed",
    )  # fmt: skip
    for color, beta in zip(COLORS[1:], rows[0].recovered, strict=False):
        recovered = [row.recovered[beta] for row in rows]
        label = f"recovered, β = {beta}"
        counts.plot(steps, recovered, "o--", color=color, markersize=4, label=label)
    counts.set_ylim(bottom=0)
    counts.yaxis.set_major_locator(MaxNLocator(integer=True))
    counts.set_xlabel("step")
    counts.set_ylabel("features")
    counts.legend(fontsize=9.5)
    lines = (
        ("with targets", [row.with_targets for row in rows]),
        ("with the last kernel", [row.with_final for row in rows]),
        ("R² of the after kernel", [max(row.after_kernel_r2, 0) for row in rows]),
    )
    for color, (label, values_of) in zip(COLORS, lines, strict=False):
        aligned.plot(steps, values_of, "o-", color=color, markersize=4, label=label)
    aligned.set_ylim(-0.03, 1.05)
    aligned.set_xlabel("step")
    aligned.set_ylabel("centred alignment, R²")
    aligned.legend(fontsize=9.5)
    positive = np.where(values > 0, values, np.nan)
    for color, row, label in ((MUTED, 0, f"step {steps[0]}"), (COLORS[0], -1, f"step {steps[-1]}")):
        spectrum.plot(positive[row], color=color, linewidth=1.4, label=label)
    eigenvalue_axes(spectrum, [positive[0], positive[-1]], 0.0)
    texts = [
        ", ".join(
            [
                f"step {row.step}: {row.reconstructed} reconstructed",
                *(f"{count} recovered at β = {beta}" for beta, count in row.recovered.items()),
            ]
        )
        for row in rows
    ]
    shown = np.maximum(values, np.finfo(float).tiny)
    figure.add_frames(spectrum, np.arange(shown.shape[1]), shown, texts)
    spectrum.set_ylabel("eigenvalue")
    spectrum.legend(fontsize=9.5)
    return figure


@styled
def geometry(W: NDArray[Any], x: NDArray[Any]) -> Drawing:
    """Features and hidden vectors of a model with two hidden units."""
    figure, (features, vectors) = new_figure(7.4, 3.7, 1, 2)
    _arrows(features, W)
    features.set_title("features wᵢ")
    hidden = x @ W.T
    vectors.scatter(hidden[:, 0], hidden[:, 1], s=6, color=COLORS[0])
    vectors.set_title("hidden vectors W x")
    for axis in (features, vectors):
        _centre(axis)
    return figure


@styled
def geometry_by_size(models: Mapping[int, tuple[NDArray[Any], NDArray[Any]]]) -> Drawing:
    """Features above, hidden vectors below, one column for each dataset size.

    Parameters
    ----------
    models
        W of shape (2, n), and the hidden vectors of shape (rows, 2), by dataset size.
    """
    figure, axes = new_figure(1.7 * len(models), 3.7, 2, len(models))
    for number, (size, (W, hidden)) in enumerate(models.items()):
        above, below = axes[number], axes[len(models) + number]
        _arrows(above, W)
        above.set_title(f"{size} rows")
        below.scatter(hidden[:, 0], hidden[:, 1], s=4, color=COLORS[1])
        for axis in (above, below):
            _centre(axis)
    axes[0].set_ylabel("features")
    axes[len(models)].set_ylabel("hidden vectors")
    return figure


def _arrows(axis: Axes, W: NDArray[Any]) -> None:
    for column in W.T:
        axis.plot([0, column[0]], [0, column[1]], color=COLORS[0], linewidth=1.4)
    axis.plot(W[0], W[1], "o", color=COLORS[0], markersize=4)


def _centre(axis: Axes) -> None:
    bound = max(abs(limit) for limit in (*axis.get_xlim(), *axis.get_ylim()))
    axis.set(xlim=(-bound, bound), ylim=(-bound, bound), xticks=[], yticks=[])
    axis.set_aspect("equal")
    axis.spines[:].set_visible(False)
    axis.plot(0, 0, "+", color=MUTED)


@styled
def paper(models: Mapping[str, TMSResults], arrays: Arrays) -> Drawing:
    """The paper's grid: a model a column; its spectrum above heatmaps at each exponent β.

    Parameters
    ----------
    arrays
        ``MODEL/values/trained/0`` and ``MODEL/alignment/trained/BETA``.
    """
    betas = next(iter(models.values())).rescalings
    rows = 1 + len(betas)
    figure, axes = new_figure(3.6 * len(models), 0.4 + 3 * rows, rows, len(models))
    for column, (name, results) in enumerate(models.items()):
        of_trained = f"{name}/alignment/{TRAINED}"
        axis = axes[column]
        _spectrum(
            figure,
            axis,
            arrays[f"{name}/values/{TRAINED}/0"],
            arrays[f"{of_trained}/0"],
            results.kernel(TRAINED),
            float(arrays.get(f"{name}/noise floor/{TRAINED}/0", 0.0)),
        )
        count = results.reconstructed[TRAINED]
        axis.axvline(count - 0.5, color=COLORS[2], linestyle="--")
        axis.set_title(
            f"m = {results.config.m}, S = {results.config.sparsity:g}: {count} reconstructed"
        )
        for number, beta in enumerate(betas, 1):
            below = axes[number * len(models) + column]
            image = _heatmap(figure, below, arrays[f"{of_trained}/{beta:g}"])
            below.set_title(f"β = {beta:g}: {results.kernel(TRAINED, beta).recovered} recovered")
            below.set_xlabel("feature")
    axes[0].set_ylabel("eigenvalue")
    for first in axes[len(models) :: len(models)]:
        first.set_ylabel("mode")
    figure.colorbar(image, ax=axes[len(models) :], label=_HEATMAP_LABEL, pad=0.01)
    return figure


@styled
def double_descent(sizes: Sequence[DatasetSize]) -> Drawing:
    """Losses and the kernel's effective rank over the size of the dataset."""
    rows = [row.rows for row in sizes]
    losses = {"train": [row.train_loss for row in sizes], "test": [row.test_loss for row in sizes]}
    figure, (top, bottom) = new_figure(6.4, 5.2, 2, 1, sharex=True)
    for (part, of_part), style, color in zip(losses.items(), ("--", "-"), COLORS, strict=False):
        drawn = np.maximum(of_part, _LEAST_LOSS)
        top.loglog(rows, drawn, f"o{style}", color=color, markersize=4, label=part)
    top.set_ylabel("loss")
    top.legend()
    ranks = [row.effective_rank for row in sizes]
    bottom.semilogx(rows, ranks, "o-", color=COLORS[2], markersize=4)
    bottom.set_ylabel("effective rank of the eNTK")
    bottom.set_xlabel("rows of the dataset")
    return figure
