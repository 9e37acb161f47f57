"""``mlx-entk browse``: pages of modes for runs of every study that has modes to browse."""

import itertools
import json
import re
import shutil
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

import mlx_entk
from mlx_entk import InputError
from mlx_entk.analysis import WHOLE, part_shares
from mlx_entk.report import unexplained_table
from mlx_entk.runs import Run
from mlx_entk.studies import reporting
from mlx_entk.studies.reporting import modes_of, write_modes, write_report
from tests.conftest import Command

X = np.array(list(itertools.product([-1.0, 1.0], repeat=4)), dtype=np.float32)


def model() -> nn.Module:
    mx.random.seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))


@pytest.fixture(scope="module")
def analysis() -> mlx_entk.Analysis:
    return mlx_entk.analyze(model(), X, {"bits": X, "first": X[:, :1]}, by_layer=True)


@pytest.fixture(scope="module")
def kept(analysis: mlx_entk.Analysis, tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reporting, "_figures", lambda *_: iter(()))  # which take the most time
        return analysis.save(tmp_path_factory.mktemp("browse") / "run")


def data(page: Path) -> tuple[Any, list[Any]]:
    """The inputs and the kernels of a page."""
    text = page.read_text(encoding="utf-8")
    found = re.findall(r'<script type="application/json" [^>]*>(.*?)</script>', text)
    inputs, *kernels = [json.loads(script) for script in found]
    return inputs, kernels


def test_a_run_has_a_page_that_its_report_links_to(kept: Path) -> None:
    report = (kept / "report.html").read_text(encoding="utf-8")
    inputs, kernels = data(kept / "modes.html")

    assert 'href="modes.html"' in report
    assert inputs["kind"] == "rows"
    assert inputs["count"] == 16
    assert len(kernels) == 5  # the whole one, and two layers of a weight and a bias
    assert kernels[0]["parts"] == [
        "layers.0.weight", "layers.0.bias", "layers.2.weight", "layers.2.bias",
    ]  # fmt: skip


def test_the_page_tells_what_the_analysis_found(analysis: mlx_entk.Analysis, kept: Path) -> None:
    _, (whole, *_) = data(kept / "modes.html")
    spectrum, kernels = analysis.spectrum, analysis.kernels

    assert [f["name"] for f in whole["families"]] == ["bits", "first"]
    assert [f["dimension"] for f in whole["families"]] == [4, 1]
    assert [f["chance"] for f in whole["families"]] == pytest.approx(
        [4000 / 15, 1000 / 15], abs=0.1
    )
    for family in whole["families"]:
        single = analysis.controls.strongest(family["name"], 1)
        assert single is not None
        assert family["control"] == pytest.approx(1000 * single.overlap, abs=0.1)
    for number, mode in enumerate(whole["modes"][:4]):
        v = spectrum.vectors[:, number]
        layers = [v @ kernels[name] @ v / (v @ kernels[WHOLE] @ v) for name in whole["parts"]]
        assert mode["parts"] == pytest.approx([1000 * share for share in layers], abs=0.2)
        assert sum(mode["parts"]) == pytest.approx(1000, abs=0.3)
        assert mode["value"] == pytest.approx(spectrum.values[number], rel=1e-3)
        trace = np.trace(kernels[WHOLE])
        assert mode["trace"] == pytest.approx(spectrum.values[number] / trace, rel=1e-2)


def test_shares_of_parts_sum_to_one_and_are_zero_of_nothing() -> None:
    J = np.random.default_rng(0).standard_normal((6, 2, 5))
    parts = {f"w{i}": J[:, i] @ J[:, i].T for i in range(2)}
    vectors = np.linalg.eigh(sum(parts.values()))[1][:, ::-1]

    shares, traces = part_shares(vectors, parts)

    assert shares.sum(axis=1) == pytest.approx(1)
    assert traces == pytest.approx([np.trace(part) for part in parts.values()])
    assert part_shares(vectors, {"zero": np.zeros((6, 6))})[0].tolist() == [[0.0]] * 6


