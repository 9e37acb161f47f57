"""``mlx-entk regress`` of a reader's own model where something is zero or not a number."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import Command

MODELS = """
import mlx.core as mx
import mlx.nn as nn


class Unused(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight, self.scale = mx.ones((3, 2)), mx.zeros((2,))
        self.freeze(keys="weight")

    def __call__(self, x):
        return x @ self.weight + mx.maximum(self.scale - 1, 0)


class Dead(Unused):
    def __call__(self, x):
        return mx.maximum(x @ self.weight - 1e3, 0) + self.scale
"""


@pytest.fixture
def inputs(tmp_path: Path) -> np.ndarray:
    (tmp_path / "zero_models.py").write_text(MODELS)
    x = np.random.default_rng(0).standard_normal((40, 3)).astype(np.float32)
    np.savez(tmp_path / "x.npz", x=x)
    return x


def test_a_kernel_of_zeros_is_decomposed_and_explains_nothing(
    mlx_entk: Command, inputs: np.ndarray
) -> None:
    np.savez("y.npz", y=np.sin(inputs[:, :2]))
    source = ("--model", "zero_models:Unused", "--inputs", "x.npz")
    assert mlx_entk("kernel", *source, "--out", "run")[0] == 0

    code, output, _ = mlx_entk("regress", "run", "--targets", "y.npz")

    assert code == 0
    assert "Kernel regression by the trace kernel" in output
    assert json.loads(Path("run/regression.json").read_text())["rank"] == 0
    assert Path("run/figures/regression-modes.png").stat().st_size > 0


def test_what_cannot_be_explained_is_one_line_and_exit_code_2(
    mlx_entk: Command, inputs: np.ndarray
) -> None:
    targets = np.sin(inputs[:, :2])
    np.savez("y.npz", y=targets)
    targets[[3, 8], 1] = np.nan
    np.savez("nan.npz", y=targets)
    for name in ("Unused", "Dead"):
        source = ("--model", f"zero_models:{name}", "--inputs", "x.npz")
        assert mlx_entk("kernel", *source, "--out", name)[0] == 0

    assert mlx_entk("regress", "Unused", "--targets", "nan.npz") == (
        2, "", "Error: 2 of 40 inputs (3, 8) have NaN or infinite targets\n",
    )  # fmt: skip
    assert mlx_entk("regress", "Dead", "--targets", "y.npz") == (
        2, "", "Error: the network gives all held-out inputs the same outputs: there is nothing "
        "that its kernel could describe\n",
    )  # fmt: skip
