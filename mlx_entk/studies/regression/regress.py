"""Kernel regression of a trained network: what its eNTK explains, and which modes carry it."""

from collections.abc import Iterable
from dataclasses import asdict

import numpy as np
from numpy.typing import NDArray

from mlx_entk._linalg import Float64Array, require_finite
from mlx_entk._records import from_json
from mlx_entk.analysis import bases_of
from mlx_entk.cliffs import find_cliffs
from mlx_entk.errors import InputError
from mlx_entk.features import Alignment, align
from mlx_entk.progress import Progress, silent
from mlx_entk.regression import VERDICT_RULE, KernelModes, Quality, quality
from mlx_entk.runs import Run
from mlx_entk.spectrum import Modes, Spectrum
from mlx_entk.studies.problem import HELD_OUT_LEAST, SHUFFLED_INPUTS, RegressionProblem
from mlx_entk.studies.results import (
    ByModes,
    InputCounts,
    LeadingModes,
    MeanOfRandom,
    Predictor,
    Regression,
    RidgePath,
    WithoutGroup,
    WithoutMode,
)

# Ridges in units of the mean eigenvalue.
RIDGES = tuple(float(ridge) for ridge in np.logspace(-12, 2, 57))
# Ridges whose losses differ by this share at most are as good as one another: without noise the
# loss is flat towards zero.
_EQUAL = 0.01
RIDGE_RULE = (
    f"the largest ridge whose loss on one half of the held-out inputs is within {_EQUAL:.0%} of "
    "the least; the numbers are of the other half"
)
LINEARISED, LINEARISED_SHUFFLED = "linearised", "linearised, inputs shuffled"
PURE = "pure kernel"
# Leading modes that are removed one at a time, and those among which cliffs are looked for.
SINGLE = 120
HEAD = 240
# Random groups that each group is compared with, drawn from the leading ``HEAD`` modes.
RANDOM_GROUPS = 20


def regression_of(run: Run) -> Regression | None:
    """What kernel regression of a run found; None if there was none."""
    stored = run.regression
    if stored is None:
        return None
    return from_json(Regression, stored, f"{run.path / 'regression.json'}")


def regress(problem: RegressionProblem, progress: Progress = silent) -> Regression:
    """Fit the predictors over a path of ridges, and the pure one with some modes and without.

    Raises
    ------
    InputError
        For fewer than ``HELD_OUT_LEAST`` held-out inputs, outputs or targets that are not finite,
        and a network whose outputs are the same for all the inputs that are reported on, so that
        R² is not defined.
    """
    for values, name in (
        (problem.network, "outputs of the network"),
        (problem.targets, "targets"),
    ):
        require_finite(values[0], name, "training inputs")
        require_finite(values[1], name, "held-out inputs")
    order = np.random.default_rng(0).permutation(len(problem.targets[1]))
    if len(order) < HELD_OUT_LEAST:
        raise InputError(f"{len(order)} inputs are held out: R² needs at least {HELD_OUT_LEAST}")
    choose, report = np.array_split(order, 2)
    _require_spread(problem.network[1][report])

    progress("regression", 0, 2, "ridge path")
    predictors: dict[str, tuple[KernelModes, bool]] = {PURE: (problem.modes, False)}
    predictors |= {name: (modes, False) for name, modes in problem.controls.items()}
    if not problem.distilled:
        predictors[LINEARISED] = (problem.modes, True)
        if SHUFFLED_INPUTS in problem.controls:
            predictors[LINEARISED_SHUFFLED] = (problem.controls[SHUFFLED_INPUTS], True)
    rows = [
        _over_ridges(problem, name, modes, linearised, choose, report)
        for name, (modes, linearised) in predictors.items()
    ]
    progress("regression", 1, 2, "modes")
    (pure,) = [row for row in rows if row.predictor == PURE]
    regression = Regression(
        kernel=problem.kernel,
        inputs=InputCounts(len(problem.targets[0]), len(problem.targets[1])),
        rank=int(problem.modes.values.size),
        verdict_rule=VERDICT_RULE,
        ridge_rule=RIDGE_RULE,
        predictors=rows,
        modes=_by_modes(problem, pure.ridge, report),
        alignment=_alignment(problem),
    )
    progress("regression", 2, 2)
    return regression


