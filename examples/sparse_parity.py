r"""Sparse parity: a network that has to find two of eight bits.

The label of a string of eight bits is the parity of the first two; the other six are noise. A
feature bank of all single bits and all products of two bits shows what the kernel sees. Before
training its first group of modes are the eight bits and its second all the products of two;
after training the product that is the label has moved up into the first group.

    python -m examples.sparse_parity parity
    mlx-entk kernel --model examples.sparse_parity:make_model \
        --weights parity/weights.safetensors --inputs parity/inputs.npz \
        --features parity/features.npz --by-layer --out runs/parity

A model of your own needs the same three things: a factory without arguments, its weights, and
inputs; features only if you know some.
"""

import itertools
import sys
from functools import partial
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np

BITS, WIDTH, STEPS = 8, 64, 600


def make_model() -> nn.Module:
    """A network of one hidden layer, with weights drawn anew but always the same."""
    mx.random.seed(0)
    return nn.Sequential(nn.Linear(BITS, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 1))


def all_strings() -> np.ndarray:
    """Every string of eight bits as ±1, shape (256, 8)."""
    return np.array(list(itertools.product([-1.0, 1.0], repeat=BITS)), dtype=np.float32)


def features(x: np.ndarray) -> dict[str, np.ndarray]:
    """Families of functions of the bits, shape (256, k) each."""
    pairs = [x[:, i] * x[:, j] for i, j in itertools.combinations(range(BITS), 2)]
    return {
        "single bits": x,
        "relevant bits": x[:, :2],
        "products of two": np.stack(pairs, axis=1),
        "the label": x[:, :1] * x[:, 1:2],
    }


def train(model: nn.Module, x: mx.array, y: mx.array) -> float:
    """Fit the label; returns the share of strings with the right sign."""
    optimizer = optim.Adam(learning_rate=0.01)
    loss_and_gradient = nn.value_and_grad(model, lambda m: nn.losses.mse_loss(m(x), y))

    state = [model.state, optimizer.state]

    @partial(mx.compile, inputs=state, outputs=state)
    def step() -> None:
        _, gradient = loss_and_gradient(model)
        optimizer.update(model, gradient)

    for _ in range(STEPS):
        step()
        mx.eval(state)
    return float(mx.mean((model(x) > 0) == (y > 0)))


def main(folder: Path) -> None:
    """Train the model and write weights, inputs and features into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    x = all_strings()
    bank = features(x)
    model = make_model()
    accuracy = train(model, mx.array(x), mx.array(bank["the label"]))
    model.save_weights(str(folder / "weights.safetensors"))
    np.savez(folder / "inputs.npz", x=x)
    np.savez(folder / "features.npz", allow_pickle=False, **bank)
    print(f"accuracy {accuracy:.1%}; weights, inputs and features are in {folder}/")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "parity"))
