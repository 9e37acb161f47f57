"""Small models for the tests, one for each way a layer can be used."""

from collections.abc import Sequence
from itertools import pairwise

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from numpy.typing import NDArray

from mlx_entk.parameters import flatten_tree, unflatten_tree


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
