"""Modular addition: which Fourier features the eNTK sees, in which layer, and from when on.

The experiment of Lin, arXiv 2510.00468, on the network of Gromov (2023): train, take the trace
eNTK of all p² inputs, find its cliffs, align them with Fourier families, and follow the overlap
over training.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_entk import _linalg as linalg
from mlx_entk._files import Arrays
from mlx_entk._linalg import ArrayLike, Float64Array, FloatArray
from mlx_entk._parameters import flatten_tree
from mlx_entk.analysis import WHOLE, TrainedAlignment, analyze_kernels, with_whole
from mlx_entk.cliffs import CLIFF_RULE, Cliff
from mlx_entk.controls import Controls, controls_of
from mlx_entk.data import EMBEDDINGS, Embedding, ModularAddition, modular_addition
from mlx_entk.dynamics import derivative, track
from mlx_entk.errors import InputError
from mlx_entk.features import (
    FREQUENCY_FAMILIES,
    FeatureBank,
    center,
    disentangle_frequencies,
    frequency_alignment,
    frequency_shares,
    modular_features,
)
from mlx_entk.kernel import layer_factors, layerwise_entk
from mlx_entk.kernel.forecast import forecast
from mlx_entk.models import QuadraticMLP
from mlx_entk.probes import linear_probes
from mlx_entk.progress import Progress, silent
from mlx_entk.runs import Run
from mlx_entk.spectrum import Modes, Spectrum
from mlx_entk.studies.base import Headline, Network
from mlx_entk.studies.estimate import (
    Stage,
    memory_of_decomposition,
    seconds_of,
    seconds_of_decomposition,
    seconds_of_tracking,
    stage_of_report,
    stage_of_training,
)
from mlx_entk.studies.intervention.problem import InterventionProblem
from mlx_entk.studies.modular.modes import arrays_of_modes
from mlx_entk.studies.modular.pairs import (
    ModularConfig,
    after_kernel_accuracy,
    grokking,
    intervention_on_pairs,
    last_metrics,
    problem_of_pairs,
    train_on_pairs,
)
from mlx_entk.studies.networks import trained_network
from mlx_entk.studies.problem import RegressionProblem
from mlx_entk.studies.results import (
    Cliffs,
    Disentangled,
    Grokking,
    MeanOfRandom,
    Parts,
    Probed,
    Ranks,
    SingleFrequency,
)
from mlx_entk.studies.settings import setting
from mlx_entk.training import load_parameters

# Random rotations and random subspaces that disentangled modes are compared with.
DRAWS = 10
# Neurons whose preactivation is drawn: those with the largest readout weights.
NEURONS = 6
# Kernels of a checkpoint, the whole one and one for each weight; and panels of the report.
_KERNELS, _PANELS = 3, 35


@dataclass(frozen=True, kw_only=True)
class MLPConfig(ModularConfig):
    """Settings of the study; the defaults are those of the paper.

    Raises
    ------
    InputError
        For a value for which the study has no meaning.
    """

    train_fraction: float = 0.7
    epochs: int = 500
    seed: int = 0
    learning_rate: float = 0.05
    weight_decay: float = 0.01
    width: int = setting("Hidden units.", 512)
    embedding: Embedding = setting(
        "Embedding of n and m: unit vectors, cyclic shifts of one random vector, or of one for "
        "each summand.",
        "one-hot",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.width < 1:
            raise InputError(f"width is {self.width}: the network needs at least one hidden unit")
        if self.embedding not in EMBEDDINGS:
            raise InputError(f"embedding {self.embedding!r} is unknown: {', '.join(EMBEDDINGS)}")


@dataclass(frozen=True)
class MLPResults:
    """What the study finds.

    Attributes
    ----------
    inputs, parameters
        How many.
    accuracy, loss
        After training.
    cliffs, cliff_rule
        By kernel; and what a cliff is.
    effective_rank
        By kernel.
    equivalent_families
        Families that span the same space.
    alignment
        Of every kernel, reported group and family.
    controls
        What activations and outputs alone hold of the families.
    mode_features
        What the columns of the array ``shares`` are.
    disentangled
        Groups of the whole kernel, rotated into single frequencies.
    grokking
        What was followed over training.
    probes
        What linear probes tell of the summands, their sum and their difference, trained on the
        pairs that the network was trained on; empty in runs of versions that had none.
    """

    config: MLPConfig
    inputs: int
    parameters: int
    accuracy: Parts
    loss: Parts
    cliffs: Cliffs
    cliff_rule: str
    effective_rank: Ranks
    equivalent_families: list[list[str]]
    alignment: list[TrainedAlignment]
    controls: Controls
    mode_features: list[str]
    disentangled: list[Disentangled]
    grokking: Grokking
    probes: list[Probed] = field(default_factory=list)


def compute(config: MLPConfig, run: Run, progress: Progress = silent) -> tuple[MLPResults, Arrays]:
    """Train the MLP, analyse its kernels before, during and after, and align them.

    Parameters
    ----------
    run
        A folder made for this configuration; its checkpoints are not trained again.
    """
    data = dataset(config)
    inputs = mx.array(data.x)
    model = network(config)
    train_mlp(model, data, config, run, progress)

    def kernels_at(epoch: int) -> dict[str, FloatArray]:
        load_parameters(model, run, epoch)
        return with_whole(layerwise_entk(model, inputs, reduction="trace"))

    bank = modular_features(data.n, data.m, config.p, config.seed)
    kernels = kernels_at(config.epochs)
    analysis = analyze_kernels(
        kernels,
        bank,
        groups=lambda cliffs: reported_groups(cliffs, config.p),
        controls=controls_of(model, inputs),
        factors=layer_factors(model, inputs, reduction="trace"),
        progress=progress,
    )
    alignment = analysis.since(kernels_at(0))
    whole = analysis.spectra[WHOLE]
    rotations = _disentangle(whole, analysis.groups[WHOLE], bank, config.p)

    last = max(modes[1] for groups in analysis.groups.values() for modes in groups)
    top = min(config.p**2, max(6 * (config.p - 1), last + 1))
    trajectory = track(
        kernels_at,
        run.checkpoints,
        analysis.groups,
        analysis.bases,
        top,
        progress,
        targets=data.labels,
        measure=after_kernel_accuracy(data, WHOLE),
    )
    shares = {
        name: frequency_shares(spectrum.modes(0, top - 1), bank, FREQUENCY_FAMILIES)
        for name, spectrum in analysis.spectra.items()
    }

    load_parameters(model, run, config.epochs)
    # The sum family is the function itself, so its cliff is the one that tells of grokking.
    main = (WHOLE, expected_groups(config.p)[1], "sum")
    results = MLPResults(
        config=config,
        inputs=config.p**2,
        parameters=sum(v.size for v in flatten_tree(model.parameters()).values()),
        **last_metrics(run.metrics),
        cliffs=analysis.cliffs,
        cliff_rule=CLIFF_RULE,
        effective_rank=analysis.effective_ranks,
        equivalent_families=analysis.equivalent_families,
        alignment=alignment,
        controls=analysis.controls,
        mode_features=shares[WHOLE][1],
        disentangled=[
            _compared_with_chance(whole, modes, heatmap, bank, config)
            for modes, heatmap in rotations.items()
        ],
        grokking=grokking(trajectory, alignment, run.metrics, main),
        probes=[
            *_probed("trained", model, data, config),
            *_probed("initial", network(config), data, config),
        ],
    )
    arrays: Arrays = {
        **{f"values/{name}": s.values for name, s in analysis.spectra.items()},
        **{f"noise floor/{n}": np.array(s.noise_floor) for n, s in analysis.spectra.items()},
        **{f"shares/{name}": of_modes.astype(np.float32) for name, (of_modes, _) in shares.items()},
        **{f"values over training/{name}": rows for name, rows in trajectory.values.items()},
        **{
            f"values per epoch/{name}": derivative(trajectory.epochs, rows)
            for name, rows in trajectory.values.items()
        },
        **{f"frequencies/{first}-{last}": map_ for (first, last), map_ in rotations.items()},
        "preactivations": _preactivations(model, inputs, config.p),
        **arrays_of_modes(analysis, kernels, top),
    }
    return results, arrays


def estimate(config: MLPConfig) -> list[Stage]:
    """What ``compute`` and a report would take on this device."""
    data = dataset(config)
    make = partial(network, config)
    inputs, size = mx.array(data.x), config.p**2
    bank = modular_features(data.n, data.m, config.p, config.seed)
    groups = expected_groups(config.p)
    last = groups[-1][1]
    checkpoints = config.epochs // config.checkpoint_every + 1
    kernel = forecast(make(), inputs, reduction="trace", by_layer=True)
    followed = _KERNELS * seconds_of_tracking(size, min(size, 6 * (config.p - 1)))
    modes = seconds_of_decomposition(size) + seconds_of_decomposition(size, last + 1)
    training = stage_of_training(
        "training, epochs",
        lambda epochs, run: train_mlp(make(), data, replace(config, epochs=epochs), run),
        config.epochs,
        few=2 * config.checkpoint_every,
    )
    rows = np.random.default_rng(0).standard_normal((size, last - groups[-1][0] + 1))
    drawn = linalg.orthonormal_basis(center(rows))
    rotated = seconds_of(lambda: _heatmap(disentangle_frequencies(drawn, config.p), bank))
    rotations = len(groups) * (DRAWS + 1)
    held = _KERNELS * size * size * 4
    numbers = _KERNELS * len(groups) * len(bank) * 4
    return [
        training,
        Stage(
            "kernels, checkpoints",
            checkpoints + 3,  # those of the last and the first for the analysis, and the factors
            kernel.first + (checkpoints + 3) * kernel.seconds,
            kernel.memory + held,
        ),
        Stage(
            "modes over training, checkpoints",
            checkpoints,
            checkpoints * followed,
            5 * held + memory_of_decomposition(size, last + 1),
        ),
        Stage(
            "modes after and before training, kernels",
            _KERNELS,
            _KERNELS * modes,
            4 * held + memory_of_decomposition(size),
        ),
        Stage("rotations", rotations, rotations * rotated, 0),
        stage_of_report(_PANELS, numbers),
    ]


def dataset(config: MLPConfig) -> ModularAddition:
    """All p² pairs, and which of them are trained on."""
    return modular_addition(config.p, config.train_fraction, config.seed, config.embedding)


def network(config: MLPConfig) -> QuadraticMLP:
    """The network before training."""
    return QuadraticMLP(config.p, config.width, config.seed)


def train_mlp(
    model: QuadraticMLP,
    data: ModularAddition,
    config: MLPConfig,
    run: Run,
    progress: Progress = silent,
) -> None:
    """Train in place, full batch, from the run's last checkpoint if there is one."""
    train_on_pairs(model, mx.array(data.x), data, config, squared_error, run, progress=progress)


