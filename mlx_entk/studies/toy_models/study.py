"""Toy Models of Superposition: which modes of the flattened eNTK are features.

The experiment of Lin, arXiv 2510.00468, on the autoencoder of Elhage et al. (2022) with the data
of Henighan et al. (2023): train, decompose the importance-rescaled flattened eNTK, find its
cliffs, and count the features that single modes recover. The same is done for the network before
training and for one trained on shuffled targets, with which every count has to be compared.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import mlx.core as mx
import numpy as np

from mlx_entk import _linalg as linalg
from mlx_entk._files import Arrays
from mlx_entk._linalg import ArrayLike, Float64Array, FloatArray
from mlx_entk._records import to_json
from mlx_entk.cliffs import CLIFF_RULE, find_cliffs
from mlx_entk.controls import OUTPUTS, SCALINGS, gram_modes, scaled
from mlx_entk.dynamics import centred_alignment, kernel_distance, target_kernel
from mlx_entk.eigensolvers import jacobian_modes
from mlx_entk.features import (
    RECOVERED,
    RECOVERY_RULE,
    Method,
    center,
    channel_alignment,
    constant_alignment,
    count_recovered,
    disentangle,
    recovery,
)
from mlx_entk.kernel import entk
from mlx_entk.kernel.forecast import forecast
from mlx_entk.models import ToyModel
from mlx_entk.progress import Progress, silent
from mlx_entk.regression import (
    AFTER_KERNEL_RIDGE,
    KernelModes,
    kernel_predictions,
    modes_of_jacobian,
    modes_of_kernel,
    quality,
)
from mlx_entk.runs import Run
from mlx_entk.spectrum import effective_rank, eigendecompose
from mlx_entk.studies.base import Headline, Network
from mlx_entk.studies.estimate import Stage, scaled_up, shortest, stage_of_report
from mlx_entk.studies.intervention.problem import HEAD, Features, InterventionProblem
from mlx_entk.studies.networks import trained_network
from mlx_entk.studies.problem import (
    ACTIVATIONS,
    AT_INITIALISATION,
    SHUFFLED_INPUTS,
    RegressionProblem,
    outputs_of,
)
from mlx_entk.studies.results import ControlRecovery, Learned, Recovery
from mlx_entk.studies.toy_models.training import (
    CHECKPOINTS,
    RECONSTRUCTION_RULE,
    STUDY,
    TMSConfig,
    dataset,
    memory_of_jacobian,
    network,
    reconstructed,
    stage_of_toy_training,
    train_toy,
)
from mlx_entk.tracing.functions import as_parametric
from mlx_entk.tracing.jacobian import flattened_jacobian
from mlx_entk.training import load_parameters

# The network and its two null models: itself before training, and one trained on shuffled targets.
# The control of activations.
HIDDEN = "hidden units"

TRAINED, INITIAL, SHUFFLED = NETWORKS = ("trained", "initial", "shuffled")

# How modes are rotated to directions that nobody named: of the three methods, the one that takes
# the least time, and recovers as many features as any where features are sparse.
METHOD: Method = "varimax"

# Modes kept beyond the number of features, around which the interesting cliffs lie.
BEYOND = 30
# Held-out inputs of kernel regression.
REGRESSED = 200
# The slope from which on an output copies its feature; and groups at cliffs that edits take out.
_COPIED, _GROUPS = 0.5, 3
# Panels of a report.
_PANELS = 17


@dataclass(frozen=True)
class TMSResults:
    """What the study finds.

    Attributes
    ----------
    inputs, parameters
        How many.
    loss
        After training, by name: ``test loss`` and, of a fixed dataset, ``train loss``.
    reconstructed, reconstruction_rule
        Features that each network reconstructs, by network; and what that means.
    cliff_rule, recovery_rule
        What a cliff is, and when a feature is recovered.
    recovered_by_constants
        Features that the constant function of their output recovers.
    recovered_by_own_output
        Features that have cos² of 0.5 with the output that should copy them, by network: whether
        anybody would need a kernel to see them.
    kernels
        A row for each network and exponent β.
    controls
        A row for each network, control without a kernel, and scaling.
    training
        What each checkpoint has learned.
    """

    config: TMSConfig
    inputs: int
    parameters: int
    loss: dict[str, float]
    reconstructed: dict[str, int]
    reconstruction_rule: str
    cliff_rule: str
    recovery_rule: str
    recovered_by_constants: int
    recovered_by_own_output: dict[str, int]
    kernels: list[Recovery]
    controls: list[ControlRecovery]
    training: list[Learned]

    @property
    def rescalings(self) -> list[float]:
        """The exponents above 0, the largest first; 0 alone if there are no others."""
        return sorted({row.beta for row in self.kernels if row.beta > 0}, reverse=True) or [0.0]

    def kernel(self, network: str, beta: float = 0.0) -> Recovery:
        """What the kernel of a network shows at an exponent, by default the kernel itself."""
        return next(row for row in self.kernels if (row.network, row.beta) == (network, beta))

    def best_control(self, network: str, *, disentangled: bool = False) -> ControlRecovery:
        """The control without a kernel that recovers the most features of a network.

        Parameters
        ----------
        disentangled
            Whether by its modes as they are, or by the disentangled ones.
        """
        return max(
            (row for row in self.controls if row.network == network),
            key=lambda row: (
                (row.recovered_by_disentangled_modes or 0) if disentangled else row.recovered
            ),
        )


def compute(config: TMSConfig, run: Run, progress: Progress = silent) -> tuple[TMSResults, Arrays]:
    """Train a toy model and its control, decompose their kernels, count recovered features.

    Parameters
    ----------
    run
        A folder made for this configuration; the control is a run of its own inside it.
    """
    model = train_toy(config, run, progress)
    control = replace(config, shuffled=True)
    control_run = Run.create(run.file(SHUFFLED), STUDY, to_json(control))
    with control_run.session():
        shuffled = train_toy(control, control_run, progress)
    networks = {TRAINED: model, INITIAL: network(config), SHUFFLED: shuffled}

    x = dataset(config).x
    kernels: list[Recovery] = []
    controls: list[ControlRecovery] = []
    arrays: Arrays = {"x": x}
    for done, (name, of_name) in enumerate(networks.items()):
        progress("kernels", done, len(networks), name)
        arrays[f"W/{name}"], arrays[f"b/{name}"] = np.array(of_name.W), np.array(of_name.b)
        for row, of_row in _decompose(of_name, name, x, config, rotate=True):
            kernels.append(row)
            arrays |= {f"{kind}/{name}/{row.beta:g}": array for kind, array in of_row.items()}
        controls += _controls(of_name, name, x, config)
    progress("kernels", len(networks), len(networks))
    training, arrays["values over training"] = _over_training(config, run, x, progress)
    results = TMSResults(
        config=config,
        inputs=config.rows,
        parameters=config.n * (config.m + 1),
        loss={key: value for key, value in run.metrics[-1].items() if key != "epoch"},
        reconstructed={name: reconstructed(of_name) for name, of_name in networks.items()},
        reconstruction_rule=RECONSTRUCTION_RULE,
        cliff_rule=CLIFF_RULE,
        recovery_rule=RECOVERY_RULE,
        recovered_by_constants=int((np.abs(constant_alignment(x)) >= RECOVERED).sum()),
        recovered_by_own_output={
            name: _recovered_by_own_output(of_name, x) for name, of_name in networks.items()
        },
        kernels=kernels,
        controls=controls,
        training=training,
    )
    return results, arrays


def estimate(config: TMSConfig) -> list[Stage]:
    """What ``compute`` and a report would take on this device."""
    return [*stages(config), stage_of_report(_PANELS)]


def stages(config: TMSConfig) -> list[Stage]:
    """``estimate`` without the report."""
    model = network(config)
    # A flattened kernel of more rows than parameters is decomposed by those.
    power = 1 if config.rows * config.n > config.n * (config.m + 1) else 3

    def measure(rotate: bool) -> Callable[[int], float]:
        def decompose(rows: int) -> float:
            x = dataset(replace(config, rows=rows)).x
            return shortest(lambda: list(_decompose(model, TRAINED, x, config, rotate=rotate)))

        return decompose

    def compare(rows: int) -> float:
        x = dataset(replace(config, rows=rows)).x
        return shortest(lambda: list(_controls(model, TRAINED, x, config)))

    one, rotated = (scaled_up(measure(rotate), config.rows, power) for rotate in (False, True))
    data = dataset(config)
    both = mx.array(np.concatenate([data.x, data.held_out[:REGRESSED]]))
    followed = forecast(model, both, reduction="trace")
    checkpoints = CHECKPOINTS + 1
    return [
        stage_of_toy_training("training, two networks, steps each", config, runs=2),
        Stage(
            "flattened kernels and their modes",
            len(NETWORKS) + checkpoints,
            len(NETWORKS) * rotated + checkpoints * one,
            memory_of_jacobian(config, config.rows),
        ),
        Stage(
            "hidden units and outputs, networks",
            len(NETWORKS),
            len(NETWORKS) * scaled_up(compare, config.rows, 2),
            8 * 4 * config.rows**2,
        ),
        Stage(
            "trace kernels, checkpoints",
            checkpoints,
            followed.first + (checkpoints + 1) * followed.seconds,
            followed.memory + 8 * 4 * config.rows**2,
        ),
    ]


def rescaled_jacobian(model: ToyModel, x: FloatArray, importances: FloatArray) -> FloatArray:
    """J with row c·N + n scaled by the root of output c's importance, shape (C·N, P)."""
    rows = flattened_jacobian(model, mx.array(x))
    scales = np.repeat(np.sqrt(importances), x.shape[0]).astype(rows.dtype)
    return rows * scales[:, None]


