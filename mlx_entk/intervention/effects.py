"""What a change of the weights does to the outputs, and how far a linear picture tells it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mlx_entk._linalg import Float64Array, as_numpy
from mlx_entk._parameters import Params
from mlx_entk.intervention.changes import applied
from mlx_entk.kernel import EntkOperator
from mlx_entk.tracing.functions import Model, Output, bind
from mlx_entk.tracing.inputs import count, part

# The deviation from the linear prediction at which the linear picture no longer holds.
BROKEN = 0.1
# Shares of an edit at which the prediction is tried.
DOSES = tuple(float(dose) for dose in np.logspace(-3, 0, 13))
# Inputs a pass.
_BATCH = 1024


def outputs_after(
    model: Model,
    x: Any,
    change: Params,
    dose: float = 1.0,
    *,
    params: Any = None,
    output: Output | None = None,
) -> Float64Array:
    """Outputs of a model with changed weights, θ + dose · change; the model itself stays as it is.

    Parameters
    ----------
    model, x, params, output
        As for ``mlx_entk.entk``.
    change
        By dotted name, of some or all of the parameters.
    dose
        How much of it.

    Returns
    -------
    numpy.ndarray
        Shape (N, C).
    """
    function, inputs = bind(model, x, params, output)
    changed = applied(function.params, change, dose)
    batches = [
        as_numpy(function.apply(changed, *part(inputs, slice(start, start + _BATCH))))
        for start in range(0, count(inputs), _BATCH)
    ]
    return np.concatenate(batches).astype(np.float64)


@dataclass(frozen=True)
class LinearRange:
    """How far the first-order prediction J Δ of a change Δ tells what it does.

    Attributes
    ----------
    doses
        Shares of the change that were tried.
    deviation
        ‖true change − predicted change‖ / ‖predicted change‖ of the outputs, by dose.
    radius
        The dose at which the deviation reaches ``BROKEN``, between doses on a logarithmic scale;
        None if it does not by the last one.
    """

    doses: list[float]
    deviation: list[float]
    radius: float | None


def linear_range(
    model: Model,
    x: Any,
    operator: EntkOperator,
    change: Params,
    doses: Sequence[float] = DOSES,
    *,
    params: Any = None,
    output: Output | None = None,
) -> LinearRange:
    """Compare the true change of the outputs with the first-order prediction, over doses.

    Parameters
    ----------
    model, x, params, output
        As for ``mlx_entk.entk``.
    operator
        The same as products, for the prediction.
    change
        Δ, by parameter of the operator.
    doses
        Shares of Δ, rising.
    """
    function, inputs = bind(model, x, params, output)
    predicted = np.asarray(as_numpy(operator.push(change)), dtype=np.float64)
    size = float(np.linalg.norm(predicted))
    before = outputs_after(function, inputs, {})
    deviation = [
        float(
            np.linalg.norm(
                outputs_after(function, inputs, change, dose) - before - dose * predicted
            )
        )
        / (dose * size)
        if size
        else 0.0
        for dose in doses
    ]
    return LinearRange(list(doses), deviation, _crossing(doses, deviation))


def _crossing(doses: Sequence[float], deviation: Sequence[float]) -> float | None:
    for number, value in enumerate(deviation):
        if value < BROKEN:
            continue
        if number == 0:
            return doses[0]
        low, high = deviation[number - 1], value
        share = np.log(BROKEN / max(low, 1e-12)) / np.log(high / max(low, 1e-12))
        start, end = np.log(doses[number - 1]), np.log(doses[number])
        return float(np.exp(start + share * (end - start)))
    return None
