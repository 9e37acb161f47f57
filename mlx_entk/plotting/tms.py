"""The figures of the toy models of superposition."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter
from numpy.typing import NDArray

from mlx_entk._files import Arrays, Json
from mlx_entk._linalg import Float64Array
from mlx_entk.plotting.drawing import Drawing
from mlx_entk.plotting.style import (
    COLORS,
    DIVERGING,
    MUTED,
    SEQUENTIAL,
    mode_texts,
    new_figure,
    styled,
)
from mlx_entk.runs import Run

_NETWORKS = ("trained", "initial", "shuffled")
_NETWORK_LABELS = {
    "trained": "trained",
    "initial": "before training",
    "shuffled": "trained on shuffled targets",
}


def tms_figures(run: Run) -> Iterator[tuple[str, Drawing]]:
    """Every figure of a finished run of one model, with its name."""
    results, arrays = run.results, run.arrays
    config = results["config"]
    betas = sorted({row["beta"] for row in results["kernels"]}, reverse=True)
    yield "spectra-flattened", spectra(results["kernels"], arrays, config["n"])
    yield "recovery", recovery(results["kernels"], arrays, [beta for beta in betas if beta > 0])
    yield "superposition", superposition(arrays)
    yield "features-over-training", over_training(results, arrays["values over training"])
    if config["m"] == 2:
        yield "geometry", geometry(arrays["W/trained"], arrays["x"])


def paper_figures(run: Run) -> Iterator[tuple[str, Drawing]]:
    """Every figure of the paper's three models, with its name."""
    yield "paper", paper(run.results["models"], run.arrays)


def descent_figures(run: Run) -> Iterator[tuple[str, Drawing]]:
    """Every figure of a double-descent sweep, with its name."""
    results, arrays = run.results, run.arrays
    yield "double-descent", double_descent(results["sizes"])
    if results["config"]["m"] == 2:
        sizes = [row["rows"] for row in results["sizes"]]
        pairs = [(arrays[f"W/{size}"], arrays[f"hidden/{size}"]) for size in sizes]
        yield "geometry", geometry_by_size(sizes, pairs)


@styled
def spectra(rows: Sequence[Json], arrays: Arrays, n: int) -> Drawing:
    """Leading eigenvalues of the flattened kernel of each network, cliffs marked.

    Parameters
    ----------
    rows
        ``results["kernels"]``; those of β = 0 are drawn.
    arrays
        ``values/NETWORK/0``.
    n
        Features: marked by a dotted line.
    """
    figure, axes = new_figure(3.4 * len(_NETWORKS), 3.4, 1, len(_NETWORKS), sharey=True)
    for axis, network in zip(axes, _NETWORKS, strict=True):
        values = np.maximum(arrays[f"values/{network}/0"], np.finfo(float).tiny)
        row = next(row for row in rows if row["network"] == network and row["beta"] == 0)
        _spectrum(axis, values, [last + 1 for _, last in row["cliffs"]], n)
        texts = mode_texts(values, arrays[f"alignment/{network}/0"] ** 2, _feature_names(n))
        figure.hint_points(axis, np.arange(values.size), values, texts)
        axis.set_title(_NETWORK_LABELS[network])
        axis.set_xlabel("mode")
    axes[0].set_ylabel("eigenvalue")
    return figure


def _spectrum(axis: Any, values: Float64Array, cliffs: Sequence[int], n: int) -> None:
    axis.semilogy(np.arange(values.size), values, ".", markersize=4, color=COLORS[0], zorder=3)
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.yaxis.set_major_formatter("{x:g}")
    axis.yaxis.set_minor_formatter(NullFormatter())
    axis.axvline(n - 0.5, color=MUTED, linestyle=":", linewidth=1.0)
    for number, cliff in enumerate(cliffs):
        axis.axvline(cliff - 0.5, color=COLORS[1], linewidth=1.1)
        axis.annotate(
            f"{cliff}",
            (cliff - 0.5, 0.97 - 0.09 * (number % 3)),
            xycoords=("data", "axes fraction"),
            xytext=(3, 0),
            textcoords="offset points",
            va="top",
            color=COLORS[1],
            fontweight="bold",
            fontsize=8.5,
        )


