"""Random architectures: every strategy against ``torch.func`` in float64.

An architecture is written once, over the few operations that MLX and PyTorch have in common, and
run in both.
"""

from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_entk import entk, layerwise_entk
from tests.kernel.test_engine import error_of
from tests.reference import from_jacobian

D, T, VOCABULARY = 4, 3, 5


class MlxOps:
    """The operations in MLX."""

    tanh, relu, sqrt = mx.tanh, staticmethod(lambda v: mx.maximum(v, 0)), mx.sqrt
    gelu = staticmethod(lambda v: v * (1 + mx.erf(v / 2**0.5)) / 2)

    @staticmethod
    def softmax(v: Any) -> Any:
        return mx.softmax(v, axis=-1)

    @staticmethod
    def mean(v: Any, axis: int) -> Any:
        return mx.mean(v, axis=axis, keepdims=True)

    @staticmethod
    def swap(v: Any) -> Any:
        return mx.swapaxes(v, -1, -2)

    @staticmethod
    def convolve(v: Any, weight: Any) -> Any:
        return mx.conv1d(v, weight, padding=1)


class TorchOps:
    """The operations in PyTorch."""

    tanh, relu, sqrt = torch.tanh, torch.relu, torch.sqrt
    gelu = torch.nn.functional.gelu

    @staticmethod
    def softmax(v: Any) -> Any:
        return torch.softmax(v, dim=-1)

    @staticmethod
    def mean(v: Any, axis: int) -> Any:
        return torch.mean(v, dim=axis, keepdim=True)

    @staticmethod
    def swap(v: Any) -> Any:
        return v.transpose(-1, -2)

    @staticmethod
    def convolve(v: Any, weight: Any) -> Any:
        channels_first = torch.nn.functional.conv1d(
            v.transpose(1, 2), weight.permute(0, 2, 1), padding=1
        )
        return channels_first.transpose(1, 2)


SHAPES: dict[str, dict[str, tuple[int, ...]]] = {
    "dense": {"W": (D, D)},
    "biased": {"W": (D, D), "b": (D,)},
    "layer norm": {"g": (D,), "b": (D,)},
    "rms norm": {"g": (D,)},
    "convolution": {"W": (D, 3, D), "b": (D,)},
    "attention": {"Q": (D, D), "K": (D, D), "V": (D, D), "O": (D, D)},
    "positions": {"P": (T, D)},
    "twice": {"W": (2, D)},
}


@dataclass(frozen=True)
class Architecture:
    """Blocks over a sequence of T vectors of width D, and how they begin and end.

    Attributes
    ----------
    blocks
        Kinds, with the number of the parameters they use: equal numbers share them.
    activation
        After each dense block.
    tokens
        Whether inputs are tokens, embedded, or vectors.
    tied
        Whether the readout is the embedding (tokens only).
    pool
        Whether positions are averaged, or the last one counts.
    """

    blocks: tuple[tuple[str, int], ...]
    activation: str
    tokens: bool
    tied: bool
    pool: bool

    def shapes(self) -> dict[str, tuple[int, ...]]:
        shapes = {
            f"{kind} {number} {name}": shape
            for kind, number in self.blocks
            for name, shape in SHAPES[kind].items()
        }
        if self.tokens:
            shapes["embedding"] = (VOCABULARY, D)
        if not (self.tokens and self.tied):
            shapes["readout"] = (3, D)
        return shapes

    def run(self, ops: Any, params: dict[str, Any], x: Any) -> Any:
        h = params["embedding"][x] if self.tokens else x
        for kind, number in self.blocks:
            own = {name: params[f"{kind} {number} {name}"] for name in SHAPES[kind]}
            h = getattr(self, f"_{kind.replace(' ', '_')}")(ops, h, **own)
        h = ops.mean(h, 1)[:, 0] if self.pool else h[:, -1]
        return h @ params["embedding" if self.tokens and self.tied else "readout"].T

    def _dense(self, ops: Any, h: Any, W: Any) -> Any:
        return getattr(ops, self.activation)(h @ W.T)

    def _biased(self, ops: Any, h: Any, W: Any, b: Any) -> Any:
        return h + getattr(ops, self.activation)(h @ W + b)

    def _layer_norm(self, ops: Any, h: Any, g: Any, b: Any) -> Any:
        h = h - ops.mean(h, -1)
        return h / ops.sqrt(ops.mean(h * h, -1) + 0.1) * g + b

    def _rms_norm(self, ops: Any, h: Any, g: Any) -> Any:
        return h / ops.sqrt(ops.mean(h * h, -1) + 0.1) * g

    def _convolution(self, ops: Any, h: Any, W: Any, b: Any) -> Any:
        return h + ops.tanh(ops.convolve(h, W) + b)

    def _attention(self, ops: Any, h: Any, Q: Any, K: Any, V: Any, O: Any) -> Any:  # noqa: E741
        weights = ops.softmax((h @ Q.T) @ ops.swap(h @ K.T) / D**0.5)
        return h + (weights @ (h @ V.T)) @ O.T

    def _positions(self, ops: Any, h: Any, P: Any) -> Any:
        return h + P

    def _twice(self, ops: Any, h: Any, W: Any) -> Any:
        return ops.tanh((h @ W.T) @ W)


