"""Modular addition: which Fourier features the eNTK sees, in which layer, and from when on.

The experiment of Lin, arXiv 2510.00468, on the network of Gromov (2023): train, take the trace
eNTK of all p² inputs, find its cliffs, align them with Fourier families, and follow the overlap
over training.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np

from mlx_entk import linalg
from mlx_entk.data import EMBEDDINGS, Embedding, ModularAddition, modular_addition
from mlx_entk.dynamics import ONSET_RULE, Modes, Trajectory, derivative, track, transition
from mlx_entk.errors import InputError
from mlx_entk.features import (
    FREQUENCY_FAMILIES,
    FeatureBank,
    alignment_rows,
    center,
    disentangle,
    equivalent_families,
    frequency_alignment,
    modular_features,
)
from mlx_entk.kernel import entk
from mlx_entk.linalg import Float64Array, FloatArray, orthonormal_basis
from mlx_entk.models import QuadraticMLP
from mlx_entk.parameters import flatten_tree
from mlx_entk.progress import Progress, silent
from mlx_entk.runs import Arrays, Json, Run
from mlx_entk.spectrum import (
    CLIFF_RULE,
    Spectrum,
    effective_rank,
    eigendecompose,
    find_cliffs,
    mode_groups,
)
from mlx_entk.training import load_parameters, train

STUDY = "modular-mlp"
PARTS = ("train", "test")
CHECKPOINT_EVERY = 10

# Neurons whose preactivation is drawn: those with the largest readout weights.
NEURONS = 6


@dataclass(frozen=True)
class MLPConfig:
    """Settings of the study; the defaults are those of the paper.

    Raises
    ------
    InputError
        For a value that the study has no meaning for.
    """

    p: int = 29
    width: int = 512
    train_fraction: float = 0.7
    epochs: int = 500
    seed: int = 0
    embedding: Embedding = "one-hot"
    learning_rate: float = 0.05
    weight_decay: float = 0.01

    def __post_init__(self) -> None:
        if self.p < 3 or self.p % 2 == 0:
            raise InputError(f"p is {self.p}: Fourier families need an odd p of at least 3")
        if self.width < 1:
            raise InputError(f"width is {self.width}: the network needs at least one hidden unit")
        if not 0 < self.train_fraction < 1:
            raise InputError(f"train fraction is {self.train_fraction}: it lies between 0 and 1")
        count = round(self.train_fraction * self.p**2)
        if not 0 < count < self.p**2:
            raise InputError(
                f"train fraction {self.train_fraction} of {self.p**2} pairs leaves "
                f"{'nothing to train on' if count == 0 else 'nothing to test on'}"
            )
        if self.epochs < 2 * CHECKPOINT_EVERY:
            raise InputError(
                f"epochs is {self.epochs}: following the kernel takes at least "
                f"{2 * CHECKPOINT_EVERY}"
            )
        if self.seed < 0:
            raise InputError(f"seed is {self.seed}: seeds are 0 or more")
        if self.embedding not in EMBEDDINGS:
            raise InputError(f"embedding {self.embedding!r} is unknown: {', '.join(EMBEDDINGS)}")
        if not self.learning_rate > 0:
            raise InputError(f"learning rate is {self.learning_rate}: it must be above 0")
        if not self.weight_decay >= 0:
            raise InputError(f"weight decay is {self.weight_decay}: it must not be below 0")

    def as_json(self) -> Json:
        """The settings by name."""
        return asdict(self)


def run_mlp(config: MLPConfig, run: Run, progress: Progress = silent) -> Json:
    """Train the MLP, analyse its kernels and store the results in the run folder.

    Parameters
    ----------
    run
        A folder made for this configuration; what it already holds is not computed again.

    Returns
    -------
    dict
        What ``results.json`` holds.
    """
    if run.finished:
        return run.results
    data = modular_addition(config.p, config.train_fraction, config.seed, config.embedding)
    inputs = mx.array(data.x)
    model = QuadraticMLP(config.p, config.width, config.seed)
    train_mlp(model, data, config, run, progress)

    def kernels_at(epoch: int) -> dict[str, FloatArray]:
        load_parameters(model, run, epoch)
        by_layer = entk(model, inputs, reduction="trace", by_layer=True)
        return {"full": np.sum(list(by_layer.values()), axis=0), **by_layer}

    kernels = kernels_at(config.epochs)
    spectra = {name: eigendecompose(kernel) for name, kernel in kernels.items()}
    cliffs = {name: find_cliffs(s.values, s.noise_floor) for name, s in spectra.items()}
    groups = {name: reported_groups(cliffs[name], config.p) for name in spectra}

    bank = modular_features(data.n, data.m, config.p, config.seed)
    bases = {family: orthonormal_basis(center(columns)) for family, columns in bank.items()}
    alignment = alignment_rows(spectra, groups, bases)
    rotations = _disentangle(spectra["full"], groups["full"], bank, config.p)

    last = max(modes[1] for of_kernel in groups.values() for modes in of_kernel)
    top = min(config.p**2, max(6 * (config.p - 1), last + 1))
    trajectory = track(kernels_at, run.checkpoints, groups, bases, top, progress)

    load_parameters(model, run, config.epochs)
    metrics = run.metrics
    results: Json = {
        "study": STUDY,
        "config": config.as_json(),
        "inputs": config.p**2,
        "parameters": sum(v.size for v in flatten_tree(model.parameters()).values()),
        "accuracy": {part: metrics[-1][f"{part} accuracy"] for part in PARTS},
        "loss": {part: metrics[-1][f"{part} loss"] for part in PARTS},
        "cliffs": {name: mode_groups(cliffs[name]) for name in spectra},
        "cliff_rule": CLIFF_RULE,
        "effective_rank": {name: effective_rank(s.values) for name, s in spectra.items()},
        "equivalent_families": equivalent_families(bases),
        "alignment": alignment,
        "disentangled": [
            {"kernel": "full", "modes": modes, "single_frequency": _single_frequency(heatmap)}
            for modes, heatmap in rotations.items()
        ],
        "grokking": _grokking(trajectory, alignment, metrics, config.p),
    }
    arrays: Arrays = {
        **{f"values/{name}": s.values for name, s in spectra.items()},
        **{f"values over training/{name}": rows for name, rows in trajectory.values.items()},
        **{
            f"values per epoch/{name}": derivative(trajectory.epochs, rows)
            for name, rows in trajectory.values.items()
        },
        **{f"frequencies/{first}-{last}": map_ for (first, last), map_ in rotations.items()},
        "preactivations": _preactivations(model, inputs, config.p),
    }
    run.save_results(results, arrays)
    return results


def train_mlp(
    model: QuadraticMLP,
    data: ModularAddition,
    config: MLPConfig,
    run: Run,
    progress: Progress = silent,
) -> None:
    """Train in place, full batch, from the run's last checkpoint if there is one."""
    parts = {
        part: (mx.array(data.x[index]), mx.array(data.labels[index]))
        for part, index in (("train", data.train), ("test", data.test))
    }

    def loss(network: nn.Module, x: mx.array, labels: mx.array) -> mx.array:
        return nn.losses.mse_loss(network(x), mx.eye(config.p)[labels])

    def evaluate() -> Mapping[str, mx.array]:
        return {
            f"{part} {metric}": value
            for part, (x, labels) in parts.items()
            for metric, value in (
                ("loss", loss(model, x, labels)),
                ("accuracy", mx.sum(mx.argmax(model(x), axis=1) == labels) / labels.size),
            )
        }

    # MLX leaves out Adam's bias correction unless told; the paper's optimizer has it.
    optimizer = optim.AdamW(
        config.learning_rate, weight_decay=config.weight_decay, bias_correction=True
    )
    train(
        model,
        optimizer,
        loss,
        lambda epoch: [parts["train"]],
        evaluate,
        run,
        epochs=config.epochs,
        checkpoint_every=CHECKPOINT_EVERY,
        progress=progress,
    )


