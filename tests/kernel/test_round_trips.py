"""On a GPU a tile is computed without the host: what goes there and back is counted."""

from collections import Counter
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from benchmarks.problems import conv_net, mlp, modular_mlp, transformer
from mlx_entk import _linalg
from mlx_entk.kernel.engine import prepare
from mlx_entk.kernel.reduction import Reduction
from mlx_entk.kernel.tiling import Tile


class Ops:
    """What problems need of MLX."""

    softmax = staticmethod(lambda v: mx.softmax(v, axis=-1))
    relu = staticmethod(lambda v: mx.maximum(v, 0))
    convolve = staticmethod(lambda v, weight: mx.conv2d(v, weight, padding=1))
    swap = staticmethod(mx.swapaxes)


PROBLEMS = {
    "modular": modular_mlp(5, 16),
    "mlp": mlp(12, 8, 16, 2, 3),
    "conv": conv_net(8, 6, 4, 3),
    "transformer": transformer(5, 8, 2, 16),
    "bottleneck": transformer(11, 4, 2, 8),  # more outputs than entries before them
}


@pytest.fixture
def trips(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Evaluations that wait, and arrays that the host reads, on a pretended GPU."""
    counted: Counter[str] = Counter()

    def counting(owner: Any, name: str, kind: str) -> None:
        function = getattr(owner, name)

        def watched(*given: Any, **options: Any) -> Any:
            if kind == "evaluations" or isinstance(given[0], mx.array):
                counted[kind] += 1
            return function(*given, **options)

        monkeypatch.setattr(owner, name, watched)

    monkeypatch.setattr(_linalg, "on_gpu", lambda: True)
    counting(mx, "eval", "evaluations")
    counting(np, "array", "views")
    counting(np, "asarray", "views")
    for name in ("item", "tolist"):
        if hasattr(mx.array, name):
            counting(mx.array, name, "views")
    return counted


@pytest.mark.parametrize("by_layer", [False, True])
@pytest.mark.parametrize("reduction", ["trace", "sum-of-logits", "full"])
@pytest.mark.parametrize("name", PROBLEMS)
def test_the_host_sees_nothing_of_a_tile_but_its_blocks(
    trips: Counter[str], name: str, reduction: Reduction, by_layer: bool
) -> None:
    problem = PROBLEMS[name]
    params = {key: mx.array(value) for key, value in problem.params.items()}

    def model(values: Any, x: mx.array) -> mx.array:
        outputs: mx.array = problem.forward(Ops, values, x)
        return outputs

    x = mx.array(problem.x)
    work = prepare(model, x, None, reduction, params, None, None, "auto", by_layer)
    work = work.cut(10**9, None)
    every = slice(0, len(work.cotangents.left))
    first, second, beside = (
        Tile(slice(*rows), slice(*columns), every, every)
        for rows, columns in (((0, 3), (0, 3)), ((3, 6), (3, 6)), ((3, 6), (6, 8)))
    )
    work.blocks(first)  # finds out what all tiles share
    trips.clear()

    work.blocks(second)
    work.blocks(beside)

    kernels = len(params) if by_layer else 1
    assert trips["views"] == 2 * kernels
    assert trips["evaluations"] <= 2 * kernels  # those of the views
