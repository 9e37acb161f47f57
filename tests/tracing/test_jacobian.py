import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from mlx_entk import jacobian
from tests import models, reference


@pytest.mark.parametrize(
    ("model", "shape"),
    [(models.MLP([3, 4, 2]), (5, 3)), (models.Convolution(), (3, 4, 2))],
    ids=["with vmap", "without vmap"],
)
def test_the_jacobian_equals_finite_differences(model: nn.Module, shape: tuple[int, ...]) -> None:
    x = mx.random.normal(shape, key=mx.random.key(1))
    expected = reference.finite_difference_jacobian(model, x)

    J = jacobian(model, x)

    assert J.keys() == expected.keys()
    for name, rows in J.items():
        flat = np.array(rows).reshape(*rows.shape[:2], -1)
        assert reference.relative_error(flat, expected[name]) < 1e-5


def test_cotangents_combine_the_outputs() -> None:
    model = models.MLP([3, 4, 2])
    x = mx.random.normal((5, 3), key=mx.random.key(1))

    whole = jacobian(model, x)["layers.0.weight"]
    combined = jacobian(model, x, cotangents=mx.array([[2.0, -1.0]]))["layers.0.weight"]

    np.testing.assert_allclose(combined[:, 0], 2 * whole[:, 0] - whole[:, 1], atol=1e-5)
