"""What commands read: models and arrays of the reader's own, networks of runs."""

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.nn as nn
import numpy as np
from onnx import ModelProto

from mlx_entk._files import map_array, read_arrays
from mlx_entk._linalg import FloatArray
from mlx_entk.errors import InputError
from mlx_entk.kernel import Reduction
from mlx_entk.onnx.files import read_model
from mlx_entk.onnx.importer import from_model
from mlx_entk.runs import Run
from mlx_entk.studies import kernel as kernel_study
from mlx_entk.studies.networks import HELD_OUT, Network, network_of
from mlx_entk.tracing.functions import Model, ParametricFunction
from mlx_entk.tracing.inputs import Inputs

# The name of an ONNX model's copy among the graphs of a run.
IMPORTED = "imported"


def load_function(option: str, source: str, form: str) -> Callable[..., Any]:
    """What an option names as MODULE:NAME; the working folder is searched first."""
    module, colon, name = source.partition(":")
    if not (module and colon and name):
        raise InputError(f"{option} {source}: write {form}")
    sys.path.insert(0, str(Path.cwd()))
    try:
        found: Callable[..., Any] = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise InputError(f"{option} {source} cannot be imported: {error}") from error
    finally:
        sys.path.pop(0)
    return found


def load_model(source: str, weights: Path | None) -> nn.Module:
    """The module that MODULE:FACTORY makes, with weights from a file, in evaluation mode."""
    model = load_function("--model", source, "MODULE:FACTORY, such as my_models:make")()
    if not isinstance(model, nn.Module):
        raise InputError(f"--model {source} returned {type(model).__name__}, not an mlx.nn.Module")
    if weights is not None:
        try:
            model.load_weights(str(weights))
        except Exception as error:  # a damaged archive makes MLX's readers raise almost anything
            raise InputError(f"--weights {weights} do not fit {source}: {error}") from error
    return model.eval()


def load_inputs(path: Path) -> FloatArray | dict[str, FloatArray]:
    """The inputs in a file, in types that MLX has.

    An .npy holds them, an .npz as the array x, or several by the names that the model calls
    them by.
    """
    if path.suffix == ".npy":
        return _narrow(map_array(path), path, "the array")
    arrays = read_arrays(path)
    if not arrays:
        raise InputError(f"{path} has no arrays: put the inputs into it as x")
    found = {name: _narrow(value, path, name) for name, value in arrays.items()}
    return found["x"] if list(found) == ["x"] else found


def in_order(graph: ModelProto, x: Any) -> Any:
    """Inputs by name as a tuple in the order of an ONNX model's inputs; one array as it is."""
    if not isinstance(x, dict):
        return x
    stored = {tensor.name for tensor in graph.graph.initializer}
    names = [value.name for value in graph.graph.input if value.name not in stored]
    if set(names) != set(x):
        raise InputError(f"--inputs has {', '.join(x)}: the model takes {', '.join(names)}")
    return x[names[0]] if len(names) == 1 else tuple(x[name] for name in names)


def _narrow(x: FloatArray, path: Path, name: str) -> FloatArray:
    narrow = {"f": np.float32, "i": np.int32, "u": np.int32, "b": np.bool_}.get(x.dtype.kind)
    if narrow is None:
        raise InputError(f"{path}: {name} has type {x.dtype}, which MLX has no array for")
    found: FloatArray = np.asarray(x, dtype=narrow)
    if x.dtype.kind in "iu" and not np.array_equal(found, x):
        raise InputError(f"{path}: {name} has whole numbers beyond 32 bits, which are no tokens")
    return found


def parse_reduction(text: str) -> Reduction:
    """A reduction as a command line writes it: a name, or c,d for a pair of classes."""
    parts = text.split(",")
    if len(parts) == 2 and all(part.strip().isdigit() for part in parts):
        return int(parts[0]), int(parts[1])
    return text


def parse_numbers(text: str) -> list[int]:
    """``0-2,7`` as 0, 1, 2, 7; ValueError for anything else."""
    numbers: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdigit() or (dash and not last.isdigit()):
            raise ValueError(f"{text!r} is no list of numbers")
        numbers |= set(range(int(first), int(last if dash else first) + 1))
    return sorted(numbers)


def import_graph(graph: ModelProto, output: str, parameters: str) -> ParametricFunction:
    """An ONNX model with the choices of its options, each empty for the default."""
    patterns = parameters.split(",") if parameters else None
    return from_model(graph, output or None, patterns).parametric()


def models_of_kernel_run(run: Run) -> tuple[Model, Model | None]:
    """The model of a run of ``mlx-entk kernel``, and the same at initialisation where known."""
    run.require_finished()
    if run.graph_file(IMPORTED).exists():
        graph = read_model(run.graph_file(IMPORTED))
        imported = import_graph(graph, run.config["output"], run.config["parameters"])
        kernel_study.require_weights(run, imported)
        return imported, None
    source = run.config["model"]
    model = load_model(source, run.model_file)
    kernel_study.require_weights(run, model)
    return model, load_model(source, None)


def functions_of_kernel_run(
    run: Run,
) -> tuple[ParametricFunction, ParametricFunction | None, Inputs]:
    """The model as a function of what counted, the same at initialisation, and the inputs."""
    config = kernel_study.config_of(run)
    x = kernel_study.stored_inputs(run)
    model, initial = models_of_kernel_run(run)
    function, inputs = kernel_study.bound(config, model, x)
    before = None if initial is None else kernel_study.bound(config, initial, x)[0]
    return function, before, inputs


def network_of_run(run: Run) -> Network:
    """The network of a run of any study, or of ``mlx-entk kernel``."""
    if run.study != kernel_study.STUDY:
        return network_of(run)
    function, _, inputs = functions_of_kernel_run(run)
    if len(inputs) > 1:
        raise InputError(f"{run.path} is of a model of several inputs: graphs are written of one")
    (x,) = inputs
    reduction = run.config["reduction"]
    return Network(
        function, x[:HELD_OUT], reduction if isinstance(reduction, str) else tuple(reduction)
    )