def _decompose(
    model: ToyModel, name: str, x: FloatArray, config: TMSConfig, *, rotate: bool = False
) -> Iterator[tuple[Recovery, dict[str, FloatArray]]]:
    """A row of results for each β, with its spectrum and its alignment.

    Parameters
    ----------
    rotate
        Whether to disentangle the modes of the smallest exponent above 0, the one that sentences
        tell of. It takes about as long as finding them.
    """
    smallest = min((beta for beta in config.betas if beta > 0), default=0.0)
    for beta in sorted({0.0, *config.betas}):
        jacobian = rescaled_jacobian(model, x, config.importances**beta)
        top = min(*jacobian.shape, config.n + BEYOND)
        spectrum, values = jacobian_modes(jacobian, top)
        cosines = channel_alignment(spectrum.vectors, x)
        features = recovery(cosines, jacobian.shape[0], config.seed)
        row = Recovery(
            network=name,
            beta=beta,
            modes=int(spectrum.values.size),
            cliffs=[c for c in find_cliffs(values, spectrum.noise_floor) if c.before < top],
            effective_rank=effective_rank(values),
            recovered=features.count,
            recovered_by_rotated_modes=features.rotated,
            recovered_by_random_modes=features.random,
            contained=int((features.contained >= RECOVERED).sum()),
            contained_by_random_modes=features.random_contained,
        )
        if rotate and beta == smallest:
            row = _disentangled(row, spectrum.vectors, x, config.seed)
        yield (
            row,
            {
                "values": spectrum.values,
                "noise floor": np.array(spectrum.noise_floor),
                "alignment": np.abs(cosines).astype(np.float32),
            },
        )


