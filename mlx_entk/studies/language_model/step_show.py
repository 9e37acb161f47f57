"""How steps along a language model's modes are shown: sentences, tables, examples and figures."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mlx_entk.plotting import CaptionedFigure
from mlx_entk.report import Table
from mlx_entk.studies.base import Figures
from mlx_entk.studies.language_model.step_charts import (
    FEWEST,
    MIDDLE,
    dose_responses,
    labels_by_modes,
)
from mlx_entk.studies.language_model.steps import (
    Change,
    Example,
    LabelSteps,
    Step,
    StepResults,
)

_SENSES = {1: "raise", -1: "lower"}


@dataclass(frozen=True)
class AtPrice:
    """What a label's mode does at the price, and what random directions do there.

    Attributes
    ----------
    value
        Of the mode.
    mean, interval
        Of random directions that reach the price: mean, and the middle 90%; None of too few.
    random
        How many reach it.
    """

    value: float
    mean: float | None
    interval: tuple[float, float] | None
    random: int

    @property
    def place(self) -> int:
        """1 if the mode lies above the interval of random directions, −1 below, 0 otherwise."""
        if self.interval is None:
            return 0
        return int(self.value > self.interval[1]) - int(self.value < self.interval[0])


def at_price(
    results: StepResults, label: LabelSteps, sense: int, measure: Callable[[Change], float]
) -> AtPrice | None:
    """A measure of the step along a label's mode at the price; None if no dose costs so much.

    Parameters
    ----------
    sense
        1 for the sign that is to raise the label's words, −1 for the other; likewise for each of
        the random directions.
    """
    own = results.modes[label.mode].at(label.label, sense)
    if own is None:
        return None
    steps = [direction.at(label.label, sense) for direction in results.random]
    values = [measure(step.changes[label.label]) for step in steps if step is not None]
    known = len(values) >= FEWEST
    low, high = np.quantile(values, MIDDLE) if known else (0.0, 0.0)
    return AtPrice(
        measure(own.changes[label.label]),
        float(np.mean(values)) if known else None,
        (float(low), float(high)) if known else None,
        len(values),
    )


def step_summary(results: StepResults) -> str:
    """Say how many labels' modes do more at the price than random directions."""
    counts = []
    for sense, verb in _SENSES.items():
        found = [at_price(results, label, sense, lambda c: c.log_mass) for label in results.labels]
        known = [one for one in found if one is not None and one.interval is not None]
        beyond = sum(one.place == sense for one in known)
        counts.append(f"{beyond} of {len(known)} that are to {verb} them")
    return (
        f"At a rise of perplexity by {results.settings.price:.0%}, steps along a label's mode move "
        "the log-probability of its words further than the middle 90% of "
        f"{results.settings.random} random directions in {' and '.join(counts)}; by chance it "
        "would be 5% of them."
    )


def step_tables(results: StepResults) -> list[Table]:
    """What each label's mode does at the price, what controls do, and what the labels are."""
    steps = [
        _Row(label, sense, step)
        for label in results.labels
        for sense in _SENSES
        if (step := results.modes[label.mode].at(label.label, sense)) is not None
    ]
    return [_effects(results, steps), _controls(results, steps), _words(results)]


@dataclass(frozen=True)
class _Row:
    """A label, whether its words are to be raised, and the step along its mode at the price."""

    label: LabelSteps
    sense: int
    step: Step

    @property
    def head(self) -> tuple[str, str, str]:
        """What a row begins with."""
        return self.label.label, _SENSES[self.sense], str(self.label.mode)

    @property
    def change(self) -> Change:
        """Of the label's words."""
        return self.step.changes[self.label.label]


def _effects(results: StepResults, rows: list[_Row]) -> Table:
    def cells(row: _Row) -> tuple[str, ...]:
        found = at_price(results, row.label, row.sense, lambda change: change.log_mass)
        mass = row.label.mass
        return (
            *row.head, _signed(row.step.dose, 3), f"{row.step.price:.1%}",
            _signed(row.change.log_mass), _random(found),
            f"{mass:.3f} → {mass + row.change.mass:.3f}",
        )  # fmt: skip

    return Table(
        f"Steps in {results.weight} of layer {results.settings.layer}, at a rise of perplexity by "
        f"{results.settings.price:.0%}",
        ("label", "to", "mode", "dose", "price", "change", "random", "probability"),
        list(map(cells, rows)),
        f"Mode, words and signs are chosen on {results.chosen_on} windows of one half, effects are "
        f"of {results.measured_on} of the other, and the price is of "
        f"{results.settings.price_windows} windows of other text (perplexity "
        f"{results.perplexity:.2f}). The modes themselves were found on all windows, without "
        "labels. To: the sign of the step is the one predicted to raise the log-probability of the "
        "label's words, or to lower it. Dose: as a share of the weight's norm. Change: of the mean "
        "log-probability of these words on windows with the label. Random: the same of random "
        "directions in the weight at the same price, each with the sign predicted for it: mean, "
        "and the middle 90%. Probability: the mean before and after. A step that never costs so "
        "much is left out.",
    )


