"""The page to browse the modes of a toy model: functions of inputs and outputs."""

import mlx.core as mx
import numpy as np

from mlx_entk.eigensolvers.jacobian import jacobian_modes
from mlx_entk.errors import InputError
from mlx_entk.features import channel_alignment
from mlx_entk.report import Draw, KernelView, ModeBrowser, drawn, modes_that_fit
from mlx_entk.runs import Run
from mlx_entk.studies.browsing import families_of, kernel_view
from mlx_entk.studies.toy_models.study import TRAINED, TMSResults, rescaled_jacobian
from mlx_entk.studies.toy_models.training import network

# Modes on the page beyond the number of features: a mode is over inputs and outputs, so each takes
# much room.
_BEYOND = 10


def modes(results: TMSResults, run: Run, draw: Draw | None) -> ModeBrowser:
    """The modes of the flattened kernels, computed again from the weights of the run."""
    config, arrays = results.config, run.arrays
    x = arrays["x"]
    if x.shape != (config.rows, config.n):
        raise InputError(f"{run.path} is damaged: its inputs have shape {x.shape}")
    N, C = x.shape
    betas = [0.0, *([results.rescalings[-1]] if results.rescalings[-1] else [])]
    fit = modes_that_fit(N * C, len(betas), whole=False)[0]
    top = min(N * C, config.n + _BEYOND, fit)
    return ModeBrowser(
        f"Modes of a toy model of {config.n} features and {config.m} hidden units",
        f"The flattened eNTK of {results.parameters:,} parameters over {results.inputs:,} inputs "
        f"and {config.n} outputs; β is the exponent of the importance rescaling. Feature i is the "
        "function that gives output i the value of input i.",
        drawn(x, draw or "rows"),
        [_view(beta, top, results, run) for beta in betas],
        names=[f"output {c}" for c in range(C) for _ in range(N)],
        places=np.tile(np.arange(N), C),
    )


def _view(beta: float, top: int, results: TMSResults, run: Run) -> KernelView:
    """The modes of the trained network's kernel, rescaled by an exponent."""
    arrays, config = run.arrays, results.config
    model = network(config)
    model.W, model.b = mx.array(arrays[f"W/{TRAINED}"]), mx.array(arrays[f"b/{TRAINED}"])
    x = arrays["x"]
    jacobian = rescaled_jacobian(model, x, config.importances**beta)
    spectrum, values = jacobian_modes(jacobian, min(*jacobian.shape, top))
    names = {f"feature {i}": 1 for i in range(config.n)}
    return kernel_view(
        f"Rescaled kernel, β = {beta:g}" if beta else "Flattened kernel",
        spectrum.values,
        spectrum.vectors,
        floor=spectrum.noise_floor,
        trace=float(values.sum()),
        groups=[cliff.modes for cliff in results.kernel(TRAINED, beta).cliffs],
        families=families_of(names, x.size),
        shares=channel_alignment(spectrum.vectors, x) ** 2,
    )