architectures = st.builds(
    Architecture,
    blocks=st.lists(
        st.tuples(st.sampled_from(sorted(SHAPES)), st.integers(0, 1)), min_size=1, max_size=4
    ).map(tuple),
    activation=st.sampled_from(["tanh", "relu", "gelu"]),
    tokens=st.booleans(),
    tied=st.booleans(),
    pool=st.booleans(),
)


@settings(max_examples=40, deadline=None)
@given(
    architecture=architectures,
    seed=st.integers(0, 10_000),
    reduction=st.sampled_from(["full", "trace", "sum-of-logits", (0, 2)]),
)
def test_every_strategy_agrees_with_torch(
    architecture: Architecture, seed: int, reduction: Any
) -> None:
    generator = np.random.default_rng(seed)
    params = {
        name: generator.standard_normal(shape) * 0.7
        for name, shape in architecture.shapes().items()
    }
    x: np.ndarray = generator.standard_normal((4, T, D))
    if architecture.tokens:
        x = generator.integers(0, VOCABULARY, (4, T))
    wide = {name: torch.from_numpy(value) for name, value in params.items()}

    def one(values: dict[str, torch.Tensor], row: torch.Tensor) -> torch.Tensor:
        return torch.as_tensor(architecture.run(TorchOps, values, row[None])[0])

    jacobian = torch.func.vmap(torch.func.jacrev(one), (None, 0))(wide, torch.from_numpy(x))
    narrow = {name: mx.array(value, dtype=mx.float32) for name, value in params.items()}
    inputs = mx.array(x.astype(np.int32 if architecture.tokens else np.float32))
    expected = {
        name: from_jacobian(J.flatten(2).numpy().astype(np.float64)) for name, J in jacobian.items()
    }
    scale = max(np.abs(kernel).max() for kernel in expected.values())

    def model(values: Any, x: mx.array) -> Any:
        return architecture.run(MlxOps, values, x)

    for strategy in ("auto", "structured-derivatives", "jacobian-contraction"):
        options: dict[str, Any] = {"params": narrow, "reduction": reduction, "strategy": strategy}
        by_layer = layerwise_entk(model, inputs, **options)
        assert by_layer.keys() == expected.keys()
        for name, kernel in expected.items():
            error = error_of(by_layer[name], kernel, reduction) * np.abs(kernel).max()
            assert error <= 1e-5 * scale, (strategy, name)
        whole = sum(by_layer.values(), np.zeros(()))
        np.testing.assert_allclose(entk(model, inputs, **options), whole, rtol=0, atol=1e-5 * scale)
    if reduction in ("trace", "sum-of-logits"):
        np.testing.assert_allclose(whole, whole.T, atol=1e-5 * scale)
        assert np.linalg.eigvalsh(whole.astype(np.float64)).min() >= -1e-5 * scale
