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
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from mlx_entk import InputError
from mlx_entk._parameters import flatten_tree
from mlx_entk.onnx import OPSET, builders, emitter, export, load
from mlx_entk.onnx.builders import BUILDERS
from mlx_entk.onnx.emitter import as_onnx_array
from mlx_entk.onnx.evaluation import HOST_ONLY
from mlx_entk.onnx.operators import OPERATORS
from mlx_entk.onnx.torch_runtime import as_torch, operators_of
from tests.models import MLP
from tests.onnx.layers import LAYERS, MixtureOfExperts, normal, written
from tests.reference import relative_error


def run(model: onnx.ModelProto, **inputs: mx.array) -> list[NDArray[Any]]:
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    outputs: list[NDArray[Any]] = session.run(
        None, {k: as_onnx_array(v) for k, v in inputs.items()}
    )
    return outputs


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
    assert back.params.keys() == flatten_tree(module.trainable_parameters()).keys()
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


@pytest.mark.parametrize(
    "module",
    [nn.MultiHeadAttention(4, 2, bias=True), nn.Sequential(nn.Linear(4, 4), nn.BatchNorm(4))],
    ids=["a parameter called value_proj", "running statistics"],
)
def test_a_module_comes_back_with_the_same_parameters(module: nn.Module, tmp_path: Path) -> None:
    x = mx.random.normal((3, 5, 4) if "query_proj" in module else (5, 4))
    model = module.eval()

    def forward(p: Any, x: mx.array) -> mx.array:
        model.update(p)
        y: mx.array = model(x, x, x) if x.ndim == 3 else model(x)
        return y.reshape(x.shape[0], -1)

    if x.ndim == 3:
        export(forward, [x], tmp_path / "m.onnx", params=module.trainable_parameters())
    else:
        export(module, [x], tmp_path / "m.onnx")

    expected = flatten_tree(module.trainable_parameters())
    assert load(tmp_path / "m.onnx").params.keys() == expected.keys()


@pytest.mark.parametrize("name", ["x", "output", "value_1"])
def test_a_parameter_with_a_name_of_the_graphs_own_is_refused(name: str, tmp_path: Path) -> None:
    def linear(p: dict[str, mx.array], x: mx.array) -> mx.array:
        return mx.tanh(x @ p[name]) + mx.array([1.0, 2.0])

    with pytest.raises(InputError, match=f"of its own called {name}: rename the parameter"):
        export(linear, [mx.ones((2, 3))], tmp_path / "m.onnx", params={name: mx.ones((3, 2))})
    assert not (tmp_path / "m.onnx").exists()


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
            "the batch size changes the primitives of the graph",
        ),
        (lambda x: x.reshape(2, -1), "the function accepts no other batch size"),
        (
            lambda x: x * float(np.sqrt(x.shape[0])),
            "the batch size changes a constant of the graph",
        ),
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


def test_a_graph_for_the_size_of_its_example_alone(tmp_path: Path) -> None:
    model = export(MLP([3, 2]), [normal(4, 3)], tmp_path / "fixed.onnx", batches=())

    assert metadata(model)["batch"] == "fixed: it was exported for the batch size of its example"
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_value == 4


