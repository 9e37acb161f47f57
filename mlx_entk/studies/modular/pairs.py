"""What the studies of modular addition share: settings, training on pairs, rises over training."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np

from mlx_entk._files import Json
from mlx_entk._linalg import Float64Array, FloatArray
from mlx_entk.data import ModularAddition
from mlx_entk.dynamics import ONSET_RULE, Trajectory, derivative, transition
from mlx_entk.errors import InputError
from mlx_entk.features import FREQUENCY_FAMILIES, Alignment, modular_features
from mlx_entk.features.bank import frequency_families
from mlx_entk.kernel import entk
from mlx_entk.progress import Progress, silent
from mlx_entk.regression import AFTER_KERNEL_RIDGE, kernel_predictions
from mlx_entk.runs import Run
from mlx_entk.spectrum import Modes, eigendecompose
from mlx_entk.studies.base import CommandGroup
from mlx_entk.studies.intervention.problem import (
    Features,
    InterventionProblem,
    along,
    strength_in,
)
from mlx_entk.studies.problem import RegressionProblem, Split, last_activations, outputs_of
from mlx_entk.studies.results import Grokking, Onset, Parts, Series
from mlx_entk.studies.settings import setting
from mlx_entk.tracing.functions import as_parametric
from mlx_entk.training import Batch, Stop, load_parameters, never, train

PARTS = ("train", "test")

AFTER_KERNEL_RULE = (
    "kernel regression of the unit vectors of the labels on the training pairs, with the kernel of "
    f"that epoch and a ridge of {AFTER_KERNEL_RIDGE:g} mean eigenvalues"
)


MODULAR = CommandGroup("modular", "Train networks to add modulo p, and analyse their eNTKs.")


@dataclass(frozen=True, kw_only=True)
class ModularConfig:
    """Settings that the studies of modular addition share.

    Raises
    ------
    InputError
        For a value that the studies cannot use.
    """

    p: int = setting("Modulus, odd and at least 3.", 29)
    train_fraction: float = setting("Share of the p² pairs to train on, between 0 and 1.")
    epochs: int = setting("Most passes over the training pairs.")
    seed: int = setting("Seed of the weights, the split and the batches.")
    learning_rate: float = setting("Learning rate of the AdamW optimizer.")
    weight_decay: float = setting("Weight decay of the AdamW optimizer.")

    def __post_init__(self) -> None:
        if self.p < 3 or self.p % 2 == 0:
            raise InputError(f"p is {self.p}: Fourier families need an odd p of at least 3")
        if not 0 < self.train_fraction < 1:
            raise InputError(f"train fraction is {self.train_fraction}: it must be between 0 and 1")
        count = round(self.train_fraction * self.p**2)
        if not 0 < count < self.p**2:
            raise InputError(
                f"train fraction {self.train_fraction} of {self.p**2} pairs leaves "
                f"{'nothing to train on' if count == 0 else 'nothing to test on'}"
            )
        if self.epochs < 2 * self.checkpoint_every:
            raise InputError(
                f"epochs is {self.epochs}: following the kernel takes at least "
                f"{2 * self.checkpoint_every}"
            )
        if self.seed < 0:
            raise InputError(f"seed is {self.seed}: it must be 0 or more")
        if not self.learning_rate > 0:
            raise InputError(f"learning rate is {self.learning_rate}: it must be above 0")
        if not self.weight_decay >= 0:
            raise InputError(f"weight decay is {self.weight_decay}: it must be 0 or more")

    @property
    def checkpoint_every(self) -> int:
        """Epochs between checkpoints."""
        return 10


def train_on_pairs(
    model: nn.Module,
    inputs: mx.array,
    data: ModularAddition,
    config: ModularConfig,
    loss: Callable[[mx.array, mx.array], mx.array],
    run: Run,
    *,
    batch_size: int | None = None,
    evaluate_every: int = 1,
    stop: Stop = never,
    progress: Progress = silent,
) -> int:
    """Train in place by AdamW, from the run's last checkpoint if there is one.

    Parameters
    ----------
    inputs
        Of all p² pairs.
    loss
        Of logits (N, p) and labels (N,), a scalar.
    batch_size
        Pairs a step, in an order drawn from seed and epoch, the last batch the rest; None for
        full batches.

    Returns
    -------
    int
        The epoch at which the training ended.
    """
    labels = mx.array(data.labels)
    parts = {
        part: (inputs[index], labels[index])
        for part, index in (("train", mx.array(data.train)), ("test", mx.array(data.test)))
    }

    def loss_of(network: nn.Module, x: mx.array, labels: mx.array) -> mx.array:
        return loss(network(x), labels)

    def batches(epoch: int) -> Iterator[Batch]:
        if batch_size is None:
            yield parts["train"]
            return
        order = np.random.default_rng([config.seed, epoch]).permutation(data.train.size)
        x, y = (values[mx.array(order)] for values in parts["train"])
        for start in range(0, data.train.size, batch_size):
            yield x[start : start + batch_size], y[start : start + batch_size]

    def evaluate() -> Mapping[str, mx.array]:
        metrics: dict[str, mx.array] = {}
        for part, (x, y) in parts.items():
            logits = model(x)
            metrics[f"{part} loss"] = loss(logits, y)
            metrics[f"{part} accuracy"] = mx.sum(mx.argmax(logits, axis=1) == y) / y.size
        return metrics

    # MLX leaves out Adam's bias correction unless told; the paper's optimizer has it.
    optimizer = optim.AdamW(
        config.learning_rate, weight_decay=config.weight_decay, bias_correction=True
    )
    return train(
        model,
        optimizer,
        loss_of,
        batches,
        evaluate,
        run,
        epochs=config.epochs,
        checkpoint_every=config.checkpoint_every,
        evaluate_every=evaluate_every,
        stop=stop,
        progress=progress,
    )


def last_metrics(metrics: list[Json]) -> dict[str, Parts]:
    """Accuracy and loss by part after training."""
    return {
        metric: Parts(*(metrics[-1][f"{part} {metric}"] for part in PARTS))
        for metric in ("accuracy", "loss")
    }


def grokking(
    trajectory: Trajectory,
    alignment: Sequence[Alignment],
    metrics: list[Json],
    main: tuple[str, Modes, str],
) -> Grokking:
    """Accuracy, distances and overlaps over the epochs tracked, and when they rose.

    Parameters
    ----------
    alignment
        Rows of the kernels, groups and families that were tracked.
    main
        Kernel, modes and family of the series to compare with the test accuracy.
    """
    epochs = trajectory.epochs
    by_epoch = {row["epoch"]: row for row in metrics}
    if not by_epoch.keys() >= {int(epoch) for epoch in epochs}:
        raise InputError(
            "the metrics of the run have no row for some epochs whose kernels were followed: they "
            "are damaged"
        )
    train, test = (
        np.array([by_epoch[int(epoch)][f"{part} accuracy"] for epoch in epochs]) for part in PARTS
    )
    dimensions = {(row.kernel, row.modes, row.family): row.dimension for row in alignment}
    overlap = trajectory.overlaps[main]
    kernel, modes, family = main
    return Grokking(
        epochs=[int(epoch) for epoch in epochs],
        train_accuracy=train.tolist(),
        test_accuracy=test.tolist(),
        kernel=kernel,
        modes=modes,
        family=family,
        onset=Onset(
            rule=ONSET_RULE,
            overlap=transition(epochs, overlap, dimensions[main]),
            test_accuracy=transition(epochs, test),
            steepest_overlap=int(epochs[np.argmax(derivative(epochs, overlap))]),
            steepest_test_accuracy=int(epochs[np.argmax(derivative(epochs, test))]),
        ),
        distance=_lists(trajectory.distances),
        velocity=_lists(trajectory.velocities),
        with_targets=_lists(trajectory.with_targets or {}),
        with_final=_lists(trajectory.with_final),
        after_kernel_accuracy=trajectory.measures,
        after_kernel_rule=AFTER_KERNEL_RULE,
        series=[
            Series(
                *key,
                dimension=dimensions[key],
                overlap=overlap.tolist(),
                derivative=derivative(epochs, overlap).tolist(),
                transition=transition(epochs, overlap, dimensions[key]),
            )
            for key, overlap in trajectory.overlaps.items()
        ],
    )


def _lists(series: Mapping[str, Float64Array]) -> dict[str, list[float]]:
    return {name: values.tolist() for name, values in series.items()}


def after_kernel_accuracy(
    data: ModularAddition, kernel: str
) -> Callable[[dict[str, FloatArray]], float]:
    """A measure of one of some kernels: the test accuracy of ``AFTER_KERNEL_RULE``."""
    targets = np.eye(math.isqrt(len(data.labels)))[data.labels]
    split = Split(data.train, data.test)

    def accuracy(kernels: dict[str, FloatArray]) -> float:
        train, test = split.blocks(kernels[kernel])
        predicted = kernel_predictions(train, test, targets[data.train], AFTER_KERNEL_RIDGE)
        return float((predicted.argmax(axis=1) == data.labels[data.test]).mean())

    return accuracy


def problem_of_pairs(
    run: Run,
    model: nn.Module,
    inputs: mx.array,
    data: ModularAddition,
    targets: Float64Array | None,
) -> RegressionProblem:
    """The problem of kernel regression for a network as it began and as the run trained it.

    Parameters
    ----------
    targets
        Of all p² pairs; None for the network's own outputs.
    """
    split = Split(data.train, data.test)
    initial = entk(model, inputs, reduction="trace")
    load_parameters(model, run, run.last_checkpoint)
    kernel = entk(model, inputs, reduction="trace")
    outputs = outputs_of(model, inputs)
    values = outputs if targets is None else targets
    bank = modular_features(data.n, data.m, math.isqrt(len(data.n)))
    return RegressionProblem(
        kernel="trace",
        modes=split.modes(kernel),
        controls=split.controls(kernel, initial, last_activations(model, inputs)),
        network=(outputs[data.train], outputs[data.test]),
        targets=(values[data.train], values[data.test]),
        labels=data.labels[data.test],
        features={name: bank[name][data.train] for name in FREQUENCY_FAMILIES},
        distilled=targets is None,
    )


def intervention_on_pairs(
    run: Run,
    model: nn.Module,
    inputs: mx.array,
    data: ModularAddition,
    loss: Callable[[mx.array, mx.array], mx.array],
    groups: Sequence[Modes],
    searched: Modes,
    frequencies: Sequence[int],
) -> InterventionProblem:
    """Interventions on a network as a run trained it, along modes of its trace kernel.

    Parameters
    ----------
    model
        As it began.
    loss
        As for ``train_on_pairs``.
    groups
        Groups of modes to look at.
    searched
        The modes in which single frequencies are looked for.
    frequencies
        Frequencies to take out one by one.
    """
    initial = dict(as_parametric(model).params)
    load_parameters(model, run, run.last_checkpoint)
    function = as_parametric(model)
    spectrum = eigendecompose(entk(model, inputs, reduction="trace"))
    p = math.isqrt(len(data.n))
    planes = frequency_families(data.n, data.m, p)

    def at(families: Sequence[str], k: int) -> Float64Array:
        """Cosine and sine of one frequency in some families."""
        return np.concatenate([planes[name][:, [k - 1, k - 1 + p // 2]] for name in families], 1)

    def measures(outputs: Float64Array) -> dict[str, float]:
        right = outputs.argmax(axis=1) == data.labels
        found = {}
        for part, index in (("test", data.test), ("train", data.train)):
            found[f"{part} accuracy"] = float(right[index].mean())
        for part, index in (("test", data.test), ("train", data.train)):
            logits = mx.array(outputs[index].astype(np.float32))
            found[f"{part} loss"] = float(loss(logits, mx.array(data.labels[index])))
        return found

    def by_class(outputs: Float64Array) -> list[float]:
        right = outputs.argmax(axis=1) == data.labels
        return [float(right[data.labels == label].mean()) for label in range(p)]

    def margins(outputs: Float64Array) -> Float64Array:
        """The logit of the answer less the largest other one, over the table of n and m."""
        rows = np.arange(len(outputs))
        others = outputs.copy()
        others[rows, data.labels] = -np.inf
        grid = np.empty((p, p))
        grid[data.n, data.m] = outputs[rows, data.labels] - others.max(axis=1)
        return grid

    inside = spectrum.modes(*searched)
    return InterventionProblem(
        function=function,
        x=(inputs,),
        initial=initial,
        reduction="trace",
        vectors=spectrum.vectors[:, : spectrum.rank],
        values=spectrum.values[: spectrum.rank],
        groups=groups,
        measures=measures,
        features=Features(
            {f"frequency {k}": along(inside, at(FREQUENCY_FAMILIES, k)) for k in frequencies},
            strength_in({f"frequency {k}": at(("sum",), k) for k in frequencies}),
        ),
        by_class=by_class,
        grid=margins,
    )
