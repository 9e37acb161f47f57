"""The transformer study: its network and kernels against PyTorch, and a small run of it."""

from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
import torch

from mlx_entk import InputError, entk, layerwise_entk
from mlx_entk._parameters import flatten_tree
from mlx_entk.analysis import with_sums
from mlx_entk.data import modular_addition
from mlx_entk.models import ModularTransformer
from mlx_entk.runs import Run
from mlx_entk.studies.base import problem_of
from mlx_entk.studies.modular_transformer import STUDY, TransformerConfig, TransformerResults
from mlx_entk.studies.modular_transformer.study import MAIN, SUM, SUMS, expected_groups
from mlx_entk.studies.problem import ACTIVATIONS, AT_INITIALISATION, SHUFFLED_INPUTS
from mlx_entk.studies.regression.regress import regress
from mlx_entk.studies.running import run_study
from tests.reference import from_jacobian, relative_error

PARAMETERS = (
    "embedding", "position", "W_Q", "W_K", "W_V", "W_O", "W_in", "W_out", "unembedding",
)  # fmt: skip


def torch_logits(w: dict[str, torch.Tensor], tokens: torch.Tensor, heads: int) -> torch.Tensor:
    """The network as Nanda et al. define it: every query, causal mask, then the last position."""
    N, T = tokens.shape
    x = w["embedding"][tokens] + w["position"]
    q, k, v = (
        (x @ w[name].T).reshape(N, T, heads, -1).transpose(1, 2) for name in ("W_Q", "W_K", "W_V")
    )
    scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
    mask = torch.triu(torch.ones(T, T, dtype=torch.bool), diagonal=1)
    z = torch.softmax(scores.masked_fill(mask, float("-inf")), dim=-1) @ v
    x = x + z.transpose(1, 2).reshape(N, T, -1) @ w["W_O"].T
    x = x + torch.relu(x @ w["W_in"].T) @ w["W_out"].T
    return (x @ w["unembedding"].T)[:, -1]


def sharp_model() -> ModularTransformer:
    """With queries and keys that are large enough for the softmax to be far from uniform."""
    model = ModularTransformer(7, d_model=16, heads=4, d_mlp=24, seed=3)
    model.W_Q, model.W_K = 3 * model.W_Q, 3 * model.W_K
    return model


def weights_of(model: ModularTransformer) -> dict[str, torch.Tensor]:
    return {
        name: torch.from_numpy(np.array(value, dtype=np.float64))
        for name, value in flatten_tree(model.parameters()).items()
    }


def test_the_network_is_that_of_nanda() -> None:
    model, tokens = sharp_model(), modular_addition(7, 0.5, 0).tokens

    expected = torch_logits(weights_of(model), torch.from_numpy(tokens).long(), 4)

    assert relative_error(np.array(model(mx.array(tokens))), expected.numpy()) < 1e-6


@pytest.mark.parametrize("reduction", ["sum-of-logits", "trace", "full", (2, 2)])
def test_the_kernel_of_every_parameter_is_that_of_torch(reduction: Any) -> None:
    model, tokens = sharp_model(), modular_addition(7, 0.5, 0).tokens[::3]

    def one(values: dict[str, torch.Tensor], row: torch.Tensor) -> torch.Tensor:
        return torch_logits(values, row[None], 4)[0]

    jacobian = torch.func.vmap(torch.func.jacrev(one), (None, 0))(
        weights_of(model), torch.from_numpy(tokens).long()
    )
    kernels = layerwise_entk(model, mx.array(tokens), reduction=reduction)

    assert tuple(kernels) == PARAMETERS
    for name, J in jacobian.items():
        full = from_jacobian(J.flatten(2).numpy())
        expected: Any = {
            "full": full,
            "trace": np.einsum("nmcc->nm", full) / 7,
            "sum-of-logits": full.mean(axis=(2, 3)),
            (2, 2): full[:, :, 2, 2],
        }[reduction]
        assert relative_error(kernels[name], expected) < 1e-4, name


def test_kernels_added_up_are_those_of_the_parameters_together() -> None:
    model, tokens = sharp_model(), mx.array(modular_addition(7, 0.5, 0).tokens)

    kernels = with_sums(layerwise_entk(model, tokens, reduction=MAIN), SUMS)

    for name, parts in SUMS.items():
        together = entk(model, tokens, reduction=MAIN, parameters=list(parts))
        assert relative_error(kernels[name], together) < 1e-5