def _controls(results: StepResults, rows: list[_Row]) -> Table:
    def cells(row: _Row) -> tuple[str, ...]:
        name, mode = row.label.label, row.label.mode
        control = results.input_of(mode)
        by_input = None if control is None else control.at(name, row.sense)
        others = [d.at(name, row.sense) for number, d in results.modes.items() if number != mode]
        changes = [other.changes[name].log_mass for other in others if other is not None]
        selectivity = at_price(results, row.label, row.sense, lambda change: change.selectivity)
        return (
            *row.head,
            "–" if by_input is None else _signed(by_input.changes[name].log_mass),
            f"{_signed(min(changes))} to {_signed(max(changes))}" if changes else "–",
            _signed(row.change.log_mass_others),
            _signed(row.change.selectivity),
            _random(selectivity),
        )

    return Table(
        "The same steps against other directions and on other windows",
        ("label", "to", "mode", "input", "other modes", "elsewhere", "more", "random"),
        list(map(cells, rows)),
        "Changes of the mean log-probability of the label's words, all at the same price. Input: "
        "by the rank-one direction that reads the principal direction of the weight's input "
        "closest to the mode, and writes what moves the outputs most, as far as the modes here "
        "tell. Other modes: the least and the most of the other modes. Elsewhere: by the label's "
        "mode, on windows without the label. More: how much more it changes on windows with the "
        "label, which tells whether the step works where the label is, and the same of random "
        "directions.",
    )


def _random(found: AtPrice | None) -> str:
    if found is None or found.interval is None or found.mean is None:
        return "too few"
    return f"{_signed(found.mean)} [{', '.join(map(_signed, found.interval))}]"


def _signed(value: float, digits: int = 2) -> str:
    return f"{value:+.{digits}f}".replace("-", "−")


def _words(results: StepResults) -> Table:
    return Table(
        "Labels whose modes were stepped along",
        ("label", "mode", "precision", "windows", "probability", "on others", "words begin with"),
        [
            (
                label.label,
                f"{'+' if label.end > 0 else '−'}{label.mode}",
                f"{label.precision:.3f}",
                str(label.windows),
                f"{label.mass:.3f}",
                f"{label.mass_others:.3f}",
                f"{len(label.words)}: " + " ".join(word.strip() for word in label.words[:12]),
            )
            for label in results.labels
        ],
        "Mode: with the end at which the label is. Precision: average precision on the half on "
        "which it was chosen. Windows: with the label, of those that effects are measured on. "
        "Probability: mean over them that the next token begins one of the label's words, and over "
        "the others.",
    )


def example_tables(results: StepResults) -> list[Table]:
    """For each label, windows with their likeliest next words before and after steps."""
    return [
        Table(
            f"{label.label}: next words before and after a step along mode {label.mode}",
            ("window", "next", "before", "raised", "lowered"),
            [_example(example) for example in label.examples],
            f"Windows of the half to measure on, at the mode's end of the label. Raised, lowered: "
            f"after the step at a rise of perplexity by {results.settings.price:.0%}.",
        )
        for label in results.labels
    ]


def _example(example: Example) -> tuple[str, ...]:
    def words(pairs: list[tuple[str, float]]) -> str:
        return ", ".join(f"{word.strip() or '␣'} {p:.2f}" for word, p in pairs) or "–"

    return (
        f"…{example.text}", example.word, words(example.before), words(example.raised),
        words(example.lowered),
    )  # fmt: skip


def step_figures(results: StepResults) -> Figures:
    """Dose–response by label, and labels by modes."""
    yield CaptionedFigure(
        "lm-steps-dose",
        dose_responses(results),
        "What steps do to the mean log-probability of each label's words, on held-out windows that "
        "have it: above by the dose, as a share of the weight's norm, below by what it costs in "
        "perplexity of other text. The upper branch is the sign that was predicted to raise them "
        "on the other half of the windows, the lower branch the opposite, for random directions "
        "as for modes. Lines end where the perplexity has doubled. The mark below is the price of "
        "the tables.",
    )
    yield CaptionedFigure(
        "lm-steps-matrix",
        labels_by_modes(results),
        "Change of the mean log-probability of each label's words (rows) by a step along each mode "
        f"(columns) that raises perplexity by {results.settings.price:.0%}; the last column is the "
        "mean of random directions. Framed: the mode that was chosen for the label. A mode that "
        "works on its label alone stands out in its column.",
    )