def squared_error(logits: mx.array, labels: mx.array) -> mx.array:
    """The loss: of logits (N, p) from the unit vectors of the labels (N,)."""
    return nn.losses.mse_loss(logits, mx.eye(logits.shape[1])[labels])


def expected_groups(p: int) -> tuple[Modes, Modes]:
    """The groups that theory expects: p−1 modes each for n and m, then for sum and difference.

    For p = 29 they are modes 1–56 and 57–112. They are always reported, alongside those at cliffs.
    """
    return (1, 2 * (p - 1)), (2 * p - 1, 4 * (p - 1))


def reported_groups(cliffs: list[Cliff], p: int) -> list[Modes]:
    """The mode groups to report: those at cliffs, less the constant mode, and those expected."""
    at_cliffs = [cliff.modes for cliff in cliffs if cliff.modes != (0, 0)]
    return sorted({*at_cliffs, *expected_groups(p)})


def _disentangle(
    spectrum: Spectrum, groups: list[Modes], bank: FeatureBank, p: int
) -> dict[Modes, Float64Array]:
    """Each group rotated into single frequencies: mode × frequency of each family in turn."""
    return {
        modes: _heatmap(disentangle_frequencies(spectrum.modes(*modes), p), bank)
        for modes in groups
    }


def _heatmap(modes: Float64Array, bank: FeatureBank) -> Float64Array:
    """|cosine| of modes with each frequency of each family in turn."""
    return np.concatenate(
        [frequency_alignment(modes, bank[family]) for family in FREQUENCY_FAMILIES], axis=1
    )


