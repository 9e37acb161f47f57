"""``mlx-entk export``, ``verify`` and ``kernel --onnx``, as a reader calls them."""

import hashlib
import json
from functools import partial
from pathlib import Path

import mlx.core as mx
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from mlx_entk import entk, layerwise_entk
from mlx_entk.onnx import CHECKERS, derivatives, export
from mlx_entk.onnx.derivatives import Rows
from mlx_entk.runs import Run
from mlx_entk.studies.base import network_of
from mlx_entk.tracing.rules import Examined
from tests.conftest import Command, Finished
from tests.models import MLP
from tests.onnx.layers import normal
from tests.reference import relative_error

STUDIES = {
    "tms": ("tms", "--n", "5", "--m", "2", "--rows", "30", "--steps", "60"),
    "mlp": ("modular", "mlp", "--p", "5", "--width", "16", "--epochs", "40"),
    "transformer": ("modular", "transformer", "--p", "5", "--d-model", "8", "--heads", "2",
                    "--d-mlp", "16", "--epochs", "60"),
}  # fmt: skip


@pytest.mark.parametrize("study", STUDIES)
def test_every_study_exports_and_is_verified(
    mlx_entk: Command, finished: Finished, study: str
) -> None:
    finished("run", *STUDIES[study])

    code, output, _ = mlx_entk("verify", "run")

    assert code == 0
    assert "FAILED" not in output
    stored = json.loads(Path("run/verification.json").read_text())
    assert stored["passed"]
    assert {row["checker"] for row in stored["comparisons"]} == set(CHECKERS)
    assert {row["quantity"] for row in stored["comparisons"]} >= {"outputs", "kernel"}
    assert "Verification of the" in Path("run/report.html").read_text()
    for what in ("model", "jacobian", "vjp", "jvp"):
        code, output, _ = mlx_entk("export", "run", "--what", what)
        graph, batch, tried = output.splitlines()
        assert (code, graph) == (0, f"Graph: run/onnx/{what}.onnx")
        assert batch == "Batch: any size"
        assert tried.endswith("agrees with MLX on the example inputs and on larger batches")
        onnx.checker.check_model(f"run/onnx/{what}.onnx", full_check=True)


def test_the_json_of_a_verification_says_what_was_verified(
    mlx_entk: Command, finished: Finished
) -> None:
    finished("run", *STUDIES["tms"])

    code, output, _ = mlx_entk("verify", "run", "--json")

    found, stored = json.loads(output)["verification"], Run.load(Path("run")).verification
    assert code == 0
    assert stored is not None
    assert {key: found[key] for key in stored} == stored
    network = network_of(Run.load(Path("run")))
    count = sum(value.size for value in network.function.params.values())
    assert (stored["model"]["run"], stored["model"]["study"]) == ("run", "tms")
    assert stored["model"]["parameters"] == count
    assert [graph["graph"] for graph in stored["graphs"]] == ["model", "jvp", "entk"]
    for graph in stored["graphs"]:
        data = Path("run", graph["file"]).read_bytes()
        assert graph["sha256"] == hashlib.sha256(data).hexdigest()
    for row in stored["comparisons"]:
        assert row["status"] == "passed"
        assert row["max_error"] <= row["tolerance"]
        assert set(row["graphs"]) <= {"model", "jvp", "entk"}


def test_a_graph_that_takes_one_size_alone_says_so(
    mlx_entk: Command, finished: Finished, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished("run", *STUDIES["mlp"])
    monkeypatch.setattr("mlx_entk.onnx.derivatives._find_rows", unmapped)

    _, output, _ = mlx_entk("export", "run", "--what", "jacobian")

    _, batch, tried = output.splitlines()
    assert batch == "Batch: fixed: it was exported for the batch size of its example"
    assert tried.endswith("on the example inputs, whose size is the only one that it takes")


def unmapped(examined: Examined, x: mx.array, C: int) -> tuple[Rows, bool]:
    return derivatives._one_by_one(examined.function), False


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [("tms",), ("modular", "mlp"), ("modular", "transformer", "--epochs", "400")],
)
def test_every_study_is_verified_at_its_own_size(
    mlx_entk: Command, command: tuple[str, ...]
) -> None:
    assert mlx_entk(*command, "--out", "run")[0] == 0

    assert mlx_entk("verify", "run")[0] == 0


def test_onnxruntime_alone_computes_the_kernel_of_new_inputs(
    mlx_entk: Command, finished: Finished
) -> None:
    finished("run", *STUDIES["mlp"])
    network = network_of(Run.load(Path("run")))
    x, x2 = network.x[:7], network.x[3:9]

    code, output, _ = mlx_entk(
        "export", "run", "--what", "entk", "--reduction", "sum-of-logits", "--out", "k.onnx"
    )

    assert (code, output.splitlines()[0]) == (0, "Graph: k.onnx")
    session = onnxruntime.InferenceSession("k.onnx", providers=["CPUExecutionProvider"])
    (kernel,) = session.run(["kernel"], {"x": np.array(x), "x2": np.array(x2)})
    expected = entk(network.function, x, x2, reduction="sum-of-logits")
    assert relative_error(kernel, expected) < 1e-5
    described = {entry.key: entry.value for entry in onnx.load("k.onnx").metadata_props}
    assert described["reduction"] == "sum-of-logits"
    assert json.loads(described["config"])["p"] == 5
    assert "mlx" in json.loads(described["provenance"])["versions"]


