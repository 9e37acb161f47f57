from collections.abc import Callable
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from mlx_entk.tracing.graph import trace
from mlx_entk.tracing.primitives import OPERATIONS, RIGHT, TRANSPOSABLE, UntraceableError

x = mx.random.uniform(0.1, 0.9, (3, 4), key=mx.random.key(0))
y = mx.random.uniform(0.1, 0.9, (3, 4), key=mx.random.key(1))
index = mx.array([2, 0, 1])
quantised = mx.quantize(mx.random.normal((2, 64), key=mx.random.key(2)), bits=8)
mx.eval(x, y, index, quantised)  # what is not computed yet would be traced too

UNARY = """abs negative exp log log2 log10 log1p expm1 sin cos tan sinh cosh tanh arcsin arccos
arctan arcsinh arctanh sigmoid erf erfinv square sqrt rsqrt sign floor ceil reciprocal"""
BINARY = (
    "add subtract multiply divide maximum minimum power logaddexp remainder floor_divide arctan2"
)
COMPARISONS = "equal not_equal greater greater_equal less less_equal"
REDUCTIONS = "sum prod min max logsumexp softmax argmax argmin cumsum var"


def beside_y(name: str) -> Callable[[mx.array], mx.array]:
    return lambda v: getattr(mx, name)(v, y)


def choosing(name: str) -> Callable[[mx.array], mx.array]:
    return lambda v: mx.where(getattr(mx, name)(v, y), v, y)


def along_rows(name: str) -> Callable[[mx.array], mx.array]:
    return lambda v: getattr(mx, name)(v, axis=1)


FUNCTIONS: dict[str, Callable[..., Any]] = {
    **{name: getattr(mx, name) for name in UNARY.split()},
    **{name: beside_y(name) for name in BINARY.split()},
    **{name: choosing(name) for name in COMPARISONS.split()},
    **{name: along_rows(name) for name in REDUCTIONS.split()},
    "arccosh": lambda v: mx.arccosh(v + 1),
    "not": lambda v: mx.where(mx.logical_not(v > 0.5), v, y),
    "or": lambda v: mx.where(mx.logical_or(v > 0.5, y > 0.2), v, y),
    "and": lambda v: mx.where(mx.logical_and(v > 0.5, y > 0.2), v, y),
    "any and all": lambda v: mx.where(mx.logical_and(mx.any(v > 0.8), mx.all(v > 0)), v, -v),
    "matmul": lambda v: v @ y.T,
    "addmm": lambda v: mx.addmm(mx.ones((3, 3)), v, y.T, alpha=2.0, beta=0.5),
    "einsum": lambda v: mx.einsum("ij,kj->ki", v, y),
    "shapes": lambda v: v[None].transpose(2, 0, 1).reshape(2, 6).flatten()[::2].squeeze(),
    "unflatten": lambda v: mx.unflatten(v, 1, (2, 2)),
    "concatenate": lambda v: mx.concatenate([v, y], axis=1),
    "stack": lambda v: mx.stack([v, y], axis=1),
    "split": lambda v: mx.split(v, [1, 3], axis=1)[1],
    "pad": lambda v: mx.pad(v, [(0, 1), (2, 0)], constant_values=3.0),
    "slice": lambda v: v[1:, ::2],
    "rows": lambda v: v[index],
    "columns": lambda v: mx.take(v, index, axis=1),
    "take along axis": lambda v: mx.take_along_axis(v, index[:, None], axis=1),
    "arange": lambda v: v + mx.arange(4),
    "tril": lambda v: mx.tril(v),
    "full": lambda v: v + mx.full((3, 4), 2.5),
    "types": lambda v: v.astype(mx.float16).astype(mx.float32),
    "convolution": lambda v: mx.conv1d(v[None], mx.ones((2, 2, 4)), padding=1, stride=2),
    "layer norm": lambda v: mx.fast.layer_norm(v, y[0], y[1], 1e-5),
    "rms norm": lambda v: mx.fast.rms_norm(v, y[0], 1e-5),
    "rope": lambda v: mx.fast.rope(
        v[None, None], 4, traditional=False, base=100.0, scale=1.0, offset=0
    ),
    "attention": lambda v: mx.fast.scaled_dot_product_attention(
        v[None, None], y[None, None], y[None, None], scale=0.5
    ),
    "gelu": nn.gelu,
    "gelu approximation": nn.gelu_approx,
    "silu": nn.silu,
    "relu": nn.relu,
    "compiled": mx.compile(mx.tanh),
    "pooling": lambda v: nn.MaxPool1d(2)(v[None, :2]),
    "round": mx.round,
    "divmod": lambda v: mx.divmod(v, mx.array(0.3))[1],
    "complex": lambda v: mx.real(mx.conjugate(v + 1j * y)) * mx.imag((v + 1j * y) ** (1 + 1j)),
    "bits": lambda v: v * (mx.array([1, 2, 3, 4]) & 6),
    "written": lambda v: written(v, (slice(None), slice(1, 3)), y[:, 1:3]),
    "written backwards": lambda v: written(v, (slice(None), slice(3, 0, -2)), v[:, :2]),
    "written once": lambda v: written(v, (slice(0, 2),), 0.5),
    "added to a slice": lambda v: v.at[1:, ::2].add(y[1:, ::2]),
    "multiplied in a slice": lambda v: v.at[:, 1:3].multiply(y[:, 1:3]),
    "largest in a slice": lambda v: v.at[:, 1:3].maximum(y[:, 1:3]),
    "rows written": lambda v: written(v, mx.array([2, 0]), y[:2]),
    "entries added": lambda v: v.at[index, index].add(v[0, :3]),
    "columns written": lambda v: mx.put_along_axis(v, index[:, None], y[:, :1], axis=1),
    "masked": lambda v: written(v, v > 0.5, 0.25),
    "strided": lambda v: mx.as_strided(v, (3, 2), (4, 1), 1),
    "sorted": lambda v: mx.sort(v, axis=1),
    "largest": lambda v: mx.topk(v, 2, axis=1),
    "by order": lambda v: mx.take_along_axis(v, mx.argsort(y, axis=1), axis=1),
    "by parts": lambda v: mx.take_along_axis(v, mx.argpartition(v, 2, axis=1), axis=1),
    "diagonal": lambda v: mx.diagonal(v) + mx.trace(v),
    "cumulative": lambda v: mx.cumprod(v, axis=1) + mx.cummax(v, axis=0, reverse=True),
    "experts": lambda v: mx.gather_mm(
        v[:, None], mx.stack([y.T, 2 * y.T]), rhs_indices=mx.array([1, 0, 1])
    ),
    "quantised": lambda v: mx.quantized_matmul(
        mx.pad(v, [(0, 0), (0, 60)]), quantised[0], quantised[1], quantised[2], bits=8
    ),
    "padded with a sum": lambda v: mx.pad(v, 1, constant_values=v.sum()),
    "filled with a sum": lambda v: v * mx.full((3, 4), v.sum()),
    "grouped": lambda v: mx.conv1d(v[None], mx.ones((4, 2, 2)), groups=2),
    "padded far": lambda v: mx.conv1d(v[None], mx.ones((2, 1, 4)), padding=2, stride=2),
    "transposed": lambda v: mx.conv_transpose1d(
        v[None], mx.ones((2, 3, 4)), stride=2, output_padding=1
    ),
    "cut": lambda v: mx.conv_general(v[None], mx.ones((2, 2, 4)), padding=([-1], [0]), flip=True),
}


