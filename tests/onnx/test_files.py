"""Files that are not what they should be: one clear error each, and nothing read outside."""

from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from mlx_entk import InputError
from mlx_entk.onnx import export, load
from mlx_entk.onnx.importer import from_model
from tests.models import MLP


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A good file with its own folder."""
    folder = tmp_path / "model"
    folder.mkdir()
    export(MLP([3, 4, 2]), [mx.ones((2, 3))], folder / "mlp.onnx")
    return folder / "mlp.onnx"


def changed(path: Path, change: Callable[[onnx.ModelProto], object]) -> None:
    model = onnx.load(path)
    change(model)
    path.write_bytes(model.SerializeToString())


def move_outside(model: onnx.ModelProto, location: str, length: int = 48) -> None:
    """Let the first weight be in another file."""
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, "offset": "0", "length": str(length)}.items():
        tensor.external_data.add(key=key, value=value)


def drop_weight(model: onnx.ModelProto) -> None:
    del model.graph.initializer[0]


def drop_output(model: onnx.ModelProto) -> None:
    del model.graph.node[-1]


def set_opset(version: int) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        model.opset_import[0].version = version

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop_weight, "uses layers.0.weight, which no initializer"),
        (drop_output, "promises output, which no node computes"),
        (set_opset(5), "is not valid ONNX"),
        (set_opset(999), "uses opset 999, and onnx "),
        (lambda model: model.ClearField("opset_import"), "names no opset"),
        (lambda model: model.ClearField("graph"), "it has no graph with outputs"),
        (
            lambda model: model.graph.node[0].attribute.append(helper.make_attribute("odd", 1)),
            "is not valid ONNX: Unrecognized attribute: odd",
        ),
        (lambda model: move_outside(model, "../secret.bin"), "outside its folder: refused"),
        (lambda model: move_outside(model, "/etc/hostname"), "outside its folder: refused"),
        (lambda model: move_outside(model, "link.bin"), "outside its folder: refused"),
        (lambda model: move_outside(model, ""), "outside its folder: refused"),
        (lambda model: move_outside(model, "none.bin"), "none.bin', which does not exist"),
        (lambda model: move_outside(model, "short.bin"), "short.bin', which is too short"),
    ],
)
def test_damaged_and_hostile_models_are_refused(
    path: Path, change: Callable[[onnx.ModelProto], object], message: str
) -> None:
    (path.parent.parent / "secret.bin").write_bytes(bytes(48))
    (path.parent / "link.bin").symlink_to("../secret.bin")
    (path.parent / "short.bin").write_bytes(bytes(7))
    changed(path, change)

    with pytest.raises(InputError, match=r"mlp\.onnx") as refused:
        load(path)

    assert message in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1


def test_data_beside_the_model_is_read(path: Path) -> None:
    (path.parent / "weights.bin").write_bytes(np.arange(12, dtype=np.float32).tobytes())
    changed(path, lambda model: move_outside(model, "weights.bin"))

    assert np.array(load(path).params["layers.0.weight"])[3].tolist() == [9, 10, 11]


def test_a_truncated_file_is_refused_wherever_it_ends(path: Path) -> None:
    whole = path.read_bytes()
    for end in range(0, len(whole), 7):
        path.write_bytes(whole[:end])
        with pytest.raises(InputError, match=r"mlp\.onnx"):
            load(path)


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.onnx").write_text("weights and biases")
    with pytest.raises(InputError, match="is not an ONNX model, or is damaged"):
        load(tmp_path / "text.onnx")
    with pytest.raises(InputError, match=r"cannot read .*nothing.onnx: No such file"):
        load(tmp_path / "nothing.onnx")
    with pytest.raises(InputError, match=r"cannot read .*: Is a directory"):
        load(tmp_path)


def test_an_initializer_whose_bytes_do_not_fill_its_shape_is_named(path: Path) -> None:
    def shrink(model: onnx.ModelProto) -> None:
        tensor = model.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.float_data.extend([0.0] * 5)
        tensor.dims[:] = [2, 1]

    model = onnx.load(path)
    shrink(model)

    with pytest.raises(InputError, match=r"initializer layers\.\d\.\w+ is damaged"):
        from_model(model)


def test_names_that_are_no_text_are_refused(path: Path) -> None:
    data = path.read_bytes()
    name = onnx.load(path).graph.node[0].input[0].encode()
    path.write_bytes(data.replace(name, b"\xff" * len(name)))

    with pytest.raises(InputError, match=r"mlp.onnx is not an ONNX model, or is damaged"):
        load(path)


def test_numbers_beyond_those_of_mlx_are_refused(tmp_path: Path) -> None:
    shape = helper.make_tensor("shape", TensorProto.INT64, [2], [2**53 + 1, 3])
    graph = helper.make_graph(
        [helper.make_node("Expand", ["x", "shape"], ["y"])],
        "wide",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["a", "b"])],
        [shape],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    onnx.save(model, tmp_path / "wide.onnx")

    with pytest.raises(InputError, match="ONNX operator Expand"):
        load(tmp_path / "wide.onnx")({}, mx.ones((1, 3)))
