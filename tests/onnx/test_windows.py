"""Convolutions and pooling: as onnxruntime has them, with windows of every kind."""

import re
from typing import Any

import numpy as np
import onnx
import pytest
from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidArgument, RuntimeException

from mlx_entk import InputError
from tests.onnx.small_graphs import Array, graph_of, node, ours, require_equal, session_of


def drawn(rng: np.random.Generator, operator: str, axes: int) -> tuple[onnx.ModelProto, Array]:
    """A convolution with settings drawn at random, and an input."""

    def draw(low: int, high: int, count: int = axes) -> list[int]:
        return [int(v) for v in rng.integers(low, high, count)]

    groups, (inputs, outputs) = int(rng.choice([1, 2, 3])), draw(1, 3, 2)
    kernel, strides, dilations = draw(1, 4), draw(1, 4), draw(1, 3)
    attributes: dict[str, Any] = {"strides": strides, "dilations": dilations, "group": groups}
    padding = int(rng.integers(3))
    if padding == 1:
        attributes["pads"] = draw(0, 3, 2 * axes)
    if padding == 2:
        attributes["auto_pad"] = str(rng.choice(["SAME_UPPER", "SAME_LOWER", "VALID"]))
    x = rng.standard_normal((2, groups * inputs, *draw(1, 6))).astype(np.float32)
    first, second = (groups * outputs, inputs) if operator == "Conv" else (x.shape[1], outputs)
    if operator == "ConvTranspose" and rng.integers(2):
        attributes["output_padding"] = [int(rng.integers(stride)) for stride in strides]
    if operator == "ConvTranspose" and rng.integers(3) == 0:
        full = [s * (n - 1) + k for s, n, k in zip(strides, x.shape[2:], kernel, strict=True)]
        attributes["output_shape"] = [max(1, size + int(rng.integers(-3, 2))) for size in full]
    W = rng.standard_normal((first, second, *kernel)).astype(np.float32)
    B = rng.standard_normal(groups * outputs).astype(np.float32)
    made = node(operator, ["x", "W", "B"], ["y"], **attributes)
    return graph_of([made], {"x": x}, {"W": W, "B": B}), x


@pytest.mark.parametrize("operator", ["Conv", "ConvTranspose"])
@pytest.mark.parametrize("axes", [1, 2, 3])
def test_convolutions_are_those_of_onnxruntime(operator: str, axes: int) -> None:
    rng = np.random.default_rng(axes)
    equal = 0
    for _ in range(100):
        model, x = drawn(rng, operator, axes)
        try:
            session_of(model).run(None, {"x": x})
        except (Fail, InvalidArgument, RuntimeException):
            continue
        try:
            require_equal(model, {"x": x}, rtol=1e-4, atol=1e-4)
            equal += 1
        except InputError as error:
            if not re.search("does not grow", str(error)):
                raise
    assert equal > 25


WEIGHT = np.ones((4, 1, 3), np.float32)


@pytest.mark.parametrize(
    ("operator", "shape", "attributes", "message"),
    [
        ("Conv", (1, 1, 2), {}, "windows are longer than an axis of 2 entries"),
        ("Conv", (1, 1, 2), {"strides": [3]}, "windows are longer than an axis of 2 entries"),
        ("Conv", (1, 2, 4), {}, "1 groups of 1 channels do not fit 2 of the input and 4"),
        ("Conv", (1, 3, 4), {"group": 3}, "3 groups of 1 channels do not fit 3 .* and 4 of"),
        ("ConvTranspose", (1, 4, 3), {"strides": [2], "output_shape": [9]}, "does not grow from 3"),
        (
            "ConvTranspose",
            (1, 4, 3),
            {"strides": [4], "auto_pad": "SAME_UPPER"},
            "does not grow from 3 entries to 12",
        ),
        ("MaxPool", (1, 1, 2), {"kernel_shape": [3]}, "windows are longer than an axis of 2"),
        ("MaxPool", (1, 1, 2), {"kernel_shape": [3], "ceil_mode": 1}, "windows are longer than"),
    ],
)
def test_windows_that_do_not_fit_are_refused(
    operator: str, shape: tuple[int, ...], attributes: dict[str, Any], message: str
) -> None:
    x = np.ones(shape, np.float32)
    inputs = ["x"] if operator == "MaxPool" else ["x", "W"]
    made = node(operator, inputs, ["y"], **attributes)

    with pytest.raises(InputError, match=message):
        ours(graph_of([made], {"x": x}, {"W": WEIGHT}), x)


def test_too_many_groups_over_three_axes_are_refused() -> None:
    x = np.ones((1, 5000, 1, 1, 1), np.float32)
    made = node("Conv", ["x", "W"], ["y"], group=5000)

    with pytest.raises(InputError, match="5000 groups are too many"):
        ours(graph_of([made], {"x": x}, {"W": np.ones((5000, 1, 1, 1, 1), np.float32)}), x)
