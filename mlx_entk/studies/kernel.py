"""A reader's own model: kernel, spectrum, cliffs, and alignment with features if there are any."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_entk._files import Arrays, Json, digest, map_array, read_arrays
from mlx_entk._linalg import FloatArray, as_numpy, orthonormal_basis, require_finite
from mlx_entk._memory import default_limit
from mlx_entk._parameters import Params, flatten_tree
from mlx_entk.distributed import Group, first_says
from mlx_entk.eigensolvers import as_operator, top_modes
from mlx_entk.errors import InputError
from mlx_entk.features import alignment_rows, center, equivalent_families, family_shares
from mlx_entk.kernel import Reduction, entk, flatten
from mlx_entk.kernel.checks import check_model
from mlx_entk.kernel.reduction import cotangents_of, require_kernel
from mlx_entk.kernel.store import name_of_file
from mlx_entk.progress import Progress, silent
from mlx_entk.runs import Run
from mlx_entk.spectrum import (
    CLIFF_RULE,
    Spectrum,
    effective_rank,
    eigendecompose,
    find_cliffs,
    mode_groups,
)
from mlx_entk.studies.estimate import (
    Stage,
    memory_of_kernels,
    seconds_of,
    seconds_of_decomposition,
    seconds_of_kernel,
)
from mlx_entk.tracing.functions import Model, ParametricFunction, as_parametric, bind
from mlx_entk.tracing.inputs import Inputs, as_inputs, count

STUDY = "kernel"

# The folder of the kernels inside the run's.
KERNELS = "kernels"

# What the kernel of all parameters is called beside those of each.
WHOLE = "full"

# Up to this size all modes are found by a dense decomposition, above it the leading ones by
# Lanczos on the kernel.
DENSE = 4000
# Products that Lanczos takes for each mode of such kernels, about.
_PRODUCTS_PER_MODE = 4


@dataclass(frozen=True)
class KernelConfig:
    """What to compute of which model.

    Attributes
    ----------
    model
        A name for the model.
    reduction
        As for :func:`mlx_entk.entk`.
    by_layer
        Whether to decompose the kernel of each parameter too.
    top
        How many modes to keep.
    output
        Which part of what the model returns counts: a name, or a number for a place in a tuple;
        empty for the whole, of an ONNX model for the first output of floating type.
    parameters
        Which parameters count, as patterns ``a.*,b``; empty for all, of an ONNX model for the
        initializers that look like parameters.
    weights, inputs, features
        Digests, filled in by :func:`prepare`.
    """

    model: str
    reduction: Reduction = "trace"
    by_layer: bool = False
    top: int = 200
    output: str = ""
    parameters: str = ""
    weights: str = ""
    inputs: str = ""
    features: str = ""

    def as_json(self) -> Json:
        """The settings by name."""
        reduction = self.reduction
        return asdict(self) | {
            "reduction": reduction if isinstance(reduction, str) else list(reduction)
        }


def config_of(run: Run) -> KernelConfig:
    """The configuration that a run folder was made for."""
    reduction = run.config["reduction"]
    return KernelConfig(
        **run.config | {"reduction": reduction if isinstance(reduction, str) else tuple(reduction)}
    )


def run_kernel(
    config: KernelConfig,
    model: Model,
    x: Any,
    features: Mapping[str, FloatArray],
    run: Run,
    *,
    memory_limit: int | None = None,
    explain: bool = False,
    group: Group | None = None,
    progress: Progress = silent,
) -> Json:
    """Compute, decompose and align the kernels of a model, and store it all in the run folder.

    Parameters
    ----------
    model, x
        As for :func:`mlx_entk.entk`.
    features
        Families of features over the inputs, shapes (N, k); may be empty.
    run
        A folder made for this configuration, as :func:`prepare` gives it; kernels that it holds
        already are not computed again, and those begun go on.
    group
        Ranks that share the tiles; the others call :func:`form_kernels` alone.

    Returns
    -------
    dict
        What ``results.json`` holds.
    """
    form_kernels(
        config, model, x, run.path,
        memory_limit=memory_limit, explain=explain, group=group, progress=progress,
    )  # fmt: skip
    if run.finished:
        return run.results
    function, inputs = bound(config, model, x)
    kernels = _stored_kernels(config, run.path / KERNELS)
    spectra: dict[str, Spectrum] = {}
    ranks: dict[str, float | None] = {}
    for done, (name, kernel) in enumerate(kernels.items()):
        progress("spectra", done, len(kernels), name)
        matrix = flatten(kernel) if kernel.ndim == 4 else kernel
        spectra[name], ranks[name] = _decompose(matrix, config.top)
    progress("spectra", len(kernels), len(kernels))
    cliffs = {name: find_cliffs(s.values, s.noise_floor) for name, s in spectra.items()}
    groups = {name: mode_groups(cliffs[name]) for name in spectra}
    bases = {family: orthonormal_basis(center(columns)) for family, columns in features.items()}
    results: Json = {
        "study": STUDY,
        "config": config.as_json(),
        "inputs": count(inputs),
        "parameters": sum(value.size for value in function.params.values()),
        "cliffs": groups,
        "cliff_rule": CLIFF_RULE,
        "effective_rank": ranks,
        "equivalent_families": equivalent_families(bases),
        "alignment": alignment_rows(spectra, groups, bases),
        "mode_features": list(bases),
    }
    arrays: Arrays = {}
    for name, spectrum in spectra.items():
        arrays[f"values/{name}"] = spectrum.values
        arrays[f"vectors/{name}"] = spectrum.vectors.astype(np.float32)
        if bases:
            arrays[f"shares/{name}"] = family_shares(spectrum.vectors, bases)[0].astype(np.float32)
    # What `mlx-entk regress` needs to have the model again.
    run.save_model(_weights(model), {k: as_numpy(a) for k, a in _by_name(x).items()})
    run.save_results(results, arrays)
    return results


def estimate(
    config: KernelConfig, model: Model, x: Any, memory_limit: int | None = None
) -> list[Stage]:
    """What :func:`run_kernel` would take on this device."""
    function, inputs = bound(config, model, x)
    size = count(inputs) * (check_model(function, inputs) if config.reduction == "full" else 1)
    kernels = len(function.params) + 1 if config.by_layer else 1
    formed = seconds_of_kernel(function, inputs, config.reduction, config.by_layer)
    if size > DENSE and config.top < size:
        tried = np.ones((DENSE // 4, DENSE // 4), np.float32)
        product = seconds_of(lambda: tried @ tried[0]) * (size / len(tried)) ** 2
        decomposed = _PRODUCTS_PER_MODE * config.top * product
        memory = 8 * size * 3 * config.top
    else:
        decomposed = seconds_of_decomposition(size)
        memory = memory_of_kernels(size, kernels)
    limit = default_limit() if memory_limit is None else memory_limit
    return [
        Stage("kernel, in files", 1, formed, limit),
        Stage("spectra", kernels, kernels * decomposed, memory),
    ]


def prepare(
    config: KernelConfig, model: Model, x: Any, features: Mapping[str, FloatArray]
) -> KernelConfig:
    """Check a request, and fill in the digests of what it is computed from.

    Raises
    ------
    InputError
        For a model that cannot be called on x, an unknown reduction or one that is no kernel,
        features of other inputs, that do not vary, or beside a full kernel, and a ``top``
        below 1.
    """
    function, inputs = bound(config, model, x)
    cotangents_of(config.reduction, check_model(function, inputs, model))
    require_kernel(config.reduction)
    if config.by_layer and WHOLE in function.params:
        raise InputError(
            f"a parameter called {WHOLE} takes the name of the whole kernel: rename it"
        )
    if config.top < 1:
        raise InputError(f"top is {config.top}: ask for at least one mode")
    if features and config.reduction == "full":
        raise InputError("features are over inputs, a full kernel over inputs and classes: reduce")
    for family, columns in features.items():
        if columns.ndim != 2 or columns.shape[0] != count(inputs):
            raise InputError(
                f"features: {family} has shape {columns.shape}, the inputs are {count(inputs)}"
            )
        require_finite(columns, f"features {family}")
        if orthonormal_basis(center(columns)).shape[1] == 0:
            raise InputError(f"features: {family} does not vary over the inputs")
    families = {family: mx.array(columns) for family, columns in features.items()}
    return replace(
        config,
        weights=digest(_weights(model))[:16],
        inputs=digest(_by_name(x))[:16],
        features=digest(families)[:16] if features else "",
    )


def bound(config: KernelConfig, model: Model, x: Any) -> tuple[ParametricFunction, Inputs]:
    """The model as a function of the parameters that count, and its inputs."""
    if isinstance(model, ParametricFunction):  # an ONNX model, to which the choices were applied
        return bind(model, x)
    output = int(config.output) if config.output.isdecimal() else config.output
    parameters = config.parameters.split(",") if config.parameters else None
    return bind(model, x, output=None if output == "" else output, parameters=parameters)


def _by_name(x: Any) -> Params:
    """Inputs as they are stored: one as ``x``, those of a tuple numbered, others by their names."""
    arrays, names = as_inputs(x)
    if names is None:
        names = tuple(f"x[{k}]" for k in range(len(arrays))) if isinstance(x, tuple) else ("x",)
    return dict(zip(names, arrays, strict=True))


def _weights(model: Model) -> Params:
    """Everything that a model stores: of a module also what is frozen."""
    if isinstance(model, nn.Module):
        return flatten_tree(model.parameters())
    return as_parametric(model).params


def stored_inputs(run: Run) -> Any:
    """The inputs that a run keeps, in the form that they had: an array, a tuple or a dictionary.

    Raises
    ------
    InputError
        Where the file is missing or was altered.
    """
    arrays = {name: mx.array(value) for name, value in read_arrays(run.inputs_file).items()}
    if arrays and digest(arrays)[:16] == run.config["inputs"]:
        if list(arrays) == ["x"]:
            return arrays["x"]
        if list(arrays) == [f"x[{k}]" for k in range(len(arrays))]:
            return tuple(arrays.values())
        return arrays
    raise InputError(f"{run.inputs_file} is damaged: it is not what the run was made with")


def require_weights(run: Run, model: Model) -> None:
    """Raise InputError where a model's weights are not those that a run was made with."""
    if digest(_weights(model))[:16] != run.config["weights"]:
        raise InputError(f"the model of {run.path} is damaged: its weights are not the run's")


