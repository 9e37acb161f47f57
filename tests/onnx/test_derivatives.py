"""Derivative graphs in onnxruntime against finite differences in float64."""

from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

from mlx_entk import InputError
from mlx_entk.functions import as_parametric
from mlx_entk.kernel import Reduction
from mlx_entk.onnx import derivative, export
from mlx_entk.onnx.derivatives import What
from tests.models import MLP, Convolution, Image, Superposition, Transformer
from tests.onnx.layers import TOKENS, normal
from tests.reference import finite_difference_jacobian, from_jacobian, relative_error

MODELS: dict[str, tuple[nn.Module, mx.array, mx.array]] = {
    "dense": (MLP([3, 5, 2]), normal(4, 3), normal(3, 3) - 0.5),
    "tied": (Superposition(), normal(4, 5), normal(2, 5) + 0.5),
    "transformer": (Transformer(), TOKENS, mx.array([[4, 4, 0], [0, 1, 2], [3, 0, 3]])),
}


def graph_of(
    module: nn.Module, x: mx.array, what: What, path: Path, reduction: Reduction = "trace"
) -> onnxruntime.InferenceSession:
    function = as_parametric(module)
    exported = derivative(function, x, what, reduction)
    model = export(
        exported.function,
        list(exported.inputs.values()),
        path,
        params=function.params,
        input_names=list(exported.inputs),
        batches=exported.batches,
    )
    batch = {e.key: e.value for e in model.metadata_props}["batch"]
    assert (batch == "dynamic") == (not isinstance(module, Convolution | Image))
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def run(session: onnxruntime.InferenceSession, **inputs: Any) -> dict[str, NDArray[Any]]:
    names = [output.name for output in session.get_outputs()]
    found = session.run(names, {name: np.array(value) for name, value in inputs.items()})
    return dict(zip(names, found, strict=True))


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("reduction", ["full", "trace", "sum-of-logits", (1, 0)])
def test_the_kernel_of_new_inputs(name: str, reduction: Reduction, tmp_path: Path) -> None:
    module, example, x = MODELS[name]
    session = graph_of(module, example, "entk", tmp_path / "entk.onnx", reduction)

    found = run(session, x=x, x2=example)

    left, right = (finite_difference_jacobian(module, part) for part in (x, example))
    for parameter in left:
        K = from_jacobian(left[parameter], right[parameter])
        expected = {
            "full": K,
            "trace": np.einsum("nmcc->nm", K) / K.shape[2],
            "sum-of-logits": K.mean(axis=(2, 3)),
            (1, 0): K[:, :, 1, 0],
        }[reduction]
        assert found[f"kernel.{parameter}"].shape == expected.shape
        assert np.allclose(found[f"kernel.{parameter}"], expected, rtol=1e-4, atol=1e-5)
    parts = [value for key, value in found.items() if key != "kernel"]
    assert np.allclose(found["kernel"], np.sum(parts, axis=0), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", MODELS)
def test_jacobian_and_products_with_it(name: str, tmp_path: Path) -> None:
    module, example, x = MODELS[name]
    J = finite_difference_jacobian(module, x)
    N, C, _ = next(iter(J.values())).shape
    shapes = {key: value.shape for key, value in as_parametric(module).params.items()}
    generator = np.random.default_rng(0)
    u = {key: generator.standard_normal(shape) for key, shape in shapes.items()}
    cotangent = generator.standard_normal((N, C))

    rows = run(graph_of(module, example, "jacobian", tmp_path / "j.onnx"), x=x)
    pushed = run(
        graph_of(module, example, "jvp", tmp_path / "jvp.onnx"),
        x=x, **{f"tangent.{key}": value.astype(np.float32) for key, value in u.items()},
    )  # fmt: skip
    pulled = run(
        graph_of(module, example, "vjp", tmp_path / "vjp.onnx"),
        x=x, cotangent=cotangent.astype(np.float32),
    )  # fmt: skip

    change = sum(J[key] @ u[key].ravel() for key in J)
    assert relative_error(pushed["output_tangent"], np.asarray(change)) < 1e-5
    for key, value in J.items():
        assert np.allclose(rows[f"jacobian.{key}"].reshape(value.shape), value, atol=1e-5)
        gradient = np.einsum("nc,ncp->p", cotangent, value)
        assert np.allclose(pulled[f"gradient.{key}"].ravel(), gradient, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("module", "x"), [(Convolution(), normal(3, 4, 2)), (Image(), normal(2, 5, 6, 2))]
)
def test_convolutions_have_a_kernel_for_a_fixed_batch(
    module: nn.Module, x: mx.array, tmp_path: Path
) -> None:
    """MLX cannot vmap the gradient of their weights."""
    found = run(graph_of(module, x, "entk", tmp_path / "entk.onnx", "full"), x=x, x2=x)

    for name, J in finite_difference_jacobian(module, x).items():
        assert np.allclose(found[f"kernel.{name}"], from_jacobian(J), rtol=1e-4, atol=1e-5)


def test_what_has_no_graph_is_refused() -> None:
    dense = as_parametric(MLP([3, 2]))
    with pytest.raises(InputError, match="'hessian' is no graph of a model"):
        derivative(dense, normal(2, 3), "hessian")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="reduction 'mean' is unknown"):
        derivative(dense, normal(2, 3), "entk", "mean")
