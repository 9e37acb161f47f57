"""Charts of steps along modes: dose–response by label, and labels by edited modes."""

from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from mlx_entk._linalg import Float64Array
from mlx_entk.plotting.drawing import Drawing
from mlx_entk.plotting.style import COLORS, DIVERGING, MUTED, new_figure, styled
from mlx_entk.studies.language_model.steps import Direction, LabelSteps, Step, StepResults

# Of random directions: the ends of the interval, and the fewest that have one.
MIDDLE, FEWEST = (0.05, 0.95), 10
# Prices that are drawn.
_PRICES = np.geomspace(1e-3, 1.0, 31)
_GRID = "#b5b5b5"
_RAISE, _LOWER = 1, -1
# Places along the horizontal axis in order, and the values there.
_Curve = tuple[Float64Array, Float64Array]


@styled
def dose_responses(results: StepResults) -> Drawing:
    """For each label, the change of its words by the dose, and by the price of it."""
    count = len(results.labels)
    figure, axes = new_figure(1.6 + 2.9 * count, 6.4, 2, count, sharey="col")
    for column, label in enumerate(results.labels):
        above, below = axes[column], axes[count + column]
        _by_dose(above, results, label)
        _by_price(below, results, label)
        above.set_title(f"{label.label}: mode {label.mode}")
        above.set_xlabel("dose ε: to lower | to raise")
        below.set_xlabel("price: to lower | to raise")
        for sense in (_RAISE, _LOWER):
            below.axvline(
                sense * results.settings.price, color=MUTED, linestyle=":", linewidth=1
            )  # fmt: skip
        for axis, least in ((above, min(results.settings.doses)), (below, _PRICES[0])):
            axis.axhline(0, color=MUTED, linewidth=0.8)
            axis.set_xscale("symlog", linthresh=least, linscale=0.8)
            decades = [10.0**k for k in range(-6, 3) if 10.0**k >= least]
            ticks = [sense * tick for sense in (_LOWER, _RAISE) for tick in decades]
            shown = [tick for tick in (*ticks, 0.0) if abs(tick) <= max(axis.get_xlim())]
            axis.set_xticks(shown, [f"{abs(tick):g}" for tick in shown], fontsize=8)
            axis.minorticks_off()
    for row in (0, count):
        axes[row].set_ylabel("change of mean log-probability")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return figure


def _by_dose(axis: Axes, results: StepResults, label: LabelSteps) -> None:
    def drawn(direction: Direction) -> _Curve:
        paths = {sense: direction.path(label.label, sense) for sense in (_RAISE, _LOWER)}
        found = {0.0: 0.0} | {
            sense * abs(step.dose): step.changes[label.label].log_mass
            for sense, path in paths.items()
            for step in path
            if step.price <= 1
        }
        return np.array(sorted(found)), np.array([found[dose] for dose in sorted(found)])

    _curves(axis, results, label, drawn)
    own = results.modes[label.mode]
    doses, changes = drawn(own)
    predicted = own.senses[label.label] * own.slopes[label.label] * doses
    near = np.abs(predicted) <= np.abs(changes).max(initial=0)  # so that it does not set the scale
    axis.plot(doses[near], predicted[near], "k:", linewidth=1.4, label="first order")


def _by_price(axis: Axes, results: StepResults, label: LabelSteps) -> None:
    def drawn(direction: Direction) -> _Curve:
        lower, upper = (
            at_prices(direction.path(label.label, sense), label.label, _PRICES)
            for sense in (_LOWER, _RAISE)
        )
        values = np.concatenate([lower[::-1], [0.0], upper])
        prices = np.concatenate([-_PRICES[::-1], [0.0], _PRICES])
        return prices[np.isfinite(values)], values[np.isfinite(values)]

    _curves(axis, results, label, drawn)


