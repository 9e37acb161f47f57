"""ONNX nodes under construction: what the builders of primitives write with."""

from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import numpy as np
import onnx
from onnx import helper, numpy_helper

from mlx_entk.onnx.symbolic import Size

# Who wrote a file, as it says itself.
PRODUCER = "mlx-entk"
# How the names of values begin that are no parameter, input or output.
CONSTANT = "value_"

# Unsigned integers are indices in MLX; ONNX runtimes index with int64 and compute little else.
TYPES: dict[mx.Dtype, int] = {
    mx.float32: onnx.TensorProto.FLOAT,
    mx.float16: onnx.TensorProto.FLOAT16,
    mx.bfloat16: onnx.TensorProto.BFLOAT16,
    mx.float64: onnx.TensorProto.DOUBLE,
    mx.bool_: onnx.TensorProto.BOOL,
    mx.int8: onnx.TensorProto.INT8,
    mx.int16: onnx.TensorProto.INT16,
    mx.int32: onnx.TensorProto.INT32,
    mx.int64: onnx.TensorProto.INT64,
    mx.uint8: onnx.TensorProto.INT64,
    mx.uint16: onnx.TensorProto.INT64,
    mx.uint32: onnx.TensorProto.INT64,
    mx.uint64: onnx.TensorProto.INT64,
}


def as_onnx_array(array: mx.array) -> np.ndarray[Any, Any]:
    """On the host, in the type that it has in ONNX."""
    if array.dtype == mx.bfloat16:
        return np.array(array.astype(mx.float32)).astype(
            helper.tensor_dtype_to_np_dtype(onnx.TensorProto.BFLOAT16)
        )
    return np.array(array).astype(helper.tensor_dtype_to_np_dtype(TYPES[array.dtype]))


class Emitter:
    """Nodes and initializers of a graph, with names made up as they come.

    Parameters
    ----------
    batch
        The ONNX value whose first axis has the size of each free input, by its number.
    """

    def __init__(self, batch: dict[int, str]):
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self._batch = batch
        self._sizes: dict[Any, str] = {}
        self._constants: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self._count = 0

    def fresh(self) -> str:
        """A name that no value has."""
        self._count += 1
        return f"{CONSTANT}{self._count}"

    def op(
        self, kind: str, inputs: Sequence[str], output: str | None = None, **attributes: Any
    ) -> str:
        """Add a node of one output; returns its name."""
        name = output or self.fresh()
        self.nodes.append(helper.make_node(kind, list(inputs), [name], **attributes))
        return name

    def constant(self, value: Any, dtype: Any = np.int64) -> str:
        """An initializer; equal ones are shared."""
        array = np.asarray(value, dtype=dtype)
        key = (str(array.dtype), array.shape, array.tobytes())
        if key not in self._constants:
            self._constants[key] = self.fresh()
            self.initializer(self._constants[key], array)
        return self._constants[key]

    def initializer(self, name: str, array: np.ndarray[Any, Any]) -> None:
        """A named initializer."""
        self.initializers.append(numpy_helper.from_array(np.ascontiguousarray(array), name))

    def number(self, value: float, dtype: mx.Dtype) -> str:
        """A scalar of an MLX type."""
        return self.constant(value, helper.tensor_dtype_to_np_dtype(TYPES[dtype]))

    def size(self, size: Any) -> str:
        """An int64 tensor of shape (1,) that holds a size."""
        if not isinstance(size, Size):
            return self.constant([size])
        if size not in self._sizes:
            terms = []
            for factors, coefficient in size.coefficients:
                term = self.constant([coefficient])
                for factor in factors:
                    term = self.op("Mul", [term, self._batch_size(factor)])
                terms.append(term)
            total = terms[0]
            for term in terms[1:]:
                total = self.op("Add", [total, term])
            self._sizes[size] = total
        return self._sizes[size]

    def _batch_size(self, number: int) -> str:
        if number not in self._sizes:
            self._sizes[number] = self.op("Shape", [self._batch[number]], start=0, end=1)
        return self._sizes[number]

    def sizes(self, sizes: Sequence[Any]) -> str:
        """An int64 tensor of several sizes."""
        if not any(isinstance(size, Size) for size in sizes):
            return self.constant(list(sizes))
        return self.op("Concat", [self.size(size) for size in sizes], axis=0)

    def reshape(self, value: str, shape: Sequence[Any], output: str | None = None) -> str:
        """Reshape; one free size is left for ONNX to find."""
        free = [i for i, size in enumerate(shape) if isinstance(size, Size)]
        if len(free) == 1 and 0 not in shape:
            target = self.constant([-1 if i in free else size for i, size in enumerate(shape)])
        else:
            target = self.sizes(shape)
        return self.op("Reshape", [value, target], output)
