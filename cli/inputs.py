"""What commands read: files with the user's arrays, and the short forms of a command line."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from onnx import ModelProto

from mlx_entk._files import map_array, read_arrays, read_text
from mlx_entk._linalg import FloatArray
from mlx_entk.errors import InputError
from mlx_entk.kernel import Reduction
from mlx_entk.onnx.importer import inputs_of
from mlx_entk.studies.kernel.sources import load_function


def load_inputs(sources: Sequence[str]) -> FloatArray | dict[str, FloatArray]:
    """The inputs in files, or those that code makes, in types that MLX has.

    An .npy file holds one array. An .npz file holds one array as x, or several by the names that
    the model has for them. FILE.py:NAME is a function without arguments that returns either. What
    several sources give is joined along the first axis.
    """
    given = [_inputs_of(source) for source in sources]
    if len(given) == 1:
        return given[0]
    named = [x for x in given if isinstance(x, dict)]
    plain = [x for x in given if not isinstance(x, dict)]
    if named and plain:
        raise InputError(f"{' and '.join(sources)} cannot be joined: some have more arrays")
    if plain:
        return _joined(sources, plain, "inputs")
    if any(x.keys() != named[0].keys() for x in named):
        raise InputError(f"{' and '.join(sources)} cannot be joined: they have other arrays")
    return {name: _joined(sources, [x[name] for x in named], name) for name in named[0]}


def _joined(sources: Sequence[str], parts: Sequence[Any], name: str) -> FloatArray:
    if parts[0].ndim == 0 and all(np.array_equal(part, parts[0]) for part in parts):
        first: FloatArray = parts[0]  # a setting that is the same for every row
        return first
    if any(part.ndim == 0 or part.shape[1:] != parts[0].shape[1:] for part in parts):
        shapes = ", ".join(f"{s} {p.shape}" for s, p in zip(sources, parts, strict=True))
        raise InputError(f"{name} of other shapes cannot be joined: {shapes}")
    return np.concatenate(parts)


def _inputs_of(source: str) -> FloatArray | dict[str, FloatArray]:
    path, _, name = source.rpartition(":")
    if path.endswith(".py") and name.isidentifier():
        made = load_function("--inputs", source, "FILE.py:FUNCTION")()
        arrays = made if isinstance(made, Mapping) else {"x": made}
        arrays = {str(key): np.asarray(value) for key, value in arrays.items()}
    elif source.endswith(".npy"):
        return _narrow(map_array(Path(source)), source, "the array")
    else:
        arrays = read_arrays(Path(source))
    if not arrays:
        raise InputError(f"{source} has no arrays: save the inputs in it as x")
    narrowed = {name: _narrow(value, source, name) for name, value in arrays.items()}
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


def _narrow(x: FloatArray, path: str, name: str) -> FloatArray:
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


def load_features(path: Path) -> dict[str, FloatArray]:
    """Families of features in a file; the one array of an .npy file is named after the file."""
    if path.suffix != ".npy":
        return read_arrays(path)
    family = map_array(path)
    return {path.stem: family[:, None] if family.ndim == 1 else family}


def load_targets(path: Path) -> FloatArray:
    """The array y in a file, or the one array of an .npy file."""
    if path.suffix == ".npy":
        return map_array(path)
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
