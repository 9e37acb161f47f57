"""A study of another package: one file and one line, and every command knows it.

The study is that of docs/extending.md, as it stands there.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs" / "extending.md"


def block(language: str, holding: str) -> str:
    """The code block of the page that holds some text."""
    blocks = re.findall(rf"```{language}\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    (found,) = [text for text in blocks if holding in text]
    return str(found)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder whose ``site`` has the study installed as pip would."""
    here = tmp_path_factory.mktemp("own")
    metadata = here / "site" / "sine_study-1.0.dist-info"
    metadata.mkdir(parents=True)
    (here / "site" / "sine_study.py").write_text(block("python", "STUDY = Study("))
    line = block("toml", "sine_study:STUDY").splitlines()[1].replace('"', "")
    (metadata / "entry_points.txt").write_text(f"[mlx_entk.studies]\n{line}\n")
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: sine-study\nVersion: 1.0\n")
    return here


def mlx_entk(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", "from mlx_entk_cli.main import main; main()", *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(folder / "site")},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def run(folder: Path) -> Path:
    done = mlx_entk(folder, "sine", "--width", "8", "--steps", "30", "--out", "run")
    assert done.returncode == 0, done.stderr
    assert "effective rank" in done.stdout
    return folder / "run"


def test_its_settings_are_options(folder: Path) -> None:
    shown = mlx_entk(folder, "sine", "--help").stdout

    assert "Train an MLP on a sine." in shown
    assert re.search(r"--width INTEGER\s+Hidden units\.\s+\[default: 32\]", shown)
    assert "--dry-run" not in shown  # it has no estimate


def test_its_run_has_results_figures_and_a_report(folder: Path, run: Path) -> None:
    results = json.loads((run / "results.json").read_text())
    page = (run / "report.html").read_text()

    assert results["study"] == "sine"
    assert results["config"] == {"width": 8, "steps": 30, "seed": 0}
    assert results["effective_rank"] > 1
    assert (run / "figures" / "spectrum.png").exists()
    assert "How fast the eigenvalues of the kernel fall." in page
    assert "A sine: run" in page
    assert "finished, loss" in mlx_entk(folder, "runs", ".").stdout


def test_it_is_swept_over_seeds(folder: Path) -> None:
    done = mlx_entk(
        folder, "sweep", "--seeds", "0-1", "--jobs", "2", "--out", "sweep", "sine", "--width", "4",
        "--steps", "20",
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    results = json.loads((folder / "sweep" / "results.json").read_text())
    assert [row["seed"] for row in results["seeds"]] == [0, 1]
    assert results["spread"]["loss"]["count"] == 2


@pytest.mark.parametrize(
    ("arguments", "written"),
    [
        (("report", "run"), "report.html"),
        (("regress", "run"), "regression.json"),
        (("export", "run", "--what", "entk"), "onnx/entk-trace.onnx"),
        (("verify", "run", "--against", "onnxruntime"), "verification.json"),
        (("compare", "run", "run", "--out", "run/compare.html"), "compare.html"),
    ],
)
def test_every_command_for_runs_takes_it(
    arguments: tuple[str, ...], written: str, folder: Path, run: Path
) -> None:
    done = mlx_entk(folder, *arguments)

    assert done.returncode == 0, done.stderr
    assert (run / written).exists()


def test_a_run_of_a_study_that_is_missing_is_refused_in_one_line(folder: Path, run: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from mlx_entk_cli.main import main; main()", "show", "run"],
        cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert done.returncode == 2
    assert "a run of sine, a study that is not installed" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_study_that_cannot_be_imported_leaves_the_others(folder: Path) -> None:
    metadata = folder / "broken" / "broken-1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "entry_points.txt").write_text("[mlx_entk.studies]\nbroken = nowhere:STUDY\n")
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")

    done = subprocess.run(
        [sys.executable, "-c", "from mlx_entk_cli.main import main; main()", "tms", "--help"],
        cwd=folder, env=os.environ | {"PYTHONPATH": str(folder / "broken")},
        capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert done.returncode == 0
    assert "the study broken cannot be imported: No module named 'nowhere'" in done.stderr
