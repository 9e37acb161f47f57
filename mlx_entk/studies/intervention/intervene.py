"""Edit the weights of a trained network along modes of its eNTK, and measure what it still does."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from mlx_entk import intervention as edits
from mlx_entk._files import Arrays
from mlx_entk._linalg import Float64Array, require_finite
from mlx_entk._parameters import Params
from mlx_entk._records import from_json
from mlx_entk.errors import InputError
from mlx_entk.intervention import ModeSpan
from mlx_entk.kernel import EntkOperator, entk_operator
from mlx_entk.kernel.reduction import reduction_name
from mlx_entk.progress import Progress, silent
from mlx_entk.report import modes_cell
from mlx_entk.runs import Run
from mlx_entk.spectrum import Modes, require_modes
from mlx_entk.studies.intervention.problem import HEAD, Features, InterventionProblem
from mlx_entk.studies.intervention.records import (
    By,
    Control,
    Cumulative,
    Dose,
    Edit,
    Interval,
    Intervention,
    SingleEdit,
    Touched,
)
from mlx_entk.tracing.functions import Selection, chosen_parameters

# Random edits that each edit is compared with.
DRAWS = 20
# Orders in which features are taken out together.
ORDERS = 5
# Shares of an edit at which the main measure is taken.
DOSES = tuple(round(0.1 * k, 1) for k in range(11))
# The size of a step, as a share of the norm of the weights; and modes of a group that step.
STEP, STEPS = 0.1, 6

# The least change of outputs that others are divided by; and the least strength of a feature, as a
# share of the largest, that is not rounding.
_LEAST, _HELD = 1e-12, 1e-5

RANDOM = "random, equal norm"
OTHER = "other modes"
OTHER_EQUAL = "other modes, equal norm"
PRINCIPAL = "principal directions"
PRINCIPAL_EQUAL = "principal directions, equal norm"
SHRUNK = {"undo": "all that was learned, shrunk", "project": "all weights, shrunk"}


def intervention_of(run: Run) -> Intervention | None:
    """What an intervention on a run found; None if there was none."""
    stored = run.intervention
    if stored is None:
        return None
    return from_json(Intervention, stored, f"{run.path / 'intervention.json'}")


def intervene(
    problem: InterventionProblem,
    by: By | None = None,
    modes: Sequence[Modes] = (),
    parameters: Selection | None = None,
    seed: int = 0,
    progress: Progress = silent,
) -> tuple[Intervention, Arrays]:
    """Edit the network along groups of modes and along single features, with controls.

    Parameters
    ----------
    by
        ``"undo"`` takes out what was learned in the span of the modes, −P(θ − θ₀);
        ``"project"`` all that the weights hold there, −P θ; ``"step"`` moves them along single
        modes by a tenth of their norm. By default undo, if the parameters before training are
        known, and else project.
    modes
        Groups; by default those of the study.
    parameters
        Which parameters to change, as for ``mlx_entk.entk``; by default all.
    seed
        Of what is drawn.

    Returns
    -------
    Intervention, dict of numpy.ndarray
        The record; and the outputs before and after the edits of groups, and their grids.

    Raises
    ------
    InputError
        For modes that the run does not have, parameters that the model does not have, undoing
        without the parameters before training, and outputs that are not finite.
    """
    by = by or ("project" if problem.initial is None else "undo")
    if by == "undo" and problem.initial is None:
        raise InputError(
            "--by undo: the weights before training are not known; use --by project or --by step"
        )
    groups = list(modes) or list(problem.groups)
    for group in groups:
        require_modes(group, problem.vectors.shape[1], "above rounding the kernel of the run")
    if not groups:
        raise InputError("there is no group of modes to intervene on: name one by --modes")
    editor = _Editor(problem, by, parameters, seed)
    outputs = editor.outputs({})
    before = problem.measures(outputs)
    arrays: Arrays = {"outputs/trained": outputs.astype(np.float32)}
    if problem.grid is not None:
        arrays["grid/trained"] = problem.grid(outputs)
    rows: list[Edit] = []
    wanted = list(_named(groups, by))
    for done, (name, edited, members) in enumerate(wanted):
        progress("edits of groups", done, len(wanted), name)
        row, after = editor.edit(name, edited, members)
        rows.append(row)
        arrays[f"outputs/{name}"] = after.astype(np.float32)
        if problem.grid is not None:
            arrays[f"grid/{name}"] = problem.grid(after)
    progress("edits of groups", len(wanted), len(wanted))
    features = problem.features if by != "step" else None
    singles = [] if features is None else list(_singles(editor, features, outputs, progress))
    return (
        Intervention(
            by=by,
            kernel=reduction_name(problem.reduction),
            parameters=list(editor.params),
            draws=DRAWS,
            before=before,
            initial=_initial(problem),
            by_class=problem.by_class(outputs) if problem.by_class else [],
            edits=rows,
            features=list(_strengths(features, outputs)) if features else [],
            singles=singles,
            cumulative=_cumulative(editor, features, singles) if features else [],
            single_rule=features.rule if features else "",
        ),
        arrays,
    )


def _named(groups: Sequence[Modes], by: By) -> Iterator[tuple[str, Modes | None, list[int]]]:
    """What is edited: groups as a whole, or the leading modes of each one by one."""
    for first, last in groups:
        members = list(range(first, last + 1))
        if by != "step":
            yield f"modes {modes_cell((first, last))}", (first, last), members
            continue
        for mode in members[:STEPS]:
            yield f"mode {mode}", (mode, mode), [mode]


def _initial(problem: InterventionProblem) -> dict[str, float] | None:
    if problem.initial is None:
        return None
    learned = edits.displacement(problem.function.params, problem.initial)
    back = {name: -value for name, value in learned.items()}
    return problem.measures(edits.outputs_after(problem.function, problem.x, back))


class _Editor:
    """Makes edits of one kind, and their controls."""

    def __init__(
        self, problem: InterventionProblem, by: By, parameters: Selection | None, seed: int
    ):
        self.problem, self.by = problem, by
        names = None
        if parameters is not None:
            names = chosen_parameters(problem.function.params, parameters)
        self.function = problem.function if names is None else problem.function.restricted(names)
        self.params = self.function.params
        self.operator: EntkOperator = entk_operator(
            self.function, problem.x, reduction=problem.reduction
        )
        self.initial = None
        if by == "undo" and problem.initial is not None:
            self.initial = problem.initial
        self.held = edits.displacement(self.params, self.initial)
        if not edits.norm(self.held) > 0:
            raise InputError(
                "nothing was learned: the weights are those before training"
                if by == "undo"
                else "the weights are all zero"
            )
        self.generator = np.random.default_rng(seed)

    def outputs(self, change: Params, dose: float = 1.0) -> Float64Array:
        outputs = edits.outputs_after(self.function, self.problem.x, change, dose)
        require_finite(outputs, "outputs of the network after an edit")
        return outputs

    def measured(self, change: Params, dose: float = 1.0) -> dict[str, float]:
        return self.problem.measures(self.outputs(change, dose))

    def change(self, vectors: Float64Array) -> Params:
        """The edit along some modes."""
        if self.by == "step":
            (direction,) = edits.mode_directions(self.operator, vectors)
            return edits.scaled(direction.tangent, STEP * edits.norm(self.held))
        return edits.removal(ModeSpan(self.operator, vectors), self.initial)

    def modes(self, members: Sequence[int]) -> Float64Array:
        """Modes of the kernel, each over the root of its eigenvalue.

        Their directions have about equal norms, which makes projections quick.
        """
        values = self.problem.values[list(members)]
        return self.problem.vectors[:, list(members)] / np.sqrt(values)

    def edit(
        self, name: str, modes: Modes | None, members: Sequence[int]
    ) -> tuple[Edit, Float64Array]:
        """The edit along a group, with everything that it is compared with; and its outputs."""
        vectors = self.modes(members)
        change = self.change(vectors)
        size, held = edits.norm(change), edits.norm(self.held)
        if not size > 0:
            raise InputError(
                f"{name}: nothing lies along them in {', '.join(list(self.params)[:3])}, whose "
                "gradients there are zero; choose other modes or parameters"
            )
        after = self.outputs(change)
        drawn = [edits.random_edit(change, self.generator) for _ in range(DRAWS)]
        row = Edit(
            name=name,
            modes=modes,
            size=vectors.shape[1],
            dimension=ModeSpan(self.operator, vectors).dimension,
            norm=size,
            share=size / held,
            after=self.problem.measures(after),
            alone=None if self.by == "step" else self.measured(self._all_but(change)),
            by_class=self.problem.by_class(after) if self.problem.by_class else [],
            controls=[
                self._control(RANDOM, drawn),
                *self._shrunk(size, held),
                *self._others(members, size),
                *self._principal(vectors.shape[1], size),
            ],
            doses=self._doses(change, drawn),
            linear=edits.linear_range(self.function, self.problem.x, self.operator, change),
            touched=[
                Touched(
                    parameter,
                    (edits.norm({parameter: value}) / size) ** 2,
                    edits.effective_rank_of(value),
                )
                for parameter, value in change.items()
            ],
        )
        return row, after

    def _all_but(self, change: Params) -> Params:
        """The change that leaves nothing of what was learned but what another one takes out."""
        return {
            name: -held - change[name] if name in change else -held
            for name, held in self.held.items()
        }

    def _control(self, name: str, drawn: Sequence[Params], alone: bool = False) -> Control:
        """What some changes do; ``alone`` says that they take something out."""
        return Control(
            name,
            Interval.of(edits.norm(change) for change in drawn),
            self._over(drawn),
            self._over([self._all_but(change) for change in drawn]) if alone else None,
            len(drawn),
        )

    def _over(self, changes: Sequence[Params]) -> dict[str, Interval]:
        measured = [self.measured(change) for change in changes]
        return {key: Interval.of(row[key] for row in measured) for key in measured[0]}

    def _shrunk(self, size: float, held: float) -> Iterator[Control]:
        if self.by in SHRUNK:
            shrunk = {name: -value * (size / held) for name, value in self.held.items()}
            yield self._control(SHRUNK[self.by], [shrunk])

    def _others(self, members: Sequence[int], size: float) -> Iterator[Control]:
        """Groups of equal size, drawn from the leading modes outside of this one."""
        head = range(min(HEAD, self.problem.values.size))
        outside = [mode for mode in head if mode not in set(members)]
        if len(outside) < len(members):
            return
        drawn = []
        for _ in range(DRAWS):
            chosen = np.sort(self.generator.choice(outside, len(members), replace=False))
            drawn.append(self.change(self.modes(chosen.tolist())))
        if self.by != "step":  # steps are of equal norm already
            yield self._control(OTHER, drawn, alone=True)
        yield self._control(OTHER_EQUAL, [edits.scaled(change, size) for change in drawn])

    def _principal(self, count: int, size: float) -> Iterator[Control]:
        """Leading principal directions of the activations, as many as there are modes."""
        if self.by == "step":
            return
        change = edits.principal_edit(self.function, self.problem.x, count, self.initial)
        if not change:
            return
        yield self._control(PRINCIPAL, [change], alone=True)
        yield self._control(PRINCIPAL_EQUAL, [edits.scaled(change, size)])

    def _doses(self, change: Params, drawn: Sequence[Params]) -> list[Dose]:
        main = next(iter(self.measured({})))
        doses = DOSES if self.by != "step" else sorted({*DOSES, *(-dose for dose in DOSES)})
        return [
            Dose(
                dose,
                self.measured(change, dose)[main],
                Interval.of(self.measured(random, dose)[main] for random in drawn),
            )
            for dose in doses
        ]


def _singles(
    editor: _Editor, features: Features, outputs: Float64Array, progress: Progress
) -> Iterator[SingleEdit]:
    """Take out one feature at a time, and see what becomes of all of them."""
    before = _strengths(features, outputs)
    names = list(before)
    wanted = {name: features.vectors[name] for name in names if features.vectors[name].shape[1]}

    def changes(after: Float64Array) -> list[float]:
        now = features.strengths(after)
        return [(now[name] - before[name]) / before[name] for name in names]

    for done, (name, vectors) in enumerate(wanted.items()):
        progress("edits of single features", done, len(wanted), name)
        change = editor.change(vectors)
        own = names.index(name)
        selects = _selectivity(features, name, outputs)
        after = editor.outputs(change)
        drawn = [editor.outputs(edits.random_edit(change, editor.generator)) for _ in range(DRAWS)]
        of_random = [changes(random) for random in drawn]
        row = changes(after)
        yield SingleEdit(
            feature=name,
            size=vectors.shape[1],
            norm=edits.norm(change),
            after=editor.problem.measures(after),
            changes=row,
            specificity=_share(row, own),
            selectivity=None if selects is None else selects(after),
            random_own=Interval.of(of_draw[own] for of_draw in of_random),
            random_specificity=Interval.of(_share(of_draw, own) for of_draw in of_random),
            random_selectivity=None if selects is None else Interval.of(map(selects, drawn)),
        )
    progress("edits of single features", len(wanted), len(wanted))


def _cumulative(
    editor: _Editor, features: Features, singles: Sequence[SingleEdit]
) -> list[Cumulative]:
    """Take out more and more features together, in random orders; nothing for less than two."""
    names = [row.feature for row in singles]
    if len(names) < 2:
        return []
    steps = sorted({*np.linspace(1, len(names), min(len(names), 8)).round().astype(int).tolist()})
    values: dict[int, list[float]] = {count: [] for count in steps}
    random: dict[int, list[float]] = {count: [] for count in steps}
    for _ in range(ORDERS):
        order = editor.generator.permutation(len(names))
        for count in steps:
            chosen = [features.vectors[names[k]] for k in order[:count]]
            change = editor.change(np.concatenate(chosen, axis=1))
            main = next(iter(editor.measured({})))
            values[count].append(editor.measured(change)[main])
            drawn = edits.random_edit(change, editor.generator)
            random[count].append(editor.measured(drawn)[main])
    return [
        Cumulative(count, Interval.of(values[count]), Interval.of(random[count])) for count in steps
    ]


def _share(changes: Sequence[float], own: int) -> float:
    total = float(np.abs(changes).sum())
    return abs(changes[own]) / total if total else 0.0


def _strengths(features: Features, outputs: Float64Array) -> dict[str, float]:
    """The strengths of the features that the outputs hold, beyond rounding."""
    found = features.strengths(outputs)
    most = max((abs(value) for value in found.values()), default=0.0)
    return {name: value for name, value in found.items() if abs(value) > _HELD * most}


def _selectivity(
    features: Features, name: str, outputs: Float64Array
) -> Callable[[Float64Array], float] | None:
    has = features.inputs.get(name)
    if has is None or has.all() or not has.any():
        return None

    def ratio(after: Float64Array) -> float:
        squared = ((after - outputs) ** 2).sum(axis=1)
        return float(squared[has].mean()) / max(float(squared[~has].mean()), _LEAST)

    return ratio