def form_kernels(
    config: KernelConfig,
    model: Model,
    x: Any,
    run_folder: Path,
    *,
    memory_limit: int | None = None,
    explain: bool = False,
    group: Group | None = None,
    progress: Progress = silent,
) -> None:
    """Write the kernels into a run folder that all ranks see, or go on with them.

    All that :func:`run_kernel` needs of ranks beyond the first is that they call this.
    """
    folder = run_folder / KERNELS
    begun = not folder.exists() or (folder / "tiles.json").exists()
    if not first_says(begun, group):
        return
    options: dict[str, Any] = {
        "reduction": config.reduction,
        "by_layer": config.by_layer,
        "explain": explain,
        "memory_limit": memory_limit,
        "out": folder,
        "group": group,
        "progress": progress,
    }
    function, inputs = bound(config, model, x)
    entk(function, inputs, **options)


def _stored_kernels(config: KernelConfig, folder: Path) -> dict[str, FloatArray]:
    kernels: dict[str, FloatArray] = {
        name_of_file(path): map_array(path) for path in sorted(folder.glob("*.npy"))
    }
    if config.by_layer:
        return {WHOLE: np.sum(list(kernels.values()), axis=0), **kernels}
    return {WHOLE: kernels["kernel"]}


def _decompose(matrix: FloatArray, top: int) -> tuple[Spectrum, float | None]:
    """The leading modes, and the effective rank where all of them are known."""
    size = matrix.shape[0]
    if size > DENSE and top < size:
        return top_modes(as_operator(matrix), top).spectrum, None
    whole = eigendecompose(np.asarray(matrix))
    leading = Spectrum(whole.values[:top], whole.vectors[:, :top], whole.noise_floor)
    return leading, effective_rank(whole.values)


def headline(results: Json) -> dict[str, float | None]:
    """The figures of a run that a comparison sets side by side; overlaps in per cent."""
    ranks = {f"effective rank, {name}": rank for name, rank in results["effective_rank"].items()}
    cliffs = {f"cliffs, {name}": float(len(rows)) for name, rows in results["cliffs"].items()}
    overlaps = {
        f"{row['family']} in modes {row['modes'][0]}–{row['modes'][1]}": row["percent"]
        for row in results["alignment"]
        if row["kernel"] == "full"
    }
    return {**ranks, **cliffs, **overlaps}
