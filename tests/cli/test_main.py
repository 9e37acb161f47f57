import json
from pathlib import Path

import pytest

from tests.conftest import Command, Finished

SMALL = ("modular", "mlp", "--p", "5", "--width", "16", "--epochs", "40")


def test_a_run_can_be_made_listed_and_shown(mlx_entk: Command, tmp_path: Path) -> None:
    code, output, errors = mlx_entk(*SMALL)
    (run,) = Path("runs").iterdir()

    assert code == 0
    assert "training: 40 of 40" in errors
    for table in ("Run", "Cliffs of the eNTK", "Overlap"):
        assert table in output
    for file in ("results.json", "spectra.npz", "report.html", "figures/grokking.png"):
        assert (run / file).stat().st_size > 0

    assert mlx_entk("runs")[1].count(run.name) == 1
    assert mlx_entk("show", str(run))[1] == output
    assert mlx_entk(*SMALL) == (0, output, "")  # nothing is left to do


def test_the_transformer_study_shows_where_families_live(mlx_entk: Command) -> None:
    settings = ("--p", "5", "--d-model", "8", "--d-mlp", "16", "--heads", "2", "--epochs", "60")
    code, output, errors = mlx_entk("modular", "transformer", *settings, "--out", "run")

    assert code == 0, errors
    for title in ("Overlap of the sum-of-logits kernels", "When each kernel turned", "grokked"):
        assert title in output
    for figure in ("key-frequencies", "localisation-trace", "first-to-move"):
        assert Path(f"run/figures/{figure}.png").stat().st_size > 0
    report = Path("run/report.html").read_text(encoding="utf-8")
    assert report.count("<figure id=") == len(list(Path("run/figures").glob("*.png")))
    assert mlx_entk("show", "run")[1] == output


