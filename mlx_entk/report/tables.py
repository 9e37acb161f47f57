"""The tables of a run, the same in the terminal and in the report."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mlx_entk._files import Json
from mlx_entk._memory import format_bytes
from mlx_entk.features import FREQUENCY_FAMILIES
from mlx_entk.lm.contexts import read_contexts
from mlx_entk.runs import Run
from mlx_entk.studies.estimate import Stage
from mlx_entk.studies.lm import contexts_file, leading_windows


@dataclass(frozen=True)
class Table:
    """A table for people, the same in the terminal and in the report."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""

    def is_numeric(self, column: int) -> bool:
        """Whether every cell of a column is empty or a number, so that it is set to the right."""
        cells = [row[column] for row in self.rows if row[column]]
        return bool(cells) and all(
            cell.removeprefix("-").replace(".", "", 1).isdigit() for cell in cells
        )

    def as_json(self) -> Json:
        """Title, note, and the rows by column: of a table without a head, value by name."""
        rows: Json | list[Json]
        if any(self.columns):
            names = [column or "name" for column in self.columns]
            rows = [dict(zip(names, map(_value, row), strict=True)) for row in self.rows]
        else:
            rows = {name: _value(value) for name, value in self.rows}
        return {"title": self.title, "rows": rows, "note": self.note}


def _value(cell: str) -> str | int | float | None:
    """What a cell says, for JSON: a number where it is one, None where it is empty."""
    for parse in (int, float):
        try:
            return parse(cell) if cell.isascii() else cell
        except ValueError:
            pass
    return cell or None


def tables(results: Json) -> list[Table]:
    """The tables of a finished run of any study."""
    study = results["study"]
    if study == "tms":
        return [_tms_overview(results), _recovery({"": results})]
    if study == "tms-paper":
        return [_paper_overview(results["models"]), _recovery(results["models"])]
    if study == "tms-double-descent":
        return [_descent(results["sizes"])]
    if study == "modular-transformer":
        return [_transformer_overview(results), _localisation(results), _moves(results)]
    if study == "lm":
        return [_lm_overview(results), _lm_scores(results), *_lm_labels(results)]
    if study == "sweep":
        return [_seeds(results), _spread(results)]
    overview = _modular_overview if "grokking" in results else _kernel_overview
    return [overview(results), _cliffs(results), *_alignment(results)]


def estimate_table(stages: Sequence[Stage]) -> Table:
    """What a study would take, by stage and altogether."""
    whole = sum(stage.seconds for stage in stages)
    return Table(
        "Estimate, by trying small parts on this device",
        ("stage", "how many", "time", "memory"),
        [
            *(
                (
                    s.name,
                    str(s.count),
                    _duration(s.seconds),
                    format_bytes(s.memory) if s.memory else "",
                )
                for s in stages
            ),
            ("altogether", "", _duration(whole), format_bytes(max(s.memory for s in stages))),
        ],
        "Memory is the most at a time, beside the process itself. Figures and report come on top.",
    )


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.2g} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _tms_overview(results: Json) -> Table:
    config, counts = results["config"], results["reconstructed"]
    losses = ", ".join(f"{name} {value:.2e}" for name, value in results["loss"].items())
    return Table(
        "Run",
        ("", ""),
        [
            ("features, hidden units", f"{config['n']}, {config['m']}"),
            ("sparsity, importance", f"{config['sparsity']:g}, {config['importance']:g}"),
            ("dataset, rows", f"{config['dataset']}, {config['rows']}"),
            ("seed, steps", f"{config['seed']}, {config['steps']}"),
            ("loss", losses),
            ("features reconstructed", str(counts["trained"])),
            ("... before training", str(counts["initial"])),
            ("... by shuffled targets", str(counts["shuffled"])),
            ("features like a constant", str(results["recovered_by_constants"])),
        ],
        f"Reconstructed: {results['reconstruction_rule']}. Like a constant: with cos² ≥ 1/2 with "
        "the constant function of their output, which a bias has a mode for.",
    )


def _paper_overview(models: Json) -> Table:
    rows = []
    for name, results in models.items():
        config, counts = results["config"], results["reconstructed"]
        kernels = {row["network"]: row for row in results["kernels"] if row["beta"] == 0}
        cliffs = [_cliff_ends(kernels[network]) for network in counts]
        cells = [f"{counts[network]}: {ends}" for network, ends in zip(counts, cliffs, strict=True)]
        constants = str(results["recovered_by_constants"])
        rows.append((name, str(config["m"]), f"{config['sparsity']:g}", *cells, constants))
    return Table(
        "Features reconstructed, and the modes before which the flattened kernel has a cliff",
        ("model", "m", "S", "trained", "initial", "shuffled", "like a constant"),
        rows,
        f"Criterion: {next(iter(models.values()))['cliff_rule']}. Like a constant: features with "
        "cos² ≥ 1/2 with the constant function of their output, which a bias has a mode for.",
    )


