"""What kernel regression of a network is about: its outputs, its targets, its kernel's modes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from mlx_entk._linalg import Float64Array, as_floats
from mlx_entk.regression import KernelModes, predict


@dataclass(frozen=True)
class RegressionProblem:
    """A network and its kernel, on training and held-out inputs.

    Attributes
    ----------
    kernel
        What the modes are of: ``"trace"``, the same for every output, or ``"full"``, flattened.
    modes
        Of the kernel of the trained network.
    initial
        Of the network before training, as null model; None if that is not known.
    network, targets
        On the training and on the held-out inputs, shapes (N, C) and (M, C).
    labels
        Classes of the held-out inputs, None if there are none.
    weights
        Of the outputs in the loss, None for equal ones.
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