@styled
def recovery(rows: Sequence[Json], arrays: Arrays, betas: Sequence[float]) -> Drawing:
    """|cosine| of modes with features, a network a row and an exponent β a column."""
    figure, axes = new_figure(
        4.4 * len(betas), 2.9 * len(_NETWORKS), len(_NETWORKS), len(betas), sharex=True, sharey=True
    )
    counts = {(row["network"], row["beta"]): row["recovered"] for row in rows}
    image: Any = None
    for number, axis in enumerate(axes):
        network, beta = _NETWORKS[number // len(betas)], betas[number % len(betas)]
        image = _heatmap(figure, axis, arrays[f"alignment/{network}/{beta:g}"])
        recovered = counts[network, beta]
        axis.set_title(f"{_NETWORK_LABELS[network]}, β = {beta:g}: {recovered} recovered")
        if number % len(betas) == 0:
            axis.set_ylabel("mode")
        if number >= len(axes) - len(betas):
            axis.set_xlabel("feature")
    figure.colorbar(image, ax=axes, label="|cosine|, over the largest of its feature", pad=0.01)
    return figure


def _feature_names(n: int) -> list[str]:
    return [f"feature {number}" for number in range(n)]


def _heatmap(figure: Drawing, axis: Any, cosines: NDArray[Any]) -> Any:
    """Modes × features, each feature's column over its largest entry, as in the paper."""
    modes, n = cosines.shape
    names = [f"mode {number}" for number in range(modes)]
    figure.hint_cells(axis, names, _feature_names(n), cosines, "|cosine|")
    largest = np.maximum(cosines.max(axis=0), np.finfo(float).tiny)
    return axis.imshow(
        cosines / largest, cmap=SEQUENTIAL, vmin=0, vmax=1, aspect="auto", interpolation="nearest"
    )


@styled
def superposition(arrays: Mapping[str, NDArray[Any]]) -> Drawing:
    """WᵀW, and each feature's norm coloured by how much it shares its direction with others."""
    figure, (left, right) = new_figure(8.6, 3.4, 1, 2, width_ratios=(1, 1.35))
    W = arrays["W/trained"]
    gram = W.T @ W
    bound = float(np.abs(gram).max())
    image = left.imshow(gram, cmap=DIVERGING, vmin=-bound, vmax=bound)
    left.set_title("WᵀW")
    left.set_xlabel("feature")
    left.set_ylabel("feature")
    names = _feature_names(len(gram))
    figure.hint_cells(left, names, names, gram, "wᵢ·wⱼ")
    figure.colorbar(image, ax=left, pad=0.02)
    norms = np.linalg.norm(W, axis=0)
    units = W / np.maximum(norms, np.finfo(float).tiny)
    shared = ((units.T @ W) ** 2).sum(axis=1) - norms**2
    shades = ScalarMappable(Normalize(0, 1), SEQUENTIAL)
    colors = shades.to_rgba(np.clip(shared, 0, 1))
    right.bar(np.arange(norms.size), norms, width=0.85, color=colors)
    texts = [
        f"{name}: norm {norm:.3g}, superposition {other:.3g}"
        for name, norm, other in zip(names, norms, shared, strict=True)
    ]
    figure.hint_points(right, np.arange(norms.size), norms, texts)
    figure.colorbar(shades, ax=right, label="superposition Σⱼ (ŵᵢ·wⱼ)²", pad=0.01)
    right.set_title("‖wᵢ‖ of each feature")
    right.set_xlabel("feature")
    return figure


@styled
def over_training(results: Json, values: Float64Array) -> Drawing:
    """Features reconstructed and recovered over training, and the spectrum at each checkpoint.

    Parameters
    ----------
    results
        With ``training``.
    values
        Eigenvalues of the flattened kernel, shape (checkpoints, modes).
    """
    rows = results["training"]
    steps = [row["step"] for row in rows]
    figure, (left, right) = new_figure(8.6, 3.4, 1, 2)
    left.plot(
        steps, [row["reconstructed"] for row in rows], "o-", color=COLORS[0], markersize=4,
        label="reconstructed",
    )  # fmt: skip
    for color, beta in zip(COLORS[1:], rows[0]["recovered"], strict=False):
        counts = [row["recovered"][beta] for row in rows]
        label = f"recovered, β = {beta}"
        left.plot(steps, counts, "o--", color=color, markersize=4, label=label)
    left.set_ylim(bottom=0)
    left.yaxis.set_major_locator(MaxNLocator(integer=True))
    left.set_xlabel("step")
    left.set_ylabel("features")
    left.legend(fontsize=8.5)
    positive = np.maximum(values, np.finfo(float).tiny)
    for color, row, label in ((MUTED, 0, f"step {steps[0]}"), (COLORS[0], -1, f"step {steps[-1]}")):
        right.semilogy(positive[row], color=color, linewidth=1.4, label=label)
    counts_of = [
        f"step {row['step']}: {row['reconstructed']} reconstructed, "
        + ", ".join(f"{count} recovered at β = {beta}" for beta, count in row["recovered"].items())
        for row in rows
    ]
    figure.add_frames(right, np.arange(positive.shape[1]), positive, counts_of)
    right.set_xlabel("mode")
    right.set_ylabel("eigenvalue")
    right.legend(fontsize=8.5)
    return figure


@styled
def geometry(W: NDArray[Any], x: NDArray[Any]) -> Drawing:
    """Features and hidden vectors of a model with two hidden units."""
    figure, (left, right) = new_figure(7.4, 3.7, 1, 2)
    _arrows(left, W)
    left.set_title("features wᵢ")
    hidden = x @ W.T
    right.scatter(hidden[:, 0], hidden[:, 1], s=6, color=COLORS[0])
    right.set_title("hidden vectors W x")
    for axis in (left, right):
        _centre(axis)
    return figure


@styled
def geometry_by_size(
    sizes: Sequence[int], pairs: Sequence[tuple[NDArray[Any], NDArray[Any]]]
) -> Drawing:
    """Features above, hidden vectors below, one column for each dataset size."""
    figure, axes = new_figure(1.7 * len(sizes), 3.7, 2, len(sizes))
    for number, (size, (W, hidden)) in enumerate(zip(sizes, pairs, strict=True)):
        above, below = axes[number], axes[len(sizes) + number]
        _arrows(above, W)
        above.set_title(f"{size} rows")
        below.scatter(hidden[:, 0], hidden[:, 1], s=4, color=COLORS[1])
        for axis in (above, below):
            _centre(axis)
    axes[0].set_ylabel("features")
    axes[len(sizes)].set_ylabel("hidden vectors")
    return figure


def _arrows(axis: Any, W: NDArray[Any]) -> None:
    for column in W.T:
        axis.plot([0, column[0]], [0, column[1]], color=COLORS[0], linewidth=1.4)
    axis.plot(W[0], W[1], "o", color=COLORS[0], markersize=4)


def _centre(axis: Any) -> None:
    bound = max(abs(limit) for limit in (*axis.get_xlim(), *axis.get_ylim()))
    axis.set(xlim=(-bound, bound), ylim=(-bound, bound), xticks=[], yticks=[])
    axis.set_aspect("equal")
    axis.spines[:].set_visible(False)
    axis.plot(0, 0, "+", color=MUTED)


@styled
def paper(models: Mapping[str, Json], arrays: Arrays) -> Drawing:
    """The paper's grid: a model a column; its spectrum, and heatmaps at two exponents."""
    betas = (1.0, 0.3)
    figure, axes = new_figure(3.6 * len(models), 9.4, 3, len(models))
    image: Any = None
    for column, (name, results) in enumerate(models.items()):
        config, row = results["config"], results["kernels"]
        of_kernel = next(r for r in row if r["network"] == "trained" and r["beta"] == 0)
        values = np.maximum(arrays[f"{name}/values/trained/0"], np.finfo(float).tiny)
        axis = axes[column]
        _spectrum(axis, values, [last + 1 for _, last in of_kernel["cliffs"]], config["n"])
        texts = mode_texts(
            values, arrays[f"{name}/alignment/trained/0"] ** 2, _feature_names(config["n"])
        )
        figure.hint_points(axis, np.arange(values.size), values, texts)
        axis.axvline(results["reconstructed"]["trained"] - 0.5, color=COLORS[2], linestyle="--")
        axis.set_title(
            f"m = {config['m']}, S = {config['sparsity']:g}: "
            f"{results['reconstructed']['trained']} reconstructed"
        )
        axis.set_xlabel("mode")
        for number, beta in enumerate(betas):
            below = axes[(number + 1) * len(models) + column]
            image = _heatmap(figure, below, arrays[f"{name}/alignment/trained/{beta:g}"])
            count = next(
                r["recovered"] for r in row if r["network"] == "trained" and r["beta"] == beta
            )
            below.set_title(f"β = {beta:g}: {count} recovered")
            below.set_xlabel("feature")
    axes[0].set_ylabel("eigenvalue")
    axes[len(models)].set_ylabel("mode")
    axes[2 * len(models)].set_ylabel("mode")
    figure.colorbar(
        image, ax=axes[len(models) :], label="|cosine|, over the largest of its feature", pad=0.01
    )
    return figure


@styled
def double_descent(sizes: Sequence[Json]) -> Drawing:
    """Losses and the kernel's effective rank over the size of the dataset."""
    rows = [row["rows"] for row in sizes]
    figure, (top, bottom) = new_figure(6.4, 5.2, 2, 1, sharex=True)
    for part, style, color in (("train", "--", COLORS[0]), ("test", "-", COLORS[1])):
        losses = [max(row[f"{part}_loss"], 1e-12) for row in sizes]
        top.loglog(rows, losses, f"o{style}", color=color, markersize=4, label=part)
    top.set_ylabel("loss")
    top.legend()
    bottom.semilogx(
        rows, [row["effective_rank"] for row in sizes], "o-", color=COLORS[2], markersize=4
    )
    bottom.set_ylabel("effective rank of the eNTK")
    bottom.set_xlabel("rows of the dataset")
    return figure
