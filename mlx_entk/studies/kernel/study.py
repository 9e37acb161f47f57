"""A user's own model: kernel, spectrum, cliffs, and alignment with features if there are any."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_entk._files import Arrays, digest_of_file, write_atomically
from mlx_entk._linalg import FloatArray, as_numpy, orthonormal_basis, require_finite
from mlx_entk._parameters import patterns_in
from mlx_entk._text import visible
from mlx_entk.analysis import (
    WHOLE,
    KernelAnalysis,
    analyze_kernels,
    groups_at,
    part_shares,
    with_whole,
)
from mlx_entk.cliffs import CLIFF_RULE, Cliff
from mlx_entk.controls import OUTPUTS, Controls, controls_of
from mlx_entk.distributed import Group, first_says, is_first
from mlx_entk.errors import InputError, SlowPathWarning
from mlx_entk.features import Alignment, Method, center, family_shares
from mlx_entk.features.rotation import require_available
from mlx_entk.kernel import (
    LayerFactors,
    Reduction,
    entk,
    layer_factors,
    layerwise_entk,
    work,
)
from mlx_entk.kernel.checks import check_model
from mlx_entk.kernel.reduction import cotangents_of, require_kernel
from mlx_entk.kernel.store import kernels_are_whole, load_kernels
from mlx_entk.onnx.files import WITHIN, read_model
from mlx_entk.progress import Progress, silent
from mlx_entk.runs import Run
from mlx_entk.spectrum import Modes, require_modes
from mlx_entk.studies.base import Headline, Network
from mlx_entk.studies.kernel.directions import DisentangledGroup, disentangle_groups
from mlx_entk.studies.kernel.sources import (
    import_graph,
    inputs_on_host,
    named_inputs,
    short_digest,
    stored_weights,
)
from mlx_entk.studies.networks import export_graph
from mlx_entk.studies.results import Cliffs, Ranks
from mlx_entk.studies.words import kernel_name
from mlx_entk.tracing.functions import Model, ParametricFunction, bind
from mlx_entk.tracing.inputs import Inputs, count

# The folder of the kernels inside the run's.
KERNELS = "kernels"
# The same of the model before training.
INITIAL = "kernels-before-training"

# The name of an ONNX model's copy among the graphs of a run.
IMPORTED = "imported"

# The name of the graph that a run keeps of a model that code made, so that the run can be worked
# with without the code; the inputs that it is traced on; and by how much its kernel may differ.
TRACED = "traced"
_EXAMPLE, _CLOSE = 4, 1e-4


@dataclass(frozen=True)
class KernelConfig:
    """What to compute of which model.

    Attributes
    ----------
    model
        A name for the model.
    reduction
        As for ``mlx_entk.entk``.
    by_layer
        Whether to decompose the kernel of each parameter too.
    top
        How many modes to keep.
    output
        Which part of what the model returns counts: a name, or a number for a place in a tuple.
        Empty for the whole; for an ONNX model, for the first output of floating type.
    parameters
        Which parameters count, as patterns ``a.*,b``. Empty for all; for an ONNX model, for the
        initializers that look like parameters.
    weights, inputs, features
        Digests, filled in by ``prepare``.
    groups
        Groups of modes (first, last) to report in addition to those that end at a cliff.
    controls
        Whether to compare with what needs no kernel or no training: activations and outputs,
        shuffled features and, if it is known, the model before training.
    factors
        Whether to say which factor of each layer's kernel holds a family.
    initial
        Digest of the weights before training, filled in by ``prepare``; empty if they are not
        known.
    disentangle
        How to rotate each reported group of the whole kernel (``mlx_entk.features.disentangle``);
        None for not at all.
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
    groups: tuple[Modes, ...] = ()
    controls: bool = True
    factors: bool = False
    initial: str = ""
    disentangle: Method | None = None


