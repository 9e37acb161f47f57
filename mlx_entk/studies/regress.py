"""Kernel regression of a trained network: what its eNTK explains, and which modes carry it."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from numpy.typing import NDArray

from mlx_entk._files import Json
from mlx_entk._linalg import ArrayLike, Float64Array, as_floats, require_finite
from mlx_entk.data import ModularAddition, modular_addition
from mlx_entk.errors import InputError
from mlx_entk.kernel import entk
from mlx_entk.models import QuadraticMLP, ToyModel
from mlx_entk.progress import Progress, silent
from mlx_entk.regression import (
    VERDICT_RULE,
    KernelModes,
    Quality,
    modes_of_jacobian,
    modes_of_kernel,
    predict,
    quality,
)
from mlx_entk.runs import Run
from mlx_entk.spectrum import find_cliffs, mode_groups
from mlx_entk.studies import mlp, tms, transformer
from mlx_entk.tracing.functions import Model, bind
from mlx_entk.tracing.jacobian import flattened_jacobian
from mlx_entk.training import load_parameters

# Ridges in units of the mean eigenvalue.
RIDGES = tuple(float(ridge) for ridge in np.logspace(-7, 1, 33))
RIDGE_RULE = (
    "the ridge with the least loss on one half of the held-out inputs; the figures are of the other"
)
# Modes removed one at a time, and where cliffs are looked for.
SINGLE = 120
HEAD = 240
HELD_OUT_ROWS = 200
# One half of the held-out inputs chooses the ridge, and R² of the other needs two.
HELD_OUT_LEAST = 4


@dataclass(frozen=True)
class Fit:
    """A network beside its kernel, on training and held-out inputs.

    Attributes
    ----------
    kernel
        What the modes are of: ``"trace"``, the same for every output, or ``"full"``, flattened.
    modes
        Of the kernel of the trained network.
    initial
        Of the network before training, as null model; None where that is not known.
    network, targets
        On the training and on the held-out inputs, shapes (N, C) and (M, C).
    labels
        Classes of the held-out inputs, None where there are none.
    weights
        Of the outputs in the loss, None for equal ones.
    distilled
        Whether the targets are the network's own outputs: nothing is then left for the
        linearised predictor to correct, so only the pure ones are fitted.
    """

    kernel: str
    modes: KernelModes
    initial: KernelModes | None
    network: tuple[Float64Array, Float64Array]
    targets: tuple[Float64Array, Float64Array]
    labels: NDArray[np.int64] | None = None
    weights: Float64Array | None = None
    distilled: bool = False

    def predictions(
        self, modes: KernelModes, ridge: float, linearised: bool, chosen: Sequence[int] | None
    ) -> tuple[Float64Array, Float64Array]:
        """On both kinds of inputs, shapes (N, C) and (M, C)."""
        base = tuple(self._rows(part) for part in self.network) if linearised else None
        found = predict(modes, self._rows(self.targets[0]), ridge, base, chosen)  # type: ignore[arg-type]
        C = self.targets[0].shape[1]
        if self.kernel == "trace":
            return found
        return found[0].reshape(C, -1).T, found[1].reshape(C, -1).T

    def _rows(self, values: Float64Array) -> Float64Array:
        return values if self.kernel == "trace" else values.T.reshape(-1, 1)


def regress(fit: Fit, progress: Progress = silent) -> Json:
    """Fit both predictors over a ridge path, and the pure one with and without modes.

    Returns
    -------
    dict
        What ``regression.json`` holds.

    Raises
    ------
    InputError
        For fewer than 4 held-out inputs, outputs or targets that are not finite, and a network
        that gives the inputs of the figures the same outputs, so that R² is not defined.
    """
    for values, name in ((fit.network, "outputs of the network"), (fit.targets, "targets")):
        require_finite(values[0], name, "training inputs")
        require_finite(values[1], name, "held-out inputs")
    order = np.random.default_rng(0).permutation(len(fit.targets[1]))
    if len(order) < HELD_OUT_LEAST:
        raise InputError(f"{len(order)} inputs are held out: R² needs at least {HELD_OUT_LEAST}")
    choose, report = np.array_split(order, 2)
    _require_spread(fit.network[1][report])

    progress("regression", 0, 2, "ridge path")
    predictors: dict[str, tuple[KernelModes, bool]] = {}
    if not fit.distilled:
        predictors["linearised"] = (fit.modes, True)
    predictors["pure kernel"] = (fit.modes, False)
    if fit.initial is not None:
        predictors["pure kernel at initialisation"] = (fit.initial, False)
    rows: list[Json] = []
    for name, (modes, linearised) in predictors.items():
        path = [fit.predictions(modes, ridge, linearised, None)[1] for ridge in RIDGES]
        losses = [_quality(fit, other, choose).loss for other in path]
        best = int(np.argmin(losses))
        of_path = [_quality(fit, other, report) for other in path]
        rows.append(
            {
                "predictor": name,
                "ridge": RIDGES[best],
                **_json(of_path[best]),
                "described": of_path[best].described,
                "path": {"r2": [q.r2 for q in of_path], "ridges": list(RIDGES)},
            }
        )
    progress("regression", 1, 2, "modes")
    (pure,) = [row for row in rows if row["predictor"] == "pure kernel"]
    result: Json = {
        "kernel": fit.kernel,
        "inputs": {"train": len(fit.targets[0]), "held_out": len(fit.targets[1])},
        "rank": int(fit.modes.values.size),
        "verdict_rule": VERDICT_RULE,
        "ridge_rule": RIDGE_RULE,
        "predictors": rows,
        "modes": _by_modes(fit, pure["ridge"], report),
    }
    progress("regression", 2, 2)
    return result


def fit_of(run: Run) -> Fit:
    """The network, the targets and the kernel of a finished run of a study that trains one.

    Raises
    ------
    InputError
        For another run.
    """
    run.require_finished()
    if run.study == tms.STUDY:
        return _of_tms(run)
    if run.study == mlp.STUDY:
        return _of_mlp(run)
    if run.study == transformer.STUDY:
        return _of_transformer(run)
    raise InputError(
        f"{run.path} is a {run.study} run: regression takes the run of one network, such as a "
        "folder inside it"
    )


def fit_of_model(
    model: Model, initial: Model | None, x: Any, targets: ArrayLike, seed: int = 0
) -> Fit:
    """A reader's own model by its trace kernel, 7 of 10 inputs to train on.

    Parameters
    ----------
    model, initial
        The network and the same before training, None where that is not known.
    x
        N inputs.
    targets
        Shape (N, C), or (N,) of whole numbers or truth values: classes.

    Raises
    ------
    InputError
        Where the targets do not fit the outputs of the model on x, or targets or outputs are
        NaN or infinite; the message names the inputs.
    """
    function, inputs = bind(model, x)
    outputs = _host(function.apply({}, *inputs))
    require_finite(outputs, "outputs of the model")
    N, C = outputs.shape
    values = as_floats(targets, "targets")
    if values.shape not in ((N,), (N, C)):
        raise InputError(f"targets have shape {values.shape}, the model's outputs {(N, C)}")
    require_finite(values, "targets")
    labels = None
    if values.ndim == 1:
        if not _are_whole(targets) or values.min() < 0 or values.max() >= C:
            raise InputError(f"targets are not {N} classes from 0 to {C - 1}")
        labels = values.astype(np.int64)
        values = np.eye(C)[labels]
    order = np.random.default_rng(seed).permutation(N)
    train, other = np.split(order, [round(0.7 * N)])
    if len(other) < HELD_OUT_LEAST:
        raise InputError(f"{N} inputs are too few to train on some and hold out others")

    def modes(network: Model) -> KernelModes:
        kernel = entk(network, x, reduction="trace")
        return modes_of_kernel(kernel[np.ix_(train, train)], kernel[np.ix_(other, train)])

    wide = values.astype(np.float64)
    return Fit(
        kernel="trace",
        modes=modes(model),
        initial=None if initial is None else modes(initial),
        network=(outputs[train], outputs[other]),
        targets=(wide[train], wide[other]),
        labels=None if labels is None else labels[other],
    )


def _are_whole(targets: ArrayLike) -> bool:
    """Whether they are stored as whole numbers or truth values."""
    if isinstance(targets, mx.array):
        return not mx.issubdtype(targets.dtype, mx.inexact)
    return np.asarray(targets).dtype.kind in "biu"


def _require_spread(outputs: Float64Array) -> None:
    """Raise InputError for outputs that are the same for all inputs, to rounding in float32."""
    most = 4 * float(np.finfo(np.float32).eps) * float(np.abs(outputs).max())
    if np.ptp(outputs, axis=0).max() <= most:
        raise InputError(
            "the network gives all held-out inputs the same outputs: there is nothing that its "
            "kernel could describe"
        )


def _of_tms(run: Run) -> Fit:
    config = tms.TMSConfig(**(run.config | {"betas": tuple(run.config["betas"])}))
    data = tms.tms_data(config)
    other = data.held_out[:HELD_OUT_ROWS]
    model = ToyModel(config.n, config.m, config.seed)

    def modes() -> KernelModes:
        return modes_of_jacobian(
            *(flattened_jacobian(model, mx.array(part)) for part in (data.x, other))
        )

    initial = modes()
    load_parameters(model, run, config.steps)
    return Fit(
        kernel="full",
        modes=modes(),
        initial=initial,
        network=(_host(model(mx.array(data.x))), _host(model(mx.array(other)))),
        targets=(
            data.targets.astype(np.float64),
            data.held_out_targets[:HELD_OUT_ROWS].astype(np.float64),
        ),
        weights=config.importances,
    )


def _of_mlp(run: Run) -> Fit:
    config = mlp.MLPConfig(**run.config)
    data = modular_addition(config.p, config.train_fraction, config.seed, config.embedding)
    model = QuadraticMLP(config.p, config.width, config.seed)
    return _of_pairs(run, model, mx.array(data.x), data, np.eye(config.p)[data.labels])


def _of_transformer(run: Run) -> Fit:
    """Trained on cross-entropy, which gives logits no values to fit: the targets are its own."""
    config = transformer.TransformerConfig(**run.config)
    data = modular_addition(config.p, config.train_fraction, config.seed)
    model = transformer.make_model(config)
    return _of_pairs(run, model, mx.array(data.tokens), data, None)


def _of_pairs(
    run: Run,
    model: nn.Module,
    inputs: mx.array,
    data: ModularAddition,
    targets: Float64Array | None,
) -> Fit:
    """A network of modular addition as it began, and as the run trained it."""

    def modes() -> KernelModes:
        kernel = entk(model, inputs, reduction="trace")
        return modes_of_kernel(
            kernel[np.ix_(data.train, data.train)], kernel[np.ix_(data.test, data.train)]
        )

    initial = modes()
    load_parameters(model, run, run.checkpoints[-1])
    outputs = _host(model(inputs))
    values = outputs if targets is None else targets
    return Fit(
        kernel="trace",
        modes=modes(),
        initial=initial,
        network=(outputs[data.train], outputs[data.test]),
        targets=(values[data.train], values[data.test]),
        labels=data.labels[data.test],
        distilled=targets is None,
    )


def _by_modes(fit: Fit, ridge: float, report: NDArray[np.int64]) -> Json:
    """The pure kernel predictor by some of its modes."""
    values = fit.modes.values
    size = values.size
    groups = mode_groups(find_cliffs(values[:HEAD]))

    def held_out(chosen: Sequence[int]) -> Json:
        other = fit.predictions(fit.modes, ridge, False, chosen)[1]
        return _json(_quality(fit, other, report))

    counts = {1, 2, 3, 5, 8, size, *(last + 1 for _, last in groups)}
    if size > 10:
        counts |= {int(k) for k in np.geomspace(10, size, 16)}
    everything = set(range(size))
    return {
        "cliffs": [list(group) for group in groups],
        "top": [{"k": k, **held_out(range(k))} for k in sorted(counts) if 0 < k <= size],
        "without_group": [
            {
                "modes": [first, last],
                **held_out(sorted(everything - set(range(first, last + 1)))),
                "alone": held_out(range(first, last + 1)),
            }
            for first, last in groups
        ],
        "without_mode": [
            {"mode": mode, **held_out(sorted(everything - {mode}))}
            for mode in range(min(SINGLE, size - 1))
        ],
        "all": held_out(range(size)),
    }


def _quality(fit: Fit, prediction: Float64Array, index: NDArray[np.int64]) -> Quality:
    return quality(
        prediction[index],
        fit.network[1][index],
        fit.targets[1][index],
        None if fit.labels is None else fit.labels[index],
        fit.weights,
    )


def _json(found: Quality) -> Json:
    return asdict(found)


def _host(values: mx.array) -> Float64Array:
    return np.array(as_floats(values, "outputs"), dtype=np.float64)
