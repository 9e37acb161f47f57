import pytest

from mlx_entk.plotting import modular_figures
from mlx_entk.report import CAPTIONS, tables, write_report
from mlx_entk.runs import Run
from mlx_entk.studies.mlp import STUDY, MLPConfig, run_mlp


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    config = MLPConfig(p=5, width=16, epochs=40)
    run = Run.create(tmp_path_factory.mktemp("report") / "<run>", STUDY, config.as_json())
    with run.session():
        run_mlp(config, run)
        for name, figure in modular_figures(run):
            run.save_figure(name, figure)
        write_report(run)
    return run


def test_the_report_holds_every_figure_and_table(run: Run) -> None:
    page = (run.path / "report.html").read_text(encoding="utf-8")

    assert page.count("<img ") == len(run.figures) == 7
    assert {path.stem for path in run.figures} <= CAPTIONS.keys()
    for table in tables(run.results):
        assert f"<h2>{table.title}</h2>" in page
    assert "git revision" in page
    assert "src=" not in page.replace('src="data:image/png;base64,', "")  # one file, no links


def test_names_are_escaped(run: Run) -> None:
    page = (run.path / "report.html").read_text(encoding="utf-8")

    assert "&lt;run&gt;" in page
    assert "<run>" not in page


def test_the_overlap_table_shows_the_rows_of_the_results(run: Run) -> None:
    overlaps = tables(run.results)[-1]
    row = next(
        row
        for row in run.results["alignment"]
        if (row["kernel"], row["modes"], row["family"]) == ("full", [1, 8], "sum")
    )

    at = next(i for i, cells in enumerate(overlaps.rows) if cells[:2] == ("full", "1–8"))
    shown, chance = overlaps.rows[at : at + 2]

    column = overlaps.columns.index("sum")
    assert shown[column] == f"{row['overlap']:.2f}"
    assert chance[column] == f"{row['chance']:.2f}"