@dataclass(frozen=True)
class KernelAlignment(Alignment):
    """An alignment alongside those of null models.

    Attributes
    ----------
    shuffled, shuffled_deviation
        Mean and standard deviation of the overlap with features that were shuffled over the
        inputs; None without controls.
    initial
        The overlap of the same modes before training; None if the model before training is not
        known.
    """

    shuffled: float | None
    shuffled_deviation: float | None
    initial: float | None

    @property
    def initial_percent(self) -> float | None:
        """``initial`` in per cent of the dimension."""
        return None if self.initial is None else 100 * self.initial / self.dimension


@dataclass(frozen=True)
class KernelResults:
    """What the study finds.

    Attributes
    ----------
    inputs, parameters
        How many.
    cliffs, cliff_rule
        By kernel; and what a cliff is.
    effective_rank
        By kernel; None if not all eigenvalues are known.
    equivalent_families
        Families that span the same space.
    cliffs_before
        The same of the kernels before training; None if they are not known.
    alignment
        Of every kernel, group of modes and family.
    controls
        What activations and outputs alone hold of the families.
    without
        Why there are no controls of activations; empty if there are.
    mode_features
        What the columns of the arrays ``shares/…`` are.
    graph
        SHA-256 of the graph that the run keeps of a model that code made; empty if it has none.
    disentangled
        The reported groups of the whole kernel, rotated, if that was asked for.
    """

    config: KernelConfig
    inputs: int
    parameters: int
    cliffs: Cliffs
    cliff_rule: str
    effective_rank: Ranks
    equivalent_families: list[list[str]]
    cliffs_before: Cliffs | None
    alignment: list[KernelAlignment]
    controls: Controls
    without: str
    mode_features: list[str]
    graph: str = ""
    disentangled: list[DisentangledGroup] = field(default_factory=list)


def compute(
    config: KernelConfig,
    run: Run,
    progress: Progress = silent,
    *,
    model: Model,
    x: Any,
    features: Mapping[str, FloatArray],
    initial: Model | None = None,
    graph: bytes | None = None,
    memory_limit: int | None = None,
    group: Group | None = None,
) -> tuple[KernelResults, Arrays] | None:
    """Compute, decompose and align the kernels of a model.

    Parameters
    ----------
    config
        As ``prepare`` gives it.
    run
        A folder made for this configuration, which all ranks see; kernels that it holds already
        are not computed again, and those begun go on.
    model, x
        As for ``mlx_entk.entk``.
    features
        Families of features over the inputs, shapes (N, k); may be empty.
    initial
        The model before training; None if it is not known.
    graph
        The ONNX file that the model was imported from, kept in the run folder.
    memory_limit
        Bytes for forming the kernels, by default half of what is available.
    group
        Ranks that share the tiles.

    Returns
    -------
    results, arrays
        None on the ranks beyond the first, which only help to form the kernels.
    """
    if graph is not None and is_first(group):
        write_atomically(run.graph_file(IMPORTED), lambda path: path.write_bytes(graph))
    function, inputs = bound(config, model, x)
    folder = run.file(KERNELS)
    _form_kernels(config, function, inputs, folder, progress, memory_limit, group)
    before = None if initial is None else bound(config, initial, x)[0]
    if before is not None:
        at_first = run.file(INITIAL)
        _form_kernels(config, before, inputs, at_first, progress, memory_limit, group)
    if not is_first(group):
        return None
    results, arrays = analyzed(
        config,
        function,
        inputs,
        _stored_kernels(config, function, inputs, folder),
        features,
        None if before is None else _stored_kernels(config, before, inputs, at_first),
        memory_limit=memory_limit,
        progress=progress,
    )
    if graph is None:
        results = replace(results, graph=keep_graph(config, function, inputs, run))
    # What regression, export and verification need to have the model again.
    run.save_model(stored_weights(model), inputs_on_host(x))
    return results, arrays


