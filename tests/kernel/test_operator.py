from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from mlx_entk import InputError, entk_operator, flatten, layerwise_entk
from tests import models, reference


def dense(model: Any, x: mx.array, reduction: Any, name: str | None = None) -> np.ndarray:
    kernels = layerwise_entk(model, x, reduction=reduction)
    kernel = kernels[name] if name else sum(kernels.values(), np.zeros(()))
    return np.asarray(flatten(kernel) if reduction == "full" else kernel)


@pytest.mark.parametrize("reduction", ["full", "trace", "sum-of-logits", (1, 1)])
@pytest.mark.parametrize("batch", [1, 4, 256])
def test_products_are_those_of_the_formed_kernel(reduction: Any, batch: int) -> None:
    model = models.MLP([3, 6, 2])
    x = mx.random.normal((9, 3), key=mx.random.key(2))

    operator = entk_operator(model, x, reduction=reduction, batch=batch)

    formed = operator @ np.eye(operator.shape[0])
    assert reference.relative_error(formed, dense(model, x, reduction)) < 1e-5
    assert operator.products == operator.shape[0]


def test_attention_and_tied_embeddings_have_products_too() -> None:
    model = models.Transformer()
    x = mx.random.randint(0, 5, (6, 3), key=mx.random.key(1))

    operator = entk_operator(model, x, reduction="full")

    formed = operator @ np.eye(operator.shape[0])
    assert reference.relative_error(formed, dense(model, x, "full")) < 1e-5


@pytest.mark.parametrize(
    ("model", "shape"), [(models.Convolution(), (4, 4, 2)), (models.Image(), (3, 4, 4, 2))]
)
def test_convolutions_which_have_no_forward_mode_in_mlx_have_products(
    model: Any, shape: tuple[int, ...]
) -> None:
    x = mx.random.normal(shape, key=mx.random.key(3))

    operator = entk_operator(model, x, reduction="full")

    formed = operator @ np.eye(operator.shape[0])
    assert reference.relative_error(formed, dense(model, x, "full")) < 1e-5


def test_products_can_be_of_some_parameters_alone() -> None:
    model = models.MLP([3, 6, 2])
    x = mx.random.normal((9, 3), key=mx.random.key(2))

    operator = entk_operator(model, x, reduction="trace", parameters=["layers.0.weight"])

    formed = operator @ np.eye(9)
    expected = dense(model, x, "trace", "layers.0.weight")
    assert reference.relative_error(formed, expected) < 1e-5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"reduction": (0, 1)}, "needs a symmetric kernel"),
        ({"parameters": ["nothing"]}, "parameters has nothing: the model has layers.0.weight"),
        ({"parameters": []}, "parameters has no names"),
        ({"batch": 0}, "batch is 0"),
    ],
)
def test_what_has_no_operator_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        entk_operator(models.MLP([3, 4, 2]), mx.ones((2, 3)), **arguments)


def test_batches_fit_into_a_memory_limit() -> None:
    model = models.MLP([64, 2048, 8])
    x = mx.random.normal((300, 64), key=mx.random.key(2))
    whole = entk_operator(model, x, reduction="full")
    v = np.random.default_rng(0).standard_normal(whole.shape[0])

    small = entk_operator(model, x, reduction="full", memory_limit=6_000_000)
    product = small @ v

    assert 1 < small.batch < whole.batch == 256
    mx.reset_peak_memory()
    before = mx.get_active_memory()
    small @ v
    assert mx.get_peak_memory() - before < 1.2 * 6_000_000
    assert reference.relative_error(product, whole @ v) < 1e-5
    with pytest.raises(InputError, match=r"a pass of one input takes .* raise the memory limit"):
        entk_operator(model, x, reduction="full", memory_limit=1000)