def test_axes_of_every_small_size_leave_the_batch_free(tmp_path: Path) -> None:
    """Sizes to trace at must not be those of other axes, of which there may be many."""
    sizes = range(2, 100)

    def function(x: mx.array) -> mx.array:
        return sum((mx.sin(x @ mx.ones((3, n)))[:, :1] for n in sizes), mx.zeros((1, 1)))

    agrees(function, normal(2, 3), tmp_path / "f.onnx")


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
    with pytest.raises(InputError, match="Unable to get state for primitive CumLogAddExp"):
        export(lambda x: mx.logcumsumexp(x, axis=1), [x], tmp_path / "f.onnx")
    with pytest.raises(InputError, match="primitive Quantize has no ONNX builder"):
        export(quantized, [normal(2, 64)], tmp_path / "f.onnx")
    with pytest.raises(InputError, match=r"draws other random numbers in each call: call eval\(\)"):
        export(lambda x: x + mx.random.normal(x.shape), [x], tmp_path / "f.onnx")
    with pytest.raises(InputError, match="draws other random numbers in each call"):
        export(nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5)), [x], tmp_path / "f.onnx")
    with pytest.raises(InputError, match="random numbers by a key that depends on its inputs"):
        export(
            lambda x: mx.random.normal((3,), key=(x[0, :2] > 0).astype(mx.uint32)),
            [x], tmp_path / "f.onnx",
        )  # fmt: skip
    with pytest.raises(InputError, match=r"uint64 of 2\*\*63 or more has no counterpart"):
        export(
            lambda x: x // mx.array(np.array(2**63, np.uint64)),
            [x.astype(mx.uint64)],
            tmp_path / "f",
        )
    with pytest.raises(InputError, match="type complex64 has no counterpart in ONNX"):
        export(lambda x: mx.abs(x.astype(mx.complex64)), [x], tmp_path / "f.onnx")
    assert list(tmp_path.iterdir()) == []


def quantized(x: mx.array) -> mx.array:
    weight = mx.sin(mx.arange(64.0 * 64)).reshape(64, 64)
    return mx.quantized_matmul(x, *mx.quantize(weight))


def agrees(
    function: Callable[[mx.array], mx.array], x: mx.array, path: Path, batch: str = "dynamic"
) -> None:
    """Exported, a function gives in onnxruntime and in PyTorch what it gives here, in any batch."""
    model = export(function, [x], path)

    assert metadata(model)["batch"].startswith(batch)
    assert "agrees with MLX" in metadata(model)["onnxruntime"]
    _, in_torch = as_torch(model)
    for rows in (x, longer(x), longer(longer(x))) if batch == "dynamic" else (x,):
        expected, host = as_onnx_array(function(rows)), as_onnx_array(rows)
        (output,) = run(model, x=rows)
        assert output.dtype == expected.dtype
        in_double = torch.from_numpy(host.astype(np.float64) if host.dtype.kind == "f" else host)
        for result in (output, in_torch({}, in_double).numpy()):
            assert result.shape == expected.shape
            assert np.allclose(result, expected, rtol=2e-6, atol=1e-7, equal_nan=True)


VALUES = mx.array([[0.5, -1.25, 3.0, 1e-4], [-0.75, 2.0, -1e-3, 0.25], [4.0, 0.1, -2.0, 1.0]])


