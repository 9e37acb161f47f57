"""What is checked of a real ONNX file: outputs, derivatives and kernels, against other code.

- Outputs: onnxruntime.
- Derivatives: central differences in float64 of the same graph (``tests.onnx.double``), along
  directions to which every parameter contributes alike, so that one wrong parameter shows.
- The kernel of two outputs for two inputs: J·Jᵀ of plain gradients, and differences along these
  gradients.
"""

import math
import time
from dataclasses import dataclass, field
from pathlib import Path

import mlx.core as mx
import numpy as np
import onnx
import onnxruntime

from mlx_entk import InputError
from mlx_entk.onnx.importer import OnnxFunction, load
from tests.onnx.double import Double
from tests.onnx.real_case import Case, outputs_of
from tests.onnx.real_list import Array, RealFile


@dataclass
class Result:
    """What became of a file; errors are relative, see the functions that compute them.

    Attributes
    ----------
    refusal
        Why the importer refuses the file, or "".
    as_stored
        Why the importer does not say by itself which numbers are parameters, or "".
    no_kernel
        Why a kernel of the file is refused, or "".
    parameters, numbers, stored
        Parameters, their entries, and those of everything that may be a parameter.
    """

    name: str
    refusal: str = ""
    as_stored: str = ""
    no_kernel: str = ""
    producer: str = ""
    opset: int = 0
    parameters: int = 0
    numbers: int = 0
    stored: int = 0
    errors: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0

    def wrong(self, file: RealFile) -> list[str]:
        """Which of the errors are too large."""
        allowed = {
            "outputs": file.tolerance, "derivatives": 10 * file.tolerance,
            "kernel, gradients": file.tolerance, "kernel, differences": 10 * file.tolerance,
        }  # fmt: skip
        if self.no_kernel and math.isnan(self.errors.get("derivatives", 0)):
            del allowed["derivatives"]  # that is why
        return [
            name
            for name, error in self.errors.items()
            if name in allowed and not error <= allowed[name]
        ]


def check(file: RealFile, path: Path) -> Result:
    """Load a file, and compute every error that ``Result`` has."""
    result, began = Result(file.name), time.monotonic()
    try:
        function = _load(file, path, result)
    except InputError as error:
        result.refusal = str(error).replace(str(path), "the file")
        return result
    random = np.random.default_rng(0)
    samples = [
        {name: draw(random) for name, draw in {**file.inputs, **file.constants}.items()}
        for _ in range(2)
    ]
    result.parameters = len(function.params)
    result.numbers = sum(value.size for value in function.params.values())
    result.stored = sum(math.prod(one.shape) for one in function.candidates.judged)
    result.errors["outputs"] = _outputs(function, path, samples)
    model = onnx.load(path)
    result.producer = f"{model.producer_name} {model.producer_version}".strip()
    result.opset = next(one.version for one in model.opset_import if one.domain in ("", "ai.onnx"))
    try:
        function.parametric()
        case = Case(function, file, Double(model, function.params), samples)
        if not file.light:
            result.errors["kernel, gradients"], result.errors["kernel, differences"] = case.kernel()
        result.errors["derivatives"] = case.derivatives(random)
    except InputError as error:
        result.no_kernel = str(error)
    result.seconds = time.monotonic() - began
    return result


def _load(file: RealFile, path: Path, result: Result) -> OnnxFunction:
    constants = {name: value(np.random.default_rng(0)) for name, value in file.constants.items()}
    function = load(path, constants=constants)
    try:
        function.params  # noqa: B018
    except InputError as error:
        result.as_stored = str(error)
        return load(path, parameters=["*"], constants=constants)
    return function


def _outputs(function: OnnxFunction, path: Path, samples: list[dict[str, Array]]) -> float:
    """The largest difference to onnxruntime, over the largest entry of the output."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    wanted = [session.run(function.outputs, sample) for sample in samples]
    actual = [outputs_of(function, function.params, sample, function.outputs) for sample in samples]
    errors = []
    for number in range(len(function.outputs)):
        ours = np.stack([np.array(one[number].astype(mx.float32)) for one in actual])
        theirs = np.stack([one[number].astype(np.float32) for one in wanted])
        if ours.shape != theirs.shape or not np.isfinite(theirs).all():
            raise AssertionError(f"{function.outputs[number]}: {ours.shape}, not {theirs.shape}")
        errors.append(np.max(np.abs(ours - theirs)) / np.max(np.abs(theirs)))
    return float(np.max(errors))
