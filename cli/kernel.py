"""``mlx-entk kernel``: the kernel of a user's own model."""

import hashlib
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import mlx.core as mx
from onnx import ModelProto

from mlx_entk._linalg import FloatArray
from mlx_entk._memory import parse_bytes
from mlx_entk._records import to_json
from mlx_entk._text import visible
from mlx_entk.distributed import is_first, ranks
from mlx_entk.errors import InputError
from mlx_entk.features import METHODS, Method
from mlx_entk.kernel import explain
from mlx_entk.onnx.files import read_model
from mlx_entk.onnx.importer import declared_type, inputs_of, judged, with_constants
from mlx_entk.onnx.parameters import KINDS
from mlx_entk.report import Table
from mlx_entk.studies.estimate import Stage
from mlx_entk.studies.kernel import STUDY, KernelConfig, estimate, prepare
from mlx_entk.studies.kernel.analyze import in_memory
from mlx_entk.studies.kernel.sources import import_graph, load_model
from mlx_entk.studies.kernel.study import bound
from mlx_entk.tracing.functions import Model

from .base import Command, dry_run_option, is_quiet, memory_limit_option, wants_json
from .display import progress, run_and_show, show, show_estimate, state_of_folder
from .inputs import (
    in_order,
    load_features,
    load_inputs,
    parse_groups,
    parse_reduction,
    split_constants,
)

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command(
    cls=Command,
    short_help="Compute, decompose and align the eNTK of your own model.",
    examples=[
        "mlx-entk kernel --onnx model.onnx --dry-run",
        "mlx-entk kernel --onnx model.onnx --inputs x.npz",
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
    help="A function without arguments that returns an mlx.nn.Module, in a module or, as "
    "FILE.py:FACTORY, in a file. It is imported, first from the working folder, and run.",
)
@click.option("--weights", type=_FILE, help="Weights for --model (.safetensors or .npz).")
@click.option(
    "--initial",
    type=_FILE,
    help="The model before training, to compare with: weights for --model, or a file for --onnx. "
    "With --weights it is, by default, what --model makes without them.",
)
@click.option(
    "--onnx",
    "graph",
    type=_FILE,
    help="An ONNX model instead of --model, exported from PyTorch, scikit-learn, …",
)
@click.option(
    "--output",
    default="",
    metavar="NAME|NUMBER",
    help="The output to use: a key or field of what --model returns, or an index into a tuple. For "
    "an ONNX model, the name of an output; by default the first one of floating type.",
)
@click.option(
    "--parameters",
    default="",
    metavar="PATTERN,…",
    help="The parameters to use, such as 'layers.*'; by default all of them. For an ONNX model, by "
    "default those that were trained, as far as the file tells; '*' takes the weights as the file "
    "has them. --onnx FILE --dry-run lists them.",
)
@click.option(
    "--inputs",
    type=click.Path(),
    multiple=True,
    metavar="FILE",
    help="An .npy file, or an .npz file with the array x, batch first. For a model with several "
    "inputs, an .npz file of arrays named as the model names them; for an ONNX model, one without "
    "axes is the same for every row. Or FILE.py:FUNCTION, which returns such arrays and is run. "
    "Give it again to join the inputs of several files.",
)
@click.option(
    "--features",
    type=_FILE,
    help="An .npz file of feature families to align the modes with, shape (N, k) each, or an .npy "
    "file of one.",
)
@click.option(
    "--reduction",
    default="trace",
    show_default=True,
    help="Reduction of the class axes: trace, sum-of-logits, full, or one class as c,c.",
)
@click.option(
    "--by-layer",
    is_flag=True,
    help="Decompose the kernel of each parameter as well as the whole kernel.",
)
@click.option(
    "--top",
    default=KernelConfig.top,
    show_default=True,
    help="Number of leading modes to keep.",
)
@click.option(
    "--groups",
    default="",
    metavar="FIRST-LAST,…",
    help="Groups of modes to align, such as 1-8,9-36, in addition to those that end at a cliff.",
)
@click.option(
    "--factors",
    is_flag=True,
    help="Say which factor of each layer's kernel holds a feature: activations, or derivatives.",
)
@click.option(
    "--disentangle",
    type=click.Choice(METHODS),
    help="Rotate each group of modes to sparse (varimax, dictionary) or independent (ica) "
    "directions, and say which family explains each of them, if any does. ica and dictionary need "
    "the extra sparse.",
)
@click.option(
    "--no-controls",
    is_flag=True,
    help="Leave out what the kernel is compared with: activations and outputs alone, shuffled "
    "features, and the model before training.",
)
@memory_limit_option
@click.option(
    "--explain",
    "want_explanation",
    is_flag=True,
    help="Print how each parameter's part of the kernel is computed.",
)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    help="Run folder to write; without it, the findings are printed and nothing is kept.",
)
@dry_run_option
def kernel(
    source: str | None,
    weights: Path | None,
    initial: Path | None,
    graph: Path | None,
    output: str,
    parameters: str,
    inputs: tuple[str, ...],
    features: Path | None,
    reduction: str,
    by_layer: bool,
    top: int,
    groups: str,
    factors: bool,
    disentangle: Method | None,
    no_controls: bool,
    memory_limit: str | None,
    want_explanation: bool,
    out: Path | None,
    dry_run: bool,
) -> list[Stage] | None:
    """Compute, decompose and align the eNTK of your own model.

    Prints what it finds. With --out it also writes a run folder with the kernels as .npy files,
    results.json, spectra.npz, figures/ and report.html; run the same command again to continue
    after an interruption. If mlx.launch starts the command, its ranks share the work.
    """
    limit = parse_bytes(memory_limit) if memory_limit else None
    if dry_run and graph is not None and not inputs:
        contents = _contents(read_model(graph, limit), output, limit)
        show(contents.tables, contents.data)
        return None
    if not inputs:
        raise click.UsageError("Missing option '--inputs'.")
    if initial is not None and no_controls:
        raise InputError("--initial is a control: leave out --no-controls")
    x = load_inputs(inputs)
    x, constants = split_constants(x) if graph is not None else (x, {})
    loaded = _load(source, weights, graph, constants, output, parameters, limit)
    before = (
        None
        if no_controls
        else _before(source, weights, graph, constants, initial, output, parameters, limit)
    )
    model = loaded.model
    if loaded.graph is not None:
        x = in_order(loaded.graph, x)
    bank = load_features(features) if features else {}
    config = prepare(
        KernelConfig(
            loaded.label,
            parse_reduction(reduction),
            by_layer,
            top,
            output,
            parameters,
            groups=parse_groups(groups),
            controls=not no_controls,
            factors=factors,
            disentangle=disentangle,
        ),
        model,
        x,
        bank,
        before,
    )
    if dry_run:
        stages = estimate(
            config, model=model, x=x, features=bank, initial=before, memory_limit=limit
        )
        known = _Contents([], {})
        if loaded.graph is not None:
            known = _contents(loaded.graph, output, limit)
        state = None if out is None else state_of_folder(STUDY, config, out)
        return show_estimate(out, state, stages, known.tables, known.data)
    group = ranks()
    if out is None and group is not None:
        raise InputError("--out is missing: several ranks share a run folder")
    if want_explanation and is_first(group) and not is_quiet():
        function, arrays = bound(config, model, x)
        explanation = explain(function, arrays, reduction=config.reduction)
        click.echo(explanation, err=wants_json())  # it is not part of the JSON document
    content = None if loaded.graph is None else loaded.graph.SerializeToString()
    if out is None:
        with progress() as update:
            analysis = in_memory(
                config, model, x, bank, before, graph=content, memory_limit=limit, progress=update
            )
        show(analysis.tables, {"results": to_json(analysis.results)}, found=analysis.found)
        return None
    run_and_show(
        STUDY,
        config,
        out,
        group,
        model=model,
        x=x,
        features=bank,
        initial=before,
        graph=content,
        memory_limit=limit,
    )
    return None


