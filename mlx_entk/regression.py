"""Kernel regression: how much of a trained network its eNTK explains, and by which modes.

Two predictors with the kernel K of a network f on inputs X with targets y (Lin, arXiv
2510.00468; Lee et al., 2019):

- linearised: f(x) + K(x, X)(K(X, X) + λ1)⁻¹(y − f(X)), the network trained further within its
  tangent space. It is the network plus a correction of a residual that is close to zero after
  training, so it is close to the network by any kernel, and says nothing about this one;
- pure kernel: K(x, X)(K(X, X) + λ1)⁻¹ y, which knows the network only through its kernel.

In the eigenbasis of K(X, X) both are sums over modes, so one decomposition serves every ridge λ
and every choice of modes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from mlx_entk._linalg import (
    ArrayLike,
    Float64Array,
    as_columns,
    as_floats,
    eigh,
    epsilon_of,
    require_finite,
    whole_number,
)
from mlx_entk.errors import InputError
from mlx_entk.spectrum import NOT_AN_ENTK, ROUNDING, eigendecompose, noise_floor, square

# The rule of thumb for whether the eNTK describes a network, as used in the author's notebook,
# which credits a chatbot for it. The paper does not have it.
MAX_LOSS_RATIO = 1.1
MAX_ACCURACY_GAP = 0.02
MIN_R2 = 0.8
# The ridge of regression with the kernels of checkpoints, in units of the mean eigenvalue.
AFTER_KERNEL_RIDGE = 1e-2
# Below this, sums of squares stay finite.
_LARGEST = 1e150
VERDICT_RULE = (
    f"loss ratio ≤ {MAX_LOSS_RATIO:g}, accuracy gap ≤ {100 * MAX_ACCURACY_GAP:g} points, "
    f"R² ≥ {MIN_R2:g}, on held-out inputs"
)


@dataclass(frozen=True)
class KernelModes:
    """The kernel in the eigenbasis of the training inputs, for these and for other inputs.

    Attributes
    ----------
    values
        Eigenvalues λᵢ, largest first, shape (k,), without those that are lost in rounding.
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
        """The trace of K(X, X) divided by R, which is the unit of the ridge."""
        return float(self.values.sum() / self.train.shape[0])


def modes_of_kernel(train: ArrayLike, other: ArrayLike, floor: float | None = None) -> KernelModes:
    """Decompose K(X, X), and express K(x, X) in its eigenbasis.

    A kernel of zeros has no modes.

    Parameters
    ----------
    train
        K(X, X), shape (R, R).
    other
        K(x, X), shape (S, R).
    floor
        Eigenvalues up to this count as rounding; by default the kernel's own noise floor.

    Raises
    ------
    InputError
        If K(X, X) is not a kernel or the shapes do not match, and for NaN or infinite entries.
    """
    spectrum = eigendecompose(train)
    others = as_columns(other, "kernels with the training inputs")
    R = spectrum.vectors.shape[0]
    if others.shape[1] != R:
        raise InputError(
            f"kernels of shapes {(R, R)} and {others.shape} are not over the same inputs"
        )
    kept = spectrum.values > (spectrum.noise_floor if floor is None else floor)
    vectors = spectrum.vectors[:, kept]
    return KernelModes(spectrum.values[kept], vectors, others @ vectors)


def modes_of_jacobian(train: ArrayLike, other: ArrayLike) -> KernelModes:
    """The modes of K = J Jᵀ from Jacobians, by decomposing J Jᵀ or Jᵀ J, whichever is smaller.

    It serves flattened kernels whose R = C·N rows are too many to decompose.

    Parameters
    ----------
    train, other
        J on the training inputs and on the other ones, shapes (R, P) and (S, P).

    Raises
    ------
    InputError
        If the shapes do not match, and for NaN or infinite entries.
    """
    rows = as_columns(train, "gradients of the training outputs")
    others = as_columns(other, "gradients of the other outputs")
    if rows.shape[1] != others.shape[1] or rows.shape[1] == 0:
        raise InputError(
            f"Jacobians have shapes {rows.shape} and {others.shape}: pass those by the same "
            "parameters"
        )
    R, P = rows.shape
    # Rounding happened in the type of the gradients, whatever type their products are computed in.
    largest = float(np.einsum("rp,rp->r", rows, rows).max())
    floor = noise_floor(R, largest, epsilon_of(train))
    if P >= R:
        return modes_of_kernel(rows @ rows.T, others @ rows.T, floor)
    values, directions = eigh(rows.T @ rows)
    kept = values > floor
    lengths = np.sqrt(values[kept])
    directions = directions[:, kept]
    return KernelModes(values[kept], rows @ directions / lengths, others @ directions * lengths)