@pytest.mark.parametrize(
    "function",
    [
        mx.log1p, mx.expm1, mx.log2, mx.log10, mx.rsqrt, mx.arcsinh, mx.cosh, mx.sign, mx.round,
        mx.erf, mx.tan, mx.ceil, mx.isinf, mx.isnan, mx.reciprocal,
        lambda x: mx.arccos(x / 5) + mx.arcsin(x / 5) + mx.arctanh(x / 5),
        lambda x: mx.arccosh(mx.abs(x) + 1.1) + mx.arctan(x) + mx.sinh(x),
        lambda x: mx.arctan2(x, x[:, ::-1] - 0.3), lambda x: mx.logaddexp(x, -x),
        lambda x: x % 0.7, lambda x: x // 0.7, lambda x: mx.divmod(x, 0.7)[1],
        lambda x: mx.argmax(x, axis=1), lambda x: mx.argmin(x, axis=1, keepdims=True),
        lambda x: mx.sort(x, axis=1), lambda x: mx.sort(x, axis=0),
        lambda x: mx.argsort(x, axis=1), lambda x: mx.sum(mx.topk(x, 2, axis=1), axis=1),
        lambda x: mx.take_along_axis(x, mx.argsort(x, axis=1), axis=1),
        lambda x: mx.put_along_axis(x, mx.argmax(x, axis=1, keepdims=True), mx.array(0.5), axis=1),
        lambda x: mx.cumsum(x, axis=1, reverse=True, inclusive=False),
        lambda x: mx.cumsum(x, axis=0),
        lambda x: mx.where((x > 0) & (x < 1), x, -x), lambda x: mx.where(x > 0, x, mx.inf),
        lambda x: mx.where((x > 0) ^ (x < 1), x, -x), lambda x: ~(x > 0) | (x < -1),
        lambda x: mx.all(x > -1, axis=1), lambda x: mx.var(x, axis=1), lambda x: x[:, ::-2],
        lambda x: mx.pad(x, [(0, 0), (1, 2)]), lambda x: mx.repeat(x, 2, axis=1),
        lambda x: mx.tile(x, (1, 3)), lambda x: mx.logsumexp(x, axis=1),
        lambda x: mx.logsumexp(mx.where(x > 9, x, -mx.inf), axis=1),  # of nothing: −∞
        lambda x: mx.concatenate(list(mx.split(x, 2, axis=1))), lambda x: x.at[:, 1:3].add(2.0),
        lambda x: x.at[:, mx.array([0, 0, 2])].add(x[:, :3]),
        lambda x: x.at[:, mx.array([0, 2])].multiply(x[:, :2]),
        lambda x: x.at[:, mx.array([0, 2])].maximum(x[:, :2]),
        lambda x: x[:, mx.array([-1, 0])] + x[:, mx.array([1, -2])],
        lambda x: mx.tril(x[:, None] * x[:, :, None]),
        lambda x: mx.prod(x, axis=1), lambda x: mx.einsum("ni,nj->nij", x, x),
        lambda x: (x > 0).astype(mx.float32) + mx.arange(x.shape[0])[:, None],
        lambda x: x * mx.array_equal(x, mx.where(x > 9, x, mx.nan), equal_nan=True),
        lambda x: x * mx.array_equal(mx.log(-1 - x), mx.log(-1 - x), equal_nan=True),
        lambda x: x[:, :0] @ x[:, :0].T, lambda x: x[:, None, :0].sum(axis=2),
        lambda x: mx.concatenate([x[:, :0], x], axis=1),
    ],
)  # fmt: skip
def test_operations_agree(function: Callable[[mx.array], mx.array], tmp_path: Path) -> None:
    agrees(function, VALUES, tmp_path / "f.onnx")


@pytest.mark.parametrize("scan", [mx.cumsum, mx.cumprod, mx.cummax, mx.cummin])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("inclusive", [False, True])
def test_scans_agree(
    scan: Callable[..., mx.array], reverse: bool, inclusive: bool, tmp_path: Path
) -> None:
    def of_every_type(x: mx.array) -> mx.array:
        typed = [(mx.abs(x) * 2).astype(t) for t in (mx.int32, mx.uint8, mx.bool_)]
        scans = [scan(v, axis=1, reverse=reverse, inclusive=inclusive) for v in (x, *typed)]
        return mx.stack([value.astype(mx.float32) for value in scans])

    agrees(of_every_type, VALUES, tmp_path / "f.onnx")


def test_a_scan_along_the_batch_other_than_a_sum_keeps_the_size(tmp_path: Path) -> None:
    agrees(
        lambda x: mx.cummax(x, axis=0), VALUES, tmp_path / "f.onnx",
        "fixed: MLX primitive Scan runs along the batch",
    )  # fmt: skip


EVERY = slice(None)
SLICES = [
    (..., slice(None, -2)), (EVERY, slice(None, None, -1)), (EVERY, slice(None, None, -2)),
    (EVERY, slice(-2, None)), (EVERY, slice(3, 0, -1)), (EVERY, slice(-1, -3, -1)),
    (EVERY, slice(-2, None, -2)), (EVERY, slice(1, None, 3)), (EVERY, slice(3, 1)),
    (EVERY, slice(2, -1, -1)), (EVERY, slice(99, None, -3)), (EVERY, 2),
    (slice(None, None, -1),), (slice(1, None),), (slice(None, -1),), (slice(-1, None),),
    (slice(None, 0, -1),), (slice(None, None, -1), slice(None, None, -1)), (slice(0, 2),),
    (slice(0, 0),),
]  # fmt: skip


