"""Toy models at a size that CI can run, and (slow) at the paper's."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from mlx_entk import InputError, entk, flatten, jacobian_modes
from mlx_entk._records import from_json, to_json
from mlx_entk.models import ToyModel
from mlx_entk.runs import Run, run_folders
from mlx_entk.studies.base import problem_of
from mlx_entk.studies.problem import ACTIVATIONS, AT_INITIALISATION, SHUFFLED_INPUTS
from mlx_entk.studies.regression.regress import LINEARISED, LINEARISED_SHUFFLED, regress
from mlx_entk.studies.running import run_study
from mlx_entk.studies.toy_models import (
    DOUBLE_DESCENT,
    PAPER,
    TOY_MODEL,
    DescentConfig,
    TMSConfig,
)
from mlx_entk.studies.toy_models.paper import MODELS, ModelResults, PaperResults, paper_configs
from mlx_entk.studies.toy_models.show import PAPER_SHOW
from mlx_entk.studies.toy_models.study import (
    INITIAL,
    NETWORKS,
    SHUFFLED,
    TRAINED,
    TMSResults,
    own_feature_shares,
    rescaled_jacobian,
)
from mlx_entk.studies.toy_models.training import dataset
from tests import reference

SMALL = TMSConfig(n=12, m=4, sparsity=0.7, rows=60, steps=1500)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return run_study(TOY_MODEL, SMALL, tmp_path_factory.mktemp("tms") / "run")


def test_the_model_is_the_formula() -> None:
    model = ToyModel(5, 2, seed=1)
    model.b = mx.random.normal((5,), key=mx.random.key(0))
    x = np.random.default_rng(0).random((4, 5)).astype(np.float32)
    W, b = np.array(model.W), np.array(model.b)

    np.testing.assert_allclose(model(mx.array(x)), np.maximum(x @ W.T @ W + b, 0), atol=1e-6)


def closed_form_jacobian(W: np.ndarray, b: np.ndarray, x: np.ndarray) -> np.ndarray:
    """∂f/∂(W, b) of ReLU(WᵀW x + b) in float64, rows channel-major: W enters twice."""
    W, b, x = (np.asarray(a, dtype=np.float64) for a in (W, b, x))
    (m, n), N = W.shape, len(x)
    active = (x @ W.T @ W + b > 0).astype(np.float64)
    hidden = x @ W.T
    J = np.zeros((n, N, m * n + n))
    for c in range(n):
        by_W = np.einsum("k,ni->nki", W[:, c], x)  # encoder
        by_W[:, :, c] += hidden  # decoder
        J[c, :, : m * n] = by_W.reshape(N, -1)
        J[c, :, m * n + c] = 1
        J[c] *= active[:, c, None]
    return J.reshape(n * N, -1)


def test_modes_by_the_small_side_are_those_of_the_dense_kernel_in_float64() -> None:
    """n = 12, D = 60: eigenvalues, and the spaces that belong to them, to 1e-6."""
    model = ToyModel(12, 4, seed=3)
    x = dataset(SMALL).x
    dense = closed_form_jacobian(np.array(model.W), np.array(model.b), x)
    K = dense @ dense.T
    values, vectors = np.linalg.eigh(K)
    values, vectors = values[::-1], vectors[:, ::-1]

    spectrum, every = jacobian_modes(rescaled_jacobian(model, x, np.ones(12)), 40)

    np.testing.assert_allclose(spectrum.values, values[:40], atol=1e-6 * values[0])
    np.testing.assert_allclose(every, values[: every.size], atol=1e-6 * values[0])
    residuals = np.linalg.norm(K @ spectrum.vectors - spectrum.vectors * spectrum.values, axis=0)
    assert residuals.max() < 1e-6 * values[0]
    np.testing.assert_allclose(spectrum.vectors.T @ spectrum.vectors, np.eye(40), atol=1e-6)
    gap = int(np.argmax(-np.diff(np.log(values[:40])))) + 1
    ours, theirs = spectrum.vectors[:, :gap], vectors[:, :gap]
    np.testing.assert_allclose(ours @ ours.T, theirs @ theirs.T, atol=1e-6)


@pytest.mark.parametrize("alone", [False, True])
def test_the_kernel_of_an_output_is_judged_by_the_feature_that_it_should_copy(alone: bool) -> None:
    """Against the closed form, for the inputs of a study and for each feature alone."""
    model = ToyModel(12, 4, seed=3)
    model.b = mx.array([-9.0, *[0.0] * 11])  # the first output is zero everywhere
    x = np.eye(12, dtype=np.float32) if alone else dataset(SMALL).x
    N, outputs = len(x), (1, 7)
    J = closed_form_jacobian(np.array(model.W), np.array(model.b), x).reshape(12, N, -1)

    shares = own_feature_shares(model, x)

    assert shares.shape == (12, N)
    assert not shares[0].any()
    for c in outputs:
        vectors, values, _ = np.linalg.svd(J[c], full_matrices=False)
        expected = (vectors.T @ x[:, c] / np.linalg.norm(x[:, c])) ** 2
        assert shares[c, 0] == pytest.approx(expected[0], abs=1e-4)
        kept = values > 1e-3 * values[0]
        assert shares[c].sum() == pytest.approx(expected[kept].sum(), abs=1e-3)


@pytest.mark.parametrize("rows", [3, 60])
def test_either_side_of_the_jacobian_gives_the_same_modes(rows: int) -> None:
    model = ToyModel(12, 4, seed=3)
    x = dataset(SMALL).x[:rows]
    kernel = flatten(entk(model, mx.array(x))).astype(np.float64)

    spectrum, _ = jacobian_modes(rescaled_jacobian(model, x, np.ones(12)), 10)

    expected = np.linalg.eigvalsh(kernel)[::-1][:10]
    np.testing.assert_allclose(spectrum.values, expected, rtol=1e-4)
    with pytest.raises(InputError, match="has 1 to 36 modes"):
        jacobian_modes(np.ones((36, 60)), 37)


def test_rescaling_is_that_of_the_kernel_by_importance() -> None:
    model = ToyModel(12, 4, seed=3)
    x = dataset(SMALL).x[:10]
    importances = SMALL.importances**0.3
    D = np.repeat(np.sqrt(importances), 10)
    kernel = flatten(entk(model, mx.array(x)))

    rows = rescaled_jacobian(model, x, importances)

    assert reference.relative_error(rows @ rows.T, D[:, None] * kernel * D) < 1e-5


def test_the_trained_network_beats_its_null_models(small: Run) -> None:
    results = TOY_MODEL.results_of(small)
    trained, shuffled = (results.kernel(network, 0.3) for network in (TRAINED, SHUFFLED))

    assert results.reconstructed[TRAINED] > results.reconstructed[INITIAL]
    assert results.loss["train loss"] < 0.5 * small.metrics[0]["train loss"]
    assert trained.recovered > shuffled.recovered
    assert trained.recovered_by_random_modes == 0
    assert trained.recovered > results.recovered_by_constants
    assert {row.beta for row in results.kernels} == {0.0, 0.3, 1.0}


def test_the_same_settings_give_the_same_results(small: Run, tmp_path: Path) -> None:
    again = run_study(TOY_MODEL, SMALL, tmp_path / "again")

    assert again.results == small.results
    for name, array in small.arrays.items():
        np.testing.assert_array_equal(array, again.arrays[name])


def test_a_finished_run_is_not_computed_again_and_its_parts_are_not_listed(small: Run) -> None:
    stamp = (small.path / "results.json").stat().st_mtime_ns
    run_study(TOY_MODEL, SMALL, small.path)

    assert (small.path / "results.json").stat().st_mtime_ns == stamp
    assert run_folders(small.path.parent) == [small.path]


def test_fresh_inputs_train_too(tmp_path: Path) -> None:
    config = TMSConfig(n=8, m=3, rows=40, steps=300, dataset="fresh", importance=0.9)

    run = run_study(TOY_MODEL, config, tmp_path / "run")

    assert run.metrics[-1]["test loss"] < run.metrics[0]["test loss"]
    assert list(TOY_MODEL.results_of(run).loss) == ["test loss"]
    assert np.linalg.norm(run.arrays["x"], axis=1).max() > 1.01


@pytest.mark.parametrize("betas", [(), (0.0,), (0.5,)])
def test_any_exponents_are_shown(betas: tuple[float, ...], tmp_path: Path) -> None:
    config = TMSConfig(n=4, m=2, rows=10, steps=20, betas=betas)

    run = run_study(TOY_MODEL, config, tmp_path / "run")

    results = TOY_MODEL.results_of(run)
    assert f"at β = {max(betas, default=0):g}" in " ".join(TOY_MODEL.show.summary(results))
    assert (run.path / "figures" / "recovery.png").stat().st_size > 0


def test_the_three_models_are_runs_of_their_own_and_stand_together(tmp_path: Path) -> None:
    run = run_study(PAPER, TMSConfig(rows=6, steps=20), tmp_path / "run")

    results = PAPER.results_of(run)
    assert list(results.models) == list(MODELS) == ["dense", "sparse", "wide"]
    assert results.models["wide"].config.m == 40
    assert run.arrays["wide/alignment/trained/1"].shape[1] == 50
    for name, config in paper_configs(results.config).items():
        inner = Run.load(run.path / name)
        assert inner.results == to_json(results.models[name])
        assert TOY_MODEL.config_of(inner) == config


def test_regression_reports_both_predictors_and_what_modes_carry(small: Run) -> None:
    regression = regress(problem_of(small))

    predictors = {row.predictor: row for row in regression.predictors}
    assert list(predictors) == [
        "pure kernel", SHUFFLED_INPUTS, AT_INITIALISATION, ACTIVATIONS, LINEARISED,
        LINEARISED_SHUFFLED,
    ]  # fmt: skip
    assert predictors["linearised"].r2 > 0.8
    pure, initial = predictors["pure kernel"], predictors["pure kernel at initialisation"]
    assert pure.r2 > initial.r2
    top = regression.modes.top
    assert top[-1].k == regression.rank
    assert top[-1].r2 == pytest.approx(regression.modes.all.r2)
    assert top[0].r2 < top[-1].r2


def test_double_descent_has_a_row_for_each_size(tmp_path: Path) -> None:
    config = DescentConfig(n=8, m=2, steps=200, sizes=(3, 30))

    run = run_study(DOUBLE_DESCENT, config, tmp_path / "run")

    few, many = DOUBLE_DESCENT.results_of(run).sizes
    assert (few.rows, many.rows) == (3, 30)
    assert few.test_loss > few.train_loss
    assert Run.load(run.path / "rows-3").config == to_json(config.at_size(3))


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"dataset": "fresh"}, "over fixed datasets"), ({"sizes": (0, 5)}, r"rows are \[0, 5\]"),
     ({"sizes": ()}, r"rows are \[\]"), ({"n": 0}, "n is 0")],
)  # fmt: skip
def test_sizes_and_settings_of_double_descent_without_meaning_are_refused(
    settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        DescentConfig(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n": 0}, "n is 0"),
        ({"rows": 0}, "rows is 0"),
        ({"sparsity": 1.0}, "sparsity is 1.0"),
        ({"importance": 0.0}, "importance is 0.0"),
        ({"dataset": "other"}, "dataset 'other' is unknown"),
        ({"steps": 3}, "steps is 3"),
        ({"seed": -1}, "seed is -1"),
        ({"betas": (-1.0,)}, "betas are"),
    ],
)
def test_settings_without_meaning_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        TMSConfig(**settings)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_numbers_of_the_paper(seed: int, tmp_path: Path) -> None:
    """Features reconstructed, the cliff at all features, recovery beyond the null models."""
    expected = {"dense": (10, 1), "sparse": (21, 3), "wide": (42, 3)}
    for name, config in paper_configs(TMSConfig(seed=seed)).items():
        results = TOY_MODEL.results_of(run_study(TOY_MODEL, config, tmp_path / name))
        count, spread = expected[name]
        assert abs(results.reconstructed[TRAINED] - count) <= spread, name
        before = [cliff.before for cliff in results.kernel(TRAINED).cliffs]
        assert any(abs(mode - 50) <= 2 for mode in before), (name, before)
        counts = {
            (network, beta): results.kernel(network, beta).recovered
            for network in (TRAINED, INITIAL, SHUFFLED)
            for beta in (0.3, 1.0)
        }
        assert counts[TRAINED, 0.3] > counts[INITIAL, 0.3]
        assert counts[TRAINED, 0.3] > counts[SHUFFLED, 0.3]
        if name != "dense":  # there it is the outputs' blocks that are sparse
            rows = [results.kernel(network, 0.3) for network in (TRAINED, INITIAL, SHUFFLED)]
            found = [row.recovered_by_disentangled_modes or 0 for row in rows]
            assert found[0] > 1.3 * counts[TRAINED, 0.3]
            assert found[0] > 3 * max(found[1:])
            assert rows[0].shuffled_recovered_by_disentangled_modes == 0
        if name != "sparse":  # for which it does not hold in every seed
            assert counts[TRAINED, 0.3] > counts[TRAINED, 1.0]


@pytest.mark.slow
def test_eighty_modes_of_the_largest_flattened_kernel_take_little_memory() -> None:
    """25,000 rows: the kernel itself would take 2.5 GB in float32, and its decomposition hours."""
    code = """
