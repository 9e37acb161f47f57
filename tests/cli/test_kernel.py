"""``mlx-entk kernel`` on the example, and on what it cannot work with."""

import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from examples import sparse_parity
from mlx_entk._files import read_json, write_json
from mlx_entk.kernel import store
from tests.conftest import Command

MODEL = "examples.sparse_parity:make_model"


@pytest.fixture(scope="module")
def parity(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("parity")
    sparse_parity.main(folder)
    return folder


@pytest.fixture
def kernel(mlx_entk: Command) -> Command:
    """Run ``mlx-entk kernel`` in an empty folder; gives exit code, output and errors."""
    return partial(mlx_entk, "kernel")


def overlap(results: dict[str, Any], kernel: str, family: str) -> float:
    return next(
        float(row["overlap"])
        for row in results["alignment"]
        if (row["kernel"], row["family"]) == (kernel, family) and row["modes"] != [0, 0]
    )


def test_training_moves_the_label_into_the_leading_modes(
    kernel: Command, parity: Path, tmp_path: Path
) -> None:
    data = ("--inputs", parity / "inputs.npz", "--features", parity / "features.npz")
    common = ("--model", MODEL, *data)
    before = kernel(*common, "--groups", "1-8,9-36", "--out", "before")
    weights = (
        "--weights", parity / "weights.safetensors", "--by-layer", "--factors", "--explain",
        "--groups", "0-36",
    )  # fmt: skip
    after = kernel(*common, *weights, "--out", "after")

    assert (before[0], after[0]) == (0, 0)
    assert "structured: (a·a′)(δ·δ′)" in after[1]
    drawn, trained = (
        json.loads((tmp_path / name / "results.json").read_text()) for name in ("before", "after")
    )
    assert [cliff["modes"] for cliff in drawn["cliffs"]["full"]] == [[0, 36]]
    assert [c["modes"] for c in trained["cliffs_before"]["full"]] == [[0, 36]]
    found = {(tuple(row["modes"]), row["family"]): row for row in drawn["alignment"]}
    assert found[(1, 8), "single bits"]["overlap"] > 7.5
    assert found[(9, 36), "products of two"]["overlap"] > 25
    assert found[(1, 8), "the label"]["overlap"] < 0.1
    assert all(row["initial"] is None for row in drawn["alignment"])
    assert overlap(trained, "full", "the label") > 0.9
    row = next(r for r in trained["alignment"] if r["family"] == "the label")
    assert row["initial"] < row["overlap"]
    assert row["shuffled"] == pytest.approx(row["chance"], abs=4 * row["shuffled_deviation"])
    assert {c["control"] for c in trained["controls"]["rows"]} == {
        "input of layers.0.weight", "input of layers.2.weight", "outputs"
    }  # fmt: skip
    assert trained["controls"]["equal_to_activations"] == ["layers.2.weight"]
    assert set(trained["cliffs"]) > {"full", "layers.0.weight"}
    assert np.load(tmp_path / "after" / "kernels" / "layers.0.weight.npy").shape == (256, 256)
    for file in ("report.html", "figures/spectra.png", "figures/alignment.png"):
        assert (tmp_path / "after" / file).stat().st_size > 0


SPARSE = """
import mlx.core as mx
import mlx.nn as nn


class Sparse(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = mx.eye(6)

    def __call__(self, x):
        return x @ self.weight
"""


@pytest.mark.parametrize("method", ["varimax", "ica", "dictionary"])
def test_directions_are_found_that_nobody_named(
    kernel: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """A linear model of independent sparse inputs, two of which are known: the kernel is x·x′."""
    (tmp_path / "sparse_inputs.py").write_text(SPARSE)
    monkeypatch.delitem(sys.modules, "sparse_inputs", raising=False)
    generator = np.random.default_rng(0)
    x = generator.standard_normal((800, 6)) * (generator.random((800, 6)) < 0.05)
    np.save(tmp_path / "x.npy", x)
    np.savez(tmp_path / "known.npz", first=x[:, :1], second=x[:, 1:2])
    given = ("--model", "sparse_inputs:Sparse", "--inputs", "x.npy", "--features", "known.npz")
    options = ("--groups", "0-5", "--disentangle", method, "--out", "run")

    code, output, errors = kernel(*given, *options)

    assert (code, "Error" in errors) == (0, False)
    results = read_json(tmp_path / "run" / "results.json")
    (group,) = [g for g in results["disentangled"] if g["modes"] == [0, 5]]
    explained = [row for row in group["directions"] if row["share"] >= 0.5]
    assert {row["family"] for row in explained} == {"first", "second"}
    assert len(explained) == 2
    assert all(row["share"] > 0.9 and row["shuffled"] < 0.1 for row in explained)
    assert group["by_random_rotations"]["mean"] < 2
    with np.load(tmp_path / "run" / "spectra.npz") as arrays:
        directions = arrays["directions/0-5"]
    unknown = [i for i, row in enumerate(group["directions"]) if row["share"] < 0.5]
    found = np.abs(directions[:, unknown].T @ (x / np.linalg.norm(x, axis=0))).max(axis=1)
    assert found.min() > 0.9
    peak = int(np.abs(directions[:, unknown[0]]).argmax())
    assert group["directions"][unknown[0]]["inputs"][0] == peak
    assert f"Rotated by {method}, " in " ".join(output.split())
    assert "no known feature" in (tmp_path / "run" / "report.html").read_text()


def test_directions_of_a_full_kernel_name_inputs(
    kernel: Command, arrays: dict[str, np.ndarray], tmp_path: Path
) -> None:
    np.save(tmp_path / "x.npy", arrays["x"])
    given = ("--model", "two_inputs:Flat", "--inputs", "x.npy", "--reduction", "full")

    code, _, errors = kernel(*given, "--groups", "0-3", "--disentangle", "varimax", "--out", "run")

    assert code == 0, errors
    (group, *_) = read_json(tmp_path / "run" / "results.json")["disentangled"]
    with np.load(tmp_path / "run" / "spectra.npz") as stored:
        assert stored["directions/0-3"].shape == (24, 4)
        peaks = np.abs(stored["directions/0-3"]).argmax(axis=0) % 12
    assert [row["inputs"][0] for row in group["directions"]] == peaks.tolist()
    assert all((row["family"], row["shuffled"]) == ("", None) for row in group["directions"])


def test_runs_of_versions_without_directions_are_shown(
    kernel: Command, mlx_entk: Command, parity: Path, tmp_path: Path
) -> None:
    given = ("--model", MODEL, "--inputs", parity / "inputs.npz", "--out", "run")
    assert kernel(*given)[0] == 0
    for file in ("config.json", "results.json"):
        stored = read_json(tmp_path / "run" / file)
        del stored["config"]["disentangle"]
        stored.pop("disentangled", None)
        write_json(tmp_path / "run" / file, stored)

    assert mlx_entk("show", "run")[0] == 0
    assert kernel(*given)[0] == 0  # and the same command finds the run finished


def test_a_group_is_named_if_there_is_none_to_disentangle(
    kernel: Command, parity: Path, tmp_path: Path
) -> None:
    weights = ("--weights", parity / "weights.safetensors", "--no-controls")
    given = ("--model", MODEL, "--inputs", parity / "inputs.npz", *weights, "--out", "run")

    code, output, _ = kernel(*given, "--disentangle", "varimax")

    assert code == 0
    assert "no group of modes to disentangle: name some with --groups" in " ".join(output.split())


def test_a_run_of_other_weights_is_refused(kernel: Command, parity: Path) -> None:
    common = ("--model", MODEL, "--inputs", parity / "inputs.npz", "--out", "run")
    assert kernel(*common)[0] == 0
    assert kernel(*common)[0] == 0

    code, _, errors = kernel(*common, "--weights", parity / "weights.safetensors")

    assert code == 2
    assert "another configuration (initial there" in errors
    assert "; weights" in errors


@pytest.mark.parametrize("step", ["reserve", "write_json"])
def test_a_run_that_ended_while_its_kernels_were_laid_out_goes_on(
    kernel: Command, parity: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """By a kill or because the disk was full: the folder is there, but no record of tiles."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    common = ("--model", MODEL, "--inputs", parity / "inputs.npz", "--by-layer", "--out", "run")
    with monkeypatch.context() as patch:
        patch.setattr(store, step, stop)
        assert kernel(*common)[0] == 130
    assert next(path.suffix for path in Path("run/kernels").iterdir()) == ".part"

    code, _, errors = kernel(*common)

    assert code == 0, errors
    assert {path.suffix for path in Path("run/kernels").iterdir()} == {".npy"}


@pytest.mark.parametrize("reduction", ["sum-of-logits", "full", "0,0"])
def test_every_reduction_has_a_spectrum(
    kernel: Command, parity: Path, tmp_path: Path, reduction: str
) -> None:
    inputs = ("--inputs", parity / "inputs.npz", "--memory-limit", "500MB")
    code, _, errors = kernel("--model", MODEL, *inputs, "--reduction", reduction, "--out", "run")

    assert (code, "Error" in errors) == (0, False)
    with np.load(tmp_path / "run" / "spectra.npz") as arrays:
        assert arrays["values/full"].shape == (200,)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--model", "nowhere:make"), "nowhere:make cannot be imported: No module named"),
        (("--model", "examples.sparse_parity:nothing"), "cannot be imported: module"),
        (("--model", "examples.sparse_parity"), "write MODULE:FACTORY"),
        (("--model", "examples.sparse_parity:all_strings"), "returned ndarray, not an mlx.nn"),
        (("--weights", "other.safetensors"), "other.safetensors does not fit"),
        (("--weights", "text.txt"), "text.txt does not fit"),
        (("--inputs", "nothing.npz"), "cannot read nothing.npz: No such file or directory"),
        (("--inputs", "text.txt"), "text.txt is not an .npz of arrays"),
        (("--inputs", "y.npz"), "got an unexpected keyword argument 'y'"),
        (("--inputs", "huge.npz"), "beyond what single precision holds"),
        (("--inputs", "words.npz"), "x has type <U1, which MLX has no array for"),
        (("--inputs", "long.npz"), "x has integers that do not fit into 32 bits"),
        (("--inputs", "wide.npz"), "model cannot be called on x of shape (2, 9)"),
        (("--features", "y.npz"), "features: y has shape (3, 1), but there are 256"),
        (("--features", "flat.npz"), "features: c does not vary over the inputs"),
        (("--features", "flat.npz", "--reduction", "full"), "features are over inputs"),
        (("--reduction", "mean"), "reduction 'mean' is unknown"),
        (("--reduction", "0,7"), "class 7 is outside 0…0"),
        (("--output", "1"), "output 1 chooses among several, the model returns one"),
        (("--parameters", "nothing.*"), "parameters has nothing.*: the model has"),
        (("--top", "0"), "top is 0"),
        (("--memory-limit", "lots"), "'lots' is not a size"),
        (("--memory-limit", "1kB"), "one input takes"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_exit_code_2(
    kernel: Command, parity: Path, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    (tmp_path / "text.txt").write_text("no arrays")
    mx.save_safetensors(str(tmp_path / "other.safetensors"), {"w": mx.ones(3)})
    np.savez(tmp_path / "y.npz", y=np.ones((3, 1)))
    np.savez(tmp_path / "words.npz", x=np.array(["a"]))
    np.savez(tmp_path / "wide.npz", x=np.ones((2, 9)))
    np.savez(tmp_path / "long.npz", x=np.full((2, 8), 2**32 + 5))
    np.savez(tmp_path / "huge.npz", x=np.full((9, 8), 1e25))
    np.savez(tmp_path / "flat.npz", c=np.ones((256, 1)))
    given = {"--model": MODEL, "--inputs": str(parity / "inputs.npz"), "--out": "run"}
    given |= dict(zip(arguments[::2], arguments[1::2], strict=True))

    code, output, errors = kernel(*(part for pair in given.items() for part in pair))

    assert (code, output) == (2, "")
    lines = [line for line in errors.splitlines() if line.startswith("Error: ")]
    assert len(lines) == 1
    assert message in lines[0]
    assert "Traceback" not in errors
    if "--memory-limit" not in arguments and "huge.npz" not in arguments:
        assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("file", "named", "message"),
    [
        ("model.safetensors", ("--model", MODEL), "its weights are not the run's"),
        ("onnx/traced.onnx", (), "traced.onnx is damaged: it is not the graph of this run"),
        ("inputs.npz", (), "inputs.npz is damaged"),
    ],
)
def test_a_run_whose_model_or_inputs_were_altered_is_not_verified(
    kernel: Command,
    mlx_entk: Command,
    parity: Path,
    file: str,
    named: tuple[str, ...],
    message: str,
) -> None:
    inputs = ("--inputs", parity / "inputs.npz", "--out", "run", "-q")
    assert kernel("--model", MODEL, *inputs)[0] == 0
    if file == "inputs.npz":
        np.savez("run/inputs.npz", x=np.zeros((256, 8), dtype=np.float32))
    else:
        whole = bytearray((Path("run") / file).read_bytes())
        whole[-3] ^= 1
        (Path("run") / file).write_bytes(whole)

    code, output, errors = mlx_entk("verify", "run", *named, "-q")

    assert (code, output) == (2, "")
    assert message in errors


TWO_INPUTS = """
import mlx.core as mx
import mlx.nn as nn


class Masked(nn.Module):
    def __init__(self):
        super().__init__()
        mx.random.seed(0)
        self.dense = nn.Linear(3, 4)
        self.head = nn.Linear(4, 2)

    def __call__(self, x, mask):
        hidden = mx.tanh(self.dense(x * mask))
        return {"hidden": hidden, "logits": self.head(hidden)}


class Flat(Masked):
    def __call__(self, x):
        return super().__call__(x, mx.ones_like(x))["logits"]
"""


@pytest.fixture
def arrays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, np.ndarray]:
    (tmp_path / "two_inputs.py").write_text(TWO_INPUTS)
    monkeypatch.delitem(sys.modules, "two_inputs", raising=False)
    draw = np.random.default_rng(0)
    return {"mask": (draw.random((12, 3)) > 0.4) * 1.0, "x": draw.standard_normal((12, 3))}


def test_a_model_of_several_inputs_and_outputs(
    kernel: Command, mlx_entk: Command, arrays: dict[str, np.ndarray], tmp_path: Path
) -> None:
    np.savez(tmp_path / "inputs.npz", x=arrays["x"], mask=arrays["mask"])
    np.savez(tmp_path / "y.npz", y=np.arange(12) % 2)
    model = ("--model", "two_inputs:Masked", "--inputs", "inputs.npz")

    code, _, errors = kernel(
        *model, "--output", "logits", "--parameters", "dense.*", "--by-layer", "--out", "run"
    )

    assert (code, "Error" in errors) == (0, False)
    names = {path.name for path in (tmp_path / "run" / "kernels").iterdir()}
    assert names == {"dense.weight.npy", "dense.bias.npy"}
    regress = ("regress", "run", "--targets", "y.npz", "-q")
    code, _, errors = mlx_entk(*regress)
    assert code == 2
    line = f"mlx-entk {' '.join(regress)} --model two_inputs:Masked"
    assert errors == (
        "Error: run keeps no graph of its model, which code makes; that is only run if you name "
        f"it. If you trust it, run: {line}\n"
    )
    assert mlx_entk(*line.split()[1:])[0] == 0
    assert "at initialisation" in Path("run/regression.json").read_text()
    code, _, errors = mlx_entk("verify", "run", "-q")
    assert code == 2
    assert "run is a run of a model with several inputs: only models with one" in errors


def test_inputs_in_an_npy(
    kernel: Command, mlx_entk: Command, arrays: dict[str, np.ndarray], tmp_path: Path
) -> None:
    np.save(tmp_path / "x.npy", arrays["x"])

    code, _, errors = kernel("--model", "two_inputs:Flat", "--inputs", "x.npy", "--out", "run")

    assert (code, "Error" in errors) == (0, False)
    assert mlx_entk("verify", "run", "--against", "onnxruntime", "-q")[0] == 0


def test_an_explanation_is_no_part_of_json(
    kernel: Command, arrays: dict[str, np.ndarray], tmp_path: Path
) -> None:
    np.save(tmp_path / "x.npy", arrays["x"])
    common = ("--model", "two_inputs:Flat", "--inputs", "x.npy", "--explain", "--out", "run")

    code, output, errors = kernel(*common, "--json")

    assert code == 0
    assert json.loads(output)["report"] == "run/report.html"
    assert "structured: (a·a′)(δ·δ′)" in errors
    assert "structured" not in kernel(*common, "--quiet")[1]


def test_a_block_of_two_classes_is_no_kernel(
    kernel: Command, arrays: dict[str, np.ndarray], tmp_path: Path
) -> None:
    np.save(tmp_path / "x.npy", arrays["x"])

    code, _, errors = kernel(
        "--model", "two_inputs:Flat", "--inputs", "x.npy", "--reduction", "0,1", "--out", "run"
    )

    assert code == 2
    assert "reduction 0,1 is a block of the kernel, not a kernel: it has no spectrum" in errors
    assert not (tmp_path / "run").exists()


PAYLOAD = """
open("was-run", "w").close()
def make(): raise SystemExit
"""


@pytest.mark.parametrize("keeps_graph", [True, False])
def test_a_run_folder_runs_no_code(
    kernel: Command, mlx_entk: Command, parity: Path, tmp_path: Path, keeps_graph: bool
) -> None:
    """Its config.json names a module that lies where a payload would: in it, and below it."""
    assert kernel("--model", MODEL, "--inputs", parity / "inputs.npz", "--out", "run", "-q")[0] == 0
    np.savez("y.npz", y=np.arange(256.0)[:, None] % 2)
    for place in (tmp_path, tmp_path / "run", tmp_path / "run" / "onnx"):
        (place / "payload.py").write_text(PAYLOAD)
    for file in ("config.json", "results.json"):
        stored = read_json(tmp_path / "run" / file)
        stored["config"]["model"] = "payload:make"
        if "graph" in stored and not keeps_graph:
            stored["graph"] = ""
        write_json(tmp_path / "run" / file, stored)

    commands = [
        ("regress", "run", "--targets", "y.npz"), ("verify", "run"), ("export", "run"),
        ("export", "run", "--what", "entk", "--out", "k.onnx"), ("show", "run"),
        ("report", "run"), ("runs", "."), ("compare", "run", "run"),
    ]  # fmt: skip
    outcomes = [mlx_entk(*command, "-q") for command in commands]

    assert not list(tmp_path.rglob("was-run"))
    assert "payload" not in sys.modules
    expected = [0] * len(commands) if keeps_graph else [2] * 4 + [0] * 4
    assert [code for code, _, _ in outcomes] == expected, outcomes
    if not keeps_graph:
        assert all("--model payload:make" in errors for _, _, errors in outcomes[:4])


def test_what_names_no_code_is_not_repeated_in_a_line_to_paste(
    kernel: Command, mlx_entk: Command, parity: Path, tmp_path: Path
) -> None:
    assert kernel("--model", MODEL, "--inputs", parity / "inputs.npz", "--out", "run", "-q")[0] == 0
    for file in ("config.json", "results.json"):
        stored = read_json(tmp_path / "run" / file)
        stored["config"]["model"] = "x:y; rm -rf ~"
        write_json(tmp_path / "run" / file, stored | ({"graph": ""} if "results" in file else {}))

    _, _, errors = mlx_entk("verify", "run", "-q")

    assert errors.endswith("run: mlx-entk verify run -q --model MODULE:FACTORY\n")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--no-controls", "--initial", "weights.safetensors"), "--initial is a control"),
        (("--initial", "inputs.npz"), "--initial inputs.npz does not fit"),
        (("--groups", "1-x"), "--groups 1-x: write FIRST-LAST,…"),
        (("--groups", "5-300"), "modes 5–300: the run has 200 modes"),
        (("--factors", "--reduction", "full"), "a full kernel is over inputs and classes"),
        (("--disentangle", "pca"), "'pca' is not one of 'varimax', 'ica', 'dictionary'"),
    ],
)
def test_controls_that_cannot_be_are_refused(
    kernel: Command, parity: Path, options: tuple[str, ...], message: str
) -> None:
    for file in parity.iterdir():
        Path(file.name).symlink_to(file)
    given = ("--inputs", "inputs.npz", "--features", "features.npz", "--out", "run")

    code, _, errors = kernel("--model", MODEL, *given, *options)

    assert (code, errors.count("\n")) == (2, 1)
    assert message in errors
    assert not Path("run").exists()


def test_a_kernel_can_do_without_controls(kernel: Command, parity: Path) -> None:
    given = ("--inputs", parity / "inputs.npz", "--features", parity / "features.npz")
    weights = ("--weights", parity / "weights.safetensors")

    code, output, _ = kernel("--model", MODEL, *given, *weights, "--no-controls", "--out", "run")

    assert code == 0
    results = json.loads(Path("run/results.json").read_text())
    assert results["controls"]["rows"] == []
    assert results["cliffs_before"] is None
    assert all(row["shuffled"] is None for row in results["alignment"])
    assert "alone" not in output
    assert not Path("run/kernels-before-training").exists()


def test_inputs_come_from_files_joined_and_from_functions(kernel: Command, parity: Path) -> None:
    with np.load(parity / "inputs.npz") as stored:
        x = stored["x"]
    np.save("first.npy", x[:100])
    np.savez("rest.npz", x=x[100:])
    np.save("label.npy", x[:, 0] * x[:, 1])
    Path("mine.py").write_text(
        "import numpy as np\nfrom examples.sparse_parity import make_model as model\n"
        "def half(): return np.load('first.npy')\n"
        "def rest(): return {'x': np.load('rest.npz')['x']}\n"
    )
    found = []
    for model, inputs in (
        (MODEL, ("--inputs", parity / "inputs.npz")),
        (MODEL, ("--inputs", "first.npy", "--inputs", "rest.npz")),
        ("mine.py:model", ("--inputs", "mine.py:half", "--inputs", "mine.py:rest")),
    ):
        code, output, errors = kernel(
            "--model", model, *inputs, "--features", "label.npy", "--groups", "1-8", "--json"
        )
        assert code == 0, errors
        found.append(json.loads(output)["results"])
        assert found[-1].pop("config")["model"] == model
    assert found[0] == found[1] == found[2]
    assert found[0]["mode_features"] == ["label"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("--inputs", "a.npy", "--inputs", "b.npy"), "other shapes cannot be joined: a.npy (3, 8)"),
        (("--inputs", "a.npy", "--inputs", "ab.npz"), "cannot be joined: some have more arrays"),
        (("--inputs", "nowhere.npy"), "nowhere.npy"),
        (("--inputs", "no.py:f"), "--inputs no.py:f cannot be imported"),
        (
            ("--inputs", "a.npy", "--parameters", "layers.0.wieght"),
            "the model has layers.0.weight, ",
        ),
    ],
)
def test_inputs_that_do_not_fit_are_one_line(
    kernel: Command, tmp_path: Path, given: tuple[str, ...], message: str
) -> None:
    np.save("a.npy", np.ones((3, 8)))
    np.save("b.npy", np.ones((3, 9)))
    np.savez("ab.npz", a=np.ones((3, 8)), b=np.ones((3, 8)))
    code, output, errors = kernel("--model", MODEL, *given)
    assert (code, output, errors.count("\n")) == (2, "", 1)
    assert message in errors