@pytest.mark.parametrize("at", SLICES)
def test_every_kind_of_slice_is_read_and_written(at: Any, tmp_path: Path) -> None:
    """Backwards, to the end and before it, empty, with gaps, and of the free axis."""
    ways: list[Callable[[mx.array], mx.array]] = [
        lambda x: mx.tanh(x[at]),
        written(at, lambda x: mx.tanh(x[at])),
        written(at, lambda x: 0.5),
        lambda x: x.at[at].add(mx.tanh(x[at])),
        lambda x: x.at[at].multiply(2.0),
    ]

    agrees(
        lambda x: mx.concatenate([way(x).reshape(-1) for way in ways]), VALUES, tmp_path / "f.onnx"
    )


def test_a_slice_of_every_second_input_keeps_the_size(tmp_path: Path) -> None:
    agrees(lambda x: x[::2], VALUES, tmp_path / "f.onnx", "fixed: a size in the graph")


SMALL_TYPES = (
    mx.bool_, mx.int8, mx.int16, mx.int32, mx.int64, mx.uint8, mx.uint16, mx.uint32
)  # fmt: skip


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x + x[:, ::-1], lambda x: x * x[:, ::-1], lambda x: mx.maximum(x, x[:, ::-1]),
        lambda x: x < x[:, ::-1], lambda x: x == x[:, ::-1], lambda x: mx.abs(x),
        lambda x: mx.sign(x), lambda x: mx.square(x), lambda x: mx.sort(x, axis=1),
        lambda x: mx.argmax(x, axis=1), lambda x: mx.where(x > x[:, :1], x, x[:, ::-1]),
        lambda x: mx.all(x, axis=1), lambda x: mx.any(x, axis=1), lambda x: mx.sum(x, axis=1),
        lambda x: mx.max(x, axis=1), lambda x: mx.pad(x, [(0, 0), (1, 1)]), lambda x: mx.floor(x),
        lambda x: x.at[:, 1:3].maximum(x[:, :2]), lambda x: mx.softmax(x, axis=1),
        lambda x: mx.minimum(x, x[:, ::-1]), lambda x: mx.min(x, axis=1),
        lambda x: mx.clip(x, 0, 2), lambda x: mx.cummin(x, axis=1), lambda x: x - 2 * x[:, ::-1],
        lambda x: x.at[:, mx.array([0, 2])].minimum(x[:, :2]), lambda x: mx.prod(x, axis=1),
    ],
)  # fmt: skip
def test_types_that_onnx_operators_lack(
    function: Callable[[mx.array], mx.array], tmp_path: Path
) -> None:
    x = mx.array([[0, -3, 2, 0], [1, 1, -1, 0], [2, 3, 5, -1]])

    def of_every_type(x: mx.array) -> mx.array:
        typed = [(mx.abs(x) if "uint" in str(t) else x).astype(t) for t in SMALL_TYPES]
        return mx.stack([function(value).astype(mx.float32) for value in typed])

    agrees(of_every_type, x, tmp_path / "f.onnx")