def written(v: mx.array, at: Any, value: Any) -> mx.array:
    copy = v * 1
    copy[at] = value
    return copy


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_graph_computes_what_its_function_does(name: str) -> None:
    function = FUNCTIONS[name]

    graph = trace(function, x)

    (output,) = graph.outputs
    for operations in ({}, RIGHT, TRANSPOSABLE):
        found = graph.run([x], instead=operations)[output]
        np.testing.assert_allclose(np.array(found), np.array(function(x)), rtol=1e-4, atol=1e-5)


def test_every_operation_is_tried() -> None:
    """The functions above reach every primitive of the table."""
    reached = {
        node.primitive for function in FUNCTIONS.values() for node in trace(function, x).nodes
    }
    assert reached >= OPERATIONS.keys()


def test_perturbations_are_added_where_they_are_named() -> None:
    graph = trace(lambda v: mx.tanh(v @ y.T), x)
    product, output = (node.outputs[0] for node in graph.nodes[-2:])

    perturbed = graph.run([x], {product: mx.ones((3, 3))})[output]

    np.testing.assert_allclose(np.array(perturbed), np.tanh(np.array(x @ y.T) + 1), rtol=1e-5)


def test_a_copy_in_another_layout_is_no_primitive() -> None:
    contiguous = mx.contiguous

    graph = trace(lambda v: mx.contiguous(v.T, True) * 2, x)

    assert "Contiguous" not in {node.primitive for node in graph.nodes}
    assert np.array_equal(np.array(graph.run([x])[graph.outputs[0]]), 2 * np.array(x).T)
    assert mx.contiguous is contiguous


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda v: mx.abs(mx.fft.fft(v)), "primitive FFT"),
        (lambda v: v * mx.random.uniform(shape=(3, 4)), "primitive RandomBits"),
        (mx.checkpoint(lambda v: mx.tanh(v)), "CustomTransforms"),
        (lambda v: v * v.sum().item(), "during function transformations"),
    ],
    ids=["unknown", "random", "custom derivative", "value of a tracer"],
)
def test_what_cannot_be_traced_is_said(function: Callable[..., Any], message: str) -> None:
    with pytest.raises(UntraceableError, match=message):
        trace(function, x)
