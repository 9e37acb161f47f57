"""Imported before every test module, so that MLX finds the fast BLAS whatever they import."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mlx_entk_cli.main import main

Outcome = tuple[int, str, str]
Command = Callable[..., Outcome]


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