@pytest.mark.parametrize("dtype", [mx.int8, mx.int32, mx.int64])
def test_division_of_whole_numbers_goes_down(dtype: mx.Dtype, tmp_path: Path) -> None:
    x = mx.array([[-7, 7, -7, 7], [-6, 6, -1, 1]]).astype(dtype)
    by = mx.array([[2, 2, -2, -2]]).astype(dtype)

    agrees(lambda x: x // by, x, tmp_path / "f.onnx")
    agrees(lambda x: mx.divmod(x, by)[0] + x % by, x, tmp_path / "d.onnx")


UNSIGNED = (mx.uint8, mx.uint16, mx.uint32)
INTEGERS = (mx.int8, mx.int16, mx.int32, mx.int64, *UNSIGNED, mx.uint64)


@pytest.mark.parametrize("dtype", INTEGERS)
@pytest.mark.parametrize("shift", [mx.left_shift, mx.right_shift])
def test_bits_are_shifted(
    shift: Callable[[mx.array, mx.array], mx.array], dtype: mx.Dtype, tmp_path: Path
) -> None:
    """Of negative numbers, to the largest and the smallest, by none, and by all but one bit."""
    bits = 8 * dtype.size
    if dtype == mx.uint64:  # int64 in the graph
        bits, least, most = 32, 0, 2**31
    elif dtype in UNSIGNED:
        least, most = 0, 2**bits - 1
    else:
        least, most = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    x = mx.array([[most, least, 1, 5], [least + 1, most // 3, -least // 7, 100]], mx.int64)
    by = mx.array([[0, 1, 2, 3], [bits - 1, bits // 2, 4, bits - 2]], mx.int64).astype(dtype)

    def of_both(x: mx.array) -> mx.array:
        shifted = [shift(x, by[:1]), shift(x, by[1:]), shift(x, mx.array(bits - 1, dtype))]
        return mx.concatenate(shifted, axis=1)

    agrees(of_both, x.astype(dtype), tmp_path / "f.onnx")


@pytest.mark.parametrize("dtype", UNSIGNED)
@pytest.mark.parametrize(
    "function",
    [
        lambda x: x + x, lambda x: x * x, lambda x: -x, lambda x: x - x[:, ::-1], mx.square,
        lambda x: mx.sum(x, axis=1), lambda x: mx.cumsum(x, axis=1), lambda x: mx.prod(x, axis=1),
        lambda x: x.at[:, mx.array([0, 0])].add(x[:, 2:]), lambda x: x.at[:, 1:3].add(x[:, 2:]),
        lambda x: (x.astype(mx.int32) - 9).astype(x.dtype), lambda x: (x + x).astype(mx.uint8),
    ],
)  # fmt: skip
def test_small_unsigned_integers_wrap_around(
    function: Callable[[mx.array], mx.array], dtype: mx.Dtype, tmp_path: Path
) -> None:
    most = 2 ** (8 * dtype.size) - 1
    x = mx.array([[0, 1, most, most // 2 + 1], [3, most - 1, 2, most]], mx.int64).astype(dtype)

    agrees(function, x, tmp_path / "f.onnx")


def test_a_parameter_and_a_constant_without_axes_keep_their_shape(tmp_path: Path) -> None:
    model = export(
        lambda p, x: (p["scale"] * mx.sum(x) + mx.array(0.5)).reshape(1),
        [normal(2, 3)], tmp_path / "f.onnx", params={"scale": mx.array(3.0)},
    )  # fmt: skip

    shapes = {tensor.name: list(tensor.dims) for tensor in model.graph.initializer}
    assert shapes.pop("scale") == []
    assert [] in shapes.values()


KEY = mx.random.key(3)
KEYS = mx.random.split(KEY, 4)
# Never computed before the function is exported.
LATER = mx.random.normal((4, 5), key=mx.random.key(5))


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x + mx.random.normal((4,), key=KEY),
        lambda x: x + mx.random.normal((3, 1, 5, 1), key=KEY).sum(axis=(0, 2)),
        lambda x: x + mx.random.uniform(-1, 1, shape=(1,), key=mx.random.key(2**40 + 7)),
        lambda x: x + mx.random.bernoulli(0.5, (4,), key=mx.random.split(KEY, 3)[2]),
        lambda x: x[:, mx.random.permutation(4, key=KEY)] + mx.random.randint(0, 9, (4,), key=KEY),
        lambda x: x + mx.vmap(lambda key: mx.random.normal((3,), key=key))(KEYS)[:, 1],
        lambda x: x @ LATER,
    ],
)  # fmt: skip
def test_numbers_drawn_by_a_fixed_key_are_constants(
    function: Callable[[mx.array], mx.array], tmp_path: Path
) -> None:
    agrees(function, VALUES, tmp_path / "f.onnx")


def test_numbers_for_each_input_keep_the_size(tmp_path: Path) -> None:
    agrees(
        lambda x: x + mx.random.normal(x.shape, key=KEY), VALUES, tmp_path / "f.onnx",
        "fixed: the batch size changes how many random numbers are drawn",
    )  # fmt: skip


@pytest.mark.parametrize(
    "function",
    [
        mx.checkpoint(lambda x: mx.tanh(x)),
        lambda x: mx.checkpoint(mx.sin)(mx.checkpoint(mx.exp)(x)),
        mx.custom_function(lambda x: mx.cos(x) + mx.arange(x.shape[0])[:, None]),
    ],
)  # fmt: skip
def test_what_runs_again_in_the_backward_pass(
    function: Callable[[mx.array], mx.array], tmp_path: Path
) -> None:
    agrees(function, VALUES, tmp_path / "f.onnx")


def test_a_checkpoint_of_weights_alone(tmp_path: Path) -> None:
    params = {"w": normal(4, 5)}

    model = export(
        lambda p, x: x @ mx.checkpoint(mx.tanh)(p["w"]), [VALUES], tmp_path / "f.onnx",
        params=params,
    )  # fmt: skip

    assert np.allclose(run(model, x=VALUES)[0], np.array(VALUES @ mx.tanh(params["w"])), atol=1e-6)
    with pytest.raises(InputError, match=r"inside mx\.checkpoint, .* call the function without it"):
        export(lambda x: x @ mx.checkpoint(mx.tanh)(LATER), [VALUES], tmp_path / "f.onnx")


EXPERTS = normal(4, 6, 5)
mx.eval(EXPERTS)  # or it would be part of what the function computes


@pytest.mark.parametrize(
    ("function", "x"),
    [
        (lambda x: mx.gather_mm(x, EXPERTS, rhs_indices=mx.array([[0, 2]])), normal(3, 1, 2, 6)),
        (lambda x: mx.gather_mm(x, EXPERTS, lhs_indices=mx.array([1, 0, 0, 1])), normal(4, 2, 6)),
        (
            lambda x: mx.gather_mm(
                x, EXPERTS, lhs_indices=mx.array([1, 0]), rhs_indices=mx.array([3, 3])
            ),
            normal(3, 2, 6),
        ),
        (
            lambda x: mx.gather_mm(
                x, EXPERTS, rhs_indices=mx.sort(mx.argmax(x[:, 0], axis=1) % 4),
                sorted_indices=True,
            ),
            normal(7, 1, 6),
        ),
    ],
)  # fmt: skip
def test_products_with_gathered_matrices(
    function: Callable[[mx.array], mx.array], x: mx.array, tmp_path: Path
) -> None:
    model = export(function, [x], tmp_path / "f.onnx")

    assert relative_error(run(model, x=x)[0], np.array(function(x))) < 1e-6


@pytest.mark.parametrize("tokens", [3, 40])  # mlx-lm sorts 64 tokens times experts, or more
def test_a_mixture_of_experts(tokens: int, tmp_path: Path) -> None:
    module, x = MixtureOfExperts(), normal(2, tokens, 6)

    model = export(module, [x], tmp_path / "moe.onnx")

    assert metadata(model)["batch"] == "dynamic"
    for batch in (x, longer(x), x[:1]):
        assert relative_error(run(model, x=batch)[0], np.array(module(batch))) < 1e-5


def test_every_operator_that_a_builder_writes_is_known_to_pytorch_and_to_the_importer() -> None:
    files = [*Path(builders.__file__).parent.glob("*.py"), Path(emitter.__file__)]
    source = "".join(path.read_text() for path in files)
    written = {word for word in re.findall(r'"([A-Z]\w+)"', source) if onnx.defs.has(word)}
    written -= {"Flatten", "Scan", "Scatter", "Sum"}  # MLX's, or parts of names
    written |= {f"Reduce{name}" for name in ("Max", "Min", "Prod", "Sum")}
    written |= {f"Bitwise{name}" for name in ("And", "Or", "Xor")}

    assert len(written) > 60
    assert written - operators_of(torch).keys() == set()
    assert written - OPERATORS.keys() - HOST_ONLY == set()


def test_the_table_is_of_primitives_that_mlx_has() -> None:
    header = Path(mx.__file__).parent / "include" / "mlx" / "primitives.h"
    words = set(re.findall(r"\w+", header.read_text()))

    assert BUILDERS.keys() - words == set()