def analyzed(
    config: KernelConfig,
    function: ParametricFunction,
    inputs: Inputs,
    kernels: Mapping[str, FloatArray],
    features: Mapping[str, FloatArray],
    before: Mapping[str, FloatArray] | None,
    *,
    memory_limit: int | None,
    progress: Progress,
) -> tuple[KernelResults, Arrays]:
    """Decompose the kernels of a model, and align them.

    Parameters
    ----------
    function, inputs
        As ``bound`` gives them.
    kernels
        ``WHOLE`` and, by layer, those of the parameters.
    before
        The same of the model before training; None if it is not known.
    """
    controls, without = compared_with(config, function, inputs, features, memory_limit)
    analysis = analyze_kernels(
        kernels,
        features,
        groups=lambda cliffs: _groups(config, cliffs, len(kernels[WHOLE]), features),
        controls=controls,
        factors=_factors(config, function, inputs, features, memory_limit),
        top=config.top,
        progress=progress,
    )
    analysis_before = None
    if before is not None:
        analysis_before = analyze_kernels(before, top=config.top, progress=progress)
    rotated, directions = _disentangled(config, analysis, analysis_before, count(inputs))
    results = KernelResults(
        config=config,
        inputs=count(inputs),
        parameters=sum(value.size for value in function.params.values()),
        cliffs=analysis.cliffs,
        cliff_rule=CLIFF_RULE,
        effective_rank=analysis.effective_ranks,
        equivalent_families=analysis.equivalent_families,
        cliffs_before=None if analysis_before is None else analysis_before.cliffs,
        alignment=_alongside(analysis, before, config.controls),
        controls=analysis.controls,
        without=without,
        mode_features=list(analysis.bases),
        disentangled=rotated,
    )
    arrays: Arrays = directions | _of_modes(analysis, kernels)
    for name, spectrum in analysis.spectra.items():
        arrays[f"values/{name}"] = spectrum.values
        arrays[f"noise floor/{name}"] = np.array(spectrum.noise_floor)
        arrays[f"vectors/{name}"] = spectrum.vectors.astype(np.float32)
        if analysis.bases:
            shares, _ = family_shares(spectrum.vectors, analysis.bases)
            arrays[f"shares/{name}"] = shares.astype(np.float32)
    return results, arrays


def _of_modes(analysis: KernelAnalysis, kernels: Mapping[str, FloatArray]) -> Arrays:
    """What a page of modes needs beside spectra and shares.

    They are the traces of all kernels, the dimensions of the families, and the share of each
    parameter in each mode of the whole kernel.
    """
    dimensions = np.array([basis.shape[1] for basis in analysis.bases.values()], dtype=np.int64)
    layers = {name: kernel for name, kernel in kernels.items() if name != WHOLE}
    shares, traces = part_shares(analysis.spectra[WHOLE].vectors, layers or kernels)
    whole = np.concatenate([[traces.sum()], traces]) if layers else traces
    return {"dimensions": dimensions, "traces": whole} | ({"layers": shares} if layers else {})


def _groups(
    config: KernelConfig, cliffs: list[Cliff], size: int, features: Mapping[str, FloatArray]
) -> list[Modes]:
    """The groups that end at a cliff, and those that were asked for.

    If there are neither, the leading modes: for each family as many as it has columns, and one
    for the constant function.
    """
    last = min(size, config.top) - 1
    leading = {(0, min(family.shape[1], last)) for family in features.values()}
    return sorted({*groups_at(cliffs), *config.groups} or leading)


def compared_with(
    config: KernelConfig,
    function: ParametricFunction,
    inputs: Inputs,
    features: Mapping[str, FloatArray],
    memory_limit: int | None,
) -> tuple[dict[str, FloatArray], str]:
    """Activations and outputs to compare with, and why those of activations are missing."""
    if not (config.controls and features):
        return {}, ""
    try:
        found = controls_of(function, inputs, every_layer=True, memory_limit=memory_limit)
    except InputError as error:
        outputs = np.asarray(as_numpy(function.apply({}, *inputs)))
        return {OUTPUTS: outputs}, str(error)
    missing = "" if len(found) > 1 else "MLX cannot tell what the weights are multiplied with"
    return found, missing


def _factors(
    config: KernelConfig,
    function: ParametricFunction,
    inputs: Inputs,
    features: Mapping[str, FloatArray],
    memory_limit: int | None,
) -> dict[str, LayerFactors]:
    if not (config.factors and features):
        return {}
    return layer_factors(function, inputs, reduction=config.reduction, memory_limit=memory_limit)


