import contextlib
import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from mlx_entk._files import read_json, write_json
from mlx_entk.progress import Progress
from mlx_entk_cli import sweep
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


# Where the tests themselves run in the background, SIGINT would be ignored from the start.
START = (
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler);"
    "from mlx_entk_cli.main import main; main()"
)


def begin(place: Path, *arguments: object) -> "subprocess.Popen[bytes]":
    """Start a sweep and wait until its first seed has a checkpoint."""
    command = [sys.executable, "-c", START, "sweep", "--out", "s", *map(str, arguments)]
    # Not a pipe, which a child that outlives the sweep would keep open.
    with (place / "errors.txt").open("wb") as errors:
        process = subprocess.Popen(command, cwd=place, start_new_session=True, stderr=errors)
    deadline = time.monotonic() + 60
    while not list(place.glob("s/seed-0/checkpoints/000010*")) and time.monotonic() < deadline:
        time.sleep(0.01)
    return process


def test_a_sweep_that_is_interrupted_goes_on(mlx_entk: Command, tmp_path: Path) -> None:
    process = begin(tmp_path, "--seeds", "0-1", *SMALL)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(timeout=60) == 130
    errors = (tmp_path / "errors.txt").read_text()
    assert "interrupted: s keeps what is done. To continue, run: mlx-entk " in errors
    assert "Traceback" not in errors
    assert not (tmp_path / "s" / "results.json").exists()

    code, _, message = mlx_entk("sweep", "--seeds", "0-1", "--out", "s", *SMALL)

    assert code == 0, message
    assert (tmp_path / "s" / "results.json").exists()


def test_a_killed_sweep_goes_on_though_the_process_of_a_seed_is_slow_to_die(
    mlx_entk: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the sweep is killed, as by a system without memory; its child is not even told."""
    process = begin(tmp_path, "--seeds", "0", *SMALL)
    child = int((tmp_path / "s/seed-0/.lock").read_text())
    os.kill(child, signal.SIGSTOP)
    while psutil.Process(child).status() != psutil.STATUS_STOPPED:
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert not (tmp_path / "s" / "results.json").exists()
    waited: list[str] = []

    @contextlib.contextmanager
    def waking() -> Iterator[Progress]:
        def update(stage: str, done: int, total: int, note: str = "") -> None:
            if note.startswith("waiting"):
                waited.append(note.strip())
                if done == 0:
                    os.kill(child, signal.SIGCONT)

        yield update

    monkeypatch.setattr(sweep, "progress", waking)
    try:
        code, _, message = mlx_entk("sweep", "--seeds", "0", "--out", "s", *SMALL)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGCONT)

    assert code == 0, message
    assert waited == ["waiting for the process that holds the folder"] * 2
    assert ends(child)
    assert not list((tmp_path / "s").rglob(".*.tmp*"))


ORPHAN = """
import multiprocessing, os, signal, time
from mlx_entk_cli import sweep

def child(sender):
    sweep._end_with_the_sweep()
    sender.send(os.getpid())
    time.sleep(120)

if __name__ == "__main__":
    receiver, sender = multiprocessing.get_context("spawn").Pipe(duplex=False)
    multiprocessing.get_context("spawn").Process(target=child, args=(sender,), daemon=True).start()
    print(receiver.recv(), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_the_process_of_a_seed_ends_with_the_sweep(tmp_path: Path) -> None:
    (tmp_path / "orphan.py").write_text(ORPHAN)

    with subprocess.Popen(
        [sys.executable, tmp_path / "orphan.py"], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())

    assert process.returncode == -signal.SIGKILL
    assert ends(child)


def ends(number: int) -> bool:
    """Whether a process ends within some seconds; one that nobody has waited for has ended too."""
    try:
        process = psutil.Process(number)
        deadline = time.monotonic() + 30
        while process.status() != psutil.STATUS_ZOMBIE:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.01)
    except psutil.NoSuchProcess:
        pass
    return True


def test_a_file_system_without_locks_is_left_to_the_command_to_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    (tmp_path / ".lock").touch()
    monkeypatch.setattr(fcntl, "flock", refuse)
    told: list[object] = []

    sweep._wait_for_orphan(tmp_path, lambda *news: told.append(news))

    assert told == []


def test_a_seed_that_was_killed_after_its_report_is_cleaned_up(mlx_entk: Command) -> None:
    """It was killed while it wrote down how long it took."""
    assert mlx_entk("sweep", "--seeds", "3", "--out", "s", *SMALL)[0] == 0
    seed = Path("s/seed-3")
    stamp = (seed / "results.json").stat().st_mtime_ns
    provenance = read_json(seed / "provenance.json")
    provenance["sessions"][0]["wall_seconds"] = None
    write_json(seed / "provenance.json", provenance)
    left_over = seed / ".provenance.1.tmp.json"
    left_over.touch()

    assert mlx_entk("sweep", "--seeds", "3", "--out", "s", *SMALL)[0] == 0

    assert not left_over.exists()
    assert (seed / "results.json").stat().st_mtime_ns == stamp