def _compared_with_chance(
    spectrum: Spectrum, modes: Modes, heatmap: Float64Array, bank: FeatureBank, config: MLPConfig
) -> Disentangled:
    """How nearly the rotated modes are single frequencies, alongside two null models.

    Any space has rotations, and the one that is chosen makes its modes as nearly single
    frequencies as it can: random spaces say how near that is.
    """
    generator = np.random.default_rng(config.seed)
    group = spectrum.modes(*modes)
    N, d = group.shape
    rotated, random = [], []
    for _ in range(DRAWS):
        rotation = np.linalg.qr(generator.standard_normal((d, d)))[0]
        rotated.append(_single_frequency(_heatmap(group @ rotation, bank)).median)
        drawn = linalg.orthonormal_basis(center(generator.standard_normal((N, d))))
        random.append(
            _single_frequency(_heatmap(disentangle_frequencies(drawn, config.p), bank)).median
        )
    return Disentangled(
        WHOLE,
        modes,
        _single_frequency(heatmap),
        MeanOfRandom.of(rotated),
        MeanOfRandom.of(random),
    )


def _single_frequency(heatmap: Float64Array) -> SingleFrequency:
    best = heatmap.max(axis=1)
    return SingleFrequency(median=float(np.median(best)), smallest=float(best.min()))


