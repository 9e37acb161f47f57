"""Small models for the tests, one for each way a layer can be used."""

from collections.abc import Sequence
from itertools import pairwise

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from numpy.typing import NDArray

from mlx_entk._parameters import flatten_tree, unflatten_tree


class MLP(nn.Module):
    """Dense layers with tanh between them."""

    def __init__(self, sizes: Sequence[int], bias: bool = True, seed: int = 0):
        super().__init__()
        keys = mx.random.split(mx.random.key(seed), 2 * len(sizes))
        self.layers = []
        for i, (fan_in, fan_out) in enumerate(pairwise(sizes)):
            layer = nn.Linear(fan_in, fan_out, bias=bias)
            layer.weight = mx.random.normal((fan_out, fan_in), key=keys[2 * i]) / fan_in**0.5
            if bias:
                layer.bias = 0.3 * mx.random.normal((fan_out,), key=keys[2 * i + 1])
            self.layers.append(layer)

    def __call__(self, x: mx.array) -> mx.array:
        for layer in self.layers[:-1]:
            x = mx.tanh(layer(x))
        return self.layers[-1](x)


class Seeded(nn.Module):
    """Base for models whose parameters are drawn anew from a seed, in order of name."""

    def draw(self, seed: int = 0) -> None:
        leaves = flatten_tree(self.parameters())
        keys = mx.random.split(mx.random.key(seed), len(leaves))
        drawn = {
            name: 0.6 * mx.random.normal(value.shape, key=key)
            for (name, value), key in zip(leaves.items(), keys, strict=True)
        }
        self.update(unflatten_tree(drawn))


class Recurrent(Seeded):
    """One layer object used three times in a row."""

    def __init__(self) -> None:
        super().__init__()
        self.step = nn.Linear(3, 3)
        self.readout = nn.Linear(3, 2, bias=False)
        self.draw()

    def __call__(self, x: mx.array) -> mx.array:
        for _ in range(3):
            x = mx.tanh(self.step(x))
        return self.readout(x)


class SharedModule(Seeded):
    """The same layer object under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 3)
        self.second = self.first
        self.draw()

    def __call__(self, x: mx.array) -> mx.array:
        return self.second(mx.tanh(self.first(x)))


class TiedDecoder(Seeded):
    """A weight used by its layer, and again, transposed, by the model itself."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(4, 2, bias=False)
        self.head = nn.Linear(4, 3)
        self.draw()

    def __call__(self, x: mx.array) -> mx.array:
        return self.head(mx.tanh(self.encoder(x) @ self.encoder.weight))


class Sequence_(Seeded):  # noqa: N801
    """A layer over the positions of a sequence, pooled."""

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(3, 4)
        self.readout = nn.Linear(4, 2)
        self.draw()

    def __call__(self, x: mx.array) -> mx.array:
        return self.readout(mx.tanh(self.project(x)).mean(axis=1))


class TimeFirst(Seeded):
    """A layer that sees the positions before the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(3, 4)
        self.readout = nn.Linear(4, 2)
        self.draw()

    def __call__(self, x: mx.array) -> mx.array:
        hidden = mx.tanh(self.project(x.transpose(1, 0, 2)))
        return self.readout(hidden.mean(axis=0))


class Convolution(Seeded):
    """A convolution, whose weight gradient MLX cannot vmap, before a dense readout."""

    def __init__(self) -> None:
        super().__init__()
        self.filter = nn.Conv1d(2, 3, kernel_size=2)
        self.readout = nn.Linear(9, 2)
        self.draw()

    def __call__(self, x: mx.array) -> mx.array:
        return self.readout(mx.tanh(self.filter(x)).reshape(x.shape[0], -1))

    @staticmethod
    def numpy_forward(
        params: dict[str, NDArray[np.float64]], x: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """The same in NumPy: MLX convolves float64 with float32 inside."""
        windows = np.lib.stride_tricks.sliding_window_view(x, 2, axis=1)
        hidden = np.einsum("nlck,okc->nlo", windows, params["filter.weight"])
        hidden = np.tanh(hidden + params["filter.bias"]).reshape(len(x), -1)
        return np.asarray(hidden @ params["readout.weight"].T + params["readout.bias"])


class Doubled(nn.Linear):
    """A subclass of a dense layer that computes something else."""

    def __call__(self, x: mx.array) -> mx.array:
        return 2 * super().__call__(x)


class Subclassed(Seeded):
    """A model whose layer only looks dense."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Doubled(3, 3)
        self.readout = nn.Linear(3, 2)
        self.draw()

    def __call__(self, x: mx.array) -> mx.array:
        return self.readout(mx.tanh(self.inner(x)))


