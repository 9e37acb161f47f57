"""Exported graphs in onnxruntime: every common layer, random modules, and what is refused."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from mlx_entk import InputError
from mlx_entk.onnx import OPSET, export, load
from mlx_entk.onnx.builders import BUILDERS
from mlx_entk.parameters import flatten_tree
from tests.models import MLP
from tests.onnx.layers import LAYERS, normal
from tests.reference import relative_error


def run(model: onnx.ModelProto, **inputs: mx.array) -> list[NDArray[Any]]:
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    found: list[NDArray[Any]] = session.run(None, {k: np.array(v) for k, v in inputs.items()})
    return found


def metadata(model: onnx.ModelProto) -> dict[str, str]:
    return {entry.key: entry.value for entry in model.metadata_props}


def longer(x: mx.array) -> mx.array:
    """The inputs with one more: another batch size."""
    return mx.concatenate([x, x[:1]])


@pytest.mark.parametrize("name", LAYERS)
def test_layers_run_in_onnxruntime_and_come_back(name: str, tmp_path: Path) -> None:
    make, x = LAYERS[name]
    module = make()

    model = export(module, [x], tmp_path / "layer.onnx")

    assert metadata(model)["batch"] == "dynamic"
    for batch in (x, longer(x), x[:1]):
        expected = np.array(module(batch))
        assert relative_error(run(model, x=batch)[0], expected) < 1e-6
    back = load(tmp_path / "layer.onnx")
    assert back.params.keys() == flatten_tree(module.parameters()).keys()
    assert relative_error(np.array(back(back.params, x)), np.array(module(x))) < 1e-6


@st.composite
def modules(draw: st.DrawFn) -> tuple[nn.Module, mx.array]:
    """A chain of random layers, and inputs for it."""
    shape = [draw(st.integers(2, 4)), draw(st.integers(2, 5)), draw(st.integers(1, 3)) * 4]
    seed = draw(st.integers(0, 99))
    mx.random.seed(seed)
    x = mx.random.normal(shape)
    layers: list[Callable[[mx.array], mx.array]] = []
    width, length = shape[2], shape[1]
    for _ in range(draw(st.integers(1, 5))):
        kind = draw(
            st.sampled_from(["linear", "norm", "rms", "conv", "activation", "rope", "reverse"])
        )
        if kind == "linear":
            new = 4 * draw(st.integers(1, 3))
            layers.append(nn.Linear(width, new, bias=draw(st.booleans())))
            width = new
        elif kind == "norm":
            layers.append(nn.LayerNorm(width))
        elif kind == "rms":
            layers.append(nn.RMSNorm(width))
        elif kind == "conv":
            size = draw(st.integers(1, length))
            layers.append(nn.Conv1d(width, 4, size, padding=draw(st.integers(0, 1))))
            length = layers[-1](mx.zeros((1, length, width))).shape[1]
            width = 4
        elif kind == "activation":
            layers.append(draw(st.sampled_from([nn.GELU(), nn.SiLU(), nn.Tanh(), nn.Softmax()])))
        elif kind == "rope":
            layers.append(nn.RoPE(width))
        else:
            layers.append(lambda h: h[:, ::-1])
    if draw(st.booleans()):
        layers.append(lambda h: h.mean(axis=1))
    return nn.Sequential(*layers), x


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(modules())
def test_random_modules_agree_and_come_back(
    tmp_path_factory: pytest.TempPathFactory, drawn: tuple[nn.Module, mx.array]
) -> None:
    module, x = drawn
    path = tmp_path_factory.mktemp("random") / "module.onnx"

    model = export(module, [x], path)

    for batch in (x, longer(x)):
        expected = np.array(module(batch))
        assert relative_error(run(model, x=batch)[0], expected) < 1e-5
    back = load(path)
    assert relative_error(np.array(back(back.params, x)), np.array(module(x))) < 1e-5


def test_weights_names_and_provenance_are_in_the_file(tmp_path: Path) -> None:
    module = MLP([3, 4, 2])

    export(module, [normal(2, 3)], tmp_path / "mlp.onnx", metadata={"study": "a test"})

    model = onnx.load(tmp_path / "mlp.onnx")
    stored = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    for name, value in flatten_tree(module.parameters()).items():
        assert np.array_equal(stored[name], np.array(value))
    assert [v.name for v in model.graph.input] == ["x"]
    assert [v.name for v in model.graph.output] == ["output"]
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "N"
    assert model.opset_import[0].version == OPSET
    assert metadata(model)["study"] == "a test"
    assert "mlx" in metadata(model)["provenance"]


def test_functions_of_several_inputs_and_outputs(tmp_path: Path) -> None:
    x, y, params = normal(3, 2), normal(4, 2), {"scale": mx.array([2.0, 3.0])}

    def products(params: Any, x: mx.array, y: mx.array) -> dict[str, mx.array]:
        return {"gram": (params["scale"] * x) @ y.T, "rows": mx.sum(x, axis=1)}

    model = export(products, [x, y], tmp_path / "f.onnx", params=params, batches=((0,), (1,)))

    gram, rows = run(model, x0=x[:1], x1=longer(y))
    scaled = np.array(x[:1]) * [2, 3]
    assert np.allclose(gram, scaled @ np.array(longer(y)).T, atol=1e-6)
    assert np.allclose(rows, np.array(x[:1]).sum(axis=1), atol=1e-6)


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (
            lambda x: mx.stack([row * (i + 1) for i, row in enumerate(x)]),
            "its size changes the primitives of the graph",
        ),
        (lambda x: x.reshape(2, -1), "the function takes no other size"),
        (lambda x: x * float(np.sqrt(x.shape[0])), "its size changes a constant of the graph"),
    ],
)
def test_a_graph_that_depends_on_the_batch_keeps_its_size(
    function: Callable[[mx.array], mx.array], reason: str, tmp_path: Path
) -> None:
    x = normal(4, 3)

    model = export(function, [x], tmp_path / "fixed.onnx")

    assert metadata(model)["batch"].startswith(f"fixed: {reason}")
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_value == 4
    assert np.allclose(run(model, x=x)[0], np.array(function(x)))


def test_an_unknown_primitive_is_named_with_the_line_to_add(tmp_path: Path) -> None:
    with pytest.raises(InputError, match='primitive FFT has no ONNX builder: add a line "FFT"'):
        export(lambda x: mx.abs(mx.fft.rfft(x)), [normal(2, 4)], tmp_path / "f.onnx")

    assert not (tmp_path / "f.onnx").exists()


def test_what_cannot_be_exported_is_refused(tmp_path: Path) -> None:
    x = normal(2, 3)
    with pytest.raises(InputError, match="2 names for 1 arrays"):
        export(MLP([3, 2]), [x], tmp_path / "f.onnx", input_names=["a", "b"])
    with pytest.raises(InputError, match="a module brings its own"):
        export(MLP([3, 2]), [x], tmp_path / "f.onnx", params={})
    with pytest.raises(InputError, match="Scan other than a cumulative sum cannot be exported"):
        export(lambda x: mx.cumprod(x, axis=1), [x], tmp_path / "f.onnx")


@pytest.mark.parametrize(
    "function",
    [
        mx.log1p, mx.expm1, mx.log2, mx.log10, mx.rsqrt, mx.arcsinh, mx.cosh, mx.sign, mx.round,
        lambda x: mx.arctan2(x, x[:, ::-1] - 0.3), lambda x: mx.logaddexp(x, -x),
        lambda x: x % 0.7, lambda x: x // 0.7, lambda x: mx.divmod(x, 0.7)[1],
        lambda x: mx.argmax(x, axis=1), lambda x: mx.sort(x, axis=1),
        lambda x: mx.argsort(x, axis=1), lambda x: mx.topk(x, 2, axis=1),
        lambda x: mx.take_along_axis(x, mx.argsort(x, axis=1), axis=1),
        lambda x: mx.cumsum(x, axis=1, reverse=True, inclusive=False),
        lambda x: mx.where((x > 0) & (x < 1), x, -x), lambda x: mx.where(x > 0, x, mx.inf),
        lambda x: mx.all(x > -1, axis=1), lambda x: mx.var(x, axis=1), lambda x: x[:, ::-2],
        lambda x: mx.pad(x, [(0, 0), (1, 2)]), lambda x: mx.repeat(x, 2, axis=1),
        lambda x: mx.tile(x, (1, 3)), lambda x: mx.logsumexp(x, axis=1),
        lambda x: mx.concatenate(list(mx.split(x, 2, axis=1))), lambda x: x.at[:, 1:3].add(2.0),
        lambda x: x.at[:, mx.array([0, 0, 2])].add(x[:, :3]),
        lambda x: mx.tril(x[:, None] * x[:, :, None]),
        lambda x: mx.prod(x, axis=1), lambda x: mx.einsum("ni,nj->nij", x, x),
        lambda x: (x > 0).astype(mx.float32) + mx.arange(x.shape[0])[:, None],
    ],
)  # fmt: skip
def test_operations_agree(function: Callable[[mx.array], mx.array], tmp_path: Path) -> None:
    x = mx.array([[0.5, -1.25, 3.0, 1e-4], [-0.75, 2.0, -1e-3, 0.25], [4.0, 0.1, -2.0, 1.0]])

    model = export(function, [x], tmp_path / "f.onnx")

    for batch in (x, longer(x)):
        expected = np.array(function(batch))
        found = run(model, x=batch)[0]
        assert found.shape == expected.shape
        assert np.allclose(found, expected, rtol=2e-6, atol=1e-7, equal_nan=True)


def test_the_table_is_of_primitives_that_mlx_has() -> None:
    header = Path(mx.__file__).parent / "include" / "mlx" / "primitives.h"
    words = set(re.findall(r"\w+", header.read_text()))

    assert BUILDERS.keys() - words == set()
