"""Derivative graphs in onnxruntime against finite differences in float64."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, get_args

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

from mlx_entk import InputError
from mlx_entk._parameters import flatten_tree
from mlx_entk.kernel import Reduction
from mlx_entk.onnx import derivative, export
from mlx_entk.onnx.derivatives import What
from mlx_entk.tracing.functions import as_parametric
from tests.models import MLP, Convolution, Image, Seeded, Superposition, Transformer
from tests.onnx.layers import TOKENS, Chain, MixtureOfExperts, normal, written
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
    assert (batch == "dynamic") == (not isinstance(module, Unmapped))
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def run(session: onnxruntime.InferenceSession, **inputs: Any) -> dict[str, NDArray[Any]]:
    names = [output.name for output in session.get_outputs()]
    outputs = session.run(names, {name: np.array(value) for name, value in inputs.items()})
    return dict(zip(names, outputs, strict=True))


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("reduction", ["full", "trace", "sum-of-logits", (1, 0)])
def test_the_kernel_of_new_inputs(name: str, reduction: Reduction, tmp_path: Path) -> None:
    module, example, x = MODELS[name]
    session = graph_of(module, example, "entk", tmp_path / "entk.onnx", reduction)

    kernels = run(session, x=x, x2=example)

    left, right = (finite_difference_jacobian(module, part) for part in (x, example))
    for parameter in left:
        K = from_jacobian(left[parameter], right[parameter])
        expected = {
            "full": K,
            "trace": np.einsum("nmcc->nm", K) / K.shape[2],
            "sum-of-logits": K.mean(axis=(2, 3)),
            (1, 0): K[:, :, 1, 0],
        }[reduction]
        assert kernels[f"kernel.{parameter}"].shape == expected.shape
        assert np.allclose(kernels[f"kernel.{parameter}"], expected, rtol=1e-4, atol=1e-5)
    total = sum(value for key, value in kernels.items() if key != "kernel")
    assert np.allclose(kernels["kernel"], total, rtol=1e-5, atol=1e-6)


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


class Unmapped(Chain):
    """MLX maps no gradient of a convolution by its weight, and its graph hides a derivative."""

    def __init__(self) -> None:
        super().__init__(nn.Conv1d(2, 3, 2), lambda h: mx.tanh(h) * mx.stop_gradient(h))


def test_what_mlx_cannot_map_has_a_kernel_for_a_fixed_batch(tmp_path: Path) -> None:
    module, x = Unmapped(), normal(3, 4, 2)

    kernels = run(graph_of(module, x, "entk", tmp_path / "entk.onnx", "full"), x=x, x2=x)

    for name, J in plain_jacobian(module, x).items():
        assert np.allclose(kernels[f"kernel.{name}"], from_jacobian(J), rtol=1e-4, atol=1e-5)


EVERY = slice(None)
# Between a dense layer and the readout; some of MLX's rules for these are wrong or missing.
BETWEEN: dict[str, Callable[[mx.array], mx.array]] = {
    "all but the last two": lambda h: h[..., :-2],
    "backwards": lambda h: h[:, ::-1],
    "backwards with gaps": lambda h: h[:, ::-2],
    "differences": lambda h: h[:, 1:] - h[:, :-1],
    "nothing": lambda h: mx.concatenate([h[:, 3:1], h], axis=1),
    "inputs backwards, twice": lambda h: mx.tanh(h[::-1])[::-1],
    "masked": written((EVERY, slice(1, 3)), lambda h: 0.0),
    "masked with gaps": written((..., slice(None, None, 2)), lambda h: 0.0),
    "last one masked": written((EVERY, -1), lambda h: 0.0),
    "moved": written((EVERY, slice(1, 3)), lambda h: 2 * h[:, :2]),
    "moved backwards": written((EVERY, slice(None, None, -1)), lambda h: mx.square(h)),
    "scaled": lambda h: h.at[:, 1:3].multiply(2.0),
    "scaled by itself": lambda h: h.at[:, 1:3].multiply(h[:, :2]),
    "larger ones": lambda h: h.at[:, 1:3].maximum(h[:, :2]),
    "into a buffer": lambda h: mx.zeros((h.shape[0], 9, 6), dtype=h.dtype).at[:, 2:6].add(h),
    "rows taken twice": lambda h: h.at[:, mx.array([0, 0, 2])].add(h[:, :3]),
    "product": lambda h: mx.prod(h, axis=1),
    "cumulative product": lambda h: mx.cumprod(h, axis=1),
    "running maximum": lambda h: mx.cummax(h, axis=1, reverse=True),
    "sorted": lambda h: mx.sort(h, axis=-1),
}


@pytest.mark.parametrize("name", BETWEEN)
def test_every_derivative_of_operations_with_difficult_rules(name: str, tmp_path: Path) -> None:
    module, x = Chain(nn.Linear(3, 6), mx.tanh, BETWEEN[name]), normal(3, 4, 3)

    check_derivatives(module, x, finite_difference_jacobian(module, longer(x)), tmp_path)


def plain_jacobian(module: nn.Module, x: mx.array) -> dict[str, NDArray[np.float64]]:
    """One backward pass of MLX for each input and output: its float64 does not do convolutions."""
    function = as_parametric(module)
    names, values = list(function.params), list(function.params.values())
    basis = mx.eye(function.apply({}, x).shape[1])

    def outputs(*p: mx.array, row: mx.array) -> mx.array:
        return function.apply(dict(zip(names, p, strict=True)), row[None])

    rows = [[mx.vjp(partial(outputs, row=row), values, [ct[None]])[1] for ct in basis] for row in x]
    return {
        name: np.array(
            [[np.array(gradients[i]).ravel() for gradients in of_row] for of_row in rows]
        )
        for i, name in enumerate(names)
    }


def longer(x: mx.array) -> mx.array:
    """Two inputs more: another batch size."""
    return mx.concatenate([x, 0.5 * x[:2] - 0.1])


@pytest.mark.parametrize(
    ("module", "x"),
    [
        (Convolution(), normal(3, 4, 2)),
        (Image(), normal(2, 5, 6, 2)),
        (Chain(nn.GRU(3, 4)), normal(3, 4, 3)),
        (Chain(MixtureOfExperts()), normal(2, 3, 6)),
        (Chain(MixtureOfExperts()), normal(2, 40, 6)),  # so many that mlx-lm sorts them
        (Chain(nn.Conv1d(4, 8, 3, groups=2, padding=1), mx.tanh), normal(3, 6, 4)),
        (Chain(nn.Linear(3, 4), nn.Conv1d(4, 4, 2, groups=4, stride=2)), normal(3, 6, 3)),
        (
            Chain(nn.Conv1d(4, 8, 3, groups=2), mx.tanh, nn.Conv1d(8, 4, 2, groups=4, dilation=2)),
            normal(2, 8, 4),
        ),
        (Chain(nn.Conv2d(4, 4, 3, groups=4, padding=1)), normal(2, 5, 4, 4)),
        (Chain(nn.ConvTranspose1d(3, 4, 3, stride=2, padding=1)), normal(2, 4, 3)),
        (
            Chain(nn.Linear(2, 3), nn.ConvTranspose2d(3, 2, 3, stride=2, padding=1)),
            normal(2, 3, 4, 2),
        ),
    ],
)
def test_every_derivative_of_layers_with_difficult_rules(
    module: nn.Module, x: mx.array, tmp_path: Path
) -> None:
    check_derivatives(module, x, plain_jacobian(module, longer(x)), tmp_path)


# Rounded, with the derivative of the identity.
straight_through: Any = mx.custom_function(lambda x: mx.round(4 * x) / 4)
straight_through.vjp(lambda primals, cotangents, outputs: cotangents)


class Noisy(Seeded):
    """A scale without axes, and numbers drawn in each call, by a key that is always the same."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(3, 4)
        self.scale = mx.array(1.0)
        self.draw()

    def __call__(self, x: mx.array) -> mx.array:
        noise = mx.random.normal((4,), key=mx.random.key(7))
        return (self.scale * mx.tanh(self.inner(x) + noise))[:, :2]


