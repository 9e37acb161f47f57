"""Real ONNX files load and are right, and the checks that say so see what is wrong."""

from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from mlx_entk.onnx.operators import OPERATORS, as_mlx
from tests.onnx.real_checks import check
from tests.onnx.real_files import FOLDER
from tests.onnx.real_list import Draw, RealFile, real_files

FILES = real_files()


@pytest.mark.slow
@pytest.mark.filterwarnings(
    "ignore::mlx_entk.errors.ConversionWarning", "ignore::mlx_entk.errors.SlowPathWarning"
)
@pytest.mark.parametrize("file", FILES, ids=[file.name for file in FILES])
def test_file(file: RealFile) -> None:
    result = check(file, file.fetch(FOLDER))
    for expected, message in ((file.refused, result.refusal), (file.no_kernel, result.no_kernel)):
        assert bool(message) == bool(expected), message
        assert expected in message
        assert "\n" not in message
    assert not result.wrong(file), result


def test_nine_of_ten_load() -> None:
    """As ``test_file`` finds each of them."""
    assert len(FILES) >= 12
    assert sum(not file.refused for file in FILES) >= 0.9 * len(FILES)


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A convolution and a recurrent layer, with weights in Constant nodes and initializers."""
    random = np.random.default_rng(1)

    def tensor(name: str, *shape: int) -> onnx.TensorProto:
        return numpy_helper.from_array(random.normal(size=shape).astype(np.float32) / 2, name)

    nodes = [
        helper.make_node("Constant", [], ["kernel"], value=tensor("kernel", 3, 2, 3)),
        helper.make_node("Conv", ["x", "kernel"], ["features"], pads=[1, 1]),
        helper.make_node("Tanh", ["features"], ["active"]),
        helper.make_node("Transpose", ["active"], ["steps"], perm=[2, 0, 1]),
        helper.make_node("LSTM", ["steps", "w", "r"], ["", "last"], hidden_size=4),
        helper.make_node("Squeeze", ["last", "axes"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 2, 5])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 4])],
        [tensor("w", 1, 16, 3), tensor("r", 1, 16, 4),
         numpy_helper.from_array(np.zeros(1, np.int64), "axes")],
    )  # fmt: skip
    path = tmp_path / "small.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), path)
    return path


SMALL = RealFile("small", "1", "small.onnx", "", {"x": Draw("normal", (1, 2, 5))})


def test_a_small_network_is_right(small: Path) -> None:
    result = check(SMALL, small)
    assert result.parameters == 3
    assert max(result.errors.values()) < 1e-5, result
    assert not result.wrong(SMALL)


@pytest.mark.parametrize(
    ("tanh", "wrong"),
    [
        (lambda v: mx.tanh(1.1 * v), ["outputs", "derivatives", "kernel, differences"]),
        (lambda v: mx.stop_gradient(mx.tanh(v)), ["derivatives"]),
        (lambda v: mx.stop_gradient(mx.tanh(v) - v) + v, ["derivatives", "kernel, differences"]),
    ],
    ids=["other values", "no derivative", "another derivative"],
)
def test_what_is_wrong_is_seen(
    small: Path,
    monkeypatch: pytest.MonkeyPatch,
    tanh: Callable[[mx.array], mx.array],
    wrong: list[str],
) -> None:
    """A derivative that is missing altogether shows along directions of all parameters alone."""
    monkeypatch.setitem(OPERATORS, "Tanh", lambda x, a, n: tanh(as_mlx(x[0])))
    assert set(check(SMALL, small).wrong(SMALL)) == set(wrong)