def at_prices(path: Sequence[Step], label: str, prices: Float64Array) -> Float64Array:
    """The change of a label's words where a path first costs each of some prices.

    NaN beyond the path's last step that at most doubles the perplexity: what lies between it and
    a much larger price is unknown.
    """
    costs, changes = [0.0], [0.0]
    for step in path:
        if costs[-1] < step.price <= 1:
            costs.append(step.price)
            changes.append(step.changes[label].log_mass)
    return np.interp(prices, costs, changes, right=np.nan)


def _curves(
    axis: Axes, results: StepResults, label: LabelSteps, drawn: Callable[[Direction], _Curve]
) -> None:
    curves = [drawn(direction) for direction in results.random]
    places = np.array(sorted(set.intersection(*(set(x.tolist()) for x, _ in curves))))
    values = np.array([y[np.isin(x, places)] for x, y in curves])
    low, high = np.quantile(values, MIDDLE, axis=0)
    name = f"{len(curves)} random, middle 90%"
    axis.fill_between(places, low, high, color=_GRID, alpha=0.6, linewidth=0, label=name)
    axis.plot(places, values.mean(axis=0), color=MUTED, linewidth=1, label="their mean")
    others = [direction for mode, direction in results.modes.items() if mode != label.mode]
    for number, other in enumerate(others):
        name = "other modes" if number == 0 else "_"
        axis.plot(*drawn(other), color=COLORS[4], linewidth=0.8, alpha=0.8, label=name)
    control = results.input_of(label.mode)
    if control is not None:
        axis.plot(*drawn(control), "--", color=COLORS[2], linewidth=1.4, label="input direction")
    own = results.modes[label.mode]
    axis.plot(*drawn(own), ".-", color=COLORS[0], linewidth=2, markersize=4, label="its mode")


@styled
def labels_by_modes(results: StepResults) -> Drawing:
    """The change of each label's words by a step along each mode at the price."""
    labels, modes = results.labels, results.modes
    names = [*(f"mode {mode}" for mode in modes), "random"]
    figure, axes = new_figure(
        3.2 + 1.15 * len(names), 1.3 + 0.42 * len(labels), 1, 2, sharey=True
    )  # fmt: skip
    panels = {sense: _matrix(results, sense) for sense in (_RAISE, _LOWER)}
    most = max(float(np.nanmax(np.abs(values), initial=0.0)) for values in panels.values()) or 1.0
    for axis, (sense, values) in zip(axes, panels.items(), strict=True):
        axis.imshow(values, cmap=DIVERGING, vmin=-most, vmax=most, aspect="auto")
        for (i, j), value in np.ndenumerate(values):
            text = f"{value:+.2f}".replace("-", "−") if np.isfinite(value) else "–"
            color = "white" if abs(value) > 0.6 * most else "#111111"
            axis.text(j, i, text, ha="center", va="center", fontsize=8, color=color)
        for i, label in enumerate(labels):
            j = list(modes).index(label.mode)
            axis.add_patch(Rectangle((j - 0.5, i - 0.5), 1, 1, fill=False, linewidth=2))
        axis.set_xticks(range(len(names)), names, rotation=40, ha="right")
        axis.set_yticks(range(len(labels)), [label.label for label in labels])
        axis.set_title("sense that is to raise" if sense == _RAISE else "sense that is to lower")
        figure.hint_cells(axis, [label.label for label in labels], names, values, "change")
    return figure


def _matrix(results: StepResults, sense: int) -> Float64Array:
    values = np.full((len(results.labels), len(results.modes) + 1), np.nan)
    for i, label in enumerate(results.labels):
        for j, direction in enumerate(results.modes.values()):
            step = direction.at(label.label, sense)
            if step is not None:
                values[i, j] = step.changes[label.label].log_mass
        drawn = [direction.at(label.label, sense) for direction in results.random]
        found = [step.changes[label.label].log_mass for step in drawn if step is not None]
        if found:
            values[i, -1] = np.mean(found)
    return values
