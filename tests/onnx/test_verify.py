"""Verification: what agrees passes, and every kind of disagreement is caught."""

import sys
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper

from mlx_entk import InputError
from mlx_entk._files import Json
from mlx_entk._records import to_json
from mlx_entk.kernel import Reduction
from mlx_entk.onnx import CHECKERS, Agreement, Subject, all_passed, derivative, export, verify
from mlx_entk.onnx import torch_runtime as torch_runtime_module
from mlx_entk.onnx.agreement import agreement_of
from mlx_entk.onnx.derivatives import What
from mlx_entk.report import Table
from mlx_entk.runs import Run
from mlx_entk.studies.verification import verification_of, verification_table
from mlx_entk.tracing.functions import as_parametric
from tests.models import MLP, Convolution, Image, Superposition, Transformer
from tests.onnx.layers import TOKENS, Chain, normal

GRAPHS: tuple[What, ...] = ("model", "jvp", "entk")


def subject_of(module: nn.Module, x: mx.array, folder: Path, reduction: Reduction) -> Subject:
    function = as_parametric(module)
    paths: dict[What, Path] = {}
    for what in GRAPHS:
        exported = derivative(function, x, what, reduction)
        paths[what] = folder / f"{what}.onnx"
        export(
            exported.function, list(exported.inputs.values()), paths[what],
            params=function.params, input_names=list(exported.inputs), batches=exported.batches,
        )  # fmt: skip
    return Subject(function, x, reduction, paths)


def change_weight(path: Path, by: float) -> None:
    model = onnx.load(path)
    tensor = next(t for t in model.graph.initializer if t.name == "layers.0.weight")
    array = numpy_helper.to_array(tensor).copy()
    array[0, 0] += by
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    path.write_bytes(model.SerializeToString())


@pytest.mark.parametrize("reduction", ["trace", "sum-of-logits", "full", (0, 1), (1, 1)])
def test_all_three_checkers_pass_for_every_reduction(reduction: Reduction, tmp_path: Path) -> None:
    agreements = verify(subject_of(MLP([3, 5, 2]), normal(6, 3), tmp_path, reduction))

    assert [row.checker for row in agreements] == [
        "onnxruntime", "onnxruntime", "finite-differences", "finite-differences",
        "finite-differences", "torch", "torch",
    ]  # fmt: skip
    assert all(row.passed for row in agreements)
    kernels = [row for row in agreements if row.quantity == "kernel"]
    assert len(kernels) == 3
    for row in kernels:
        assert row.spectrum is None or row.spectrum < 1e-6
        assert row.angle is None or row.angle < 1e-2
        assert (row.spectrum is None) == (row.angle is None) == (reduction == (0, 1))


@pytest.mark.parametrize(
    ("module", "x"),
    [
        (Superposition(), normal(5, 5)),
        (Transformer(), TOKENS),
        (Convolution(), normal(4, 4, 2)),
        (Image(), normal(3, 5, 6, 2)),
        (Chain(nn.Linear(3, 5), nn.GELU(), nn.Linear(5, 2)), normal(6, 3)),
        (Chain(nn.GRU(3, 2)), normal(4, 4, 3)),
        (Chain(nn.Linear(3, 4), nn.Conv1d(4, 4, 2, groups=2)), normal(4, 5, 3)),
        (Chain(nn.Linear(3, 4), lambda h: mx.pad(h, [(0, 0), (1, 0)])), normal(4, 3)),
        (Chain(nn.Linear(3, 4), nn.InstanceNorm(4, affine=True)), normal(4, 3, 3)),
        (Chain(nn.Linear(3, 4), lambda h: mx.sort(h, axis=-1)), normal(4, 3)),
        (Chain(nn.Linear(3, 4), lambda h: mx.prod(h, axis=-1, keepdims=True)), normal(4, 3)),
    ],
)
def test_other_architectures_pass(module: nn.Module, x: mx.array, tmp_path: Path) -> None:
    assert all(row.passed for row in verify(subject_of(module, x, tmp_path, "trace")))


@pytest.mark.parametrize(
    ("graph", "failing"),
    [
        ("model", {"onnxruntime: outputs", "torch: outputs", "torch: kernel"}),
        ("entk", {"onnxruntime: kernel", "finite-differences: kernel"}),
        ("jvp", {"finite-differences: J u, 4 directions"}),
    ],
)
def test_a_changed_weight_is_caught_in_whichever_graph_it_is(
    graph: What, failing: set[str], tmp_path: Path
) -> None:
    subject = subject_of(MLP([3, 5, 2]), normal(6, 3), tmp_path, "trace")
    change_weight(subject.graphs[graph], 0.01)

    failed = {f"{row.checker}: {row.quantity}" for row in verify(subject) if not row.passed}

    assert failing <= failed


