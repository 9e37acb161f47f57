"""What may be wrong with a file: broken bytes, edits that keep to its format, links, and bombs.

A damage takes the path of a whole file, a source of random numbers, and a path that nothing but
hostile code would create; it leaves something else at the path.
"""

import json
import os
import pickle
import random
import shutil
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from mlx_entk._files import read_json, write_json
from mlx_entk.errors import InputError
from tests.faults import onnx_edits
from tests.faults.names import NAMES

Damage = Callable[[Path, random.Random, Path], None]


class Marker:
    """A pickle that tells when somebody loads it."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str, str]]:
        return exec, (f"open({str(self.path)!r}, 'w').close()", "")


# Broken bytes


def truncate(path: Path, rng: random.Random, _: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: rng.randrange(len(data))])


def flip(path: Path, rng: random.Random, _: Path) -> None:
    damaged = bytearray(path.read_bytes())
    for _bit in range(rng.choice((1, 1, 1, 2, 8))):
        damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
    path.write_bytes(bytes(damaged))


def overwrite(path: Path, rng: random.Random, _: Path) -> None:
    """A run of bytes near the beginning, where formats keep their sizes, or anywhere."""
    data = path.read_bytes()
    end = min(len(data), 400) if rng.random() < 0.5 else len(data)
    at, length = rng.randrange(end), rng.choice((1, 4, 8, 64))
    filler = rng.choice((b"\x00", b"\xff", b"9", b"{", bytes([rng.randrange(256)])))
    path.write_bytes(data[:at] + filler * length + data[at + length :])


def splice(path: Path, rng: random.Random, _: Path) -> None:
    """A part again, or left out."""
    data = path.read_bytes()
    i, j = sorted(rng.randrange(len(data)) for _part in range(2))
    path.write_bytes(data[:j] + data[i:] if rng.random() < 0.5 else data[:i] + data[j:])


def replace(path: Path, rng: random.Random, marker: Path) -> None:
    """Something else under this name: nothing, a pickle, an archive with a pickle, other text."""
    payload = pickle.dumps(Marker(marker))
    objects = np.empty(1, dtype=object)
    objects[0] = Marker(marker)
    kind = rng.randrange(6)
    if kind == 0:
        path.write_bytes(b"")
    elif kind == 1:
        path.write_bytes(payload)
    elif kind == 2:
        path.write_bytes(
            rng.choice((b"[]", b"{}", b"null", b"NaN", b'{"a": 1e999}', b"[" * 50_000))
        )
    elif kind == 3:
        with path.open("wb") as file:
            np.savez(file, x=objects, w=objects, a=objects)
    elif kind == 4:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("x.npy", payload)
    else:
        with path.open("wb") as file:
            np.save(file, objects, allow_pickle=True)


BROKEN: tuple[Damage, ...] = (
    truncate, truncate, flip, flip, flip, overwrite, overwrite, splice, replace,
)  # fmt: skip


# JSON that is sealed anew: its digest is right, and its content is not


VALUES: tuple[Any, ...] = (
    None, True, 0, 1, -1, 2**31, 10**9, 10**18, -(10**18), 10**300, 0.5, -0.5, 1e-300, 1e308, "",
    [], {}, [[]], [0, 0], [5, 2], [-1, 10**9], [0.5] * 1000, {"a": {"b": []}}, "payload:make",
)  # fmt: skip


def reseal(path: Path, rng: random.Random, _: Path) -> None:
    """Another value, key or shape somewhere in the JSON of a run, under a right digest."""
    if path.suffix == ".jsonl":
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        for _edit in range(rng.choice((1, 1, 3))):
            _edit_json(rows, rng)
        path.write_text("".join(_line(row) for row in rows))
        return
    value = read_json(path)
    for _edit in range(rng.choice((1, 1, 1, 3))):
        _edit_json(value, rng)
    write_json(path, value)


def _line(row: Any) -> str:
    if isinstance(row, dict) and "crc32" in row:
        plain = {key: value for key, value in row.items() if key != "crc32"}
        row = {**plain, "crc32": zlib.crc32(json.dumps(plain).encode())}
    return json.dumps(row) + "\n"


def _edit_json(top: Any, rng: random.Random) -> None:
    """One edit somewhere: a value replaced, removed, repeated, swapped or called otherwise."""
    holder = rng.choice([node for node in _nodes(top) if node] or [top])
    if not holder:
        return
    keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
    key, other, how = rng.choice(keys), rng.choice(keys), rng.randrange(8)
    if how == 0:
        del holder[key]
    elif how == 1:
        holder[key], holder[other] = holder[other], holder[key]
    elif how == 2 and isinstance(holder, list):
        holder.extend(holder[: rng.choice((1, 10, 1000))])
    elif how == 3 and isinstance(holder, dict):
        holder[rng.choice(NAMES)] = holder.pop(key)
    elif how == 4:
        holder[key] = rng.choice(NAMES)
    elif how == 5 and isinstance(holder[key], int | float):
        holder[key] = holder[key] * rng.choice((-1, 0, 2, 1e3, 1e9)) if holder[key] < 1e99 else 0.0
    else:
        holder[key] = rng.choice(VALUES)


def _nodes(value: Any) -> Iterator[Any]:
    if isinstance(value, dict | list):
        yield value
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _nodes(inner)


# Names, and protobuf


def rename(path: Path, rng: random.Random, _: Path) -> None:
    """Hostile names for the arrays of an archive, or for what a line of JSON says."""
    if path.suffix == ".jsonl":
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        for row in rows:
            row["labels"] = {rng.choice((*NAMES, "\ud800")): rng.choice(NAMES)}
            row["text"] = row["word"] = rng.choice((*NAMES, "\udfff"))
        path.write_text("".join(_line(row) for row in rows))
        return
    with np.load(path) as stored:
        arrays = dict(stored)
    with zipfile.ZipFile(path, "w") as archive:
        for array in arrays.values():
            with archive.open(f"{rng.choice(NAMES)}.npy", "w") as member:
                np.lib.format.write_array(member, array)


def edit_onnx(path: Path, rng: random.Random, _: Path) -> None:
    """An edit that keeps to the format of protobuf, of this model or one of other operators."""
    models = [onnx.load_model(str(path)), *onnx_edits.seeds().values()]
    if not (path.parent / onnx_edits.PIPE).exists():
        onnx_edits.write_companions(path.parent)
    path.write_bytes(onnx_edits.edit(rng.choice(models), rng).SerializeToString())


# Links, and what is no regular file


def link(path: Path, rng: random.Random, _: Path) -> None:
    """A link out of the folder or to itself, a pipe, or a folder, instead of a file or a folder."""
    if rng.random() < 0.3 and path.parent.name not in ("run", "kernel", "mine"):
        path = path.parent
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
    kind = rng.randrange(6)
    if kind == 0:
        path.symlink_to(rng.choice(sorted(_outside(path).iterdir())))
    elif kind == 1:
        path.symlink_to(_outside(path))
    elif kind == 2:
        path.symlink_to(_outside(path) / "new")
    elif kind == 3:
        path.symlink_to(path)
    elif kind == 4:
        os.mkfifo(path)
    else:
        path.mkdir()


def _outside(path: Path) -> Path:
    """The folder beside that of the case."""
    return next(p for p in path.parents if (p / "outside").is_dir()) / "outside"


# Bombs: small files that ask for a lot


def bomb(path: Path, rng: random.Random, _: Path) -> None:
    """An archive, a header, a document or a model that would take gigabytes."""
    if path.suffix == ".npz":
        shape = rng.choice(((2**32,), (2**31, 2**31), (2**20, 300), (2**62,)))
        with (
            zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
            archive.open("x.npy", "w", force_zip64=True) as member,
        ):
            header = {"descr": "<f4", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(member, header)
            for _part in range(rng.choice((0, 1, 80))):
                member.write(bytes(2**24))
    elif path.suffix in (".json", ".jsonl"):
        count = rng.choice((10**5, 10**7))
        path.write_text('{"a": "' + "x" * count + '"}\n' if rng.random() < 0.5 else "1," * count)
    elif path.suffix == ".safetensors":
        size = rng.choice((2**40, 2**63, 100))
        entry = {"dtype": "F32", "shape": [size // 4], "data_offsets": [0, size]}
        header_text = json.dumps({"w": entry}).encode()
        path.write_bytes(len(header_text).to_bytes(8, "little") + header_text)
    elif path.suffix == ".npy":
        with path.open("wb") as file:
            header = {"descr": "<f4", "fortran_order": False, "shape": (2**31, 2**31)}
            np.lib.format.write_array_header_1_0(file, header)
    elif path.suffix == ".onnx":
        path.write_bytes(rng.choice(ONNX_BOMBS)().SerializeToString())
    else:
        raise InputError(f"no bomb is known for {path}")


def _model(nodes: list[onnx.NodeProto], initializers: dict[str, Any]) -> onnx.ModelProto:
    """x of shape (N, 3) times w, plus the sum of something large called ``large``."""
    nodes = [
        *nodes,
        onnx.helper.make_node("ReduceSum", ["large"], ["sum"], keepdims=0),
        onnx.helper.make_node("MatMul", ["x", "w"], ["h"]),
        onnx.helper.make_node("Add", ["h", "sum"], ["y"]),
    ]
    weights = {"w": np.ones((3, 2), np.float32), **initializers}
    x, y = (
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["N", size])
        for name, size in (("x", 3), ("y", 2))
    )
    graph = onnx.helper.make_graph(
        nodes, "bomb", [x], [y],
        [onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()],
    )  # fmt: skip
    opsets = [onnx.helper.make_opsetid("", 18)]
    return onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8)


def _one(kind: str, *inputs: Any, **attributes: Any) -> Callable[[], onnx.ModelProto]:
    """A model with one operator on constants, or on the input if that is called x."""

    def make() -> onnx.ModelProto:
        names = ["x" if value is None else f"i{k}" for k, value in enumerate(inputs)]
        node = onnx.helper.make_node(kind, names, ["large"], **attributes)
        given = zip(names, inputs, strict=True)
        return _model([node], {name: value for name, value in given if value is not None})

    return make


def _doubled() -> onnx.ModelProto:
    """Forty times the same twice."""
    nodes = [onnx.helper.make_node("Concat", ["c", "c"], ["d0"], axis=0)]
    nodes += [
        onnx.helper.make_node("Concat", [f"d{i}"] * 2, [f"d{i + 1}" if i < 39 else "large"], axis=0)
        for i in range(40)
    ]
    return _model(nodes, {"c": np.ones(4, np.float32)})


_BIG = np.array([70_000, 70_000], dtype=np.int64)
_ONE = np.float32(1.0)
ONNX_BOMBS: tuple[Callable[[], onnx.ModelProto], ...] = (
    _one("Range", np.float32(0), np.float32(1.5e9), _ONE),
    _one("ConstantOfShape", _BIG),
    _one("ConstantOfShape", np.array([2**62, 4], dtype=np.int64)),
    _one("Tile", np.ones((1, 1), np.float32), _BIG),
    _one("Tile", None, _BIG),
    _one("Expand", np.ones((1, 1), np.float32), _BIG),
    _one("Expand", None, np.array([10**9, 1, 1], dtype=np.int64)),
    _one("Pad", np.ones(2, np.float32), np.array([10**10, 0], dtype=np.int64)),
    _one("Pad", None, np.array([10**9, 10**9, 0, 0], dtype=np.int64)),
    _one("OneHot", np.arange(1000), np.int64(10**8), np.array([0, 1], np.float32)),
    _one("Add", np.ones((70_000, 1), np.float32), np.ones((1, 70_000), np.float32)),
    _one("MatMul", np.ones((70_000, 1), np.float32), np.ones((1, 70_000), np.float32)),
    _doubled,
)  # fmt: skip
