"""The trained network of a finished run: export to ONNX, verification in other frameworks."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from numpy.typing import NDArray
from onnx import load as load_model_proto

from mlx_entk import onnx
from mlx_entk._files import digest, digest_of_file
from mlx_entk.errors import InputError
from mlx_entk.kernel.reduction import Reduction, reduction_name
from mlx_entk.onnx.derivatives import What
from mlx_entk.progress import Progress, silent
from mlx_entk.runs import Run
from mlx_entk.studies.base import Network
from mlx_entk.studies.verification import Verification, VerifiedGraph, VerifiedModel
from mlx_entk.tracing.functions import as_parametric
from mlx_entk.training import load_parameters

# Inputs on which frameworks are compared: few, since PyTorch and finite differences take them one
# by one.
HELD_OUT = 12

# The graphs that verification compares.
VERIFIED: tuple[What, ...] = ("model", "jvp", "entk")


def trained_network(
    module: nn.Module, run: Run, held_out: NDArray[Any], reduction: Reduction
) -> Network:
    """The network that a run trained.

    Parameters
    ----------
    module
        The network before training; its weights are replaced.
    held_out
        Inputs that it was not trained on; the first few are used.
    reduction
        Reduction of the kernel that the study looks at.
    """
    load_parameters(module, run, run.last_checkpoint)
    x = mx.array(np.ascontiguousarray(held_out[:HELD_OUT]))
    return Network(as_parametric(module), x, reduction)


def export_graph(
    run: Run,
    network: Network,
    what: What,
    reduction: Reduction | None = None,
    path: Path | None = None,
) -> Path:
    """Write one graph of a run's network, by default into the run folder; return its path.

    Parameters
    ----------
    reduction
        Reduction of the graph ``entk``; by default the study's.

    Raises
    ------
    InputError
        For an unknown graph or reduction, or a model that cannot be written as one.
    """
    reduction = network.reduction if reduction is None else reduction
    exported = onnx.derivative(network.function, network.x, what, reduction)
    metadata = {"graph": what, "study": run.study, "config": run.config}
    if what == "entk":
        metadata["reduction"] = reduction_name(reduction)
    target = path or graph_file(run, what, reduction)
    onnx.export(
        exported.function,
        list(exported.inputs.values()),
        target,
        params=network.function.params,
        input_names=list(exported.inputs),
        batches=exported.batches,
        metadata=metadata,
    )
    return target


def how_written(path: Path) -> dict[str, str]:
    """What the metadata of a graph say: its ``batch``, and what it was ``tried`` on."""
    model = load_model_proto(path, load_external_data=False)
    said = {entry.key: entry.value for entry in model.metadata_props}
    batch = "any size" if said["batch"] == "dynamic" else said["batch"]
    return {"batch": batch, "tried": f"onnxruntime {said['onnxruntime']}"}


def graph_file(run: Run, what: What, reduction: Reduction) -> Path:
    """The file in which a run keeps a graph; each reduction of the kernel has its own."""
    if what == "entk":
        return run.graph_file(f"entk-{reduction_name(reduction).replace(',', '-')}")
    return run.graph_file(what)


def verify_run(
    run: Run, network: Network, against: Sequence[str], progress: Progress = silent
) -> Verification:
    """Verify a run's network; export the graphs that the run folder does not have yet."""
    onnx.require_checkers(against)
    graphs = {what: graph_file(run, what, network.reduction) for what in VERIFIED}
    missing: dict[What, str] = {}
    for done, (what, path) in enumerate(graphs.items()):
        progress("export", done, len(graphs), what)
        if path.exists():
            continue
        try:
            export_graph(run, network, what)
        except InputError as error:
            if what == "model":
                raise
            missing[what] = str(error)  # a derivative without a graph: what needs it is not run
    progress("export", len(graphs), len(graphs))
    written = {what: path for what, path in graphs.items() if what not in missing}
    verified = [
        VerifiedGraph(what, str(path.relative_to(run.path)), digest_of_file(path), "")
        for what, path in written.items()
    ]
    subject = onnx.Subject(network.function, network.x, network.reduction, written, missing)
    agreements = onnx.verify(subject, against, progress)
    params = network.function.params
    return Verification(
        reduction=reduction_name(network.reduction),
        inputs=network.x.shape[0],
        passed=onnx.all_passed(agreements),
        comparisons=agreements,
        not_installed=[name for name in onnx.CHECKERS if name not in onnx.installed_checkers()],
        model=VerifiedModel(
            run=run.path.resolve().name,
            study=run.study,
            parameters=sum(value.size for value in params.values()),
            sha256=digest(params),
        ),
        graphs=[*verified, *(VerifiedGraph(k, None, None, why) for k, why in missing.items())],
    )
