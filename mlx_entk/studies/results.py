"""What studies find, as records: their fields are the keys of results.json.

``mlx_entk._records`` turns them into JSON and back, and checks every value on the way.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

import numpy as np

from mlx_entk.analysis import TrainedAlignment
from mlx_entk.cliffs import Cliff
from mlx_entk.controls import Scaling
from mlx_entk.dynamics import MIN_RISE, Transition
from mlx_entk.features import Alignment
from mlx_entk.probes import ProbeAccuracy
from mlx_entk.regression import Quality
from mlx_entk.spectrum import Modes

# By kernel.
Cliffs = dict[str, list[Cliff]]
Ranks = dict[str, float | None]


# A null model, drawn several times


@dataclass(frozen=True)
class MeanOfRandom:
    """Mean and standard deviation over draws."""

    mean: float
    deviation: float

    @classmethod
    def of(cls, draws: Iterable[float]) -> Self:
        """The record of some draws, at least one."""
        values = np.array(list(draws))
        return cls(float(values.mean()), float(values.std()))

    def __str__(self) -> str:
        digits = 3 if self.deviation < 0.1 else 2
        return f"{self.mean:.{digits}f} ± {self.deviation:.{digits}f}"


# Modular addition


@dataclass(frozen=True)
class Parts:
    """A metric on the pairs that were trained on, and on the others."""

    train: float
    test: float


@dataclass(frozen=True)
class Series:
    """The overlap of one group of modes of one kernel with one family over training.

    Attributes
    ----------
    kernel, modes, family
        Of what.
    dimension
        The largest overlap that there can be.
    overlap, derivative
        By tracked epoch; and its change per epoch.
    transition
        The one rise in it.
    """

    kernel: str
    modes: Modes
    family: str
    dimension: int
    overlap: list[float]
    derivative: list[float]
    transition: Transition

    @property
    def percent(self) -> list[float]:
        """The overlap in per cent of the dimension, by tracked epoch."""
        return [100 * value / self.dimension for value in self.overlap]

    @property
    def rise(self) -> float:
        """From the first value to the largest, as a share of the dimension."""
        return (max(self.overlap) - self.overlap[0]) / self.dimension


@dataclass(frozen=True)
class Onset:
    """When test accuracy and overlap rose.

    Attributes
    ----------
    rule
        What a rise is.
    overlap, test_accuracy
        The rises.
    steepest_overlap, steepest_test_accuracy
        Epochs of the steepest slopes.
    """

    rule: str
    overlap: Transition
    test_accuracy: Transition
    steepest_overlap: int
    steepest_test_accuracy: int


@dataclass(frozen=True)
class Grokking:
    """Accuracy and kernels over training.

    Attributes
    ----------
    epochs
        Those tracked.
    train_accuracy, test_accuracy
        By tracked epoch, from 0 to 1.
    kernel, modes, family
        Of the series that is compared with the test accuracy.
    onset
        When both rose.
    distance
        Of each kernel from what it was at the first tracked epoch, by epoch.
    velocity
        Of each kernel: its distance from the checkpoint before, per epoch.
    with_targets, with_final
        Centred alignment of each kernel with the targets and with the last kernel, by epoch.
    after_kernel_accuracy, after_kernel_rule
        Test accuracy of kernel regression with the whole kernel of each epoch; and how it is done.
    series
        Every overlap that was followed.
    """

    epochs: list[int]
    train_accuracy: list[float]
    test_accuracy: list[float]
    kernel: str
    modes: Modes
    family: str
    onset: Onset
    distance: dict[str, list[float]]
    velocity: dict[str, list[float]]
    with_targets: dict[str, list[float]]
    with_final: dict[str, list[float]]
    after_kernel_accuracy: list[float]
    after_kernel_rule: str
    series: list[Series]

    @property
    def main(self) -> Series:
        """The series that is compared with the test accuracy."""
        wanted = (self.kernel, self.modes, self.family)
        return next(s for s in self.series if (s.kernel, s.modes, s.family) == wanted)


@dataclass(frozen=True)
class Move:
    """When the kernel of a parameter turned to its family.

    Attributes
    ----------
    kernel, modes, family, dimension, transition
        As in ``Series``.
    rise
        Of the overlap, as a share of the dimension.
    epoch
        By which half of that was done.
    lead
        Epochs by which that was ahead of half the rise of the test accuracy.
    """

    kernel: str
    modes: Modes
    family: str
    dimension: int
    transition: Transition
    rise: float
    epoch: float
    lead: float

    @property
    def rose(self) -> bool:
        """Whether the overlap rose by ``MIN_RISE`` or more."""
        return self.rise >= MIN_RISE


@dataclass(frozen=True)
class GrokkingByParameter(Grokking):
    """The same, with when each kernel turned to its family.

    Attributes
    ----------
    half_rise_rule
        What half a rise is.
    half_rise_of_test_accuracy
        The epoch of it.
    moves
        The earliest first.
    """

    half_rise_rule: str
    half_rise_of_test_accuracy: float
    moves: list[Move]


@dataclass(frozen=True)
class SingleFrequency:
    """How nearly each rotated mode is one frequency of one family: |cosine| with its best."""

    median: float
    smallest: float


@dataclass(frozen=True)
class Disentangled:
    """A group of modes rotated into single frequencies.

    Attributes
    ----------
    kernel, modes
        Of what.
    single_frequency
        After the rotation.
    rotated_at_random
        The median by random rotations of the same modes.
    random_subspaces
        The median of random subspaces of the same dimension, rotated in the same way.
    """

    kernel: str
    modes: Modes
    single_frequency: SingleFrequency
    rotated_at_random: MeanOfRandom
    random_subspaces: MeanOfRandom


@dataclass(frozen=True)
class KeyFrequencies:
    """Frequencies that a network uses, by its embedding and by its kernel's modes."""

    rule: str
    embedding: list[int]
    kernel: list[int]


