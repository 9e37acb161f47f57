"""Full disks, folders that cannot be written, folders that two processes want, odd names."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import datetime, tzinfo
from pathlib import Path

import numpy as np
import pytest

from mlx_entk import _provenance as provenance
from tests.conftest import Command

SMALL = ("modular", "mlp", "--p", "3", "--width", "8", "--epochs", "40")
ROOT = os.geteuid() == 0
PROGRAM = str(Path(sys.executable).with_name("mlx-entk"))

Done = subprocess.CompletedProcess[str]


def mlx_entk_process(*arguments: object, before: Callable[[], None] | None = None) -> Done:
    """Run a command in a process of its own, prepared by a function there."""
    command = [PROGRAM, *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, preexec_fn=before, timeout=300
    )


def one_error(done: Done) -> str:
    """The message of a command that failed as it should."""
    assert done.returncode in (1, 2), done.stderr
    assert "Traceback" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    assert len(lines) == 1
    assert done.stderr.splitlines()[-1] == lines[0]
    return lines[0]


def whole_files(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*") if path.is_file()}


# Full disks


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Mounts a file system of some kilobytes, or gives the mounted one another size."""
    place = tmp_path / "disk"
    place.mkdir()

    def mount(kilobytes: int) -> Path:
        options = f"size={kilobytes}k" + (",remount" if os.path.ismount(place) else "")
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", place], check=True)
        return place

    yield mount
    if os.path.ismount(place):
        subprocess.run(["umount", "-l", place], check=True)


def check_full_at(mount: Callable[[int], Path], kilobytes: int, command: tuple[str, ...]) -> bool:
    """Fill a disk, say so, enlarge it, go on; false where the disk was large enough."""
    disk = mount(kilobytes)
    done = mlx_entk_process(*command, "--out", disk / "run")
    if done.returncode == 0:
        return False
    message = one_error(done)
    assert "No space left" in message or "Unable to write" in message
    assert not [name for name in whole_files(disk) if ".tmp" in name]
    mount(100_000)
    again = mlx_entk_process(*command, "--out", disk / "run")
    assert again.returncode == 0, again.stderr
    return True


needs_root = pytest.mark.skipif(
    not ROOT or sys.platform != "linux", reason="only root on Linux can mount a small disk"
)


@needs_root
@pytest.mark.parametrize("kilobytes", [pytest.param(60, marks=pytest.mark.slow), 400])
def test_a_full_disk_is_said_and_the_run_goes_on_when_there_is_room(
    small_disk: Callable[[int], Path], kilobytes: int
) -> None:
    assert check_full_at(small_disk, kilobytes, SMALL)


@needs_root
@pytest.mark.slow
def test_disks_of_every_size_are_said_to_be_full(small_disk: Callable[[int], Path]) -> None:
    sizes = [*range(4, 64, 8), *range(64, 1600, 128)]
    full = 0
    for size in sizes:
        full += check_full_at(small_disk, size, SMALL)
        subprocess.run(["umount", small_disk(100_000)], check=True)
    assert full >= 10


@needs_root
def test_a_kernel_that_the_disk_has_no_room_for_is_refused_before_it_is_begun(
    small_disk: Callable[[int], Path], tmp_path: Path
) -> None:
    """A mapped file on a full disk would end the process with a bus error."""
    np.savez(tmp_path / "x.npz", x=np.eye(8, dtype=np.float32).repeat(100, axis=0))
    command = ("kernel", "--model", "examples.sparse_parity:make_model",
               "--inputs", tmp_path / "x.npz", "--out", small_disk(200) / "run")  # fmt: skip

    message = one_error(mlx_entk_process(*command))

    assert "kernel.part, which takes 2.56 MB: No space left" in message


def test_a_limit_on_the_size_of_files_is_said(tmp_path: Path) -> None:
    """What a full disk looks like where nobody may mount one."""

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (3_000, 3_000))

    done = mlx_entk_process(*SMALL, "--out", tmp_path / "run", before=limit)

    message = one_error(done)
    assert "cannot write" in message
    assert mlx_entk_process(*SMALL, "--out", tmp_path / "run").returncode == 0


# Folders that cannot be written