def _disentangled(row: Recovery, modes: Float64Array, x: FloatArray, seed: int) -> Recovery:
    """A row of results, with the features that the modes recover once they are rotated."""
    directions = disentangle(modes, METHOD, seed=seed).vectors
    shuffled = np.random.default_rng(seed).permuted(x, axis=0)
    found, by_shuffled = (
        count_recovered(channel_alignment(directions, features)) for features in (x, shuffled)
    )
    return replace(
        row,
        recovered_by_disentangled_modes=found,
        shuffled_recovered_by_disentangled_modes=by_shuffled,
    )


def _controls(
    model: ToyModel, name: str, x: FloatArray, config: TMSConfig
) -> Iterator[ControlRecovery]:
    """Features that modes over the inputs recover, of the Gram matrices without a kernel.

    Such a mode has no output of its own, so it is compared with the feature as a function of the
    inputs; for coordinates that are centred, with the centred feature.
    """
    inputs = mx.array(x)
    sources = {HIDDEN: linalg.as_numpy(model.hidden(inputs)), OUTPUTS: outputs_of(model, inputs)}
    for control, values in sources.items():
        for scaling in SCALINGS:
            spectrum = gram_modes(scaled(values, scaling))
            top = min(spectrum.values.size, config.n + BEYOND)
            features = center(x) if scaling != "raw" else np.asarray(x, dtype=np.float64)
            lengths = np.linalg.norm(features, axis=0)
            features = features / np.where(lengths > 0, lengths, 1)
            modes = spectrum.vectors[:, :top]
            cosines = modes.T @ features
            # The last of these modes may be little more than rounding, and not quite orthonormal.
            basis = linalg.orthonormal_basis(modes)
            directions = disentangle(basis, METHOD, seed=config.seed).vectors
            found = recovery(cosines, len(x), config.seed)
            yield ControlRecovery(
                network=name,
                control=control,
                scaling=scaling,
                modes=top,
                recovered=found.count,
                recovered_by_rotated_modes=found.rotated,
                recovered_by_random_modes=found.random,
                contained=int((found.contained >= RECOVERED).sum()),
                recovered_by_disentangled_modes=count_recovered(directions.T @ features),
            )


