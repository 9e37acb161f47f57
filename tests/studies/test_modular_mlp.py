"""The study at a size that CI can run, and (slow) at the paper's size against its figures."""

import resource
import sys
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from mlx_entk._records import from_json, to_json
from mlx_entk.models import QuadraticMLP
from mlx_entk.spectrum import Modes
from mlx_entk.studies.modular_mlp import STUDY, MLPConfig, MLPResults
from mlx_entk.studies.modular_mlp.study import expected_groups
from mlx_entk.studies.results import Parts
from mlx_entk.studies.running import run_study


def results_of(config: MLPConfig, path: Path) -> MLPResults:
    return STUDY.results_of(run_study(STUDY, config, path))


def overlap(results: MLPResults, kernel: str, modes: Modes, family: str) -> float:
    wanted = (kernel, modes, family)
    (row,) = [r for r in results.alignment if (r.kernel, r.modes, r.family) == wanted]
    return row.overlap


def test_the_model_is_the_formula() -> None:
    model = QuadraticMLP(p=5, width=7, seed=2)
    x = np.random.default_rng(0).standard_normal((3, 10)).astype(np.float32)
    W1, W2 = np.array(model.hidden.weight), np.array(model.readout.weight)

    outputs = np.array(model(mx.array(x)))

    np.testing.assert_allclose(outputs, (x @ W1.T / np.sqrt(10)) ** 2 @ W2.T / 7, rtol=1e-4)


def test_weights_are_standard_normal_and_the_seed_decides_them() -> None:
    first, second, other = (QuadraticMLP(29, 512, seed) for seed in (0, 0, 1))
    weight = np.array(first.hidden.weight)

    assert abs(weight.mean()) < 0.02
    assert weight.std() == pytest.approx(1, abs=0.02)
    np.testing.assert_array_equal(weight, np.array(second.hidden.weight))
    assert not np.array_equal(weight, np.array(other.hidden.weight))


def test_the_expected_groups_are_those_of_the_paper() -> None:
    assert expected_groups(29) == ((1, 56), (57, 112))


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> MLPResults:
    return results_of(
        MLPConfig(p=23, width=256, train_fraction=0.8, epochs=200),
        tmp_path_factory.mktemp("small") / "run",
    )


def test_a_small_network_generalises_and_its_cliffs_hold_the_families(
    small: MLPResults,
) -> None:
    assert small.accuracy == Parts(train=1.0, test=1.0)
    assert [c.modes for c in small.cliffs["full"]] == [(0, 0), (1, 44), (45, 88)]
    assert overlap(small, "full", (1, 44), "n ∪ m") > 0.95 * 44
    assert overlap(small, "full", (45, 88), "sum") > 0.9 * 22
    assert overlap(small, "full", (45, 88), "difference") > 0.8 * 22


def test_layers_carry_different_families(small: MLPResults) -> None:
    """The hidden weights see n and m alone; the sum is in the readout."""
    first, second = expected_groups(23)
    assert overlap(small, "hidden.weight", first, "n ∪ m") > 0.99 * 44
    assert overlap(small, "hidden.weight", second, "sum") < 0.2 * 22
    assert overlap(small, "readout.weight", first, "sum") > 0.6 * 22


def test_the_overlap_with_the_sum_rises_with_the_test_accuracy(small: MLPResults) -> None:
    onset = small.grokking.onset
    assert onset.overlap.after > 2 * onset.overlap.before
    assert onset.overlap.onset <= onset.test_accuracy.completion
    assert abs(onset.steepest_overlap - onset.steepest_test_accuracy) <= 30


def test_the_sum_and_its_indicators_are_said_to_be_one_space(small: MLPResults) -> None:
    assert ["sum", "identity of n+m"] in small.equivalent_families
    assert ["n", "2n", "identity of n"] in small.equivalent_families


def test_each_disentangled_mode_is_nearly_one_frequency(small: MLPResults) -> None:
    assert small.disentangled
    for row in small.disentangled:
        assert row.single_frequency.median > 0.9


def test_probes_find_the_sum_behind_the_activation_and_only_after_training(
    small: MLPResults,
) -> None:
    held_out = {
        (row.network, row.activations, row.target): row.accuracy.held_out for row in small.probes
    }
    assert held_out["trained", "preactivations", "n"] == 1
    assert held_out["trained", "preactivations", "sum"] < 0.05
    assert held_out["trained", "activations", "sum"] == 1
    assert held_out["initial", "activations", "sum"] < 0.2
    assert held_out["trained", "logits", "sum"] == 1
    assert all(row.accuracy.shuffled_held_out < 0.2 for row in small.probes)


def test_results_of_versions_without_probes_are_read(small: MLPResults) -> None:
    stored = {key: value for key, value in to_json(small).items() if key != "probes"}

    read = from_json(MLPResults, stored, "results.json")

    assert read == replace(small, probes=[])


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_figures_of_the_paper_are_reproduced(seed: int, tmp_path: Path) -> None:
    results = results_of(MLPConfig(seed=seed), tmp_path / "run")

    assert results.accuracy == Parts(train=1.0, test=1.0)
    assert [c.modes for c in results.cliffs["full"]] == [(0, 0), (1, 56), (57, 112)]
    assert overlap(results, "full", (1, 56), "n ∪ m") >= 54
    assert overlap(results, "full", (57, 112), "sum") >= 25.5
    assert overlap(results, "full", (57, 112), "difference") >= 24
    assert 60 <= results.grokking.onset.steepest_overlap <= 110
    if sys.platform == "linux":  # kilobytes there
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 2e6


@pytest.mark.slow
def test_the_cyclic_embedding_trains_too(tmp_path: Path) -> None:
    results = results_of(MLPConfig(embedding="cyclic"), tmp_path / "run")

    assert results.accuracy.train == 1.0
