"""The node tests of the ``onnx`` package through the importer.

``python -m tests.onnx.node_tests`` prints the share that passes.
"""

import warnings
from collections import Counter
from collections.abc import Iterator
from typing import Any

import mlx.core as mx
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from mlx_entk import InputError
from mlx_entk.onnx.evaluation import require_known
from mlx_entk.onnx.importer import from_model
from mlx_entk.onnx.operators import from_numpy

Array = NDArray[Any]

PASSED = "passed"
OTHER_VALUES = "other values"
UNSUPPORTED = "operator not supported"
SEQUENCES = "sequences or optional values"
OTHER_TYPES = "complex numbers or text"
NOT_APPLICABLE = (UNSUPPORTED, SEQUENCES, OTHER_TYPES)


def outcomes() -> Iterator[tuple[str, str]]:
    """Name and outcome of every test: passed, an error, or why it does not apply."""
    with warnings.catch_warnings():  # making the tests divides by zero, on purpose
        warnings.simplefilter("ignore")
        from onnx.backend.test.loader import load_model_tests

        tests = load_model_tests(kind="node")
    for test in tests:
        yield test.name, _outcome(test)


def _outcome(test: Any) -> str:
    try:
        require_known(test.model.graph.node)
    except InputError:
        return UNSUPPORTED
    inputs, expected = test.data_sets[0]
    if not all(isinstance(value, np.ndarray | np.generic) for value in (*inputs, *expected)):
        return SEQUENCES
    inputs, expected = [np.asarray(v) for v in inputs], [np.asarray(v) for v in expected]
    if any(v.dtype.kind not in "fiub" and v.dtype.name != "bfloat16" for v in (*inputs, *expected)):
        return OTHER_TYPES
    error = "not run"
    # Axes and sizes are constants in the models that people have, inputs in these tests.
    for constant in (False, True):
        try:
            actual = _run(test.model, inputs, constant)
        except InputError as refused:
            error = str(refused).splitlines()[0]
            continue
        return PASSED if _agree(actual, expected) else OTHER_VALUES
    return error


def _run(model: onnx.ModelProto, inputs: list[Array], integers_constant: bool) -> list[mx.array]:
    given = onnx.ModelProto()
    given.CopyFrom(model)
    remaining = []
    names = [value.name for value in model.graph.input]
    for name, value in zip(names, inputs, strict=True):
        if integers_constant and value.dtype.kind in "iub":
            given.graph.initializer.append(numpy_helper.from_array(value, name))
        else:
            remaining.append(from_numpy(value))
    function = from_model(given)
    return function.run(function.params, remaining)


def _agree(actual: list[mx.array], expected: list[Array]) -> bool:
    """Within the rounding of the type; doubles are single precision in MLX."""
    return all(
        a.shape == b.shape
        and np.allclose(
            np.array(a.astype(mx.float32)),
            b.astype(np.float32),
            rtol=1e-3,
            atol={"float16": 2e-3, "bfloat16": 2e-2}.get(b.dtype.name, 1e-5),
            equal_nan=True,
        )
        for a, b in zip(actual, expected, strict=False)
    )


def main() -> None:
    by_test = dict(outcomes())
    applicable = {
        name: outcome for name, outcome in by_test.items() if outcome not in NOT_APPLICABLE
    }
    passed = sum(outcome == PASSED for outcome in applicable.values())
    print(f"{passed} of {len(applicable)} pass ({passed / len(applicable):.1%})")
    for name, outcome in applicable.items():
        if outcome != PASSED:
            print(f"  {name}: {outcome}")
    for outcome, count in Counter(by_test.values()).items():
        if outcome in NOT_APPLICABLE:
            print(f"not applicable, {outcome}: {count}")


if __name__ == "__main__":
    main()