@dataclass(frozen=True)
class _Loaded:
    """A model, its label, and the ONNX graph that it was imported from, if there was one."""

    model: Model
    label: str
    graph: ModelProto | None = None


def _load(
    source: str | None,
    weights: Path | None,
    graph: Path | None,
    constants: dict[str, FloatArray],
    output: str,
    parameters: str,
    limit: int | None,
) -> _Loaded:
    """The one model that --model or --onnx names."""
    if source is not None and graph is None:
        return _Loaded(load_model(source, weights), source)
    if graph is None or source is not None:
        raise InputError("name one model: --model MODULE:FACTORY, or --onnx FILE")
    if weights is not None:
        raise InputError("--weights goes with --model; an ONNX model has weights of its own")
    imported = with_constants(read_model(graph, limit), constants)
    content = hashlib.sha256(graph.read_bytes()).hexdigest()
    label = f"{visible(graph.name)} (SHA-256 {content[:16]})"
    return _Loaded(import_graph(imported, output, parameters, limit), label, imported)


def _before(
    source: str | None,
    weights: Path | None,
    graph: Path | None,
    constants: dict[str, FloatArray],
    initial: Path | None,
    output: str,
    parameters: str,
    limit: int | None,
) -> Model | None:
    """The model before training; None if it is not known."""
    if source is not None and (initial is not None or weights is not None):
        mx.random.seed(0)  # what the factory draws is the same every time
        return load_model(source, initial, "--initial")
    if graph is not None and initial is not None:
        before = with_constants(read_model(initial, limit), constants)
        return import_graph(before, output, parameters, limit)
    return None


@dataclass(frozen=True)
class _Contents:
    """What an ONNX file holds, for people and for programs."""

    tables: list[Table]
    data: dict[str, Any]


def _contents(graph: ModelProto, output: str, limit: int | None) -> _Contents:
    """What an ONNX file takes and gives, and which of its numbers are parameters."""
    ends = [
        (what, value.name, declared_type(value))
        for what, values in (("input", inputs_of(graph)), ("output", graph.graph.output))
        for value in values
    ]
    found = judged(graph, output or None, limit)
    alike: dict[tuple[str, str], list[tuple[str, str]]] = defaultdict(list)
    for one in found.judged:
        shape = " × ".join(map(str, one.shape)) or "no axes"
        alike[one.kind, one.reason].append((one.name, shape))
    tables = [
        Table(f"{kind.capitalize()} ({len(rows)})", ("name", "shape"), rows, f"Each {reason}.")
        for (kind, reason), rows in alike.items()
    ]
    refusal = found.refusal()
    note = f"A kernel would be refused: {refusal}" if refusal else _COUNTED
    counts = Counter(one.kind for one in found.judged)
    counted = [(kind, str(counts[kind])) for kind in KINDS if counts[kind]]
    summary = Table("Numbers in the file", ("kind", "tensors"), counted, note)
    both = Table("Inputs and outputs", ("", "name", "type and shape"), ends)
    data: dict[str, Any] = {
        f"{end}s": [{"name": name, "type": of} for what, name, of in ends if what == end]
        for end in ("input", "output")
    }
    data["tensors"] = [to_json(one) for one in found.judged]
    data["refusal"] = refusal or None
    return _Contents([both, *tables, summary], data)


_COUNTED = "The kernel is of the parameters; --parameters chooses others."
