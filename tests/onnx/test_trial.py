"""A file that was written runs in onnxruntime and gives what MLX gives; another is not written."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import onnx
import onnxruntime
import pytest

from mlx_entk import InputError
from mlx_entk.onnx import export, files, load
from mlx_entk.onnx.builders import BUILDERS, Primitive
from mlx_entk.onnx.emitter import Emitter
from mlx_entk.onnx.trial import disagreement
from tests.models import MLP
from tests.onnx.layers import normal


def note(model: onnx.ModelProto) -> str:
    (text,) = [str(e.value) for e in model.metadata_props if e.key == "onnxruntime"]
    return text


def beyond(e: Emitter, p: Primitive) -> str:
    return e.op("Gather", [p.inputs[0], e.constant([7])], axis=0)


def choice(e: Emitter, p: Primitive) -> str:
    """By truth values, of which onnxruntime has no such operator."""
    truth = e.cast(p.inputs[0], mx.bool_)
    return e.cast(e.op("Where", [truth, truth, truth]), mx.float32)


def of_example(e: Emitter, p: Primitive) -> str:
    """Right for batches of two, which is that of the example."""
    tanh = e.op("Tanh", p.inputs)
    size = e.op("Shape", [p.inputs[0]], start=0, end=1)
    extra = e.cast(e.op("Sub", [size, e.constant(2)]), mx.float32)
    return e.op("Add", [tanh, extra])


@pytest.mark.parametrize(
    ("builder", "message"),
    [
        (lambda e, p: e.op("Sin", p.inputs), "MLX disagree about output: off by .* of the larg"),
        (of_example, "onnxruntime and MLX disagree about output"),
        (lambda e, p: e.cast(e.op("Tanh", p.inputs), mx.int32), "valid ONNX: .* elem type differs"),
        (
            lambda e, p: e.op("Unsqueeze", [p.inputs[0], e.constant([0])]),
            "disagree about output|valid ONNX",
        ),
        (lambda e, p: e.op("Log", [e.op("Sub", p.inputs * 2)]), "NaN or infinity in other places"),
        (beyond, "cannot run the graph: .* running Gather node"),
        (lambda e, p: e.op("Not", p.inputs), r"is not valid ONNX: .*\(op_type:Not\)"),
        (choice, "cannot load the graph: Could not find an implementation for Where"),
    ],
)
def test_what_does_not_run_or_gives_something_else_is_not_written(
    builder: Callable[[Emitter, Primitive], str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = tmp_path / "f.onnx"
    path.write_text("what was there before")
    monkeypatch.setitem(BUILDERS, "Tanh", builder)

    with pytest.raises(InputError, match=message) as refused:
        export(nn.Tanh(), [normal(2, 3)], path)

    assert len(str(refused.value).splitlines()) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["f.onnx"]
    assert path.read_text() == "what was there before"


def test_whole_numbers_have_to_be_equal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def last(e: Emitter, p: Primitive) -> str:
        return e.op("ArgMax", p.inputs, axis=p.arguments[1], keepdims=1, select_last_index=1)

    monkeypatch.setitem(BUILDERS, "ArgReduce", last)

    with pytest.raises(InputError, match="disagree about output: 1 of 3 entries differ"):
        export(
            lambda x: mx.argmax(x, axis=1),
            [mx.array([[0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])],
            tmp_path / "f.onnx",
        )


def test_an_order_that_mlx_leaves_open_is_said_to_be_the_reason(tmp_path: Path) -> None:
    x = normal(3, 64)

    with pytest.raises(InputError, match=r"order of ArgPartition open.*sort instead"):
        export(lambda x: mx.argpartition(x, 9, axis=1), [x], tmp_path / "f.onnx")
    assert "agrees" in note(export(lambda x: mx.sort(x, axis=1), [x], tmp_path / "f.onnx"))


def test_one_session_runs_the_example_and_another_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Any] = []

    class Counted(onnxruntime.InferenceSession):  # type: ignore[misc]
        def __init__(self, *arguments: Any, **named: Any) -> None:
            super().__init__(*arguments, **named)
            made.append(self)

    monkeypatch.setattr(onnxruntime, "InferenceSession", Counted)

    model = export(MLP([3, 4, 2]), [normal(2, 3)], tmp_path / "f.onnx")

    assert len(made) == 1
    assert note(model).endswith("agrees with MLX on the example inputs and on larger batches")
    fixed = export(lambda x: x.reshape(2, -1), [normal(2, 3)], tmp_path / "f.onnx")
    assert note(fixed).endswith("the example inputs, whose size is the only one that it takes")


SINGLE = "larger batches, with float32 in place of {}, since onnxruntime's CPU lacks operators for"


def test_types_that_its_cpu_lacks_are_tried_in_single_precision(tmp_path: Path) -> None:
    half = nn.Linear(3, 2)
    half.set_dtype(mx.bfloat16)
    with mx.stream(mx.cpu):
        wide = mx.array([[0.5]]).astype(mx.float64)

    x = normal(2, 3)
    narrow = export(half, [x.astype(mx.bfloat16)], tmp_path / "b.onnx")
    inside = export(lambda x: half(x.astype(mx.bfloat16)).astype(mx.float32), [x], tmp_path / "i")
    moved = export(lambda x: x * mx.array(3, mx.bfloat16).astype(x.dtype), [x], tmp_path / "m")
    double = export(lambda x: mx.erf(x, stream=mx.cpu), [wide], tmp_path / "d.onnx")

    for model in (narrow, inside):
        assert SINGLE.format("bfloat16") in note(model)
    assert note(moved).endswith("on larger batches")
    assert SINGLE.format("float64") in note(double)
    assert "implementation for Erf" in note(double)
    in_half = export(nn.Tanh(), [normal(2, 3).astype(mx.float16)], tmp_path / "h.onnx")
    assert note(in_half).endswith("on larger batches")


def test_what_comes_back_in_half_precision_alone_is_tried_as_well(tmp_path: Path) -> None:
    model = export(lambda x: mx.tanh(x).astype(mx.bfloat16), [normal(2, 3)], tmp_path / "t.onnx")

    assert model.graph.output[0].type.tensor_type.elem_type == onnx.TensorProto.BFLOAT16
    assert "float32 in place of bfloat16, since" in note(model)


def test_a_wrong_graph_of_bfloat16_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(BUILDERS, "Tanh", lambda e, p: e.op("Sigmoid", p.inputs))
    x = 4 * normal(2, 3).astype(mx.bfloat16)

    with pytest.raises(
        InputError, match=r"disagree about output: .* rounding in bfloat16: use flo"
    ):
        export(lambda x: mx.tanh(x), [x], tmp_path / "t.onnx")
    assert list(tmp_path.iterdir()) == []


def test_large_weights_of_a_type_that_its_cpu_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "WITHIN", 10_000)
    module = nn.Linear(90, 90)
    module.set_dtype(mx.bfloat16)

    model = export(module, [normal(2, 90).astype(mx.bfloat16)], tmp_path / "model.onnx")

    assert SINGLE.format("bfloat16") in note(model)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.onnx", "model.onnx.data"]
    assert (tmp_path / "model.onnx.data").stat().st_size == 2 * 90 * 90


def test_weights_beyond_what_a_file_holds_go_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "WITHIN", 10_000)
    small, module, x = MLP([3, 4, 2]), MLP([3, 2000, 2]), normal(2, 3)
    path = tmp_path / "model.onnx"

    export(small, [x], path)
    assert [p.name for p in tmp_path.iterdir()] == ["model.onnx"]
    for seed in (0, 1):  # the second in place of the first
        module = MLP([3, 2000, 2], seed=seed)
        export(module, [x], path)

        assert sorted(p.name for p in tmp_path.iterdir()) == ["model.onnx", "model.onnx.data"]
        assert path.stat().st_size < 10_000 < (tmp_path / "model.onnx.data").stat().st_size
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        (output,) = session.run(None, {"x": np.array(x)})
        assert np.allclose(output, np.array(module(x)), atol=1e-5)
        function = load(path)
        assert np.allclose(np.array(function(function.params, x)), output, atol=1e-5)
        assert "agrees with MLX" in note(onnx.load(path, load_external_data=False))

    monkeypatch.setitem(BUILDERS, "Tanh", lambda e, p: e.op("Sin", p.inputs))
    with pytest.raises(InputError, match="disagree about output"):
        export(module, [x], path)
    assert np.allclose(np.array(load(path)(function.params, x)), output, atol=1e-5)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.onnx", "model.onnx.data"]


def test_how_outputs_are_compared() -> None:
    a = np.array([1.0, 2.0, np.inf, np.nan])

    assert disagreement(a, a, 1e-3) is None
    assert disagreement(a + 1e-4, a, 1e-3) is None
    assert disagreement(a + 3e-3, a, 1e-3) == "off by 1.5e-03 of the largest entry"
    assert disagreement(-a, a, 9) == "NaN or infinity in other places"
    assert disagreement(a[:2], a[2:], 9) == "NaN or infinity in other places"
    assert disagreement(a[2:], a[:2], 9) == "NaN or infinity in other places"
    assert disagreement(np.array([1e-9]), np.array([0.0]), 1e-3, floor=1e-8) is None
    assert disagreement(np.array([1e-7]), np.array([0.0]), 1e-3, floor=1e-8) == "off by 1.0e-07"
    assert disagreement(np.array([1, 2]), np.array([1, 3]), 9) == "1 of 2 entries differ"
    assert disagreement(np.zeros(0), np.zeros(0), 1e-3) is None
    assert "shape (1,) and type int64 instead of (1,) and float64" in str(
        disagreement(np.array([1]), np.array([1.0]), 9)
    )
