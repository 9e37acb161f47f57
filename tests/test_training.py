from collections.abc import Iterator, Mapping
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
import pytest

from mlx_entk import InputError, RunFailedError
from mlx_entk.runs import Run
from mlx_entk.training import load_parameters, train
from tests.models import MLP

x = mx.random.normal((12, 3), key=mx.random.key(1))
y = mx.sin(x.sum(axis=1, keepdims=True))


def fit(
    run: Run, epochs: int, learning_rate: float = 0.01, sizes: tuple[int, ...] = (3, 8, 1)
) -> MLP:
    """Train on two minibatches an epoch, drawn anew each epoch."""
    model = MLP(sizes)

    def batches(epoch: int) -> Iterator[tuple[mx.array, mx.array]]:
        order = np.random.default_rng(epoch).permutation(12)
        for part in np.split(order, 2):
            index = mx.array(part)
            yield x[index], y[index]

    def loss(network: nn.Module, inputs: mx.array, targets: mx.array) -> mx.array:
        return nn.losses.mse_loss(network(inputs), targets)

    def evaluate() -> Mapping[str, mx.array]:
        return {"train loss": loss(model, x, y)}

    optimizer = optim.AdamW(learning_rate, bias_correction=True)
    train(model, optimizer, loss, batches, evaluate, run, epochs=epochs, checkpoint_every=2)
    return model


def make_run(path: Path) -> Run:
    return Run.create(path, "study", {})


def test_training_lowers_the_loss_and_keeps_checkpoints(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    model = fit(run, 5)

    losses = [row["train loss"] for row in run.metrics]
    assert losses[-1] < losses[0]
    assert run.checkpoints == [0, 2, 4, 5]

    start = MLP([3, 8, 1], seed=9)
    load_parameters(start, run, 5)
    np.testing.assert_array_equal(np.array(start(x)), np.array(model(x)))


def test_the_first_step_is_that_of_bias_corrected_adam(tmp_path: Path) -> None:
    """Its length is the learning rate in every coordinate, for any gradient, less the decay."""
    run = make_run(tmp_path)
    model = MLP([3, 1], bias=False)
    before = np.array(model.layers[0].weight)

    def loss(network: nn.Module, inputs: mx.array) -> mx.array:
        return mx.sum(network(inputs))

    optimizer = optim.AdamW(0.1, weight_decay=0.5, bias_correction=True)
    train(
        model, optimizer, loss, lambda epoch: [(mx.ones((1, 3)),)],
        lambda: {"loss": mx.array(0.0)}, run, epochs=1, checkpoint_every=1,
    )  # fmt: skip

    after = np.array(model.layers[0].weight)
    np.testing.assert_allclose(after, before * (1 - 0.1 * 0.5) - 0.1, atol=1e-6)


def test_a_resumed_run_ends_with_the_same_numbers(tmp_path: Path) -> None:
    whole, broken = make_run(tmp_path / "whole"), make_run(tmp_path / "broken")
    fit(whole, 7)
    fit(broken, 4)
    broken.append_metrics({"epoch": 5, "train loss": 99.0})  # made, but not checkpointed
    (broken.path / "checkpoints" / "000004.safetensors").unlink()
    fit(broken, 7)

    assert broken.metrics == whole.metrics
    for path in (whole.path / "checkpoints").iterdir():
        assert (broken.path / "checkpoints" / path.name).read_bytes() == path.read_bytes()


def test_a_loss_that_is_no_number_ends_the_run(tmp_path: Path) -> None:
    run = make_run(tmp_path)

    with pytest.raises(RunFailedError, match=r"train loss became .* at epoch .* smaller learning"):
        fit(run, 5, learning_rate=1e38)

    assert all(np.isfinite(row["train loss"]) for row in run.metrics)


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    fit(run, 2)

    with pytest.raises(InputError, match="belongs to another model"):
        fit(run, 4, sizes=(3, 9, 1))


def test_metrics_that_end_before_the_checkpoint_are_noticed(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", "test", {})
    fit(run, epochs=4)
    (run.path / "metrics.jsonl").write_text("")

    with pytest.raises(InputError, match=r"end before its checkpoint at epoch 4"):
        fit(run, epochs=6)
