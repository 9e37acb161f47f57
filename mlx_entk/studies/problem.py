"""What kernel regression is about: a network's outputs, its targets, and its kernel's modes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from mlx_entk._linalg import ArrayLike, Float64Array, as_floats, require_finite
from mlx_entk.errors import InputError
from mlx_entk.kernel import entk
from mlx_entk.regression import KernelModes, modes_of_kernel, predict
from mlx_entk.tracing.functions import Model, bind

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
    initial
        Modes of the kernel before training, as a null model; None if they are not known.
    network, targets
        The network's outputs and the targets, on the training and on the held-out inputs, shapes
        (N, C) and (M, C).
    labels
        Classes of the held-out inputs; None if they have no classes.
    weights
        Weights of the outputs in the loss; None if they are equal.
    distilled
        Whether the targets are the network's own outputs: the linearised predictor then has
        nothing left to correct, so only the pure ones are fitted.
    """

    kernel: Literal["trace", "full"]
    modes: KernelModes
    initial: KernelModes | None
    network: tuple[Float64Array, Float64Array]
    targets: tuple[Float64Array, Float64Array]
    labels: NDArray[np.int64] | None = None
    weights: Float64Array | None = None
    distilled: bool = False

    def predictions(
        self, modes: KernelModes, ridge: float, linearised: bool, chosen: Sequence[int] | None
    ) -> tuple[Float64Array, Float64Array]:
        """What a kernel predicts on both kinds of inputs, shapes (N, C) and (M, C)."""
        train, other = (self._rows(part) for part in self.network)
        base = (train, other) if linearised else None
        predicted = predict(modes, self._rows(self.targets[0]), ridge, base, chosen)
        C = self.targets[0].shape[1]
        if self.kernel == "trace":
            return predicted
        return predicted[0].reshape(C, -1).T, predicted[1].reshape(C, -1).T

    def _rows(self, values: Float64Array) -> Float64Array:
        return values if self.kernel == "trace" else values.T.reshape(-1, 1)


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
    N, C = outputs.shape
    values = as_floats(targets, "targets")
    if values.shape not in ((N,), (N, C)):
        raise InputError(f"targets have shape {values.shape}, the model's outputs {(N, C)}")
    require_finite(values, "targets")
    labels = None
    if values.ndim == 1:
        if not _are_whole(targets) or values.min() < 0 or values.max() >= C:
            raise InputError(f"targets must be {N} classes from 0 to {C - 1}")
        labels = values.astype(np.int64)
        values = np.eye(C)[labels]
    order = np.random.default_rng(seed).permutation(N)
    train, other = np.split(order, [round(_TRAINED * N)])
    if len(other) < HELD_OUT_LEAST:
        raise InputError(f"{N} inputs are too few to hold out at least {HELD_OUT_LEAST} of them")

    def modes(network: Model) -> KernelModes:
        kernel = entk(network, x, reduction="trace")
        return modes_of_kernel(kernel[np.ix_(train, train)], kernel[np.ix_(other, train)])

    wide = values.astype(np.float64)
    return RegressionProblem(
        kernel="trace",
        modes=modes(model),
        initial=None if initial is None else modes(initial),
        network=(outputs[train], outputs[other]),
        targets=(wide[train], wide[other]),
        labels=None if labels is None else labels[other],
    )


def _are_whole(targets: ArrayLike) -> bool:
    """Whether they are stored as whole numbers or truth values."""
    if isinstance(targets, mx.array):
        return not mx.issubdtype(targets.dtype, mx.inexact)
    return np.asarray(targets).dtype.kind in "biu"
