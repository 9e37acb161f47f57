"""Resize: as onnxruntime has it, in every mode, and where it does not run, as ONNX has it."""

import re
from typing import Any

import mlx.core as mx
import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from mlx_entk import InputError
from mlx_entk.onnx.operators import OPERATORS
from tests.onnx.small_graphs import Array, graph_of, node, ours, require_equal, session_of

TRANSFORMATIONS = (
    "half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric",
    "tf_crop_and_resize",
)  # fmt: skip
ROUNDINGS = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")
MODES: list[dict[str, Any]] = [
    *({"mode": "nearest", "nearest_mode": rounding} for rounding in ROUNDINGS),
    {"mode": "linear"},
    {"mode": "linear", "antialias": 1},
    {"mode": "cubic"},
    {"mode": "cubic", "cubic_coeff_a": -0.5, "exclude_outside": 1},
    {"mode": "cubic", "antialias": 1},
    {"mode": "cubic", "antialias": 1, "exclude_outside": 1},
]


def resize(shape: tuple[int, ...], given: dict[str, Any], **attributes: Any) -> onnx.ModelProto:
    """A model that resizes x by the inputs roi, scales and sizes that are given."""
    kinds = {"roi": np.float32, "scales": np.float32, "sizes": np.int64}
    names = ["x", *(name if name in given else "" for name in kinds)]
    while not names[-1]:
        names.pop()
    constants = {name: np.asarray(given[name], dtype=kinds[name]) for name in given}
    made = node("Resize", names, ["y"], **attributes)
    return graph_of([made], {"x": numbers(shape)}, constants, opset=19)


def numbers(shape: tuple[int, ...]) -> Array:
    return np.random.default_rng(1).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("transformation", TRANSFORMATIONS)
@pytest.mark.parametrize("mode", MODES, ids=lambda mode: " ".join(map(str, mode.values())))
def test_resized_images_are_those_of_onnxruntime(transformation: str, mode: dict[str, Any]) -> None:
    rng = np.random.default_rng(0)
    equal = refused = 0
    for trial in range(24):
        shape = (2, 1, *rng.integers(2, 9, 2).tolist())
        scales = rng.choice([0.5, 0.6, 0.7, 1.5, 2, 2.5, 3, rng.uniform(0.5, 3)], 2).astype("f4")
        roi = np.concatenate([rng.uniform(-0.1, 0.4, 2), rng.uniform(0.5, 1.2, 2)])
        attributes: dict[str, Any] = {"coordinate_transformation_mode": transformation, **mode}
        given: dict[str, Any] = {"scales": scales}
        if trial % 3:
            given = {"sizes": np.floor(scales * shape[2:])}
            policies = ("stretch", "not_larger", "not_smaller")
            attributes["keep_aspect_ratio_policy"] = policies[trial % 3]
        if transformation == "tf_crop_and_resize":
            given["roi"] = roi
            attributes["extrapolation_value"] = 7.0
        if trial % 2:
            attributes["axes"] = [2, 3]
        else:
            attributes.pop("keep_aspect_ratio_policy", None)
            before = {"scales": [1, 1], "sizes": shape[:2], "roi": [0, 0]}
            given = {name: np.concatenate([before[name], v]) for name, v in given.items()}
            if "roi" in given:
                given["roi"] = np.concatenate([[0, 0], roi[:2], [1, 1], roi[2:]])
        model = resize(shape, given, **attributes)
        try:
            require_equal(model, {"x": numbers(shape)}, rtol=1e-4, atol=1e-5)
        except InputError as error:
            refused += bool(re.search("keeps its|is rounded", str(error)))
        else:
            equal += 1
    assert equal + refused == 24
    assert equal > 11


@pytest.mark.parametrize(
    ("shape", "scales"), [((7,), [1.7]), ((2, 5), [1, 0.6]), ((1, 2, 3, 4, 5), [1, 1, 2, 0.5, 3])]
)
def test_any_number_of_axes_is_resized(shape: tuple[int, ...], scales: list[float]) -> None:
    for mode in ("nearest", "linear", "cubic"):
        model = resize(shape, {"scales": scales}, mode=mode)
        expected = ReferenceEvaluator(model).run(["y"], {"x": numbers(shape)})

        for one, other in zip(ours(model, numbers(shape)), expected, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_what_came_before_resize() -> None:
    """Upsample, with its scales as an attribute and as an input."""
    x = numbers((1, 2, 3, 4))
    scales = [1.0, 1.0, 2.0, 2.5]
    for mode in ("nearest", "linear"):
        by_input = graph_of(
            [node("Upsample", ["x", "s"], ["y"], mode=mode)],
            {"x": x}, {"s": np.array(scales, np.float32)}, opset=9,
        )  # fmt: skip
        function = OPERATORS["Upsample"]
        expected = session_of(by_input).run(None, {"x": x})[0]
        for found in (
            function([mx.array(x), np.array(scales, np.float32)], {"mode": mode.encode()}, 1),
            function([mx.array(x)], {"mode": mode.encode(), "scales": scales}, 1),
        ):
            np.testing.assert_allclose(np.array(found), expected, rtol=1e-5, atol=1e-6)


def test_whole_numbers_are_resized_to_the_nearest() -> None:
    x = np.arange(12, dtype=np.uint8).reshape(1, 1, 3, 4)
    made = node("Resize", ["x", "", "s"], ["y"], mode="nearest")
    s = np.array([1, 1, 2, 2], np.float32)

    require_equal(graph_of([made], {"x": x}, {"s": s}), {"x": x})
    made.attribute[0].s = b"linear"
    with pytest.raises(InputError, match="whole numbers cannot be resized in mode linear"):
        ours(graph_of([made], {"x": x}, {"s": s}), x)


@pytest.mark.parametrize(
    ("given", "attributes", "message"),
    [
        ({}, {}, "either scales or sizes"),
        ({"scales": [1, 2], "sizes": [2, 3]}, {}, "either scales or sizes"),
        ({"scales": [1, 2, 3]}, {}, "are not 2 numbers"),
        ({"scales": [1, np.nan]}, {}, "are not 2 numbers"),
        ({"scales": [1, 0.1]}, {}, "become"),
        ({"scales": [1, -2]}, {}, "become"),
        ({"scales": [1, 1e9]}, {}, "axis of"),
        ({"sizes": [2, 2**40]}, {}, "axis of"),
        ({"sizes": [2, 2**30]}, {"mode": "linear"}, "would take"),
        ({"scales": [1, 2]}, {"mode": "quintic"}, "mode 'quintic'"),
        ({"scales": [1, 2]}, {"coordinate_transformation_mode": "tf_crop_and_resize"}, "a roi"),
        ({"scales": [1, 1.1]}, {"mode": "linear"}, "keeps its 3 entries but not their places"),
        ({"scales": [2, 2]}, {"axes": [1, -1]}, "name one twice"),
    ],
)
def test_what_cannot_be_resized_is_refused(
    given: dict[str, Any], attributes: dict[str, Any], message: str
) -> None:
    model = resize((2, 3), given, **attributes)

    with pytest.raises(InputError, match=message):
        ours(model, numbers((2, 3)))
