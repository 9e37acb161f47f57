"""Windows that convolutions and pooling move along the spatial axes."""

from collections.abc import Sequence

from mlx_entk.errors import InputError
from mlx_entk.onnx.operators.values import Attributes, choice

# Entries of a padded axis, and of a window on it, at most: gradients add up a few of them, and MLX
# keeps sizes in 32 bits.
_LONGEST = 2**28


def windows(
    a: Attributes, spatial: Sequence[int], kernel: Sequence[int]
) -> tuple[list[int], list[tuple[int, int]], list[int]]:
    """Return strides, (before, after) padding and dilations of a convolution or pooling.

    Raises
    ------
    InputError
        For numbers that a window cannot have: MLX divides by a stride of zero.
    """
    count = len(spatial)
    strides = list(a.get("strides", [1] * count))
    dilations = list(a.get("dilations", [1] * count))
    mode = choice(a, "auto_pad", "NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID")
    pads = list(a.get("pads", [0] * 2 * count))
    sizes = {"strides": strides, "dilations": dilations, "the kernel": list(kernel)}
    for name, values in sizes.items():
        if len(values) != count or min(values, default=1) < 1 or max(values, default=1) >= 2**31:
            raise InputError(f"{name} {values} are not possible for {count} axes")
    if len(pads) != 2 * count or min(pads, default=0) < 0 or max(pads, default=0) >= 2**31:
        raise InputError(f"pads {pads} are not possible for {count} axes")
    if a.get("group", 1) < 1:
        raise InputError(f"{a['group']} groups are not possible")
    if list(a.get("kernel_shape", kernel)) != list(kernel):
        raise InputError(f"kernel_shape {list(a['kernel_shape'])} is not that of the weight")
    for i in range(count):
        reach = dilations[i] * (kernel[i] - 1) + 1
        padded = spatial[i] + pads[i] + pads[i + count]
        if max(reach, padded) > _LONGEST:
            raise InputError(f"windows over {max(reach, padded)} entries are not possible")
    if mode in ("SAME_UPPER", "SAME_LOWER"):
        widths = []
        for i in range(count):
            reach = dilations[i] * (kernel[i] - 1) + 1
            total = max(0, (-(-spatial[i] // strides[i]) - 1) * strides[i] + reach - spatial[i])
            small = total // 2
            widths.append(
                (small, total - small) if mode == "SAME_UPPER" else (total - small, small)
            )
        return strides, widths, dilations
    if mode == "VALID":
        pads = [0] * 2 * count
    return strides, [(pads[i], pads[i + count]) for i in range(count)], dilations


def counts(
    spatial: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    dilations: Sequence[int],
) -> list[tuple[int, int]]:
    """Return how many windows there are along each axis, and the entries behind the last.

    Raises
    ------
    InputError
        If not one fits: MLX would make one all the same.
    """
    found = []
    for size, width, stride, (low, high), gap in zip(
        spatial, kernel, strides, padding, dilations, strict=True
    ):
        free = size + low + high - gap * (width - 1) - 1
        if free < 0:
            raise InputError(f"windows are longer than an axis of {size + low + high} entries")
        found.append((free // stride + 1, free % stride))
    return found
