"""``mlx-entk tms`` and ``mlx-entk regress``, as a user calls them."""

import json
from pathlib import Path

import numpy as np
import pytest

from examples import sparse_parity
from tests.conftest import Command

SMALL = ("tms", "--n", "5", "--m", "2", "--rows", "30", "--steps", "60")


def test_a_toy_model_is_trained_shown_and_explained(mlx_entk: Command) -> None:
    code, output, _ = mlx_entk(*SMALL, "--beta", "0.5")
    (run,) = Path("runs").iterdir()

    assert code == 0
    assert run.name.startswith("tms-n5-m2-seed0-")
    for text in ("features reconstructed", "before training", "shuffled targets", "recovered"):
        assert text in output
    for name in ("spectra-flattened", "recovery", "superposition", "geometry"):
        assert (run / "figures" / f"{name}.png").stat().st_size > 0
    assert mlx_entk("show", run)[1] == output

    code, output, _ = mlx_entk("regress", run)

    assert code == 0
    assert "linearised" in output
    assert "pure kernel at initialisation" in output
    assert json.loads((run / "regression.json").read_text())["kernel"] == "full"
    drawn = {path.stem for path in (run / "figures").glob("*.png")}
    assert len(drawn) == 7
    assert (run / "report.html").read_text().count('<svg class="drawing"') == len(drawn)
    assert (run / "figures" / "regression-modes.png").stat().st_size > 0


def test_the_papers_models_and_double_descent_have_commands(mlx_entk: Command) -> None:
    paper = mlx_entk("tms", "--paper", "--rows", "6", "--steps", "20", "--out", "paper")
    descent = mlx_entk(
        "tms", "double-descent", "--n", "5", "--m", "2", "--steps", "20",
        "--rows", "3", "--rows", "20", "--out", "descent",
    )  # fmt: skip

    assert (paper[0], descent[0]) == (0, 0)
    assert "wide" in paper[1]
    assert "test loss" in descent[1]
    assert "did not train exactly one network" in mlx_entk("regress", "paper")[2]
    for figure in ("paper/figures/paper", "descent/figures/double-descent",
                   "descent/figures/geometry"):  # fmt: skip
        assert Path(f"{figure}.png").stat().st_size > 0


def test_a_users_own_model_can_be_regressed(mlx_entk: Command, tmp_path: Path) -> None:
    sparse_parity.main(tmp_path)
    with np.load("inputs.npz") as stored:
        x = stored["x"]
    np.savez("targets.npz", y=np.sin(x[:, :1]))
    np.savez("short.npz", y=np.ones((3, 1)))
    source = ("--model", "examples.sparse_parity:make_model", "--inputs", "inputs.npz")
    weights = ("--weights", "weights.safetensors")
    assert mlx_entk("kernel", *source, *weights, "--out", "own")[0] == 0

    code, output, _ = mlx_entk("regress", "own", "--targets", "targets.npz")

    assert code == 0
    assert "Kernel regression by the trace kernel: 179 training inputs, 77 held-out" in output
    assert mlx_entk("regress", "own")[2] == (
        "Error: --targets is missing: a run of `mlx-entk kernel` has no targets of its own\n"
    )
    assert "targets have shape (3, 1)" in mlx_entk("regress", "own", "--targets", "short.npz")[2]
    assert "has no array y" in mlx_entk("regress", "own", "--targets", "inputs.npz")[2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("tms", "--n", "0"), "n is 0"),
        (("tms", "--sparsity", "1"), "sparsity is 1.0"),
        (("tms", "--beta", "-1"), "betas are (-1.0,)"),
        (("tms", "--dataset", "none"), "'none' is not one of"),
        (("tms", "--rows", "0"), "rows is 0"),
        (("tms", "double-descent", "--rows", "0"), "rows are [0]"),
        (("tms", "--seed", "1", "double-descent"), "--seed has no effect before"),
        (("tms", "--paper", "--m", "3"), "--m is set by --paper"),
        (("tms", "--paper", "--beta", "0.5"), "--beta is set by --paper"),
        (("regress", "nowhere"), "nowhere is not a folder"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_exit_code_2(
    mlx_entk: Command, arguments: tuple[str, ...], message: str
) -> None:
    code, output, errors = mlx_entk(*arguments)

    assert (code, output) == (2, "")
    assert errors.startswith("Error: ")
    assert errors.count("\n") == 1
    assert message in errors
    assert not Path("runs").exists()