def _cliff_ends(row: Json) -> str:
    return ", ".join(str(last + 1) for _, last in row["cliffs"]) or "no cliff"


def _recovery(models: Json) -> Table:
    first = next(iter(models.values()))
    rows = [
        (
            name,
            row["network"],
            f"{row['beta']:g}",
            _cliff_ends(row),
            *(str(row[key]) for key in (
                "recovered", "recovered_by_rotated_modes", "recovered_by_random_modes", "contained"
            )),
        )
        for name, results in models.items()
        for row in results["kernels"]
    ]  # fmt: skip
    skip = 0 if any(name for name in models) else 1
    columns = ("model", "network", "β", "cliffs", "recovered", "rotated", "random", "contained")
    return Table(
        f"Features of {first['config']['n']} that single modes of the leading "
        f"{first['kernels'][0]['modes']} recover",
        columns[skip:],
        [row[skip:] for row in rows],
        "Initial: before training; shuffled: by shuffled targets. Cliffs: the modes before "
        f"which one lies. {first['recovery_rule'].capitalize()}. Rotated: by a random "
        "rotation of the same modes; random: by random modes; contained: by all modes together.",
    )


def _descent(sizes: list[Json]) -> Table:
    return Table(
        "Double descent",
        ("rows", "train loss", "test loss", "reconstructed", "effective rank of the eNTK"),
        [
            (
                str(row["rows"]),
                f"{row['train_loss']:.2e}",
                f"{row['test_loss']:.2e}",
                str(row["reconstructed"]),
                f"{row['effective_rank']:.1f}",
            )
            for row in sizes
        ],
    )


def regression_tables(regression: Json) -> list[Table]:
    """The tables of ``regression.json``."""
    inputs, found = regression["inputs"], regression["modes"]
    predictors = [
        (
            row["predictor"],
            f"{row['ridge']:.1e}",
            *_quality_cells(row),
            "yes" if row["described"] else "no",
        )
        for row in regression["predictors"]
    ]
    quality = ("R²", "loss ratio", "accuracy gap")
    parts = [("all", *_quality_cells(found["all"]))]
    for row in found["without_group"]:
        modes = _modes(row["modes"])
        parts.append((f"without {modes}", *_quality_cells(row)))
        parts.append((f"{modes} alone", *_quality_cells(row["alone"])))
    return [
        Table(
            f"Kernel regression by the {regression['kernel']} kernel, {inputs['train']} inputs to "
            f"train on, {inputs['held_out']} held out",
            ("predictor", "ridge", *quality, "describes it"),
            predictors,
            f"Describes the network: {regression['verdict_rule']}. Ridge, in units of the mean "
            f"eigenvalue: {regression['ridge_rule']}.",
        ),
        Table(
            "The pure kernel predictor by its modes",
            ("modes", *quality),
            parts,
            "Groups end at the cliffs of the kernel on the training inputs.",
        ),
    ]


def verification_table(verification: Json) -> Table:
    """The table of ``verification.json``."""
    rows = verification["comparisons"]

    def number(value: float | None) -> str:
        return "" if value is None else f"{value:.1e}"

    def error(row: Json) -> str:
        lost = row["tolerance"] is not None and row["max_error"] is None
        return "NaN" if lost else number(row["max_error"])

    said = {"passed": "passed", "failed": "FAILED", "not run": "not run"}
    compared = [row for row in rows if row["tolerance"] is not None]
    reasons = {f"{row['tolerance']:.0e}: {row['reason']}" for row in compared}
    limits = f" Limits: {'; '.join(sorted(reasons))}." if reasons else ""
    stopped = "".join(
        f" {row['checker']} could not go on: {row['reason']}."
        for row in rows
        if row not in compared
    )
    missing = verification["not_installed"]
    skipped = f" Not checked, for it is not installed: {', '.join(missing)}." if missing else ""
    return Table(
        f"Verified on {verification['inputs']} held-out inputs, {verification['reduction']} kernel",
        ("checker", "quantity", "error", "spectrum", "angle", "limit", ""),
        [
            (
                row["checker"],
                row["quantity"],
                error(row),
                number(row["spectrum"]),
                "" if row["angle"] is None else f"{row['angle']:.2g}°",
                "" if row["tolerance"] is None else f"{row['tolerance']:.0e}",
                # Earlier versions stored no status.
                said[row.get("status", "passed" if row["passed"] else "failed")],
            )
            for row in rows
        ],
        "The largest error is relative to the largest entry, the spectrum's to its largest "
        "eigenvalue. The angle is the largest between the leading eigenspaces, up to the widest "
        f"gap; verification.json has Frobenius errors too.{limits}{skipped}{stopped}",
    )


