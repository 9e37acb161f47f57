import mlx.core as mx
import mlx.nn as nn
import pytest

from mlx_entk.jacobian import as_parametric
from mlx_entk.kernel.taps import find_structure
from tests import models


@pytest.mark.parametrize(
    ("model", "shape", "covered"),
    [
        (models.MLP([3, 4, 2]), (5, 3), {"layers.0", "layers.1"}),
        (models.Recurrent(), (5, 3), {"step", "readout"}),
        (models.SharedModule(), (5, 3), {"first"}),
        (models.TiedDecoder(), (5, 4), {"head"}),
        (models.Sequence_(), (5, 4, 3), {"project", "readout"}),
        (models.TimeFirst(), (5, 4, 3), {"readout"}),
        # As many positions as inputs: the shape alone would not tell.
        (models.TimeFirst(), (4, 4, 3), {"readout"}),
        (models.Convolution(), (5, 4, 2), {"readout"}),
        (models.Subclassed(), (5, 3), {"readout"}),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else None,
)
def test_structure_is_found_where_it_holds_and_nowhere_else(
    model: nn.Module, shape: tuple[int, ...], covered: set[str]
) -> None:
    x = mx.random.normal(shape, key=mx.random.key(0))

    structure = find_structure(as_parametric(model), x)

    assert set(structure.layers) == covered
