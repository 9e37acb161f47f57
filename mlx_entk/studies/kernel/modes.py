"""The page to browse the modes of a user's own model."""

from collections.abc import Sequence

import numpy as np

from mlx_entk._files import Arrays
from mlx_entk.analysis import WHOLE
from mlx_entk.errors import InputError
from mlx_entk.kernel.reduction import reduction_name
from mlx_entk.report import Draw, ModeBrowser, drawn, with_names
from mlx_entk.runs import Run
from mlx_entk.studies.browsing import families_of, kernel_view
from mlx_entk.studies.kernel.finished import stored_arrays
from mlx_entk.studies.kernel.sources import original_inputs
from mlx_entk.studies.kernel.study import KernelResults


def mode_browser(
    results: KernelResults,
    arrays: Arrays,
    x: Arrays,
    draw: Draw | None = None,
    names: Sequence[str] = (),
) -> ModeBrowser:
    """The page to browse the modes of a kernel.

    Parameters
    ----------
    results, arrays
        As ``mlx_entk.studies.kernel.study.compute`` returns them.
    x
        The inputs by name, as a run folder and ``mlx_entk.Analysis`` keep them.
    draw
        What they are drawn as, as for ``mlx_entk.report.drawn``.
    names
        A name for each input, such as its label; empty for none.

    Raises
    ------
    InputError
        For arrays of an earlier version, names that are not one for each input, and as for
        ``mlx_entk.report.drawn``.
    """
    if "traces" not in arrays:
        raise InputError(
            "an earlier version computed these modes without what a page of them needs: compute "
            "them again, with another --out"
        )
    config = results.config
    inputs = drawn(original_inputs(x), draw)
    N = len(arrays[f"vectors/{WHOLE}"])
    places, outputs = None, []
    if config.reduction == "full":  # channel-major: row c·N + n
        places = np.tile(np.arange(len(inputs)), N // len(inputs))
        outputs = [f"output {c}" for c in range(N // len(inputs)) for _ in range(len(inputs))]
    dimensions = dict(zip(results.mode_features, arrays["dimensions"].tolist(), strict=True))
    families = families_of(dimensions, N, results.controls)
    kernels = list(results.cliffs)
    layers = [kernel for kernel in kernels if kernel != WHOLE]
    traces = dict(zip(kernels, arrays["traces"].tolist(), strict=True))
    page = ModeBrowser(
        f"Modes of {config.model}",
        f"{len(arrays[f'values/{WHOLE}'])} modes of the eNTK "
        f"({reduction_name(config.reduction)}) of {results.parameters:,} parameters on "
        f"{results.inputs:,} inputs.",
        inputs,
        [
            kernel_view(
                kernel,
                arrays[f"values/{kernel}"],
                arrays[f"vectors/{kernel}"],
                floor=float(arrays[f"noise floor/{kernel}"]),
                trace=traces[kernel],
                groups=[cliff.modes for cliff in results.cliffs[kernel]],
                families=families,
                shares=arrays[f"shares/{kernel}"] if families else None,
                parts=dict(zip(layers, arrays["layers"].T, strict=True))
                if layers and kernel == WHOLE
                else None,
            )
            for kernel in kernels
        ],
        names=outputs,
        places=places,
        parts_hint=""
        if layers
        else "To see which parameters a mode lives in, run the command "
        "again with --by-layer and another --out.",
    )
    return with_names(page, names) if names else page


def modes(results: KernelResults, run: Run, draw: Draw | None) -> ModeBrowser:
    """The page of a run."""
    return mode_browser(results, run.arrays, stored_arrays(run, results.config), draw)
