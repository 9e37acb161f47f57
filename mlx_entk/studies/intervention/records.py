"""What an intervention finds, as records: their fields are the keys of intervention.json."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, Self, get_args

import numpy as np

from mlx_entk.intervention import LinearRange
from mlx_entk.spectrum import Modes

# Take out what was learned in the span of modes, all that the weights hold there, or step.
By = Literal["undo", "project", "step"]
BY: tuple[By, ...] = get_args(By)


@dataclass(frozen=True)
class Interval:
    """Mean over draws, and the central 90% of them."""

    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, draws: Iterable[float]) -> Self:
        """The record of some draws, at least one."""
        values = np.array(list(draws))
        low, high = np.quantile(values, [0.05, 0.95])
        return cls(float(values.mean()), float(low), float(high))

    def contains(self, value: float) -> bool:
        """Whether a value is among the central draws."""
        return self.low <= value <= self.high


@dataclass(frozen=True)
class Control:
    """An edit, or several that were drawn, that a mode group's edit is compared with.

    Attributes
    ----------
    name
        What it changes.
    norm
        Of the change.
    after
        Every measure with the changed weights.
    alone
        The same if what was taken out is all that is left; None for steps and random changes.
    draws
        How many.
    """

    name: str
    norm: Interval
    after: dict[str, Interval]
    alone: dict[str, Interval] | None
    draws: int


@dataclass(frozen=True)
class Touched:
    """What an edit does to one parameter.

    Attributes
    ----------
    parameter
        Its name.
    share
        Of the squared norm of the edit.
    effective_rank
        Of the squared singular values of a matrix's change; None for other shapes.
    """

    parameter: str
    share: float
    effective_rank: float | None


@dataclass(frozen=True)
class Dose:
    """The main measure with a share of an edit, and with random edits of the same norm."""

    dose: float
    value: float
    random: Interval


@dataclass(frozen=True)
class Edit:
    """An edit along a group of modes, what it did, and what other edits did.

    Attributes
    ----------
    name, modes
        The group; None for modes that are no group.
    size, dimension
        Modes, and gradients that span what belongs to them in weight space.
    norm, share
        Of the change; and as a share of the norm of what was learned, or of the weights.
    after
        Every measure with the changed weights.
    alone
        The same with nothing else: the weights before training and what was learned in the span,
        or what the weights hold in the span; None for steps.
    by_class
        By class or output, with the changed weights; empty if there are no classes.
    controls
        Other edits.
    doses
        The main measure over shares of the edit.
    linear
        How far a first-order prediction tells what the edit does.
    touched
        What it does to each parameter.
    """

    name: str
    modes: Modes | None
    size: int
    dimension: int
    norm: float
    share: float
    after: dict[str, float]
    alone: dict[str, float] | None
    by_class: list[float]
    controls: list[Control]
    doses: list[Dose]
    linear: LinearRange
    touched: list[Touched]

    def control(self, name: str) -> Control | None:
        """The control of a name; None if there is none."""
        return next((control for control in self.controls if control.name == name), None)


@dataclass(frozen=True)
class SingleEdit:
    """An edit that takes out one feature.

    Attributes
    ----------
    feature
        Its name.
    size
        Modes that were taken out.
    norm
        Of the change.
    after
        Every measure with the changed weights.
    changes
        By how much of itself the strength of every feature changes, in the order of the features:
        −1 is all of it.
    specificity
        The feature's own share of all these changes, as absolute values.
    selectivity
        The mean squared change of the outputs on inputs that have the feature over that on inputs
        that do not; None if it is on all inputs.
    random_own, random_specificity, random_selectivity
        The same for random changes of equal norm: of the feature itself, …
    """

    feature: str
    size: int
    norm: float
    after: dict[str, float]
    changes: list[float]
    specificity: float
    selectivity: float | None
    random_own: Interval
    random_specificity: Interval
    random_selectivity: Interval | None

    def own(self, features: Sequence[str]) -> float:
        """The change of the feature itself."""
        return self.changes[features.index(self.feature)]


@dataclass(frozen=True)
class Cumulative:
    """The main measure after more and more single features were taken out together.

    Attributes
    ----------
    features
        How many.
    value
        With the modes of that many features, drawn at random, taken out.
    random
        With random changes of the same norm.
    """

    features: int
    value: Interval
    random: Interval


@dataclass(frozen=True)
class Intervention:
    """What an intervention on the network of a run found.

    Attributes
    ----------
    by
        What was done.
    kernel
        Its reduction.
    parameters
        Those that were changed.
    draws
        Of random edits.
    before
        Every measure of the trained network.
    initial
        The same before training; None if that is not known.
    by_class
        By class or output, of the trained network.
    edits
        Along groups of modes.
    features
        Names of the features whose strengths are followed.
    singles
        Edits that take out one feature.
    cumulative
        Edits that take out several features.
    single_rule
        How the modes of a feature were found.
    """

    by: By
    kernel: str
    parameters: list[str]
    draws: int
    before: dict[str, float]
    initial: dict[str, float] | None
    by_class: list[float]
    edits: list[Edit]
    features: list[str]
    singles: list[SingleEdit]
    cumulative: list[Cumulative]
    single_rule: str

    @property
    def main(self) -> str:
        """The measure that figures show."""
        return next(iter(self.before))

    @property
    def dominant(self) -> int:
        """How many single edits change their own feature the most."""
        return sum(
            int(np.argmax(np.abs(row.changes)) == self.features.index(row.feature))
            for row in self.singles
        )
