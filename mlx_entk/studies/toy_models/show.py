"""How the studies of toy models are shown: their sentences, tables and captioned figures."""

from collections.abc import Callable, Mapping

from mlx_entk.features import RECOVERED
from mlx_entk.plotting import CaptionedFigure
from mlx_entk.report import Status, Table
from mlx_entk.runs import Run
from mlx_entk.studies.base import Figures, Show
from mlx_entk.studies.results import Recovery
from mlx_entk.studies.toy_models import charts
from mlx_entk.studies.toy_models.double_descent import DescentResults
from mlx_entk.studies.toy_models.modes import modes
from mlx_entk.studies.toy_models.paper import PaperResults
from mlx_entk.studies.toy_models.study import (
    INITIAL,
    METHOD,
    NETWORKS,
    SHUFFLED,
    TRAINED,
    TMSResults,
)
from mlx_entk.studies.words import cliff_sentence, cliff_status

_CONSTANTS_NOTE = (
    f"A feature is like a constant if it has cos² ≥ {RECOVERED**2:g} with the constant function of "
    "its output: a bias alone has a mode for that."
)
_GEOMETRY_CAPTION = (
    "The features ({features}) and the hidden vectors of the inputs ({vectors}). Features at equal "
    "angles form a polygon; compare their directions with those of the hidden vectors."
)


# One toy model


def _summary(results: TMSResults) -> tuple[str, str]:
    config, beta = results.config, results.rescalings[-1]
    recovered = {network: results.kernel(network, beta).recovered for network in NETWORKS}
    return (
        f"The network reconstructs {results.reconstructed[TRAINED]} of {config.n} features with "
        f"{config.m} hidden units, and its flattened eNTK has "
        f"{cliff_sentence(results.kernel(TRAINED).cliffs)}.",
        f"Single modes recover {_features(recovered[TRAINED])} at β = {beta:g}, compared with "
        f"{recovered[INITIAL]} before training and {recovered[SHUFFLED]} in the network trained "
        f"on shuffled targets; {_features(results.recovered_by_constants)} can be recovered by a "
        f"constant, which a bias alone gives. {_disentangled(results, beta)}"
        f"{_without_kernel(results)}",
    )


def _status(results: TMSResults) -> list[Status]:
    beta = results.rescalings[-1]
    recovered = {network: results.kernel(network, beta).recovered for network in NETWORKS}
    found, null = recovered[TRAINED], max(recovered[INITIAL], recovered[SHUFFLED])
    control = max(results.best_control(TRAINED).recovered, results.recovered_by_own_output[TRAINED])
    compared = (
        f"Features that single modes recover at β = {beta:g}: {found}, {recovered[INITIAL]} before "
        f"training, {recovered[SHUFFLED]} trained on shuffled targets, {control} without a kernel."
    )
    return [
        cliff_status(results.kernel(TRAINED).cliffs),
        Status(f"learned: {found} features recovered, null models {null}", "yes", compared)
        if found > null
        else Status(f"null models recover as many: {null} of {found}", "no", compared),
        Status(f"beyond activations and outputs: +{found - control} features", "yes", compared)
        if found > control
        else Status(f"activations and outputs recover as many or more: {control}", "no", compared),
    ]


def _disentangled(results: TMSResults, beta: float) -> str:
    """What the same modes recover once they are rotated; empty for runs that did not do it."""
    row = results.kernel(TRAINED, beta)
    if row.recovered_by_disentangled_modes is None:
        return ""
    null = {
        network: results.kernel(network, beta).recovered_by_disentangled_modes
        for network in (INITIAL, SHUFFLED)
    }
    return (
        f"Rotated to sparse directions by {METHOD}, the {row.modes} modes recover "
        f"{row.recovered_by_disentangled_modes}, compared with {null[INITIAL]} before training, "
        f"{null[SHUFFLED]} in the network trained on shuffled targets, and "
        f"{row.shuffled_recovered_by_disentangled_modes} if the features are shuffled over the "
        "inputs. "
    )