@pytest.fixture
def finished(mlx_entk: Command, small_disk: Callable[[int], Path], tmp_path: Path) -> Path:
    """A finished run in a folder that nobody may write: for root, who may, a read-only disk."""
    folder = small_disk(100_000) if ROOT and sys.platform == "linux" else tmp_path
    run = folder / "run"
    assert mlx_entk(*SMALL, "--out", run)[0] == 0
    if os.path.ismount(folder):
        subprocess.run(["mount", "-o", "remount,ro", folder], check=True)
    else:
        for path in [*run.rglob("*"), run]:
            path.chmod(0o555 if path.is_dir() else 0o444)
    return run


def test_a_folder_that_cannot_be_written_is_said(finished: Path) -> None:
    for command in (
        ("report", finished),
        ("verify", finished),
        (*SMALL, "--out", finished),
        (*SMALL, "--out", finished / "inside"),
        ("export", finished),
        ("export", finished, "--out", finished / "a.onnx"),
        ("compare", finished, finished, "--out", finished / "c.html"),
    ):
        message = one_error(mlx_entk_process(*command))
        assert "cannot write" in message

    shown = mlx_entk_process("show", finished)

    assert shown.returncode == 0
    assert "test accuracy" in shown.stdout


# Two processes


def test_two_processes_cannot_write_to_one_folder(tmp_path: Path) -> None:
    command = ("modular", "mlp", "--p", "11", "--width", "64", "--epochs", "400")
    start = [PROGRAM, *command, "--out", str(tmp_path / "run")]
    with subprocess.Popen(start, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as first:
        while not (tmp_path / "run" / "metrics.jsonl").exists() and first.poll() is None:
            time.sleep(0.01)
        second = mlx_entk_process(*command, "--out", tmp_path / "run")
        first.communicate(timeout=120)

    message = one_error(second)
    assert f"another process ({first.pid}) is writing to {tmp_path / 'run'}: wait for it" in message
    assert first.returncode == 0
    sessions = json.loads((tmp_path / "run" / "provenance.json").read_text())["sessions"]
    assert len(sessions) == 1


# Names and clocks


@pytest.mark.parametrize(
    "name", ['-Läufe 実験\'s "🧪"', pytest.param("a" * 200, marks=pytest.mark.slow)]
)
def test_any_name_of_a_folder_works(mlx_entk: Command, name: str) -> None:
    out = f"./{name}/run"
    code, _, errors = mlx_entk(*SMALL, "--out", out)

    assert code == 0, errors
    assert mlx_entk("show", out)[0] == 0
    assert json.loads(mlx_entk("runs", ".", "--json")[1])["runs"][0]["folder"] == (f"{name}/run")
    assert mlx_entk("report", out)[0] == 0


@pytest.mark.parametrize("name", ["a" * 256, "/".join(["b" * 200] * 30)])
def test_names_that_no_file_can_have_are_said(mlx_entk: Command, name: str) -> None:
    for command in ((*SMALL, "--out", name), ("show", name), ("report", name),
                    ("compare", name, name)):  # fmt: skip
        code, output, errors = mlx_entk(*command)
        assert (code, output) == (2, "")
        assert errors.startswith("Error: ")
        assert errors.count("\n") == 1


def test_a_clock_that_is_set_back_changes_no_result(
    mlx_entk: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken off, and gone on with when the clock says it is twenty years ago."""
    assert mlx_entk(*SMALL, "--out", "whole")[0] == 0
    assert mlx_entk(*SMALL, "--out", "run")[0] == 0
    run = tmp_path / "run"
    for name in ("results.json", "spectra.npz", "checkpoints/000040.safetensors"):
        (run / name).unlink()
    for path in run.rglob("*"):
        os.utime(path, (4e9, 4e9))  # files of the year 2096

    class EarlierClock:
        @staticmethod
        def now(zone: tzinfo) -> datetime:
            return datetime(2006, 1, 1, tzinfo=zone)

    monkeypatch.setattr(provenance, "datetime", EarlierClock)

    assert mlx_entk(*SMALL, "--out", "run")[0] == 0

    assert (run / "results.json").read_text() == (tmp_path / "whole/results.json").read_text()
    sessions = json.loads((run / "provenance.json").read_text())["sessions"]
    assert [session["started"][:4] for session in sessions][1] == "2006"