def _recovered_by_own_output(model: ToyModel, x: FloatArray) -> int:
    outputs = outputs_of(model, mx.array(x))
    products = np.linalg.norm(outputs, axis=0) * np.linalg.norm(x, axis=0)
    cosines = (outputs * x).sum(axis=0) / np.where(products > 0, products, 1)
    return int((np.abs(cosines) >= RECOVERED).sum())


def own_feature_shares(model: ToyModel, x: ArrayLike) -> Float64Array:
    """How much of each output's own feature the modes of that output's kernel hold.

    The kernel of output c alone, ``reduction=(c, c)``, over inputs x; its feature is column c of
    x. The inputs may be those of a study, or unit vectors: each feature alone.

    Parameters
    ----------
    x
        Shape (N, n).

    Returns
    -------
    numpy.ndarray
        cos² of the modes with the feature, shape (n, N), the largest eigenvalue first. Zero for
        modes below the noise floor, and for an output or a feature that is zero on all inputs.

    Raises
    ------
    InputError
        For inputs that are not of shape (N, n), or not finite.
    """
    columns = linalg.as_columns(x, "inputs")
    inputs = mx.array(columns.astype(np.float32))
    lengths = np.linalg.norm(columns, axis=0)
    features = columns / np.where(lengths > 0, lengths, 1)
    shares = np.zeros((columns.shape[1], len(columns)))
    for c, feature in enumerate(features.T):
        kernel = entk(model, inputs, reduction=(c, c))
        if kernel.any():
            spectrum = eigendecompose(kernel)
            modes = spectrum.vectors[:, : spectrum.rank]
            shares[c, : spectrum.rank] = (feature @ modes) ** 2
    return shares


def _over_training(
    config: TMSConfig, run: Run, x: FloatArray, progress: Progress
) -> tuple[list[Learned], Float64Array]:
    """What each checkpoint has learned and what its kernel shows of it.

    Returns
    -------
    list of Learned, numpy.ndarray
        A row a checkpoint, with features recovered by β > 0; and the leading eigenvalues of the
        kernel itself, as many as the kernel of every checkpoint has, shape (checkpoints, modes).
    """
    rows: list[Learned] = []
    values: list[Float64Array] = []
    model = network(config)
    data = dataset(config)
    both = mx.array(np.concatenate([data.x, data.held_out[:REGRESSED]]))
    N, wanted = len(data.x), target_kernel(data.targets)
    steps = run.checkpoints

    def trace_kernel(step: int) -> FloatArray:
        load_parameters(model, run, step)
        return entk(model, both, reduction="trace")

    final = trace_kernel(steps[-1])[:N, :N]
    last: FloatArray | None = None
    for done, step in enumerate(steps):
        progress("kernels over training", done, len(steps), f"step {step}")
        kernel = trace_kernel(step)
        inner = kernel[:N, :N]
        predicted = kernel_predictions(inner, kernel[N:, :N], data.targets, AFTER_KERNEL_RIDGE)
        held_out = data.held_out_targets[:REGRESSED]
        since = 0.0 if last is None else kernel_distance(inner, last)
        recovered: dict[str, int] = {}
        for row, of_row in _decompose(model, TRAINED, x, config):
            if row.beta == 0:
                values.append(np.asarray(of_row["values"], dtype=np.float64))
            else:
                recovered[f"{row.beta:g}"] = row.recovered
        rows.append(
            Learned(
                step,
                reconstructed(model),
                recovered,
                with_targets=centred_alignment(inner, wanted),
                with_final=centred_alignment(inner, final),
                velocity=since / (step - steps[done - 1]) if done else 0.0,
                after_kernel_r2=quality(predicted, held_out, held_out).r2,
            )
        )
        last = inner
    progress("kernels over training", len(steps), len(steps))
    rank = min(of_step.size for of_step in values)
    return rows, np.stack([of_step[:rank] for of_step in values])


def headline(results: TMSResults) -> Headline:
    """The numbers by which runs are compared: features reconstructed, and recovered by β."""
    numbers: Headline = {
        f"reconstructed, {name}": count for name, count in results.reconstructed.items()
    }
    for row in results.kernels:
        numbers[f"recovered at β = {row.beta:g}, {row.network}"] = row.recovered
    for name, count in results.recovered_by_own_output.items():
        numbers[f"recovered without a kernel, {name}"] = results.best_control(name).recovered
        numbers[f"recovered by own output, {name}"] = count
    return numbers


def unit(name: str) -> str:
    """The unit of a headline number."""
    return "features"


def trained(run: Run, config: TMSConfig) -> Network:
    """The trained network, and inputs of another seed."""
    held_out = dataset(replace(config, seed=config.seed + 1)).x
    return trained_network(network(config), run, held_out, "trace")


