"""Random numbers that a function draws: constants of its graph if their key is one.

ONNX has no generator that gives MLX's numbers. If the key is fixed, however, so are the numbers,
and whatever follows from them alone.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from mlx_entk.errors import InputError
from mlx_entk.onnx.symbolic import FixedBatchError, SymbolicGraph, is_free
from mlx_entk.tracing.graph import needed
from mlx_entk.tracing.primitives import OPERATIONS

_DRAW = "RandomBits"
_Words = NDArray[np.uint32]


@contextmanager
def refuse_draws() -> Iterator[None]:
    """Raise InputError if MLX's own random state changes: each call then gives other numbers."""
    before = _state()
    yield
    if not np.array_equal(before, _state()):
        raise InputError(
            "the function cannot be exported because it draws other random numbers in each call: "
            "call eval() on the model, or draw with key=mx.random.key(…)"
        )


def _state() -> _Words:
    state: Any = mx.random.state  # MLX does not say its type
    return np.array(state[0])


def with_numbers_drawn(traced: SymbolicGraph) -> SymbolicGraph:
    """Return a graph in which random numbers, and what follows from them alone, are constants.

    Raises
    ------
    FixedBatchError
        If their number depends on the batch.
    InputError
        If a key depends on the inputs.
    """
    if all(node.primitive != _DRAW for node in traced.nodes):
        return traced
    values = dict(traced.graph.constants)
    drawn: set[str] = set()
    kept = []
    for node in traced.nodes:
        shapes = [traced.shapes[name] for name in node.outputs]
        draws, free = node.primitive == _DRAW, is_free([shapes, node.arguments])
        constant = values.keys() >= set(node.inputs)
        if draws and not constant:
            raise InputError(
                "the function cannot be exported because it draws random numbers by a key that "
                "depends on its inputs"
            )
        if draws and free:
            raise FixedBatchError("the batch size changes how many random numbers are drawn")
        if free or not constant or not (draws or node.primitive in OPERATIONS):
            kept.append(node)
            continue
        given = [values[name] for name in node.inputs]
        results = [mx.array(_bits(given[0], shapes[0]))] if draws else node.run(given)
        values.update(zip(node.outputs, results, strict=True))
        if draws or not drawn.isdisjoint(node.inputs):
            drawn.update(node.outputs)
        else:
            kept.append(node)
    nodes = needed(kept, traced.graph.outputs)
    read = {name for node in nodes for name in node.inputs}.union(traced.graph.outputs)
    stored = read.intersection(drawn.union(traced.graph.constants))
    constants = {name: value for name, value in values.items() if name in stored}
    mx.eval(constants)
    return replace(traced, graph=replace(traced.graph, constants=constants), nodes=nodes)


def _bits(keys: mx.array, shape: Sequence[int]) -> _Words:
    """Return the words that MLX's primitive RandomBits gives.

    Parameters
    ----------
    keys
        One or more keys, shape (…, 2).
    shape
        That of the result: the axes of the keys, then those of the words of each.
    """
    pairs = np.array(keys).reshape(-1, 2, 1)
    count = math.prod(shape) // len(pairs)
    half, odd = divmod(count, 2)
    first = np.arange(half + odd, dtype=np.uint32)
    second = first + np.uint32(half + odd)
    second[half:] = 0  # the word in the middle of an odd number has no partner
    a, b = _threefry(pairs[:, 0], pairs[:, 1], first, second)
    return np.concatenate([a, b[:, :half]], axis=1).reshape(shape)


def _threefry(key_0: _Words, key_1: _Words, first: _Words, second: _Words) -> tuple[_Words, _Words]:
    """Threefry-2x32 with 20 rounds (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3").

    Parameters
    ----------
    key_0, key_1
        Both words of each key, shape (K, 1).
    first, second
        Both words of each counter, shape (count,).

    Returns
    -------
    tuple of arrays
        Both words of each result, shape (K, count).
    """
    keys = (key_0, key_1, key_0 ^ key_1 ^ np.uint32(0x1BD11BDA))
    a, b = first + key_0, second + key_1
    for block in range(5):
        for turn in ((13, 15, 26, 6), (17, 29, 16, 24))[block % 2]:
            a = a + b
            b = (b << np.uint32(turn) | b >> np.uint32(32 - turn)) ^ a
        a = a + keys[(block + 1) % 3]
        b = b + keys[(block + 2) % 3] + np.uint32(block + 1)
    return a, b
