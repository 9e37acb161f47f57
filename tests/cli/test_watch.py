"""``mlx-entk watch``: a page of what a run folder has so far."""

from pathlib import Path

import pytest

from mlx_entk.runs import Run
from mlx_entk_cli import runs
from tests.conftest import Command


@pytest.fixture
def run(tmp_path: Path) -> Run:
    run = Run.create(tmp_path / "run", "modular-mlp", {"seed": 0})
    for epoch in range(3):
        run.append_metrics({"epoch": epoch, "test loss": 0.5**epoch, "<i>accuracy": 1e300})
    return run


def test_an_unfinished_run_is_shown_once(mlx_entk: Command, run: Run) -> None:
    code, out, _ = mlx_entk("watch", run.path, "--once")

    page = (run.path / "live.html").read_text(encoding="utf-8")
    assert code == 0
    assert "live.html" in out
    assert "unfinished" in out
    assert "Unfinished: epoch 2" in page
    assert "test loss" in page
    assert "<i>accuracy" not in page
    assert 'data-reload="' in page


def test_a_finished_run_ends_by_itself(mlx_entk: Command, run: Run) -> None:
    run.save_results({}, {})

    code, out, _ = mlx_entk("watch", run.path)

    assert code == 0
    assert "finished; see report.html" in out
    assert 'data-reload="' not in (run.path / "live.html").read_text(encoding="utf-8")


def test_it_follows_until_it_is_interrupted(
    mlx_entk: Command, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses = []

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        run.append_metrics({"epoch": 2 + len(pauses), "test loss": 0.1})
        if len(pauses) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(runs.time, "sleep", sleep)
    code, _, error = mlx_entk("watch", run.path)

    assert (code, error) == (0, "")
    assert "epoch 4" in (run.path / "live.html").read_text(encoding="utf-8")


def test_a_folder_that_is_no_run_is_refused_in_one_line(mlx_entk: Command, tmp_path: Path) -> None:
    code, _, error = mlx_entk("watch", tmp_path, "--once")

    assert code == 2
    assert "is not a run folder" in error
    assert not (tmp_path / "live.html").exists()