def problem(run: Run, config: TMSConfig, targets: ArrayLike | None) -> RegressionProblem:
    """Kernel regression of the network's outputs by the flattened kernel."""
    data = dataset(config)
    x, held_out = mx.array(data.x), mx.array(data.held_out[:REGRESSED])
    model = network(config)

    def modes(x: mx.array, held_out: mx.array) -> KernelModes:
        return modes_of_jacobian(flattened_jacobian(model, x), flattened_jacobian(model, held_out))

    initial = modes(x, held_out)
    load_parameters(model, run, config.steps)
    order = np.random.default_rng(0).permutation(len(x) + len(held_out))
    shuffled = mx.concatenate([x, held_out])[mx.array(order)]
    hidden, hidden_of_held_out = (
        np.asarray(linalg.as_numpy(model.hidden(part)), dtype=np.float64) for part in (x, held_out)
    )
    return RegressionProblem(
        kernel="full",
        modes=modes(x, held_out),
        controls={
            SHUFFLED_INPUTS: modes(shuffled[: len(x)], shuffled[len(x) :]),
            AT_INITIALISATION: initial,
            ACTIVATIONS: modes_of_kernel(hidden @ hidden.T, hidden_of_held_out @ hidden.T),
        },
        network=(outputs_of(model, x), outputs_of(model, held_out)),
        targets=(
            data.targets.astype(np.float64),
            data.held_out_targets[:REGRESSED].astype(np.float64),
        ),
        weights=config.importances,
    )


def intervention(run: Run, config: TMSConfig) -> InterventionProblem:
    """Interventions on the mode of each feature, and on the groups that end at a cliff.

    The kernel is rescaled by the smallest exponent above 0, by which the most features are
    recovered.
    """
    data = dataset(config)
    model = network(config)
    initial = dict(as_parametric(model).params)
    load_parameters(model, run, config.steps)
    x = data.x
    beta = min((beta for beta in config.betas if beta > 0), default=0.0)
    jacobian = rescaled_jacobian(model, x, config.importances**beta)
    kept = min(*jacobian.shape, max(HEAD, config.n + BEYOND))
    spectrum, values = jacobian_modes(jacobian, kept)
    searched = spectrum.vectors[:, : config.n + BEYOND]
    cosines = np.abs(channel_alignment(searched, x))
    best, found = cosines.argmax(axis=0), cosines.max(axis=0) >= RECOVERED
    # Jᵀ D^(β/2) v is the direction of a mode v of the rescaled kernel.
    scales = np.repeat(np.sqrt(config.importances**beta), len(x))
    vectors = scales[:, None] * spectrum.vectors
    centred = center(x)
    squares = (centred**2).sum(axis=0)

    def copied(outputs: Float64Array) -> Float64Array:
        """The slope of each output over the feature that it should copy, 1 if it does.

        With an intercept, since a bias alone gives most of a feature that is mostly present.
        """
        return np.asarray((outputs * centred).sum(axis=0) / np.where(squares > 0, squares, 1))

    slopes = copied(outputs_of(model, mx.array(x)))
    names = {j: f"feature {j}" for j in np.flatnonzero(found & (slopes >= _COPIED)).tolist()}

    def by_output(outputs: Float64Array) -> Float64Array:
        return np.asarray(((outputs - data.targets) ** 2).mean(axis=0))

    def measures(outputs: Float64Array) -> dict[str, float]:
        return {
            "features copied": float((copied(outputs) >= _COPIED).sum()),
            "loss": float((config.importances * by_output(outputs)).mean()),
        }

    def strengths(outputs: Float64Array) -> dict[str, float]:
        slopes = copied(outputs)
        return {name: float(slopes[j]) for j, name in names.items()}

    cliffs = find_cliffs(values, spectrum.noise_floor)
    return InterventionProblem(
        function=as_parametric(model),
        x=(mx.array(x),),
        initial=initial,
        reduction="full",
        vectors=vectors[:, : spectrum.rank],
        values=spectrum.values[: spectrum.rank],
        groups=[cliff.modes for cliff in cliffs if cliff.before < spectrum.rank][:_GROUPS]
        or [(0, min(config.n, spectrum.rank) - 1)],
        measures=measures,
        features=Features(
            {name: vectors[:, [best[j]]] for j, name in names.items()},
            strengths,
            {name: x[:, j] > 0 for j, name in names.items()},
            f"the mode of the kernel rescaled by β = {beta:g} with the largest cosine, of the "
            f"features that it recovers ({RECOVERY_RULE}) and the network copies (slope of the "
            f"output over the feature of at least {_COPIED:g})",
        ),
        by_class=lambda outputs: [float(value) for value in by_output(outputs)],
    )