def _over_ridges(
    problem: RegressionProblem,
    name: str,
    modes: KernelModes,
    linearised: bool,
    choose: NDArray[np.int64],
    report: NDArray[np.int64],
) -> Predictor:
    predictions = [problem.predictions(modes, ridge, linearised, None)[1] for ridge in RIDGES]
    losses = [_quality(problem, predicted, choose).loss for predicted in predictions]
    best = max(k for k, loss in enumerate(losses) if loss <= (1 + _EQUAL) * min(losses))
    path = [_quality(problem, predicted, report) for predicted in predictions]
    return Predictor(
        predictor=name,
        ridge=RIDGES[best],
        **asdict(path[best]),
        at_edge=best in (0, len(RIDGES) - 1),
        described=None if linearised else path[best].describes_network,
        path=RidgePath([of_ridge.r2 for of_ridge in path], list(RIDGES)),
    )


def _by_modes(problem: RegressionProblem, ridge: float, report: NDArray[np.int64]) -> ByModes:
    values = problem.modes.values
    size = values.size
    cliffs = [cliff for cliff in find_cliffs(values) if cliff.before < HEAD]
    groups = [cliff.modes for cliff in cliffs]

    def held_out(chosen: Iterable[int]) -> Quality:
        predicted = problem.predictions(problem.modes, ridge, False, list(chosen))[1]
        return _quality(problem, predicted, report)

    counts = {1, 2, 3, 5, 8, size, *(last + 1 for _, last in groups)}
    if size > 10:
        counts |= {int(k) for k in np.geomspace(10, size, 16)}

    generator = np.random.default_rng(0)
    drawn = {
        modes: [_random_group(generator, size, modes) for _ in range(RANDOM_GROUPS)]
        for modes in groups
    }

    def without(first: int, last: int) -> list[int]:
        return [mode for mode in range(size) if not first <= mode <= last]

    return ByModes(
        cliffs=cliffs,
        top=[
            LeadingModes(k=k, **asdict(held_out(range(k)))) for k in sorted(counts) if 0 < k <= size
        ],
        without_group=[
            WithoutGroup(
                modes=(first, last),
                **asdict(held_out(without(first, last))),
                alone=held_out(range(first, last + 1)),
                random=MeanOfRandom.of(held_out(kept).r2 for kept, _ in drawn[first, last]),
                random_alone=MeanOfRandom.of(
                    held_out(chosen).r2 for _, chosen in drawn[first, last]
                ),
            )
            for first, last in groups
        ],
        without_mode=[
            WithoutMode(mode=mode, **asdict(held_out(without(mode, mode))))
            for mode in range(min(SINGLE, size))
        ],
        all=held_out(range(size)),
    )


def _random_group(
    generator: np.random.Generator, size: int, modes: Modes
) -> tuple[list[int], list[int]]:
    """All modes but a random group as large as ``modes`` and outside of it, and that group."""
    first, last = modes
    count = last - first + 1
    outside = [mode for mode in range(min(size, HEAD)) if not first <= mode <= last]
    # Of a group that leaves too few others, as many of its own as it takes.
    others = outside if len(outside) >= count else list(range(size))
    chosen = generator.choice(others, min(count, len(others)), replace=False)
    return sorted(set(range(size)) - {int(mode) for mode in chosen}), sorted(map(int, chosen))


def _alignment(problem: RegressionProblem) -> list[Alignment]:
    """The groups at cliffs of the kernel on the training inputs, aligned with the features."""
    if not problem.features or problem.modes.values.size == 0:
        return []
    spectrum = Spectrum(problem.modes.values, problem.modes.train, 0.0)
    groups = [cliff.modes for cliff in find_cliffs(spectrum.values) if cliff.before < HEAD]
    bases = bases_of(problem.features, inputs=len(problem.modes.train))
    return align({problem.kernel: spectrum}, {problem.kernel: groups}, bases)


def _quality(
    problem: RegressionProblem, prediction: Float64Array, index: NDArray[np.int64]
) -> Quality:
    return quality(
        prediction[index],
        problem.network[1][index],
        problem.targets[1][index],
        None if problem.labels is None else problem.labels[index],
        problem.weights,
    )


def _require_spread(outputs: Float64Array) -> None:
    """Raise InputError if the outputs are the same for all inputs, up to rounding in float32."""
    most = 4 * float(np.finfo(np.float32).eps) * float(np.abs(outputs).max())
    if np.ptp(outputs, axis=0).max() <= most:
        raise InputError(
            "the network gives all held-out inputs the same outputs: there is nothing that its "
            "kernel could describe"
        )