def _without_kernel(results: TMSResults) -> str:
    """What activations and outputs of the trained network recover without a kernel."""
    best = results.best_control(TRAINED)
    own = results.recovered_by_own_output[TRAINED]
    rotated = results.best_control(TRAINED, disentangled=True)
    also = (
        ""
        if rotated.recovered_by_disentangled_modes is None
        else f"those of the {rotated.control} ({rotated.scaling}), rotated in the same way, "
        f"{rotated.recovered_by_disentangled_modes} "
        f"({_rotated_control(results, INITIAL)} before training), "
    )
    return (
        f"Without a kernel, the modes of the {best.control} ({best.scaling}) recover "
        f"{best.recovered}, {also}and {own} resemble{'s' if own == 1 else ''} the output that "
        "should copy them."
    )


def _rotated_control(results: TMSResults, network: str) -> int | None:
    """What the best control of a network recovers once its modes are rotated."""
    return results.best_control(network, disentangled=True).recovered_by_disentangled_modes


def _features(count: int) -> str:
    return "1 feature" if count == 1 else f"{count} features"


def _tables(results: TMSResults) -> list[Table]:
    config, counts = results.config, results.reconstructed
    losses = ", ".join(f"{name} {value:.2e}" for name, value in results.loss.items())
    overview = Table(
        "Run",
        ("", ""),
        [
            ("features, hidden units", f"{config.n}, {config.m}"),
            ("sparsity, importance", f"{config.sparsity:g}, {config.importance:g}"),
            ("dataset, rows", f"{config.dataset}, {config.rows}"),
            ("seed, steps", f"{config.seed}, {config.steps}"),
            ("loss", losses),
            ("features reconstructed", str(counts[TRAINED])),
            ("... before training", str(counts[INITIAL])),
            ("... with shuffled targets", str(counts[SHUFFLED])),
            ("features like a constant", str(results.recovered_by_constants)),
        ],
        f"A feature is reconstructed if {results.reconstruction_rule}. {_CONSTANTS_NOTE}",
    )
    return [overview, _recovery_table({"": results}), _control_table({"": results})]


def _recovery_table(models: Mapping[str, TMSResults]) -> Table:
    """The features that the kernels of each model recover; a single model needs no name."""
    first = next(iter(models.values()))
    named = any(models)
    columns = (
        "network",
        "β",
        "cliffs before",
        "recovered",
        "disentangled",
        "... of shuffled",
        "rotated",
        "random",
        "contained",
        "... by random",
    )
    rows = [
        (
            *([name] if named else []),
            row.network,
            f"{row.beta:g}",
            _cliff_cell(row),
            str(row.recovered),
            _count_cell(row.recovered_by_disentangled_modes),
            _count_cell(row.shuffled_recovered_by_disentangled_modes),
            str(row.recovered_by_rotated_modes),
            str(row.recovered_by_random_modes),
            str(row.contained),
            _count_cell(row.contained_by_random_modes),
        )
        for name, results in models.items()
        for row in results.kernels
    ]
    rule = first.recovery_rule
    return Table(
        f"Features of {first.config.n} that single modes of the leading {first.kernels[0].modes} "
        "recover",
        ("model", *columns) if named else columns,
        rows,
        "The network is the trained one, the same before training (initial), or one trained on "
        "shuffled targets (shuffled); the cliffs lie before the modes named. "
        f"{rule[0].upper()}{rule[1:]}. Alongside are the features that the same modes recover "
        f"once they are rotated to sparse directions by {METHOD}, at the smallest β > 0 alone "
        "(disentangled), and how many they recover of features that were shuffled over the inputs, "
        "each within its output (of shuffled); that a random rotation of the same modes recovers "
        "(rotated), that random modes recover (random), and that lie in the span of all the modes "
        "(contained) or of as many random ones (by random): no rotation recovers more than lie in "
        "the span.",
    )


def _control_table(models: Mapping[str, TMSResults]) -> Table:
    """The features that activations and outputs recover without a kernel."""
    named = any(models)
    columns = (
        "network",
        "Gram matrix of",
        "scaling",
        "recovered",
        "disentangled",
        "rotated",
        "random",
        "contained",
    )
    rows = []
    for name, results in models.items():
        label = [name] if named else []
        rows += [
            (
                *label,
                row.network,
                row.control,
                row.scaling,
                str(row.recovered),
                _count_cell(row.recovered_by_disentangled_modes),
                str(row.recovered_by_rotated_modes),
                str(row.recovered_by_random_modes),
                str(row.contained),
            )
            for row in results.controls
        ]
        rows += [
            (*label, network, "own output", "", str(count), "", "", "", "")
            for network, count in results.recovered_by_own_output.items()
        ]
    return Table(
        "Features recovered without a kernel, by Gram matrices of activations and outputs",
        ("model", *columns) if named else columns,
        rows,
        "The modes are functions of the inputs, and are compared with the features as such, "
        "centred if the coordinates are. Own output: features that have cos² ≥ "
        f"{RECOVERED**2:g} with the output that should copy them.",
    )


