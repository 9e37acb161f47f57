"""What a report says; how it behaves in a browser is in test_report_in_browser.py."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from markupsafe import escape

from mlx_entk.controls import ControlAlignment, Controls
from mlx_entk.plotting import Drawing
from mlx_entk.plotting.style import new_figure, styled
from mlx_entk.report.svg import inline_svg
from mlx_entk.runs import Run
from mlx_entk.studies.compare import compare, run_names
from mlx_entk.studies.kernel.study import KernelAlignment
from mlx_entk.studies.modular_mlp import STUDY, MLPConfig
from mlx_entk.studies.reporting import figures, summary, tables, write_comparison
from mlx_entk.studies.running import run_study
from mlx_entk.studies.words import alignment_status


def make_run(path: Path, seed: int = 0) -> Run:
    return run_study(STUDY, MLPConfig(p=5, width=16, epochs=40, seed=seed), path)


def drawing(run: Run, name: str) -> Drawing:
    (figure,) = [figure for figure in figures(run) if figure.name == name]
    return figure.drawing


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return make_run(tmp_path_factory.mktemp("report") / "<run>")


def page_of(run: Run) -> str:
    return (run.path / "report.html").read_text(encoding="utf-8")


def test_the_report_holds_every_figure_and_table(run: Run) -> None:
    page = page_of(run)

    names = [path.stem for path in run.figures]
    assert len(names) == page.count('<svg class="drawing"') == 8
    assert all(f'<figure id="{name}">' in page for name in names)
    for figure in figures(run):
        assert escape(figure.caption) in page
    for table in tables(run):
        assert f"{table.title}</h" in page
    assert escape(summary(run)) in page
    assert escape(run.sessions[0].command) in page
    assert "git revision" in page


def test_the_report_needs_no_network(run: Run) -> None:
    page = page_of(run)

    addresses = re.findall(r'(?:src|href)="([^"]*)', page)
    assert {a for a in addresses if not a.startswith(("data:image/", "#"))} <= {"modes.html"}
    assert "default-src 'none'" in page
    assert not re.search(r"@import|<link|url\((?!#)", page)


def test_names_are_escaped_and_identifiers_unique(run: Run) -> None:
    page = page_of(run)

    assert "&lt;run&gt;" in page
    assert "<run>" not in page
    identifiers = re.findall(r'\sid="([^"]+)"', page)
    assert len(identifiers) == len(set(identifiers))


def test_hints_say_mode_eigenvalue_family_and_frequency(run: Run) -> None:
    _, _, hints = inline_svg(drawing(run, "spectra"), "spectra", "Spectra")

    texts = hints["panels"][0]["points"]["texts"]
    values, shares = run.arrays["values/full"], run.arrays["shares/full"]
    best = run.results["mode_features"][shares[1].argmax()]
    assert texts[1] == f"mode 1: eigenvalue {values[1]:.3g}; {shares[1].max():.0%} of it is {best}"
    assert best in {f"{family}, k = {k}" for family in ("n", "m") for k in (1, 2)}


def test_frames_are_the_spectra_of_every_checkpoint(run: Run) -> None:
    _, _, hints = inline_svg(drawing(run, "spectra-over-training"), "s", "Spectra")

    assert len(hints["labels"]) == len(run.checkpoints) == 5
    assert hints["labels"][-1].startswith("epoch 40: test accuracy")
    frames = hints["panels"][0]["frames"]
    stored = run.arrays["values over training/full"]
    np.testing.assert_allclose(frames["values"], stored[:, : len(frames["x"])], rtol=6e-3)


def test_hints_lie_where_the_marks_are() -> None:
    """On linear and logarithmic axes, of lines by themselves: in SVG points, y downwards."""

    @styled
    def draw():  # type: ignore[no-untyped-def]
        figure, (axis,) = new_figure(4, 3)
        axis.set_position((0.25, 0.25, 0.5, 0.5))
        figure.set_layout_engine("none")
        axis.set(xlim=(0, 10), ylim=(1, 100), yscale="log", xlabel="step")
        axis.plot([0, 5, 10], [1, 10, 100], label="loss")
        axis.axhline(3)
        return figure

    _, _, hints = inline_svg(draw(), "f", "f")

    (panel,) = hints["panels"]
    width, height = 4 * 72, 3 * 72
    assert panel["box"] == [width / 4, height / 4, width * 3 / 4, height * 3 / 4]
    assert panel["points"]["x"] == [width / 4, width / 2, width * 3 / 4]
    assert panel["points"]["y"] == [height * 3 / 4, height / 2, height / 4]
    assert panel["points"]["texts"][1] == "loss: step 5, 10"


def test_the_overlap_table_shows_the_rows_of_the_results(run: Run) -> None:
    overlaps = tables(run)[-1]
    wanted = ("full", (1, 8), "sum")
    alignment = STUDY.results_of(run).alignment
    (row,) = [r for r in alignment if (r.kernel, r.modes, r.family) == wanted]

    at = next(i for i, cells in enumerate(overlaps.rows) if cells[:2] == ("whole", "1–8"))
    shown, chance = overlaps.rows[at : at + 2]

    column = overlaps.columns.index("sum")
    assert shown[column] == f"{row.overlap:.2f}"
    assert chance[column] == f"{row.chance:.2f}"
    assert overlaps.is_numeric(column)


def test_a_comparison_shows_what_differs_and_both_runs_figures(run: Run, tmp_path: Path) -> None:
    other = make_run(tmp_path / "other", seed=1)
    comparison = compare([run, other])

    write_comparison(comparison, [run, other], tmp_path / "compare.html")

    assert comparison.settings == {"seed": [0, 1]}
    accuracies = [100 * STUDY.results_of(r).accuracy.test for r in (run, other)]
    assert comparison.headline["test accuracy"] == accuracies
    assert comparison.units["test accuracy"] == "%"
    assert comparison.units["steepest overlap"] == "epoch"
    page = (tmp_path / "compare.html").read_text(encoding="utf-8")
    assert page.count('<svg class="drawing"') == 2 * len(run.figures)
    hints = re.findall(r'<script type="application/json">(.*?)</script>', page, re.DOTALL)
    assert all(json.loads(text)["panels"] for text in hints)


def aligned(percent: float, initial: float | None) -> KernelAlignment:
    """Four modes and a family of four features, of which chance gives 25 ± 2.5 %."""
    return KernelAlignment(
        kernel="full", modes=(1, 4), family="n", overlap=percent / 25, percent=percent,
        chance=1.0, chance_deviation=0.1, dimension=4, angles=(0, 0, 0),
        shuffled=None, shuffled_deviation=None,
        initial=None if initial is None else initial / 25,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("percent", "initial", "control", "said"),
    [
        (90, 30, 60, {"learned: +60 points since before training": "yes",
                      "beyond activations and outputs: +30 points": "yes"}),
        (90, 88, 95, {"before training as well": "no", "outputs alone: as much or more": "no"}),
        (90, None, None, {"no before-training control": "open",
                          "not compared with activations": "open"}),
        (28, 1, 1, {"not above chance": "no"}),
    ],
)  # fmt: skip
def test_status_says_no_more_than_the_figures_support(
    percent: float, initial: float | None, control: float | None, said: dict[str, str]
) -> None:
    """Above chance alone, by 2 standard deviations, is training or the kernel said to add."""
    rows = [] if control is None else [
        ControlAlignment("outputs", "raw", 4, (0, 3), "n", control / 25, 4, control)
    ]  # fmt: skip

    statuses = alignment_status(aligned(percent, initial), Controls("", rows, [], []))

    assert {status.text: status.tone for status in statuses} == said


@pytest.mark.parametrize(
    ("folders", "names"),
    [
        (["runs/a", "runs/b"], ["a", "b"]),
        (["x/run", "y/run"], ["x/run", "y/run"]),
        (["run", "run"], ["1: run", "2: run"]),
    ],
)
def test_compared_runs_have_names_that_tell_them_apart(
    folders: list[str], names: list[str]
) -> None:
    assert run_names(folders) == names
