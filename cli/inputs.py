"""What commands read: files with the user's arrays, and the short forms of a command line."""

from pathlib import Path
from typing import Any

import numpy as np
from onnx import ModelProto

from mlx_entk._files import map_array, read_arrays, read_text
from mlx_entk._linalg import FloatArray
from mlx_entk.errors import InputError
from mlx_entk.kernel import Reduction
from mlx_entk.onnx.importer import inputs_of


def load_inputs(path: Path) -> FloatArray | dict[str, FloatArray]:
    """The inputs in a file, in types that MLX has.

    An .npy file holds one array. An .npz file holds one array as x, or several by the names that
    the model has for them.
    """
    if path.suffix == ".npy":
        return _narrow(map_array(path), path, "the array")
    arrays = read_arrays(path)
    if not arrays:
        raise InputError(f"{path} has no arrays: save the inputs in it as x")
    narrowed = {name: _narrow(value, path, name) for name, value in arrays.items()}
    return narrowed["x"] if list(narrowed) == ["x"] else narrowed


def split_constants(x: Any) -> tuple[Any, dict[str, FloatArray]]:
    """Inputs with a batch axis, and by name those without axes, which are the same for all."""
    if not isinstance(x, dict):
        return x, {}
    constants = {name: array for name, array in x.items() if array.ndim == 0}
    return {name: array for name, array in x.items() if name not in constants}, constants


def in_order(graph: ModelProto, x: Any) -> Any:
    """Inputs by name as a tuple, in the order that an ONNX model takes them; one array as it is."""
    if not isinstance(x, dict):
        return x
    names = [value.name for value in inputs_of(graph)]
    if set(names) != set(x):
        raise InputError(f"--inputs has {', '.join(x)}, but the model takes {', '.join(names)}")
    return x[names[0]] if len(names) == 1 else tuple(x[name] for name in names)


def _narrow(x: FloatArray, path: Path, name: str) -> FloatArray:
    kind = {"f": np.float32, "i": np.int32, "u": np.int32, "b": np.bool_}.get(x.dtype.kind)
    if kind is None:
        raise InputError(f"{path}: {name} has type {x.dtype}, which MLX has no array for")
    narrowed: FloatArray = np.asarray(x, dtype=kind)
    if x.dtype.kind in "iu" and not np.array_equal(narrowed, x):
        raise InputError(f"{path}: {name} has integers that do not fit into 32 bits")
    return narrowed


def load_names(path: Path) -> list[str]:
    """A name for each input: the lines of a text file, or the entries of an .npy file."""
    if path.suffix != ".npy":
        return read_text(path).splitlines()
    names = map_array(path)
    if names.ndim != 1 or names.dtype.kind not in "biufU":
        raise InputError(
            f"{path} has shape {names.shape} and type {names.dtype}: write one name "
            "or number for each input"
        )
    return [str(name) for name in names.tolist()]


def load_targets(path: Path) -> FloatArray:
    """The array y in a file."""
    arrays = read_arrays(path)
    if "y" not in arrays:
        raise InputError(
            f"{path} has no array y, which should hold the targets; it has "
            f"{', '.join(arrays) or 'no arrays'}"
        )
    return arrays["y"]


def parse_reduction(text: str) -> Reduction:
    """A reduction as a command line writes it: a name, or c,d for a pair of classes."""
    parts = text.split(",")
    if len(parts) == 2 and all(part.strip().isdigit() for part in parts):
        return int(parts[0]), int(parts[1])
    return text


def parse_groups(text: str, option: str = "--groups") -> tuple[tuple[int, int], ...]:
    """``1-8,9-36`` as groups of modes (first, last); a single number is a group of one.

    ``option`` is where messages say that it stands.
    """
    groups = []
    for part in filter(None, text.split(",")):
        first, dash, last = part.strip().partition("-")
        if not first.isdigit() or (dash and not last.isdigit()):
            raise InputError(f"{option} {text}: write FIRST-LAST,…, such as 1-8,9-36")
        groups.append((int(first), int(last if dash else first)))
    return tuple(groups)


def parse_numbers(text: str) -> list[int]:
    """``0-2,7`` as 0, 1, 2, 7; ValueError for anything else."""
    numbers: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdigit() or (dash and not last.isdigit()):
            raise ValueError(f"{text!r} is not a list of numbers")
        numbers |= set(range(int(first), int(last if dash else first) + 1))
    return sorted(numbers)
