"""Any number of inputs for graphs that take a fixed number of them, or one at a time."""

from collections.abc import Callable, Sequence

import mlx.core as mx
import numpy as np
import onnx

from mlx_entk._parameters import Params
from mlx_entk.errors import InputError
from mlx_entk.onnx.graph import bodies_of, every_node, uses
from mlx_entk.onnx.operators.values import mlx_dtype

# One run of a graph: parameters and inputs to the chosen output.
Run = Callable[[Params, Sequence[mx.array]], mx.array]

# Stands for a batch in which inputs declare different sizes.
MIXED = 0

# How far outputs of a larger batch may be from those of the declared one, over the largest.
_TOLERANCE, _IN_HALF = 1e-4, 0.03
# The largest value of a pixel.
_PIXEL = 255
# Size of an axis that may have any, for a trial.
_SIZE = 8


def declared_shape(value: onnx.ValueInfoProto) -> list[int] | None:
    """The sizes of the axes of an input, 0 where any size may be; None if none are declared."""
    if not value.type.tensor_type.HasField("shape"):
        return None
    return [max(0, axis.dim_value) for axis in value.type.tensor_type.shape.dim]


def fixed_batch(inputs: Sequence[onnx.ValueInfoProto]) -> int | None:
    """The size that a graph declares for the first axis of all its inputs.

    Returns
    -------
    int | None
        None if that may be any; ``MIXED`` if inputs differ in it, so that their batch axes are not
        known.
    """
    sizes = {shape[0] for shape in map(declared_shape, inputs) if shape}
    if len(sizes) > 1:
        return MIXED
    return max(sizes, default=0) or None


# Operators that quantise all that they get by one scale.
_TOGETHER = frozenset({"DynamicQuantizeLinear", "DynamicQuantizeLSTM"})


def decides_together(nodes: Sequence[onnx.NodeProto], inputs: Sequence[str]) -> bool:
    """Whether nodes decide something by all that the inputs hold: a scale, or a branch."""
    of_data = set(inputs)
    for node in every_node(nodes):
        if node.op_type in _TOGETHER or (node.op_type == "If" and node.input[0] in of_data):
            return True
        if node.op_type not in ("Shape", "Size") and of_data.intersection(uses(node)):
            of_data.update(node.output)
            skipped = 2 if node.op_type == "Loop" else 0  # the round, and whether it goes on
            for body in bodies_of(node):
                of_data.update(value.name for value in body.input[skipped:])
    return False


def batched(
    run: Run,
    declared: Sequence[onnx.ValueInfoProto],
    batch: int | None,
    params: Params,
    inputs: Sequence[mx.array],
) -> mx.array:
    """The output of N inputs, batch first.

    Parameters
    ----------
    run
        The graph.
    declared
        Its inputs. One that is given with an axis more holds, for each of the N, what the graph
        takes; the graph then runs once for each.
    batch
        How many inputs the graph takes, as ``fixed_batch`` says.

    Raises
    ------
    InputError
        If inputs differ in number, the output has no batch axis, or the batch axes of the inputs
        are not known.
    """
    shapes = [declared_shape(value) for value in declared]
    whole = [
        shape is not None and given.ndim == len(shape) + 1
        for given, shape in zip(inputs, shapes, strict=True)
    ]
    if batch == MIXED and not any(whole):
        raise InputError(
            f"the inputs {', '.join(value.name for value in declared)} declare different first "
            "axes: give each of them with an axis more, and the graph runs once for each, or give "
            "those that are the same for all as constants"
        )
    counts = {given.shape[0] if given.ndim else 0 for given in inputs}
    if len(counts) != 1 or 0 in counts:
        shapes_given = ", ".join(str(given.shape) for given in inputs)
        raise InputError(f"the inputs have shapes {shapes_given or 'none'}: pass one row for each")
    if not any(whole) and batch is None:
        output = run(params, inputs)
        if output.ndim == 0 or output.shape[0] != inputs[0].shape[0]:
            raise InputError(
                f"the output has shape {output.shape} for {inputs[0].shape[0]} inputs, so its "
                "first axis is not that of the inputs: give each input with an axis more, and the "
                "graph runs once for each"
            )
        return output
    for value, given, shape, alone in zip(declared, inputs, shapes, whole, strict=True):
        first = shape[0] if shape else 0
        if any(whole) and not alone and first > 1:
            raise InputError(
                f"the graph takes {first} rows of {value.name} at a time: give it an axis more, as "
                "the others have"
            )
        if alone and first and given.shape[1] != first:
            raise InputError(f"the model takes {value.name} of {first} rows, got {given.shape[1]}")
    size = 1 if any(whole) else batch or 1
    N = inputs[0].shape[0]
    outputs = []
    for start in range(0, N, size):
        part = [
            given[start] if alone else _filled(given[start : start + size], size)
            for given, alone in zip(inputs, whole, strict=True)
        ]
        output = run(params, part)
        if size > 1 and (output.ndim == 0 or output.shape[0] != size):
            raise InputError(f"the output has shape {output.shape} for {size} inputs")
        outputs.append(output.reshape(size, -1))
    return mx.concatenate(outputs)[:N]


def _filled(given: mx.array, size: int) -> mx.array:
    """A part of the inputs with as many of them as the graph takes, the last one repeated."""
    lacking = size - given.shape[0]
    return mx.concatenate([given, *[given[-1:]] * lacking]) if lacking else given


def is_free(run: Run, declared: Sequence[onnx.ValueInfoProto], batch: int) -> bool:
    """Whether a graph gives the same for larger batches than it declares.

    Batches of random inputs tell, small ones and some as large as pixels. Graphs whose code wrote
    the size of the batch into a reshape fail, or give something else.
    """
    told = False
    for largest in (1, _PIXEL):
        for count in (batch + 1, 2 * batch + 1):
            inputs = [_drawn(value, count, largest, k) for k, value in enumerate(declared)]
            try:
                apart = batched(run, declared, batch, {}, inputs)
            except Exception:  # random inputs may be none that the graph takes
                continue
            size = float(np.array(mx.abs(apart).max()))
            try:
                together = run({}, inputs)
                limit = _TOLERANCE if together.dtype == mx.float32 else _IN_HALF
                if together.shape[:1] != (count,) or together.dtype != apart.dtype:
                    return False
                apart_from = mx.abs(together.reshape(count, -1) - apart).max()
                if not float(np.array(apart_from)) <= limit * size:
                    return False
            except Exception:  # a graph that takes no other batch makes MLX raise almost anything
                return False
            told = told or size > 0
    return told


def _drawn(value: onnx.ValueInfoProto, count: int, largest: int, seed: int) -> mx.array:
    """Random numbers up to about the largest; whole ones fit a table of one more entry."""
    shape = [count, *((size or _SIZE) for size in (declared_shape(value) or [0])[1:])]
    dtype = mlx_dtype(value.type.tensor_type.elem_type)
    key = mx.random.key(seed)
    if mx.issubdtype(dtype, mx.floating):
        drawn = (
            mx.random.normal(shape, key=key)
            if largest == 1
            else mx.random.uniform(0, largest, shape, key=key)
        )
        return drawn.astype(dtype)
    return mx.random.randint(0, largest + 1, shape, key=key).astype(dtype)