def _quality_cells(row: Json) -> tuple[str, str, str]:
    ratio, gap = row["loss_ratio"], row["accuracy_gap"]
    return (
        f"{row['r2']:.3f}",
        "" if ratio is None else f"{ratio:.3g}",
        "" if gap is None else f"{100 * gap:.1f}",
    )


def _modular_overview(results: Json) -> Table:
    accuracy, config, onset = results["accuracy"], results["config"], results["grokking"]["onset"]
    return Table(
        "Run",
        ("", ""),
        [
            ("p, width", f"{config['p']}, {config['width']}"),
            ("seed, embedding", f"{config['seed']}, {config['embedding']}"),
            ("inputs, parameters", f"{results['inputs']:,}, {results['parameters']:,}"),
            ("train accuracy", f"{accuracy['train']:.2%}"),
            ("test accuracy", f"{accuracy['test']:.2%}"),
            ("test accuracy rises", _rise(onset["test_accuracy"])),
            ("overlap with the sum rises", _rise(onset["overlap"])),
        ],
        f"Rise: {onset['rule']}.",
    )


def _transformer_overview(results: Json) -> Table:
    accuracy, config, keys = results["accuracy"], results["config"], results["key_frequencies"]
    grokked = results["grokked_at"]
    return Table(
        "Run",
        ("", ""),
        [
            ("p, d_model, heads, d_mlp", ", ".join(
                str(config[key]) for key in ("p", "d_model", "heads", "d_mlp")
            )),
            ("seed", str(config["seed"])),
            ("inputs, parameters", f"{results['inputs']:,}, {results['parameters']:,}"),
            ("epochs", str(results["epochs"])),
            ("train accuracy", f"{accuracy['train']:.2%}"),
            ("test accuracy", f"{accuracy['test']:.2%}"),
            ("grokked", "not" if grokked is None else f"at epoch {grokked}"),
            ("test accuracy rises", _rise(results["grokking"]["onset"]["test_accuracy"])),
            ("key frequencies, by the embedding", ", ".join(map(str, keys["embedding"]))),
            ("... by the kernel's modes", ", ".join(map(str, keys["kernel"]))),
        ],
        f"Training ends {results['stop_rule']}. Key: {keys['rule']}. Rise: "
        f"{results['grokking']['onset']['rule']}.",
    )  # fmt: skip


def _localisation(results: Json) -> Table:
    reduction = next(iter(results["cliffs"]))
    rows = {
        (row["kernel"], *row["modes"], row["family"]): row
        for row in results["alignment"]
        if row["reduction"] == reduction
    }
    families = [
        name for name in dict.fromkeys(row["family"] for row in results["alignment"])
        if name.endswith(" (key)") and len(name) > len("n (key)")
    ]  # fmt: skip
    groups = dict.fromkeys(key[:3] for key in rows)

    def cell(row: Json) -> str:
        before = 100 * row["initial"] / row["dimension"]
        chance = 100 * row["chance"] / row["dimension"]
        return f"{row['percent']:.0f} ({before:.0f}, {chance:.0f})"

    return Table(
        f"Overlap of the {reduction} kernels' mode groups with families at the key frequencies, %",
        ("kernel", "modes", *(name.removesuffix(" (key)") for name in families)),
        [
            (group[0], _modes(group[1:]), *(cell(rows[*group, family]) for family in families))
            for group in groups
        ],
        "In brackets: the same modes before training, and by chance. Per cent of the smaller "
        "dimension; results.json has the other frequencies and reductions.",
    )


def _moves(results: Json) -> Table:
    tracked = results["grokking"]
    return Table(
        "When each kernel turned to its family",
        ("kernel", "modes", "family", "rise %", "half by epoch", "ahead"),
        [
            (
                row["kernel"],
                _modes(row["modes"]),
                row["family"].removesuffix(" (key)"),
                f"{100 * row['rise']:.0f}",
                f"{row['epoch']:.0f}",
                f"{row['lead']:.0f}",
            )
            for row in tracked["moves"]
        ],
        "Its family: the one at the key frequencies whose overlap rose the most. Half by epoch: "
        f"{tracked['half_rise_rule']}. Ahead: epochs before that of the test accuracy, "
        f"{tracked['half_rise_of_test_accuracy']:.0f}.",
    )


