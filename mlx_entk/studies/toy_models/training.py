"""The toy models themselves: settings, inputs and training."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal, get_args

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
from numpy.typing import NDArray

from mlx_entk._linalg import Float64Array
from mlx_entk.data import sparse_features
from mlx_entk.errors import InputError
from mlx_entk.models import ToyModel
from mlx_entk.progress import Progress, silent
from mlx_entk.runs import Run
from mlx_entk.studies.estimate import Stage, stage_of_training
from mlx_entk.studies.settings import setting
from mlx_entk.training import Batch, load_parameters, train

# The study of one toy model in run folders, whatever folder they lie in.
STUDY = "tms"

Dataset = Literal["fixed", "fresh"]

LEARNING_RATE = 1e-3
FRESH_BATCH = 1024
HELD_OUT = 1000
CHECKPOINTS = 10

# A feature counts as reconstructed if (WᵀW)ᵢᵢ reaches this; the paper's criterion.
RECONSTRUCTED = 0.75
RECONSTRUCTION_RULE = f"(WᵀW)ᵢᵢ ≥ {RECONSTRUCTED}"


@dataclass(frozen=True, kw_only=True)
class ToyConfig:
    """Settings that every study of toy models has.

    Attributes
    ----------
    dataset
        ``"fixed"``: inputs of unit length, all of them in every step. ``"fresh"``: new inputs in
        every step, which are not scaled.
    betas
        Exponents of the importance rescaling D^(β/2) K D^(β/2), D = diag(I^i) on the outputs;
        0, the kernel itself, is always looked at.
    shuffled
        Whether the targets of the inputs are permuted: the control.

    Raises
    ------
    InputError
        For a value for which the studies have no meaning.
    """

    n: int = setting("Number of features.", 50)
    m: int = setting("Number of hidden units.", 10)
    sparsity: float = setting("Probability that a feature is absent from an input.", 0.9)
    importance: float = setting("Feature i has the weight importance^i in the loss.", 0.8)
    dataset: Dataset = setting(
        f"Train on one set of inputs of unit length, or on {FRESH_BATCH} fresh inputs in every "
        "step.",
        "fixed",
    )
    steps: int = setting("Number of training steps.", 5000)
    seed: int = setting("Seed of the weights and the data.", 0)
    betas: tuple[float, ...] = setting(
        "Exponent of the importance rescaling; may be given more than once.",
        (1.0, 0.3),
        option="beta",
    )
    shuffled: bool = False

    def __post_init__(self) -> None:
        for name in ("n", "m"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}: it must be at least 1")
        if not 0 <= self.sparsity < 1:
            raise InputError(f"sparsity is {self.sparsity}: it must be at least 0 and below 1")
        if not 0 < self.importance <= 1:
            raise InputError(f"importance is {self.importance}: it must be above 0 and at most 1")
        if self.dataset not in get_args(Dataset):
            raise InputError(f"dataset {self.dataset!r} is unknown: {', '.join(get_args(Dataset))}")
        if self.steps < CHECKPOINTS:
            raise InputError(f"steps is {self.steps}: it must be at least {CHECKPOINTS}")
        if self.seed < 0:
            raise InputError(f"seed is {self.seed}: it must be 0 or more")
        if any(beta < 0 for beta in self.betas):
            raise InputError(f"betas are {self.betas}: each exponent must be 0 or more")

    @property
    def importances(self) -> Float64Array:
        """I^i of each feature, shape (n,)."""
        return np.asarray(self.importance ** np.arange(self.n, dtype=np.float64))


@dataclass(frozen=True, kw_only=True)
class TMSConfig(ToyConfig):
    """Settings of one toy model; the defaults are those of the paper's sparse model.

    Attributes
    ----------
    rows
        Inputs of the kernel, and of training if the dataset is fixed.
    """

    rows: int = setting("Number of inputs of the kernel, and of a fixed dataset.", 500)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rows < 1:
            raise InputError(f"rows is {self.rows}: it must be at least 1")


@dataclass(frozen=True)
class ToyData:
    """Inputs and targets of a toy model, float32.

    Attributes
    ----------
    x, targets
        Of the kernel, and of training if the dataset is fixed; shape (rows, n).
    held_out, held_out_targets
        Inputs that are never trained on.
    """

    x: NDArray[np.float32]
    targets: NDArray[np.float32]
    held_out: NDArray[np.float32]
    held_out_targets: NDArray[np.float32]


def dataset(config: TMSConfig) -> ToyData:
    """Draw the inputs; shuffled targets are those of another input."""
    generator = np.random.default_rng(config.seed)

    def draw(rows: int) -> NDArray[np.float32]:
        unit_length = config.dataset == "fixed"
        return sparse_features(rows, config.n, config.sparsity, generator, unit_length)

    x, held_out = draw(config.rows), draw(HELD_OUT)
    if not config.shuffled:
        return ToyData(x, x, held_out, held_out)
    order, held_out_order = generator.permutation(len(x)), generator.permutation(HELD_OUT)
    return ToyData(x, x[order], held_out, held_out[held_out_order])


def network(config: ToyConfig) -> ToyModel:
    """The network before training."""
    return ToyModel(config.n, config.m, config.seed)


def train_toy(config: TMSConfig, run: Run, progress: Progress = silent) -> ToyModel:
    """Train a toy model in a run folder, or load it if that is done."""
    model = network(config)
    if config.steps in run.checkpoints:
        load_parameters(model, run, config.steps)
        return model
    data = dataset(config)
    weights = mx.array(config.importances.astype(np.float32))
    parts = {"test": (mx.array(data.held_out), mx.array(data.held_out_targets))}
    if config.dataset == "fixed":
        parts = {"train": (mx.array(data.x), mx.array(data.targets)), **parts}

    def loss(network: nn.Module, x: mx.array, targets: mx.array) -> mx.array:
        return mx.mean(weights * (network(x) - targets) ** 2)

    def batches(step: int) -> Iterator[Batch]:
        if config.dataset == "fixed":
            yield parts["train"]
            return
        generator = np.random.default_rng([config.seed, step])
        x = sparse_features(FRESH_BATCH, config.n, config.sparsity, generator, normalised=False)
        yield mx.array(x), mx.array(generator.permutation(x) if config.shuffled else x)

    def evaluate() -> Mapping[str, mx.array]:
        return {f"{part} loss": loss(model, *pair) for part, pair in parts.items()}

    train(
        model,
        # MLX leaves out Adam's bias correction unless told.
        optim.Adam(LEARNING_RATE, bias_correction=True),
        loss,
        batches,
        evaluate,
        run,
        epochs=config.steps,
        checkpoint_every=max(1, config.steps // CHECKPOINTS),
        progress=progress,
    )
    return model


def reconstructed(model: ToyModel) -> int:
    """How many features are reconstructed, by ``RECONSTRUCTION_RULE``."""
    return int((mx.sum(model.W * model.W, axis=0) >= RECONSTRUCTED).sum())


def stage_of_toy_training(name: str, config: TMSConfig, runs: int = 1) -> Stage:
    """What ``train_toy`` would take on this device, so many times."""
    few = max(CHECKPOINTS, min(100, config.steps // 16))
    return stage_of_training(
        name,
        lambda steps, run: train_toy(replace(config, steps=steps), run),
        config.steps,
        few=few,
        runs=runs,
    )


def memory_of_jacobian(config: ToyConfig, rows: int) -> int:
    """Bytes of the Jacobian in float32, rescaled, and in float64 for its modes."""
    return 16 * rows * config.n * config.n * (config.m + 1)