@dataclass(frozen=True)
class LocalisedAlignment(TrainedAlignment):
    """An alignment of a kernel of one parameter and one reduction."""

    reduction: str


@dataclass(frozen=True)
class Probed:
    """What linear probes of one network's activations tell.

    Attributes
    ----------
    network
        ``trained`` or ``initial``.
    activations
        Which ones.
    target
        The class that was probed for.
    accuracy
        How often it was told.
    """

    network: str
    activations: str
    target: str
    accuracy: ProbeAccuracy


# Toy models of superposition


@dataclass(frozen=True)
class Recovery:
    """How many features the modes of one network's kernel recover.

    Attributes
    ----------
    network
        ``trained``, ``initial`` or ``shuffled``.
    beta
        Exponent of the importance rescaling.
    modes
        How many were looked at.
    cliffs, effective_rank
        Of the whole kernel.
    recovered
        Features that single modes recover.
    recovered_by_rotated_modes, recovered_by_random_modes
        The same of two kinds of chance.
    contained
        Features that lie in the span of all the modes.
    recovered_by_disentangled_modes
        Features that single directions recover after the modes were rotated to sparse ones,
        without knowing the features; None for exponents, and in runs of versions, where this was
        not done.
    shuffled_recovered_by_disentangled_modes
        The same of features that were shuffled over the inputs, each within its output: what a
        direction that only keeps to one output explains.
    contained_by_random_modes
        Features that lie in the span of random modes: no rotation of them could recover more.
    """

    network: str
    beta: float
    modes: int
    cliffs: list[Cliff]
    effective_rank: float
    recovered: int
    recovered_by_rotated_modes: int
    recovered_by_random_modes: int
    contained: int
    recovered_by_disentangled_modes: int | None = None
    shuffled_recovered_by_disentangled_modes: int | None = None
    contained_by_random_modes: int | None = None


@dataclass(frozen=True)
class ControlRecovery:
    """How many features the Gram matrix of one network's activations or outputs recovers.

    Attributes
    ----------
    network
        As in ``Recovery``.
    control, scaling
        As in ``mlx_entk.controls.ControlAlignment``.
    modes
        How many were looked at; there are fewer than of the kernel if the control has not so many.
    recovered, recovered_by_rotated_modes, recovered_by_random_modes, contained, \
    recovered_by_disentangled_modes
        As in ``Recovery``.
    """

    network: str
    control: str
    scaling: Scaling
    modes: int
    recovered: int
    recovered_by_rotated_modes: int
    recovered_by_random_modes: int
    contained: int
    recovered_by_disentangled_modes: int | None = None


