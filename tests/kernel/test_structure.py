from typing import Any

import mlx.core as mx
import mlx.nn as nn
import pytest

from mlx_entk import entk
from mlx_entk.kernel import tiling
from mlx_entk.kernel.factors import Outers, Rows
from mlx_entk.kernel.guard import find_ways
from mlx_entk.kernel.structure import Structure
from mlx_entk.tracing.functions import ParametricFunction, as_parametric
from mlx_entk.tracing.jacobian import count_outputs
from tests import models


def find_structure(function: ParametricFunction, x: mx.array) -> Structure:
    structure = find_ways(function, (x,), count_outputs(function, (x,))).structure
    assert structure is not None
    return structure


@pytest.mark.parametrize(
    ("model", "shape", "uses"),
    [
        (models.MLP([3, 4, 2]), (5, 3), {"layers.0.weight": 1, "layers.1.bias": 1}),
        (models.Recurrent(), (5, 3), {"step.weight": 3, "step.bias": 3, "readout.weight": 1}),
        (models.TiedDecoder(), (5, 4), {"encoder.weight": 2, "head.weight": 1}),
        (models.Superposition(), (5, 5), {"W": 2, "b": 1}),
        (models.Subclassed(), (5, 3), {"inner.weight": 1}),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else None,
)
def test_every_use_of_every_parameter_is_found(
    model: nn.Module, shape: tuple[int, ...], uses: dict[str, int]
) -> None:
    x = mx.random.normal(shape, key=mx.random.key(0))
    function = as_parametric(model)

    by_parameter = find_structure(function, x).uses

    assert by_parameter.keys() == function.params.keys()
    assert {name: len(by_parameter[name]) for name in uses} == uses


@pytest.mark.parametrize(
    ("sizes", "positions", "form"), [((64, 64), 2, Outers), ((64, 64), 64, Rows)]
)
def test_the_cheaper_axis_is_contracted_first(
    sizes: tuple[int, int], positions: int, form: type
) -> None:
    x = mx.random.normal((2, positions, sizes[0]), key=mx.random.key(0))

    def model(weight: mx.array, x: mx.array) -> mx.array:
        return mx.tanh(x @ weight).sum(axis=(1, 2))[:, None]

    function = as_parametric(model, mx.ones(sizes))
    (factor,) = find_structure(function, x).factors((x,), mx.eye(1), paired=True).values()

    assert type(factor) is form


class Detached(nn.Module):
    """A branch that is cut off from differentiation, which a graph does not tell."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 3)
        self.second = nn.Linear(3, 2)

    def __call__(self, x: mx.array) -> mx.array:
        hidden = self.first(x)
        return self.second(hidden + mx.stop_gradient(mx.tanh(hidden)))


def test_a_hidden_derivative_is_noticed() -> None:
    x = mx.random.normal((5, 3), key=mx.random.key(0))

    assert set(find_structure(as_parametric(Detached()), x).uses) == {
        "second.weight",
        "second.bias",
    }


class LastToken(nn.Module):
    """Attention over a sequence of which the last position alone is read."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(4, 4) for _ in range(3))
        self.after = nn.Linear(4, 5)
        self.head = nn.Linear(5, 2)

    def __call__(self, x: mx.array) -> mx.array:
        scores = self.query(x) @ self.key(x).swapaxes(1, 2)
        attended = x + mx.softmax(scores, axis=-1) @ self.value(x)
        return self.head(mx.tanh(self.after(attended)))[:, -1]


def test_positions_that_no_output_reads_are_left_out() -> None:
    x = mx.random.normal((3, 6, 4), key=mx.random.key(0))
    structure = find_structure(as_parametric(LastToken()), x)

    factors = structure.factors((x,), mx.eye(2), paired=False, outer=True)

    positions = {name: factor.uses[0].positions for name, factor in factors.items()}
    assert {name for name, T in positions.items() if T == 6} == {
        "key.weight", "key.bias", "value.weight", "value.bias"
    }  # fmt: skip
    assert {name for name, T in positions.items() if T == 1} == {
        "query.weight", "query.bias", "after.weight", "after.bias", "head.weight", "head.bias"
    }  # fmt: skip


@pytest.mark.parametrize("reduction", ["trace", "full"])
def test_the_factors_of_an_input_are_made_once(
    reduction: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the number of tiles that need them."""
    made: list[int] = []
    factors = Structure.passes

    def counted(structure: Structure, x: tuple[mx.array, ...], *options: Any) -> Any:
        made.append(len(x[0]))
        return factors(structure, x, *options)

    x = mx.random.normal((40, 3), key=mx.random.key(0))
    entk(models.MLP([3, 4, 2]), x, reduction=reduction)  # the guard knows the model from now on
    monkeypatch.setattr(Structure, "passes", counted)
    monkeypatch.setattr(tiling, "_LARGEST_BLOCK", 64)

    entk(models.MLP([3, 4, 2]), x, reduction=reduction)

    assert max(made) < 40  # there are several tiles
    assert sum(made) == 40 + 1  # and one input was looked at to choose their size