def _count_cell(count: int | None) -> str:
    return "" if count is None else str(count)


def _cliff_cell(row: Recovery) -> str:
    return ", ".join(str(cliff.before) for cliff in row.cliffs) or "no cliff"


def _figures(results: TMSResults, run: Run) -> Figures:
    arrays = run.arrays
    yield CaptionedFigure(
        "spectra-flattened",
        charts.spectra(results, arrays),
        "Only a cliff that the trained kernel has and the null models do not have is a sign of "
        "learning. Leading eigenvalues of the flattened kernel of the network, of the same "
        "network before training, and of one trained on shuffled targets. Full lines are cliffs; "
        "side by side, the dotted line is the number of features.",
    )
    yield CaptionedFigure(
        "recovery",
        charts.recovery(results, arrays),
        "Each cell shows how close a mode is to a feature, for each exponent of the importance "
        "rescaling. A bright diagonal means that the kernel tells features apart; compare it with "
        "the null models below.",
    )
    yield CaptionedFigure(
        "superposition",
        charts.superposition(arrays[f"W/{TRAINED}"]),
        "Features that share their direction with others have colour off the diagonal of WᵀW and "
        "a bright bar. A bar of no height is a feature that the network has dropped.",
    )
    yield CaptionedFigure(
        "features-over-training",
        charts.over_training(results.training, arrays["values over training"]),
        "The lines show when the features appear: the network may reconstruct them (full line) "
        "earlier than single modes of its kernel recover them (dashed), or without that. In the "
        "middle, the centred alignment of the trace kernel with the targets and with the last "
        "kernel, and the R² of the held-out targets by regression with it (0 if it is below). Move "
        "the slider to see the spectrum at each checkpoint.",
    )
    if results.config.m == 2:
        yield CaptionedFigure(
            "geometry",
            charts.geometry(arrays[f"W/{TRAINED}"], arrays["x"]),
            _GEOMETRY_CAPTION.format(features="left", vectors="right"),
        )


TOY_MODEL_SHOW = Show(
    summary=_summary, tables=_tables, figures=_figures, status=_status, modes=modes
)


# The paper's three


def _paper_summary(results: PaperResults) -> tuple[str, str]:
    models = results.models

    def recovered(network: str) -> str:
        return ", ".join(
            f"{model.kernel(network, model.rescalings[-1]).recovered} ({name})"
            for name, model in models.items()
        )

    constants = ", ".join(
        f"{model.recovered_by_constants} ({name})"
        for name, model in models.items()
        if model.recovered_by_constants
    )
    explained = (
        f" A constant, which a bias alone gives, resembles {constants}: so many of them say "
        "nothing of the features."
        if constants
        else ""
    )
    without = ", ".join(
        f"{max(m.best_control(TRAINED).recovered, m.recovered_by_own_output[TRAINED])} ({name})"
        for name, m in models.items()
    )

    counts = ", ".join(f"{m.reconstructed[TRAINED]} ({name})" for name, m in models.items())
    return (
        f"Of {results.config.n} features the three models reconstruct {counts}.",
        f"At the smallest β single modes of their kernels recover {recovered(TRAINED)}, compared "
        f"with {recovered(SHUFFLED)} in networks trained on shuffled targets, and "
        f"{recovered(INITIAL)} before training.{explained}"
        f"{_paper_disentangled(models)} Without a kernel, activations and outputs show {without}.",
    )


