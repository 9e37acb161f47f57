"""The network and every derivative of the architectures of mlx-lm as ONNX graphs."""

import pytest

from tests.zoo.architectures import names
from tests.zoo.exports import ANY, GRAPHS, every, exported

# Graphs that were refused or bound to the batch of their example before.
SAMPLE = [
    "apertus",  # parameters without axes
    "mixtral",  # products with gathered matrices
    "spark2_5",  # copies that only lay arrays out otherwise in memory
]

REFUSED = {
    "dbrx": "Attempting to eval an array",
    "prism_hadamard_qwen35": "primitive QuantizedMatmul has no ONNX builder",
}
# MLX cannot map their gradients, and whether their graphs hide derivatives cannot be told: Jacobian
# and kernel are bound to the batch of the example.
FIXED = {
    "deepseek_v41", "gemma3n", "gemma4_text", "hunyuan", "kimi_k3", "longcat_flash",
    "longcat_flash_ngram", "phimoe",
}  # fmt: skip


@pytest.mark.parametrize("name", SAMPLE)
def test_every_graph_of_a_sample(name: str) -> None:
    assert exported(name) == dict.fromkeys(GRAPHS, ANY)


@pytest.mark.slow
def test_every_graph_of_every_architecture() -> None:
    for name, outcomes in every(names()):
        for what, outcome in outcomes.items():
            if name in REFUSED:
                assert REFUSED[name] in outcome
            elif name in FIXED and what in ("jacobian", "entk"):
                assert outcome.startswith("fixed: ")
            else:
                assert outcome == ANY, (name, what)
