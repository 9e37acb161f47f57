"""What commands read: models and arrays of the reader's own, networks of runs."""

import importlib
import sys
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn

from mlx_entk import onnx
from mlx_entk.errors import InputError
from mlx_entk.jacobian import Model, as_parametric
from mlx_entk.kernel import Reduction
from mlx_entk.runs import Run, read_arrays
from mlx_entk.studies import kernel as kernel_study
from mlx_entk.studies.networks import HELD_OUT, Network, network_of

# The name of an ONNX model's copy among the graphs of a run.
IMPORTED = "imported"


def load_model(source: str, weights: Path | None) -> nn.Module:
    """The module that MODULE:FACTORY makes, with weights from a file, in evaluation mode."""
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


def parse_reduction(text: str) -> Reduction:
    """A reduction as a command line writes it: a name, or c,d for a pair of classes."""
    parts = text.split(",")
    if len(parts) == 2 and all(part.strip().isdigit() for part in parts):
        return int(parts[0]), int(parts[1])
    return text


def models_of_kernel_run(run: Run) -> tuple[Model, Model | None]:
    """The model of a run of ``mlx-entk kernel``, and the same at initialisation where known."""
    run.require_finished()
    if run.graph_file(IMPORTED).exists():
        patterns = run.config["parameters"].split(",") if run.config["parameters"] else None
        output = run.config["output"] or None
        return onnx.load(run.graph_file(IMPORTED), output, patterns).parametric(), None
    source = run.config["model"]
    return load_model(source, run.model_file), load_model(source, None)


def network_of_run(run: Run) -> Network:
    """The network of a run of any study, or of ``mlx-entk kernel``."""
    if run.study != kernel_study.STUDY:
        return network_of(run)
    model, _ = models_of_kernel_run(run)
    x = mx.array(read_arrays(run.inputs_file)["x"][:HELD_OUT])
    reduction = run.config["reduction"]
    return Network(
        as_parametric(model), x, reduction if isinstance(reduction, str) else tuple(reduction)
    )
