"""The kernels of every architecture of mlx-lm, at a tiny size, against plain reverse mode."""

import pytest

from tests.zoo.__main__ import run
from tests.zoo.architectures import NotBuilt, build, names
from tests.zoo.checks import (
    LastLogits,
    Outcome,
    compare_differences,
    compare_kernel,
    compare_operator,
    examine,
    inputs,
    reference_jacobian,
)

# One of each kind: what its layers do, rather than whose it is.
SAMPLE = [
    "llama",  # full and sliding attention
    "gemma3_text",  # norms on both sides, two bases of RoPE
    "gpt2",  # learned positions, LayerNorm, biases
    "cohere",  # attention and MLP side by side, one embedding for both ends
    "mixtral",  # experts
    "deepseek_v3",  # latent attention, experts in groups
    "mamba2",  # state space
    "rwkv7",  # linear attention with token shift
    "lfm2",  # short convolutions
    "qwen3_5",  # gated delta rule
    "falcon_h1",  # state space beside attention
    "nemotron_h",  # state space, attention, MLP and experts in turn
]
MOST_NOT_BUILT = 6


@pytest.mark.parametrize("name", SAMPLE)
def test_kernels_of_a_sample(name: str) -> None:
    outcome = examine(name)
    assert not outcome.not_built
    assert outcome.fine, outcome.notes


def test_what_is_wrong_is_seen() -> None:
    model, x = LastLogits(build("llama")), inputs()
    J = reference_jacobian(model, x)
    J["inner.model.layers.1.self_attn.k_proj.weight"] *= 1.05
    comparisons = (compare_kernel, compare_operator, compare_differences)
    assert [compare(model, x, J).status for compare in comparisons] == ["wrong"] * 3


def test_what_cannot_be_built_says_why() -> None:
    with pytest.raises(NotBuilt, match="cannot be imported: ModuleNotFoundError"):
        build("no_such_architecture")


@pytest.fixture(scope="module")
def outcomes() -> dict[str, Outcome]:
    return {outcome.name: outcome for outcome in run(names())}


@pytest.mark.slow
@pytest.mark.parametrize("name", names())
def test_kernels_of_every_architecture(name: str, outcomes: dict[str, Outcome]) -> None:
    outcome = outcomes[name]
    if outcome.not_built:
        pytest.skip(f"not built: {outcome.not_built}")
    assert outcome.fine, outcome.notes


@pytest.mark.slow
def test_nearly_every_architecture_is_built(outcomes: dict[str, Outcome]) -> None:
    not_built = {name: row.not_built for name, row in outcomes.items() if row.not_built}
    assert len(not_built) <= MOST_NOT_BUILT, not_built
