"""The report of a run: one HTML file that holds its tables and figures."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from string import Template

from mlx_entk.features import FREQUENCY_FAMILIES
from mlx_entk.runs import Json, Run, read_json, write_atomically

# What each figure shows, in the order of the report.
CAPTIONS = {
    "grokking": "Accuracy, the overlap of the second cliff with the sum family, and how fast it "
    "grows. The grey bands are the rises that the stated rule finds.",
    "overlaps-over-training": "Overlap of each mode group of each kernel with the families of "
    "single frequencies over training, in per cent of the smaller dimension. Epoch 0 is the "
    "network before training.",
    "spectra": "Leading eigenvalues of the full and the layerwise kernels after training; each "
    "shaded group ends at a cliff that the stated criterion finds.",
    "spectra-over-training": "The same spectra at some epochs of training.",
    "alignment": "Overlap of each mode group with each feature family, in per cent of the "
    "smaller of the two dimensions.",
    "frequencies": "The modes of each group rotated into single frequencies. A bright cell is a "
    "mode that is one frequency of one family.",
    "preactivations": "What single hidden neurons compute before the activation.",
}


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
        return bool(cells) and all(cell.replace(".", "", 1).isdigit() for cell in cells)


def tables(results: Json) -> list[Table]:
    """The tables of a finished run of any study."""
    overview = _modular_overview if "grokking" in results else _kernel_overview
    return [overview(results), _cliffs(results), *_alignment(results)]


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


def write_report(run: Run) -> None:
    """Write report.html of a finished run whose figures are drawn."""
    results = run.results
    parts = [_table_html(table) for table in tables(results)]
    by_name = {path.stem: path for path in run.figures}
    for name, caption in CAPTIONS.items():
        if name in by_name:
            data = base64.b64encode(by_name[name].read_bytes()).decode()
            parts.append(
                f'<figure><img alt="{escape(caption)}" src="data:image/png;base64,{data}">'
                f"<figcaption>{escape(caption)}</figcaption></figure>"
            )
    parts.append(_table_html(_provenance_table(run)))
    template = Template(files("mlx_entk").joinpath("report.html").read_text(encoding="utf-8"))
    page = template.substitute(
        title=escape(f"{results['study']}: {run.path.resolve().name}"), body="\n".join(parts)
    )
    write_atomically(
        run.path / "report.html", lambda temporary: temporary.write_text(page, encoding="utf-8")
    )


def _provenance_table(run: Run) -> Table:
    session = read_json(run.path / "provenance.json")["sessions"][-1]
    versions = ", ".join(f"{name} {version}" for name, version in session["versions"].items())
    keys = ("command", "started", "git_revision", "device", "blas", "platform", "python")
    rows = [(key.replace("_", " "), str(session[key])) for key in keys]
    return Table("Made with", ("", ""), [*rows, ("versions", versions)])


def _table_html(table: Table) -> str:
    classes = [' class="number"' if table.is_numeric(i) else "" for i in range(len(table.columns))]
    head = _row_html("th", table.columns, classes) if any(table.columns) else ""
    body = "\n".join(_row_html("td", row, classes) for row in table.rows)
    note = f"<p>{escape(table.note)}</p>" if table.note else ""
    return (
        f'<h2>{escape(table.title)}</h2><div class="wide"><table>{head}\n{body}</table></div>{note}'
    )


def _row_html(tag: str, cells: Sequence[str], classes: Sequence[str]) -> str:
    return "<tr>{}</tr>".format(
        "".join(
            f"<{tag}{css}>{escape(cell)}</{tag}>" for cell, css in zip(cells, classes, strict=True)
        )
    )


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
