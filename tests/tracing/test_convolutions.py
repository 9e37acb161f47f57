"""Convolutions as matrix products: values and every rule against loops over taps in float64."""

import itertools
import random
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from mlx_entk.tracing import row_products
from mlx_entk.tracing.convolutions import Form
from mlx_entk.tracing.fast_convolutions import convolve, inside_vmap, is_fast
from tests.reference import relative_error

# What copies cost, by which all goes by rows or nothing does, and floats of a slab.
WAYS = [(1e6, 2**21), (0.0, 2**21), (1.0, 30)]


def reference(x: Any, weight: Any, form: Form) -> Any:
    """A convolution of NumPy arrays by its definition."""
    x, weight = np.asarray(x, np.float64), np.asarray(weight, np.float64)
    kernel, space = weight.shape[1:-1], x.shape[1:-1]
    outputs = np.zeros((len(x), *form.positions(space, kernel), len(weight)))
    of_group, channels = len(weight) // form.groups, weight.shape[-1]
    for position in np.ndindex(*outputs.shape[1:-1]):
        for tap in np.ndindex(*kernel):
            at = np.array(position) * form.stride + np.array(tap) * form.dilation - form.low
            entry, between = np.divmod(at, form.gaps)
            if between.any() or (entry < 0).any() or (entry >= space).any():
                continue
            met = tuple(np.array(kernel) - 1 - tap) if form.flip else tap
            for group in range(form.groups):
                of = slice(group * of_group, (group + 1) * of_group)
                given = x[(slice(None), *entry, slice(group * channels, (group + 1) * channels))]
                outputs[(slice(None), *position, of)] += given @ weight[(of, *met)].T
    return outputs


def close(found: Any, expected: Any) -> None:
    np.testing.assert_allclose(np.array(found), np.array(expected), rtol=1e-4, atol=1e-4)


def drawn(seed: int) -> tuple[Form, mx.array, mx.array]:
    """A form with an input and a weight that fit it, by chance."""
    draw = random.Random(seed)
    while True:
        dimensions, groups = draw.choice([1, 2, 2, 3]), draw.choice([1, 1, 2, 3])
        space, kernel, stride, low, high, dilation, gaps = (
            tuple(draw.choice(numbers) for _ in range(dimensions))
            for numbers in (
                range(1, 6), (1, 2, 3, 4), (1, 1, 2, 3), range(-2, 4), range(-2, 4), (1, 1, 2, 3),
                (1, 1, 1, 2, 3),
            )
        )  # fmt: skip
        form = Form(stride, low, high, dilation, gaps, groups, draw.random() < 0.3)
        if min(form.positions(space, kernel)) > 0:
            break
    channels, outputs = draw.randint(1, 3), draw.randint(1, 3)
    mx.random.seed(seed)
    x = mx.random.normal((draw.randint(1, 3), *space, groups * channels))
    return form, x, mx.random.normal((groups * outputs, *kernel, channels))


@pytest.fixture(params=WAYS, ids=["rows", "patches", "slabs"], autouse=True)
def way(request: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    copy, slab = request.param
    monkeypatch.setattr(row_products, "_COPY", copy)
    monkeypatch.setattr(row_products, "_CALL", 0.0)
    monkeypatch.setattr(row_products, "_SLAB", slab)
    # A machine without a fast BLAS takes MLX's own; what is tested here works on any.
    monkeypatch.setattr("mlx_entk.tracing.fast_convolutions.is_fast", lambda: True)


@pytest.mark.parametrize("seed", range(16))
def test_values_and_derivatives_are_those_of_the_definition(seed: int) -> None:
    form, x, weight = drawn(seed)

    def operation(x: mx.array, weight: mx.array) -> mx.array:
        return convolve([x, weight], form.arguments)

    expected = reference(x, weight, form)
    cotangent = mx.random.normal(expected.shape)
    along = [mx.random.normal(array.shape) for array in (x, weight)]

    close(operation(x, weight), expected)
    changes = reference(along[0], weight, form), reference(x, along[1], form)
    close(mx.jvp(operation, [x, weight], along)[1][0], changes[0] + changes[1])
    # A gradient times a direction is the cotangent times the change along it.
    pulled = mx.vjp(operation, [x, weight], [cotangent])[1]
    for gradient, direction, change in zip(pulled, along, changes, strict=True):
        product = (np.array(gradient, np.float64) * np.array(direction)).sum()
        close(product, (np.array(cotangent) * change).sum())
    # The reverse rule of the reverse rule is the convolution itself.
    (twice,) = mx.vjp(
        lambda ct: mx.vjp(lambda w: operation(x, w), [weight], [ct])[1], [cotangent], [along[1]]
    )[1]
    close(twice, changes[1])


@pytest.mark.parametrize("seed", range(16))
def test_mapped_over_inputs_weights_and_cotangents(seed: int) -> None:
    form, x, weight = drawn(seed)

    def operation(x: mx.array, weight: mx.array) -> mx.array:
        return convolve([x, weight], form.arguments)

    many = mx.random.normal((2, *x.shape)), mx.random.normal((2, *weight.shape))
    for mapped in ((True, False), (False, True), (True, True)):
        given = [
            of if one else alone for of, alone, one in zip(many, (x, weight), mapped, strict=True)
        ]
        axes = tuple(-1 if one else None for one in mapped)
        moved = [mx.moveaxis(a, 0, -1) if one else a for a, one in zip(given, mapped, strict=True)]
        found = mx.vmap(inside_vmap(operation), in_axes=axes)(*moved)
        pairs = [[a[k] if one else a for a, one in zip(given, mapped, strict=True)] for k in (0, 1)]
        expected = np.stack([reference(a, b, form) for a, b in pairs])
        close(found, expected)

    cotangents = mx.random.normal((2, *operation(x, weight).shape))

    def pull(row: mx.array) -> Any:
        return mx.vmap(inside_vmap(lambda ct: mx.vjp(operation, [row, weight], [ct])[1]))(
            cotangents
        )

    mapped_rows = mx.vmap(inside_vmap(pull))(many[0])
    for n, r in itertools.product(range(2), range(2)):
        alone = mx.vjp(operation, [many[0][n], weight], [cotangents[r]])[1]
        for rows, right in zip(mapped_rows, alone, strict=True):
            close(rows[n, r], right)


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16])
def test_half_precision_is_kept_and_computed_in_float32(dtype: mx.Dtype) -> None:
    form, x, weight = drawn(3)
    x, weight = x.astype(dtype), weight.astype(dtype)

    found = convolve([x, weight], form.arguments)

    wide = [np.array(a.astype(mx.float32)) for a in (x, weight)]
    expected = reference(wide[0], wide[1], form)
    assert found.dtype == dtype
    assert relative_error(np.array(found.astype(mx.float32)), expected) < 2**-7


@pytest.mark.parametrize("seed", range(10))
def test_the_patches_of_a_factor_are_those_a_weight_meets(seed: int) -> None:
    form, x, weight = drawn(seed)
    taken = row_products.patch_matrices(x, weight.shape[1:-1], form)
    kernels = weight.reshape(form.groups, 1, len(weight) // form.groups, -1)
    products = (taken @ kernels.swapaxes(2, 3)).transpose(1, 2, 0, 3)
    expected = reference(x, weight, form)
    close(products.reshape(expected.shape), expected)


def test_a_gpu_keeps_its_own_convolution(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setattr("mlx_entk.tracing.fast_convolutions.on_gpu", lambda: True)
    assert not is_fast()
