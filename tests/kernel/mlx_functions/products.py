"""Products, quantized ones and convolutions."""

from functools import partial
from typing import Any

import mlx.core as mx

from tests.kernel.cases import Shape
from tests.kernel.mlx_functions.registry import Function, case, each, first_each, numbers


def add_products() -> None:
    case("matmul", mx.matmul, (2, 3), (3, 2))
    case("matmul:shared right", mx.matmul, (2, 3), (3, 2), shared=[1])
    case("matmul:shared left", lambda b, a: mx.matmul(a, b), (3, 2), (2, 3), shared=[1])
    case("matmul:vector", mx.matmul, (3,), (3, 2), shared=[1])
    case("matmul:broadcast", lambda a, b: a[:, None] @ b, (2, 3), (4, 3, 2))
    case("addmm", mx.addmm, (2, 2), (2, 3), (3, 2))
    scaled = partial(mx.addmm, alpha=0.5, beta=-2.0)
    case("addmm:scaled", scaled, (2, 2), (2, 3), (3, 2))
    case("addmm:shared", scaled, (2, 2), (2, 3), (3, 2), shared=[0, 2])
    case("addmm:bias", scaled, (2,), (2, 3), (3, 2), shared=[0, 2])
    case("addmm:row", scaled, (2,), (3,), (3, 2), shared=[0, 2])
    case("inner", each(mx.inner), (2, 3), (4, 3))
    case("inner:shared", mx.inner, (2, 3), (4, 3), shared=[1])
    case("outer", each(mx.outer), (3,), (2,))
    case("outer:with itself", each(lambda a: mx.outer(a, a)), (3,))
    case("kron", each(mx.kron), (2, 2), (2, 1))
    contract = partial(mx.tensordot, axes=[[1, 2], [1, 0]])
    case("tensordot", contract, (3, 2), (2, 3, 2), shared=[1])
    case("vecdot", mx.vecdot, (2, 3), (2, 3))
    case("vecdot:shared", mx.vecdot, (2, 3), (1, 2, 3), shared=[1])
    case("einsum", partial(mx.einsum, "nij,njk->nik"), (2, 3), (3, 2))
    case("einsum:shared", partial(mx.einsum, "nij,jk->nik"), (2, 3), (3, 2), shared=[1])
    case("einsum:trace", partial(mx.einsum, "nii,nij->nj"), (3, 3), (3, 2))
    case("einsum:three", partial(mx.einsum, "ni,ij,nj->n"), (2,), (2, 3), (3,), shared=[1])
    case("linalg.cross", mx.linalg.cross, (3,), (3,))
    for mode in ("full", "same", "valid"):
        case(f"convolve:{mode}", each(partial(mx.convolve, mode=mode)), (5,), (3,))
    case("hadamard_transform", mx.hadamard_transform, (4,))
    case("hadamard_transform:scaled", partial(mx.hadamard_transform, scale=0.3), (12,))

    def experts(a: mx.array, b: mx.array) -> mx.array:
        """Experts chosen by the row itself, as in a mixture of experts."""
        chosen = mx.argmax(mx.stop_gradient(a[:, 0]), axis=-1, keepdims=True)
        return mx.gather_mm(a[:, None], b, rhs_indices=chosen)

    case("gather_mm", experts, (2, 3), (3, 3, 2), shared=[1])
    gather = partial(mx.gather_mm, lhs_indices=mx.array([1, 0, 1]), rhs_indices=mx.array([0, 1, 1]))
    case("gather_mm:both sides", first_each(gather), (2, 1, 3), (3, 3, 2), shared=[1])
    case("gather_mm:of the row", each(gather), (2, 1, 3), (2, 3, 2))
    mask = mx.array([[True, False], [True, True]])

    def blocks(a: mx.array, b: mx.array) -> mx.array:
        return mx.block_masked_mm(a, b, 32, mask, mask, mask)[:, ::21, ::21]

    case("block_masked_mm", blocks, (33, 33), (33, 33), shared=[1])
    segments = mx.array([[0, 1], [1, 4]], dtype=mx.uint32)
    segmented = partial(mx.segmented_mm, segments=segments)
    case("segmented_mm", first_each(segmented), (2, 4), (4, 3), shared=[1])


def add_quantized() -> None:
    wide = mx.array(numbers("quantized", (3, 4, 64), -0.3, 0.3))
    how: dict[str, Any] = {"group_size": 64, "bits": 8}
    packed, scales, biases = mx.quantize(wide, **how)

    def widen(a: mx.array) -> mx.array:
        """Rows as long as a group."""
        return mx.concatenate([a, a[..., ::-1]] * 8, axis=-1)

    def chosen(a: mx.array) -> mx.array:
        return mx.argmax(mx.stop_gradient(a[:, :3]), axis=-1)

    def multiply(a: mx.array, s: mx.array, b: mx.array) -> mx.array:
        return mx.quantized_matmul(widen(a), packed[0], s, b, **how)

    def gather(a: mx.array, s: mx.array, b: mx.array) -> mx.array:
        return mx.gather_qmm(widen(a)[:, None], packed, s, b, rhs_indices=chosen(a), **how)

    def dequantize(a: mx.array, s: mx.array, b: mx.array) -> mx.array:
        return a * mx.dequantize(packed[0], 0.01 * s, b, **how)[:, 0]

    def there_and_back(a: mx.array) -> mx.array:
        return mx.dequantize(*mx.quantize(widen(a), **how), **how)[..., :4]

    def transposed(a: mx.array) -> mx.array:
        return mx.quantized_matmul(a, packed[0], scales[0], biases[0], transpose=False, **how)

    def narrow(function: Function, scales: mx.array, biases: mx.array) -> Function:
        return lambda a: function(a, scales, biases)

    case("quantized_matmul", narrow(multiply, scales[0], biases[0]), (4,))
    case("quantized_matmul:not transposed", lambda a: transposed(a)[..., ::16], (4,))
    case(
        "quantized_matmul:scales",
        lambda a, s, b: multiply(a, 1e-3 * s, 0.1 * b),
        (4,),
        (4, 1),
        (4, 1),
        shared=[1, 2],
    )
    case("gather_qmm", narrow(gather, scales, biases), (4,))
    case(
        "gather_qmm:scales",
        lambda a, s, b: gather(a, 1e-3 * s, 0.1 * b),
        (4,),
        (3, 4, 1),
        (3, 4, 1),
        shared=[1, 2],
    )
    case("dequantize", dequantize, (4,), (4, 1), (4, 1), shared=[1, 2])
    case("quantize", there_and_back, (4,), rest=True, decreed=True)
    case(
        "to_fp8",
        lambda a: mx.from_fp8(mx.to_fp8(a), mx.float32),
        (4,),
        covers="from_fp8",
        rest=True,
        decreed=True,
    )


