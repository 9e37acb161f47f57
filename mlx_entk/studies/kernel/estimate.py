"""What the kernel of a user's own model would take."""

from collections.abc import Mapping
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_entk._linalg import FloatArray
from mlx_entk.analysis import DENSE, bases_of
from mlx_entk.controls import align_controls
from mlx_entk.kernel import entk, flatten
from mlx_entk.kernel.checks import check_model
from mlx_entk.kernel.forecast import forecast
from mlx_entk.studies.estimate import (
    Stage,
    memory_of_decomposition,
    scaled_up,
    seconds_of_decomposition,
    seconds_of_leading_modes,
    shortest,
    stage_of_report,
)
from mlx_entk.studies.kernel.study import KernelConfig, bound, compared_with
from mlx_entk.tracing.functions import Model, ParametricFunction
from mlx_entk.tracing.inputs import Inputs, count


def estimate(
    config: KernelConfig,
    *,
    model: Model,
    x: Any,
    features: Mapping[str, FloatArray],
    initial: Model | None = None,
    memory_limit: int | None = None,
) -> list[Stage]:
    """What ``compute`` and a report would take on this device."""
    function, inputs = bound(config, model, x)
    classes = check_model(function, inputs) if config.reduction == "full" else 1
    size = count(inputs) * classes
    kernels = len(function.params) + 1 if config.by_layer else 1
    models = 1 if initial is None else 2
    formed = forecast(
        function,
        inputs,
        reduction=config.reduction,
        by_layer=config.by_layer,
        memory_limit=memory_limit,
        in_files=True,
    )
    # Kernels are mapped from files; layerwise ones are copied while they are added up.
    held = 4 * size * size * kernels * (models + (1 if config.by_layer else 0))
    top = min(size, config.top)
    if size > DENSE and top < size:

        def sample(tried: int) -> FloatArray:
            rows = _spread(inputs, -(-tried // classes))
            kernel = entk(function, rows, reduction=config.reduction)
            return (flatten(kernel) if kernel.ndim == 4 else kernel)[:tried, :tried]

        decomposed = seconds_of_leading_modes(sample, size, top)
        memory = held + 8 * size * 4 * top
    else:
        decomposed = seconds_of_decomposition(size)
        vectors = 8 * size * size * (models * kernels - 1)  # of the kernels that came before
        memory = held + vectors + memory_of_decomposition(size)
    stages = [
        Stage("kernels, in files", models, formed.first + models * formed.seconds, formed.memory),
        Stage("modes, kernels", models * kernels, models * kernels * decomposed, memory),
    ]
    if features and config.controls:
        stages.append(_stage_of_controls(config, function, inputs, features, memory_limit))
    panels = kernels + (5 if features else 0)
    groups = kernels * (1 + len(config.groups))
    return [*stages, stage_of_report(panels, groups * len(features) * 4)]


def _stage_of_controls(
    config: KernelConfig,
    function: ParametricFunction,
    inputs: Inputs,
    features: Mapping[str, FloatArray],
    memory_limit: int | None,
) -> Stage:
    """Finding what the kernel is compared with, and aligning it with features."""
    N = count(inputs)
    generator = np.random.default_rng(0)
    widths = {name: columns.shape[1] for name, columns in features.items()}
    one, _ = compared_with(config, function, _spread(inputs, 1), features, memory_limit)

    def measure(tried: int) -> float:
        # Families of their own: those of the user need not vary over a few of the inputs.
        families = {
            name: generator.standard_normal((tried, min(width, tried // 2)))
            for name, width in widths.items()
        }
        some = bases_of(families)
        rows = _spread(inputs, tried)

        def compare() -> None:
            found, _ = compared_with(config, function, rows, families, memory_limit)
            align_controls(found, some, {1})

        return shortest(compare)

    widest = max(values.shape[1] for values in one.values())
    floats = N * sum(values.shape[1] for values in one.values())
    wide = 8 * (3 * N * widest + 4 * min(N, widest) ** 2)
    seconds = scaled_up(measure, N, 1 if widest < N else 3)
    return Stage("activations and outputs", len(one), seconds, 4 * floats + wide)


def _spread(inputs: Inputs, tried: int) -> Inputs:
    """Some of the inputs, spread over all."""
    chosen = mx.array(np.linspace(0, count(inputs) - 1, tried).astype(np.int32))
    return tuple(array[chosen] for array in inputs)
