"""Networks over sequences: attention and recurrence."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.onnx.torch_modules.example import (
    BOTH,
    TORCHSCRIPT,
    VOCABULARY,
    WIDTH,
    Example,
    Mean,
    Residual,
)


class Attention(nn.Module):
    """Two heads, by PyTorch's fused function."""

    def __init__(self, causal: bool) -> None:
        super().__init__()
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.out = nn.Linear(WIDTH, WIDTH)
        self.causal = causal

    def forward(self, x: Tensor) -> Tensor:
        N, T, _ = x.shape
        q, k, v = self.qkv(x).view(N, T, 3, 2, WIDTH // 2).permute(2, 0, 3, 1, 4)
        h = functional.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        output: Tensor = self.out(h.transpose(1, 2).reshape(N, T, WIDTH))
        return output


def block(causal: bool) -> nn.Module:
    perceptron = (nn.Linear(WIDTH, 2 * WIDTH), nn.GELU(), nn.Linear(2 * WIDTH, WIDTH))
    return nn.Sequential(
        Residual(nn.Sequential(nn.LayerNorm(WIDTH), Attention(causal))),
        Residual(nn.Sequential(nn.LayerNorm(WIDTH), *perceptron)),
    )


class VisionTransformer(nn.Module):
    """Patches, a class token and learned positions."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(2, WIDTH, 3, stride=3)
        self.first = nn.Parameter(torch.zeros(1, 1, WIDTH))
        self.positions = nn.Parameter(torch.randn(1, 5, WIDTH))
        self.block = block(causal=False)
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.patches(x).flatten(2).transpose(1, 2)
        h = torch.cat([self.first.expand(x.shape[0], -1, -1), h], 1) + self.positions
        output: Tensor = self.head(self.norm(self.block(h))[:, 0])
        return output


class GPT(nn.Module):
    """Tokens in, logits out at the last two positions; the embedding is the readout."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(VOCABULARY, WIDTH)
        self.positions = nn.Embedding(6, WIDTH)
        self.block = block(causal=True)
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, VOCABULARY, bias=False)
        self.head.weight = self.tokens.weight

    def forward(self, x: Tensor) -> Tensor:
        places = torch.arange(x.shape[1], device=x.device)
        h = self.block(self.tokens(x) + self.positions(places))
        output: Tensor = self.head(self.norm(h))[:, -2:]
        return output


class MaskedAttention(nn.Module):
    """Attention written out, with padded tokens masked."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.q, self.k, self.v = (nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(3))
        self.head = nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.embedding(x)
        scores = self.q(h) @ self.k(h).transpose(-1, -2) / math.sqrt(WIDTH)
        scores = scores.masked_fill((x == 0)[:, None], float("-inf"))
        output: Tensor = self.head((torch.softmax(scores, -1) @ self.v(h)).mean(1))
        return output


class SelfAttention(nn.Module):
    """PyTorch's own multi-head attention."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(WIDTH, 2, batch_first=True)
        self.head = nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        h, _ = self.attention(x, x, x, need_weights=False)
        output: Tensor = self.head(h[:, 0])
        return output


def encoder_layer() -> nn.Module:
    return nn.Sequential(
        nn.TransformerEncoderLayer(WIDTH, 2, 2 * WIDTH, batch_first=True), Mean(1),
        nn.Linear(WIDTH, 3),
    )  # fmt: skip


def pooled_embedding() -> nn.Module:
    return nn.Sequential(nn.Embedding(VOCABULARY, WIDTH), Mean(1), nn.Tanh(), nn.Linear(WIDTH, 3))


class Recurrent(nn.Module):
    """A recurrent layer that is read at both ends, so that both directions count."""

    def __init__(self, recurrent: nn.Module, width: int) -> None:
        super().__init__()
        self.recurrent = recurrent
        self.readout = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        states, _ = self.recurrent(x)
        output: Tensor = self.readout(states[:, 0] + states[:, -1])
        return output


def lstm() -> nn.Module:
    return Recurrent(nn.LSTM(3, 4, num_layers=2, batch_first=True), 4)


def gru() -> nn.Module:
    return Recurrent(nn.GRU(3, 4, bidirectional=True, batch_first=True), 8)


def rnn() -> nn.Module:
    return Recurrent(nn.RNN(3, 4, nonlinearity="relu", batch_first=True), 4)


class LearnedState(nn.Module):
    """A GRU without biases, from a learned state."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.randn(1, 1, 4))
        self.recurrent = nn.GRU(3, 4, bias=False, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        _, state = self.recurrent(x, self.first.expand(-1, x.shape[0], -1).contiguous())
        output: Tensor = state[0]
        return output


EXAMPLES = (
    Example("ViT", VisionTransformer, ((2, 6, 6),), lost_in=BOTH),
    Example("ViT, batch of 3", VisionTransformer, ((2, 6, 6),), batch="all", lost_in=BOTH),
    Example("ViT, any batch", VisionTransformer, ((2, 6, 6),), batch="free", lost_in=TORCHSCRIPT),
    Example("GPT, tied embedding", GPT, ((6,),), tokens=True, lost_in=BOTH),
    Example(
        "GPT, tied embedding, any batch", GPT, ((6,),), tokens=True, batch="free", lost_in=BOTH
    ),
    Example("masked attention", MaskedAttention, ((5,),), tokens=True, lost_in=TORCHSCRIPT),
    Example("MultiheadAttention", SelfAttention, ((4, WIDTH),), lost_in=TORCHSCRIPT),
    Example("TransformerEncoderLayer", encoder_layer, ((4, WIDTH),), lost_in=TORCHSCRIPT),
    Example("embedding, mean, any batch", pooled_embedding, ((5,),), tokens=True, batch="free"),
    Example("LSTM, two layers", lstm, ((5, 3),), lost_in=TORCHSCRIPT),
    Example("LSTM, two layers, any batch", lstm, ((5, 3),), batch="free", lost_in=TORCHSCRIPT),
    Example("GRU, both directions", gru, ((5, 3),), lost_in=TORCHSCRIPT),
    Example("GRU, no biases, learned state", LearnedState, ((5, 3),), lost_in=BOTH),
    Example("RNN", rnn, ((5, 3),), lost_in=BOTH),
)
