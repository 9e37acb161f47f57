"""What a stranger's run can ask for is bounded: numbers, folders, marks, rows, bytes."""

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest

from mlx_entk import InputError, _memory
from mlx_entk._files import digest_of_file, folders_with, parse_json, require_own, write_json
from mlx_entk.plotting.drawing import MOST_CELLS, MOST_MARKS
from mlx_entk.plotting.style import new_figure
from mlx_entk.report.table import MOST_ROWS, Table
from mlx_entk_cli.base import RunFolder
from tests.conftest import Command, Finished

TMS = ("tms", "--n", "4", "--m", "2", "--rows", "8", "--steps", "20", "-q")
VIEWERS = (("show", "run"), ("runs", "."), ("compare", "run", "run"), ("report", "run"))


def altered(change: Callable[[dict[str, Any]], None]) -> None:
    """Change run/results.json, and seal it anew."""
    file = Path("run/results.json")
    results = json.loads(file.read_text())
    results.pop("sha256")
    change(results)
    write_json(file, results)


def test_an_integer_that_no_number_holds_is_one_line_everywhere(
    mlx_entk: Command, finished: Finished
) -> None:
    finished("run", *TMS)
    altered(lambda results: results["reconstructed"].update(trained=10**400))

    for viewer in VIEWERS:
        code, output, errors = mlx_entk(*viewer, "-q")
        assert "Traceback" not in errors + output
        assert code in (0, 2)
        assert errors.count("\n") <= 1
    listed = "".join(mlx_entk("runs", ".")[1].split())  # in the lines of a narrow table
    assert "itholdstheinteger1000" in listed or "finished,but" in listed


@pytest.mark.parametrize("text", [str(2**63), "-" + "9" * 25, "1" * 5000])
def test_integers_have_64_bits(text: str) -> None:
    with pytest.raises(ValueError, match="it holds the integer"):
        parse_json(f"[{text}]")
    assert parse_json(f"[{2**63 - 1}, {-(2**63)}]") == [2**63 - 1, -(2**63)]


@pytest.fixture
def deep() -> Iterator[Callable[[Path], None]]:
    """Makes 1,100 folders within one another, and removes them: Python's own functions cannot."""
    made: list[Path] = []

    def make(folder: Path) -> None:
        made.append(folder / "a")
        here = os.open(folder, os.O_RDONLY)
        for _ in range(1100):
            os.mkdir("a", dir_fd=here)
            deeper = os.open("a", os.O_RDONLY, dir_fd=here)
            os.close(here)
            here = deeper
        os.close(here)

    yield make
    subprocess.run(["rm", "-rf", *made], check=True)


def test_folders_within_folders_end_somewhere(
    mlx_entk: Command, finished: Finished, deep: Callable[[Path], None]
) -> None:
    finished("run", *TMS)
    deep(Path("run").resolve())

    code, output, _ = mlx_entk("runs", ".")
    assert code == 0
    assert "run" in output
    for command in (("report", "run"), ("export", "run"), ("regress", "run")):
        code, _, errors = mlx_entk(*command)
        assert (code, errors.count("\n")) == (2, 1), command
        assert "more than 100 folders within one another" in errors
    with pytest.raises(InputError, match="within one another"):
        require_own(Path("run"))
    assert folders_with(Path(), "config.json")


@pytest.mark.parametrize(
    ("key", "shape"), [("W/trained", (2, 5000)), ("values/trained/0", (500_000,))]
)
def test_an_archive_of_few_bytes_is_not_drawn_by_the_gigabyte(
    mlx_entk: Command, finished: Finished, key: str, shape: tuple[int, ...]
) -> None:
    finished("run", *TMS)
    file = Path("run/spectra.npz")
    arrays = dict(np.load(file)) | {key: np.ones(shape, np.float32)}
    np.savez_compressed(file, **arrays)
    altered(lambda results: results.update(spectra_sha256=digest_of_file(file)))

    code, _, errors = mlx_entk("report", "run")

    assert (code, errors.count("\n")) == (2, 1)
    assert "cannot be drawn" in errors


def test_figures_have_a_most_of_marks() -> None:
    figure, (axes,) = new_figure(2, 2)
    with pytest.raises(InputError, match="marks cannot be drawn"):
        figure.hint_points(axes, [], [], [""] * (MOST_MARKS + 1))
    side = int(MOST_CELLS**0.5) + 1
    with pytest.raises(InputError, match="marks cannot be drawn"):
        figure.hint_cells(axes, [], [], np.broadcast_to(0.0, (side, side)), "")


def test_tables_show_as_many_rows_as_anybody_reads() -> None:
    rows = [(str(k), "x") for k in range(MOST_ROWS + 5)]

    shown = Table("t", ("a", "b"), rows).shown

    assert len(shown) == MOST_ROWS + 1
    assert list(shown[-1]) == ["… and 5 more rows", ""]
    assert Table("t", ("a", "b"), rows[:3]).shown == rows[:3]


def test_a_file_larger_than_the_memory_is_not_hashed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "spectra.npz"
    file.touch()
    os.truncate(file, 10**9)  # sparse: it takes no room on the disk
    monkeypatch.setattr(_memory, "available_bytes", lambda: 10**9)

    with pytest.raises(InputError, match="would take 1 GB of memory"):
        digest_of_file(file)


def test_the_shell_is_given_no_name_that_it_would_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("plain", "a;touch PWNED", "$(touch PWNED)", "a b", "`x`", "&", "-ü"):
        folder = tmp_path / "runs" / name
        folder.mkdir(parents=True)
        (folder / "config.json").write_text("{}")
    parameter = click.Argument(["run"], type=RunFolder())

    offered = RunFolder().shell_complete(click.Context(click.Command("show")), parameter, "")

    assert [item.value for item in offered] == ["runs/plain"]


def test_a_folder_that_is_not_utf_8_is_not_called_damaged(
    mlx_entk: Command, finished: Finished
) -> None:
    finished("run", *TMS)
    Path("run").rename(os.fsdecode(b"run\xff"))

    code, _, errors = mlx_entk("export", os.fsdecode(b"run\xff"))

    assert code == 2
    assert "has a name that is not UTF-8: rename the folder" in errors
    assert "damaged" not in errors
