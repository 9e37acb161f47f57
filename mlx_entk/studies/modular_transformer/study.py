"""The modular-addition transformer: which parameter's kernel holds which feature, and from when.

The second network of Lin, arXiv 2510.00468: the transformer of Nanda et al. (2023) is trained
until it groks; its key frequencies are read off its embedding and off its kernel; the kernels
of its nine parameters are aligned with Fourier families at those frequencies and at the others,
after training and over it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_entk import _linalg as linalg
from mlx_entk._files import Arrays
from mlx_entk._linalg import ArrayLike, FloatArray
from mlx_entk._parameters import flatten_tree
from mlx_entk._records import from_json
from mlx_entk.analysis import WHOLE, KernelAnalysis, analyze_kernels, with_sums, with_whole
from mlx_entk.cliffs import CLIFF_RULE
from mlx_entk.controls import Controls, controls_of
from mlx_entk.dynamics import HALF_RISE_RULE, half_rise, track
from mlx_entk.features import (
    KEY_RULE,
    KEYED_FAMILIES,
    embedding_power,
    frequency_features,
    frequency_shares,
    kernel_power,
    key_frequencies,
)
from mlx_entk.features.bank import fourier_family, frequency_families
from mlx_entk.kernel import layer_factors, layerwise_entk
from mlx_entk.kernel.forecast import forecast
from mlx_entk.kernel.reduction import Reduction
from mlx_entk.progress import Progress, silent
from mlx_entk.runs import Run
from mlx_entk.spectrum import Modes
from mlx_entk.studies.base import Headline, Network
from mlx_entk.studies.estimate import (
    Stage,
    memory_of_decomposition,
    seconds_of_decomposition,
    seconds_of_tracking,
    stage_of_report,
    stage_of_training,
)
from mlx_entk.studies.intervention.problem import InterventionProblem
from mlx_entk.studies.modular.modes import arrays_of_modes
from mlx_entk.studies.modular.pairs import (
    after_kernel_accuracy,
    grokking,
    intervention_on_pairs,
    last_metrics,
    problem_of_pairs,
)
from mlx_entk.studies.modular_transformer.training import (
    GROKKED,
    TransformerConfig,
    cross_entropy,
    dataset,
    make_model,
    stop_rule,
    train_transformer,
)
from mlx_entk.studies.networks import trained_network
from mlx_entk.studies.problem import RegressionProblem
from mlx_entk.studies.results import (
    Cliffs,
    Grokking,
    GrokkingByParameter,
    KeyFrequencies,
    LocalisedAlignment,
    Move,
    Parts,
    Ranks,
    Series,
)
from mlx_entk.studies.words import kernel_name
from mlx_entk.training import held_since, load_parameters, reached

# The most checkpoints whose kernels are decomposed, evenly over the training.
TRACKED = 200
# For an estimate: frequencies that a network takes up, about, and panels of every report.
_USUAL_KEYS, _PANELS = 5, 10

# The parameter whose kernel the paper looks at first, and the families that it turns to.
UNEMBEDDING = "unembedding"
_KEY = {family.name: family.label for family in KEYED_FAMILIES if family.frequencies == "key"}
SUM, AXIS_SUM = _KEY["sum"], _KEY["axis sum"]

# The reduction that is followed over training; the paper's for this network.
MAIN = "sum-of-logits"
REDUCTIONS: dict[str, Reduction] = {MAIN: MAIN, "trace": "trace", "class 0": (0, 0)}

# Kernels of parameters that act as one product, analysed after training but not followed.
SUMS = {"Q+K": ("W_Q", "W_K"), "O+V": ("W_O", "W_V")}


@dataclass(frozen=True)
class TransformerResults:
    """What the study finds.

    Attributes
    ----------
    inputs, parameters, epochs
        How many; epochs are those trained for.
    stop_rule
        When training ends.
    grokked_at
        The epoch from which on the test accuracy held; None if it never did.
    accuracy, loss
        After training.
    key_frequencies
        Those that the network uses.
    cliffs, effective_rank
        By reduction and kernel.
    cliff_rule
        What a cliff is.
    equivalent_families
        Families that span the same space.
    alignment
        Of every reduction, kernel, reported group and family.
    controls
        What activations and outputs alone hold of the families; the factors are those of the
        reduction that is followed.
    mode_features
        What the columns of the array ``shares`` are.
    grokking
        What was followed over training.
    """

    config: TransformerConfig
    inputs: int
    parameters: int
    epochs: int
    stop_rule: str
    grokked_at: int | None
    accuracy: Parts
    loss: Parts
    key_frequencies: KeyFrequencies
    cliffs: dict[str, Cliffs]
    cliff_rule: str
    effective_rank: dict[str, Ranks]
    equivalent_families: list[list[str]]
    alignment: list[LocalisedAlignment]
    controls: Controls
    mode_features: list[str]
    grokking: GrokkingByParameter


def compute(
    config: TransformerConfig, run: Run, progress: Progress = silent
) -> tuple[TransformerResults, Arrays]:
    """Train the transformer, analyse the kernels of its parameters, and follow them.

    Parameters
    ----------
    run
        A folder made for this configuration; its checkpoints are not trained again.
    """
    data = dataset(config)
    inputs = mx.array(data.tokens)
    model = make_model(config)
    last = train_transformer(model, data, config, run, progress)

    def kernels_at(epoch: int, reduction: str = MAIN) -> dict[str, FloatArray]:
        load_parameters(model, run, epoch)
        return with_whole(layerwise_entk(model, inputs, reduction=REDUCTIONS[reduction]))

    load_parameters(model, run, last)
    power = embedding_power(linalg.as_numpy(model.embedding)[: config.p])
    keys = key_frequencies(power)
    groups = expected_groups(len(keys))
    bank = frequency_features(data.n, data.m, config.p, keys, config.seed)

    analyses: dict[str, KernelAnalysis] = {}
    modes: Arrays = {}
    alignment: list[LocalisedAlignment] = []
    for done, reduction in enumerate(REDUCTIONS):
        progress("kernels", done, len(REDUCTIONS), reduction)
        kernels = with_sums(kernels_at(last, reduction), SUMS)
        given: dict[str, Any] = {}
        if reduction == MAIN:
            given["controls"] = controls_of(model, inputs)
            given["factors"] = layer_factors(model, inputs, reduction=REDUCTIONS[MAIN])
        analysis = analyze_kernels(kernels, bank, groups=groups, **given)
        if reduction == MAIN:
            modes = arrays_of_modes(analysis, kernels, shown_modes(config))
        analyses[reduction] = analysis
        alignment += [
            LocalisedAlignment(**asdict(row), reduction=reduction)
            for row in analysis.since(with_sums(kernels_at(0, reduction), SUMS))
        ]
    progress("kernels", len(REDUCTIONS), len(REDUCTIONS))

    main = analyses[MAIN]
    sums = fourier_family(data.labels, config.p)
    kernels_power = kernel_power(main.spectra[UNEMBEDDING], sums)
    planes = frequency_families(data.n, data.m, config.p)
    shares = {
        name: frequency_shares(spectrum.modes(0, shown_modes(config) - 1), planes, list(planes))
        for name, spectrum in main.spectra.items()
    }
    trajectory = track(
        kernels_at,
        _tracked(run.checkpoints),
        {name: of_kernel for name, of_kernel in main.groups.items() if name not in SUMS},
        main.bases,
        groups[-1][1] + 1,
        progress,
        targets=data.labels,
        measure=after_kernel_accuracy(data, WHOLE),
    )
    metrics = run.metrics
    grokked = reached("test accuracy", GROKKED, config.hold)(metrics)
    rows = [row for row in alignment if row.reduction == MAIN]
    followed = grokking(trajectory, rows, metrics, (UNEMBEDDING, groups[0], SUM))
    results = TransformerResults(
        config=config,
        inputs=config.p**2,
        parameters=sum(v.size for v in flatten_tree(model.parameters()).values()),
        epochs=last,
        stop_rule=stop_rule(config),
        grokked_at=held_since(metrics, "test accuracy", GROKKED) if grokked else None,
        **last_metrics(metrics),
        key_frequencies=KeyFrequencies(KEY_RULE, keys, key_frequencies(kernels_power)),
        cliffs={name: analysis.cliffs for name, analysis in analyses.items()},
        cliff_rule=CLIFF_RULE,
        effective_rank={name: analysis.effective_ranks for name, analysis in analyses.items()},
        equivalent_families=main.equivalent_families,
        alignment=alignment,
        controls=main.controls,
        mode_features=shares[WHOLE][1],
        grokking=_by_parameter(followed),
    )
    arrays: Arrays = {
        "embedding power": power,
        "kernel power": kernels_power,
        **{f"shares/{name}": of_modes.astype(np.float32) for name, (of_modes, _) in shares.items()},
        **{
            f"values/{reduction}/{name}": spectrum.values
            for reduction, analysis in analyses.items()
            for name, spectrum in analysis.spectra.items()
        },
        **{
            f"noise floor/{name}": np.array(spectrum.noise_floor)
            for name, spectrum in main.spectra.items()
        },
        **{f"values over training/{name}": rows for name, rows in trajectory.values.items()},
        **modes,
    }
    return results, arrays


def estimate(config: TransformerConfig) -> list[Stage]:
    """What ``compute`` and a report would take on this device, if it trained to the last epoch."""
    data = dataset(config)
    inputs, size = mx.array(data.tokens), config.p**2
    model = make_model(config)
    kernels = len(flatten_tree(model.parameters())) + 1
    tracked = len(_tracked(list(range(0, config.epochs + 1, config.checkpoint_every))))
    training = stage_of_training(
        "training, epochs at most",
        lambda epochs, run: train_transformer(
            make_model(config), data, replace(config, epochs=epochs, hold=0), run
        ),
        config.epochs,
        few=2 * config.checkpoint_every,
    )
    formed = {
        name: forecast(model, inputs, reduction=reduction, by_layer=True)
        for name, reduction in REDUCTIONS.items()
    }
    groups = expected_groups(min(_USUAL_KEYS, config.p // 2))
    top = groups[-1][1] + 1
    modes = seconds_of_decomposition(size) + seconds_of_decomposition(size, top)
    analyses = len(REDUCTIONS) * (kernels + len(SUMS))
    held = (kernels + len(SUMS)) * size * size * 4
    memory = max(kernel.memory for kernel in formed.values()) + held
    families = len(frequency_features(data.n, data.m, config.p, [1], config.seed))
    return [
        training,
        Stage(
            "kernels after and before training, reductions",
            len(REDUCTIONS),
            sum(kernel.first + 2 * kernel.seconds for kernel in formed.values()),
            memory,
        ),
        Stage(
            "modes after and before training, kernels",
            analyses,
            analyses * modes,
            (2 * len(REDUCTIONS) + 2) * held + memory_of_decomposition(size),
        ),
        Stage(
            "kernels over training, checkpoints at most",
            tracked,
            tracked * formed[MAIN].seconds,
            (2 * len(REDUCTIONS) + 3) * held + memory_of_decomposition(size, top),
        ),
        Stage(
            "modes over training, checkpoints at most",
            tracked,
            tracked * kernels * seconds_of_tracking(size, top),
            (2 * len(REDUCTIONS) + 3) * held + memory_of_decomposition(size, top),
        ),
        stage_of_report(
            _PANELS + 5 * len(REDUCTIONS) + 3 * kernels,
            analyses * len(groups) * families * 4,
        ),
    ]


def shown_modes(config: TransformerConfig) -> int:
    """How many leading modes figures show: those that families of single frequencies can fill."""
    return min(config.p**2, 2 * (config.p - 1) + 4)


def expected_groups(keys: int) -> tuple[Modes, Modes, Modes]:
    """The groups to report for F key frequencies: 1 + 2F modes, 2F more, and all of them.

    The paper finds the sum in the first and the axis sum in the second. If one frequency is
    much weaker than the others, its sum comes after their axis sums, so the two mix; together
    they still hold both.
    """
    return (0, 2 * keys), (2 * keys + 1, 4 * keys), (0, 4 * keys)


def _tracked(checkpoints: list[int]) -> list[int]:
    """At most ``TRACKED`` checkpoints and the last."""
    stride = -(-len(checkpoints) // TRACKED)
    return sorted({*checkpoints[::stride], checkpoints[-1]})


def _by_parameter(followed: Grokking) -> GrokkingByParameter:
    """Add which kernel turned to its family when, and how far ahead of the test accuracy.

    A kernel's family is the one at the key frequencies whose overlap with its first or second
    group rose the most, as a share of its dimension; its time is that of half the rise.
    """
    epochs = np.array(followed.epochs, dtype=np.float64)
    accuracy = half_rise(epochs, np.array(followed.test_accuracy))
    at_keys = set(_KEY.values())
    moves = []
    for kernel in followed.distance:
        series = [row for row in followed.series if row.kernel == kernel]
        widest = max(row.modes[1] - row.modes[0] for row in series)
        narrow = [
            row for row in series if row.family in at_keys and row.modes[1] - row.modes[0] < widest
        ]
        best = max(narrow, key=lambda row: row.rise)
        epoch = half_rise(epochs, np.array(best.overlap))
        moves.append(_move(best, epoch, accuracy - epoch))
    return GrokkingByParameter(
        **{part.name: getattr(followed, part.name) for part in fields(followed)},
        half_rise_rule=HALF_RISE_RULE,
        half_rise_of_test_accuracy=accuracy,
        moves=sorted(moves, key=lambda move: move.epoch),
    )


def _move(series: Series, epoch: float, lead: float) -> Move:
    return Move(
        kernel=series.kernel,
        modes=series.modes,
        family=series.family,
        dimension=series.dimension,
        transition=series.transition,
        rise=series.rise,
        epoch=epoch,
        lead=lead,
    )


@dataclass(frozen=True)
class LeadTest:
    """The kernel that turned ahead of the test accuracy in most seeds, and how likely that is.

    Attributes
    ----------
    kernel
        Its name; several may do so equally often, then the first.
    ahead, seeds
        In how many of how many seeds it did.
    p
        The chance that any kernel does so in as many seeds, if the kernels of every seed changed
        their places at random: the kernel is one of several, chosen afterwards.
    """

    kernel: str
    ahead: int
    seeds: int
    p: float


def lead_test(moves: Sequence[Sequence[Move]], draws: int = 10_000) -> LeadTest:
    """Test by permutations whether one kernel is ahead of the test accuracy in most seeds.

    Parameters
    ----------
    moves
        Of the kernels of every seed.
    draws
        Permutations.
    """
    names = [move.kernel for move in moves[0]]
    ahead = np.array(
        [
            [{m.kernel: m.lead > 0 and m.rose for m in of_seed}[n] for n in names]
            for of_seed in moves
        ]
    )
    counts = ahead.sum(axis=0)
    most = int(counts.max())
    generator = np.random.default_rng(0)
    shuffled = [generator.permuted(ahead, axis=1).sum(axis=0).max() for _ in range(draws)]
    p = (1 + sum(int(count) >= most for count in shuffled)) / (1 + draws)
    return LeadTest(names[int(counts.argmax())], most, len(moves), p)


def main_rows(
    results: TransformerResults,
) -> Mapping[tuple[str, Modes, str], LocalisedAlignment]:
    """The alignment by the reduction that is followed, by kernel, modes and family."""
    return {
        (row.kernel, row.modes, row.family): row
        for row in results.alignment
        if row.reduction == MAIN
    }


def headline(results: TransformerResults) -> Headline:
    """The numbers by which runs are compared.

    ``grokked at`` is the epoch from which on the test
    accuracy held, None if it never did.
    """
    keys = results.key_frequencies
    first, second, both = expected_groups(len(keys.embedding))
    rows = main_rows(results)
    leads = {f"lead of {kernel_name(move.kernel)}": move.lead for move in results.grokking.moves}
    return {
        "test accuracy": 100 * results.accuracy.test,
        "epochs": results.epochs,
        "grokked at": results.grokked_at,
        "key frequencies": len(keys.embedding),
        "by the kernel too": len({*keys.embedding} & {*keys.kernel}),
        "unembedding with sum": rows[UNEMBEDDING, first, SUM].percent,
        "next with axis sum": rows[UNEMBEDDING, second, AXIS_SUM].percent,
        "both with sum": rows[UNEMBEDDING, both, SUM].percent,
        "unembedding with sum, beyond controls": results.controls.margin(
            rows[UNEMBEDDING, first, SUM]
        ),
        "next with axis sum, beyond controls": results.controls.margin(
            rows[UNEMBEDDING, second, AXIS_SUM]
        ),
        "both with axis sum": rows[UNEMBEDDING, both, AXIS_SUM].percent,
        "initially with sum": rows[UNEMBEDDING, first, SUM].initial_percent,
        **{name: leads[name] for name in sorted(leads)},
    }


def unit(name: str) -> str:
    """The unit of a headline number."""
    if name in ("epochs", "grokked at"):
        return "epoch"
    if name.startswith("lead of"):
        return "epochs"
    if name in ("key frequencies", "by the kernel too"):
        return ""
    return "points" if name.endswith("beyond controls") else "%"


def trained(run: Run, config: TransformerConfig) -> Network:
    """The trained network, and pairs that it was not trained on."""
    data = dataset(config)
    return trained_network(make_model(config), run, data.tokens[data.test], MAIN)


def problem(run: Run, config: TransformerConfig, targets: ArrayLike | None) -> RegressionProblem:
    """Kernel regression towards the network's own outputs.

    It was trained on cross-entropy, which gives logits no values to fit.
    """
    data = dataset(config)
    return problem_of_pairs(run, make_model(config), mx.array(data.tokens), data, None)


def intervention(run: Run, config: TransformerConfig) -> InterventionProblem:
    """Interventions on the modes of the trace kernel, and on the key frequencies one by one.

    A mode of the sum of logits would not do: in the unembedding its direction raises all logits
    alike, which changes no answer.
    """
    data = dataset(config)
    results = from_json(TransformerResults, run.results, f"{run.file('results.json')}")
    found = results.key_frequencies.embedding
    first, second, _ = expected_groups(len(found))
    return intervention_on_pairs(
        run,
        make_model(config),
        mx.array(data.tokens),
        data,
        cross_entropy,
        groups=(first, second),
        searched=(0, shown_modes(config) - 1),
        frequencies=found,
    )
