"""Toy Models of Superposition: which modes of the flattened eNTK are features.

The experiment of Lin, arXiv 2510.00468, on the autoencoder of Elhage et al. (2022) with the data
of Henighan et al. (2023): train, decompose the importance-rescaled flattened eNTK, find its
cliffs, and count the features that single modes recover. The same is done for the network before
training and for one trained on shuffled targets, against which every count is to be read.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Literal, get_args

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
from numpy.typing import NDArray

from mlx_entk._files import Arrays, Json
from mlx_entk._linalg import Float64Array, FloatArray
from mlx_entk.data import sparse_features
from mlx_entk.eigensolvers import jacobian_modes
from mlx_entk.errors import InputError
from mlx_entk.features import (
    RECOVERED,
    RECOVERY_RULE,
    channel_alignment,
    constant_alignment,
    recovery,
)
from mlx_entk.models import ToyModel
from mlx_entk.progress import Progress, silent
from mlx_entk.runs import Run
from mlx_entk.spectrum import CLIFF_RULE, effective_rank, find_cliffs, mode_groups
from mlx_entk.studies.estimate import Stage, seconds_of, seconds_of_training
from mlx_entk.tracing.jacobian import flattened_jacobian
from mlx_entk.training import Batch, load_parameters, train

STUDY = "tms"
PAPER_STUDY = "tms-paper"
DESCENT_STUDY = "tms-double-descent"

Dataset = Literal["fixed", "fresh"]

LEARNING_RATE = 1e-3
FRESH_BATCH = 1024
HELD_OUT = 1000
# Held-out inputs of the kernels of the double-descent sweep.
PROBE = 200
CHECKPOINTS = 10

# A feature counts as reconstructed where (WᵀW)ᵢᵢ reaches this; the paper's criterion.
RECONSTRUCTED = 0.75
# Modes kept beyond the number of features, where the interesting cliffs are.
BEYOND = 30

# The paper's three models: hidden units and sparsity, with 50 features.
PAPER_MODELS = {"dense": (10, 0.3), "sparse": (10, 0.9), "wide": (40, 0.9)}
# Dataset sizes of the double-descent sweep.
DESCENT_ROWS = (3, 5, 8, 10, 15, 20, 30, 50, 80, 100, 150, 200, 300, 500, 700, 1000)


@dataclass(frozen=True)
class TMSConfig:
    """Settings of one toy model; the defaults are the paper's sparse model.

    Attributes
    ----------
    n, m
        Features and hidden units.
    sparsity
        Probability that a feature is absent from an input.
    importance
        I: the loss of feature i counts I^i.
    dataset
        ``"fixed"``: ``rows`` inputs of unit length, all of them in every step. ``"fresh"``: 1024
        new inputs in every step, not scaled; the kernel is that of ``rows`` others.
    rows
        Inputs of the kernel.
    steps
        Of Adam, learning rate 1e-3.
    seed
        Of weights and data.
    betas
        Exponents of the importance rescaling D^{β/2} K D^{β/2}, D = diag(I^i) on the outputs;
        0, the kernel itself, is always there.
    shuffled
        Whether the targets of the inputs are permuted: the control.

    Raises
    ------
    InputError
        For a value that the study has no meaning for.
    """

    n: int = 50
    m: int = 10
    sparsity: float = 0.9
    importance: float = 0.8
    dataset: Dataset = "fixed"
    rows: int = 500
    steps: int = 5000
    seed: int = 0
    betas: tuple[float, ...] = (1.0, 0.3)
    shuffled: bool = False

    def __post_init__(self) -> None:
        for name in ("n", "m", "rows"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}: it must be at least 1")
        if not 0 <= self.sparsity < 1:
            raise InputError(f"sparsity is {self.sparsity}: it lies from 0 to below 1")
        if not 0 < self.importance <= 1:
            raise InputError(f"importance is {self.importance}: it lies above 0, up to 1")
        if self.dataset not in get_args(Dataset):
            raise InputError(f"dataset {self.dataset!r} is unknown: {', '.join(get_args(Dataset))}")
        if self.steps < CHECKPOINTS:
            raise InputError(f"steps is {self.steps}: training takes at least {CHECKPOINTS}")
        if self.seed < 0:
            raise InputError(f"seed is {self.seed}: seeds are 0 or more")
        if any(beta < 0 for beta in self.betas):
            raise InputError(f"betas are {self.betas}: an exponent must not be below 0")

    @property
    def importances(self) -> Float64Array:
        """I^i of each feature, shape (n,)."""
        return np.asarray(self.importance ** np.arange(self.n, dtype=np.float64))

    def as_json(self) -> Json:
        """The settings by name."""
        return asdict(self) | {"betas": list(self.betas)}


@dataclass(frozen=True)
class TMSData:
    """Inputs and targets of a toy model, float32.

    Attributes
    ----------
    x, targets
        Of the kernel, and of training where the dataset is fixed; shape (rows, n).
    held_out, held_out_targets
        Inputs that are never trained on.
    """

    x: NDArray[np.float32]
    targets: NDArray[np.float32]
    held_out: NDArray[np.float32]
    held_out_targets: NDArray[np.float32]


def tms_data(config: TMSConfig) -> TMSData:
    """Draw the inputs; shuffled targets are those of another input."""
    generator = np.random.default_rng(config.seed)
    draw = {"n": config.n, "sparsity": config.sparsity, "normalised": config.dataset == "fixed"}
    x = sparse_features(config.rows, generator=generator, **draw)  # type: ignore[arg-type]
    held_out = sparse_features(HELD_OUT, generator=generator, **draw)  # type: ignore[arg-type]
    if not config.shuffled:
        return TMSData(x, x, held_out, held_out)
    order, other = generator.permutation(len(x)), generator.permutation(HELD_OUT)
    return TMSData(x, x[order], held_out, held_out[other])


def run_tms(config: TMSConfig, run: Run, progress: Progress = silent) -> Json:
    """Train a toy model and its control, decompose their kernels, count recovered features.

    Parameters
    ----------
    run
        A folder made for this configuration; the control is a run of its own inside it.

    Returns
    -------
    dict
        What ``results.json`` holds.
    """
    if run.finished:
        return run.results
    model = train_tms(config, run, progress)
    control = replace(config, shuffled=True)
    control_run = Run.create(run.path / "shuffled", STUDY, control.as_json())
    shuffled = train_tms(control, control_run, progress)
    initial = ToyModel(config.n, config.m, config.seed)
    networks = {"trained": model, "initial": initial, "shuffled": shuffled}

    data = tms_data(config)
    rows: list[Json] = []
    arrays: Arrays = {"x": data.x}
    for done, (name, network) in enumerate(networks.items()):
        progress("kernels", done, len(networks), name)
        arrays[f"W/{name}"], arrays[f"b/{name}"] = np.array(network.W), np.array(network.b)
        for row, of_row in _decompose(network, name, data.x, config):
            rows.append(row)
            arrays |= {f"{kind}/{name}/{row['beta']:g}": array for kind, array in of_row.items()}
    progress("kernels", len(networks), len(networks))
    training, values = _over_training(config, run, data.x, progress)
    arrays["values over training"] = values
    results: Json = {
        "study": STUDY,
        "config": config.as_json(),
        "inputs": config.rows,
        "parameters": config.n * (config.m + 1),
        "loss": {key: value for key, value in run.metrics[-1].items() if key != "epoch"},
        "reconstructed": {name: reconstructed(net) for name, net in networks.items()},
        "reconstruction_rule": f"(WᵀW)ᵢᵢ ≥ {RECONSTRUCTED}",
        "cliff_rule": CLIFF_RULE,
        "recovery_rule": RECOVERY_RULE,
        "recovered_by_constants": int((np.abs(constant_alignment(data.x)) >= RECOVERED).sum()),
        "kernels": rows,
        "training": training,
    }
    run.save_results(results, arrays)
    return results


def estimate(config: TMSConfig) -> list[Stage]:
    """What :func:`run_tms` would take on this device."""
    training = _seconds_of_training(config)
    rows = min(config.rows, 200)
    model = ToyModel(config.n, config.m, config.seed)
    x = tms_data(replace(config, rows=rows)).x
    one = seconds_of(lambda: list(_decompose(model, "trained", x, config)))
    count = 3 + CHECKPOINTS + 1
    return [
        Stage("training, two networks, steps each", config.steps, 2 * training, 0),
        Stage(
            "flattened kernels and their modes",
            count,
            count * one * config.rows / rows,
            _memory_of_jacobian(config, config.rows),
        ),
    ]


def estimate_paper(base: TMSConfig) -> list[Stage]:
    """What :func:`run_paper` would take on this device."""
    return [
        replace(stage, name=f"{name}: {stage.name}")
        for name, config in paper_configs(base).items()
        for stage in estimate(config)
    ]


def estimate_double_descent(base: TMSConfig, sizes: tuple[int, ...]) -> list[Stage]:
    """What :func:`run_double_descent` would take on this device."""
    seconds = [_seconds_of_training(replace(base, rows=size)) for size in (min(sizes), max(sizes))]
    return [
        Stage(
            "training and one kernel, dataset sizes",
            len(sizes),
            len(sizes) * sum(seconds) / 2,
            _memory_of_jacobian(base, PROBE),
        )
    ]


def _seconds_of_training(config: TMSConfig) -> float:
    return seconds_of_training(
        lambda steps, run: train_tms(replace(config, steps=steps), run), config.steps, few=100
    )


def _memory_of_jacobian(config: TMSConfig, rows: int) -> int:
    """The Jacobian in float32, rescaled, and in float64 for its modes."""
    return 16 * rows * config.n * config.n * (config.m + 1)


def train_tms(config: TMSConfig, run: Run, progress: Progress = silent) -> ToyModel:
    """Train a toy model in a run folder, or load it where that is done."""
    model = ToyModel(config.n, config.m, config.seed)
    if config.steps in run.checkpoints:
        load_parameters(model, run, config.steps)
        return model
    data = tms_data(config)
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
    """Features with (WᵀW)ᵢᵢ ≥ 0.75."""
    return int((mx.sum(model.W * model.W, axis=0) >= RECONSTRUCTED).sum())


def rescaled_jacobian(model: ToyModel, x: FloatArray, importances: FloatArray) -> FloatArray:
    """J with row c·N + n scaled by the root of output c's importance, shape (C·N, P)."""
    rows = flattened_jacobian(model, mx.array(x))
    scales = np.repeat(np.sqrt(importances), x.shape[0]).astype(rows.dtype)
    return rows * scales[:, None]


