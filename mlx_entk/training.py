"""Training of a module with a compiled step, and with checkpoints from which it resumes."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim

from mlx_entk._files import Json
from mlx_entk._parameters import Params, flatten_tree, unflatten_tree
from mlx_entk.errors import InputError, RunFailedError
from mlx_entk.progress import Progress, silent
from mlx_entk.runs import Run

Batch = tuple[mx.array, ...]
Stop = Callable[[Sequence[Json]], bool]


def never(metrics: Sequence[Json]) -> bool:
    """Never stop before the last epoch."""
    return False


def held_since(metrics: Sequence[Json], metric: str, level: float) -> int | None:
    """The epoch since which a metric has been at ``level`` or above; None if it is below now."""
    since: int | None = None
    for row in reversed(metrics):
        if row[metric] < level:
            break
        since = row["epoch"]
    return since


def reached(metric: str, level: float, held: int) -> Stop:
    """Stop once a metric has been at ``level`` or above for ``held`` epochs in a row."""

    def stop(metrics: Sequence[Json]) -> bool:
        since = held_since(metrics, metric, level)
        return since is not None and metrics[-1]["epoch"] - since >= held

    return stop


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
    evaluate_every: int = 1,
    stop: Stop = never,
    progress: Progress = silent,
) -> int:
    """Train in place for up to ``epochs`` epochs, from the run's last checkpoint if it has one.

    Metrics are saved in the run at epoch 0, every ``evaluate_every`` epochs and at the end; the
    states of model and optimizer at epoch 0, every ``checkpoint_every`` epochs and at the end. A
    run that is interrupted and resumed ends with the same numbers, provided that ``batches``
    depends on the epoch alone.

    Parameters
    ----------
    loss
        ``loss(model, *batch)``, a scalar.
    batches
        Returns the batches of an epoch; the first epoch is 0.
    evaluate
        Returns scalar metrics of the model in its current state, by name.
    run
        Where metrics and checkpoints are kept.
    epochs
        The last epoch.
    checkpoint_every, evaluate_every
        In epochs; the first has to be a multiple of the second, so that every checkpoint has
        metrics.
    stop
        Called with all rows of metrics after each evaluation; returning true ends the training.
    progress
        Called after each evaluation.

    Returns
    -------
    int
        The epoch at which the training ended.

    Raises
    ------
    RunFailedError
        If a metric is NaN or infinite.
    InputError
        If the last checkpoint is damaged or belongs to another model.
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

    def record(epoch: int) -> bool:
        """Evaluate, and return whether that was the last epoch."""
        values = measure()
        mx.eval(state, values)  # the one wait for the device between evaluations
        metrics = {name: float(value) for name, value in values.items()}
        for name, value in metrics.items():
            if not math.isfinite(value):
                raise RunFailedError(
                    f"{name} became {value} at epoch {epoch}: try a smaller learning rate"
                )
        rows.append({"epoch": epoch, **metrics})
        run.append_metrics(rows[-1])
        last = epoch == epochs or stop(rows)
        if last or epoch % checkpoint_every == 0:
            run.save_checkpoint(epoch, _checkpoint(model, optimizer))
        progress("training", epochs if last else epoch, epochs, _note(metrics))
        return last

    if start is None:
        run.cut_metrics(-1)
    rows = run.metrics
    last = record(0) if start is None else start == epochs or stop(rows)
    epoch = start or 0
    while not last:
        for batch in batches(epoch):
            step(*batch)
            mx.async_eval(state)
        epoch += 1
        if epoch % evaluate_every == 0 or epoch == epochs:
            last = record(epoch)
    return epoch


def load_parameters(model: nn.Module, run: Run, epoch: int) -> None:
    """Load the parameters of a checkpoint into a model."""
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
    if not any(row["epoch"] == epoch for row in run.metrics):
        raise InputError(
            f"the metrics of {run.path} end before its checkpoint at epoch {epoch}: run the same "
            "command with another --out"
        )
    return epoch


def _checkpoint(model: nn.Module, optimizer: optim.Optimizer) -> Params:
    arrays = flatten_tree({"model": model.parameters(), "optimizer": optimizer.state})
    # In one order, so that the files of a run that was resumed are those of one that was not.
    return dict(sorted(arrays.items()))


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