def expected_groups(p: int) -> tuple[Modes, Modes]:
    """Where theory puts the two cliffs: p−1 modes each for n and m, then for sum and difference.

    For p = 29, modes 1–56 and 57–112. They are always reported, beside the cliffs found.
    """
    return (1, 2 * (p - 1)), (2 * p - 1, 4 * (p - 1))


def reported_groups(cliffs: list[int], p: int) -> list[Modes]:
    """The mode groups to report: those found, less the constant mode, and those expected."""
    found = [modes for modes in mode_groups(cliffs) if modes != (0, 0)]
    return sorted({*found, *expected_groups(p)})


def _disentangle(
    spectrum: Spectrum, groups: list[Modes], bank: FeatureBank, p: int
) -> dict[Modes, Float64Array]:
    """Each group rotated into single frequencies: mode × frequency of each family in turn."""
    return {
        modes: np.concatenate(
            [
                frequency_alignment(disentangle(spectrum.modes(*modes), p), bank[family])
                for family in FREQUENCY_FAMILIES
            ],
            axis=1,
        )
        for modes in groups
    }


def _single_frequency(heatmap: Float64Array) -> dict[str, float]:
    """How nearly each rotated mode is one frequency of one family: |cosine| with its best."""
    best = heatmap.max(axis=1)
    return {"median": float(np.median(best)), "smallest": float(best.min())}


