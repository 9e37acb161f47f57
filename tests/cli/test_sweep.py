import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import Command

SMALL = ("modular", "mlp", "--p", "5", "--width", "16", "--epochs", "40")


def test_every_seed_is_run_and_the_spread_is_that_of_their_figures(mlx_entk: Command) -> None:
    code, output, errors = mlx_entk("sweep", "--seeds", "0-1", "--jobs", "2", "--out", "s", *SMALL)

    assert code == 0, errors
    assert "seeds: 2 of 2" in errors
    assert "Spread over the seeds" in output
    results = json.loads(Path("s/results.json").read_text())
    accuracy = []
    for row in results["seeds"]:
        of_seed = json.loads(Path(f"s/seed-{row['seed']}/results.json").read_text())
        assert of_seed["config"]["seed"] == row["seed"]
        assert row["figures"]["test accuracy"] == 100 * of_seed["accuracy"]["test"]
        accuracy.append(row["figures"]["test accuracy"])
    spread = results["spread"]["test accuracy"]
    assert spread["mean"] == pytest.approx(np.mean(accuracy))
    assert spread["deviation"] == pytest.approx(np.std(accuracy, ddof=1))
    assert Path("s/figures/sweep.png").stat().st_size > 0
    assert mlx_entk("show", "s")[0] == 0
    assert mlx_entk("runs", ".")[1].count("sweep") == 1


def test_seeds_can_be_added_and_finished_ones_are_left_alone(mlx_entk: Command) -> None:
    assert mlx_entk("sweep", "--seeds", "3", "--out", "s", *SMALL)[0] == 0
    first = Path("s/seed-3/results.json").stat().st_mtime_ns

    code, _, errors = mlx_entk("sweep", "--seeds", "3,4", "--out", "s", *SMALL)

    assert code == 0, errors
    assert Path("s/seed-3/results.json").stat().st_mtime_ns == first
    assert [row["seed"] for row in json.loads(Path("s/results.json").read_text())["seeds"]] == [
        3,
        4,
    ]
    provenance = json.loads(Path("s/seed-4/provenance.json").read_text())
    assert provenance["sessions"][0]["command"] == " ".join(
        ["mlx-entk", *SMALL, "--seed", "4", "--out", "s/seed-4"]
    )


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--seeds", "one", *SMALL), 2, "'one' is not a list of seeds"),
        (("--seeds", "3-1", *SMALL), 2, "'3-1' names no seed"),
        (("--jobs", "0", *SMALL), 2, "0 is not in the range"),
        ((*SMALL, "--seed", "1"), 2, "--seed is set by the sweep"),
        ((*SMALL, "--out=x"), 2, "--out is set by the sweep"),
        ((), 2, "Missing argument"),
        (("--seeds", "0", "modular", "rnn"), 2, "seed 0: No such command 'rnn'"),
        (("--seeds", "0", "modular", "mlp", "--p", "4"), 2, "seed 0: p is 4"),
    ],
)
def test_bad_input_is_one_line(
    mlx_entk: Command, arguments: tuple[str, ...], code: int, message: str
) -> None:
    found, _, errors = mlx_entk("sweep", *arguments)

    assert found == code
    assert message in errors
    assert len(errors.splitlines()) == 1


@pytest.mark.parametrize("stop", [signal.SIGKILL, signal.SIGINT])
def test_a_sweep_that_is_stopped_goes_on(
    mlx_entk: Command, tmp_path: Path, stop: signal.Signals
) -> None:
    # Where the tests themselves run in the background, SIGINT would be ignored from the start.
    start = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler);"
        "from mlx_entk_cli.main import main; main()"
    )
    arguments = ("sweep", "--seeds", "0-1", "--out", "s", *SMALL)
    command = [sys.executable, "-c", start, *arguments]
    process = subprocess.Popen(
        command, cwd=tmp_path, start_new_session=True, stderr=subprocess.PIPE
    )
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("s/seed-0/checkpoints/000010*")) and time.monotonic() < deadline:
        time.sleep(0.01)
    os.killpg(process.pid, stop)
    _, errors = process.communicate(timeout=60)
    assert not (tmp_path / "s" / "results.json").exists()
    if stop is signal.SIGINT:
        assert process.returncode == 130
        assert b"interrupted: s keeps what is done. To continue, run: mlx-entk " in errors
        assert b"Traceback" not in errors

    code, _, message = mlx_entk("sweep", "--seeds", "0-1", "--out", "s", *SMALL)

    assert code == 0, message
    assert (tmp_path / "s" / "results.json").exists()