def _decompose(
    model: ToyModel, name: str, x: FloatArray, config: TMSConfig
) -> Iterator[tuple[Json, dict[str, FloatArray]]]:
    """A row of results for each β, with its spectrum and its alignment."""
    for beta in sorted({0.0, *config.betas}):
        jacobian = rescaled_jacobian(model, x, config.importances**beta)
        top = min(*jacobian.shape, config.n + BEYOND)
        spectrum, values = jacobian_modes(jacobian, top)
        cosines = channel_alignment(spectrum.vectors, x)
        found = recovery(cosines, jacobian.shape[0], config.seed)
        row = {
            "network": name,
            "beta": beta,
            "modes": int(spectrum.values.size),
            "cliffs": mode_groups(find_cliffs(spectrum.values, spectrum.noise_floor)),
            "effective_rank": effective_rank(values),
            "recovered": found.count,
            "recovered_by_rotated_modes": found.rotated,
            "recovered_by_random_modes": found.random,
            "contained": int((found.contained >= np.sqrt(0.5)).sum()),
        }
        yield row, {"values": spectrum.values, "alignment": np.abs(cosines).astype(np.float32)}


def _over_training(
    config: TMSConfig, run: Run, x: FloatArray, progress: Progress
) -> tuple[list[Json], Float64Array]:
    """What each checkpoint has learned and what its kernel shows of it.

    Returns
    -------
    list of dict, numpy.ndarray
        A row a checkpoint: ``step``, features ``reconstructed``, and ``recovered`` by β > 0; and
        the leading eigenvalues of the kernel itself, as many as each checkpoint's kernel has,
        shape (checkpoints, modes).
    """
    rows: list[Json] = []
    values: list[Float64Array] = []
    model = ToyModel(config.n, config.m, config.seed)
    steps = run.checkpoints
    for done, step in enumerate(steps):
        progress("kernels over training", done, len(steps), f"step {step}")
        load_parameters(model, run, step)
        recovered: Json = {}
        for row, of_row in _decompose(model, "trained", x, config):
            if row["beta"] == 0:
                values.append(np.asarray(of_row["values"], dtype=np.float64))
            else:
                recovered[f"{row['beta']:g}"] = row["recovered"]
        rows.append({"step": step, "reconstructed": reconstructed(model), "recovered": recovered})
    progress("kernels over training", len(steps), len(steps))
    rank = min(of_step.size for of_step in values)
    return rows, np.stack([of_step[:rank] for of_step in values])