def test_a_weight_changed_by_a_rounding_still_passes(tmp_path: Path) -> None:
    subject = subject_of(MLP([3, 5, 2]), normal(6, 3), tmp_path, "trace")
    change_weight(subject.graphs["model"], 1e-7)

    assert all(row.passed for row in verify(subject, ["onnxruntime", "torch"]))


def test_graphs_of_another_model_are_refused(tmp_path: Path) -> None:
    subject = subject_of(MLP([3, 5, 2]), normal(6, 3), tmp_path, "trace")
    wider = Subject(as_parametric(MLP([3, 6, 2])), subject.x, "trace", subject.graphs)
    shallower = Subject(as_parametric(MLP([3, 2])), subject.x, "trace", subject.graphs)

    with pytest.raises(InputError, match=r"has layers\.0\.weight, .* of another shape"):
        verify(wider)
    with pytest.raises(InputError, match=r"the model lacks, layers\.1\.bias, layers\.1\.weight"):
        verify(shallower)
    with pytest.raises(InputError, match=f"no checker numpy: use {', '.join(CHECKERS)}"):
        verify(subject, ["numpy"])


def test_a_checker_that_is_not_installed_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject = subject_of(MLP([3, 2]), normal(4, 3), tmp_path, "trace")
    monkeypatch.setitem(sys.modules, "torch", None)

    with pytest.raises(InputError, match=r"needs the extra torch: pip install 'mlx-entk\[torch\]'"):
        verify(subject, ["torch"])


def test_a_checker_that_cannot_run_says_so_and_stops_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject = subject_of(MLP([3, 5, 2]), normal(6, 3), tmp_path, "trace")
    known = torch_runtime_module.operators_of(torch)
    monkeypatch.setattr(
        torch_runtime_module,
        "operators_of",
        lambda _: {k: v for k, v in known.items() if k != "Tanh"},
    )

    for against in (CHECKERS, CHECKERS[::-1]):  # wherever it stands
        agreements = verify(subject, against)

        stopped = [row for row in agreements if row.status == "not run"]
        assert [(row.checker, row.quantity) for row in stopped] == [
            ("torch", "outputs"), ("torch", "kernel"),
        ]  # fmt: skip
        assert {row.checker for row in agreements if row.passed} == {
            "onnxruntime",
            "finite-differences",
        }
        assert all_passed(agreements)
    row, _ = verify(subject, ["torch"])
    assert (row.status, row.passed, row.max_error, row.graphs) == (
        "not run",
        False,
        None,
        ["model"],
    )
    assert row.reason == "verification by PyTorch lacks operator Tanh"
    assert not all_passed([row])
    assert not all_passed([])


def spoil(path: Path, domain: str = "elsewhere") -> None:
    """Let a graph end in an operator that nobody has."""
    model = onnx.load(path)
    name = model.graph.output[0].name
    next(node for node in model.graph.node if node.output[0] == name).output[0] = "before"
    model.graph.node.append(helper.make_node("Relu", ["before"], [name], domain=domain))
    model.opset_import.append(helper.make_opsetid(domain, 1))
    path.write_bytes(model.SerializeToString())


def test_one_graph_that_does_not_run_stops_only_what_needs_it(tmp_path: Path) -> None:
    subject = subject_of(MLP([3, 5, 2]), normal(6, 3), tmp_path, "trace")
    spoil(subject.graphs["entk"])

    agreements = verify(subject)

    assert [(row.checker, row.quantity, row.status) for row in agreements] == [
        ("onnxruntime", "outputs", "passed"), ("onnxruntime", "kernel", "not run"),
        ("finite-differences", "outputs in double", "passed"),
        ("finite-differences", "J u, 4 directions", "passed"),
        ("finite-differences", "kernel", "passed"),
        ("torch", "outputs", "passed"), ("torch", "kernel", "passed"),
    ]  # fmt: skip
    assert "Relu" in agreements[1].reason
    assert all_passed(agreements)


@pytest.mark.parametrize("how", ["missing", "spoiled"])
def test_finite_differences_are_compared_with_mlx_where_no_derivative_graph_runs(
    how: str, tmp_path: Path
) -> None:
    subject = subject_of(MLP([3, 5, 2]), normal(6, 3), tmp_path, "trace")
    for what in ("jvp", "entk"):
        if how == "missing":
            del subject.graphs[what]
        else:
            spoil(subject.graphs[what])

    agreements = verify(subject, ["finite-differences"])

    assert [(row.quantity, row.graphs, row.tolerance) for row in agreements] == [
        ("outputs in double", ["model"], 1e-5), ("J u, 4 directions", ["model"], 1e-4),
        ("kernel", ["model"], 1e-4),
    ]  # fmt: skip
    assert all(row.passed for row in agreements)
    change_weight(subject.graphs["model"], 0.01)
    assert not any(row.passed for row in verify(subject, ["finite-differences"]))