def test_a_changed_weight_fails_with_exit_code_1(mlx_entk: Command, finished: Finished) -> None:
    finished("run", *STUDIES["tms"])
    mlx_entk("export", "run")
    model = onnx.load("run/onnx/model.onnx")
    weight = model.graph.initializer[0]
    changed = numpy_helper.to_array(weight) * np.float32(1.001)
    weight.CopyFrom(numpy_helper.from_array(changed, weight.name))
    onnx.save(model, "run/onnx/model.onnx")

    code, output, _ = mlx_entk("verify", "run", "--against", "onnxruntime")

    assert code == 1
    assert "FAILED" in output
    assert json.loads(Path("run/verification.json").read_text())["passed"] is False


def test_a_damaged_graph_is_named(mlx_entk: Command, finished: Finished) -> None:
    finished("run", *STUDIES["tms"])
    mlx_entk("export", "run")
    whole = Path("run/onnx/model.onnx").read_bytes()
    Path("run/onnx/model.onnx").write_bytes(whole[: len(whole) // 2])

    code, _, errors = mlx_entk("verify", "run")

    assert code == 2
    assert "Error: run/onnx/model.onnx is not an ONNX model, or is damaged" in errors


def test_a_model_without_mlx_code_goes_the_whole_way(mlx_entk: Command) -> None:
    module, x = MLP([3, 6, 2]), normal(40, 3)
    export(module, [x], Path("mine.onnx"))
    np.savez("x.npz", x=np.array(x))
    np.savez("y.npz", y=np.array(module(x)))
    kernel = partial(mlx_entk, "kernel", "--onnx", "mine.onnx", "--inputs", "x.npz")

    assert kernel("--by-layer", "--out", "run")[0] == 0
    whole = np.load("run/kernels/layers.1.weight.npy")
    assert relative_error(
        whole, layerwise_entk(module, x, reduction="trace")["layers.1.weight"]
    ) < 1e-5  # fmt: skip
    Path("mine.onnx").rename("elsewhere.onnx")  # the run has a copy of its own
    assert mlx_entk("regress", "run", "--targets", "y.npz")[0] == 0
    assert mlx_entk("verify", "run")[0] == 0
    Path("elsewhere.onnx").rename("mine.onnx")

    assert kernel("--parameters", "layers.1.*", "--by-layer", "--out", "part")[0] == 0
    assert sorted(path.stem for path in Path("part/kernels").glob("*.npy")) == [
        "layers.1.bias",
        "layers.1.weight",
    ]
    export(MLP([3, 6, 2], seed=1), [x], Path("mine.onnx"))
    code, _, errors = kernel("--by-layer", "--out", "run")
    assert code == 2
    assert "belongs to another configuration" in errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("verify", "none"), "none is not a folder"),
        (("verify", "run", "--against", "numpy"), "no checker numpy: use onnxruntime"),
        (("export", "none"), "none is not a folder"),
        (("export", "run", "--what", "entk", "--reduction", "mean"), "'mean' is unknown"),
        (("export", "run", "--reduction", "trace"), "--reduction goes with --what entk"),
        (("export", "run", "--what", "hessian"), "'hessian' is not one of"),
        (("export", "paper"), "which did not train exactly one network"),
        (("kernel", "--inputs", "x.npz", "--out", "k"), "--model MODULE:FACTORY, or --onnx FILE"),
        (
            ("kernel", "--onnx", "text.onnx", "--inputs", "x.npz", "--out", "k"),
            "text.onnx is not an ONNX model",
        ),
        (
            ("kernel", "--onnx", "m.onnx", "--output", "z", "--inputs", "x.npz", "--out", "k"),
            "the model has no output 'z': it has output",
        ),
        (
            ("kernel", "--onnx", "m.onnx", "--parameters", "z*", "--inputs", "x.npz", "--out", "k"),
            "no initializer matches z*: there are layers.0.weight",
        ),
        (
            ("kernel", "--onnx", "m.onnx", "--weights", "w.npz", "--inputs", "x.npz", "--out", "k"),
            "--weights goes with --model",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_one_line_and_exit_code_2(
    mlx_entk: Command, finished: Finished, arguments: tuple[str, ...], message: str
) -> None:
    if "run" in arguments:
        finished("run", *STUDIES["tms"])
    if "paper" in arguments:
        finished("paper", "tms", "--paper", "--rows", "6", "--steps", "20")
    Path("text.onnx").write_text("weights and biases")
    export(MLP([3, 2]), [mx.ones((2, 3))], Path("m.onnx"))
    np.savez("x.npz", x=np.ones((4, 3), dtype=np.float32))
    np.savez("w.npz")

    code, output, errors = mlx_entk(*arguments)

    assert (code, output) == (2, "")
    lines = [line for line in errors.splitlines() if line.startswith("Error: ")]
    assert len(lines) == 1
    assert message in lines[0]
    assert not Path("k").exists()
    assert not Path("run/onnx").exists()
