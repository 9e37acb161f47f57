"""The modular-addition transformer: which parameter's kernel holds which feature, and from when.

The second network of Lin, arXiv 2510.00468: the transformer of Nanda et al. (2023) is trained
until it groks; its key frequencies are read off its embedding and off its kernel; the kernels
of its nine parameters are aligned with Fourier families at those frequencies and at the others,
after training and over it.
"""

from dataclasses import dataclass, replace

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_entk import _linalg as linalg
from mlx_entk._files import Arrays, Json
from mlx_entk._linalg import FloatArray, orthonormal_basis
from mlx_entk._parameters import flatten_tree
from mlx_entk.data import ModularAddition, modular_addition
from mlx_entk.dynamics import HALF_RISE_RULE, Modes, half_rise, track
from mlx_entk.errors import InputError
from mlx_entk.features import (
    KEY_RULE,
    alignment_rows,
    center,
    embedding_power,
    equivalent_families,
    frequency_features,
    frequency_shares,
    kernel_power,
    key_frequencies,
)
from mlx_entk.features.bank import fourier_family, frequency_families
from mlx_entk.kernel import entk
from mlx_entk.kernel.reduction import Reduction
from mlx_entk.models import ModularTransformer
from mlx_entk.progress import Progress, silent
from mlx_entk.runs import Run
from mlx_entk.spectrum import (
    CLIFF_RULE,
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
from mlx_entk.training import held_since, load_parameters, reached

STUDY = "modular-transformer"

# Test accuracy that counts as grokked.
GROKKED = 0.99
EVALUATE_EVERY = 10
# The most checkpoints whose kernels are decomposed, evenly over the training.
TRACKED = 200

# The reduction that is followed over training; the paper's for this network.
MAIN = "sum-of-logits"
REDUCTIONS: dict[str, Reduction] = {MAIN: MAIN, "trace": "trace", "class 0": (0, 0)}


@dataclass(frozen=True, kw_only=True)
class TransformerConfig(ModularConfig):
    """Settings of the study; the defaults are those of the paper.

    Raises
    ------
    InputError
        For a value that the study has no meaning for.
    """

    d_model: int = 64
    heads: int = 4
    d_mlp: int = 256
    train_fraction: float = 0.5
    batch_size: int = 64
    epochs: int = 4000
    hold: int = 200
    seed: int = 2
    learning_rate: float = 3e-4
    weight_decay: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("d_model", "heads", "d_mlp", "batch_size"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}: it must be at least 1")
        if self.d_model % self.heads:
            raise InputError(
                f"d_model is {self.d_model}, which {self.heads} heads cannot share equally"
            )
        if self.hold < 0:
            raise InputError(f"hold is {self.hold}: epochs are 0 or more")

    @property
    def checkpoint_every(self) -> int:
        """Epochs between checkpoints."""
        return 20


def run_transformer(config: TransformerConfig, run: Run, progress: Progress = silent) -> Json:
    """Train the transformer, analyse its kernels and store the results in the run folder.

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
    data = modular_addition(config.p, config.train_fraction, config.seed)
    inputs = mx.array(data.tokens)
    model = make_model(config)
    last = train_transformer(model, data, config, run, progress)

    def kernels_at(epoch: int, reduction: str = MAIN) -> dict[str, FloatArray]:
        load_parameters(model, run, epoch)
        by_layer = entk(model, inputs, reduction=REDUCTIONS[reduction], by_layer=True)
        return {"full": np.sum(list(by_layer.values()), axis=0), **by_layer}

    load_parameters(model, run, last)
    power = embedding_power(linalg.as_numpy(model.embedding)[: config.p])
    keys = key_frequencies(power)
    groups = expected_groups(len(keys))
    bank = frequency_features(data.n, data.m, config.p, keys, config.seed)
    bases = {family: orthonormal_basis(center(columns)) for family, columns in bank.items()}

    top = groups[-1][1] + 1
    arrays: Arrays = {"embedding power": power}
    alignment: list[Json] = []
    cliffs: dict[str, Json] = {}
    ranks: dict[str, Json] = {}
    for done, reduction in enumerate(REDUCTIONS):
        progress("kernels", done, len(REDUCTIONS), reduction)
        spectra = {
            name: eigendecompose(kernel) for name, kernel in kernels_at(last, reduction).items()
        }
        if reduction == MAIN:
            sums = fourier_family(data.labels, config.p)
            arrays["kernel power"] = kernel_power(spectra["unembedding"], sums)
            planes = frequency_families(data.n, data.m, config.p)
            for name, spectrum in spectra.items():
                leading = spectrum.modes(0, shown_modes(config) - 1)
                shares, mode_features = frequency_shares(leading, planes, list(planes))
                arrays[f"shares/{name}"] = shares.astype(np.float32)
        every = {name: list(groups) for name in spectra}
        before = {
            name: eigendecompose(kernel, top) for name, kernel in kernels_at(0, reduction).items()
        }
        rows = with_initial(
            alignment_rows(spectra, every, bases), alignment_rows(before, every, bases)
        )
        alignment += [{"reduction": reduction, **row} for row in rows]
        cliffs[reduction] = {
            name: mode_groups(find_cliffs(s.values, s.noise_floor)) for name, s in spectra.items()
        }
        ranks[reduction] = {name: effective_rank(s.values) for name, s in spectra.items()}
        arrays |= {f"values/{reduction}/{name}": s.values for name, s in spectra.items()}
    progress("kernels", len(REDUCTIONS), len(REDUCTIONS))

    main = [row for row in alignment if row["reduction"] == MAIN]
    trajectory = track(
        kernels_at,
        _tracked(run.checkpoints),
        {name: list(groups) for name in ranks[MAIN]},
        bases,
        top,
        progress,
    )
    arrays |= {f"values over training/{name}": rows for name, rows in trajectory.values.items()}
    metrics = run.metrics
    grokked = reached("test accuracy", GROKKED, config.hold)(metrics)
    results: Json = {
        "study": STUDY,
        "config": config.as_json(),
        "inputs": config.p**2,
        "parameters": sum(v.size for v in flatten_tree(model.parameters()).values()),
        "epochs": last,
        "stop_rule": stop_rule(config),
        "grokked_at": held_since(metrics, "test accuracy", GROKKED) if grokked else None,
        **last_metrics(metrics),
        "key_frequencies": {
            "rule": KEY_RULE,
            "embedding": keys,
            "kernel": key_frequencies(np.asarray(arrays["kernel power"])),
        },
        "cliffs": cliffs,
        "cliff_rule": CLIFF_RULE,
        "effective_rank": ranks,
        "equivalent_families": equivalent_families(bases),
        "alignment": alignment,
        "mode_features": mode_features,
        "grokking": _first_to_move(
            grokking(trajectory, main, metrics, ("unembedding", groups[0], "sum (key)"))
        ),
    }
    run.save_results(results, arrays)
    return results


def estimate(config: TransformerConfig) -> list[Stage]:
    """What :func:`run_transformer` would take on this device, if it trained to the last epoch."""
    data = modular_addition(config.p, config.train_fraction, config.seed)
    inputs, size = mx.array(data.tokens), config.p**2
    model = make_model(config)
    kernels = len(flatten_tree(model.parameters())) + 1
    tracked = len(_tracked(list(range(0, config.epochs + 1, config.checkpoint_every))))
    training = seconds_of_training(
        lambda epochs, run: train_transformer(
            make_model(config), data, replace(config, epochs=epochs, hold=0), run
        ),
        config.epochs,
        few=2 * config.checkpoint_every,
    )
    formed = {
        name: seconds_of_kernel(model, inputs, reduction, by_layer=True)
        for name, reduction in REDUCTIONS.items()
    }
    whole = kernels * seconds_of_decomposition(size)
    leading = kernels * seconds_of_decomposition(size, shown_modes(config))
    memory = memory_of_kernels(size, 2 * kernels)
    return [
        Stage("training, epochs at most", config.epochs, training, 0),
        Stage(
            "kernels after and before training, reductions",
            len(REDUCTIONS),
            2 * sum(formed.values()) + len(REDUCTIONS) * (whole + leading),
            memory,
        ),
        Stage(
            "kernels and their modes, checkpoints at most",
            tracked,
            tracked * (formed[MAIN] + leading),
            memory,
        ),
    ]


def make_model(config: TransformerConfig) -> ModularTransformer:
    """The network before training."""
    return ModularTransformer(config.p, config.d_model, config.heads, config.d_mlp, config.seed)


def train_transformer(
    model: ModularTransformer,
    data: ModularAddition,
    config: TransformerConfig,
    run: Run,
    progress: Progress = silent,
) -> int:
    """Train in place by :func:`stop_rule`, from the run's last checkpoint if there is one."""

    def loss(logits: mx.array, labels: mx.array) -> mx.array:
        return nn.losses.cross_entropy(logits, labels, reduction="mean")

    rule = {"stop": reached("test accuracy", GROKKED, config.hold)} if config.hold else {}
    return train_on_pairs(
        model,
        mx.array(data.tokens),
        data,
        config,
        loss,
        run,
        batch_size=config.batch_size,
        evaluate_every=EVALUATE_EVERY,
        progress=progress,
        **rule,
    )


def stop_rule(config: TransformerConfig) -> str:
    """When training ends, in words."""
    if not config.hold:
        return f"after {config.epochs} epochs"
    return (
        f"once the test accuracy has been {GROKKED:.0%} or more for {config.hold} epochs, "
        f"at the latest after {config.epochs}; evaluated every {EVALUATE_EVERY}"
    )


def shown_modes(config: TransformerConfig) -> int:
    """How many leading modes figures show: those that families of single frequencies can fill."""
    return min(config.p**2, 2 * (config.p - 1) + 4)


def expected_groups(keys: int) -> tuple[Modes, Modes, Modes]:
    """The groups to report for F key frequencies: 1 + 2F modes, 2F more, and all of them.

    The paper finds the sum in the first and the axis sum in the second. Where one frequency is
    much weaker than the others, its sum comes after their axis sums, so the two mix; together
    they still hold both.
    """
    return (0, 2 * keys), (2 * keys + 1, 4 * keys), (0, 4 * keys)


def _tracked(checkpoints: list[int]) -> list[int]:
    """At most :data:`TRACKED` checkpoints and the last."""
    stride = -(-len(checkpoints) // TRACKED)
    return sorted({*checkpoints[::stride], checkpoints[-1]})


def _first_to_move(tracked: Json) -> Json:
    """Add which kernel turned to its family when, and how far ahead of the test accuracy.

    A kernel's family is the one at the key frequencies whose overlap with its first or second
    group rose the most, as a share of its dimension; its time is that of half the rise.
    """
    epochs = np.array(tracked["epochs"], dtype=np.float64)
    accuracy = half_rise(epochs, np.array(tracked["test_accuracy"]))
    moves = []
    for kernel in tracked["distance"]:
        rows = [row for row in tracked["series"] if row["kernel"] == kernel]
        whole = max(row["modes"][1] - row["modes"][0] for row in rows)
        best = max(
            (
                row
                for row in rows
                if row["family"].endswith("(key)") and row["modes"][1] - row["modes"][0] < whole
            ),
            key=_rise,
        )
        epoch = half_rise(epochs, np.array(best["overlap"]))
        moves.append(
            {key: best[key] for key in ("kernel", "modes", "family", "dimension", "transition")}
            | {"rise": _rise(best), "epoch": epoch, "lead": accuracy - epoch}
        )
    return {
        **tracked,
        "half_rise_rule": HALF_RISE_RULE,
        "half_rise_of_test_accuracy": accuracy,
        "moves": sorted(moves, key=lambda row: float(row["epoch"])),
    }


def _rise(series: Json) -> float:
    overlap = series["overlap"]
    return float(max(overlap) - overlap[0]) / float(series["dimension"])


def headline(results: Json) -> dict[str, float | None]:
    """The figures of a run that a sweep sets side by side; overlaps in per cent, times in epochs.

    ``grokked at`` is the epoch from which the test accuracy held, None where it never did.
    """
    keys = results["key_frequencies"]
    first, second, both = expected_groups(len(keys["embedding"]))
    rows, initial = (
        {
            (row["kernel"], tuple(row["modes"]), row["family"]): 100 * row[key] / row["dimension"]
            for row in results["alignment"]
            if row["reduction"] == MAIN
        }
        for key in ("overlap", "initial")
    )
    moves = {f"lead of {row['kernel']}": row["lead"] for row in results["grokking"]["moves"]}
    return {
        "test accuracy": 100 * results["accuracy"]["test"],
        "epochs": results["epochs"],
        "grokked at": results["grokked_at"],
        "key frequencies": len(keys["embedding"]),
        "by the kernel too": len({*keys["embedding"]} & {*keys["kernel"]}),
        "unembedding with sum": rows["unembedding", first, "sum (key)"],
        "next with axis sum": rows["unembedding", second, "axis sum (key)"],
        "both with sum": rows["unembedding", both, "sum (key)"],
        "both with axis sum": rows["unembedding", both, "axis sum (key)"],
        "initially with sum": initial["unembedding", first, "sum (key)"],
        **{name: moves[name] for name in sorted(moves)},
    }