def predict(
    modes: KernelModes,
    targets: ArrayLike,
    ridge: float,
    base: tuple[ArrayLike, ArrayLike] | None = None,
    chosen: Sequence[int] | None = None,
) -> tuple[Float64Array, Float64Array]:
    """Predictions on the training inputs and on the other ones, shapes (R, q) and (S, q).

    If there are no modes, as for a kernel of zeros, the predictions are ``base``, or 0 without it.

    Parameters
    ----------
    modes
        From ``modes_of_kernel`` or ``modes_of_jacobian``.
    targets
        y, shape (R, q).
    ridge
        λ in units of the mean eigenvalue, above 0.
    base
        The network's own outputs on both, shapes (R, q) and (S, q), for the linearised predictor;
        None for the pure kernel predictor.
    chosen
        Numbers of the modes to use; None for all.

    Raises
    ------
    InputError
        If the ridge is not above 0, if a mode does not exist or is named twice, if arrays are over
        other inputs, and for NaN or infinite entries.
    """
    if not 0 < ridge < np.inf:
        raise InputError(f"ridge is {ridge}: it must be above 0")
    residual = _outputs(targets, "targets", modes.train.shape[0])
    own: tuple[Float64Array, Float64Array] | None = None
    if base is not None:
        own = (
            _outputs(base[0], "outputs", modes.train.shape[0], residual.shape[1]),
            _outputs(base[1], "outputs", modes.other.shape[0], residual.shape[1]),
        )
        residual = residual - own[0]
    index = _chosen(chosen, modes.values.size)
    values, vectors = modes.values[index], modes.train[:, index]
    weights = (vectors.T @ residual) / (values + ridge * modes.mean_eigenvalue)[:, None]
    train = vectors @ (values[:, None] * weights)
    other = modes.other[:, index] @ weights
    return (train, other) if own is None else (own[0] + train, own[1] + other)


def kernel_predictions(
    train: ArrayLike, other: ArrayLike, targets: ArrayLike, ridge: float
) -> Float64Array:
    """K(x, X)(K(X, X) + λ1)⁻¹ y by one solution of the equations, shape (S, q).

    It is what ``predict`` gives for the pure kernel, without a decomposition, for a single ridge
    well above the noise floor of the kernel (``predict`` leaves out what lies below): the predictor
    of the *after kernel* of a network in training (Long, 2021).

    Parameters
    ----------
    train, other
        K(X, X) and K(x, X), shapes (R, R) and (S, R).
    targets
        y, shape (R, q).
    ridge
        λ in units of the mean eigenvalue, above 0.

    Raises
    ------
    InputError
        For shapes that do not fit, for NaN or infinite entries, for a ridge not above 0, and for a
        kernel that is not symmetric, or not positive definite with the ridge.
    """
    if not 0 < ridge < np.inf:
        raise InputError(f"ridge is {ridge}: it must be above 0")
    K = np.array(square(train, "kernel"), dtype=np.float64)
    others = as_columns(other, "kernels with the training inputs")
    require_finite(K, "kernel", "rows")
    y = _outputs(targets, "targets", len(K))
    if others.shape[1] != len(K):
        raise InputError(
            f"kernels of shapes {K.shape} and {others.shape} are not over the same inputs"
        )
    if np.abs(K - K.T).max() > ROUNDING * np.abs(K).max():
        raise InputError("kernel is not symmetric: it is not that of one network")
    K = (K + K.T) / 2
    mean = float(np.trace(K)) / len(K)
    if not K.any():
        return np.zeros((len(others), y.shape[1]))
    K[np.diag_indices_from(K)] += ridge * mean
    try:
        weights: Float64Array = scipy.linalg.solve(K, y, assume_a="pos")
    except scipy.linalg.LinAlgError as error:
        raise InputError(
            f"kernel is not positive definite with a ridge of {ridge:g}: {NOT_AN_ENTK}, or the "
            "ridge is too small"
        ) from error
    return others @ weights


