"""The page to browse the modes of a toy model: functions of inputs and outputs."""

import mlx.core as mx
import numpy as np

from mlx_entk.eigensolvers.jacobian import jacobian_modes
from mlx_entk.errors import InputError
from mlx_entk.features import channel_alignment
from mlx_entk.report import Draw, KernelView, ModeBrowser, drawn, modes_that_fit
from mlx_entk.runs import Run
from mlx_entk.studies.browsing import families_of, kernel_view
from mlx_entk.studies.toy_models.study import (
    BEYOND,
    INITIAL,
    TRAINED,
    TMSResults,
    rescaled_jacobian,
)
from mlx_entk.studies.toy_models.training import network

# The kernels on the page: heading, network, and which exponent of those of the run.
_KERNELS = (("Trained", TRAINED), ("Before training", INITIAL))


def modes(results: TMSResults, run: Run, draw: Draw | None) -> ModeBrowser:
    """The modes of the flattened kernels, computed again from the weights of the run."""
    config, arrays = results.config, run.arrays
    x = arrays["x"]
    if x.shape != (config.rows, config.n):
        raise InputError(f"{run.path} is damaged: its inputs have shape {x.shape}")
    N, C = x.shape
    betas = [0.0, *([results.rescalings[-1]] if results.rescalings[-1] else [])]
    wanted = [
        (heading + (f", β = {beta:g}" if beta else ""), name, beta)
        for heading, name in _KERNELS
        for beta in betas
    ]
    top = min(N * C, config.n + BEYOND, modes_that_fit(N * C, len(wanted), whole=False)[0])
    return ModeBrowser(
        f"Modes of a toy model of {config.n} features and {config.m} hidden units",
        f"The flattened eNTK of {results.parameters:,} parameters over {results.inputs:,} inputs "
        f"and {config.n} outputs; β is the exponent of the importance rescaling. Feature i is the "
        "function that gives output i the value of input i.",
        drawn(x, draw or "rows"),
        [_view(heading, name, beta, top, results, run) for heading, name, beta in wanted],
        names=[f"output {c}" for c in range(C) for _ in range(N)],
        places=np.tile(np.arange(N), C),
    )


def _view(
    heading: str, name: str, beta: float, top: int, results: TMSResults, run: Run
) -> KernelView:
    arrays, config = run.arrays, results.config
    model = network(config)
    model.W, model.b = mx.array(arrays[f"W/{name}"]), mx.array(arrays[f"b/{name}"])
    x = arrays["x"]
    jacobian = rescaled_jacobian(model, x, config.importances**beta)
    spectrum, values = jacobian_modes(jacobian, min(*jacobian.shape, top))
    names = {f"feature {i}": 1 for i in range(config.n)}
    return kernel_view(
        heading,
        spectrum.values,
        spectrum.vectors,
        trace=float(values.sum()),
        groups=[cliff.modes for cliff in results.kernel(name, beta).cliffs],
        families=families_of(names, x.size),
        shares=channel_alignment(spectrum.vectors, x) ** 2,
    )