def _seeds(results: Json) -> Table:
    names = list(results["spread"])
    return Table(
        f"`mlx-entk {' '.join(results['config']['command'])}` by seed",
        ("", *(f"seed {row['seed']}" for row in results["seeds"])),
        [(name, *(_figure(row["figures"][name]) for row in results["seeds"])) for name in names],
    )


def _spread(results: Json) -> Table:
    keys = ("mean", "deviation", "smallest", "largest")
    return Table(
        "Spread over the seeds",
        ("", *keys, "seeds"),
        [
            (name, *(_figure(row[key]) for key in keys), str(row["count"]))
            for name, row in results["spread"].items()
        ],
        "Deviation: the sample standard deviation. Seeds: how many have the figure.",
    )


def _lm_overview(results: Json) -> Table:
    config = results["config"]
    rows = [
        (
            str(row["layer"]),
            f"{row['values'][0]:.3g}",
            f"{row['values'][-1]:.3g}",
            f"{max(row['residuals']):.0e}",
            str(row["products"]),
            f"{row['product_seconds']:.2f}",
            f"{row['product_seconds'] / results['forward_seconds']:.1f}",
            f"{np.median(row['shares']):.0%}",
        )
        for row in results["layers"]
    ]
    return Table(
        f"{config['model']}: {config['modes']} modes by {', '.join(config['selection'])}",
        ("layer", "largest", "smallest", "residual", "products", "seconds", "forwards", "share"),
        rows,
        f"{results['inputs']} windows of {results['window']} tokens. Largest and smallest "
        "eigenvalue; the largest residual ‖Kv − λv‖/λ; matrix-vector products, seconds of each, "
        "and that as a multiple of one forward pass of the whole model; median share of a mode's "
        "norm in its per-input scores.",
    )


def _lm_scores(results: Json) -> Table:
    def cell(found: Json) -> str:
        low, high = found["interval"]
        return f"{found['mean']:.3f} [{low:.3f}, {high:.3f}]"

    return Table(
        f"{len(results['labels'])} labels of the next word, mean over them",
        ("layer", "directions", "average precision", "AUROC", "enrichment"),
        [
            (
                str(row["layer"]),
                method,
                cell(found["average_precision"]),
                cell(found["auroc"]),
                f"{np.mean([label['enrichment'] for label in found['labels']]):.2f}",
            )
            for row in results["layers"]
            for method, found in row["scores"].items()
        ],
        "Direction and sign of each label are chosen by average precision on one half of the "
        "windows, figures are of the other half, in brackets 95% of its bootstrap resamples. "
        "Enrichment: share of the label among as many leading windows as have it, over its share "
        f"among all. Labels: {results['label_rule']}.",
    )


def _lm_labels(results: Json) -> list[Table]:
    found = []
    for row in results["layers"]:
        methods = list(row["scores"])
        by_label = {
            method: {entry["label"]: entry for entry in row["scores"][method]["labels"]}
            for method in methods
        }
        found.append(
            Table(
                f"Average precision by label, layer {row['layer']}",
                ("label", "share", "mode", *methods),
                [
                    (
                        label,
                        f"{count / results['inputs']:.1%}",
                        _signed(by_label["eNTK"][label]),
                        *(f"{by_label[m][label]['average_precision']:.3f}" for m in methods),
                    )
                    for label, count in results["labels"].items()
                ],
                "Share: of all windows, what a score without information would reach. Mode: of "
                "the eNTK, with its sign.",
            )
        )
    return found


def _signed(entry: Json) -> str:
    return f"{'+' if entry['sign'] > 0 else '−'}{entry['direction']}"


def run_names(folders: Sequence[str]) -> list[str]:
    """The shortest names that tell run folders apart: of the folder, its path, or numbered."""
    for names in ([Path(folder).resolve().name for folder in folders], list(folders)):
        if len(set(names)) == len(names):
            return names
    return [f"{number}: {folder}" for number, folder in enumerate(folders, 1)]