def _alongside(
    analysis: KernelAnalysis, before: Mapping[str, FloatArray] | None, controls: bool
) -> list[KernelAlignment]:
    """The alignment with that of shuffled features and of the model before training."""
    shuffled = analysis.shuffled() if controls else [(None, None)] * len(analysis.alignment)
    initial = None if before is None else analysis.since(before)
    return [
        KernelAlignment(
            **vars(row),
            shuffled=mean,
            shuffled_deviation=deviation,
            initial=None if initial is None else initial[number].initial,
        )
        for number, (row, (mean, deviation)) in enumerate(
            zip(analysis.alignment, shuffled, strict=True)
        )
    ]


def _disentangled(
    config: KernelConfig, analysis: KernelAnalysis, before: KernelAnalysis | None, inputs: int
) -> tuple[list[DisentangledGroup], Arrays]:
    if config.disentangle is None:
        return [], {}
    return disentangle_groups(
        analysis.spectra[WHOLE],
        analysis.groups[WHOLE],
        analysis.bases,
        config.disentangle,
        inputs,
        controls=config.controls,
        before=None if before is None else before.spectra[WHOLE],
    )


def keep_graph(config: KernelConfig, function: ParametricFunction, inputs: Inputs, run: Run) -> str:
    """Keep a model as an ONNX graph, if one gives the same kernel; SHA-256 of the file, or "".

    A model has no such graph if it takes several inputs, uses what ONNX does not have, or is too
    large for one file.
    """
    file = run.graph_file(TRACED)
    if len(inputs) > 1 or sum(w.nbytes for w in function.params.values()) > WITHIN:
        return ""
    # Compared on one input more, since a graph may be bound to the number of its example.
    example, x = inputs[0][:_EXAMPLE], inputs[0][: _EXAMPLE + 1]
    try:
        export_graph(run, Network(function, example, config.reduction), "model", path=file)
        with warnings.catch_warnings():  # how long it takes tells the user nothing
            warnings.simplefilter("ignore", SlowPathWarning)
            again = import_graph(read_model(file), "", "")
            kernel = entk(again, x, reduction=config.reduction)
    except InputError:
        file.unlink(missing_ok=True)
        return ""
    expected = entk(function, x, reduction=config.reduction)
    same = np.abs(kernel - expected).max() <= _CLOSE * np.abs(expected).max()
    if same and set(again.params) == set(function.params):
        return digest_of_file(file)
    file.unlink()
    return ""


def prepare(
    config: KernelConfig,
    model: Model,
    x: Any,
    features: Mapping[str, FloatArray],
    initial: Model | None = None,
) -> KernelConfig:
    """Check a request, and fill in the digests of what it is computed from.

    Raises
    ------
    InputError
        For a model that cannot be called on x; an unknown reduction, and one that is no kernel;
        features that are of other inputs, that do not vary, or that come with a full kernel;
        factors of a full kernel; a ``top`` below 1; groups beyond the modes; a model before
        training with other parameters; and a way to disentangle that is unknown, or needs
        scikit-learn where that is missing.
    """
    function, inputs = bound(config, model, x)
    cotangents_of(config.reduction, check_model(function, inputs, model))
    require_kernel(config.reduction)
    if config.by_layer and WHOLE in function.params:
        raise InputError(
            f"a parameter called {WHOLE} takes the name of the whole kernel: rename it"
        )
    if config.top < 1:
        raise InputError(f"top is {config.top}: it must be at least 1")
    if features and config.reduction == "full":
        raise InputError(
            "features are over inputs, but a full kernel is over inputs and classes: choose "
            "another reduction"
        )
    for modes in config.groups:
        require_modes(modes, min(config.top, count(inputs)), "the run")
    if config.factors and config.reduction == "full":
        raise InputError("factors are of kernels over inputs alone: choose another reduction")
    if config.disentangle is not None:
        require_available(config.disentangle)
    if initial is not None:
        _require_same_parameters(function, bound(config, initial, x)[0])
    for family, columns in features.items():
        if columns.ndim != 2 or columns.shape[0] != count(inputs):
            raise InputError(
                f"features: {family} has shape {columns.shape}, but there are {count(inputs)} "
                "inputs"
            )
        require_finite(columns, f"features {family}")
        if orthonormal_basis(center(columns)).shape[1] == 0:
            raise InputError(f"features: {family} does not vary over the inputs")
    families = {family: mx.array(columns) for family, columns in features.items()}
    return replace(
        config,
        weights=short_digest(stored_weights(model)),
        inputs=short_digest(named_inputs(x)),
        features=short_digest(families) if features else "",
        initial="" if initial is None else short_digest(stored_weights(initial)),
    )


