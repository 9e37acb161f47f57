"""GridSample and AffineGrid: as onnxruntime has them, at any place."""

from itertools import product

import numpy as np
import pytest

from mlx_entk import InputError
from tests.onnx.small_graphs import graph_of, node, ours, require_equal

MODES = [(2, "linear"), (2, "nearest"), (2, "cubic"), (3, "linear"), (3, "nearest")]


@pytest.mark.parametrize(("axes", "mode"), MODES)
@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
def test_samples_are_those_of_onnxruntime(axes: int, mode: str, padding: str) -> None:
    rng = np.random.default_rng(0)
    for aligned, _ in product((0, 1), range(8)):
        sizes, places = rng.integers(1, 6, axes), rng.integers(1, 6, axes)
        x = rng.standard_normal((2, 2, *sizes)).astype(np.float32)
        grid = rng.uniform(-2.5, 2.5, (2, *places, axes)).astype(np.float32)
        made = node(
            "GridSample", ["x", "g"], ["y"], mode=mode, padding_mode=padding, align_corners=aligned
        )
        inputs = {"x": x, "g": grid}

        require_equal(graph_of([made], inputs, {}, opset=20), inputs, rtol=1e-4, atol=1e-5)


def test_places_that_are_no_numbers_read_nothing_beside_the_image() -> None:
    x = np.ones((1, 1, 2, 2), np.float32)
    grid = np.array([[np.nan, 0], [np.inf, 0], [1e30, -1e30], [0, 0]], np.float32)
    made = node("GridSample", ["x", "g"], ["y"])
    inputs = {"x": x, "g": grid.reshape(1, 1, 4, 2)}

    (found,) = ours(graph_of([made], inputs, {}, opset=20), *inputs.values())

    np.testing.assert_array_equal(found.ravel(), [np.nan, 0, 0, 1])


def test_a_grid_that_does_not_fit_is_refused() -> None:
    x = np.ones((1, 1, 2, 2), np.float32)
    made = node("GridSample", ["x", "g"], ["y"])
    for shape in ((1, 2, 2, 3), (2, 2, 2, 2), (1, 2, 2)):
        inputs = {"x": x, "g": np.zeros(shape, np.float32)}
        with pytest.raises(InputError, match="does not fit an array"):
            ours(graph_of([made], inputs, {}, opset=20), *inputs.values())


@pytest.mark.parametrize("size", [(2, 3, 4, 5), (2, 1, 2, 3, 4)])
@pytest.mark.parametrize("aligned", [0, 1])
def test_affine_grids(size: tuple[int, ...], aligned: int) -> None:
    axes = len(size) - 2
    theta = np.random.default_rng(0).standard_normal((2, axes, axes + 1)).astype(np.float32)
    made = node("AffineGrid", ["x", "size"], ["y"], align_corners=aligned)

    require_equal(graph_of([made], {"x": theta}, {"size": np.array(size)}, opset=20), {"x": theta})
    for wrong in ((3, *size[1:]), (*size, 2)):
        with pytest.raises(InputError, match="do not fit a grid"):
            ours(graph_of([made], {"x": theta}, {"size": np.array(wrong)}, opset=20), theta)
