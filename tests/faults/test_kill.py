"""A run killed at any write, and started again, ends with the results of an unbroken one."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.kill import VICTIMS, Victim, differences, kill_at_random

SETTINGS = ["--p", "5", "--width", "16", "--epochs", "60"]

# Kills the process instead of renaming the COUNTth file whose name holds NAME: as hard as it
# gets, with the temporary file written and nothing cleaned up.
DRIVER = """
import os, pathlib, signal, sys
name, count, *arguments = sys.argv[1:]
rename, left = pathlib.Path.replace, int(count)
def replace(self, target):
    global left
    left -= name in str(target)
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return rename(self, target)
pathlib.Path.replace = replace
sys.argv = ["mlx-entk", *arguments]
from mlx_entk_cli.main import main
main()
"""


def run(out: Path, kill_at: tuple[str, int] = ("", -1)) -> subprocess.CompletedProcess[str]:
    name, count = kill_at
    command = [sys.executable, "-c", DRIVER, name or "/", str(count)]
    arguments = ["modular", "mlp", *SETTINGS, "--out", str(out)]
    return subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("unbroken") / "run"
    done = run(out)
    assert done.returncode == 0, done.stderr
    return out


# Where a run is killed in every test run; the slow one kills it at every write.
PLACES = [("config.json", 1), ("000030.safetensors", 1), ("results.json", 1), ("figures", 3)]


@pytest.mark.parametrize("kill_at", PLACES, ids=lambda value: f"{value[0]}-{value[1]}")
def test_a_killed_run_continues_to_the_same_results(
    kill_at: tuple[str, int], unbroken: Path, tmp_path: Path
) -> None:
    check_killed_at(kill_at, unbroken, tmp_path / "run")


@pytest.mark.slow
def test_a_run_killed_at_any_of_its_writes_continues_to_the_same_results(
    unbroken: Path, tmp_path: Path
) -> None:
    writes = 0
    while True:
        out = tmp_path / f"run-{writes}"
        if not check_killed_at(("/", writes + 1), unbroken, out):
            break
        writes += 1
    assert writes >= 25  # config, provenance twice, 7 checkpoints, results, 14 figures, report


def check_killed_at(kill_at: tuple[str, int], unbroken: Path, out: Path) -> bool:
    """Kill a run at a write, and go on with it; false where it has not that many."""
    killed = run(out, kill_at)
    if killed.returncode == 0:
        return False
    assert killed.returncode == -signal.SIGKILL

    resumed = run(out)

    assert resumed.returncode == 0, resumed.stderr
    for name in ("results.json", "metrics.jsonl"):
        assert (out / name).read_text() == (unbroken / name).read_text()
    files = {path.relative_to(out) for path in out.rglob("*") if path.is_file()}
    assert files == {path.relative_to(unbroken) for path in unbroken.rglob("*") if path.is_file()}
    return True


def test_a_run_killed_while_it_trains_continues_to_the_same_results(
    unbroken: Path, tmp_path: Path
) -> None:
    """Killed from outside, at whatever moment that turns out to be."""
    out = tmp_path / "run"
    command = [sys.executable, "-c", DRIVER, "/", "-1", "modular", "mlp", *SETTINGS]
    with subprocess.Popen([*command, "--out", str(out)], stderr=subprocess.DEVNULL) as process:
        while process.poll() is None and not (out / "checkpoints" / "000020.safetensors").exists():
            pass
        os.kill(process.pid, signal.SIGKILL)

    assert run(out).returncode == 0
    assert (out / "results.json").read_text() == (unbroken / "results.json").read_text()
    assert len(json.loads((out / "provenance.json").read_text())["sessions"]) == 2


def test_a_hundred_kills_are_planned() -> None:
    assert sum(victim.share for victim in VICTIMS) >= 100


def test_what_differs_after_kills_is_seen_and_times_are_not(unbroken: Path, tmp_path: Path) -> None:
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    results = json.loads((unbroken / "results.json").read_text())
    for folder, graph in ((killed, "one"), (whole, "another")):
        shutil.copytree(unbroken, folder)
        timed = results | {"sha256": graph, "graph": graph}
        (folder / "results.json").write_text(json.dumps(timed))
    (killed / "provenance.json").write_text("{}")
    clean = differences(killed, whole)
    with (killed / "checkpoints" / "000030.safetensors").open("ab") as checkpoint:
        checkpoint.write(b"0")
    results["accuracy"]["test"] += 1e-9
    (killed / "results.json").write_text(json.dumps(results | {"graph": "one"}))
    (killed / "report.html").unlink()
    (killed / ".config.1.tmp.json").touch()

    assert clean == []
    assert differences(killed, whole) == [
        ".config.1.tmp.json is left over",
        "report.html is missing",
        "checkpoints/000030.safetensors differs",
        "results.json differs",
    ]


@pytest.mark.slow
@pytest.mark.parametrize("victim", VICTIMS, ids=[victim.name for victim in VICTIMS])
def test_a_command_killed_at_random_moments_ends_as_if_it_had_not_been(
    victim: Victim, tmp_path: Path
) -> None:
    tally = kill_at_random(victim, victim.share, seed=0, place=tmp_path)

    assert tally.differences == []
    assert tally.kills == victim.share