def add_convolutions() -> None:
    for d in (1, 2, 3):
        more, twos, threes = (1,) * (d - 1), (2,) * (d - 1), (3,) * (d - 1)
        plain: dict[str, tuple[Shape, Shape, dict[str, Any]]] = {
            "plain": ((4, *more, 2), (3, 2, *more, 2), {}),
            "stride": ((5, *more, 2), (2, 3, *more, 2), {"stride": 2}),
            "padding": ((3, *threes, 1), (2, 2, *twos, 1), {"padding": 1}),
            "dilation": ((5, *more, 2), (2, 2, *more, 2), {"dilation": 2}),
            "rows left over": ((9, *more, 1), (2, 4, *more, 1), {"stride": 4}),
            "1x1 stride 2": ((4, *twos, 2), (2, *[1] * d, 2), {"stride": 2}),
            "groups": ((3, *more, 4), (4, 2, *more, 2), {"groups": 2}),
            "depthwise": ((3, *more, 3), (3, 2, *more, 1), {"groups": 3}),
            "depthwise twice": ((3, *more, 2), (4, 2, *more, 1), {"groups": 2}),
            "groups and stride": (
                (5, *threes, 4), (2, 2, *more, 2), {"groups": 2, "stride": 2, "padding": 1}
            ),
        }  # fmt: skip
        transposed: dict[str, tuple[Shape, Shape, dict[str, Any]]] = {
            "plain": ((2, *more, 2), (2, 2, *more, 2), {}),
            "stride": ((2, *more, 2), (2, 3, *more, 2), {"stride": 2}),
            "padding": ((3, *twos, 1), (2, 2, *twos, 1), {"padding": 1}),
            "dilation": ((2, *more, 2), (2, 2, *more, 2), {"dilation": 2}),
            "output padding": (
                (2, *twos, 1), (2, *[2] * d, 1), {"stride": 2, "output_padding": 1}
            ),
            "groups": ((2, *more, 4), (2, 2, *more, 2), {"groups": 2}),
            "depthwise": ((2, *more, 3), (3, 2, *more, 1), {"groups": 3}),
            "groups and stride": (
                (3, *threes, 4), (2, 3, *more, 2), {"groups": 2, "stride": 2, "padding": 1}
            ),
        }  # fmt: skip
        for name, cases in ((f"conv{d}d", plain), (f"conv_transpose{d}d", transposed)):
            for label, (rows, weight, options) in cases.items():
                if d < 3 or "groups" not in options:  # MLX has no groups in three dimensions
                    convolve = partial(getattr(mx, name), **options)
                    case(f"{name}:{label}", convolve, rows, weight, shared=[1])
        convolve = getattr(mx, f"conv{d}d")
        of_the_row = each(lambda a, b, f=convolve: f(a[None], b)[0])
        case(f"conv{d}d:kernel of the row", of_the_row, (3, *more, 2), (2, 2, *more, 2))
    general: dict[str, tuple[Shape, Shape, dict[str, Any]]] = {
        "flip": ((4, 2), (2, 3, 2), {"flip": True}),
        "flip and groups": ((4, 4), (2, 3, 2), {"flip": True, "groups": 2}),
        "input dilation": ((3, 2), (2, 2, 2), {"input_dilation": 2}),
        "input dilation 2d": ((2, 3, 1), (2, 2, 2, 1), {"input_dilation": (2, 3)}),
        "one-sided padding": ((4, 2), (2, 2, 2), {"padding": ([2], [0])}),
        "negative padding": ((6, 2), (2, 2, 2), {"padding": ([-1], [-1])}),
        "kernel dilation": ((6, 2), (2, 2, 2), {"kernel_dilation": 3}),
        "rows left over": ((5, 4, 1), (2, 2, 3, 1), {"stride": (2, 2)}),
    }
    everything = {
        "stride": (2, 1), "padding": ([1, 0], [0, 2]), "kernel_dilation": (1, 2),
        "input_dilation": (2, 1), "flip": True,
    }  # fmt: skip
    general["everything"] = (5, 5, 2), (2, 2, 3, 2), everything
    general["everything and groups"] = (5, 5, 2), (2, 2, 3, 1), everything | {"groups": 2}
    for label, (rows, weight, options) in general.items():
        convolve = partial(mx.conv_general, **options)
        case(f"conv_general:{label}", convolve, rows, weight, shared=[1])


def add() -> None:
    """Register all of them."""
    add_products()
    add_quantized()
    add_convolutions()
