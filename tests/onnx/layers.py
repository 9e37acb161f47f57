"""Layers as people use them, one of each, with inputs for them."""

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models.switch_layers import SwitchGLU

from tests.models import MLP, Seeded, Superposition, Transformer


def normal(*shape: int) -> mx.array:
    return mx.random.normal(shape, key=mx.random.key(1))


def written(
    at: Any, value: Callable[[mx.array], mx.array | float]
) -> Callable[[mx.array], mx.array]:
    """Return a function that writes into a part of a copy of its argument."""

    def function(x: mx.array) -> mx.array:
        copy = x * 1
        copy[at] = value(x)
        return copy

    return function


class Chain(Seeded):
    """Layers in a row, then a fixed combination of all they give."""

    def __init__(self, *layers: Callable[[mx.array], mx.array]) -> None:
        super().__init__()
        self.layers = list(layers)
        self.draw()

    def __call__(self, x: mx.array) -> mx.array:
        for layer in self.layers:
            x = layer(x)
        flat = x.reshape(x.shape[0], -1)
        return flat @ mx.sin(mx.arange(2.0 * flat.shape[1])).reshape(-1, 2)


class CausalAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiHeadAttention(8, 2)

    def __call__(self, x: mx.array) -> mx.array:
        mask = nn.MultiHeadAttention.create_additive_causal_mask(x.shape[1])
        output: mx.array = self.attention(x, x, x, mask=mask)
        return output


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.TransformerEncoder(2, 8, 2, 16)

    def __call__(self, x: mx.array) -> mx.array:
        output: mx.array = self.encoder(x, None)
        return output


class FirstOfPair(nn.Module):
    """A recurrent layer, whose first result is the hidden state at every step."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def __call__(self, x: mx.array) -> mx.array:
        states: mx.array = self.layer(x)[0]
        return states


class MixtureOfExperts(Seeded):
    """As mlx-lm writes it: the experts of a token by argpartition, then one product for all."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(6, 4, bias=False)
        self.experts = SwitchGLU(6, 5, 4)
        self.draw()

    def __call__(self, x: mx.array) -> mx.array:
        gates = mx.softmax(self.gate(x), axis=-1, precise=True)
        chosen = mx.stop_gradient(mx.argpartition(-gates, kth=1, axis=-1)[..., :2])
        scores = mx.take_along_axis(gates, chosen, axis=-1)
        output: mx.array = (self.experts(x, chosen) * scores[..., None]).sum(axis=-2)
        return output


def batch_norm_with_statistics() -> nn.Module:
    layer = nn.BatchNorm(4)
    layer.running_mean, layer.running_var = normal(4), mx.abs(normal(4)) + 0.5
    return layer.eval()


TOKENS = mx.array([[0, 3, 1], [2, 2, 4]])

Case = tuple[Callable[[], nn.Module], mx.array]

# Activations without settings, all on the same inputs.
ACTIVATIONS = (
    "CELU", "ELU", "GELU", "GLU", "HardShrink", "HardTanh", "Hardswish", "LeakyReLU",
    "LogSigmoid", "LogSoftmax", "Mish", "PReLU", "ReLU", "ReLU2", "ReLU6", "SELU", "SiLU",
    "Sigmoid", "Softmax", "Softmin", "Softplus", "Softshrink", "Softsign", "Step", "Tanh",
)  # fmt: skip

LAYERS: dict[str, Case] = {
    **{name: (getattr(nn, name), normal(2, 6)) for name in ACTIVATIONS},
    "GELU, tanh": (lambda: nn.GELU("precise"), normal(2, 6)),
    "GELU, sigmoid": (lambda: nn.GELU("fast"), normal(2, 6)),
    "Linear": (lambda: nn.Linear(3, 4), normal(2, 3)),
    "Linear on a sequence": (lambda: nn.Linear(3, 4, bias=False), normal(2, 5, 3)),
    "Embedding": (lambda: nn.Embedding(5, 4), TOKENS),
    "Conv1d": (lambda: nn.Conv1d(2, 4, 3, padding=1, stride=2, groups=2), normal(2, 9, 2)),
    "Conv2d": (lambda: nn.Conv2d(2, 3, (2, 3), padding=1, dilation=2), normal(2, 9, 8, 2)),
    "Conv3d": (lambda: nn.Conv3d(2, 3, 2), normal(2, 4, 4, 4, 2)),
    "ConvTranspose1d": (lambda: nn.ConvTranspose1d(2, 3, 3, stride=2), normal(2, 5, 2)),
    "ConvTranspose2d": (
        lambda: nn.ConvTranspose2d(2, 3, 3, stride=2, padding=1, output_padding=1),
        normal(2, 5, 4, 2),
    ),
    "LayerNorm": (lambda: nn.LayerNorm(4), normal(2, 3, 4)),
    "RMSNorm": (lambda: nn.RMSNorm(4), normal(2, 3, 4)),
    "GroupNorm": (lambda: nn.GroupNorm(2, 4), normal(2, 5, 4)),
    "GroupNorm as PyTorch's": (
        lambda: nn.GroupNorm(2, 4, pytorch_compatible=True),
        normal(2, 5, 4),
    ),
    "InstanceNorm": (lambda: nn.InstanceNorm(4, affine=True), normal(2, 5, 4)),
    "BatchNorm": (batch_norm_with_statistics, normal(6, 4)),
    "MultiHeadAttention, causal": (CausalAttention, normal(2, 3, 8)),
    "TransformerEncoder": (Encoder, normal(2, 3, 8)),
    "RoPE": (lambda: nn.RoPE(4), normal(2, 2, 3, 4)),
    "RoPE, traditional": (lambda: nn.RoPE(4, traditional=True), normal(2, 2, 3, 4)),
    "RoPE on half the features": (lambda: nn.RoPE(2), normal(2, 2, 3, 4)),
    "ALiBi": (nn.ALiBi, normal(2, 4, 3, 3)),
    "SinusoidalPositionalEncoding": (lambda: nn.SinusoidalPositionalEncoding(6), normal(2, 3)),
    "MaxPool1d": (lambda: nn.MaxPool1d(2), normal(2, 6, 3)),
    "MaxPool1d, overlapping": (lambda: nn.MaxPool1d(3, stride=1, padding=1), normal(2, 6, 3)),
    "MaxPool2d": (lambda: nn.MaxPool2d(2), normal(2, 6, 4, 3)),
    "AvgPool1d": (lambda: nn.AvgPool1d(2), normal(2, 6, 3)),
    "AvgPool2d, overlapping": (lambda: nn.AvgPool2d(3, stride=2, padding=1), normal(2, 6, 5, 3)),
    "Upsample": (lambda: nn.Upsample(2, mode="nearest"), normal(2, 3, 4, 2)),
    "Upsample, linear": (lambda: nn.Upsample(2, mode="linear"), normal(2, 3, 4, 2)),
    "RNN": (lambda: nn.RNN(3, 4), normal(2, 5, 3)),
    "GRU": (lambda: nn.GRU(3, 4), normal(2, 5, 3)),
    "LSTM": (lambda: FirstOfPair(nn.LSTM(3, 4)), normal(2, 5, 3)),
    "Dropout, evaluated": (
        lambda: nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5)).eval(),
        normal(2, 3),
    ),
    "a multilayer perceptron": (lambda: MLP([3, 5, 2]), normal(2, 3)),
    "superposition": (Superposition, normal(2, 5)),
    "a transformer with tied embedding": (Transformer, TOKENS),
}
