"""Keep float32 products in float32.

On GPUs with matrix units, CUDA's and those of the M5 generation of Apple's, MLX by default rounds
the factors of float32 products to about 11 bits (TF32). An eNTK is then off by some 10⁻⁴ of its
largest entry, and eigenvalues below that are rounding. ``MLX_ENABLE_TF32=0`` turns that off; MLX
reads it at its first product, so it is set as soon as this package is imported. A value that the
user has set stays.
"""

import os
from collections.abc import Callable
from functools import cache

VARIABLE = "MLX_ENABLE_TF32"

os.environ.setdefault(VARIABLE, "0")

import mlx.core as mx  # noqa: E402

from mlx_entk.errors import InputError  # noqa: E402

# Large enough for the kernels of large products, and a number that 11 bits cannot hold.
_SIZE, _FINE = 256, 1 + 2.0**-14


def is_full(multiply: Callable[[mx.array, mx.array], mx.array] = mx.matmul) -> bool:
    """Whether products of float32 matrices keep the bits of their factors."""
    factor = mx.full((_SIZE, _SIZE), _FINE)
    expected = _SIZE * _FINE**2
    return bool(mx.all(mx.abs(multiply(factor, factor) - expected) < 1e-5 * expected))


def require_full() -> None:
    """Raise InputError if MLX's default device rounds the factors of float32 products."""
    if not _default_is_full(mx.default_device().type):
        raise InputError(
            f"MLX rounds float32 products to 11 bits on this device: set {VARIABLE}=0 before "
            "Python starts, or import mlx_entk before anything else computes with mlx"
        )


@cache
def _default_is_full(device: mx.DeviceType) -> bool:
    return is_full()