def comparison_table(comparison: Json) -> Table:
    """The table of :func:`mlx_entk.studies.compare.compare`: a column a run."""

    def cell(value: object) -> str:
        if isinstance(value, float) and abs(value) < 1:
            return f"{value:.3g}"
        return _figure(value) if isinstance(value, int | float) else str(value)

    rows = [
        *((name, *map(str, values)) for name, values in comparison["settings"].items()),
        *((name, *map(cell, values)) for name, values in comparison["figures"].items()),
    ]
    return Table(
        f"{len(comparison['runs'])} runs of {comparison['study']}",
        ("", *run_names(comparison["runs"])),
        rows,
        "First the settings in which they differ, then their headline figures.",
    )


def window_tables(run: Run, layer: int, modes: Sequence[int], count: int) -> list[Table]:
    """The ends of some modes of a language model: windows with their next words and labels.

    Parameters
    ----------
    run
        A finished run of ``mlx-entk lm`` that has the layer and the modes.
    count
        Windows at each end.
    """
    (row,) = [row for row in run.results["layers"] if row["layer"] == layer]
    scores = run.arrays[f"scores/layer-{layer}"]
    contexts = read_contexts(contexts_file(run))

    def cells(number: int, mode: int) -> tuple[str, str, str, str]:
        context = contexts[number]
        text = " ".join(context.text.split())[-56:]
        labels = " ".join(f"{name}={value}" for name, value in context.labels.items())
        return f"{scores[number, mode]:.2g}", f"…{text}", context.word, labels

    found = []
    for mode in modes:
        top, bottom = leading_windows(scores, mode, count)
        found.append(
            Table(
                f"Layer {layer}, mode {mode}: eigenvalue {row['values'][mode]:.3g}, "
                f"{row['shares'][mode]:.0%} of it in these scores",
                ("score", "window", "next", "labels"),
                [
                    *(cells(int(i), mode) for i in top),
                    ("", "⋮", "", ""),
                    *(cells(int(i), mode) for i in bottom[::-1]),
                ],
            )
        )
    return found


def _figure(value: float | None) -> str:
    if value is None:
        return "–"
    digits = 0 if abs(value) >= 100 or float(value).is_integer() else 1
    return f"{value:.{digits}f}"


def _kernel_overview(results: Json) -> Table:
    config = results["config"]
    return Table(
        "Run",
        ("", ""),
        [
            ("model", config["model"]),
            ("inputs, parameters", f"{results['inputs']:,}, {results['parameters']:,}"),
            ("reduction", str(config["reduction"])),
        ],
    )


def _cliffs(results: Json) -> Table:
    ranks = results["effective_rank"]
    return Table(
        "Cliffs of the eNTK",
        ("kernel", "groups of modes that end at a cliff", "effective rank"),
        [
            (
                kernel,
                ", ".join(_modes(group) for group in groups) or "none",
                "" if ranks[kernel] is None else f"{ranks[kernel]:.1f}",
            )
            for kernel, groups in results["cliffs"].items()
        ],
        f"Criterion: {results['cliff_rule']}.",
    )


def _alignment(results: Json) -> list[Table]:
    rows = results["alignment"]
    if not rows:
        return []
    names = list(dict.fromkeys(row["family"] for row in rows))
    # The modular families are too many for a terminal; those that say most are shown.
    families = [*FREQUENCY_FAMILIES, "n ∪ m", "random"] if "carry" in names else names
    overlaps = {(row["kernel"], *row["modes"], row["family"]): row for row in rows}
    groups = dict.fromkeys((row["kernel"], *row["modes"]) for row in rows)
    same = "; ".join(" = ".join(group) for group in results["equivalent_families"])
    apart = f" These span the same space, so no overlap tells them apart: {same}." if same else ""

    def cells(group: tuple[str, int, int], key: str) -> list[str]:
        return [f"{overlaps[(*group, family)][key]:.2f}" for family in families]

    return [
        Table(
            "Overlap ‖QᵀF‖² of mode groups with feature families",
            ("kernel", "modes", *families),
            [
                line
                for group in groups
                for line in (
                    (group[0], _modes(group[1:]), *cells(group, "overlap")),
                    ("", "chance", *cells(group, "chance")),
                )
            ],
            "An overlap is at most the smaller of the two dimensions; results.json has them, all "
            f"families, percentages and angles.{apart}",
        )
    ]


def _modes(modes: Sequence[int]) -> str:
    first, last = modes
    return str(first) if first == last else f"{first}–{last}"


def _rise(transition: Json) -> str:
    if transition["after"] <= transition["before"]:
        return "never"
    return (
        f"from epoch {transition['onset']:.0f} to {transition['completion']:.0f} "
        f"(R² of the fit {transition['explained']:.2f})"
    )
