"""The emitter, with which the builders of primitives write ONNX nodes."""

import re
from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from mlx_entk.errors import InputError
from mlx_entk.onnx.symbolic import FixedBatchError, Size, is_free

# The producer that exported files name.
PRODUCER = "mlx-entk"
# The metadata of an exported module that list the weights that are not trainable.
FROZEN = "frozen"
# Names of values that are not parameters, inputs or outputs.
_VALUE = "value_{}"
_IS_VALUE = re.compile(r"value_\d+", re.ASCII)


def is_value(name: str) -> bool:
    """Whether an exported graph has this name for a value that is no parameter."""
    return _IS_VALUE.fullmatch(name) is not None


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


def onnx_type(dtype: mx.Dtype) -> int:
    """Return ONNX's number for an MLX type.

    Raises
    ------
    InputError
        If the type has no counterpart.
    """
    if dtype not in TYPES:
        raise InputError(
            f"type {str(dtype).rpartition('.')[2]} has no counterpart in ONNX runtimes"
        )
    return TYPES[dtype]


def as_onnx_array(array: mx.array) -> NDArray[Any]:
    """Return a NumPy array of the ONNX type; it shares memory if the types are the same.

    Raises
    ------
    InputError
        If the type, or a number that is no int64, has no counterpart.
    """
    dtype = helper.tensor_dtype_to_np_dtype(onnx_type(array.dtype))
    if array.dtype == mx.bfloat16:
        array = array.astype(mx.float32)
    host = np.asarray(array)
    if host.dtype == np.uint64 and host.max(initial=0) >= 2**63:
        raise InputError("a uint64 of 2**63 or more has no counterpart in ONNX runtimes")
    return host.astype(dtype, copy=False)


class Emitter:
    """Collects the nodes and initializers of a graph, and names them.

    Parameters
    ----------
    batch
        For each free batch, by the number of its input: the ONNX value whose first axis it is.

    Attributes
    ----------
    nodes
        Nodes in the order in which they run.
    initializers
        Initializers by name.
    """

    def __init__(self, batch: dict[int, str]):
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: dict[str, NDArray[Any]] = {}
        self._batch = batch
        self._sizes: dict[Any, str] = {}
        self._constants: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self._count = 0

    def fresh(self) -> str:
        """Return an unused name."""
        self._count += 1
        return _VALUE.format(self._count)

    def op(
        self, kind: str, inputs: Sequence[str], output: str | None = None, **attributes: Any
    ) -> str:
        """Add a node with one output; returns the output's name."""
        (name,) = self.outputs(kind, inputs, [output or self.fresh()], **attributes)
        return name

    def outputs(
        self, kind: str, inputs: Sequence[str], outputs: list[str], **attributes: Any
    ) -> list[str]:
        """Add a node with several outputs; returns their names.

        Raises
        ------
        FixedBatchError
            If an attribute depends on the batch, since attributes are fixed numbers.
        """
        if any(is_free(value) for value in attributes.values()):
            raise FixedBatchError(f"the batch size changes an attribute of ONNX operator {kind}")
        self.nodes.append(helper.make_node(kind, list(inputs), outputs, **attributes))
        return outputs

    def constant(self, value: Any, dtype: Any = np.int64) -> str:
        """Add an initializer, or reuse an equal one; returns its name.

        Raises
        ------
        FixedBatchError
            If a number depends on the batch; ``sizes`` computes those.
        """
        if is_free(value):
            raise FixedBatchError("the batch size changes a constant of the graph")
        array = np.asarray(value, dtype=dtype)
        key = (str(array.dtype), array.shape, array.tobytes())
        if key not in self._constants:
            self._constants[key] = self.fresh()
            self.initializers[self._constants[key]] = array
        return self._constants[key]

    def cast(self, value: str, dtype: mx.Dtype) -> str:
        """Cast a value to an MLX type."""
        return self.op("Cast", [value], to=onnx_type(dtype))

    def number(self, value: Any, dtype: mx.Dtype) -> str:
        """Add a constant of an MLX type, usually a scalar."""
        return self.constant(value, helper.tensor_dtype_to_np_dtype(onnx_type(dtype)))

    def size(self, size: Any) -> str:
        """Write a size as an int64 tensor of shape (1,)."""
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
        """Write several sizes as one int64 tensor."""
        if not any(isinstance(size, Size) for size in sizes):
            return self.constant(list(sizes))
        return self.op("Concat", [self.size(size) for size in sizes], axis=0)

    def range(self, start: Any, step: int, count: Any) -> str:
        """Write ``count`` numbers from ``start``, ``step`` apart, as an int64 tensor."""
        if not isinstance(start, Size) and not isinstance(count, Size):
            return self.constant(start + step * np.arange(count))
        if isinstance(count, Size):
            length = self.op("Squeeze", [self.size(count), self.constant([0])])
            steps = self.op("Range", [self.constant(0), length, self.constant(1)])
        else:
            steps = self.constant(np.arange(count))
        scaled = self.op("Mul", [steps, self.constant(step)])
        return self.op("Add", [scaled, self.size(start)])

    def reshape(self, value: str, shape: Sequence[Any], output: str | None = None) -> str:
        """Reshape a value; a single free size is left to ONNX to compute."""
        free = [i for i, size in enumerate(shape) if isinstance(size, Size)]
        if 0 in shape:  # without the attribute, 0 would keep the present size
            return self.op("Reshape", [value, self.sizes(shape)], output, allowzero=1)
        if len(free) == 1:
            target = self.constant([-1 if i in free else size for i, size in enumerate(shape)])
        else:
            target = self.sizes(shape)
        return self.op("Reshape", [value, target], output)
