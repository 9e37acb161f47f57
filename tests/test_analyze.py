"""One call from a model to an analysis: as a script, a notebook and the command line use it."""

import base64
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
import tqdm

import mlx_entk
from mlx_entk import Analysis, InputError, analyze, entk
from mlx_entk.features import center, subspace_overlap
from mlx_entk.onnx import export
from mlx_entk.plotting import Drawing
from mlx_entk.progress import shown
from tests.conftest import Command
from tests.models import MLP

N = 40
HOSTILE = "<img src=x onerror=alert(1)>\u202e"


@pytest.fixture(scope="module")
def x() -> mx.array:
    return mx.random.normal((N, 4), key=mx.random.key(0))


@pytest.fixture(scope="module")
def model() -> nn.Module:
    mx.random.seed(1)
    return MLP([4, 16, 3])


@pytest.fixture(scope="module")
def features(x: mx.array) -> dict[str, Any]:
    return {"inputs": x, HOSTILE: np.array(x)[:, 0] > 0}


@pytest.fixture(scope="module")
def analysis(model: nn.Module, x: mx.array, features: dict[str, Any]) -> Analysis:
    return analyze(model, x, features, by_layer=True, groups=[(0, 3)])


def test_modes_are_those_of_the_kernel(analysis: Analysis, model: nn.Module, x: mx.array) -> None:
    kernel = np.asarray(entk(model, x, reduction="trace"), dtype=np.float64)
    group = analysis.modes(0, 3)

    np.testing.assert_allclose(kernel @ group.vectors, group.vectors * group.values, atol=1e-4)
    assert list(analysis.spectra) == list(analysis.kernels)
    np.testing.assert_allclose(sum(analysis.kernels[n] for n in analysis.kernels if n != "full"),
                               kernel, atol=1e-4)  # fmt: skip


def test_a_groups_share_in_a_family_is_its_overlap(
    analysis: Analysis, features: dict[str, Any]
) -> None:
    basis = mlx_entk.orthonormal_basis(center(np.array(features["inputs"])))
    for first, last in ((0, 3), (2, 9)):
        group = analysis.modes(first, last)
        expected = subspace_overlap(group.vectors, basis).overlap
        assert group.shares["inputs"] == pytest.approx(expected, abs=1e-4)
    assert [row.family for row in analysis.modes(0, 3).alignment] == list(features)
    assert analysis.modes(2, 9).alignment == []


def test_examples_stand_at_the_ends_of_a_mode(analysis: Analysis) -> None:
    vector = analysis.modes(1).vectors[:, 0]
    found = analysis.examples(1, 5)

    order = np.argsort(vector)
    assert [example.input for example in found.smallest] == order[:5].tolist()
    assert [example.input for example in found.largest] == order[::-1][:5].tolist()
    assert found.largest[0].value == pytest.approx(vector.max())
    assert f"largest  {order[-1]}  " in repr(found)


def test_a_full_kernel_has_examples_of_inputs_and_outputs(model: nn.Module, x: mx.array) -> None:
    analysis = analyze(model, x, reduction="full", top=10)
    vector = analysis.modes(0).vectors[:, 0]
    assert vector.size == 3 * N
    row = int(vector.argmax())
    (best,) = analysis.examples(0, 1).largest
    assert best.output is not None
    assert best.output * N + best.input == row


def test_saved_and_loaded_it_is_the_same(analysis: Analysis, tmp_path: Path) -> None:
    loaded = Analysis.load(analysis.save(tmp_path / "run"))

    assert repr(loaded) == repr(analysis)
    assert loaded.to_pandas().equals(analysis.to_pandas())
    np.testing.assert_allclose(loaded.modes(0, 3).vectors, analysis.modes(0, 3).vectors)
    assert repr(loaded.examples(2)) == repr(analysis.examples(2))
    again = Analysis.load(loaded.save(tmp_path / "copy"))
    assert repr(again) == repr(analysis)
    for full in ("run", "copy"):  # nothing is overwritten
        with pytest.raises(InputError, match="exists: name a new folder"):
            loaded.save(tmp_path / full)


