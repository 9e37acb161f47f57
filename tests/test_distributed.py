"""Ranks on this machine: the same results as one process, and nothing lost when one dies."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.reference import relative_error

REPOSITORY = Path(__file__).parents[1]

Outcome = tuple[int, str, str]


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def launch(count: int, folder: Path, command: list[str]) -> list[Outcome]:
    """Run a command as several ranks of a ring; gives exit code, output and errors of each."""
    folder.mkdir(parents=True, exist_ok=True)
    hosts = folder / "hosts.json"
    hosts.write_text(json.dumps([[f"127.0.0.1:{port}"] for port in free_ports(count)]))
    started = []
    for rank in range(count):
        ring = {} if count == 1 else {"MLX_HOSTFILE": str(hosts), "MLX_RANK": str(rank)}
        started.append(
            subprocess.Popen(
                [sys.executable, *command], cwd=REPOSITORY, env=os.environ | ring,
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            )
        )  # fmt: skip
    texts = [process.communicate(timeout=180) for process in started]
    return [(process.returncode, *text) for process, text in zip(started, texts, strict=True)]


def results(folder: Path, rank: int) -> dict[str, NDArray[Any]]:
    with np.load(folder / f"rank-{rank}.npz") as stored:
        return {name: stored[name] for name in stored.files}


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, NDArray[Any]]:
    folder = tmp_path_factory.mktemp("alone")
    assert launch(1, folder, ["-m", "tests.rank", str(folder), "0"]) == [(0, "", "")]
    return results(folder, 0)


@pytest.mark.parametrize("count", [2, 4])
def test_several_ranks_give_what_one_gives(
    count: int, alone: dict[str, NDArray[Any]], tmp_path: Path
) -> None:
    outcomes = launch(count, tmp_path, ["-m", "tests.rank", str(tmp_path), "0"])

    assert [code for code, _, _ in outcomes] == [0] * count, outcomes
    for rank in range(count):
        arrays = results(tmp_path, rank)
        for name in ("layers.0.weight", "layers.1.weight", "memory", "uneven"):
            assert relative_error(arrays[name], alone[name]) < 1e-6
        np.testing.assert_allclose(arrays["values"], alone["values"], rtol=1e-5)
        overlap = np.abs((arrays["vectors"] * alone["vectors"]).sum(axis=0))
        assert overlap.min() > 1 - 1e-6
        np.testing.assert_array_equal(arrays["again"], arrays["vectors"])
    left = {path.name for path in (tmp_path / "kernels").iterdir()}
    assert left == {f"layers.{i}.{kind}.npy" for i in (0, 1) for kind in ("weight", "bias")}


def test_a_rank_that_dies_loses_no_tile(alone: dict[str, NDArray[Any]], tmp_path: Path) -> None:
    outcomes = launch(2, tmp_path, ["-m", "tests.rank", str(tmp_path), "3"])

    assert outcomes[1][0] == 9
    code, _, errors = outcomes[0]
    assert code == 1
    assert "Error: a rank is gone" in errors
    assert "run the same command to go on" in errors
    kept = sum(
        len(json.loads(path.read_text())["tiles"])
        for path in (tmp_path / "kernels").glob("tiles*.json")
    )
    assert kept > 3

    # One process goes on with what both have left.
    assert launch(1, tmp_path, ["-m", "tests.rank", str(tmp_path), "0"])[0][0] == 0
    arrays = results(tmp_path, 0)
    for name in ("layers.0.weight", "layers.1.bias"):
        assert relative_error(arrays[name], alone[name]) < 1e-6
