"""Imported before every test module, so that MLX finds the fast BLAS whatever they import."""

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mlx_entk_cli.main import main

Outcome = tuple[int, str, str]
Command = Callable[..., Outcome]
Finished = Callable[..., Path]


@pytest.fixture
def mlx_entk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Command:
    """Run a command in an empty folder; gives exit code, output and errors."""
    monkeypatch.chdir(tmp_path)

    def command(*arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["mlx-entk", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit_:
            main()
        captured = capsys.readouterr()
        return int(exit_.value.code or 0), captured.out, captured.err

    return command


@pytest.fixture(scope="session")
def _finished_runs(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, ...], Path]:
    """Run folders by the command that made them."""
    return {}


@pytest.fixture
def finished(
    mlx_entk: Command,
    _finished_runs: dict[tuple[str, ...], Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Finished:
    """``finished(folder, *command)``: put the finished run of a command into a folder.

    A command is run once for all tests, which get copies of its folder. Tests of the command itself
    call it.
    """

    def place(folder: str, *command: object) -> Path:
        words = tuple(map(str, command))
        if words not in _finished_runs:
            made = tmp_path_factory.mktemp("finished") / "run"
            code, _, errors = mlx_entk(*words, "--out", made, "--quiet")
            assert code == 0, errors
            _finished_runs[words] = made
        shutil.copytree(_finished_runs[words], folder)
        return Path(folder)

    return place
