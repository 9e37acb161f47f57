"""``mlx-entk intervene``, as a user calls it."""

import json
from pathlib import Path

import numpy as np
import pytest

from examples import sparse_parity
from tests.conftest import Command, Finished

TOY = ("tms", "--n", "8", "--m", "4", "--rows", "60", "--steps", "400")
MLP = ("modular", "mlp", "--p", "5", "--width", "16", "--epochs", "40")


def test_an_intervention_is_stored_shown_and_reported(
    mlx_entk: Command, finished: Finished
) -> None:
    finished("toy", *TOY)
    code, output, errors = mlx_entk("intervene", "toy")
    assert code == 0, errors
    for text in (
        "Intervention: undo",
        "trained network",
        "random, equal norm",
        "Undoing what was learned",
    ):
        assert text in output
    assert json.loads(Path("toy/intervention.json").read_text())["by"] == "undo"
    page = Path("toy/report.html").read_text()
    assert "Intervention: undo" in page
    drawn = {path.stem for path in Path("toy/figures").glob("*.png")}
    assert {"intervention-effects", "intervention-dose", "intervention-linear"} <= drawn
    assert page.count('<svg class="drawing"') == len(drawn)
    assert mlx_entk("report", "toy", "-q")[0] == 0

    code, output, _ = mlx_entk("intervene", "toy", "--by", "step", "--modes", "0-1", "--json")
    assert code == 0
    found = json.loads(output)["intervention"]
    assert found["by"] == "step"


def test_an_intervention_is_the_same_for_a_seed(mlx_entk: Command, finished: Finished) -> None:
    finished("toy", *TOY)
    stored = []
    for seed in ("0", "0", "1"):
        assert mlx_entk("intervene", "toy", "-q", "--seed", seed)[0] == 0
        stored.append(Path("toy/intervention.json").read_text())
    assert stored[0] == stored[1] != stored[2]


def test_bad_requests_get_one_line(mlx_entk: Command, finished: Finished) -> None:
    finished("mlp", *MLP)
    for options, line in (
        (("--modes", "3-9999"), "modes 3–9999: above rounding the kernel of the run has"),
        (("--modes", "a-b"), "--modes a-b: write FIRST-LAST,…, such as 1-8,9-36"),
        (("--parameters", "frozen"), "parameters has frozen: the model has hidden.weight"),
        (("--features", "f.npz"), "--features: a modular-mlp run has its own"),
    ):
        np.savez("f.npz", a=np.ones((25, 1)))
        code, output, errors = mlx_entk("intervene", "mlp", *options)
        assert code == 2
        assert output == ""
        assert line in errors
        assert errors.count("\n") == 1
        assert not Path("mlp/intervention.json").exists()
    assert "nowhere is not a folder" in mlx_entk("intervene", "nowhere")[2]
    for path in Path("mlp/checkpoints").glob("*"):
        path.unlink()
    for command in ("intervene", "regress", "export", "verify"):
        code, _, errors = mlx_entk(command, "mlp")
        assert code == 2
        assert "has no checkpoints, which hold the weights" in errors
    finished("paper", "tms", "--paper", "--rows", "6", "--steps", "20")
    assert "did not train exactly one network" in mlx_entk("intervene", "paper")[2]


@pytest.fixture
def parity(mlx_entk: Command, tmp_path: Path) -> tuple[str, ...]:
    """A kernel run of a user's own model, and the options of its factory."""
    sparse_parity.main(tmp_path)
    code, _, errors = mlx_entk(
        "kernel", "--model", "examples.sparse_parity:make_model", "--weights",
        "weights.safetensors", "--inputs", "inputs.npz", "--features", "features.npz",
        "--out", "own", "-q",
    )  # fmt: skip
    assert code == 0, errors
    return ("intervene", "own")


def test_a_users_own_model_has_interventions(mlx_entk: Command, parity: tuple[str, ...]) -> None:
    code, output, errors = mlx_entk(*parity, "--features", "features.npz")
    assert code == 0, errors
    assert "Intervention: project" in output
    assert "R² with the trained model" in output
    with np.load("inputs.npz") as stored:
        count = len(stored["x"])
    np.savez("y.npz", y=np.zeros(count, dtype=int))
    code, output, errors = mlx_entk(
        *parity, "--initial", "weights.safetensors", "--targets", "y.npz"
    )
    assert code == 2
    assert "nothing was learned: the weights are those before training" in errors
    np.savez("real.npz", y=np.ones((count, 1)))
    code, output, errors = mlx_entk(*parity, "--targets", "real.npz", "--json")
    assert code == 0, errors
    trained = json.loads(output)["intervention"]["before"]
    assert next(iter(trained)) == "R² with the trained model"  # a loss would read the other way
    np.savez("short.npz", a=np.ones((3, 1)))
    assert "are over 3 inputs" in mlx_entk(*parity, "--features", "short.npz")[2]
    assert "weights before training are not known" in mlx_entk(*parity, "--by", "undo")[2]
    np.savez("initial.npz", other=np.ones(3))
    errors = mlx_entk(*parity, "--initial", "initial.npz")[2]
    assert "the parameters before training do not have" in errors