from benchmarks.contestants import peak_bytes
from mlx_entk import jacobian_modes
from mlx_entk.models import ToyModel
from mlx_entk.studies.toy_models import TMSConfig
from mlx_entk.studies.toy_models.study import rescaled_jacobian
from mlx_entk.studies.toy_models.training import dataset
config = TMSConfig(m=40)
rows = rescaled_jacobian(ToyModel(50, 40), dataset(config).x, config.importances)
print(*jacobian_modes(rows, 80)[0].vectors.shape, peak_bytes())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    rows, modes, peak = map(int, done.stdout.split())
    assert (rows, modes) == (25_000, 80)
    assert peak < 3e9


def test_the_last_checkpoint_over_training_is_the_trained_network(small: Run) -> None:
    results, values = TOY_MODEL.results_of(small), small.arrays["values over training"]
    first, last = results.training[0], results.training[-1]

    assert (first.step, last.step) == (0, SMALL.steps)
    assert len(results.training) == len(values) == len(small.checkpoints)
    for row, network in ((first, INITIAL), (last, TRAINED)):
        assert row.reconstructed == results.reconstructed[network]
        for beta, count in row.recovered.items():
            assert count == results.kernel(network, float(beta)).recovered
    trained = small.arrays["values/trained/0"]
    np.testing.assert_allclose(values[-1], trained[: values.shape[1]], rtol=1e-5)


