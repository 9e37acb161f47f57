"""Inputs and models that have no kernel are refused, and calls leave nothing behind."""

from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from mlx_entk import InputError, eigendecompose, entk, layerwise_entk
from mlx_entk._parameters import Params
from mlx_entk.kernel.engine import Strategy
from tests import models
from tests.kernel.cases import STRATEGIES


def over_the_batch(w: mx.array, x: mx.array) -> mx.array:
    return mx.softmax(x @ x.T, axis=-1) @ (x * w)


@pytest.mark.parametrize(
    "x", [mx.ones((4, 3)), mx.array([[0.1, 0.2, 0.3], [0, 1, 0], [0.1, 0.2, 0.3]])]
)
def test_a_batch_that_is_mixed_is_refused_whatever_inputs_repeat(x: mx.array) -> None:
    with pytest.raises(InputError, match="depend on the rest of its batch"):
        entk(over_the_batch, x, params=mx.ones(3))


class Normed(nn.Module):
    """Batch norm of the user's own, which no list of layers names."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = nn.Linear(3, 2)
        self.running_mean = mx.zeros(2)

    def __call__(self, x: mx.array) -> mx.array:
        h = self.dense(x)
        self.running_mean = 0.9 * self.running_mean + 0.1 * h.mean(axis=0)
        return h - h.mean(axis=0)


@pytest.mark.parametrize("norm", [Normed, lambda: nn.Sequential(nn.Linear(3, 2), nn.BatchNorm(2))])
def test_a_refused_module_is_left_as_it_was(norm: Any) -> None:
    model = norm()
    stored = dict(nn.utils.tree_flatten(model.parameters()))
    before = {name: np.array(value) for name, value in stored.items()}

    with pytest.raises(InputError, match=r"call model\.eval\(\) first"):
        entk(model, mx.ones((3, 3)))

    after = dict(nn.utils.tree_flatten(model.parameters()))
    assert after.keys() == before.keys()
    for name, value in before.items():
        np.testing.assert_array_equal(np.array(after[name]), value)


def test_a_block_of_two_classes_has_no_spectrum() -> None:
    model = models.MLP([3, 5, 2])
    x = mx.random.normal((10, 3), key=mx.random.key(0))

    block = entk(model, x, reduction=(0, 1))

    assert block.shape == (10, 10)
    with pytest.raises(InputError, match="kernel"):
        eigendecompose(block)


def test_inputs_whose_gradient_is_not_a_number_are_named() -> None:
    def length(params: Params, x: mx.array) -> mx.array:
        h = x @ params["W"]
        return mx.sqrt(mx.square(h).sum(axis=1, keepdims=True)) + x @ params["V"]

    x = mx.array([[1.0, 2], [0, 0], [3, 1], [0, 0]])
    params = {"V": mx.ones((2, 1)), "W": mx.ones((2, 2))}

    with pytest.raises(InputError, match=r"gradient of input 1, 3 of x by W is NaN or infinite"):
        entk(length, x, params=params, reduction="trace")


def test_a_kernel_too_small_for_single_precision_is_refused() -> None:
    x = mx.random.normal((4, 3), key=mx.random.key(0))

    with pytest.raises(
        InputError, match="of W is below what single precision holds: scale outputs"
    ):
        layerwise_entk(lambda p, x: (x @ p["W"]) * 1e-23, x, params={"W": mx.ones((3, 2))})


class Bare(nn.Module):
    def __init__(self) -> None:
        self.weight = mx.ones((3, 2))

    def __call__(self, x: mx.array) -> mx.array:
        return x @ self.weight


def test_a_module_without_its_base_is_said() -> None:
    with pytest.raises(InputError, match=r"Bare does not call super\(\).__init__\(\)"):
        entk(Bare(), mx.ones((2, 3)))


def test_tiles_of_another_kernel_are_not_gone_on_with(tmp_path: Any) -> None:
    W, V = (mx.random.normal((3, 2), key=mx.random.key(k)) for k in range(2))
    x = mx.random.normal((40, 3), key=mx.random.key(2))

    def model(W: mx.array, x: mx.array) -> Any:
        return mx.tanh(x @ W), mx.tanh(x @ V) * (x @ W)

    def stop(stage: str, done: int, total: int, note: str = "") -> None:
        if done:
            raise KeyboardInterrupt

    options: dict[str, Any] = {"params": W, "out": tmp_path / "k", "memory_limit": "100kB"}
    with pytest.raises(KeyboardInterrupt):
        entk(model, x, output=0, **options, progress=stop)

    with pytest.raises(InputError, match="holds tiles of another kernel"):
        entk(model, x, output=1, **options)


class Counting(nn.Module):
    """Writes into its arrays, and into an object that is no module."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = nn.Linear(3, 2)
        self.calls = mx.array(0.0)
        self.last = mx.zeros(2)
        self.cache = Cache()

    def __call__(self, x: mx.array) -> mx.array:
        h = self.dense(x)
        self.calls += 1
        self.last[:] = h[0]
        self.cache.last = h
        self.cache.seen.append(h)
        return h


class Cache:
    def __init__(self) -> None:
        self.last: Any = None
        self.seen: list[Any] = []


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_what_a_call_writes_is_taken_back(strategy: Strategy) -> None:
    model = Counting()
    model.freeze(keys=["calls", "last"])

    entk(model, mx.ones((3, 3)), strategy=strategy)

    assert model.calls.item() == 0
    assert model.last.tolist() == [0, 0]
    assert (model.cache.last, model.cache.seen) == (None, [])
