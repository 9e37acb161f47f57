"""PyTorch modules through each exporter of PyTorch: the kernel is right, or the file is refused.

``python -m tests.onnx.test_torch_exporters`` prints the table in Markdown, with the refusals.
"""

import functools
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from mlx_entk import InputError, entk
from mlx_entk.onnx import load
from tests.onnx.torch_modules import EXAMPLES, Example, stopped
from tests.reference import from_jacobian, relative_error

pytestmark = pytest.mark.filterwarnings("ignore")  # PyTorch warns of its own parts

EXPORTERS: Mapping[str, dict[str, bool]] = {
    "dynamo": {"dynamo": True, "verbose": False},
    "dynamo, optimize=False": {"dynamo": True, "optimize": False, "verbose": False},
    "TorchScript": {"dynamo": False},
}
# What the older exporter has no operator for.
NOT_EXPORTED = {
    ("spectral_norm", "TorchScript"): "aten::vdot",
    ("LayerNorm, RMSNorm", "TorchScript"): "aten::rms_norm",
    ("Bilinear", "TorchScript"): "aten::bilinear",
    ("layer chosen by `torch.cond`", "TorchScript"): "FX to torch.jit.trace",
}
RIGHT = "right"
TOLERANCE = 3e-5  # ten times the rounding of the worst
# What the output does not depend on, by construction.
WITHOUT_EFFECT = {
    "MLP with an unused head": {"auxiliary.weight", "auxiliary.bias"},
    "layer chosen by shape": {"short.weight", "short.bias"},
    "InstanceNorm2d": {"0.bias", "3.bias"},
    "GroupNorm before training": {"0.bias"},
}


def export(example: Example, exporter: str, path: Path) -> None:
    """As a user does it: with one example, or with a batch of any size if that was asked for."""
    inputs = example.inputs(1) if example.batch == "one" else example.inputs()
    options: dict[str, Any] = dict(EXPORTERS[exporter])
    if example.batch == "free":
        if options["dynamo"]:
            batch = torch.export.Dim("batch")
            options["dynamic_shapes"] = tuple({0: batch} for _ in inputs)
        else:
            names = [f"input{number}" for number in range(len(inputs))]
            options |= {"input_names": names, "dynamic_axes": {n: {0: "batch"} for n in names}}
    torch.onnx.export(example.module(), inputs, path, **options)


@functools.cache
def by_torch(example: Example) -> dict[str, NDArray[np.float64]]:
    """Full kernels of exactly the module's parameters, by ``torch.func`` in double precision."""
    module = example.module().double()
    params = {name: value.detach() for name, value in module.named_parameters()}

    def outputs(values: dict[str, torch.Tensor], *row: torch.Tensor) -> torch.Tensor:
        batch = tuple(part[None] for part in row)
        output: torch.Tensor = torch.func.functional_call(module, values, batch)
        return output.flatten()

    inputs = [x.double() if x.is_floating_point() else x for x in example.inputs()]
    rows = [torch.func.jacrev(outputs)(params, *row) for row in zip(*inputs, strict=True)]
    jacobians = {
        name: torch.stack([row[name].reshape(len(row[name]), -1) for row in rows])
        for name in params
    }
    return {name: from_jacobian(J.numpy()) for name, J in jacobians.items()}


def of_file(example: Example, path: Path) -> NDArray[Any]:
    """The full kernel of the parameters that the importer finds by itself."""
    inputs = tuple(mx.array(x.numpy()) for x in example.inputs())
    function = load(path).parametric()
    return entk(function, inputs if len(inputs) > 1 else inputs[0], reduction="full")


def outcome(example: Example, exporter: str, folder: Path) -> str:
    """What becomes of a cell of the table: right, wrong or refused, or not exported by PyTorch."""
    path = folder / "model.onnx"
    try:
        export(example, exporter, path)
    except (RuntimeError, torch.onnx.errors.OnnxExporterError) as error:
        reason = NOT_EXPORTED.get((example.title, exporter))
        if reason is None or reason not in str(error):
            raise
        return f"PyTorch does not export it: {reason}"
    try:
        kernel = of_file(example, path)
    except InputError as error:
        return f"refused: {error}"
    expected = np.sum(list(by_torch(example).values()), axis=0)
    if kernel.shape != expected.shape:
        return f"wrong: shape {kernel.shape} instead of {expected.shape}"
    error_of_kernel = relative_error(kernel, expected)
    return RIGHT if error_of_kernel < TOLERANCE else f"wrong by {error_of_kernel:.2g}"


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.title)
def test_a_parameter_that_is_left_out_would_show(example: Example) -> None:
    kernels = by_torch(example)
    largest = np.abs(np.sum(list(kernels.values()), axis=0)).max()
    without_effect = WITHOUT_EFFECT.get(example.title, set())

    unseen = {name for name, K in kernels.items() if np.abs(K).max() < 3 * TOLERANCE * largest}
    assert unseen == without_effect


@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.title)
def test_the_kernel_is_that_of_torch_func_or_refused(
    example: Example, exporter: str, tmp_path: Path
) -> None:
    result = outcome(example, exporter, tmp_path)

    if (example.title, exporter) in NOT_EXPORTED:
        assert result.startswith("PyTorch does not export it")
    elif exporter in example.lost_in:
        assert result == RIGHT or (result.startswith("refused: ") and "\n" not in result)
    else:
        assert result == RIGHT


@pytest.mark.parametrize("exporter", [name for name in EXPORTERS if name != "TorchScript"])
@pytest.mark.parametrize("example", stopped.EXAMPLES, ids=lambda example: example.title)
def test_derivatives_that_pytorch_stops_are_stopped(
    example: Example, exporter: str, tmp_path: Path
) -> None:
    result = outcome(example, exporter, tmp_path)

    if exporter in example.lost_in:
        assert result.startswith("refused: ")
        assert "takes no derivative, was taken out" in result
    else:
        assert result == RIGHT


def main() -> None:
    """Print a row for each module and a column for each exporter, and why files are refused."""
    warnings.simplefilter("ignore")
    rows = [["", *EXPORTERS], ["---"] * (1 + len(EXPORTERS))]
    reasons = []
    with tempfile.TemporaryDirectory() as folder:
        for example in (*EXAMPLES, *stopped.EXAMPLES):
            cells = {name: outcome(example, name, Path(folder)) for name in EXPORTERS}
            # What comes after the colon is for the list below the table.
            rows.append([example.title, *(cell.split(":")[0] for cell in cells.values())])
            reasons += [
                f"{example.title}, {name}: {cell}" for name, cell in cells.items() if ":" in cell
            ]
    print()  # some exporters leave a line open
    print("\n".join(f"| {' | '.join(row)} |" for row in rows))
    print("\n" + "\n".join(reasons))


if __name__ == "__main__":
    main()
