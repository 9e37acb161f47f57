"""A user's own models and inputs: load them from code and files, keep them in run folders."""

import importlib
import importlib.util
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import mlx.nn as nn
from onnx import ModelProto

from mlx_entk._files import Arrays, digest
from mlx_entk._linalg import as_numpy
from mlx_entk._parameters import Params, flatten_tree, patterns_in
from mlx_entk.errors import InputError
from mlx_entk.onnx.importer import from_model
from mlx_entk.tracing.functions import Model, ParametricFunction, as_parametric
from mlx_entk.tracing.inputs import as_inputs


def load_function(option: str, source: str, form: str) -> Callable[..., Any]:
    """What MODULE:NAME or FILE.py:NAME stands for; the working folder is searched first.

    Parameters
    ----------
    option
        What messages call the place that the name comes from.
    form
        What messages say that should be written there.

    Raises
    ------
    InputError
        For a name of another form, and one that cannot be imported.
    """
    module, _, name = source.rpartition(":")
    of_file = module.endswith(".py")
    parts = [name] if of_file else [*module.split("."), name]
    if not all(part.isidentifier() for part in parts):
        raise InputError(f"{option} {source}: write {form}")
    folder = Path(module).resolve().parent if of_file else Path.cwd()
    sys.path.insert(0, str(folder))
    try:
        loaded = _module_in(Path(module)) if of_file else importlib.import_module(module)
        function: Callable[..., Any] = getattr(loaded, name)
    except (ImportError, AttributeError, OSError) as error:
        raise InputError(f"{option} {source} cannot be imported: {error}") from error
    finally:
        sys.path.pop(0)
    return function


def _module_in(file: Path) -> ModuleType:
    """The module that a Python file is."""
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None  # its name ends with .py
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def load_model(source: str, weights: Path | None = None, option: str = "--weights") -> nn.Module:
    """The module that MODULE:FACTORY makes, with weights from a file, in evaluation mode.

    ``option`` is what messages call the file.

    Raises
    ------
    InputError
        If it makes no module, and for weights that do not fit it.
    """
    model = load_function(
        "--model", source, "MODULE:FACTORY or FILE.py:FACTORY, such as my_models:make"
    )()
    if not isinstance(model, nn.Module):
        raise InputError(f"--model {source} returned {type(model).__name__}, not an mlx.nn.Module")
    if weights is not None:
        try:
            model.load_weights(str(weights))
        except Exception as error:  # a damaged archive makes MLX's readers raise almost anything
            raise InputError(f"{option} {weights} does not fit {source}: {error}") from error
    return model.eval()


def import_graph(
    graph: ModelProto, output: str, parameters: str, memory_limit: int | None = None
) -> ParametricFunction:
    """An ONNX model as a function of the parameters that count.

    Parameters
    ----------
    output, parameters
        As in ``mlx_entk.studies.kernel.study.KernelConfig``.
    memory_limit
        Bytes, as for ``mlx_entk.onnx.importer.load``.
    """
    return from_model(graph, output or None, patterns_in(parameters), memory_limit).parametric()


def short_digest(arrays: Params) -> str:
    """What a configuration keeps of arrays, to tell them from others."""
    return digest(arrays)[:16]


def stored_weights(model: Model) -> Params:
    """Everything that a model stores, by dotted name: of a module also what is frozen."""
    if isinstance(model, nn.Module):
        return flatten_tree(model.parameters())
    return as_parametric(model).params


def named_inputs(x: Any) -> Params:
    """Inputs by the names that they are stored by: ``x`` for one, ``x[0]``, … for a tuple."""
    arrays, names = as_inputs(x)
    if names is None:
        names = tuple(f"x[{k}]" for k in range(len(arrays))) if isinstance(x, tuple) else ("x",)
    return dict(zip(names, arrays, strict=True))


def inputs_on_host(x: Any) -> Arrays:
    """The same as NumPy arrays."""
    return {name: as_numpy(array) for name, array in named_inputs(x).items()}


def original_inputs(named: Mapping[str, Any]) -> Any:
    """Inputs in the form that ``named_inputs`` was given: array, tuple or dictionary."""
    if list(named) == ["x"]:
        return named["x"]
    if list(named) == [f"x[{k}]" for k in range(len(named))]:
        return tuple(named.values())
    return named
