"""Products of matrices, and convolutions."""

from mlx_entk.onnx.builders.primitive import Builder, Primitive, as_int64
from mlx_entk.onnx.emitter import Emitter
from mlx_entk.onnx.symbolic import combined, product_of


def _add_mm(e: Emitter, p: Primitive) -> str:
    alpha, beta = p.arguments
    product = e.op("MatMul", p.inputs[:2])
    dtype = p.dtypes[0]
    scaled = e.op("Mul", [product, e.number(alpha, dtype)]) if alpha != 1 else product
    addend = e.op("Mul", [p.inputs[2], e.number(beta, dtype)]) if beta != 1 else p.inputs[2]
    return e.op("Add", [scaled, addend])


def _gather_mm(e: Emitter, p: Primitive) -> str:
    # The arguments say whether the indices are sorted, which only matters for speed.
    products = []
    for number, name in enumerate(p.inputs[:2]):
        *batch, rows, columns = p.shapes[number]
        matrices = e.reshape(name, [product_of(batch), rows, columns])
        index = as_int64(e, p.inputs[2 + number], p.dtypes[2 + number])
        # Not Gather: onnxruntime turns one with consecutive indices into a wrong Slice.
        index = e.op("Unsqueeze", [index, e.constant([-1])])
        products.append(e.op("GatherND", [matrices, index]))
    return e.op("MatMul", products)


def _convolution(e: Emitter, p: Primitive) -> str:
    stride, low, high, kernel_dilation, input_dilation, groups, flip = p.arguments
    x, weight = p.inputs
    n = p.rank - 2
    to_front = [0, n + 1, *range(1, n + 1)]
    x = e.op("Transpose", [x], perm=to_front)
    weight = e.op("Transpose", [weight], perm=to_front)
    if flip:
        axes = list(range(2, n + 2))
        back = [-1] * n
        far = [-(2**31)] * n
        weight = e.op("Slice", [weight, *(e.constant(v) for v in (back, far, axes, back))])
    spatial = [p.shapes[0][1 + i] for i in range(n)]
    for i, gap in enumerate(input_dilation):
        if gap > 1:  # insert zeros between entries: add an axis, pad it, fold it in, cut the end
            at = 3 + i
            x = e.op("Unsqueeze", [x, e.constant([at])])
            widths = e.constant([0, gap - 1])
            zero = e.number(0, p.dtypes[0])
            x = e.op("Pad", [x, widths, zero, e.constant([at])], mode="constant")
            batch, channels = p.shapes[0][0], p.shapes[0][-1]
            sizes = [*spatial[:i], spatial[i] * gap, *spatial[i + 1 :]]
            x = e.reshape(x, [batch, channels, *sizes])
            spatial[i] = (spatial[i] - 1) * gap + 1
            cut = [e.constant([v]) for v in (0, spatial[i], 2 + i)]
            x = e.op("Slice", [x, *cut])
    for i, (before, after) in enumerate(zip(low, high, strict=True)):
        if before < 0 or after < 0:  # negative padding cuts, which Conv cannot do
            end = combined((1, spatial[i]), (1, min(after, 0)))
            cut = [e.constant([max(-before, 0)]), e.size(end), e.constant([2 + i])]
            x = e.op("Slice", [x, *cut])
    low, high = ([max(width, 0) for width in widths] for widths in (low, high))
    convolved = e.op(
        "Conv", [x, weight], strides=list(stride), pads=[*low, *high],
        dilations=list(kernel_dilation), group=groups,
    )  # fmt: skip
    return e.op("Transpose", [convolved], perm=[0, *range(2, n + 2), 1])


LINEAR: dict[str, Builder] = {
    "AddMM": _add_mm,
    "Convolution": _convolution,
    "GatherMM": _gather_mm,
    "Matmul": lambda e, p: e.op("MatMul", p.inputs),
}