def test_results_are_told_in_plain_sentences(small: Run) -> None:
    results = TOY_MODEL.results_of(small)

    first, second = TOY_MODEL.show.summary(results)

    assert first.startswith(f"The network reconstructs {results.reconstructed[TRAINED]} of 12")
    assert "at β = 0.3, compared with" in second
    overview, recovered, without = TOY_MODEL.show.tables(results)
    own = [row for row in without.rows if row[1] == "own output"]
    assert [row[0] for row in own] == list(NETWORKS)
    assert own[0][3] == str(results.recovered_by_own_output[TRAINED])
    assert "Without a kernel, the modes of the" in second
    assert ("seed, steps", "0, 1500") in overview.rows
    assert len(recovered.rows) == len(results.kernels) == 9
    assert recovered.columns[0] == "network"


def test_rotated_modes_stand_alongside_their_controls(small: Run) -> None:
    results = TOY_MODEL.results_of(small)

    rotated = [row for row in results.kernels if row.recovered_by_disentangled_modes is not None]
    assert [(row.network, row.beta) for row in rotated] == [(name, 0.3) for name in NETWORKS]
    for row in rotated:
        found, shuffled = (
            row.recovered_by_disentangled_modes, row.shuffled_recovered_by_disentangled_modes
        )  # fmt: skip
        assert found is not None
        assert shuffled is not None
        assert found <= row.contained
        assert row.contained_by_random_modes == 0
    trained = results.kernel(TRAINED, 0.3)
    assert trained.recovered_by_disentangled_modes >= trained.recovered  # type: ignore[operator]
    assert (
        f"Rotated to sparse directions by varimax, the {trained.modes} modes recover"
        in (TOY_MODEL.show.summary(results)[1])
    )
    best = results.best_control(TRAINED, disentangled=True)
    assert best.recovered_by_disentangled_modes == max(
        row.recovered_by_disentangled_modes or 0
        for row in results.controls
        if row.network == TRAINED
    )