def _paper_disentangled(models: Mapping[str, TMSResults]) -> str:
    """What the same modes recover once they are rotated; empty for runs that did not do it."""

    def listed(count: Callable[[TMSResults], int | None]) -> str:
        return ", ".join(f"{count(model)} ({name})" for name, model in models.items())

    def row(model: TMSResults, network: str = TRAINED) -> Recovery:
        return model.kernel(network, model.rescalings[-1])

    if any(row(model).recovered_by_disentangled_modes is None for model in models.values()):
        return ""
    trained, initial, with_shuffled = (
        ", ".join(
            f"{row(model, network).recovered_by_disentangled_modes} ({name})"
            for name, model in models.items()
        )
        for network in NETWORKS
    )
    shuffled = listed(lambda model: row(model).shuffled_recovered_by_disentangled_modes)
    controls = listed(lambda model: _rotated_control(model, TRAINED))
    controls_before = listed(lambda model: _rotated_control(model, INITIAL))
    return (
        f" Rotated to sparse directions by {METHOD}, the same modes recover {trained}, "
        f"compared with {with_shuffled} with shuffled targets and {initial} "
        f"before training, and of features that are shuffled over the inputs {shuffled}; modes of "
        f"activations and outputs, rotated in the same way, recover {controls}, and before "
        f"training {controls_before}."
    )


def _paper_tables(results: PaperResults) -> list[Table]:
    rows = [
        (
            name,
            str(model.config.m),
            f"{model.config.sparsity:g}",
            *(
                f"{model.reconstructed[network]}: {_cliff_cell(model.kernel(network))}"
                for network in NETWORKS
            ),
            str(model.recovered_by_constants),
        )
        for name, model in results.models.items()
    ]
    overview = Table(
        "Features reconstructed, and the modes before which the flattened kernel has a cliff",
        ("model", "m", "S", *NETWORKS, "like a constant"),
        rows,
        f"Criterion: {next(iter(results.models.values())).cliff_rule}. {_CONSTANTS_NOTE}",
    )
    return [overview, _recovery_table(results.models), _control_table(results.models)]


def _paper_figures(results: PaperResults, run: Run) -> Figures:
    yield CaptionedFigure(
        "paper",
        charts.paper(results.models, run.arrays),
        "Compare the cliffs (orange) with the number of reconstructed features (dashed) and of "
        "all features (dotted). Below, a bright diagonal is a kernel whose single modes are "
        "features; each row has one exponent of the importance rescaling.",
    )


PAPER_SHOW = Show(summary=_paper_summary, tables=_paper_tables, figures=_paper_figures)


# Double descent


def _descent_summary(results: DescentResults) -> tuple[str, str]:
    peak = max(results.sizes, key=lambda row: row.test_loss)
    last = results.sizes[-1]
    if peak == last:
        return (
            f"The loss on new inputs is largest with the most rows, {last.rows}: "
            f"{last.test_loss:.1e}.",
            f"The effective rank of the flattened eNTK is {last.effective_rank:.0f} there.",
        )
    return (
        f"The loss on new inputs is largest with {peak.rows} rows: {peak.test_loss:.1e}, compared "
        f"with {last.test_loss:.1e} with {last.rows} rows.",
        f"The effective rank of the flattened eNTK is {peak.effective_rank:.0f} with {peak.rows} "
        f"rows and {last.effective_rank:.0f} with {last.rows}.",
    )


def _descent_tables(results: DescentResults) -> list[Table]:
    return [
        Table(
            "Double descent",
            ("rows", "train loss", "test loss", "reconstructed", "effective rank of the eNTK"),
            [
                (
                    str(row.rows),
                    f"{row.train_loss:.2e}",
                    f"{row.test_loss:.2e}",
                    str(row.reconstructed),
                    f"{row.effective_rank:.1f}",
                )
                for row in results.sizes
            ],
        )
    ]


def _descent_figures(results: DescentResults, run: Run) -> Figures:
    arrays = run.arrays
    yield CaptionedFigure(
        "double-descent",
        charts.double_descent(results.sizes),
        "Double descent is a loss on new inputs that rises before it falls for good. Compare it "
        "with the effective rank of the flattened kernel on new inputs (below).",
    )
    if results.config.m == 2:
        sizes = [row.rows for row in results.sizes]
        yield CaptionedFigure(
            "geometry",
            charts.geometry_by_size({s: (arrays[f"W/{s}"], arrays[f"hidden/{s}"]) for s in sizes}),
            _GEOMETRY_CAPTION.format(features="above", vectors="below"),
        )


DESCENT_SHOW = Show(summary=_descent_summary, tables=_descent_tables, figures=_descent_figures)
