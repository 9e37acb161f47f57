"""Kernels of every layer of ``mlx.nn`` against gradients one by one."""

from collections.abc import Iterator

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten, tree_unflatten

from mlx_entk import InputError, entk
from tests.kernel.cases import C, Kernel, N, full_kernels
from tests.kernel.mlx_layers import CASES, LEFT_OUT, LayerCase, public_names
from tests.reference import from_jacobian, relative_error

# Where plain reverse mode of MLX fails: see docs/upstream.
WRONG_IN_MLX = frozenset(f"ConvTranspose{d}d:output padding" for d in (1, 2, 3))


@pytest.fixture(autouse=True)
def interpreted() -> Iterator[None]:
    """Without ``mx.compile``, which calls a C++ compiler for each new model on a CPU."""
    mx.disable_compile()
    yield
    mx.enable_compile()


class Flat:
    """A model as a function of all its parameters in one vector."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.names, values = zip(*tree_flatten(model.trainable_parameters()), strict=True)
        self.shapes = [value.shape for value in values]
        self.ends = np.cumsum([value.size for value in values])
        self.values = mx.concatenate([value.reshape(-1) for value in values])

    def __call__(self, vector: mx.array, x: mx.array) -> mx.array:
        parts = mx.split(vector, self.ends[:-1].tolist())
        shaped = [part.reshape(shape) for part, shape in zip(parts, self.shapes, strict=True)]
        self.model.update(tree_unflatten(list(zip(self.names, shaped, strict=True))))
        outputs: mx.array = self.model(x)
        return outputs


def gradients(function: Flat, x: mx.array) -> Kernel:
    """The Jacobian, shape (N, C, P), by a backward pass an input and output."""

    def pull(n: int, cotangent: mx.array) -> Kernel:
        row = x[n : n + 1]
        pulled = mx.vjp(lambda v: function(v, row), [function.values], [cotangent[None]])[1][0]
        return np.array(pulled, dtype=np.float64)

    return np.array([[pull(n, cotangent) for cotangent in mx.eye(C)] for n in range(N)])


def differences(function: Flat, x: mx.array, step: float = 1e-3) -> Kernel:
    """The same by differences of the outputs."""
    moved = [
        (function(function.values + step * unit, x) - function(function.values - step * unit, x))
        for unit in mx.eye(function.values.size)
    ]
    return np.stack([np.array(part, dtype=np.float64) / (2 * step) for part in moved], axis=-1)


def test_every_layer_of_mlx_is_tried_or_left_out() -> None:
    tried = {type(layer).__name__ for case in CASES for layer in case.build().modules()}
    tried |= {name for case in CASES for name in case.covers}
    left_out = {name for names in LEFT_OUT.values() for name in names.split()}

    assert sorted(set(public_names()) - tried - left_out) == []
    assert sorted(left_out - set(public_names())) == []
    assert len({case.name for case in CASES}) == len(CASES)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.filterwarnings("ignore::mlx_entk.errors.SlowPathWarning")
def test_a_kernel_is_that_of_gradients_one_by_one_or_refused(case: LayerCase) -> None:
    model, x = case.build(), mx.array(case.inputs)
    function = Flat(case.build())
    if case.name in WRONG_IN_MLX:
        expected, tolerance = from_jacobian(differences(function, x)), 2e-2
    else:
        expected, tolerance = from_jacobian(gradients(function, x)), 1e-4

    for way, kernel in full_kernels(model, x).items():
        if isinstance(kernel, str):
            assert case.name in WRONG_IN_MLX, kernel
            assert "\n" not in kernel
        else:
            assert relative_error(kernel, expected) <= tolerance, way


def test_normalization_by_the_batch_is_refused() -> None:
    model, x = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm(4)), mx.ones((N, 3))

    with pytest.raises(InputError, match=r"^.+$"):
        entk(model, x)
