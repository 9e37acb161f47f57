"""``mlx-entk kernel``: the kernel of a reader's own model."""

import hashlib
import sys
from contextlib import nullcontext, redirect_stdout
from pathlib import Path

import click

from mlx_entk._files import read_arrays, write_atomically
from mlx_entk._memory import parse_bytes
from mlx_entk.distributed import is_first, ranks
from mlx_entk.errors import InputError
from mlx_entk.onnx.files import read_model
from mlx_entk.runs import Run
from mlx_entk.studies.estimate import Stage
from mlx_entk.studies.kernel import (
    STUDY,
    KernelConfig,
    estimate,
    form_kernels,
    prepare,
    run_kernel,
)
from mlx_entk.tracing.functions import Model

from .base import Command, dry_run_option, is_quiet, wants_json
from .display import finish, progress, session, show_estimate
from .inputs import (
    IMPORTED,
    import_graph,
    in_order,
    load_inputs,
    load_model,
    parse_reduction,
)

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command(
    cls=Command,
    short_help="Kernel, spectrum and alignment of your own model.",
    examples=[
        "mlx-entk kernel --onnx model.onnx --inputs x.npz --out runs/mine",
        "mlx-entk kernel --model examples.sparse_parity:make_model --by-layer \\\n"
        "    --weights parity/weights.safetensors --inputs parity/inputs.npz \\\n"
        "    --features parity/features.npz --out runs/parity",
    ],
)
@click.option(
    "--model",
    "source",
    metavar="MODULE:FACTORY",
    help="A function without arguments that returns an mlx.nn.Module; the working folder is "
    "searched first. Imports and runs that code.",
)
@click.option("--weights", type=_FILE, help="Weights for it (.safetensors or .npz).")
@click.option(
    "--onnx",
    "graph",
    type=_FILE,
    help="Instead of --model: an ONNX model, from PyTorch, scikit-learn, …",
)
@click.option(
    "--output",
    default="",
    metavar="NAME|NUMBER",
    help="Which output counts: a key or field of what --model returns, or a place in a tuple; of "
    "an ONNX model its name, by default the first of floating type.",
)
@click.option(
    "--parameters",
    default="",
    metavar="PATTERN,…",
    help="Which parameters count, such as 'layers.*'; by default all, of an ONNX model the "
    "initializers of floating type but scalars and running statistics. From PyTorch: "
    "torch.onnx.export(…, optimize=False) keeps them as they were.",
)
@click.option(
    "--inputs",
    type=_FILE,
    required=True,
    help="An .npy, or an .npz with the array x, batch first; of a model of several inputs, an .npz "
    "of arrays named as the model names them.",
)
@click.option("--features", type=_FILE, help="An .npz of feature families, shape (N, k) each.")
@click.option(
    "--reduction",
    default="trace",
    show_default=True,
    help="trace, sum-of-logits, full, or one class as c,c.",
)
@click.option("--by-layer", is_flag=True, help="Decompose the kernel of each parameter too.")
@click.option("--top", default=200, show_default=True, help="Modes to keep.")
@click.option("--memory-limit", metavar="SIZE", help="Such as 4GB; default half of what is free.")
@click.option("--explain", is_flag=True, help="Print how each parameter's part is computed.")
@click.option(
    "--out", required=True, type=click.Path(file_okay=False, path_type=Path), help="Run folder."
)
@dry_run_option
def kernel(
    source: str | None,
    weights: Path | None,
    graph: Path | None,
    output: str,
    parameters: str,
    inputs: Path,
    features: Path | None,
    reduction: str,
    by_layer: bool,
    top: int,
    memory_limit: str | None,
    explain: bool,
    out: Path,
    dry_run: bool,
) -> list[Stage] | None:
    """Compute, decompose and align the eNTK of your own model.

    Writes a run folder with the kernels as .npy files, results.json, spectra.npz, figures/ and
    report.html. Run the same command again to continue after an interruption. Started by
    mlx.launch, the ranks share the tiles.
    """
    limit = parse_bytes(memory_limit) if memory_limit else None
    imported = None
    model: Model
    if source is not None and graph is None:
        model, label = load_model(source, weights), source
    elif graph is not None and source is None:
        if weights is not None:
            raise InputError("--weights belongs to --model; an ONNX model brings its own")
        imported = read_model(graph)
        model = import_graph(imported, output, parameters)
        content = hashlib.sha256(graph.read_bytes()).hexdigest()
        label = f"{graph.name} (SHA-256 {content[:16]})"
    else:
        raise InputError("name one model: --model MODULE:FACTORY, or --onnx FILE")
    x = load_inputs(inputs)
    if imported is not None:
        x = in_order(imported, x)
    bank = read_arrays(features) if features else {}
    config = KernelConfig(label, parse_reduction(reduction), by_layer, top, output, parameters)
    config = prepare(config, model, x, bank)
    if dry_run:
        return show_estimate(out, estimate(config, model, x, limit))
    group = ranks()
    if not is_first(group):
        form_kernels(config, model, x, out, memory_limit=limit, group=group)
        return None
    run = Run.create(out, STUDY, config.as_json())
    with session(run):
        if imported is not None:
            data = imported.SerializeToString()
            write_atomically(run.graph_file(IMPORTED), lambda path: path.write_bytes(data))
        # The explanation is no part of a JSON document.
        aside = redirect_stdout(sys.stderr) if wants_json() else nullcontext()
        with progress() as update, aside:
            run_kernel(
                config, model, x, bank, run,
                memory_limit=limit, explain=explain and not is_quiet(), group=group,
                progress=update,
            )  # fmt: skip
        finish(run)
    return None
