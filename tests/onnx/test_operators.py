"""Operators that are written in a line or two: as onnxruntime has them, or refused."""

from typing import Any

import numpy as np
import pytest

from mlx_entk import InputError
from tests.onnx.small_graphs import Array, graph_of, node, ours, require_equal

RNG = np.random.default_rng(0)
IMAGE = RNG.standard_normal((2, 3, 5, 4)).astype(np.float32)
IMAGE[0, :, 0] = 0
SEQUENCES = RNG.standard_normal((4, 3, 2)).astype(np.float32)
BITS = np.array([[1, 5, 200, 255], [128, 7, 3, 2]], dtype=np.uint8)
COUNTS = np.array([[1, 7, 8, 200], [0, 3, 1, 5]], dtype=np.uint8)

Case = tuple[str, Array, dict[str, Any], dict[str, Any]]

# Operator, first input, attributes, further inputs.
CASES: list[Case] = [
    ("PRelu", IMAGE, {}, {"slope": RNG.standard_normal((3, 1, 1)).astype(np.float32)}),
    ("PRelu", IMAGE, {}, {"slope": RNG.standard_normal(4).astype(np.float32)}),
    ("PRelu", IMAGE, {}, {"slope": np.array([0.3], np.float32)}),
    ("BitShift", BITS, {"direction": "LEFT"}, {"count": COUNTS}),
    ("BitShift", BITS, {"direction": "RIGHT"}, {"count": COUNTS}),
    ("BitwiseNot", BITS, {}, {}),
    *(("LpNormalization", IMAGE, {"p": p, "axis": axis}, {}) for p in (1, 2) for axis in (2, -1)),
    ("MeanVarianceNormalization", IMAGE[1:], {"axes": [1, 3]}, {}),
    *(
        ("LRN", IMAGE, {"size": size, "alpha": 0.5, "beta": 0.6, "bias": 2.0}, {})
        for size in (1, 3, 9)
    ),
    ("LRN", IMAGE, {"size": 3}, {}),
    *(("GlobalLpPool", IMAGE, {"p": p}, {}) for p in (1, 2, 3)),
    *(("LpPool", IMAGE, {"p": p, "kernel_shape": [2, 3]}, {}) for p in (1, 2, 3)),
    ("LpPool", IMAGE, {"kernel_shape": [2, 2], "strides": [2, 1], "pads": [1, 0, 0, 1]}, {}),
    ("ReverseSequence", SEQUENCES, {}, {"lengths": np.array([4, 1, 2])}),
    (
        "ReverseSequence",
        SEQUENCES,
        {"batch_axis": 0, "time_axis": 1},
        {"lengths": np.array([3, 0, 1, 2])},
    ),
    ("Compress", IMAGE, {"axis": 2}, {"kept": np.array([True, False, True])}),
    ("Compress", IMAGE, {}, {"kept": np.array([False, True, True, False, True])}),
    ("CenterCropPad", IMAGE, {}, {"shape": np.array([2, 3, 4, 7])}),
    ("CenterCropPad", IMAGE, {"axes": [-1, 2]}, {"shape": np.array([1, 10])}),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]} {case[2]}")
def test_operators_are_those_of_onnxruntime(case: Case) -> None:
    operator, x, attributes, more = case
    made = node(operator, ["x", *more], ["y"], **attributes)

    require_equal(graph_of([made], {"x": x}, more), {"x": x})


def test_lengths_of_reversed_sequences_may_depend_on_the_data() -> None:
    made = node("ReverseSequence", ["x", "lengths"], ["y"])
    inputs = {"x": SEQUENCES, "lengths": np.array([4, 1, 2])}
    model = graph_of([made], inputs, {})
    require_equal(model, inputs)
    with pytest.raises(InputError, match="index 5 of 5 entries"):
        ours(model, SEQUENCES, np.array([4, 1, 5]))


def test_windows_of_channels_reach_further_ahead() -> None:
    """If their number is even, which onnxruntime refuses."""
    model = graph_of([node("LRN", ["x"], ["y"], size=2, alpha=0.5)], {"x": IMAGE}, {})
    squares = IMAGE.astype(np.float64) ** 2
    window = squares + np.concatenate([squares[:, 1:], np.zeros((2, 1, 5, 4))], axis=1)

    (found,) = ours(model, IMAGE)

    np.testing.assert_allclose(found, IMAGE / (1 + 0.25 * window) ** 0.75, rtol=1e-5)


def test_swish() -> None:
    """onnxruntime does not have it yet."""
    made = node("Swish", ["x"], ["y"], alpha=0.7)

    (found,) = ours(graph_of([made], {"x": IMAGE}, {}, opset=24), IMAGE)

    np.testing.assert_allclose(found, IMAGE / (1 + np.exp(-0.7 * IMAGE)), rtol=1e-5)


def test_entries_that_are_not_zero_are_found_in_known_arrays_alone() -> None:
    made = [node("NonZero", ["known"], ["at"]), node("Gather", ["x", "at"], ["y"])]
    known = np.tile(np.array([0, 1, 0, 2, 0, 0]), 1000)
    x = np.arange(6000, dtype=np.float32)
    (found,) = ours(graph_of(made, {"x": x}, {"known": known}), x)
    np.testing.assert_array_equal(found, [np.flatnonzero(known)])

    with pytest.raises(InputError, match="not zero depends on the data"):
        ours(graph_of([node("NonZero", ["x"], ["y"])], {"x": x}, {}), x)


REFUSED: list[tuple[Case, str]] = [
    (("PRelu", IMAGE, {}, {"slope": np.ones((3, 2, 1, 1, 1), np.float32)}), "a slope of"),
    (("BitShift", BITS, {"direction": "UP"}, {"count": COUNTS}), "direction 'UP'"),
    (("LpNormalization", IMAGE, {"p": 3}, {}), "order 3"),
    (("LpPool", IMAGE, {"p": 0, "kernel_shape": [2, 2]}, {}), "order 0"),
    (("MeanVarianceNormalization", IMAGE, {}, {}), "depends on the whole batch"),
    (("LRN", IMAGE, {"size": 0}, {}), "windows of 0 channels"),
    (("ReverseSequence", SEQUENCES, {}, {"lengths": np.array([5, 1, 2])}), "have no lengths"),
    (("ReverseSequence", SEQUENCES, {}, {"lengths": np.array([1, 2])}), "as many lengths"),
    (("ReverseSequence", SEQUENCES, {"time_axis": 1}, {"lengths": np.array([1])}), "no batch"),
    (("Compress", SEQUENCES, {"axis": 2}, {"kept": np.array([0, 1, 1], bool)}), "outside an axis"),
    (("CenterCropPad", SEQUENCES, {}, {"shape": np.array([1, 2])}), "2 sizes are given for 3"),
    (("CenterCropPad", IMAGE, {"axes": [0]}, {"shape": np.array([2**30])}), "memory limit"),
]


@pytest.mark.parametrize(("case", "message"), REFUSED)
def test_operators_that_cannot_be_are_refused(case: Case, message: str) -> None:
    operator, x, attributes, more = case
    made = node(operator, ["x", *more], ["y"], **attributes)

    with pytest.raises(InputError, match=message):
        ours(graph_of([made], {"x": x}, more), x)
