"""Interventions on trained networks: edits against NumPy in float64, and their controls."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from numpy.typing import NDArray

from mlx_entk import InputError
from mlx_entk._records import from_json, to_json
from mlx_entk.runs import Run
from mlx_entk.studies import modular_mlp, modular_transformer, toy_models
from mlx_entk.studies.base import intervention_problem_of
from mlx_entk.studies.intervention.intervene import (
    OTHER_EQUAL,
    PRINCIPAL,
    RANDOM,
    intervene,
    intervention_of,
)
from mlx_entk.studies.intervention.problem import InterventionProblem, along
from mlx_entk.studies.intervention.records import Edit, Interval, Intervention
from mlx_entk.studies.intervention.show import intervention_figures, intervention_summary
from mlx_entk.studies.modular_mlp.study import dataset
from mlx_entk.studies.modular_transformer import TransformerConfig
from mlx_entk.studies.running import run_study
from mlx_entk.tracing.functions import ParametricFunction

MLP = modular_mlp.MLPConfig(p=17, width=256, train_fraction=0.85, epochs=200)
TOY = toy_models.TMSConfig(n=12, m=6, rows=200, steps=1500, sparsity=0.9)


@pytest.fixture(scope="module")
def mlp(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return run_study(modular_mlp.STUDY, MLP, tmp_path_factory.mktemp("mlp") / "run")


@pytest.fixture(scope="module")
def problem(mlp: Run) -> InterventionProblem:
    return intervention_problem_of(mlp)


@pytest.fixture(scope="module")
def undone(problem: InterventionProblem) -> tuple[Intervention, dict[str, NDArray[Any]]]:
    return intervene(problem)


def control(edit: Edit, name: str) -> Interval:
    found = edit.control(name)
    assert found is not None
    return found.after["test accuracy"]


def test_the_network_cannot_add_without_the_group_of_the_sum(
    undone: tuple[Intervention, dict[str, NDArray[Any]]],
) -> None:
    found, _ = undone
    second, first = found.edits
    assert (second.modes, first.modes) == ((33, 64), (1, 32))
    assert found.before["test accuracy"] == 1
    assert second.after["test accuracy"] < 0.2
    assert second.after["test accuracy"] < control(second, RANDOM).low
    assert second.after["test accuracy"] < control(second, OTHER_EQUAL).low
    assert second.alone is not None
    assert second.alone["test accuracy"] > 0.9
    assert first.after["test accuracy"] > 0.9
    assert first.alone is not None
    assert first.alone["test accuracy"] < 0.3


def test_what_is_undone_is_the_projection_in_numpy(
    mlp: Run, undone: tuple[Intervention, dict[str, NDArray[Any]]]
) -> None:
    """The whole edit again in float64, from the weights and the closed form of the gradients."""
    found, arrays = undone
    data = dataset(MLP)
    x, p, H = data.x.astype(np.float64), MLP.p, MLP.width
    before, after = (
        [
            np.array(mlp.load_checkpoint(epoch)[f"model.{name}.weight"], dtype=np.float64)
            for name in ("hidden", "readout")
        ]
        for epoch in (0, mlp.checkpoints[-1])
    )
    W1, W2 = after
    hidden = x @ W1.T / np.sqrt(2 * p)
    slopes, activations = 2 * hidden / (H * np.sqrt(2 * p)), hidden**2 / H
    kernel = (x @ x.T) * ((slopes * (W2**2).sum(axis=0)) @ slopes.T)
    vectors = np.linalg.eigh(kernel + p * activations @ activations.T)[1][:, ::-1]
    learned = np.concatenate([(a - b).ravel() for a, b in zip(after, before, strict=True)])
    for edit in found.edits:
        assert edit.modes is not None
        chosen = vectors[:, edit.modes[0] : edit.modes[1] + 1]
        first = np.einsum("nk,nh,ni->khi", chosen, slopes, x, optimize=True)
        first = np.einsum("ch,khi->kchi", W2, first)
        second = np.einsum("nk,nh,cd->kcdh", chosen, activations, np.eye(p), optimize=True)
        count = chosen.shape[1] * p
        rows = np.concatenate([first.reshape(count, -1), second.reshape(count, -1)], axis=1)
        basis = np.linalg.svd(rows, full_matrices=False)[2]
        undone_part = basis.T @ (basis @ learned)
        theta = np.concatenate([W1.ravel(), W2.ravel()]) - undone_part
        V1, V2 = theta[: W1.size].reshape(W1.shape), theta[W1.size :].reshape(W2.shape)
        outputs = (x @ V1.T / np.sqrt(2 * p)) ** 2 @ V2.T / H
        assert edit.norm == pytest.approx(np.linalg.norm(undone_part), rel=1e-3)
        np.testing.assert_allclose(
            arrays[f"outputs/{edit.name}"], outputs, atol=3e-3 * np.abs(outputs).max()
        )


def test_each_frequency_is_taken_out_alone(
    undone: tuple[Intervention, dict[str, NDArray[Any]]],
) -> None:
    found, _ = undone
    assert len(found.singles) == 8
    assert found.dominant == 8
    for row in found.singles:
        assert row.own(found.features) < -0.8
        assert row.specificity > 0.8
        assert row.random_specificity.high < 0.7
    assert found.cumulative[-1].features == 8
    assert found.cumulative[-1].value.mean < found.cumulative[-1].random.mean


def test_controls_have_the_norm_that_they_claim(
    undone: tuple[Intervention, dict[str, NDArray[Any]]],
) -> None:
    found, _ = undone
    for edit in found.edits:
        for row in edit.controls:
            if "equal norm" in row.name or "shrunk" in row.name:
                assert row.norm.low == pytest.approx(edit.norm, rel=1e-3)
                assert row.norm.high == pytest.approx(edit.norm, rel=1e-3)
        random = edit.control(RANDOM)
        assert random is not None
        assert random.draws == 20
        assert edit.control(PRINCIPAL) is not None
        assert [edit.doses[0].value, edit.doses[-1].value] == [
            found.before["test accuracy"],
            edit.after["test accuracy"],
        ]
        assert edit.linear.deviation[0] < 0.01


def test_the_record_survives_json_and_every_figure_can_be_drawn(
    mlp: Run, undone: tuple[Intervention, dict[str, NDArray[Any]]], tmp_path: Path
) -> None:
    found, arrays = undone
    assert from_json(Intervention, to_json(found), "record") == found
    names = [figure.name for figure in intervention_figures(found, arrays)]
    assert names == [
        f"intervention-{name}"
        for name in ("effects", "dose", "linear", "features", "cumulative", "maps")
    ]
    mlp.save_intervention(to_json(found), arrays)
    assert intervention_of(mlp) == found
    assert set(mlp.intervention_arrays) == set(arrays)
    mlp.file("intervention.npz").write_bytes(b"")
    with pytest.raises(InputError, match="damaged"):
        _ = mlp.intervention_arrays


def test_a_sentence_says_only_what_the_controls_support(
    undone: tuple[Intervention, dict[str, NDArray[Any]]],
) -> None:
    found, _ = undone
    second = found.edits[0]
    said = intervention_summary(replace(found, edits=[second], singles=[]))
    assert "At equal norm, random changes leave" in said
    assert "It takes more than" in said
    same = replace(second, after=dict.fromkeys(second.after, control(second, RANDOM).mean))
    told = intervention_summary(replace(found, edits=[same], singles=[]))
    assert "random changes" in told.split("no more than")[1]
    nothing = replace(second, after=found.before)
    told = intervention_summary(replace(found, edits=[nothing], singles=[]))
    assert "leaves the test accuracy at 100.0%" in told
    assert "more than" not in told


def test_projections_and_steps_need_no_weights_before_training(
    problem: InterventionProblem,
) -> None:
    unknown = replace(problem, initial=None, features=None, groups=[(33, 64)])
    with pytest.raises(InputError, match="--by undo: the weights before training are not known"):
        intervene(unknown, "undo")
    assert intervene(unknown)[0].by == "project"
    stepped, _ = intervene(unknown, "step", [(33, 34)], "readout.*")
    assert [edit.name for edit in stepped.edits] == ["mode 33", "mode 34"]
    assert stepped.parameters == ["readout.weight"]
    size = float(mx.linalg.norm(problem.function.params["readout.weight"]))
    for edit in stepped.edits:
        assert edit.norm == pytest.approx(0.1 * size, rel=1e-3)
        assert edit.alone is None
        assert [dose.dose for dose in edit.doses] == [k / 10 for k in range(-10, 11)]


def test_bad_requests_get_one_line(problem: InterventionProblem) -> None:
    with pytest.raises(
        InputError, match=r"modes 5–9999: above rounding the kernel of the run has \d+ modes"
    ):
        intervene(problem, modes=[(5, 9999)])
    with pytest.raises(InputError, match="parameters has nothing"):
        intervene(problem, parameters="nothing")
    with pytest.raises(InputError, match="no group of modes"):
        intervene(replace(problem, groups=[]))
    with pytest.raises(InputError, match="nothing was learned"):
        intervene(replace(problem, initial=dict(problem.function.params)))


def test_features_that_the_outputs_do_not_hold_are_left_out(problem: InterventionProblem) -> None:
    assert problem.features is not None
    held = problem.features.strengths

    def strengths(outputs: NDArray[np.float64]) -> dict[str, float]:
        return held(outputs) | {"frequency 2": 0.0}

    found, _ = intervene(
        replace(problem, features=replace(problem.features, strengths=strengths)),
        modes=[(33, 34)],
    )
    assert "frequency 2" not in found.features
    assert [row.feature for row in found.singles] == found.features
    assert len(found.singles) == 7


def test_an_edit_after_which_outputs_overflow_is_one_line(problem: InterventionProblem) -> None:
    far = {name: value + 1e20 for name, value in problem.function.params.items()}
    with pytest.raises(InputError, match="outputs of the network after an edit"):
        intervene(replace(problem, initial=far), modes=[(33, 64)])


def test_parameters_without_a_gradient_are_refused(problem: InterventionProblem) -> None:
    function = problem.function

    def apply(values: dict[str, mx.array], *x: mx.array) -> mx.array:
        own = {name: value for name, value in values.items() if name != "unused"}
        return function.apply(own, *x)

    idle = replace(
        problem,
        function=ParametricFunction({**function.params, "unused": mx.ones((3,))}, apply),
        initial=dict(problem.initial or {}) | {"unused": mx.zeros((3,))},
    )
    with pytest.raises(InputError, match="nothing lies along them in unused"):
        intervene(idle, parameters="unused")


def test_a_mode_of_a_toy_model_removes_its_own_feature(tmp_path: Path) -> None:
    run = run_study(toy_models.TOY_MODEL, TOY, tmp_path / "toy")
    found, _ = intervene(intervention_problem_of(run), "project")
    assert len(found.singles) >= 3
    assert found.dominant == len(found.singles)
    for row in found.singles:
        assert row.own(found.features) < row.random_own.low
        assert row.specificity > row.random_specificity.high
        assert row.selectivity is not None
        assert row.random_selectivity is not None
        assert row.selectivity > row.random_selectivity.high


def test_a_transformer_has_interventions_too(tmp_path: Path) -> None:
    config = TransformerConfig(p=5, d_model=8, heads=2, d_mlp=16, epochs=40, seed=0)
    run = run_study(modular_transformer.STUDY, config, tmp_path / "transformer")
    found, arrays = intervene(intervention_problem_of(run))
    assert [edit.modes for edit in found.edits]
    assert {"unembedding", "W_in"} <= set(found.parameters)
    assert arrays["grid/trained"].shape == (5, 5)


def test_directions_along_a_family_lie_inside_the_modes() -> None:
    generator = np.random.default_rng(0)
    modes = np.linalg.qr(generator.standard_normal((20, 6)))[0]
    family = modes[:, :2] @ generator.standard_normal((2, 2))
    family -= family.mean(axis=0)
    found = along(modes, family)
    np.testing.assert_allclose(found.T @ found, np.eye(found.shape[1]), atol=1e-12)
    np.testing.assert_allclose(modes @ (modes.T @ found), found, atol=1e-12)
    assert along(modes, generator.standard_normal((20, 2))).shape[1] <= 2
