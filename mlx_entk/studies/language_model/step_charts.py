"""Charts of steps along modes: dose–response by label, and labels by edited modes."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter

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


@styled
def dose_responses(results: StepResults) -> Drawing:
    """For each label, the change of its words by the dose, and by the price of it."""
    count = len(results.labels)
    figure, axes = new_figure(1.4 + 2.9 * count, 6.2, 2, count, sharey="col")
    for column, label in enumerate(results.labels):
        above, below = axes[column], axes[count + column]
        _by_dose(above, results, label)
        _by_price(below, results, label)
        above.set_title(f"{label.label}: mode {label.mode}")
        above.set_xlabel("dose ε")
        below.set_xlabel("rise of perplexity")
        below.xaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{share:.3g}"))
        for axis in (above, below):
            axis.axhline(0, color=MUTED, linewidth=0.8)
            axis.set_xscale("log")
        below.axvline(results.settings.price, color=MUTED, linestyle=":", linewidth=1)
    for row in (0, count):
        axes[row].set_ylabel("change of mean log-probability")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=5)
    return figure


def _by_dose(axis: Axes, results: StepResults, label: LabelSteps) -> None:
    def drawn(direction: Direction, sense: int) -> tuple[Float64Array, Float64Array]:
        path = [s for s in direction.path(label.label, sense) if s.price <= 1]
        doses = np.array([abs(step.dose) for step in path])
        return doses, np.array([step.changes[label.label].log_mass for step in path])

    doses = np.array(results.settings.doses)
    for sense in (_RAISE, _LOWER):
        by_dose: list[list[float]] = [[] for _ in doses]
        for direction in results.random:
            for step in direction.path(label.label, sense):
                place = int(np.abs(doses - abs(step.dose)).argmin())
                by_dose[place].append(step.changes[label.label].log_mass)
        _band(axis, doses, by_dose, sense)
        _lines(axis, results, label, sense, drawn)
        own = results.modes[label.mode]
        reached, _ = drawn(own, sense)
        sign = sense * own.senses[label.label]
        axis.plot(
            reached, sign * own.slopes[label.label] * reached, ":", color=COLORS[0], linewidth=1.2,
            label="first order" if sense == _RAISE else None,
        )  # fmt: skip


def _by_price(axis: Axes, results: StepResults, label: LabelSteps) -> None:
    def drawn(direction: Direction, sense: int) -> tuple[Float64Array, Float64Array]:
        values = at_prices(direction.path(label.label, sense), label.label, _PRICES)
        return _PRICES, values

    for sense in (_RAISE, _LOWER):
        values = np.array([drawn(direction, sense)[1] for direction in results.random])
        known = [list(column[np.isfinite(column)]) for column in values.T]
        _band(axis, _PRICES, known, sense)
        _lines(axis, results, label, sense, drawn)


def at_prices(path: Sequence[Step], label: str, prices: Float64Array) -> Float64Array:
    """The change of a label's words where a path first costs each of some prices; NaN beyond it."""
    costs, changes = [0.0], [0.0]
    for step in path:
        if step.price > costs[-1]:
            costs.append(step.price)
            changes.append(step.changes[label].log_mass)
    return np.interp(prices, costs, changes, right=np.nan)


def _band(axis: Axes, x: Float64Array, values: Sequence[Sequence[float]], sense: int) -> None:
    enough = [i for i, found in enumerate(values) if len(found) >= FEWEST]
    if not enough:
        return
    low, high = np.array([np.quantile(values[i], MIDDLE) for i in enough]).T
    name = f"{len(values[enough[0]])} random, middle 90%" if sense == _RAISE else None
    axis.fill_between(x[enough], low, high, color=_GRID, alpha=0.6, linewidth=0, label=name)
    axis.plot(x[enough], [np.mean(values[i]) for i in enough], color=MUTED, linewidth=1)


def _lines(axis: Axes, results: StepResults, label: LabelSteps, sense: int, drawn: object) -> None:
    assert callable(drawn)
    names = ["other modes", "input direction", "its mode"] if sense == _RAISE else [None] * 3
    others = [d for mode, d in results.modes.items() if mode != label.mode]
    for number, other in enumerate(others):
        name = names[0] if number == 0 else None
        axis.plot(*drawn(other, sense), color=COLORS[4], linewidth=0.7, alpha=0.8, label=name)
    control = results.input_of(label.mode)
    if control is not None:
        axis.plot(*drawn(control, sense), "--", color=COLORS[2], linewidth=1.4, label=names[1])
    own = results.modes[label.mode]
    axis.plot(*drawn(own, sense), ".-", color=COLORS[0], linewidth=2, markersize=4, label=names[2])


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