def _preactivations(model: QuadraticMLP, inputs: mx.array, p: int) -> Float64Array:
    """Preactivations over ℤ_p² of the neurons with the largest readout weights."""
    readout = linalg.as_numpy(model.readout.weight)
    strongest = np.argsort(np.linalg.norm(readout, axis=0), kind="stable")[::-1][:NEURONS]
    values = linalg.as_numpy(model.preactivations(inputs))[:, strongest]
    return np.ascontiguousarray(values.T, dtype=np.float64).reshape(-1, p, p)


def _probed(
    name: str, model: QuadraticMLP, data: ModularAddition, config: MLPConfig
) -> Iterator[Probed]:
    """Linear probes of every stage of a network, fitted on its training pairs."""
    inputs = mx.array(data.x)
    preactivations = linalg.as_numpy(model.preactivations(inputs))
    stages = {
        "preactivations": preactivations,
        "activations": preactivations**2,
        "logits": linalg.as_numpy(model(inputs)),
    }
    difference = (data.n - data.m) % config.p
    targets = {"n": data.n, "m": data.m, "sum": data.labels, "difference": difference}
    for stage, values in stages.items():
        found = linear_probes(values, targets, data.train, data.test, config.seed)
        for target, accuracy in found.items():
            yield Probed(name, stage, target, accuracy)


def headline(results: MLPResults) -> Headline:
    """The numbers by which runs are compared; overlaps in per cent."""
    first, second = expected_groups(results.config.p)
    rows = {(row.modes, row.family): row for row in results.alignment if row.kernel == WHOLE}
    margin = results.controls.margin
    onset = results.grokking.onset
    return {
        "test accuracy": 100 * results.accuracy.test,
        "second group with sum": rows[second, "sum"].percent,
        "second group with sum, beyond controls": margin(rows[second, "sum"]),
        "second group with difference": rows[second, "difference"].percent,
        "second group with difference, beyond controls": margin(rows[second, "difference"]),
        "first group with n ∪ m": rows[first, "n ∪ m"].percent,
        "steepest overlap": onset.steepest_overlap,
        "steepest test accuracy": onset.steepest_test_accuracy,
    }


def unit(name: str) -> str:
    """The unit of a headline number."""
    if name.startswith("steepest"):
        return "epoch"
    return "points" if name.endswith("beyond controls") else "%"


def trained(run: Run, config: MLPConfig) -> Network:
    """The trained network, and pairs that it was not trained on."""
    data = dataset(config)
    return trained_network(network(config), run, data.x[data.test], "trace")


def problem(run: Run, config: MLPConfig, targets: ArrayLike | None) -> RegressionProblem:
    """Kernel regression of the network's outputs, towards the unit vectors of the labels."""
    data = dataset(config)
    return problem_of_pairs(
        run, network(config), mx.array(data.x), data, np.eye(config.p)[data.labels]
    )


def intervention(run: Run, config: MLPConfig) -> InterventionProblem:
    """Interventions along the groups that theory expects, and on one frequency at a time."""
    data = dataset(config)
    first, second = expected_groups(config.p)
    return intervention_on_pairs(
        run,
        network(config),
        mx.array(data.x),
        data,
        squared_error,
        groups=(second, first),
        searched=second,
        frequencies=range(1, config.p // 2 + 1),
    )