def paper_configs(base: TMSConfig) -> dict[str, TMSConfig]:
    """The settings of the paper's three models; the rest is that of ``base``."""
    return {
        name: replace(base, m=m, sparsity=sparsity) for name, (m, sparsity) in PAPER_MODELS.items()
    }


def run_paper(base: TMSConfig, run: Run, progress: Progress = silent) -> Json:
    """The paper's three models side by side, each a run of its own inside the folder."""
    if run.finished:
        return run.results
    models: Json = {}
    arrays: Arrays = {}
    for name, config in paper_configs(base).items():
        inner = Run.create(run.path / name, STUDY, config.as_json())

        def named(stage: str, done: int, total: int, note: str = "", name: str = name) -> None:
            progress(f"{name}: {stage}", done, total, note)

        with inner.session():
            models[name] = run_tms(config, inner, named)
        arrays |= {f"{name}/{key}": array for key, array in inner.arrays.items()}
    results: Json = {"study": PAPER_STUDY, "config": base.as_json(), "models": models}
    run.save_results(results, arrays)
    return results


def run_double_descent(
    base: TMSConfig, sizes: tuple[int, ...], run: Run, progress: Progress = silent
) -> Json:
    """Train on datasets of several sizes: the loss on new inputs rises and falls again.

    After Henighan et al. (2023). Beside the losses stands the effective rank of the flattened
    kernel on the same held-out inputs.
    """
    if run.finished:
        return run.results
    probe = tms_data(replace(base, rows=1)).held_out[:PROBE]
    rows: list[Json] = []
    arrays: Arrays = {}
    for done, size in enumerate(sizes):
        progress("dataset sizes", done, len(sizes), f"{size} rows")
        config = replace(base, rows=size)
        inner = Run.create(run.path / f"rows-{size}", STUDY, config.as_json())
        model = train_tms(config, inner)
        spectrum, values = jacobian_modes(flattened_jacobian(model, mx.array(probe)), base.n)
        rows.append(
            {
                "rows": size,
                "train_loss": inner.metrics[-1]["train loss"],
                "test_loss": inner.metrics[-1]["test loss"],
                "reconstructed": reconstructed(model),
                "effective_rank": effective_rank(values),
            }
        )
        arrays[f"W/{size}"] = np.array(model.W)
        arrays[f"hidden/{size}"] = np.array(model.hidden(mx.array(tms_data(config).x)))
        arrays[f"values/{size}"] = spectrum.values
    progress("dataset sizes", len(sizes), len(sizes))
    results: Json = {"study": DESCENT_STUDY, "config": descent_config(base, sizes), "sizes": rows}
    run.save_results(results, arrays)
    return results


def descent_config(base: TMSConfig, sizes: tuple[int, ...]) -> Json:
    """The settings of the sweep by name."""
    if base.dataset != "fixed":
        raise InputError("double descent is over fixed datasets: leave dataset as it is")
    if not sizes or min(sizes) < 1:
        raise InputError(f"rows are {list(sizes)}: name at least one size, of at least 1")
    return {key: value for key, value in base.as_json().items() if key != "rows"} | {
        "sizes": list(sizes)
    }


def headline(results: Json) -> dict[str, float | None]:
    """The figures of a run that a sweep sets side by side."""
    return {
        f"reconstructed, {network}": count for network, count in results["reconstructed"].items()
    } | {
        f"recovered at β = {row['beta']:g}, {row['network']}": row["recovered"]
        for row in results["kernels"]
    }