def test_runs_of_other_settings_get_other_folders(mlx_entk: Command) -> None:
    folders = set()
    for settings in ((), ("--seed", "1"), ("--embedding", "cyclic")):
        _, output, _ = mlx_entk(*SMALL, *settings, "--dry-run", "--json")
        folders.add(json.loads(output)["run"])

    assert len(folders) == 3
    assert all(folder.startswith("runs/modular-mlp-p5-seed") for folder in folders)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("modular", "mlp", "--p", "2"), 2, "p is 2: Fourier families need an odd p"),
        (("modular", "mlp", "--p", "28"), 2, "p is 28: Fourier families need an odd p"),
        (("modular", "mlp", "--p", "many"), 2, "'many' is not a valid integer"),
        (("modular", "mlp", "--train-fraction", "0"), 2, "train fraction is 0.0: it must"),
        (("modular", "mlp", "--train-fraction", "1"), 2, "train fraction is 1.0: it must"),
        (("modular", "mlp", "--train-fraction", "nan"), 2, "train fraction is nan"),
        (("modular", "mlp", "--train-fraction", "0.0001"), 2, "leaves nothing to train on"),
        (("modular", "mlp", "--train-fraction", "0.9999"), 2, "leaves nothing to test on"),
        (("modular", "mlp", "--width", "0"), 2, "width is 0: the network needs"),
        (("modular", "mlp", "--epochs", "10"), 2, "epochs is 10: following the kernel"),
        (("modular", "mlp", "--seed", "-1"), 2, "seed is -1"),
        (("modular", "mlp", "--learning-rate", "0"), 2, "learning rate is 0.0"),
        (("modular", "mlp", "--learning-rate", "nan"), 2, "learning rate is nan"),
        (("modular", "mlp", "--weight-decay", "-1"), 2, "weight decay is -1.0"),
        (("modular", "mlp", "--embedding", "spherical"), 2, "'spherical' is not one of"),
        ((*SMALL, "--learning-rate", "1e38", "--out", "nan"), 1, "try a smaller learning rate"),
        (("modular", "mlp", "--out", "taken/file"), 2, "taken/file"),
        (("modular", "mlp", "--out", "taken"), 2, "taken is not a run folder (it holds file)"),
        (("modular", "transformer", "--heads", "3"), 2, "d_model is 64, which 3 heads cannot"),
        (("modular", "transformer", "--hold", "-1"), 2, "hold is -1"),
        (("runs", "nowhere"), 2, "nowhere does not exist"),
        (("show", "nowhere"), 2, "Error: nowhere is not a folder: `mlx-entk runs` lists"),
        (("show", "taken"), 2, "Error: taken is not a run folder: it has no config.json"),
        (("train",), 2, "No such command 'train'"),
        (("modular", "mlp", "--fast"), 2, "No such option"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_an_exit_code(
    mlx_entk: Command, tmp_path: Path, arguments: tuple[str, ...], code: int, message: str
) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").write_text("precious")

    exit_code, output, errors = mlx_entk(*arguments)

    assert (exit_code, output) == (code, "")
    assert errors.startswith("Error: ")
    assert errors.count("\n") == 1
    assert message in errors
    assert [path.name for path in (tmp_path / "taken").iterdir()] == ["file"]
    assert (tmp_path / "taken" / "file").read_text() == "precious"


def test_a_folder_of_another_configuration_is_not_touched(
    mlx_entk: Command, finished: Finished, tmp_path: Path
) -> None:
    finished("run", *SMALL)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    code, _, errors = mlx_entk(*SMALL, "--seed", "1", "--out", "run")

    assert code == 2
    assert "another configuration (seed 0 there, 1 here): choose another --out" in errors
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_damaged_checkpoint_is_said_and_nothing_overwritten(
    mlx_entk: Command, finished: Finished, tmp_path: Path
) -> None:
    finished("run", *SMALL)
    (tmp_path / "run" / "results.json").unlink()
    checkpoint = tmp_path / "run" / "checkpoints" / "000040.safetensors"
    truncated = checkpoint.read_bytes()[:-9]
    checkpoint.write_bytes(truncated)

    code, _, errors = mlx_entk(*SMALL, "--out", "run")

    assert code == 2
    assert "000040.safetensors is damaged: delete it and the later ones" in errors
    assert checkpoint.read_bytes() == truncated

    checkpoint.unlink()
    assert mlx_entk(*SMALL, "--out", "run")[0] == 0


def test_unfinished_runs_are_listed_as_such(
    mlx_entk: Command, finished: Finished, tmp_path: Path
) -> None:
    finished("runs/it", *SMALL)
    (tmp_path / "runs" / "it" / "results.json").unlink()

    listing = mlx_entk("runs")[1]
    assert "unfinished" in listing
    assert "finished, test accuracy" not in listing
    code, _, errors = mlx_entk("show", "runs/it")
    assert (code, "is unfinished" in errors) == (2, True)


def test_results_have_the_promised_shape(
    mlx_entk: Command, finished: Finished, tmp_path: Path
) -> None:
    finished("run", *SMALL)
    results = json.loads((tmp_path / "run" / "results.json").read_text())

    assert results["accuracy"].keys() == {"train", "test"}
    assert results["cliffs"].keys() == {"full", "hidden.weight", "readout.weight"}
    row = results["alignment"][0]
    assert {"kernel", "modes", "family", "overlap", "dimension", "percent", "chance"} <= row.keys()
    groups = {(row["kernel"], *row["modes"]) for row in results["alignment"]}
    for kernel in results["cliffs"]:
        assert {(kernel, 1, 8), (kernel, 9, 16)} <= groups
    assert {"epochs", "series", "onset", "test_accuracy"} <= results["grokking"].keys()


def test_help_names_every_command(mlx_entk: Command) -> None:
    code, output, _ = mlx_entk("--help")

    assert code == 0
    for command in ("doctor", "modular", "runs", "show"):
        assert f"  {command} " in output


def test_the_doctor_reports_versions_device_and_speed(mlx_entk: Command) -> None:
    _, output, _ = mlx_entk("doctor")

    for subject in ("Python", "mlx", "MLX device", "matrix product", "extra torch"):
        assert subject in output
    assert "GFLOP/s" in output