def test_results_of_versions_that_rotated_nothing_are_told_without_it(small: Run) -> None:
    stored = to_json(TOY_MODEL.results_of(small))
    for row in [*stored["kernels"], *stored["controls"]]:
        for key in [key for key in row if "disentangled" in key or key.endswith("by_random_modes")]:
            if key != "recovered_by_random_modes":
                del row[key]

    results = from_json(TMSResults, stored, "results.json")

    assert "varimax" not in " ".join(TOY_MODEL.show.summary(results))
    assert len(TOY_MODEL.show.tables(results)) == 3
    model = ModelResults(**vars(results), study="toy-model")
    assert "varimax" not in PAPER_SHOW.summary(PaperResults(SMALL, {"dense": model}))[1]


def test_the_paper_says_how_many_features_a_constant_explains(small: Run) -> None:
    results = TOY_MODEL.results_of(small)

    def summary(constants: int) -> str:
        model = ModelResults(
            **vars(replace(results, recovered_by_constants=constants)), study="toy-model"
        )
        return PAPER_SHOW.summary(PaperResults(SMALL, {"dense": model}))[1]

    assert "A constant, which a bias alone gives, resembles 11 (dense)" in summary(11)
    assert "constant" not in summary(0)
    assert "Without a kernel, activations and outputs show" in summary(0)