def _outputs(values: ArrayLike, name: str, rows: int, columns: int | None = None) -> Float64Array:
    """Finite values in float64, with this many rows and, if it is given, this many columns."""
    outputs = as_columns(values, name)
    largest = float(np.abs(outputs).max(initial=0))
    if largest > _LARGEST:
        raise InputError(
            f"{name} reach {largest:.1e}, whose squares overflow: leave those inputs out"
        )
    if outputs.shape != (rows, outputs.shape[1] if columns is None else columns):
        raise InputError(
            f"{name} have shape {outputs.shape}: pass {rows} inputs"
            + ("" if columns is None else f" and {columns} outputs")
        )
    return outputs


def _chosen(chosen: Sequence[int] | None, size: int) -> NDArray[np.intp]:
    if chosen is None:
        return np.arange(size)
    if np.asarray(chosen).dtype == np.bool_:
        raise InputError("chosen modes are true or false: pass their numbers")
    index = [whole_number(mode, "mode") for mode in chosen]
    if len(set(index)) < len(index) or not set(index) <= set(range(size)):
        raise InputError(f"chosen modes are {index}: pass some of 0 to {size - 1}, each once")
    return np.array(index, dtype=np.intp)


@dataclass(frozen=True)
class Quality:
    """How close predictions come to a network on the same inputs.

    Attributes
    ----------
    r2
        1 − ‖prediction − network‖²/‖network − its mean‖². If the network's outputs do not depend
        on the input, it is 1 for predictions that equal them, and −∞ otherwise.
    loss
        Mean squared error of the predictions, with weighted outputs.
    loss_ratio
        ``loss`` divided by the network's own; None for a network without error.
    accuracy_gap
        The network's accuracy minus that of the predictions, from −1 to 1; None without labels.
    """

    r2: float
    loss: float
    loss_ratio: float | None
    accuracy_gap: float | None

    @property
    def describes_network(self) -> bool:
        """Whether the eNTK describes the network, by what is not None in ``VERDICT_RULE``."""
        return (
            (self.loss_ratio is None or self.loss_ratio <= MAX_LOSS_RATIO)
            and (self.accuracy_gap is None or self.accuracy_gap <= MAX_ACCURACY_GAP)
            and self.r2 >= MIN_R2
        )


def quality(
    prediction: ArrayLike,
    network: ArrayLike,
    targets: ArrayLike,
    labels: ArrayLike | None = None,
    weights: ArrayLike | None = None,
) -> Quality:
    """Measure how close predictions come to a network.

    Parameters
    ----------
    prediction, network, targets
        Shape (N, C).
    labels
        Classes, shape (N,), if the network classifies.
    weights
        Weights of the outputs in the loss, shape (C,); None for equal weights.

    Raises
    ------
    InputError
        For arrays of different shapes, for NaN or infinite entries, and for labels that are not
        classes.
    """
    outputs = as_columns(network, "outputs")
    N, C = outputs.shape
    outputs = _outputs(outputs, "outputs", N, C)
    predicted = _outputs(prediction, "predictions", N, C)
    wanted = _outputs(targets, "targets", N, C)
    constant = bool((outputs == outputs[0]).all())
    spread = 0.0 if constant else float(((outputs - outputs.mean(axis=0)) ** 2).sum())
    error = float(((predicted - outputs) ** 2).sum())
    of_output = np.ones(C) if weights is None else as_floats(weights, "weights")
    if of_output.shape != (C,):
        raise InputError(f"weights have shape {of_output.shape}: the network has {C} outputs")
    require_finite(of_output, "weights", "outputs")
    own = float((of_output * (outputs - wanted) ** 2).mean())
    loss = float((of_output * (predicted - wanted) ** 2).mean())
    gap = None
    if labels is not None:
        classes = as_floats(labels, "labels")
        if classes.shape != (N,) or not np.isin(classes, np.arange(C)).all():
            raise InputError(f"labels are not {N} classes from 0 to {C - 1}")
        accuracy = [float((y.argmax(axis=1) == classes).mean()) for y in (outputs, predicted)]
        gap = accuracy[0] - accuracy[1]
    return Quality(
        r2=1 - error / spread if spread > 0 else (1.0 if error == 0 else -np.inf),
        loss=loss,
        loss_ratio=loss / own if own > 0 else None,
        accuracy_gap=gap,
    )