def test_the_command_writes_where_it_is_told(mlx_entk: Command, kept: Path, tmp_path: Path) -> None:
    names = tmp_path / "names.txt"
    names.write_text("\n".join(f"<b>{i}" for i in range(16)))

    code, out, _ = mlx_entk(
        "browse", kept, "--out", "here.html", "--draw", "rows", "--names", names
    )

    assert code == 0
    assert "Page: here.html" in out
    assert data(tmp_path / "here.html")[0]["names"][3] == "<b>3"
    code, out, _ = mlx_entk("browse", kept)
    assert code == 0
    assert f"{kept.name}/modes.html" in out.replace("\n", "")
    for arguments, message in (
        (["--draw", "images"], "cannot be drawn as images"),
        (["--names", kept / "report.html"], "names for 16 inputs"),
        (["--draw", "photos"], "is not one of"),
    ):
        code, _, error = mlx_entk("browse", kept, "--out", "there.html", *arguments)
        assert (code, "Traceback" in error) == (2, False)
        assert message in " ".join(error.split())
    assert not (tmp_path / "there.html").exists()


def test_it_lists_the_modes_that_no_feature_explains(
    mlx_entk: Command, analysis: Any, kept: Path, tmp_path: Path
) -> None:
    code, out, _ = mlx_entk("browse", kept, "--out", tmp_path / "modes.html", "--json")
    found = json.loads(out)["unexplained"]

    spectrum = analysis.spectrum
    expected = []
    _, (whole, *_) = data(kept / "modes.html")
    for mode in whole["modes"][: spectrum.rank]:
        above = [s - f["chance"] for s, f in zip(mode["features"], whole["families"], strict=True)]
        if max(*above, mode["constant"]) < 500:
            expected.append(mode["number"])
    assert code == 0
    assert [row["mode"] for row in found] == expected
    assert 0 < len(expected) < spectrum.rank
    assert {row["family"] for row in found} <= {"bits", "first"}
    first = spectrum.vectors[:, expected[0]]
    assert found[0]["largest_on"].split(", ")[0] == str(first.argmax())


def test_a_report_and_an_analysis_list_them_too(analysis: Any, kept: Path) -> None:
    report = (kept / "report.html").read_text(encoding="utf-8")
    table = analysis.unexplained

    assert table.title.endswith("above the noise floor")
    assert len(table.rows) == int(table.title.split(", ")[1].split()[0]) > 0
    assert report.count(table.title) > 0
    assert table.note in report
    assert mlx_entk.Analysis.load(kept).unexplained == table

    labels = [f"label {number % 2}" for number in range(16)]
    page = modes_of(Run.load(kept), names=labels)
    number, label = unexplained_table(page).rows[0][5].split(", ")[0].split(" ", 1)
    assert label == f"(label {int(number) % 2})"  # which alone would not tell the inputs apart

    without = mlx_entk.analyze(model(), X)
    assert not without.unexplained.rows
    assert "compared with no features" in without.unexplained.note


def test_a_run_without_modes_says_so(mlx_entk: Command, tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", "tms-double-descent", {})
    code, _, error = mlx_entk("browse", run.path)
    assert code == 2
    assert "unfinished" in error
    run.save_results({}, {})
    code, _, error = mlx_entk("browse", run.path)
    assert code == 2
    assert "no one set of inputs and modes" in " ".join(error.split())


def test_damaged_inputs_are_refused_and_the_report_does_without(
    kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reporting, "_figures", lambda *_: iter(()))
    copied = Run.load(Path(shutil.copytree(kept, tmp_path / "copy")))
    (copied.path / "modes.html").unlink()
    np.savez(copied.inputs_file, allow_pickle=False, x=X + 1)

    with pytest.raises(InputError, match="its inputs are not the run's"):
        write_modes(copied)
    report = write_report(copied).read_text(encoding="utf-8")

    assert "modes.html" not in report
    assert not (copied.path / "modes.html").exists()


def test_a_full_kernel_names_the_output_of_each_value(tmp_path: Path) -> None:
    page = mlx_entk.analyze(model(), X, reduction="full").browse(
        tmp_path / "full.html",
        draw=lambda row: f"{row.sum():g}",
        names=[f"n{i}" for i in range(16)],
    )
    inputs, (whole,) = data(page)
    assert inputs["kind"] == "texts"
    assert inputs["count"] == 32
    assert inputs["places"] == [*range(16), *range(16)]
    assert (inputs["names"][0], inputs["names"][31]) == ("n0, output 0", "n15, output 1")
    assert whole["parts"] == []
    assert "--by-layer" in page.read_text(encoding="utf-8")
