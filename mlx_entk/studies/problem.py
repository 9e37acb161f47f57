"""What kernel regression is about: a network's outputs, its targets, and its kernel's modes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from mlx_entk._linalg import ArrayLike, Float64Array, FloatArray, as_floats, require_finite
from mlx_entk.errors import InputError
from mlx_entk.kernel import activations, entk
from mlx_entk.regression import KernelModes, modes_of_kernel, predict
from mlx_entk.tracing.functions import Model, bind

# What tables call the controls of the pure kernel predictor.
AT_INITIALISATION = "pure kernel at initialisation"
SHUFFLED_INPUTS = "pure kernel, inputs shuffled"
ACTIVATIONS = "Gram matrix of activations"

# The share of the inputs that regression of a user's own model trains on.
_TRAINED = 0.7
# One half of the held-out inputs chooses the ridge, and R² on the other half needs two inputs.
HELD_OUT_LEAST = 4


@dataclass(frozen=True)
class RegressionProblem:
    """A network and its kernel, on training and held-out inputs.

    Attributes
    ----------
    kernel
        The kernel: ``"trace"``, the same for every output, or ``"full"``, flattened.
    modes
        Modes of the kernel of the trained network.
    controls
        Modes of other kernels by what tables call them, to compare with: before training, of
        inputs that were shuffled, of activations alone. A control is over inputs, or flattened.
    network, targets
        The network's outputs and the targets, on the training and on the held-out inputs, shapes
        (N, C) and (M, C).
    labels
        Classes of the held-out inputs; None if they have no classes.
    weights
        Weights of the outputs in the loss; None if they are equal.
    features
        Families of features over the training inputs, to align the groups of modes with.
    distilled
        Whether the targets are the network's own outputs: the linearised predictor then has
        nothing left to correct, so only the pure ones are fitted.
    """

    kernel: Literal["trace", "full"]
    modes: KernelModes
    controls: Mapping[str, KernelModes]
    network: tuple[Float64Array, Float64Array]
    targets: tuple[Float64Array, Float64Array]
    labels: NDArray[np.int64] | None = None
    weights: Float64Array | None = None
    features: Mapping[str, Float64Array] = field(default_factory=dict)
    distilled: bool = False

    def predictions(
        self, modes: KernelModes, ridge: float, linearised: bool, chosen: Sequence[int] | None
    ) -> tuple[Float64Array, Float64Array]:
        """What a kernel predicts on both kinds of inputs, shapes (N, C) and (M, C)."""
        N, C = self.targets[0].shape
        if modes.train.shape[0] == N:  # the same kernel for every output
            base = self.network if linearised else None
            return predict(modes, self.targets[0], ridge, base, chosen)
        network = (_flat(self.network[0]), _flat(self.network[1])) if linearised else None
        predicted = predict(modes, _flat(self.targets[0]), ridge, network, chosen)
        return predicted[0].reshape(C, -1).T, predicted[1].reshape(C, -1).T


def _flat(values: Float64Array) -> Float64Array:
    """Values of shape (N, C) in the order of a flattened kernel, shape (C·N, 1)."""
    return values.T.reshape(-1, 1)


@dataclass(frozen=True)
class Split:
    """Inputs to train on and others.

    Attributes
    ----------
    train, other
        Their numbers.
    seed
        Of the shuffle.
    """

    train: NDArray[np.int64]
    other: NDArray[np.int64]
    seed: int = 0

    def blocks(self, kernel: FloatArray) -> tuple[FloatArray, FloatArray]:
        """K(X, X) and K(x, X) of a kernel over all inputs, shape (N, N)."""
        return kernel[np.ix_(self.train, self.train)], kernel[np.ix_(self.other, self.train)]

    def modes(self, kernel: FloatArray) -> KernelModes:
        """Modes of a kernel over all inputs, shape (N, N)."""
        return modes_of_kernel(*self.blocks(kernel))

    def controls(
        self, kernel: FloatArray, initial: FloatArray | None, activations: Float64Array | None
    ) -> dict[str, KernelModes]:
        """The controls of a kernel, of shape (N, N) like that before training.

        Parameters
        ----------
        initial
            None if it is not known.
        activations
            What the last weight is multiplied with, shape (N, D); None if it is not known.
        """
        order = np.random.default_rng(self.seed).permutation(len(kernel))
        found = {SHUFFLED_INPUTS: self.modes(kernel[np.ix_(order, order)])}
        if initial is not None:
            found[AT_INITIALISATION] = self.modes(initial)
        if activations is not None:
            found[ACTIVATIONS] = self.modes(activations @ activations.T)
        return found


def last_activations(model: Model, x: Any) -> Float64Array | None:
    """What the last weight of a model is multiplied with, shape (N, D); None if it is not known."""
    met = list(activations(model, x, last=True).values())
    return np.asarray(met[0], dtype=np.float64) if met else None


def outputs_of(model: Callable[[Any], mx.array], x: Any) -> Float64Array:
    """The outputs of a model on inputs, shape (N, C), in float64 on the host."""
    return np.array(as_floats(model(x), "outputs"), dtype=np.float64)


def problem_of_model(
    model: Model, initial: Model | None, x: Any, targets: ArrayLike, seed: int = 0
) -> RegressionProblem:
    """Kernel regression of a model by its trace kernel, with some of the inputs held out.

    Parameters
    ----------
    model, initial
        The model, and the same model before training; None if that is not known.
    x
        N inputs.
    targets
        Shape (N, C); or (N,) if they are classes, as integers or truth values.
    seed
        Seed of the choice of inputs to hold out.

    Raises
    ------
    InputError
        If the targets do not fit the outputs of the model on x, or targets or outputs are NaN or
        infinite; the message names the inputs.
    """
    function, inputs = bind(model, x)
    outputs = outputs_of(lambda batch: function.apply({}, *batch), inputs)
    require_finite(outputs, "outputs of the model")
    N = len(outputs)
    wide, labels = targets_of(targets, outputs.shape)
    order = np.random.default_rng(seed).permutation(N)
    train, other = np.split(order, [round(_TRAINED * N)])
    if len(other) < HELD_OUT_LEAST:
        raise InputError(f"{N} inputs are too few to hold out at least {HELD_OUT_LEAST} of them")

    split = Split(train, other, seed)
    kernel = entk(model, x, reduction="trace")
    before = None if initial is None else entk(initial, x, reduction="trace")
    return RegressionProblem(
        kernel="trace",
        modes=split.modes(kernel),
        controls=split.controls(kernel, before, last_activations(function, inputs)),
        network=(outputs[train], outputs[other]),
        targets=(wide[train], wide[other]),
        labels=None if labels is None else labels[other],
    )


def targets_of(
    targets: ArrayLike, shape: tuple[int, ...]
) -> tuple[Float64Array, NDArray[np.int64] | None]:
    """Targets of outputs of some shape (N, C), and their classes if they are classes.

    Raises
    ------
    InputError
        For targets of another shape, NaN or infinite ones, and classes outside 0…C−1.
    """
    N, C = shape
    values = as_floats(targets, "targets")
    if values.shape not in ((N,), (N, C)):
        raise InputError(f"targets have shape {values.shape}, the model's outputs {(N, C)}")
    require_finite(values, "targets")
    if values.ndim == 2:
        return values.astype(np.float64), None
    if not _are_whole(targets) or values.min() < 0 or values.max() >= C:
        raise InputError(f"targets must be {N} classes from 0 to {C - 1}")
    labels = values.astype(np.int64)
    return np.eye(C)[labels], labels


def _are_whole(targets: ArrayLike) -> bool:
    """Whether they are stored as whole numbers or truth values."""
    if isinstance(targets, mx.array):
        return not mx.issubdtype(targets.dtype, mx.inexact)
    return np.asarray(targets).dtype.kind in "biu"
