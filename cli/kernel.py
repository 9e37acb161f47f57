"""``mlx-entk kernel``: the kernel of a reader's own model."""

import importlib
import sys
from pathlib import Path

import click
import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_entk.errors import InputError
from mlx_entk.kernel import Reduction
from mlx_entk.linalg import FloatArray
from mlx_entk.memory import parse_bytes
from mlx_entk.plotting import kernel_figures
from mlx_entk.report import tables, write_report
from mlx_entk.runs import Run
from mlx_entk.studies.kernel import STUDY, KernelConfig, prepare, run_kernel

from .display import console, print_table, progress

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command(
    epilog="Example: mlx-entk kernel --model examples.sparse_parity:make_model "
    "--weights parity/weights.safetensors --inputs parity/inputs.npz "
    "--features parity/features.npz --by-layer --out runs/parity",
)
@click.option(
    "--model",
    "source",
    required=True,
    metavar="MODULE:FACTORY",
    help="A function without arguments that returns an mlx.nn.Module; the working folder is "
    "searched first.",
)
@click.option("--weights", type=_FILE, help="Weights for it (.safetensors or .npz).")
@click.option("--inputs", type=_FILE, required=True, help="An .npz with the array x, batch first.")
@click.option("--features", type=_FILE, help="An .npz of feature families, shape (N, k) each.")
@click.option(
    "--reduction",
    default="trace",
    show_default=True,
    help="trace, sum-of-logits, full, or a pair of classes as c,d.",
)
@click.option("--by-layer", is_flag=True, help="Decompose the kernel of each parameter too.")
@click.option("--top", default=200, show_default=True, help="Modes to keep.")
@click.option("--memory-limit", metavar="SIZE", help="Such as 4GB; default half of what is free.")
@click.option("--explain", is_flag=True, help="Print how each parameter's part is computed.")
@click.option("--out", required=True, type=click.Path(file_okay=False, path_type=Path))
def kernel(
    source: str,
    weights: Path | None,
    inputs: Path,
    features: Path | None,
    reduction: str,
    by_layer: bool,
    top: int,
    memory_limit: str | None,
    explain: bool,
    out: Path,
) -> None:
    """Compute, decompose and align the eNTK of your own model.

    Writes a run folder with the kernels as .npy files, results.json, spectra.npz, figures/ and
    report.html. Run the same command again to continue after an interruption.
    """
    limit = parse_bytes(memory_limit) if memory_limit else None
    model = _load_model(source, weights)
    x = mx.array(_load_inputs(inputs))
    bank = _load_arrays(features) if features else {}
    config = KernelConfig(source, _parse_reduction(reduction), by_layer, top)
    config = prepare(config, model, x, bank)
    run = Run.create(out, STUDY, config.as_json())
    with run.session(), progress() as update:
        results = run_kernel(
            config, model, x, bank, run, memory_limit=limit, explain=explain, progress=update
        )
        for name, figure in kernel_figures(run):
            run.save_figure(name, figure)
        write_report(run)
    for table in tables(results):
        print_table(table)
    console.print(f"Report: {run.path / 'report.html'}", soft_wrap=True)


def _load_model(source: str, weights: Path | None) -> nn.Module:
    module_name, colon, factory_name = source.partition(":")
    if not (module_name and colon and factory_name):
        raise InputError(f"--model {source}: write MODULE:FACTORY, such as my_models:make")
    sys.path.insert(0, str(Path.cwd()))
    try:
        factory = getattr(importlib.import_module(module_name), factory_name)
    except (ImportError, AttributeError) as error:
        raise InputError(f"--model {source} cannot be imported: {error}") from error
    finally:
        sys.path.pop(0)
    model = factory()
    if not isinstance(model, nn.Module):
        raise InputError(f"--model {source} returned {type(model).__name__}, not an mlx.nn.Module")
    if weights is not None:
        try:
            model.load_weights(str(weights))
        except (ValueError, RuntimeError) as error:
            raise InputError(f"--weights {weights} do not fit {source}: {error}") from error
    return model.eval()


def _load_arrays(path: Path) -> dict[str, FloatArray]:
    try:
        with np.load(path) as stored:
            return {name: stored[name] for name in stored.files}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is no .npz of arrays: {error}") from error


def _load_inputs(path: Path) -> FloatArray:
    arrays = _load_arrays(path)
    if "x" not in arrays:
        raise InputError(f"{path} has no array x; it has {', '.join(arrays) or 'nothing'}")
    x = arrays["x"]
    narrow = {"f": np.float32, "i": np.int32, "u": np.int32, "b": np.bool_}.get(x.dtype.kind)
    if narrow is None:
        raise InputError(f"{path}: x has type {x.dtype}, which MLX has no array for")
    return np.asarray(x, dtype=narrow)


def _parse_reduction(text: str) -> Reduction:
    parts = text.split(",")
    if len(parts) == 2 and all(part.strip().isdigit() for part in parts):
        return int(parts[0]), int(parts[1])
    return text
