"""Which primitives compute in wider types, because onnxruntime or ONNX lacks their own."""

from dataclasses import replace

import mlx.core as mx

from mlx_entk.onnx.builders.primitive import UNSIGNED, Builder, Built, Primitive, is_float
from mlx_entk.onnx.emitter import Emitter

# onnxruntime does not have every operator for every type of MLX. These maps, from a type that is
# missing to a wider one to compute in, are what the groups of primitives below need.
_LOGICAL_OR_SMALL = {mx.bool_: mx.int32, mx.int8: mx.int32, mx.int16: mx.int32}
_BRAIN = {mx.bfloat16: mx.float32}
_HALF = {mx.float16: mx.float32, **_BRAIN}
_WIDER: dict[str, dict[mx.Dtype, mx.Dtype]] = {
    **dict.fromkeys(
        (
            "Abs", "Add", "Divide", "FloorDivide", "DivMod", "Greater", "GreaterEqual", "Less",
            "LessEqual", "Maximum", "Minimum", "Multiply", "Negative", "Pad", "Power", "Reduce",
            "Remainder", "Scan", "Select", "Sign", "Square", "Subtract",
        ),
        _LOGICAL_OR_SMALL,
    ),
    **dict.fromkeys(
        ("ArgPartition", "ArgReduce", "ArgSort", "Partition", "Sort"), _LOGICAL_OR_SMALL | _BRAIN
    ),
    **dict.fromkeys(("Scatter", "ScatterAxis", "SliceUpdate"), _LOGICAL_OR_SMALL | _HALF),
    **dict.fromkeys(
        (
            "ArcCos", "ArcCosh", "ArcSin", "ArcSinh", "ArcTan", "ArcTan2", "ArcTanh",
            "Convolution", "Cos", "Cosh", "Round", "Sin", "Sinh", "Tan",
        ),
        _BRAIN,
    ),
}  # fmt: skip
# Primitives whose results may leave the range of an unsigned type, and wrap around in MLX.
_WRAPPING = frozenset({
    "Add", "AsType", "BitwiseBinary", "Multiply", "Negative", "Power", "Reduce", "Scan", "Scatter",
    "ScatterAxis", "SliceUpdate", "Square", "Subtract",
})  # fmt: skip


def widened(name: str, build: Builder) -> Builder:
    """Wrap a builder so that it computes in the wider types that its primitive needs.

    Small unsigned integers, which are int64 in the graph, wrap around as in MLX.

    Parameters
    ----------
    name
        The primitive, a key of ``BUILDERS <mlx_entk.onnx.builders.BUILDERS>``.
    build
        Its builder.
    """
    wider = _WIDER.get(name, {})

    def build_wider(e: Emitter, p: Primitive) -> Built:
        kept = 1 if name == "Select" else 0  # the condition keeps its type
        dtypes = [
            dtype if i < kept else wider.get(dtype, dtype) for i, dtype in enumerate(p.dtypes)
        ]
        if dtypes == p.dtypes:
            built = build(e, p)
            return _wrapped(e, p, built) if _may_wrap(p) and isinstance(built, str) else built
        inputs = [
            value if dtype == wide else e.cast(value, wide)
            for value, dtype, wide in zip(p.inputs, p.dtypes, dtypes, strict=True)
        ]
        built = build(e, replace(p, inputs=inputs, dtypes=dtypes))
        outputs = [
            e.cast(value, dtype) if dtype in wider else value
            for value, dtype in zip(
                [built] if isinstance(built, str) else built, p.output_dtypes, strict=True
            )
        ]
        return outputs[0] if isinstance(built, str) else outputs

    return build_wider


def _may_wrap(p: Primitive) -> bool:
    """Return whether a primitive's results may lie outside of a small unsigned type."""
    bits = UNSIGNED.get(p.output_dtypes[0], 64)
    if p.name not in _WRAPPING or bits == 64:
        return False
    source = p.dtypes[0]
    if p.name != "AsType":
        return True
    if source == mx.bool_ or is_float(source):  # of floats out of range, MLX defines nothing
        return False
    return UNSIGNED.get(source, 64) > bits


def _wrapped(e: Emitter, p: Primitive, value: str) -> str:
    """Keep the bits that an unsigned type has."""
    return e.op("BitwiseAnd", [value, e.constant(2 ** UNSIGNED[p.output_dtypes[0]] - 1)])
