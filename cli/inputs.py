"""What commands read: models and arrays of the reader's own."""

import importlib
import sys
from pathlib import Path

import mlx.nn as nn
import numpy as np

from mlx_entk.errors import InputError
from mlx_entk.linalg import FloatArray


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


def load_arrays(path: Path) -> dict[str, FloatArray]:
    """The arrays of an .npz file."""
    try:
        with np.load(path) as stored:
            return {name: stored[name] for name in stored.files}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is no .npz of arrays: {error}") from error
