"""Load the model of a finished run again, for export, verification and kernel regression.

A run folder may come from anyone, so it is data: its model is the ONNX graph that it keeps. The
code that made the model is run only if the user names it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_entk._files import Arrays, digest_of_file, read_arrays, read_tensors
from mlx_entk._linalg import ArrayLike, Float64Array, FloatArray
from mlx_entk._parameters import Params
from mlx_entk._records import from_json
from mlx_entk.analysis import WHOLE, bases_of
from mlx_entk.errors import InputError, UnnamedCodeError
from mlx_entk.onnx.files import read_model
from mlx_entk.runs import Run
from mlx_entk.spectrum import noise_floor
from mlx_entk.studies.base import Network
from mlx_entk.studies.intervention.problem import (
    Features,
    InterventionProblem,
    along,
    strength_in,
)
from mlx_entk.studies.kernel.sources import (
    import_graph,
    load_model,
    named_inputs,
    original_inputs,
    short_digest,
    stored_weights,
)
from mlx_entk.studies.kernel.study import IMPORTED, TRACED, KernelConfig, KernelResults, bound
from mlx_entk.studies.networks import HELD_OUT
from mlx_entk.studies.problem import (
    RegressionProblem,
    outputs_of,
    problem_of_model,
    targets_of,
)
from mlx_entk.tracing.functions import Model


def trained(run: Run, config: KernelConfig, model: str | None = None) -> Network:
    """The model of a run, and some of its inputs.

    Raises
    ------
    InputError
        For a model of several inputs, and as for ``models`` and ``stored_inputs``.
    """
    run.require_finished()
    x = stored_inputs(run, config)
    if len(named_inputs(x)) > 1:
        raise InputError(
            f"{run.path} is a run of a model with several inputs: only models with one input can "
            "be exported"
        )
    loaded, _ = models(run, config, model)
    function, inputs = bound(config, loaded, x)
    return Network(function, inputs[0][:HELD_OUT], config.reduction)


def problem(
    run: Run, config: KernelConfig, targets: ArrayLike | None, model: str | None = None
) -> RegressionProblem:
    """Kernel regression of the model of a run, towards targets of the user.

    Parameters
    ----------
    targets
        As for ``mlx_entk.studies.problem.problem_of_model``.
    model
        As for ``models``. The kernel at initialisation is compared only if this is given.

    Raises
    ------
    InputError
        If there are no targets, and as for
        ``mlx_entk.studies.problem.problem_of_model``.
    """
    if targets is None:
        raise InputError(
            "--targets is missing: a run of `mlx-entk kernel` has no targets of its own"
        )
    loaded, initial = models(run, config, model)
    x = stored_inputs(run, config)
    function, inputs = bound(config, loaded, x)
    before = None if initial is None else bound(config, initial, x)[0]
    return problem_of_model(function, before, inputs, targets)


def intervention(
    run: Run,
    config: KernelConfig,
    *,
    targets: ArrayLike | None = None,
    features: Mapping[str, FloatArray] | None = None,
    initial: Path | None = None,
    model: str | None = None,
) -> InterventionProblem:
    """Interventions on the model of a run, along the groups of modes that it reports.

    Parameters
    ----------
    targets
        As for ``mlx_entk.studies.problem.problem_of_model``; without them the outputs are compared
        with those of the trained model.
    features
        Families over the inputs, shape (N, k) each, that are taken out one at a time.
    initial
        A file with the weights before training, by name.
    model
        As for ``models``.

    Raises
    ------
    InputError
        As for ``problem``; and for features of a full kernel or of other inputs.
    """
    loaded, _ = models(run, config, model)
    function, inputs = bound(config, loaded, stored_inputs(run, config))
    results = from_json(KernelResults, run.results, f"{run.file('results.json')}")
    vectors = np.asarray(run.arrays[f"vectors/{WHOLE}"], dtype=np.float64)
    values = np.asarray(run.arrays[f"values/{WHOLE}"], dtype=np.float64)
    # No entry of a kernel is larger than its largest eigenvalue.
    floor = noise_floor(len(vectors), float(values.max(initial=0)), float(np.finfo(np.float32).eps))
    above = values > floor
    vectors, values = vectors[:, above], values[above]
    outputs = outputs_of(lambda batch: function.apply({}, *batch), inputs)
    groups = dict.fromkeys(
        [row.modes for row in results.alignment if row.kernel == WHOLE]
        + [cliff.modes for cliff in results.cliffs[WHOLE]]
        + list(config.groups)
    )
    single = None
    if features:
        if config.reduction == "full":
            raise InputError("--features: features are over inputs, modes of a full kernel are not")
        bases_of(features, inputs=len(outputs))  # refuses what does not fit
        searched = vectors[:, : 1 + max((last for _, last in groups), default=values.size - 1)]
        single = Features(
            {name: along(searched, family) for name, family in features.items()},
            strength_in(features),
        )
    return InterventionProblem(
        function=function,
        x=inputs,
        initial=None if initial is None else _weights_before(initial),
        reduction=config.reduction,
        vectors=vectors,
        values=values,
        groups=[group for group in groups if group[1] < values.size],
        measures=_measures(outputs, targets),
        features=single,
    )


def _measures(outputs: Float64Array, targets: ArrayLike | None) -> Any:
    """How near outputs are to those of the trained model and, if there are any, to targets."""
    spread = float(((outputs - outputs.mean(axis=0)) ** 2).sum())
    if targets is not None:
        values, labels = targets_of(targets, outputs.shape)

    def measures(after: Float64Array) -> dict[str, float]:
        kept = 1 - float(((after - outputs) ** 2).sum()) / spread if spread else 0.0
        found = {"R² with the trained model": kept}
        if targets is None:
            return found
        if labels is None:
            return found | {"loss": float(((after - values) ** 2).mean())}
        # The first measure is the one that figures show, and more of it is better.
        return {"accuracy": float((after.argmax(axis=1) == labels).mean())} | found

    return measures


def _weights_before(path: Path) -> Params:
    """Weights in a file by name, .safetensors or .npz."""
    if path.suffix == ".npz":
        return {name: mx.array(value) for name, value in read_arrays(path).items()}
    return read_tensors(path)[0]


def models(run: Run, config: KernelConfig, named: str | None = None) -> tuple[Model, Model | None]:
    """The model of a finished run, and the same at initialisation; None if that is not known.

    Parameters
    ----------
    named
        MODULE:FACTORY as the user names it, which is imported and run. Without it, the model is
        the graph that the run keeps.

    Raises
    ------
    UnnamedCodeError
        If the run keeps no graph, and no code was named.
    InputError
        If the run is unfinished, or its model was altered or can no longer be loaded.
    """
    run.require_finished()
    if named is not None:
        model = load_model(named, run.model_file)
        _require_weights(run, config, model)
        return model, load_model(named)
    if run.graph_file(IMPORTED).exists():
        graph = read_model(run.graph_file(IMPORTED))
        imported = import_graph(graph, config.output, config.parameters)
        _require_weights(run, config, imported)
        return imported, None
    traced = from_json(KernelResults, run.results, f"{run.file('results.json')}").graph
    if not traced:
        raise UnnamedCodeError(
            f"{run.path} keeps no graph of its model, which code makes; that is only run if you "
            "name it",
            config.model,
        )
    file = run.graph_file(TRACED)
    if digest_of_file(file) != traced:
        raise InputError(f"{file} is damaged: it is not the graph of this run")
    return import_graph(read_model(file), "", ""), None


def stored_inputs(run: Run, config: KernelConfig) -> Any:
    """The inputs that a run keeps, as they were given: an array, a tuple or a dictionary.

    Raises
    ------
    InputError
        If the file is missing or was altered.
    """
    stored = stored_arrays(run, config)
    return original_inputs({name: mx.array(value) for name, value in stored.items()})


def stored_arrays(run: Run, config: KernelConfig) -> Arrays:
    """The inputs that a run keeps, by name on the host; raises as ``stored_inputs``."""
    stored = read_arrays(run.inputs_file)
    digest = short_digest({name: mx.array(value) for name, value in stored.items()})
    if not stored or digest != config.inputs:
        raise InputError(f"{run.inputs_file} is damaged: its inputs are not the run's")
    return stored


def _require_weights(run: Run, config: KernelConfig, model: Model) -> None:
    if short_digest(stored_weights(model)) != config.weights:
        raise InputError(f"the model of {run.path} is damaged: its weights are not the run's")