def _require_same_parameters(after: ParametricFunction, before: ParametricFunction) -> None:
    shapes = [{name: w.shape for name, w in f.params.items()} for f in (after, before)]
    if shapes[0] != shapes[1]:
        differing = {n for s in shapes for n in s if shapes[0].get(n) != shapes[1].get(n)}
        raise InputError(
            "the model before training has other parameters than the model: "
            f"{', '.join(visible(name) for name in sorted(differing)[:3])}"
        )


def bound(config: KernelConfig, model: Model, x: Any) -> tuple[ParametricFunction, Inputs]:
    """The model as a function of the parameters that count, and its inputs."""
    if isinstance(model, ParametricFunction):  # an ONNX model, to which the choices were applied
        return bind(model, x)
    output = int(config.output) if config.output.isdecimal() else config.output
    parameters = patterns_in(config.parameters)
    return bind(model, x, output=None if output == "" else output, parameters=parameters)


def _form_kernels(
    config: KernelConfig,
    function: ParametricFunction,
    inputs: Inputs,
    folder: Path,
    progress: Progress,
    memory_limit: int | None,
    group: Group | None,
) -> None:
    """Write the kernels into a folder that all ranks see, unless they are all there."""
    whole = kernels_are_whole(folder, _kernel_names(config, function))
    if not first_says(not whole, group):
        return
    form = layerwise_entk if config.by_layer else entk
    form(
        function,
        inputs,
        reduction=config.reduction,
        memory_limit=memory_limit,
        out=folder,
        group=group,
        progress=progress,
    )


def _kernel_names(config: KernelConfig, function: ParametricFunction) -> list[str]:
    return list(function.params) if config.by_layer else [work.WHOLE]


def _stored_kernels(
    config: KernelConfig, function: ParametricFunction, inputs: Inputs, folder: Path
) -> dict[str, FloatArray]:
    N = count(inputs)
    classes = (check_model(function, inputs),) * 2 if config.reduction == "full" else ()
    kernels = load_kernels(folder, _kernel_names(config, function), (N, N, *classes))
    return with_whole(kernels) if config.by_layer else {WHOLE: kernels[work.WHOLE]}


def headline(results: KernelResults) -> Headline:
    """The numbers of a run by which it is compared with others; overlaps in per cent."""
    names = {kernel: kernel_name(kernel) for kernel in results.cliffs}
    ranks = {
        f"effective rank, {names[kernel]}": rank for kernel, rank in results.effective_rank.items()
    }
    cliffs = {
        f"cliffs, {names[kernel]}": float(len(groups)) for kernel, groups in results.cliffs.items()
    }
    overlaps: Headline = {}
    for row in results.alignment:
        if row.kernel != WHOLE:
            continue
        where = f"{row.family} in modes {row.modes[0]}–{row.modes[1]}"
        overlaps[where] = row.percent
        if results.controls.rows:
            overlaps[f"{where}, beyond activations and outputs"] = results.controls.margin(row)
    return {**ranks, **cliffs, **overlaps}


def unit(name: str) -> str:
    """The unit of a headline number."""
    if name.startswith("effective rank, "):
        return "modes"
    if name.startswith("cliffs, "):
        return ""
    return "points" if name.endswith(", beyond activations and outputs") else "%"
