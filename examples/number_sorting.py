r"""Number sorting: a one-layer transformer of attention alone puts four numbers in order.

A row is four different numbers from 0 to 10, a separator, and the same numbers in order; the
network tells each of the latter from what comes before it. There are no positions and no
multi-layer perceptron, so attention has to find the next larger number. The kernel is that of the
logits of the second number of the answer:

    python -m examples.number_sorting sorting
    mlx-entk kernel --model examples.number_sorting:make_model \
        --weights sorting/weights.safetensors --inputs sorting/inputs.npz \
        --features sorting/features.npz --reduction sum-of-logits --by-layer --top 60 \
        --out runs/sorting
"""

import sys
from functools import partial
from pathlib import Path

import mlx_entk  # noqa: F401  isort: skip  (before mlx: on Linux it gives MLX a fast BLAS)

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np

LENGTH, NUMBERS, WIDTH = 4, 11, 48
SEPARATOR = NUMBERS
LISTS, HELD_OUT, BATCH, EPOCHS = 2048, 1024, 64, 25
# Which sorted number the kernel's outputs tell, counted from 0; and inputs of the kernel.
TOLD, ROWS = 1, 1024


class Attention(nn.Module):
    """One causal head, without positions."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = (
            nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(4)
        )

    def __call__(self, x: mx.array) -> mx.array:
        """What each position gathers from itself and those before, shape (N, T, 48)."""
        scores = self.query(x) @ self.key(x).swapaxes(-1, -2) / WIDTH**0.5
        hidden = mx.triu(mx.full(scores.shape[-2:], -1e9), k=1)
        return self.out(mx.softmax(scores + hidden, axis=-1) @ self.value(x))


class Sorter(nn.Module):
    """Logits of the next token at every position of the answer, shape (N, 4, 12)."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(NUMBERS + 1, WIDTH)
        self.norm = nn.LayerNorm(WIDTH)
        self.attention = Attention()
        self.unembedding = nn.Linear(WIDTH, NUMBERS + 1, bias=False)

    def answers(self, tokens: mx.array) -> mx.array:
        """For tokens of shape (N, 8): all but the last sorted number."""
        x = self.embedding(tokens)
        x = x + self.attention(self.norm(x))
        return self.unembedding(x[:, LENGTH:])

    def __call__(self, tokens: mx.array) -> mx.array:
        """Logits of the sorted number that the kernel is about, shape (N, 12)."""
        return self.answers(tokens)[:, TOLD]


def make_model() -> Sorter:
    """The network before training."""
    mx.random.seed(0)
    return Sorter()


def lists(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Tokens that the network reads, shape (count, 8), and the sorted numbers, (count, 4)."""
    generator = np.random.default_rng(seed)
    unsorted = generator.permuted(np.tile(np.arange(NUMBERS), (count, 1)), axis=1)[:, :LENGTH]
    ordered = np.sort(unsorted, axis=1)
    separators = np.full((count, 1), SEPARATOR)
    return np.concatenate([unsorted, separators, ordered[:, :-1]], axis=1), ordered


def features(tokens: np.ndarray, ordered: np.ndarray) -> dict[str, np.ndarray]:
    """Families of functions of a list."""
    units = np.eye(NUMBERS)
    return {
        "numbers in the list": units[ordered].sum(axis=1),
        "number before": units[ordered[:, TOLD - 1]],
        "the answer": units[ordered[:, TOLD]],
        "number after": units[ordered[:, TOLD + 1]],
        "the largest": units[ordered[:, -1]],
        "first in the list": units[tokens[:, 0]],
        "random": np.random.default_rng(0).standard_normal((len(tokens), NUMBERS)),
    }


def train(model: Sorter) -> float:
    """Fit the sorted numbers; returns the share of them that is told right in other lists."""
    tokens, ordered = (mx.array(part) for part in lists(LISTS, seed=0))
    optimizer = optim.AdamW(learning_rate=1e-3, weight_decay=0.005, bias_correction=True)
    loss_and_gradient = nn.value_and_grad(
        model,
        lambda m, x, y: nn.losses.cross_entropy(m.answers(x), y, reduction="mean"),
    )
    state = [model.state, optimizer.state]

    @partial(mx.compile, inputs=state, outputs=state)
    def step(x: mx.array, y: mx.array) -> None:
        _, gradient = loss_and_gradient(model, x, y)
        optimizer.update(model, gradient)

    others, right = (mx.array(part) for part in lists(HELD_OUT, seed=1))
    accuracy = 0.0
    for epoch in range(EPOCHS):
        order = mx.array(np.random.default_rng([0, epoch]).permutation(LISTS))
        for start in range(0, LISTS, BATCH):
            batch = order[start : start + BATCH]
            step(tokens[batch], ordered[batch])
            mx.eval(state)
        told = mx.argmax(model.answers(others), axis=-1)
        accuracy = int(mx.sum(told == right)) / right.size
        print(f"epoch {epoch + 1}: {accuracy:.1%} of the sorted numbers in other lists", flush=True)
    return accuracy


def main(folder: Path) -> None:
    """Train the network and write weights, inputs and features into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    model = make_model()
    train(model)
    model.save_weights(str(folder / "weights.safetensors"))
    tokens, ordered = lists(ROWS, seed=1)
    np.savez(folder / "inputs.npz", x=tokens.astype(np.int32))
    np.savez(folder / "features.npz", allow_pickle=False, **features(tokens, ordered))
    print(f"weights, inputs and features are in {folder}/")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "sorting"))