class Superposition(Seeded):
    """ReLU(WᵀWx + b), the toy model of superposition: one bare weight, used on both its axes."""

    def __init__(self) -> None:
        super().__init__()
        self.W = mx.zeros((2, 5))
        self.b = mx.zeros((5,))
        self.draw()

    def __call__(self, x: mx.array) -> mx.array:
        return mx.maximum((x @ self.W.T) @ self.W + self.b, 0)


class ColumnProduct(Seeded):
    """Weights to the left of columns, as W @ h, and a product of two parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.A = mx.zeros((4, 3))
        self.B = mx.zeros((2, 3))
        self.C = mx.zeros((3, 4))
        self.draw()

    def __call__(self, x: mx.array) -> mx.array:
        columns = mx.tanh(self.A @ x.transpose(0, 2, 1))
        return mx.sum((self.B @ self.C) @ columns, axis=2)


class Image(Seeded):
    """Two-dimensional convolutions with padding, stride and dilation."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 3, kernel_size=(2, 3), padding=1, stride=(2, 1))
        self.second = nn.Conv2d(3, 2, kernel_size=2, dilation=2, bias=False)
        self.draw()

    def __call__(self, x: mx.array) -> mx.array:
        return mx.sum(self.second(mx.tanh(self.first(x))), axis=(1, 2))

    @staticmethod
    def numpy_forward(
        params: dict[str, NDArray[np.float64]], x: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """The same in NumPy, tap by tap."""

        def convolve(
            x: NDArray[np.float64], weight: NDArray[np.float64], stride: tuple[int, int], gap: int
        ) -> NDArray[np.float64]:
            rows, columns = weight.shape[1:3]
            height = (x.shape[1] - gap * (rows - 1) - 1) // stride[0] + 1
            width = (x.shape[2] - gap * (columns - 1) - 1) // stride[1] + 1
            total = np.zeros((len(x), height, width, weight.shape[0]))
            for i in range(rows):
                for j in range(columns):
                    part = x[:, gap * i :: stride[0], gap * j :: stride[1]][:, :height, :width]
                    total += part @ weight[:, i, j].T
            return total

        padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        hidden = convolve(padded, params["first.weight"], (2, 1), 1) + params["first.bias"]
        outputs = convolve(np.tanh(hidden), params["second.weight"], (1, 1), 2)
        return np.asarray(outputs.sum(axis=(1, 2)))


class Transformer(Seeded):
    """Tied embedding, positions, layer and RMS norms, attention, and a dense layer."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 4)
        self.positions = mx.zeros((3, 4))
        self.norm = nn.LayerNorm(4)
        self.attention = nn.MultiHeadAttention(4, 2)
        self.scale = nn.RMSNorm(4)
        self.dense = nn.Linear(4, 4)
        self.draw()

    def __call__(self, tokens: mx.array) -> mx.array:
        h = self.embedding(tokens) + self.positions
        normed = self.norm(h)
        h = h + self.attention(normed, normed, normed)
        h = h + mx.tanh(self.dense(self.scale(h)))
        return mx.matmul(h[:, -1], self.embedding.weight.T)

    @staticmethod
    def numpy_forward(
        params: dict[str, NDArray[np.float64]], tokens: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """The same in NumPy: MLX's float64 softmax computes in float32."""
        E = params["embedding.weight"]
        h = E[tokens.astype(int)] + params["positions"]
        centered = h - h.mean(-1, keepdims=True)
        normed = centered / np.sqrt((centered**2).mean(-1, keepdims=True) + 1e-5)
        normed = normed * params["norm.weight"] + params["norm.bias"]
        queries, keys, values = (
            (normed @ params[f"attention.{name}_proj.weight"].T).reshape(len(h), 3, 2, 2)
            for name in ("query", "key", "value")
        )
        scores = np.einsum("nqhd,nkhd->nhqk", queries, keys) / np.sqrt(2)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        mixed = np.einsum("nhqk,nkhd->nqhd", weights, values).reshape(len(h), 3, 4)
        h = h + mixed @ params["attention.out_proj.weight"].T
        scaled = h / np.sqrt((h**2).mean(-1, keepdims=True) + 1e-5) * params["scale.weight"]
        h = h + np.tanh(scaled @ params["dense.weight"].T + params["dense.bias"])
        return np.asarray(h[:, -1] @ E.T)
