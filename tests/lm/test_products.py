"""Products by linearised models against those by MLX's own transforms, over architectures."""

from collections.abc import Iterator

import mlx.core as mx
import numpy as np
import pytest

from mlx_entk.kernel.forward import find_push
from mlx_entk.kernel.operator import EntkOperator, entk_operator
from mlx_entk.kernel.passes import LinearPasses, PlainPasses
from mlx_entk.lm.model import hidden_before, layer_function, readout_roots
from mlx_entk.tracing.functions import ParametricFunction
from mlx_entk.tracing.inputs import Inputs
from mlx_entk.tracing.jacobian import Probe, count_outputs
from mlx_entk.tracing.rules import examine
from tests.lm.survey import SUPPORTED, VOCABULARY, tiny_models
from tests.lm.test_survey import some_matrix
from tests.reference import relative_error

TOKENS = mx.array(np.random.default_rng(0).integers(0, VOCABULARY, (5, 9)))
# What reads values of arrays cannot be traced: its products are made as before.
PLAIN = {"dbrx"}


@pytest.fixture(autouse=True)
def _without_compiling() -> Iterator[None]:
    mx.disable_compile()  # on a CPU it starts a C++ compiler for each shape
    yield
    mx.enable_compile()


def plain_operator(function: ParametricFunction, x: Inputs) -> EntkOperator:
    """The operator by MLX's own transforms of the whole function."""
    C = count_outputs(function, x)
    examined = examine(function, x, C)
    push = find_push(examined, Probe.of(examined.function, x, C))
    return EntkOperator(PlainPasses(push), x, C, "full", 2, 0, None)


@pytest.mark.parametrize("layer", [0, 2])
@pytest.mark.parametrize("name", SUPPORTED)
def test_products_are_those_of_the_whole_model(name: str, layer: int) -> None:
    model = tiny_models()[name]()
    function = layer_function(model, layer, [some_matrix(model, layer)], None)
    x: Inputs = (hidden_before(model, TOKENS, layer, batch=5),)
    if model.cap is not None:
        x = (*x, readout_roots(model, model.hidden(TOKENS)))

    operator = entk_operator(function, x, batch=2)

    v = np.random.default_rng(1).standard_normal(operator.shape[0])
    expected = plain_operator(function, x) @ v
    assert relative_error(operator @ v, expected) < 1e-5
    assert relative_error(operator @ v, expected) < 1e-5  # by what is kept now
    assert isinstance(operator._passes, LinearPasses) == (name not in PLAIN)