def test_the_command_line_finds_the_same(
    mlx_entk: Command, x: mx.array, model: nn.Module, tmp_path: Path
) -> None:
    export(model, [x], tmp_path / "model.onnx")
    np.savez("x.npz", x=np.array(x))
    np.savez("f.npz", inputs=np.array(x))
    given = ("kernel", "--onnx", "model.onnx", "--inputs", "x.npz", "--features", "f.npz")
    before = set(tmp_path.iterdir())

    code, printed, errors = mlx_entk(*given, "--json")

    assert code == 0, errors
    assert set(tmp_path.iterdir()) == before
    assert mlx_entk(*given, "--out", "run", "-q")[0] == 0
    here = analyze(tmp_path / "model.onnx", x, {"inputs": x})
    stored = Analysis.load(tmp_path / "run")
    assert json.loads(printed)["found"] == stored.found == here.found
    here.save(tmp_path / "saved")
    results = [json.loads(Path(run, "results.json").read_text()) for run in ("run", "saved")]
    for result in results:
        result.pop("sha256", None)
        result.pop("spectra_sha256", None)
        result["config"].pop("model")  # the command names the file's digest
    assert results[0] == results[1]
    code, _, errors = mlx_entk("export", "saved", "--what", "entk", "-q")
    assert code == 0, errors


def test_a_saved_module_can_be_worked_with(
    mlx_entk: Command, analysis: Analysis, tmp_path: Path
) -> None:
    analysis.save(tmp_path / "run")
    np.savez("y.npz", y=np.arange(N) % 3)
    for command in (("show", "run"), ("regress", "run", "--targets", "y.npz")):
        code, _, errors = mlx_entk(*command)
        assert code == 0, errors


def test_a_report_comes_with_its_page_of_modes(analysis: Analysis, tmp_path: Path) -> None:
    page = analysis.report(tmp_path / "out.html")

    assert {path.name for path in tmp_path.iterdir()} == {"out.html", "out-modes.html"}
    assert analysis.found.split(".")[0] in page.read_text()
    assert 'href="out-modes.html"' in page.read_text()


def test_modes_are_browsed_with_inputs_drawn_as_asked(analysis: Analysis, tmp_path: Path) -> None:
    page = analysis.browse(tmp_path / "modes.html", draw=lambda row: f"row of {row.sum():.1f}")
    assert f"row of {analysis.inputs['x'][0].sum():.1f}" in page.read_text()
    with pytest.raises(InputError, match="images"):
        analysis.browse(tmp_path / "other.html", draw="images")
    assert not (tmp_path / "other.html").exists()


def test_a_notebook_shows_it_and_escapes_names(analysis: Analysis) -> None:
    for shown_ in (
        analysis,
        analysis.modes(0, 3),
        analysis.examples(0),
        analysis.unexplained,
    ):
        html = shown_._repr_html_()
        assert "<img src=x" not in html
        assert "\u202e" not in html
        assert len(html) < 300_000
        assert "<script" not in html
        assert html.startswith("<div")
    html = analysis._repr_html_()
    encoded = re.search(r'src="data:image/svg\+xml;base64,([^"]+)"', html)
    assert encoded is not None
    assert b"<svg" in base64.b64decode(encoded[1])
    assert "&lt;img src=x" in html
    assert "\u202e" not in repr(analysis)
    title, head, *rows, note = repr(analysis.unexplained).splitlines()
    assert "modes that no feature explains" in title
    assert head.split()[:2] == ["mode", "eigenvalue"]
    assert [row.split()[0] for row in rows] == [row[0] for row in analysis.unexplained.rows]
    assert note == analysis.unexplained.note


