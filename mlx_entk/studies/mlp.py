"""Modular addition: which Fourier features the eNTK sees, in which layer, and from when on.

The experiment of Lin, arXiv 2510.00468, on the network of Gromov (2023): train, take the trace
eNTK of all p² inputs, find its cliffs, align them with Fourier families, and follow the overlap
over training.
"""

from dataclasses import dataclass, replace
from functools import partial

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_entk import _linalg as linalg
from mlx_entk._files import Arrays, Json
from mlx_entk._linalg import Float64Array, FloatArray, orthonormal_basis
from mlx_entk._parameters import flatten_tree
from mlx_entk.data import EMBEDDINGS, Embedding, ModularAddition, modular_addition
from mlx_entk.dynamics import Modes, derivative, track
from mlx_entk.errors import InputError
from mlx_entk.features import (
    FREQUENCY_FAMILIES,
    FeatureBank,
    alignment_rows,
    center,
    disentangle,
    equivalent_families,
    frequency_alignment,
    frequency_shares,
    modular_features,
)
from mlx_entk.kernel import entk
from mlx_entk.models import QuadraticMLP
from mlx_entk.progress import Progress, silent
from mlx_entk.runs import Run
from mlx_entk.spectrum import (
    CLIFF_RULE,
    Spectrum,
    effective_rank,
    eigendecompose,
    find_cliffs,
    mode_groups,
)
from mlx_entk.studies.estimate import (
    Stage,
    memory_of_kernels,
    seconds_of_decomposition,
    seconds_of_kernel,
    seconds_of_training,
)
from mlx_entk.studies.modular import (
    ModularConfig,
    grokking,
    last_metrics,
    train_on_pairs,
    with_initial,
)
from mlx_entk.training import load_parameters

STUDY = "modular-mlp"

# Neurons whose preactivation is drawn: those with the largest readout weights.
NEURONS = 6


@dataclass(frozen=True, kw_only=True)
class MLPConfig(ModularConfig):
    """Settings of the study; the defaults are those of the paper.

    Raises
    ------
    InputError
        For a value that the study has no meaning for.
    """

    width: int = 512
    train_fraction: float = 0.7
    epochs: int = 500
    seed: int = 0
    embedding: Embedding = "one-hot"
    learning_rate: float = 0.05
    weight_decay: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.width < 1:
            raise InputError(f"width is {self.width}: the network needs at least one hidden unit")
        if self.embedding not in EMBEDDINGS:
            raise InputError(f"embedding {self.embedding!r} is unknown: {', '.join(EMBEDDINGS)}")


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
    before = {name: eigendecompose(kernel) for name, kernel in kernels_at(0).items()}
    alignment = with_initial(
        alignment_rows(spectra, groups, bases), alignment_rows(before, groups, bases)
    )
    rotations = _disentangle(spectra["full"], groups["full"], bank, config.p)

    last = max(modes[1] for of_kernel in groups.values() for modes in of_kernel)
    top = min(config.p**2, max(6 * (config.p - 1), last + 1))
    trajectory = track(kernels_at, run.checkpoints, groups, bases, top, progress)
    shares = {
        name: frequency_shares(s.modes(0, top - 1), bank, FREQUENCY_FAMILIES)
        for name, s in spectra.items()
    }

    load_parameters(model, run, config.epochs)
    # The sum family is the function itself, so its cliff is the one that tells of grokking.
    main = ("full", expected_groups(config.p)[1], "sum")
    results: Json = {
        "study": STUDY,
        "config": config.as_json(),
        "inputs": config.p**2,
        "parameters": sum(v.size for v in flatten_tree(model.parameters()).values()),
        **last_metrics(run.metrics),
        "cliffs": {name: mode_groups(cliffs[name]) for name in spectra},
        "cliff_rule": CLIFF_RULE,
        "effective_rank": {name: effective_rank(s.values) for name, s in spectra.items()},
        "equivalent_families": equivalent_families(bases),
        "alignment": alignment,
        "mode_features": shares["full"][1],
        "disentangled": [
            {"kernel": "full", "modes": modes, "single_frequency": _single_frequency(heatmap)}
            for modes, heatmap in rotations.items()
        ],
        "grokking": grokking(trajectory, alignment, run.metrics, main),
    }
    arrays: Arrays = {
        **{f"values/{name}": s.values for name, s in spectra.items()},
        **{f"shares/{name}": found.astype(np.float32) for name, (found, _) in shares.items()},
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


def estimate(config: MLPConfig) -> list[Stage]:
    """What :func:`run_mlp` would take on this device."""
    data = modular_addition(config.p, config.train_fraction, config.seed, config.embedding)
    make = partial(QuadraticMLP, config.p, config.width, config.seed)
    inputs, size = mx.array(data.x), config.p**2
    snapshots = config.epochs // config.checkpoint_every + 3  # two more for the final analysis
    kernel = seconds_of_kernel(make(), inputs, "trace", by_layer=True)
    modes = 3 * seconds_of_decomposition(size, 6 * (config.p - 1))
    training = seconds_of_training(
        lambda epochs, run: train_mlp(make(), data, replace(config, epochs=epochs), run),
        config.epochs,
        few=2 * config.checkpoint_every,
    )
    return [
        Stage("training, epochs", config.epochs, training, 0),
        Stage(
            "kernels and their modes, checkpoints",
            snapshots,
            snapshots * (kernel + modes),
            memory_of_kernels(size, 6),
        ),
    ]


def train_mlp(
    model: QuadraticMLP,
    data: ModularAddition,
    config: MLPConfig,
    run: Run,
    progress: Progress = silent,
) -> None:
    """Train in place, full batch, from the run's last checkpoint if there is one."""

    def loss(logits: mx.array, labels: mx.array) -> mx.array:
        return nn.losses.mse_loss(logits, mx.eye(config.p)[labels])

    train_on_pairs(model, mx.array(data.x), data, config, loss, run, progress=progress)


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


def headline(results: Json) -> dict[str, float | None]:
    """The figures of a run that a sweep sets side by side; overlaps in per cent."""
    first, second = expected_groups(results["config"]["p"])
    rows = {
        (row["kernel"], tuple(row["modes"]), row["family"]): row for row in results["alignment"]
    }
    onset = results["grokking"]["onset"]
    return {
        "test accuracy": 100 * results["accuracy"]["test"],
        "second group with sum": rows["full", second, "sum"]["percent"],
        "second group with difference": rows["full", second, "difference"]["percent"],
        "first group with n ∪ m": rows["full", first, "n ∪ m"]["percent"],
        "steepest overlap": onset["steepest_overlap"],
        "steepest test accuracy": onset["steepest_test_accuracy"],
    }
