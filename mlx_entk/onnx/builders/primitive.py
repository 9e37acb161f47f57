"""What a builder takes and returns, and helpers that several builders share."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from mlx_entk.errors import InputError
from mlx_entk.onnx.emitter import TYPES, Emitter
from mlx_entk.onnx.symbolic import FixedBatchError


@dataclass(frozen=True)
class Primitive:
    """One primitive of a traced graph.

    Attributes
    ----------
    name
        The name that MLX reports.
    inputs
        ONNX names of the inputs.
    arguments
        The primitive's arguments; those that depend on the batch are a
        ``mlx_entk.onnx.symbolic.Size``.
    shapes, dtypes
        Shapes and types of the inputs.
    output_shapes, output_dtypes
        Shapes and types of the outputs.
    """

    name: str
    inputs: list[str]
    arguments: tuple[Any, ...]
    shapes: list[tuple[Any, ...]]
    dtypes: list[mx.Dtype]
    output_shapes: list[tuple[Any, ...]]
    output_dtypes: list[mx.Dtype]

    @property
    def rank(self) -> int:
        """Number of axes of the first input."""
        return len(self.shapes[0])

    def refuse_free_batch(self, reason: str) -> FixedBatchError:
        """Return the error for a form that only works for a fixed batch size."""
        return FixedBatchError(f"MLX primitive {self.name} {reason}")

    def refuse(self, condition: str) -> InputError:
        """Return the error for a form of the primitive that the builder does not cover."""
        return InputError(
            f"MLX primitive {self.name} cannot be exported {condition}: extend its builder in "
            "mlx_entk/onnx/builders"
        )


# Bits of the unsigned types, which are int64 in the graph. What wraps around at fewer than 64 bits
# can be made to wrap there.
UNSIGNED = {mx.uint8: 8, mx.uint16: 16, mx.uint32: 32, mx.uint64: 64}

Built = str | list[str]
Builder = Callable[[Emitter, Primitive], Built]


def is_float(dtype: mx.Dtype) -> bool:
    """Return whether a type is floating."""
    return bool(mx.issubdtype(dtype, mx.floating))


def is_infinite(e: Emitter, value: str, dtype: mx.Dtype) -> str:
    """Write a test for infinities; returns the name of its truth values."""
    wide = dtype in (mx.float32, mx.float64)  # IsInf takes no narrower types
    return e.op("IsInf", [value if wide else e.cast(value, mx.float32)])


def as_int64(e: Emitter, name: str, dtype: mx.Dtype) -> str:
    """Cast whole numbers to int64, unless they are stored as that already."""
    return name if TYPES[dtype] == TYPES[mx.int64] else e.cast(name, mx.int64)