def test_figures_are_matplotlibs(analysis: Analysis) -> None:
    overlap = subspace_overlap(analysis.modes(0, 3).vectors, analysis.modes(2, 5).vectors)
    for figure in (analysis.plot(), analysis.plot_alignment(), analysis.spectrum.plot(),
                   overlap.plot()):  # fmt: skip
        assert isinstance(figure, Drawing)
        assert figure._repr_png_().startswith(b"\x89PNG")
    assert "40 modes over 40 inputs" in repr(analysis.spectrum)
    assert repr(overlap).startswith("Overlap(2 of 4, 50.0%; by chance 0.4 ±")


def test_a_model_before_training_is_compared(model: nn.Module, x: mx.array) -> None:
    mx.random.seed(7)
    other = MLP([4, 16, 3])
    by_module = analyze(model, x, {"inputs": x}, initial=other)
    by_weights = analyze(model, x, {"inputs": x}, initial=other.parameters())

    rows = by_module.alignment
    assert all(row.initial is not None for row in rows)
    assert [row.initial for row in rows] == pytest.approx(
        [row.initial for row in by_weights.alignment]
    )
    with pytest.raises(InputError, match=r"initial has no .*: pass every parameter"):
        analyze(model, x, initial={"other": mx.zeros(3)})


def test_a_function_and_several_inputs(x: mx.array) -> None:
    params = {"w": mx.random.normal((4, 2), key=mx.random.key(3))}
    analysis = analyze(lambda p, a, b: {"y": mx.tanh(a @ p["w"]) * b}, (x, x[:, :1]), params=params,
                       output="y")  # fmt: skip
    assert list(analysis.inputs) == ["x[0]", "x[1]"]
    assert analysis.found.startswith("The trace eNTK of 8 parameters on 40 inputs")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"features": {"a": np.ones(3)}}, "features: a has shape (3, 1), but there are 40 inputs"),
        ({"features": {"a": np.ones(N)}}, "features: a does not vary over the inputs"),
        ({"reduction": "mean"}, "'mean' is unknown"),
        ({"groups": [(3, 99)]}, "modes 3–99: the run has 40 modes"),
        ({"parameters": "layers.9.*"}, "parameters has layers.9.*: the model has"),
        ({"disentangle": "magic"}, "magic"),
        ({"top": 0}, "top is 0: it must be at least 1"),
    ],
)
def test_what_does_not_fit_is_one_line(
    model: nn.Module, x: mx.array, given: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=re.escape(message)) as refused:
        analyze(model, x, **given)
    assert "\n" not in str(refused.value)


def test_what_is_not_there_is_one_line(analysis: Analysis, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"there is no kernel layers\.7: there are full, "):
        analysis.modes(0, kernel="layers.7")
    with pytest.raises(InputError, match="modes 30–99: the analysis has 40 modes"):
        analysis.modes(30, 99)
    with pytest.raises(InputError, match="is not a folder"):
        Analysis.load(tmp_path / "nowhere")


def test_pandas_may_be_missing(analysis: Analysis, monkeypatch: pytest.MonkeyPatch) -> None:
    table = analysis.to_pandas()
    assert list(table.columns[:4]) == ["kernel", "first", "last", "family"]
    assert len(table) == len(analysis.alignment)
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(InputError, match="to_pandas needs pandas: pip install"):
        analysis.to_pandas()


def test_progress_is_shown_as_asked(
    model: nn.Module, x: mx.array, capsys: pytest.CaptureFixture[str]
) -> None:
    stages: list[str] = []
    analyze(model, x, progress=lambda stage, done, total, note="": stages.append(stage))
    assert "spectra" in stages
    analyze(model, x)
    assert capsys.readouterr() == ("", "")  # there is no terminal
    analyze(model, x, progress=tqdm.tqdm)
    assert "spectra: 100%" in capsys.readouterr().err
    with shown(True) as progress:
        progress("a stage", 1, 2)
    assert "a stage" in capsys.readouterr().err


def test_importing_the_package_stays_light() -> None:
    code = (
        "import sys, mlx_entk; assert 'analyze' in dir(mlx_entk); "
        "print([m for m in ('matplotlib', 'jinja2', 'onnx', 'rich', 'pandas') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
