"""Train a module with a compiled step, checkpoints and resume."""

import math
from collections.abc import Callable, Iterable, Mapping
from functools import partial

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim

from mlx_entk.errors import InputError, RunFailedError
from mlx_entk.parameters import Params, flatten_tree, unflatten_tree
from mlx_entk.progress import Progress, silent
from mlx_entk.runs import Run

Batch = tuple[mx.array, ...]


def train(
    model: nn.Module,
    optimizer: optim.Optimizer,
    loss: Callable[..., mx.array],
    batches: Callable[[int], Iterable[Batch]],
    evaluate: Callable[[], Mapping[str, mx.array]],
    run: Run,
    *,
    epochs: int,
    checkpoint_every: int,
    progress: Progress = silent,
) -> None:
    """Train in place to ``epochs`` epochs, from the run's last checkpoint if there is one.

    Every epoch's metrics go to the run, and model and optimizer state at epoch 0, every
    ``checkpoint_every`` epochs and at the end. The same run broken off and resumed ends with
    the same numbers, provided that ``batches`` depends on the epoch alone.

    Parameters
    ----------
    loss
        ``loss(model, *batch)``, a scalar.
    batches
        The batches of an epoch, the first epoch being 0.
    evaluate
        Scalar metrics of the model as it stands, by name.

    Raises
    ------
    RunFailedError
        Where a metric is NaN or infinite after an epoch.
    InputError
        Where the last checkpoint is damaged or belongs to another model.
    """
    optimizer.init(model.trainable_parameters())
    start = _resume(model, optimizer, run)
    state = [model.state, optimizer.state]
    loss_and_gradient = nn.value_and_grad(model, loss)

    @partial(mx.compile, inputs=state, outputs=state)
    def step(*batch: mx.array) -> mx.array:
        value, gradient = loss_and_gradient(model, *batch)
        optimizer.update(model, gradient)
        return mx.array(value)

    measure = mx.compile(lambda: dict(evaluate()), inputs=[model.state])

    def record(epoch: int) -> None:
        values = measure()
        mx.eval(state, values)  # the one wait for the device in an epoch
        metrics = {name: float(value) for name, value in values.items()}
        for name, value in metrics.items():
            if not math.isfinite(value):
                raise RunFailedError(
                    f"{name} became {value} at epoch {epoch}: try a smaller learning rate"
                )
        run.append_metrics({"epoch": epoch, **metrics})
        if epoch % checkpoint_every == 0 or epoch == epochs:
            run.save_checkpoint(epoch, _checkpoint(model, optimizer))
        progress("training", epoch, epochs, _note(metrics))

    if start is None:
        run.cut_metrics(-1)
        record(0)
    for epoch in range(start or 0, epochs):
        for batch in batches(epoch):
            step(*batch)
            mx.async_eval(state)
        record(epoch + 1)


def load_parameters(model: nn.Module, run: Run, epoch: int) -> None:
    """Set a model to the parameters of a checkpoint."""
    stored = run.load_checkpoint(epoch)
    params = _part(stored, "model.")
    shapes = {name: value.shape for name, value in flatten_tree(model.parameters()).items()}
    if {name: value.shape for name, value in params.items()} != shapes:
        raise InputError("the checkpoint belongs to another model: choose another run folder")
    model.update(unflatten_tree(params))


def _resume(model: nn.Module, optimizer: optim.Optimizer, run: Run) -> int | None:
    if not run.checkpoints:
        return None
    epoch = run.checkpoints[-1]
    load_parameters(model, run, epoch)
    stored = run.load_checkpoint(epoch)
    optimizer.state = unflatten_tree(_part(stored, "optimizer."))
    run.cut_metrics(epoch)
    return epoch


def _checkpoint(model: nn.Module, optimizer: optim.Optimizer) -> Params:
    return flatten_tree({"model": model.parameters(), "optimizer": optimizer.state})


def _part(stored: Params, prefix: str) -> Params:
    return {
        name.removeprefix(prefix): value
        for name, value in stored.items()
        if name.startswith(prefix)
    }


def _note(metrics: Mapping[str, float]) -> str:
    """``loss 1.2e-03/3.4e-03 accuracy 99.0%/98.0%``: the parts of a metric side by side."""
    parts: dict[str, list[str]] = {}
    for name, value in metrics.items():
        metric = name.split()[-1]
        text = f"{value:.1%}" if metric == "accuracy" else f"{value:.1e}"
        parts.setdefault(metric, []).append(text)
    return "  ".join(f"{metric} {'/'.join(values)}" for metric, values in parts.items())
