"""The trained network of a finished run, and its way to ONNX and to other frameworks."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from numpy.typing import NDArray

from mlx_entk import onnx
from mlx_entk.data import modular_addition
from mlx_entk.errors import InputError
from mlx_entk.jacobian import as_parametric
from mlx_entk.models import QuadraticMLP, ToyModel
from mlx_entk.onnx.derivatives import What
from mlx_entk.progress import Progress, silent
from mlx_entk.runs import Json, Run
from mlx_entk.studies import mlp, tms, transformer
from mlx_entk.training import load_parameters

# Inputs of the comparisons: few, for PyTorch and finite differences go one by one.
HELD_OUT = 12


@dataclass(frozen=True)
class Network:
    """A trained network.

    Attributes
    ----------
    module
        With the weights of the last checkpoint.
    held_out
        Inputs that it was not trained on, shape (N, …).
    reduction
        Of the kernel that the study looks at.
    """

    module: nn.Module
    held_out: mx.array
    reduction: str


def network_of(run: Run) -> Network:
    """The network that a run trained.

    Raises
    ------
    InputError
        For an unfinished run, or one that did not train one network.
    """
    if not run.finished:
        raise InputError(f"{run.path} is unfinished: run the command that made it again")
    module: nn.Module
    held_out: NDArray[Any]
    if run.study == mlp.STUDY:
        config = mlp.MLPConfig(**run.config)
        data = modular_addition(config.p, config.train_fraction, config.seed, config.embedding)
        module = QuadraticMLP(config.p, config.width, config.seed)
        held_out, reduction = data.x[data.test], "trace"
    elif run.study == transformer.STUDY:
        of_transformer = transformer.TransformerConfig(**run.config)
        data = modular_addition(
            of_transformer.p, of_transformer.train_fraction, of_transformer.seed
        )
        module = transformer.make_model(of_transformer)
        held_out, reduction = data.tokens[data.test], transformer.MAIN
    elif run.study == tms.STUDY:
        of_tms = tms.TMSConfig(**run.config)
        module = ToyModel(of_tms.n, of_tms.m, of_tms.seed)
        held_out = tms.tms_data(replace(of_tms, seed=of_tms.seed + 1)).x
        reduction = "trace"
    else:
        raise InputError(
            f"{run.path} is a {run.study} run: export takes the run of one network, such as a "
            "folder inside it"
        )
    load_parameters(module, run, run.checkpoints[-1])
    return Network(module, mx.array(np.ascontiguousarray(held_out[:HELD_OUT])), reduction)


def export_graph(
    run: Run, what: What, reduction: str | None = None, path: Path | None = None
) -> Path:
    """Write one graph of a run's network, by default into the run folder; returns where."""
    network = network_of(run)
    reduction = reduction or network.reduction
    function = as_parametric(network.module)
    exported = onnx.derivative(function, network.held_out, what, reduction)
    target = path or graph_file(run, what)
    metadata = {"what": what, "study": run.study, "config": run.config}
    if what == "entk":
        metadata["reduction"] = reduction
    onnx.export(
        exported.function,
        list(exported.inputs.values()),
        target,
        params=function.params,
        input_names=list(exported.inputs),
        batches=exported.batches,
        metadata=metadata,
    )
    return target


def graph_file(run: Run, what: What) -> Path:
    """Where a run keeps a graph."""
    return run.path / f"{what}.onnx"


def verify_run(run: Run, against: tuple[str, ...], progress: Progress = silent) -> Json:
    """Verify a run's network; exports the graphs that the run folder does not have yet.

    Returns
    -------
    dict
        What ``verification.json`` holds.
    """
    network = network_of(run)
    needed: tuple[What, ...] = ("model", "jvp", "entk")
    for done, what in enumerate(needed):
        progress("export", done, len(needed), what)
        if not graph_file(run, what).exists():
            export_graph(run, what)
    progress("export", len(needed), len(needed))
    subject = onnx.Subject(
        as_parametric(network.module),
        network.held_out,
        network.reduction,
        {what: graph_file(run, what) for what in needed},
    )
    comparisons = onnx.verify(subject, against, progress)
    return {
        "reduction": network.reduction,
        "inputs": network.held_out.shape[0],
        "passed": all(row.passed for row in comparisons),
        "comparisons": [row.as_json() for row in comparisons],
    }
