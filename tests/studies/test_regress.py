from dataclasses import asdict, is_dataclass, replace
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from mlx_entk import InputError
from mlx_entk.regression import KernelModes, modes_of_kernel
from mlx_entk.studies.problem import (
    ACTIVATIONS,
    AT_INITIALISATION,
    SHUFFLED_INPUTS,
    RegressionProblem,
    problem_of_model,
)
from mlx_entk.studies.regression.regress import (
    LINEARISED,
    LINEARISED_SHUFFLED,
    PURE,
    RIDGES,
    regress,
)
from mlx_entk.studies.regression.show import regression_summary, regression_tables
from tests.models import MLP

x = mx.random.normal((40, 3), key=mx.random.key(0))
y: np.ndarray = np.sin(np.array(x)[:, :2])


class Halves(nn.Module):
    """What it computes varies over the inputs; what it may be differentiated by does not count."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = mx.ones((3, 2))
        self.bias = mx.zeros((2,))
        self.freeze(keys="weight")

    def __call__(self, x: mx.array) -> mx.array:
        return x @ self.weight + mx.maximum(self.bias - 1, 0)


def finite(value: Any) -> bool:
    if is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    if isinstance(value, dict):
        return all(finite(part) for part in value.values())
    if isinstance(value, list | tuple):
        return all(finite(part) for part in value)
    return not isinstance(value, float) or bool(np.isfinite(value))


def test_a_kernel_of_zeros_explains_nothing() -> None:
    regression = regress(problem_of_model(Halves(), None, x, y))

    assert finite(regression)
    assert regression.rank == 0
    by_modes = regression.modes
    assert by_modes.top == []
    assert by_modes.without_mode == []
    assert by_modes.cliffs == []
    by_name = {row.predictor: row for row in regression.predictors}
    assert by_name[LINEARISED].r2 == by_name[LINEARISED_SHUFFLED].r2 == 1
    assert by_name[LINEARISED].described is None
    assert by_name[PURE].r2 <= 0


def test_a_kernel_before_training_may_be_zero() -> None:
    dead = MLP((3, 8, 2))
    for layer in dead.layers:
        layer.weight, layer.bias = mx.zeros_like(layer.weight), mx.zeros_like(layer.bias)
    dead.layers[-1].freeze()

    regression = regress(problem_of_model(MLP((3, 8, 2)), dead, x, y))

    assert finite(regression)
    assert [row.predictor for row in regression.predictors] == [
        PURE, SHUFFLED_INPUTS, AT_INITIALISATION, ACTIVATIONS, LINEARISED, LINEARISED_SHUFFLED
    ]  # fmt: skip


@pytest.mark.parametrize("rank", [1, 2, 9, 11])
def test_kernels_of_any_rank_are_explained(rank: int) -> None:
    J = np.random.default_rng(0).standard_normal((40, rank))
    K = J @ J.T
    modes = modes_of_kernel(K[:28, :28], K[28:, :28])
    outputs = np.random.default_rng(1).standard_normal((40, 2))

    regression = regress(
        RegressionProblem(
            "trace", modes, {}, (outputs[:28], outputs[28:]), (outputs[:28], outputs[28:])
        )
    )

    assert finite(regression)
    assert [row.k for row in regression.modes.top][-1] == regression.rank == rank


@pytest.mark.parametrize(
    ("targets", "classes"),
    [
        (np.arange(40) % 2, True), ((np.arange(40) % 2).astype(np.uint64), True),
        (np.arange(40) % 2 == 0, True), (mx.arange(40) % 2, True),
        ((np.arange(40) % 2).tolist(), True), (y.astype(np.float16), False), (y > 0, False),
        (mx.array(y).astype(mx.bfloat16), False), (np.round(y).astype(int), False),
    ],
)  # fmt: skip
def test_targets_of_any_kind_are_fitted(targets: Any, classes: bool) -> None:
    problem = problem_of_model(MLP((3, 8, 2)), None, x, targets)

    assert (problem.labels is not None) == classes
    assert problem.targets[0].shape == (28, 2)
    assert finite(regress(problem))


def broken(rows: list[int], value: float = np.nan) -> np.ndarray:
    targets = y.copy()
    targets[rows, 0] = value
    return targets


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (broken([7]), r"1 of 40 inputs (7) has NaN or infinite targets"),
        (broken([3, 4], np.inf), r"2 of 40 inputs (3, 4) have NaN or infinite targets"),
        (
            broken(list(range(9))),
            r"9 of 40 inputs (0, 1, 2, 3, 4, …) have NaN or infinite targets",
        ),
        (np.full(40, np.nan), "40 of 40 inputs (0, 1, 2, 3, 4, …) have NaN or infinite targets"),
        (np.ones(40), "targets must be 40 classes from 0 to 1"),
        (np.arange(40), "targets must be 40 classes from 0 to 1"),
        (np.float64(1), "targets have shape (), the model's outputs (40, 2)"),
        (np.ones((40, 3)), "targets have shape (40, 3), the model's outputs (40, 2)"),
        (np.ones((40, 2)) * 1j, "targets has type complex128: pass real numbers"),
        (np.full(40, "a"), "targets has type <U1: pass real numbers"),
    ],
)
def test_targets_that_do_not_fit_are_refused(targets: Any, message: str) -> None:
    with pytest.raises(InputError) as raised:
        problem_of_model(MLP((3, 8, 2)), None, x, targets)
    assert str(raised.value) == message


def test_outputs_that_are_not_finite_are_refused() -> None:
    far = mx.array(np.where(np.arange(40)[:, None] == 5, 1e30, np.array(x)))

    class Square(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = mx.ones((3, 2))

        def __call__(self, x: mx.array) -> mx.array:
            return (x @ self.weight) ** 2

    with pytest.raises(InputError) as raised:
        problem_of_model(Square(), None, far, y)
    assert str(raised.value) == "1 of 40 inputs (5) has NaN or infinite outputs of the model"


def test_too_few_inputs_are_refused() -> None:
    with pytest.raises(InputError, match="10 inputs are too few"):
        problem_of_model(MLP((3, 8, 2)), None, x[:10], y[:10])
    assert finite(regress(problem_of_model(MLP((3, 8, 2)), None, x[:12], y[:12])))


def problem(**changed: Any) -> RegressionProblem:
    modes = KernelModes(np.ones(1), np.ones((6, 1)) / np.sqrt(6), np.ones((5, 1)))
    parts = np.arange(12.0).reshape(6, 2), np.arange(10.0).reshape(5, 2)
    arguments: dict[str, Any] = {
        "kernel": "trace", "modes": modes, "controls": {}, "network": parts, "targets": parts,
    }  # fmt: skip
    return RegressionProblem(**arguments | changed)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"targets": (np.ones((6, 2)), np.r_[np.nan, np.ones(9)].reshape(5, 2))},
            "1 of 5 held-out inputs (0) has NaN or infinite targets",
        ),
        (
            {"network": (np.r_[np.inf, np.ones(11)].reshape(6, 2), np.ones((5, 2)))},
            "1 of 6 training inputs (0) has NaN or infinite outputs of the network",
        ),
        (
            {"network": (np.ones((6, 2)), np.full((5, 2), 0.1) + 1e-9 * np.eye(5)[:, :2])},
            "the network gives all held-out inputs the same outputs: there is nothing that its "
            "kernel could describe",
        ),
        (
            {name: (np.ones((6, 2)), np.ones((3, 2))) for name in ("network", "targets")},
            "3 inputs are held out: R² needs at least 4",
        ),
    ],
)
def test_problems_without_a_meaning_are_refused(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as raised:
        regress(problem(**changed))
    assert str(raised.value) == message


def regression_of_fitted_model() -> Any:
    """A network with one trained direction: its kernel predicts it, kernels of noise do not."""
    generator = np.random.default_rng(0)
    inputs = generator.standard_normal((120, 4))
    outputs = inputs @ generator.standard_normal((4, 2))
    noise = generator.standard_normal((120, 4))

    def modes(features: np.ndarray) -> KernelModes:
        kernel = features @ features.T
        return modes_of_kernel(kernel[:84, :84], kernel[84:, :84])

    return regress(
        RegressionProblem(
            "trace",
            modes(inputs),
            {SHUFFLED_INPUTS: modes(noise), ACTIVATIONS: modes(inputs[:, :3])},
            (outputs[:84], outputs[84:]),
            (outputs[:84] + 1e-3, outputs[84:] + 1e-3),
            features={"first": inputs[:84, :1]},
        )
    )


def test_the_linearised_predictor_passes_with_any_kernel_and_so_has_no_verdict() -> None:
    by_name = {row.predictor: row for row in regression_of_fitted_model().predictors}

    assert by_name[LINEARISED].r2 > 0.99
    assert by_name[LINEARISED_SHUFFLED].r2 > 0.99  # a kernel of noise does as well
    assert by_name[LINEARISED].described is by_name[LINEARISED_SHUFFLED].described is None
    assert by_name[PURE].described
    assert not by_name[SHUFFLED_INPUTS].described
    assert by_name[SHUFFLED_INPUTS].r2 < 0.1


def test_the_ridge_is_not_at_the_edge_of_those_tried_and_says_so_if_it_is() -> None:
    regression = regression_of_fitted_model()
    pure = regression.predictors[0]

    assert not pure.at_edge
    assert RIDGES[0] < pure.ridge < RIDGES[-1]
    flat = regress(problem_of_model(Halves(), None, x, y)).predictors[0]  # a kernel of zeros
    assert flat.at_edge


def test_groups_are_compared_with_random_modes_and_aligned_with_features() -> None:
    regression = regression_of_fitted_model()

    table = regression_tables(regression)[1]
    for row in regression.modes.without_group:
        assert row.random.deviation >= 0
        assert any("random modes" in cells[0] for cells in table.rows)
    assert {row.family for row in regression.alignment} <= {"first"}


@pytest.mark.parametrize("control", [None, "network"])
def test_the_sentence_says_what_the_pure_kernel_and_its_controls_do(control: str | None) -> None:
    regression = regression_of_fitted_model()
    rows = list(regression.predictors)
    sentence = regression_summary(regression)
    assert sentence.startswith("The pure kernel describes the network by the stated rule (R² ")
    assert f"; {SHUFFLED_INPUTS}: " in sentence
    assert "linearised" not in sentence

    if control is None:
        rows[0] = replace(rows[0], described=False, r2=0.2)
        sentence = regression_summary(replace(regression, predictors=rows))
        assert sentence.startswith("The pure kernel does not describe the network")
    else:
        rows[1] = replace(rows[1], described=True)
        sentence = regression_summary(replace(regression, predictors=rows))
        assert f"So does the {SHUFFLED_INPUTS}" in sentence
