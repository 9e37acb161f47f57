"""The models in the test data of the ``onnx`` package through the importer.

``python -m tests.onnx.backend_data`` prints the share that passes. Of its real models the package
has the graphs alone, with weights made by nodes (``light``), so that all classes get the same: what
goes into the last softmax is compared with onnxruntime. The others are PyTorch's of 2017, of opset
6, and small ones, whose outputs the package has.
"""

import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import numpy_helper

from mlx_entk import InputError
from mlx_entk.onnx import load
from mlx_entk.onnx.operators import from_numpy

Array = NDArray[Any]

PASSED = "passed"
OTHER_VALUES = "other values"
NO_WEIGHTS = "no weights"
_DATA = Path(onnx.__file__).parent / "backend/test/data"


def outcomes() -> Iterator[tuple[str, str]]:
    """Name and outcome of every model: passed, an error, or that it has no weights."""
    with tempfile.TemporaryDirectory() as made:
        for path in sorted(_DATA.glob("light/*.onnx")):
            yield path.stem, _outcome(*_of_light(path, Path(made)))
    for kind in ("pytorch-converted", "pytorch-operator", "simple"):
        for folder in sorted(_DATA.glob(f"{kind}/*")):
            path = folder / "model.onnx"
            if not any(t.data_type == onnx.TensorProto.FLOAT for t in _stored(path)):
                yield f"{kind}/{folder.name}", NO_WEIGHTS
                continue
            data = folder / "test_data_set_0"
            yield (
                f"{kind}/{folder.name}",
                _outcome(path, _read(data, "input"), _read(data, "output")),
            )


def _stored(path: Path) -> list[onnx.TensorProto]:
    graph = onnx.load(path).graph
    return [*graph.initializer, *(n.attribute[0].t for n in graph.node if n.op_type == "Constant")]


def _read(folder: Path, what: str) -> list[Array]:
    files = [folder / f"{what}_{k}.pb" for k in range(len(list(folder.glob(f"{what}_*.pb"))))]
    return [_array(file) for file in files]


def _array(file: Path) -> Array:
    return np.asarray(numpy_helper.to_array(onnx.TensorProto.FromString(file.read_bytes())))


def _of_light(path: Path, folder: Path) -> tuple[Path, list[Array], list[Array]]:
    """A copy that ends before the softmax, inputs as the package's runner makes them, outputs."""
    model = onnx.load(path)
    graph = model.graph
    stored = {tensor.name for tensor in graph.initializer}
    (value,) = [value for value in graph.input if value.name not in stored]
    shape = [axis.dim_value for axis in value.type.tensor_type.shape.dim]
    size = int(np.prod(shape))
    x = (np.arange(size).reshape(shape) / size).astype(np.float32)
    softmax = [node for node in graph.node if node.op_type == "Softmax"]
    name = softmax[-1].input[0] if softmax else graph.output[0].name
    graph.output[0].CopyFrom(onnx.ValueInfoProto(name=name))
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    (expected,) = session.run([name], {value.name: x})
    kind = onnx.TensorProto.FLOAT
    graph.output[0].CopyFrom(onnx.helper.make_tensor_value_info(name, kind, expected.shape))
    onnx.save(model, folder / path.name)
    return folder / path.name, [x], [expected]


def _outcome(path: Path, inputs: list[Array], expected: list[Array]) -> str:
    try:
        actual = load(path).run({}, [from_numpy(x) for x in inputs])
    except InputError as refused:
        return str(refused).replace(str(path), "the file")
    pairs = zip(actual, expected, strict=True)
    return PASSED if all(_agree(a, b) for a, b in pairs) else OTHER_VALUES


def _agree(a: mx.array, b: Array) -> bool:
    if a.shape != b.shape:
        return False
    found = np.array(a.astype(mx.float32))
    return np.allclose(found, b.astype(np.float32), rtol=1e-3, atol=1e-5, equal_nan=True)


def main() -> None:
    by_model = dict(outcomes())
    with_weights = {name: o for name, o in by_model.items() if o != NO_WEIGHTS}
    passed = sum(outcome == PASSED for outcome in with_weights.values())
    print(f"{passed} of {len(with_weights)} pass ({passed / len(with_weights):.1%})")
    for name, outcome in with_weights.items():
        if outcome != PASSED:
            print(f"  {name}: {outcome}")
    print(f"{NO_WEIGHTS}: {Counter(by_model.values())[NO_WEIGHTS]}")


if __name__ == "__main__":
    main()