class Checkpointed(Seeded):
    """Two layers and all of it run again in the backward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 5), nn.Linear(5, 2)
        self.draw()

    def __call__(self, x: mx.array) -> mx.array:
        def both(x: mx.array) -> mx.array:
            h = mx.tanh(nn.utils.checkpoint(self.first)(x))
            return mx.checkpoint(mx.sin)(nn.utils.checkpoint(self.second)(h))

        outputs: mx.array = nn.utils.checkpoint(self, both)(x)
        return outputs


class CheckpointedEncoder(Chain):
    """The layers of a transformer run again in the backward pass, as MLX's own option does it."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.TransformerEncoder(1, 4, 2, 5, checkpoint=True)
        self.draw()

    def __call__(self, x: mx.array) -> mx.array:
        return super().__call__(self.encoder(x, None))


class Closing(Seeded):
    """MLX finds no derivative by what a checkpoint closes over."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 5), nn.Linear(5, 2)
        self.draw()

    def __call__(self, x: mx.array) -> mx.array:
        return mx.checkpoint(lambda h: self.second(mx.tanh(h)))(self.first(x))


def test_a_derivative_that_a_checkpoint_hides_is_refused(tmp_path: Path) -> None:
    function, x = as_parametric(Closing()), normal(3, 3)

    exported = derivative(function, x, "vjp")
    with pytest.raises(InputError, match=r"what is inside mx\.checkpoint, .* without it$"):
        export(
            exported.function, list(exported.inputs.values()), tmp_path / "g.onnx",
            params=function.params, batches=exported.batches,
        )  # fmt: skip


@pytest.mark.parametrize(
    ("module", "x"),
    [
        (Noisy(), normal(3, 3)),
        (Checkpointed(), normal(3, 3)),
        (CheckpointedEncoder(), normal(2, 3, 4)),
        (Chain(nn.Linear(3, 4), straight_through), normal(3, 3)),
    ],
)
def test_every_derivative_of_what_mlx_reports_in_part(
    module: nn.Module, x: mx.array, tmp_path: Path
) -> None:
    before = {name: np.array(value) for name, value in flatten_tree(module.parameters()).items()}

    check_derivatives(module, x, plain_jacobian(module, longer(x)), tmp_path)

    for name, value in flatten_tree(module.parameters()).items():
        assert np.array_equal(np.array(value), before[name])


def check_derivatives(
    module: nn.Module, x: mx.array, J: dict[str, NDArray[np.float64]], folder: Path
) -> None:
    """All derivative graphs, whose batch is free, for the inputs and for ``longer(x)``.

    ``J`` is the Jacobian of the longer batch.
    """
    function = as_parametric(module)
    generator = np.random.default_rng(0)
    u = {
        k: generator.standard_normal(v.shape).astype(np.float32) for k, v in function.params.items()
    }
    for what in get_args(What):
        exported = derivative(function, x, what)
        model = export(
            exported.function, list(exported.inputs.values()), folder / "g.onnx",
            params=function.params, input_names=list(exported.inputs), batches=exported.batches,
        )  # fmt: skip
        assert {e.key: e.value for e in model.metadata_props}["batch"] == "dynamic"
        session = onnxruntime.InferenceSession(str(folder / "g.onnx"))
        for rows in (x, longer(x)):
            N = rows.shape[0]
            part = {key: value[:N] for key, value in J.items()}
            C = next(iter(part.values())).shape[1]
            cotangent = generator.standard_normal((N, C)).astype(np.float32)
            feed: dict[str, Any] = {"x": rows}
            if what == "entk":
                feed["x2"] = rows
            if what == "vjp":
                feed["cotangent"] = cotangent
            if what == "jvp":
                feed |= {f"tangent.{key}": value for key, value in u.items()}
            actual = run(session, **feed)
            kernels = {
                f"kernel.{key}": np.einsum("ncp,mcp->nm", v, v) / C for key, v in part.items()
            }
            expected: dict[str, NDArray[Any]] = {
                "model": {"output": np.array(function.apply({}, rows))},
                "jacobian": {f"jacobian.{key}": v for key, v in part.items()},
                "entk": {**kernels, "kernel": sum(kernels.values())},
                "vjp": {
                    f"gradient.{key}": np.einsum("nc,ncp->p", cotangent, v)
                    for key, v in part.items()
                },
                "jvp": {"output_tangent": sum(v @ u[key].ravel() for key, v in part.items())},
            }[what]
            assert actual.keys() == expected.keys()
            largest = max(np.abs(value).max() for value in expected.values())
            for key, value in expected.items():
                error = np.abs(actual[key].ravel() - value.ravel()).max()
                assert error < 1e-4 * largest, (what, key, N)


def test_what_has_no_graph_is_refused() -> None:
    dense = as_parametric(MLP([3, 2]))
    with pytest.raises(
        InputError, match="'hessian' is not a graph of a model: use model, jacobian"
    ):
        derivative(dense, normal(2, 3), "hessian")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="reduction 'mean' is unknown"):
        derivative(dense, normal(2, 3), "entk", "mean")


def test_a_model_that_mlx_cannot_differentiate_is_refused() -> None:
    taken = Chain(nn.Linear(3, 4), lambda h: h.at[:, mx.array([0, 2])].multiply(h[:, :2]))
    with pytest.raises(InputError, match=r"cannot be differentiated: \[scatter\] VJP not impl"):
        derivative(as_parametric(taken), normal(2, 3), "jacobian")
