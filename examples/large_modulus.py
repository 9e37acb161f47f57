r"""Modular addition with p = 113: the network of `mlx-entk modular mlp`, sixteen times the inputs.

The study follows its kernels over training, which takes days for 12,769 inputs. This trains the
network until it generalises, and one command then looks at its kernel alone:

    python -m examples.large_modulus p113
    mlx-entk kernel --model examples.large_modulus:make_model \
        --weights p113/weights.safetensors --inputs p113/inputs.npz \
        --features p113/features.npz --top 460 --groups 1-224,225-448 --out runs/p113

The groups of modes are those that theory expects. It takes about 2 GB and some minutes. The network
before training, which the command compares with, is what `make_model` gives.
"""

import sys
from functools import partial
from pathlib import Path

import mlx_entk  # noqa: F401  isort: skip  (before mlx: on Linux it gives MLX a fast BLAS)

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np

from mlx_entk.data import modular_addition
from mlx_entk.features import modular_features
from mlx_entk.models import QuadraticMLP

P, WIDTH, TRAIN_FRACTION, SEED = 113, 512, 0.7, 0
# Epochs at most, between two looks at the test pairs, and after the first that are all right.
EPOCHS, EVERY, HOLD = 2000, 10, 350
FAMILIES = ("n", "m", "n ∪ m", "sum", "difference", "random")


def make_model() -> QuadraticMLP:
    """The network before training."""
    return QuadraticMLP(P, WIDTH, SEED)


def train(model: nn.Module) -> int:
    """Train full batch until all test pairs have been right for a while; returns the epoch."""
    data = modular_addition(P, TRAIN_FRACTION, SEED)
    x, labels = mx.array(data.x), mx.array(data.labels)
    train, test = mx.array(data.train), mx.array(data.test)
    given, wanted = x[train], mx.eye(P)[labels[train]]
    optimizer = optim.AdamW(learning_rate=0.05, weight_decay=0.01, bias_correction=True)
    loss_and_gradient = nn.value_and_grad(model, lambda m: nn.losses.mse_loss(m(given), wanted))
    state = [model.state, optimizer.state]

    @partial(mx.compile, inputs=state, outputs=state)
    def step() -> mx.array:
        loss, gradient = loss_and_gradient(model)
        optimizer.update(model, gradient)
        return mx.array(loss)

    since: int | None = None
    for epoch in range(1, EPOCHS + 1):
        loss = step()
        mx.eval(state, loss)
        if epoch % EVERY:
            continue
        wrong = int(mx.sum(mx.argmax(model(x[test]), axis=1) != labels[test]))
        accuracy = 1 - wrong / test.size
        print(f"epoch {epoch}: loss {float(loss):.5f}, test accuracy {accuracy:.2%}", flush=True)
        since = None if wrong else since or epoch
        if since and epoch - since >= HOLD:
            return epoch
    return EPOCHS


def main(folder: Path) -> None:
    """Train the network and write weights, inputs and features into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    data = modular_addition(P, TRAIN_FRACTION, SEED)
    bank = modular_features(data.n, data.m, P, SEED)
    np.savez(folder / "inputs.npz", x=data.x)
    np.savez(
        folder / "features.npz",
        allow_pickle=False,
        **{name: bank[name].astype(np.float32) for name in FAMILIES},
    )
    model = make_model()
    epoch = train(model)
    model.save_weights(str(folder / "weights.safetensors"))
    print(f"trained for {epoch} epochs; weights, inputs and features are in {folder}/")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "p113"))
