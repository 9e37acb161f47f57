"""Graphs that compute less: pruned to what is read, split in stages, with single factors."""

import math
from collections.abc import Callable

import mlx.core as mx
import numpy as np
import pytest

from mlx_entk.tracing.diagonals import with_single_factors
from mlx_entk.tracing.graph import Graph, trace
from mlx_entk.tracing.partial import folded, split
from mlx_entk.tracing.pruning import pruned


def drawn(*shape: int, seed: int = 0) -> mx.array:
    array = mx.random.normal(shape, key=mx.random.key(seed))
    mx.eval(array)
    return array


W = drawn(6, 6, seed=9)
KERNEL = drawn(4, 3, 6, seed=7)
EXPERTS = drawn(3, 6, 5, seed=8)


def attention(x: mx.array) -> mx.array:
    heads = x.reshape(2, 5, 2, 3).transpose(0, 2, 1, 3)
    scores = mx.softmax(heads @ heads.swapaxes(-1, -2), axis=-1)
    mixed = (scores @ heads).transpose(0, 2, 1, 3).reshape(2, 5, 6)
    return mixed @ W


def experts(x: mx.array) -> mx.array:
    chosen = mx.argmax(x[..., :3], axis=-1)
    rows = mx.expand_dims(x, -2)
    return mx.gather_mm(rows, EXPERTS, rhs_indices=chosen).squeeze(-2)


# Functions of x (2, 5, 6) that keep its second axis of positions.
ALONG_POSITIONS: dict[str, Callable[[mx.array], mx.array]] = {
    "elementwise": lambda x: mx.tanh(x) * mx.sigmoid(x) + 1,
    "matrix": lambda x: x @ W,
    "with a bias": lambda x: mx.addmm(W[0], x, W),
    "flattened": lambda x: (x.reshape(10, 6) @ W).reshape(2, 5, 6),
    "norm": lambda x: mx.fast.rms_norm(x, W[0], 1e-5),
    "layer norm": lambda x: mx.fast.layer_norm(x, W[0], W[1], 1e-5),
    "attention": attention,
    "cumulative": lambda x: mx.cumsum(x, axis=1),
    "halves": lambda x: mx.concatenate([-x[..., 3:], x[..., :3]], axis=-1),
    "every other": lambda x: mx.repeat(x[..., ::2], 2, axis=-1),
    "split": lambda x: mx.multiply(*mx.split(x, 2, axis=-1)),
    "sorted": lambda x: mx.sort(x, axis=-1),
    "taken": lambda x: mx.take_along_axis(x, mx.argsort(x, axis=-1)[..., :2], axis=-1),
    "experts": experts,
    "turned": lambda x: x[:, ::-1],
    "padded": lambda x: mx.pad(x, [(0, 0), (1, 1), (0, 0)])[:, 1:-1],
    "convolved": lambda x: mx.conv1d(x, KERNEL, padding=1),
    "rotated": lambda x: mx.fast.rope(
        x.reshape(2, 5, 2, 3).transpose(0, 2, 1, 3)[..., :2],
        2, traditional=False, base=10.0, scale=1.0, offset=0,
    ).transpose(0, 2, 1, 3).reshape(2, 5, 4),
}  # fmt: skip

READ: dict[str, Callable[[mx.array], mx.array]] = {
    "last": lambda y: y[:, -1],
    "two": lambda y: y[:, 1:3],
    "every other": lambda y: y[:, ::2],
    "last and first": lambda y: y[:, -1] * y[:, 0],
    "one channel": lambda y: y[:, 2:4, :1],
}


def size(graph: Graph) -> int:
    return sum(math.prod(graph.shapes[name]) for node in graph.nodes for name in node.outputs)


@pytest.mark.parametrize("read", READ)
@pytest.mark.parametrize("name", ALONG_POSITIONS)
def test_a_pruned_graph_computes_the_same(name: str, read: str) -> None:
    x = drawn(2, 5, 6, seed=1)

    def function(x: mx.array) -> mx.array:
        return READ[read](ALONG_POSITIONS[name](mx.tanh(x)))

    graph = trace(function, x)
    lean = pruned(graph)

    values = lean.run([x])
    np.testing.assert_allclose(values[lean.outputs[0]], function(x), rtol=1e-5, atol=1e-6)
    assert all(values[key].shape == shape for key, shape in lean.shapes.items() if key in values)


@pytest.mark.parametrize(
    "name",
    ["elementwise", "matrix", "with a bias", "flattened", "norm", "layer norm", "halves",
     "every other", "split", "sorted", "rotated"],
)  # fmt: skip
def test_what_acts_at_each_position_alone_runs_at_the_one_that_is_read(name: str) -> None:
    def function(x: mx.array) -> mx.array:
        return ALONG_POSITIONS[name](ALONG_POSITIONS["norm"](x))[:, -1]

    graph = trace(function, drawn(2, 5, 6))

    everywhere = {node.outputs[0] for node in graph.nodes if 5 in graph.shapes[node.outputs[0]]}
    lean = pruned(graph)
    left = [
        node
        for node in lean.nodes
        if node.outputs[0] in everywhere and math.prod(lean.shapes[node.outputs[0]]) > 30
    ]
    assert size(lean) < size(graph) / 2
    assert not left


def test_stages_give_what_the_whole_gives() -> None:
    x, v = drawn(4, 6), drawn(4, 6, seed=2)

    def function(v: mx.array, x: mx.array) -> mx.array:
        return (v @ (W @ W)) * mx.tanh(x) + mx.broadcast_to(x.sum(), (4, 6))

    graph = folded(trace(function, v, x), trace(function, v, x).inputs)
    first, second = split(graph, graph.inputs[:1])

    kept = first.run([x])
    given = [v, *(kept[name] for name in first.outputs)]
    np.testing.assert_allclose(
        second.run(given)[second.outputs[0]], function(v, x), rtol=1e-5, atol=1e-5
    )
    assert not any(node.primitive in ("Tanh", "Reduce") for node in second.nodes)
    # W @ W is computed once for all; what is broadcast is kept as it was before.
    assert sum(node.primitive == "Matmul" for node in (*first.nodes, *second.nodes)) == 1
    assert sorted(first.shapes[name] for name in first.outputs) == [(1, 1), (4, 6)]


def test_chains_of_factors_become_single_ones() -> None:
    x, v = drawn(4, 6), drawn(4, 6, seed=2)

    def function(v: mx.array, x: mx.array) -> mx.array:
        chain = v * mx.tanh(x) / mx.exp(x)
        return chain * mx.cos(x) - v * mx.sin(x) + v + (-chain)

    graph = trace(function, v, x)
    combined = with_single_factors(graph, graph.inputs[:1])

    np.testing.assert_allclose(
        combined.run([v, x])[combined.outputs[0]], function(v, x), rtol=1e-5, atol=1e-6
    )
    first, second = split(combined, combined.inputs[:1])
    assert len(first.outputs) == len(second.nodes) == 1


def test_factors_that_are_broadcast_stay_as_small_as_they_are() -> None:
    def function(v: mx.array, x: mx.array) -> mx.array:
        return v * x.max(axis=1, keepdims=True) * x[:1]

    graph = trace(function, drawn(8, 6), drawn(8, 6, seed=2))
    first, _ = split(with_single_factors(graph, graph.inputs[:1]), graph.inputs[:1])

    assert sorted(first.shapes[name] for name in first.outputs) == [(1, 6), (8, 1)]
