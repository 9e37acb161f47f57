"""``mlx-entk kernel --onnx`` on files as people have them."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import parser

from mlx_entk.runs import Run
from tests.conftest import Command
from tests.reference import relative_error

RNG = np.random.default_rng(0)
TWO_INPUTS = """
<ir_version: 9, opset_import: ["" : 18]>
g (float[N, 3] left, float[N, 2] right, float rate)
 => (int64[N] label, float[N, 2] y, float[N, 1] z)
<float[3, 2] a = {1., 2., 3., 4., 5., 6.}, float[2, 2] b = {1., 0.5, 2., 1.},
 float[2, 1] c = {1., 3.}> {
  h = MatMul (left, a)
  k = MatMul (right, b)
  s = Add (h, k)
  y = Mul (s, rate)
  label = ArgMax <axis = 1, keepdims = 0> (y)
  z = MatMul (y, c)
}"""
TOKENS = """
<ir_version: 9, opset_import: ["" : 11]>
g (int64[N, 2] ids) => (float[N, 2] y) <float[4, 2] table = {1., 2., 3., 4., 5., 6., 7., 8.}> {
  h = Gather (table, ids)
  y = ReduceSum <axes = [1], keepdims = 0> (h)
}"""
FOLDED = """
<ir_version: 9, opset_import: ["" : 18], producer_name: "pytorch">
g (float[N, 3] x) => (float[N, 2] y)
<float[3, 2] w = {1., 2., 3., 4., 5., 6.}> {
  y = MatMul (x, w)
}
"""


@pytest.fixture
def kernel(mlx_entk: Command) -> Command:
    """Run ``mlx-entk kernel`` in an empty folder; gives exit code, output and errors."""
    return partial(mlx_entk, "kernel")


def write(folder: Path, text: str, **arrays: Any) -> None:
    onnx.save(parser.parse_model(text), folder / "m.onnx")
    np.savez(folder / "x.npz", **arrays)


def test_several_inputs_and_a_chosen_output(kernel: Command, tmp_path: Path) -> None:
    left, right = (RNG.standard_normal((5, n)).astype(np.float32) for n in (3, 2))
    write(tmp_path, TWO_INPUTS, right=right, left=left, rate=np.float32(2))
    given = ("--onnx", "m.onnx", "--inputs", "x.npz")

    assert kernel(*given, "--out", "first")[0] == 0
    assert kernel(*given, "--output", "z", "--out", "second")[0] == 0

    first, second = (Run.load(tmp_path / name) for name in ("first", "second"))
    expected = 4 * (left @ left.T + right @ right.T)
    assert relative_error(np.load(first.path / "kernels" / "kernel.npy"), expected) < 1e-5
    y = 2 * (left @ np.arange(1, 7).reshape(3, 2) + right @ np.array([[1, 0.5], [2, 1]]))
    expected = 40 * (left @ left.T + right @ right.T) + y @ y.T
    assert relative_error(np.load(second.path / "kernels" / "kernel.npy"), expected) < 1e-5


def test_a_dry_run_lists_what_the_file_holds(kernel: Command, tmp_path: Path) -> None:
    write(tmp_path, TWO_INPUTS, left=np.ones((2, 3)))

    code, out, errors = kernel("--onnx", "m.onnx", "--dry-run")
    assert (code, errors) == (0, "")
    for part in (
        "float (N, 3)",
        "int64 (N)",
        "Parameter (2)",
        "Each is a weight of MatMul.",
        "3 × 2",
    ):
        assert part in out
    code, out, _ = kernel("--onnx", "m.onnx", "--dry-run", "--output", "z", "--json")
    document = json.loads(out)
    assert [tensor["kind"] for tensor in document["tensors"]] == ["parameter"] * 3
    assert document["tensors"][0]["shape"] == [3, 2]
    assert document["refusal"] is None
    assert {path.name for path in tmp_path.iterdir()} == {"m.onnx", "x.npz"}


def test_a_file_that_does_not_tell_its_parameters(kernel: Command, tmp_path: Path) -> None:
    x = RNG.standard_normal((4, 3)).astype(np.float32)
    write(tmp_path, FOLDED, x=x)
    given = ("--onnx", "m.onnx", "--inputs", "x.npz", "--out", "run")

    code, _, errors = kernel(*given)
    assert code == 2
    assert errors.startswith(
        "Error: the file does not hold its parameters as they were trained: w "
    )
    assert "optimize=False" in errors
    assert errors.count("\n") == 1
    assert not (tmp_path / "run").exists()
    assert "would be refused" in kernel("--onnx", "m.onnx", "--dry-run")[1].replace("\n", " ")
    assert kernel(*given, "--parameters", "*")[0] == 0
    assert relative_error(np.load(tmp_path / "run" / "kernels" / "kernel.npy"), x @ x.T) < 1e-5


@pytest.mark.filterwarnings("default::mlx_entk.ConversionWarning")
def test_an_older_file_and_tokens_that_it_lacks(kernel: Command, tmp_path: Path) -> None:
    write(tmp_path, TOKENS, ids=np.array([[0, 1], [3, 3], [2, -1]]))
    given = ("--onnx", "m.onnx", "--inputs", "x.npz", "--out", "run")

    code, _, errors = kernel(*given, "--quiet")
    assert (code, errors) == (0, "")
    counts = np.array([[1, 1, 0, 0], [0, 0, 0, 2], [0, 0, 1, 1]])
    kernel_of_run = np.load(tmp_path / "run" / "kernels" / "kernel.npy")
    assert relative_error(kernel_of_run, counts @ counts.T) < 1e-6

    np.savez(tmp_path / "x.npz", ids=np.array([[0, 1], [3, 50_257]]))
    code, _, errors = kernel("--onnx", "m.onnx", "--inputs", "x.npz", "--out", "other")
    assert code == 2
    assert errors.splitlines() == [
        f"Note: m.onnx: opset 11 was converted to 13 by onnx {onnx.__version__}",
        "Error: an input leads to the index 50257 of 4 entries: is a token outside the vocabulary?",
    ]


def test_what_is_missing_is_said(kernel: Command, tmp_path: Path) -> None:
    write(tmp_path, FOLDED, x=np.ones((2, 3)))

    code, _, errors = kernel("--onnx", "m.onnx", "--out", "r")
    assert code == 2
    assert errors.startswith("Error: Missing option '--inputs'.")
    np.savez(tmp_path / "x.npz", x=np.ones((2, 3)), rate=np.float32(1))
    code, _, errors = kernel("--onnx", "m.onnx", "--inputs", "x.npz", "--out", "r")
    assert (code, errors) == (2, "Error: the model has no input 'rate': it takes x\n")