def test_the_split_and_the_weights_follow_the_seed() -> None:
    first, second, other = (ModularTransformer(7, seed=seed) for seed in (0, 0, 1))

    np.testing.assert_array_equal(np.array(first.W_in), np.array(second.W_in))
    assert not np.array_equal(np.array(first.W_in), np.array(other.W_in))
    assert np.array(ModularTransformer(29).W_in).std() == pytest.approx(1 / 8, rel=0.02)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"heads": 3}, "d_model is 64, which 3 heads cannot share"),
        ({"d_mlp": 0}, "d_mlp is 0"),
        ({"hold": -1}, "hold is -1"),
        ({"epochs": 30}, "epochs is 30"),
        ({"p": 4}, "p is 4"),
    ],
)
def test_settings_without_meaning_are_refused(settings: dict[str, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        TransformerConfig(**settings)


# Small enough for seconds, with enough pairs in training to generalise soon.
SMALL = TransformerConfig(
    p=17, d_mlp=128, train_fraction=0.85, epochs=800, hold=40, seed=1, learning_rate=1e-3
)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return run_study(STUDY, SMALL, tmp_path_factory.mktemp("small") / "run")


@pytest.fixture(scope="module")
def results(small: Run) -> TransformerResults:
    return STUDY.results_of(small)


def test_training_stops_once_the_accuracy_has_held(small: Run, results: TransformerResults) -> None:
    since = results.grokked_at

    assert since is not None
    assert results.epochs == since + SMALL.hold
    held = [row for row in small.metrics if row["epoch"] >= since]
    assert all(row["test accuracy"] >= 0.99 for row in held)
    (before,) = [row for row in small.metrics if row["epoch"] == since - 10]
    assert before["test accuracy"] < 0.99
    assert small.checkpoints[-1] == results.epochs


def test_the_kernel_finds_frequencies_of_the_embedding(results: TransformerResults) -> None:
    keys = results.key_frequencies

    assert keys.kernel
    assert set(keys.kernel) <= set(keys.embedding)


def test_every_parameter_has_its_rows_with_initialisation_and_chance(
    results: TransformerResults,
) -> None:
    keys, rows = results.key_frequencies.embedding, results.alignment

    assert {row.kernel for row in rows} == {"full", *PARAMETERS, *SUMS}
    assert {row.reduction for row in rows} == {"sum-of-logits", "trace", "class 0"}
    assert {row.modes for row in rows} == set(expected_groups(len(keys)))
    for row in rows:
        assert 0 <= row.overlap <= row.dimension + 1e-6
        assert 0 <= row.initial <= row.dimension + 1e-6
        assert row.chance > 0


def test_the_unembedding_turns_from_the_axes_to_the_sum(results: TransformerResults) -> None:
    first, _, both = expected_groups(len(results.key_frequencies.embedding))
    rows = {
        (row.modes, row.family): row
        for row in results.alignment
        if (row.reduction, row.kernel) == (MAIN, "unembedding")
    }

    assert rows[both, SUM].percent > 60
    assert rows[first, SUM].initial < 0.2 * rows[both, SUM].dimension


def test_kernels_are_followed_over_training(results: TransformerResults) -> None:
    tracked = results.grokking

    assert {move.kernel for move in tracked.moves} == {"full", *PARAMETERS}
    epochs = [move.epoch for move in tracked.moves]
    assert epochs == sorted(epochs)
    for move in tracked.moves:
        assert move.lead == pytest.approx(tracked.half_rise_of_test_accuracy - move.epoch)
    assert tracked.distance["full"][0] == pytest.approx(0, abs=1e-9)
    assert tracked.distance["full"][-1] > 0.1


def test_the_kernel_predicts_the_network_on_held_out_pairs(small: Run) -> None:
    regression = regress(problem_of(small))
    r2 = {row.predictor: row.r2 for row in regression.predictors}

    assert set(r2) == {"pure kernel", SHUFFLED_INPUTS, AT_INITIALISATION, ACTIVATIONS}
    assert r2[SHUFFLED_INPUTS] < 0.2
    assert r2["pure kernel"] > 0.8
    assert r2["pure kernel"] > r2["pure kernel at initialisation"]


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 7])
def test_the_figures_of_the_paper_are_reproduced(seed: int, tmp_path: Path) -> None:
    """In networks trained on after grokking, as the paper's was."""
    config = TransformerConfig(seed=seed, hold=0)
    results = STUDY.results_of(run_study(STUDY, config, tmp_path / "run"))
    keys = results.key_frequencies
    first, second, _ = expected_groups(len(keys.embedding))
    percent = {
        (row.kernel, row.modes, row.family): row.percent
        for row in results.alignment
        if row.reduction == MAIN
    }

    assert results.accuracy.test >= 0.99
    assert set(keys.kernel) <= set(keys.embedding)
    assert percent["unembedding", first, SUM] >= 93
    assert percent["unembedding", second, "axis sum (key)"] >= 94
    assert percent["W_in", first, "axis sum (key)"] >= 90
    assert percent["unembedding", first, "sum (other)"] < 5
