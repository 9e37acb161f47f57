"""Models and inputs that every contestant gets, written once over the operations they share.

Only NumPy is needed here. An ``ops`` brings ``relu``, ``softmax``, ``convolve`` and ``swap`` of
one framework; everything else is Python operators, which arrays of all of them have.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

Arrays = dict[str, NDArray[Any]]
Forward = Callable[[Any, dict[str, Any], Any], Any]


@dataclass(frozen=True)
class Problem:
    """A model with its weights, and the inputs of its kernel.

    Attributes
    ----------
    title
        For tables.
    forward
        ``forward(ops, params, x)``: outputs (N, C) of a batch.
    params
        float32.
    x
        Inputs for the reductions to (N, N).
    full
        How many of them the full kernel takes.
    """

    title: str
    forward: Forward
    params: Arrays
    x: NDArray[Any]
    full: int


def _normal(generator: np.random.Generator, *shape: int, fan_in: int = 1) -> NDArray[np.float32]:
    values: NDArray[np.float64] = generator.standard_normal(shape) / fan_in**0.5
    return values.astype(np.float32)


def _pairs(p: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    n, m = np.divmod(np.arange(p * p), p)
    return n, m


def modular_mlp(p: int = 29, width: int = 512) -> Problem:
    """The quadratic network on every pair of numbers."""
    generator = np.random.default_rng(0)
    n, m = _pairs(p)

    def forward(ops: Any, params: dict[str, Any], x: Any) -> Any:
        hidden = (x @ params["hidden"].T / (2 * p) ** 0.5) ** 2
        return hidden @ params["readout"].T / width

    params: Arrays = {
        "hidden": _normal(generator, width, 2 * p),
        "readout": _normal(generator, p, width),
    }
    x = np.concatenate([np.eye(p)[n], np.eye(p)[m]], axis=1).astype(np.float32)
    return Problem(f"modular MLP, p = {p}, H = {width}", forward, params, x, full=200)


def mlp(
    inputs: int = 1000, fan_in: int = 784, width: int = 1024, depth: int = 3, outputs: int = 10
) -> Problem:
    """A dense network with biases."""
    generator = np.random.default_rng(0)
    sizes = [fan_in, *[width] * depth, outputs]

    def forward(ops: Any, params: dict[str, Any], x: Any) -> Any:
        for layer in range(depth):
            x = ops.relu(x @ params[f"W{layer}"] + params[f"b{layer}"])
        return x @ params[f"W{depth}"] + params[f"b{depth}"]

    params: Arrays = {}
    for layer, (wide, out) in enumerate(pairwise(sizes)):
        params[f"W{layer}"] = _normal(generator, wide, out, fan_in=wide)
        params[f"b{layer}"] = _normal(generator, out)
    x = _normal(generator, inputs, fan_in)
    return Problem(f"MLP, {depth} × {width}, {outputs} outputs", forward, params, x, full=100)


def conv_net(inputs: int = 200, side: int = 12, channels: int = 16, outputs: int = 10) -> Problem:
    """Two 3 × 3 convolutions, pooled over the image."""
    generator = np.random.default_rng(0)

    def forward(ops: Any, params: dict[str, Any], x: Any) -> Any:
        x = ops.relu(ops.convolve(x, params["first"]))
        x = ops.relu(ops.convolve(x, params["second"]))
        return x.mean((1, 2)) @ params["readout"]

    params: Arrays = {  # output channels, 3, 3, input channels
        "first": _normal(generator, channels, 3, 3, 3, fan_in=27),
        "second": _normal(generator, 2 * channels, 3, 3, channels, fan_in=9 * channels),
        "readout": _normal(generator, 2 * channels, outputs, fan_in=2 * channels),
    }
    x = _normal(generator, inputs, side, side, 3)
    return Problem(f"conv net, {side} × {side} images", forward, params, x, full=100)


def transformer(p: int = 29, width: int = 64, heads: int = 4, hidden: int = 256) -> Problem:
    """One layer without norms on the sequences (n, m, =)."""
    generator = np.random.default_rng(0)
    n, m = _pairs(p)

    def forward(ops: Any, params: dict[str, Any], x: Any) -> Any:
        h = params["embedding"][x] + params["positions"]
        query, key, value = (
            ops.swap((h @ params[name]).reshape(-1, 3, heads, width // heads), 1, 2)
            for name in ("query", "key", "value")
        )
        # The last position sees all of them, and is the only one read: no mask is needed.
        weights = ops.softmax(query @ ops.swap(key, 2, 3) / (width / heads) ** 0.5)
        h = h + ops.swap(weights @ value, 1, 2).reshape(-1, 3, width) @ params["out"]
        h = h + ops.relu(h @ params["in"]) @ params["back"]
        return h[:, -1] @ params["unembedding"]

    params: Arrays = {
        "embedding": _normal(generator, p + 1, width),
        "positions": _normal(generator, 3, width),
        **{
            name: _normal(generator, width, width, fan_in=width)
            for name in ("query", "key", "value", "out")
        },
        "in": _normal(generator, width, hidden, fan_in=width),
        "back": _normal(generator, hidden, width, fan_in=hidden),
        "unembedding": _normal(generator, width, p, fan_in=width),
    }
    x = np.stack([n, m, np.full(p * p, p)], axis=1).astype(np.int32)
    return Problem(f"transformer, p = {p}, d = {width}", forward, params, x, full=200)


PROBLEMS: dict[str, Callable[[], Problem]] = {
    "modular": modular_mlp,
    "mlp": mlp,
    "conv": conv_net,
    "transformer": transformer,
}