@dataclass(frozen=True)
class Learned:
    """What a toy model and its kernels know at one step of training.

    Attributes
    ----------
    step
        Of the training.
    reconstructed, recovered
        Features; those that single modes of the flattened kernel recover by exponent β.
    with_targets, with_final
        Centred alignment of the trace kernel with the targets and with that of the last step.
    velocity
        Distance of the trace kernel from that of the checkpoint before, per step.
    after_kernel_r2
        R² of the held-out targets by regression with the trace kernel.
    """

    step: int
    reconstructed: int
    recovered: dict[str, int]
    with_targets: float
    with_final: float
    velocity: float
    after_kernel_r2: float


@dataclass(frozen=True)
class DatasetSize:
    """A toy model trained on so many rows."""

    rows: int
    train_loss: float
    test_loss: float
    reconstructed: int
    effective_rank: float


# Sweeps


@dataclass(frozen=True)
class OfSeed:
    """The headline numbers of one seed."""

    seed: int
    figures: dict[str, float | None]


@dataclass(frozen=True)
class Spread:
    """A headline number over the seeds that have it.

    Attributes
    ----------
    count
        How many have it.
    mean, smallest, largest
        None if none has.
    deviation
        The sample standard deviation; None for fewer than two.
    """

    count: int
    mean: float | None
    deviation: float | None
    smallest: float | None
    largest: float | None


# Regression


@dataclass(frozen=True)
class RidgePath:
    """R² on held-out inputs by ridge, in units of the mean eigenvalue."""

    r2: list[float]
    ridges: list[float]


@dataclass(frozen=True, kw_only=True)
class Predictor(Quality):
    """One predictor at its best ridge.

    Attributes
    ----------
    predictor
        Its name.
    ridge
        In units of the mean eigenvalue.
    at_edge
        Whether that is the smallest or the largest ridge that was tried.
    described
        Whether it describes the network by the stated rule; None for the linearised predictor,
        which any kernel would bring close to the network.
    path
        Over all ridges.
    """

    predictor: str
    ridge: float
    at_edge: bool
    described: bool | None
    path: RidgePath


@dataclass(frozen=True, kw_only=True)
class LeadingModes(Quality):
    """The pure kernel predictor by its ``k`` leading modes."""

    k: int


@dataclass(frozen=True, kw_only=True)
class WithoutMode(Quality):
    """The pure kernel predictor without one mode."""

    mode: int


@dataclass(frozen=True, kw_only=True)
class WithoutGroup(Quality):
    """The pure kernel predictor without a group of modes, and by that group alone.

    Attributes
    ----------
    modes
        The group.
    alone
        By the group alone.
    random, random_alone
        R² without random modes, as many as the group has, and by them alone.
    """

    modes: Modes
    alone: Quality
    random: MeanOfRandom
    random_alone: MeanOfRandom


@dataclass(frozen=True)
class ByModes:
    """The pure kernel predictor by some of its modes.

    Attributes
    ----------
    cliffs
        Of the kernel on the training inputs.
    top, without_group, without_mode
        By the leading modes, without each of the groups, without each of the leading modes.
    all
        By every mode.
    """

    cliffs: list[Cliff]
    top: list[LeadingModes]
    without_group: list[WithoutGroup]
    without_mode: list[WithoutMode]
    all: Quality


@dataclass(frozen=True)
class InputCounts:
    """Inputs to train on, and those held out."""

    train: int
    held_out: int


@dataclass(frozen=True)
class Regression:
    """What regression.json holds.

    Attributes
    ----------
    kernel
        What the modes are of: ``"trace"`` or ``"full"``.
    rank
        Modes above the noise floor.
    verdict_rule, ridge_rule
        When a kernel describes its network, and how the ridge is chosen.
    predictors
        Each at its best ridge.
    modes
        The pure kernel predictor by its modes.
    alignment
        Of the groups of modes of the kernel on the training inputs with families of features;
        empty for a flattened kernel, and if there are none.
    """

    kernel: str
    inputs: InputCounts
    rank: int
    verdict_rule: str
    ridge_rule: str
    predictors: list[Predictor]
    modes: ByModes
    alignment: list[Alignment]