def test_a_graph_that_could_not_be_written_says_why(tmp_path: Path) -> None:
    subject = subject_of(MLP([3, 5, 2]), normal(6, 3), tmp_path, "trace")
    del subject.graphs["entk"]
    subject.missing["entk"] = "MLX has no rule"

    agreements = verify(subject)

    assert [(row.checker, row.reason) for row in agreements if row.status == "not run"] == [
        ("onnxruntime", "there is no graph entk of this model: MLX has no rule")
    ]
    assert all_passed(agreements)
    assert {row.checker for row in agreements if row.passed} == set(CHECKERS)


class Scaled(MLP):
    """With a parameter that has no axes."""

    def __init__(self) -> None:
        super().__init__([3, 5, 2])
        self.scale = mx.array(1.5)

    def __call__(self, x: mx.array) -> mx.array:
        return self.scale * super().__call__(x)


def test_a_parameter_without_axes_counts(tmp_path: Path) -> None:
    assert all(row.passed for row in verify(subject_of(Scaled(), normal(6, 3), tmp_path, "trace")))


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16])
def test_models_in_half_precision_have_its_tolerance(dtype: mx.Dtype, tmp_path: Path) -> None:
    module = MLP([3, 5, 2])
    module.set_dtype(dtype)
    subject = subject_of(module, normal(6, 3).astype(dtype), tmp_path, "trace")

    agreements = verify(subject)

    assert all(row.passed for row in agreements)
    assert [row.tolerance for row in agreements] == [0.1, 0.1, 0.1, 1e-6, 1e-6, 0.1, 0.1]


def test_the_table_shows_what_was_not_run_and_what_earlier_versions_stored(
    tmp_path: Path,
) -> None:
    passed = agreement_of("onnxruntime", "outputs", np.ones((2, 2)), np.ones((2, 2)), "forward")
    failed = agreement_of("torch", "outputs", np.full((2, 2), np.nan), np.ones((2, 2)), "forward")
    rows = [
        passed,
        failed,
        Agreement.not_run("torch", "kernel", ["model"], "operator Foo is missing"),
    ]
    stored = {"inputs": 2, "reduction": "trace", "passed": False, "not_installed": []}
    new = to_json(rows)
    later = ("status", "graphs")
    old = [{key: value for key, value in row.items() if key not in later} for row in new[:2]]

    def table_of(comparisons: list[Json]) -> Table:
        run = Run.create(tmp_path / "run", "any", {})
        run.save_verification({**stored, "comparisons": comparisons})
        verification = verification_of(run)
        assert verification is not None
        return verification_table(verification)

    table, before = table_of(new), table_of(old)

    assert [row[-1] for row in table.rows] == ["passed", "FAILED", "not run"]
    assert [row[2] for row in table.rows] == ["0.0e+00", "NaN", ""]
    assert table.rows[2][:2] == ("torch", "kernel")
    assert "Not run: torch kernel, because operator Foo is missing." in str(table.note)
    assert before.rows == table.rows[:2]


def test_a_kernel_that_vanishes_agrees_with_itself() -> None:
    zero = np.zeros((3, 3))

    assert agreement_of("torch", "kernel", zero, zero, "kernel", symmetric=True).passed
    assert not agreement_of("torch", "kernel", zero + 1e-3, zero, "kernel", symmetric=True).passed


def test_the_angle_is_between_spaces_that_are_apart() -> None:
    """A turn of the leading plane by 0.1 radian; modes of eigenvalue zero do not count."""
    turn = np.eye(5)
    turn[[0, 0, 3, 3], [0, 3, 0, 3]] = np.cos(0.1), -np.sin(0.1), np.sin(0.1), np.cos(0.1)
    values = np.diag([3.0, 2.0, 0.5, 0.4, 0.0])

    row = agreement_of("torch", "kernel", turn @ values @ turn.T, values, "kernel", symmetric=True)

    assert row.modes == 2
    assert row.angle == pytest.approx(np.degrees(0.1))
    assert row.spectrum == pytest.approx(0, abs=1e-12)
    assert not row.passed


def test_nothing_finite_passes_as_nan() -> None:
    row = agreement_of("torch", "outputs", np.array([[np.nan]]), np.ones((1, 1)), "forward")

    assert not row.passed
    kernel = agreement_of(
        "torch", "kernel", np.full((2, 2), np.nan), np.eye(2), "kernel", symmetric=True
    )
    assert not kernel.passed