def _preactivations(model: QuadraticMLP, inputs: mx.array, p: int) -> Float64Array:
    """Preactivations over ℤ_p² of the neurons with the largest readout weights."""
    readout = linalg.as_numpy(model.readout.weight)
    strongest = np.argsort(np.linalg.norm(readout, axis=0), kind="stable")[::-1][:NEURONS]
    values = linalg.as_numpy(model.preactivations(inputs))[:, strongest]
    return np.ascontiguousarray(values.T, dtype=np.float64).reshape(-1, p, p)


def _grokking(trajectory: Trajectory, alignment: list[Json], metrics: list[Json], p: int) -> Json:
    """Overlap of every group with every family over training, and when it rose."""
    epochs = trajectory.epochs
    by_epoch = {row["epoch"]: row for row in metrics}
    accuracy = {
        part: np.array([by_epoch[int(epoch)][f"{part} accuracy"] for epoch in epochs])
        for part in PARTS
    }
    dimensions = {
        (row["kernel"], tuple(row["modes"]), row["family"]): row["dimension"] for row in alignment
    }
    series = [
        {
            "kernel": kernel,
            "modes": modes,
            "family": family,
            "dimension": dimensions[kernel, modes, family],
            "overlap": overlap.tolist(),
            "derivative": derivative(epochs, overlap).tolist(),
            "transition": asdict(transition(epochs, overlap)),
        }
        for (kernel, modes, family), overlap in trajectory.overlaps.items()
    ]
    # The sum family is the function itself, so its cliff is the one that tells of grokking.
    main = next(
        row
        for row in series
        if (row["kernel"], row["modes"], row["family"]) == ("full", expected_groups(p)[1], "sum")
    )
    return {
        "epochs": [int(epoch) for epoch in epochs],
        "train_accuracy": accuracy["train"].tolist(),
        "test_accuracy": accuracy["test"].tolist(),
        "kernel": main["kernel"],
        "modes": main["modes"],
        "family": main["family"],
        "onset": {
            "rule": ONSET_RULE,
            "overlap": main["transition"],
            "test_accuracy": asdict(transition(epochs, accuracy["test"])),
            "steepest_overlap": int(epochs[np.argmax(main["derivative"])]),
            "steepest_test_accuracy": int(epochs[np.argmax(derivative(epochs, accuracy["test"]))]),
        },
        "series": series,
    }
