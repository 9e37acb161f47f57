"""What a model's graph tells of its derivatives, and that a trace leaves the model as it was."""

from collections.abc import Callable

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from mlx_entk._parameters import flatten_tree
from mlx_entk.tracing.functions import ParametricFunction, as_parametric
from mlx_entk.tracing.graph import record
from mlx_entk.tracing.primitives import UntraceableError
from mlx_entk.tracing.rules import examine

x = mx.random.normal((3, 4), key=mx.random.key(0))
params = {"w": mx.random.normal((4, 6), key=mx.random.key(1))}
experts = {
    "gate": mx.random.normal((4, 3), key=mx.random.key(2)),
    "w": mx.random.normal((3, 4, 2), key=mx.random.key(3)),
}
mx.eval(x, params, experts)


def chosen(p: dict[str, mx.array], x: mx.array) -> mx.array:
    """The largest entry of each row, by its place, which depends on the parameters."""
    h = x @ p["w"]
    return mx.take_along_axis(h, mx.argmax(h, axis=1, keepdims=True), axis=1)


def mixture(p: dict[str, mx.array], x: mx.array) -> mx.array:
    best = mx.argmax(x @ p["gate"], axis=1)
    return mx.gather_mm(x[:, None], p["w"], rhs_indices=best)[:, 0]


@pytest.mark.parametrize(
    ("function", "of", "hidden"),
    [
        (chosen, params, False),
        (mixture, experts, False),
        (lambda p, x: chosen(p, x) * mx.stop_gradient(x @ p["w"])[:, :2], params, True),
    ],
    ids=["taken by an index", "multiplied by an index", "stopped"],
)
def test_an_index_hides_no_derivative(
    function: Callable[..., mx.array], of: dict[str, mx.array], hidden: bool
) -> None:
    model = as_parametric(function, of)

    examined = examine(model, (x,), model.apply({}, x).shape[1])

    assert examined.untraceable == ""
    assert examined.hidden == (frozenset(of) if hidden else frozenset())


def test_a_trace_gives_a_module_back_though_a_checkpoint_writes_into_it_later() -> None:
    layer = nn.Linear(4, 2)
    checkpointed = nn.utils.checkpoint(layer)

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = layer

        def __call__(self, x: mx.array) -> mx.array:
            outputs: mx.array = checkpointed(x)
            return outputs

    model = Model()
    mx.eval(model.parameters())
    before = {name: np.array(value) for name, value in flatten_tree(model.parameters()).items()}
    function: ParametricFunction = as_parametric(model)

    record(lambda x: mx.vmap(lambda row: function.apply({}, row))(x[None]), x)
    with pytest.raises(UntraceableError, match=r"Depends|CustomTransforms"):
        record(lambda w: mx.grad(lambda w: function.apply({"layer.weight": w}, x).sum())(w), x[:2])

    for name, value in flatten_tree(model.parameters()).items():
        assert np.array_equal(np.array(value), before[name])
