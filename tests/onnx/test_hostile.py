"""ONNX files of strangers: edits that keep to the format, and small files that ask for a lot."""

import random
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from mlx_entk import InputError, MlxEntkError, _memory, entk
from mlx_entk.onnx.files import read_model
from mlx_entk.onnx.importer import from_model
from tests.faults import onnx_edits
from tests.faults.damages import ONNX_BOMBS


@pytest.fixture
def little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_memory, "available_bytes", lambda: 2 * 10**9)


def kernel_of(file: Path, x: mx.array, parameters: list[str] | None = None) -> None:
    function = from_model(read_model(file), parameters=parameters)
    entk(function.parametric(), x, reduction="trace")


@pytest.mark.usefixtures("little_memory")
@pytest.mark.parametrize("number", range(len(ONNX_BOMBS)))
def test_a_model_that_asks_for_gigabytes_is_refused_before_it_is_computed(
    number: int, tmp_path: Path
) -> None:
    file = tmp_path / "bomb.onnx"
    file.write_bytes(ONNX_BOMBS[number]().SerializeToString())
    mx.reset_peak_memory()

    with pytest.raises(InputError, match="ONNX operator"):
        kernel_of(file, mx.ones((4, 3)))

    assert mx.get_peak_memory() < 10**8


def one_node(node: onnx.NodeProto, kind: int, **constants: Any) -> onnx.ModelProto:
    """The node's output, times a weight, for x of shape (N, 2)."""
    graph = helper.make_graph(
        [node, helper.make_node("Mul", ["h", "w"], ["y"])],
        "one",
        [helper.make_tensor_value_info("x", kind, ["N", 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", None])],
        [
            numpy_helper.from_array(np.asarray(value), name)
            for name, value in {"w": np.ones(1, np.float32), **constants}.items()
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


TABLE = np.arange(6, dtype=np.float32).reshape(3, 2)


@pytest.mark.parametrize(
    ("node", "constants", "message"),
    [
        (("Gather", ["x", "i"], {"axis": 1}), {"i": np.array([0, 2])}, "outside an axis of 2"),
        (("Gather", ["x", "i"], {"axis": 1}), {"i": np.array([-3])}, "outside an axis of 2"),
        (("GatherElements", ["x", "i"], {"axis": 1}), {"i": np.array([[2**32 + 1]])}, "outside"),
        (("GatherND", ["x", "i"], {}), {"i": np.array([[0, 1], [0, 2]])}, "outside an axis of 2"),
        (("Split", ["x", "i"], {"axis": 1}), {"i": np.array([5])}, "do not make an axis of 2"),
        (("TopK", ["x", "i"], {"axis": 1}), {"i": np.array([5])}, "not 5 entries along an axis"),
        (("MaxPool", ["x"], {"kernel_shape": [1], "strides": [0]}), {}, "strides"),
    ],
)
def test_what_would_read_beside_an_array_is_refused(
    node: tuple[str, list[str], dict[str, Any]],
    constants: dict[str, Any],
    message: str,
    tmp_path: Path,
) -> None:
    kind, inputs, attributes = node
    outputs = ["h", "unused"] if kind == "TopK" else ["h"]
    made = helper.make_node(kind, inputs, outputs, **attributes)
    file = tmp_path / "m.onnx"
    model = one_node(made, TensorProto.FLOAT, **constants)
    x = mx.ones((4, 2))
    if kind == "MaxPool":
        x = mx.ones((4, 2, 3))
        model.graph.input[0].type.tensor_type.shape.dim.add(dim_value=3)
    onnx.save(model, file)

    with pytest.raises(InputError, match=message):
        kernel_of(file, x)


def test_an_input_with_an_index_that_a_table_lacks_is_named(tmp_path: Path) -> None:
    """MLX reads whatever lies in memory behind the table."""
    made = helper.make_node("Gather", ["table", "x"], ["g"])
    model = one_node(
        helper.make_node("ReduceSum", ["g"], ["h"], keepdims=0, noop_with_empty_axes=0),
        TensorProto.INT64,
        table=TABLE,
    )
    model.graph.node.insert(0, made)
    model.graph.node[1].input.append("axes")
    model.graph.initializer.append(numpy_helper.from_array(np.array([2]), "axes"))
    onnx.save(model, tmp_path / "m.onnx")

    kernel_of(tmp_path / "m.onnx", mx.array([[0, 1], [2, -1], [1, 1]]))
    with pytest.raises(InputError, match="leads to the index 3 of 3 entries: is a token outside"):
        kernel_of(tmp_path / "m.onnx", mx.array([[0, 1], [2, 3], [1, 1]]))


def outcomes(seed: int, count: int, folder: Path) -> list[str]:
    """What came of edits that is neither a kernel nor one of our own errors."""
    models = onnx_edits.seeds()
    onnx_edits.write_companions(folder)
    failures = []
    for number in range(count):
        rng = random.Random(f"{seed} {number}")
        name = rng.choice(sorted(models))
        (folder / "m.onnx").write_bytes(onnx_edits.edit(models[name], rng).SerializeToString())
        try:
            kernel_of(folder / "m.onnx", mx.array(onnx_edits.inputs_of(models[name])), ["*"])
        except MlxEntkError as error:
            if not str(error).strip():
                failures.append(f"{name} {number}: an error without a message")
        except Exception as error:
            failures.append(f"{name} {number}: {type(error).__name__}: {error}")
    return failures


@pytest.mark.usefixtures("little_memory")
@pytest.mark.filterwarnings("ignore")
def test_edited_models_are_read_or_refused_in_one_line(tmp_path: Path) -> None:
    assert outcomes(seed=0, count=120, folder=tmp_path) == []


@pytest.mark.slow
@pytest.mark.usefixtures("little_memory")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seed", [1, 2])
def test_thousands_of_edited_models_are_read_or_refused_in_one_line(
    seed: int, tmp_path: Path
) -> None:
    assert outcomes(seed, count=3_000, folder=tmp_path) == []
