"""Kernel regression: how much of a trained network its eNTK explains, and by which modes.

Two predictors with the kernel K of a network f on inputs X with targets y (Lin, arXiv
2510.00468; Lee et al., 2019):

- linearised: f(x) + K(x, X)(K(X, X) + λ1)⁻¹(y − f(X)), the network moved on within its tangent
  space;
- pure kernel: K(x, X)(K(X, X) + λ1)⁻¹ y, which knows the network by its kernel alone.

In the eigenbasis of K(X, X) both are a sum over modes, so one decomposition serves every ridge λ
and every choice of modes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mlx_entk.errors import InputError
from mlx_entk.linalg import Float64Array, FloatArray, eigh
from mlx_entk.spectrum import eigendecompose

# The rule of thumb for "the eNTK describes this network", after Lin.
MAX_LOSS_RATIO = 1.1
MAX_ACCURACY_GAP = 0.02
MIN_R2 = 0.8
VERDICT_RULE = "loss ratio ≤ 1.1, accuracy gap ≤ 2 points, R² ≥ 0.8, on held-out inputs"


@dataclass(frozen=True)
class KernelModes:
    """The kernel on training inputs in its eigenbasis, and its values on other inputs in it.

    Attributes
    ----------
    values
        λᵢ, largest first, shape (k,); those lost in rounding are left out.
    train
        Eigenvectors uᵢ of K(X, X) in columns, shape (R, k).
    other
        K(x, X) uᵢ in columns, shape (S, k).
    """

    values: Float64Array
    train: Float64Array
    other: Float64Array

    @property
    def mean_eigenvalue(self) -> float:
        """The trace of K over R: the unit of the ridge."""
        return float(self.values.sum() / self.train.shape[0])


def modes_of_kernel(train: FloatArray, other: FloatArray) -> KernelModes:
    """From K(X, X) of shape (R, R) and K(x, X) of shape (S, R).

    Raises
    ------
    InputError
        For a K(X, X) that is no kernel, or shapes that do not fit.
    """
    if other.ndim != 2 or other.shape[1] != train.shape[0]:
        raise InputError(
            f"kernels of shapes {train.shape} and {other.shape} are not over the same inputs"
        )
    spectrum = eigendecompose(train)
    kept = spectrum.values > spectrum.noise_floor
    vectors = spectrum.vectors[:, kept]
    return KernelModes(spectrum.values[kept], vectors, other.astype(np.float64) @ vectors)


def modes_of_jacobian(train: FloatArray, other: FloatArray) -> KernelModes:
    """The same from the Jacobians J of shape (R, P) and (S, P), by the smaller side of J.

    For flattened kernels, whose R = C·N is beyond what can be decomposed.
    """
    rows: Float64Array = np.asarray(train, dtype=np.float64)
    others: Float64Array = np.asarray(other, dtype=np.float64)
    if rows.ndim != 2 or others.ndim != 2 or rows.shape[1] != others.shape[1]:
        raise InputError(
            f"Jacobians of shapes {rows.shape} and {others.shape} are not by the same parameters"
        )
    R, P = rows.shape
    if P >= R:
        return modes_of_kernel(rows @ rows.T, others @ rows.T)
    values, right = eigh(rows.T @ rows)
    scale = float(np.einsum("rp,rp->r", rows, rows).max())
    kept = values > 2 * np.sqrt(R) * float(np.finfo(np.float32).eps) * scale
    lengths = np.sqrt(values[kept])
    right = right[:, kept]
    return KernelModes(values[kept], rows @ right / lengths, others @ right * lengths)


def predict(
    modes: KernelModes,
    targets: Float64Array,
    ridge: float,
    base: tuple[Float64Array, Float64Array] | None = None,
    chosen: Sequence[int] | None = None,
) -> tuple[Float64Array, Float64Array]:
    """Predictions on the training and on the other inputs.

    Parameters
    ----------
    targets
        y, shape (R, q).
    ridge
        λ in units of the mean eigenvalue, above 0.
    base
        The network's own outputs on both, shapes (R, q) and (S, q): the linearised predictor.
        None is the pure kernel predictor.
    chosen
        The modes that take part, by number; None for all.

    Raises
    ------
    InputError
        For a ridge that is not above 0.
    """
    if not ridge > 0:
        raise InputError(f"ridge is {ridge}: it must be above 0")
    residual = targets if base is None else targets - base[0]
    index = np.arange(modes.values.size) if chosen is None else np.asarray(chosen, dtype=np.intp)
    values, vectors = modes.values[index], modes.train[:, index]
    weights = (vectors.T @ residual) / (values + ridge * modes.mean_eigenvalue)[:, None]
    train = vectors @ (values[:, None] * weights)
    other = modes.other[:, index] @ weights
    return (train, other) if base is None else (base[0] + train, base[1] + other)


@dataclass(frozen=True)
class Quality:
    """How near predictions come to a network, on the same inputs.

    Attributes
    ----------
    r2
        1 − ‖prediction − network‖²/‖network − its mean‖².
    loss
        Mean squared error of the predictions, outputs weighted.
    loss_ratio
        That over the network's own; None for a network without error.
    accuracy_gap
        The network's accuracy less that of the predictions, from −1 to 1; None without labels.
    """

    r2: float
    loss: float
    loss_ratio: float | None
    accuracy_gap: float | None

    @property
    def described(self) -> bool:
        """Whether the eNTK describes the network, by :data:`VERDICT_RULE`, as far as defined."""
        return (
            (self.loss_ratio is None or self.loss_ratio <= MAX_LOSS_RATIO)
            and (self.accuracy_gap is None or self.accuracy_gap <= MAX_ACCURACY_GAP)
            and self.r2 >= MIN_R2
        )


def quality(
    prediction: Float64Array,
    network: Float64Array,
    targets: Float64Array,
    labels: NDArray[np.int64] | None = None,
    weights: Float64Array | None = None,
) -> Quality:
    """Compare predictions with a network.

    Parameters
    ----------
    prediction, network, targets
        Shape (N, C).
    labels
        Classes, shape (N,), where the network classifies.
    weights
        Of the outputs in the loss, shape (C,); None for equal ones.
    """
    spread = float(((network - network.mean(axis=0)) ** 2).sum())
    error = float(((prediction - network) ** 2).sum())
    of_output = np.ones(network.shape[1]) if weights is None else weights
    own = float((of_output * (network - targets) ** 2).mean())
    loss = float((of_output * (prediction - targets) ** 2).mean())
    gap = None
    if labels is not None:
        right = [float((y.argmax(axis=1) == labels).mean()) for y in (network, prediction)]
        gap = right[0] - right[1]
    return Quality(
        r2=1 - error / max(spread, float(np.finfo(np.float64).tiny)),
        loss=loss,
        loss_ratio=loss / own if own > 0 else None,
        accuracy_gap=gap,
    )
