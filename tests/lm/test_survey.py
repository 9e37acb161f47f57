"""Which architectures of mlx-lm work: each is cut, compared with itself, and read out as logits."""

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from mlx_entk import InputError
from mlx_entk._parameters import flatten_tree
from mlx_entk.lm import LanguageModel, prepared
from mlx_entk.lm.model import hidden_before, initialised, layer_function, readout_roots
from tests.lm.survey import REFUSED, SUPPORTED, VOCABULARY, tiny_models, tiny_module

TOKENS = mx.array(np.random.default_rng(0).integers(0, VOCABULARY, (2, 9)))


def some_matrix(model: LanguageModel, layer: int) -> str:
    """The name of the last matrix of a layer, of those that do not only choose experts."""
    own = flatten_tree(model.layers[layer].parameters())
    matrices = [name for name, value in own.items() if value.ndim == 2 and name.endswith("weight")]
    return [name for name in matrices if not name.endswith(("gate.weight", "router.weight"))][-1]


@pytest.mark.parametrize("name", SUPPORTED)
def test_layers_are_cut_and_states_read_out_as_the_model_does(name: str) -> None:
    model = tiny_models()[name]()
    logits = np.array(model.module(TOKENS)[:, -1])
    for layer in range(len(model.layers)):
        weight = some_matrix(model, layer)
        function = layer_function(model, layer, [weight], None)
        hidden = hidden_before(model, TOKENS, layer, batch=1)

        state = np.array(function.apply({}, hidden))
        linear = state @ np.array(model.unembedding).T
        linear += 0 if model.bias is None else np.array(model.bias)
        expected = linear if model.cap is None else model.cap * np.tanh(linear / model.cap)
        assert np.allclose(expected, logits, rtol=1e-3, atol=1e-4 * np.abs(logits).max())

        # The block that is run is the one whose weights are replaced.
        changed = {f"layers.{layer}.{weight}": function.params[f"layers.{layer}.{weight}"] * 1.5}
        assert not np.array_equal(np.array(function.apply(changed, hidden)), state)


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_cut_is_refused_by_name(name: str) -> None:
    with pytest.raises(InputError, match=rf"mlx_lm\.models\.{name} "):
        cut(tiny_module(name, **REFUSED[name]))


def cut(module: nn.Module) -> None:
    model = prepared(module)
    layer_function(model, 1, [some_matrix(model, 1)], None)


@pytest.mark.parametrize("name", ["qwen2", "gemma3", "cohere", "gptj", "qwen2_vl"])
def test_models_of_every_kind_are_drawn_anew(name: str) -> None:
    model = tiny_models()[name]()
    fresh = initialised(model, seed=5)
    shapes = {key: value.shape for key, value in flatten_tree(model.module.parameters()).items()}
    drawn = {key: value.shape for key, value in flatten_tree(fresh.module.parameters()).items()}
    assert drawn == shapes
    assert not mx.allclose(fresh.hidden(TOKENS), model.hidden(TOKENS), atol=1e-3)


@pytest.mark.parametrize("name", ["gemma2", "nanochat"])
def test_roots_of_capped_logits_are_those_of_their_derivative(name: str) -> None:
    model = tiny_models()[name]()
    states = 3 * model.hidden(TOKENS)
    roots = np.array(readout_roots(model, states), dtype=np.float64)
    assert roots.shape == (2, 32, 32)
    U = np.array(model.unembedding, dtype=np.float64)
    cap = model.cap
    assert cap is not None
    for root, state in zip(roots, np.array(states, dtype=np.float64), strict=True):
        steps = 1e-5 * np.eye(len(state))
        ends = [cap * np.tanh((state + sign * steps) @ U.T / cap) for sign in (1, -1)]
        J = (ends[0] - ends[1]).T / 2e-5  # (V, d), by central differences
        assert np.allclose(root @ root, J.T @ J, rtol=1e-4, atol=1e-4 * np.abs(J.T @ J).max())
    with pytest.raises(InputError, match="more than the memory limit of 1 kB"):
        readout_roots(model, states, memory_limit=1000)

    function = layer_function(model, 1, [some_matrix(model, 1)], None)
    hidden = hidden_before(model, TOKENS, 1, batch=2)
    read = np.array(function.apply({}, hidden, mx.array(roots)))
    plain = np.array(function.apply({}, hidden))
    assert np.allclose(read, np.einsum("nd,ndi->ni", plain, roots), rtol=1e-4, atol=1e-5)


def test_linear_logits_have_one_root_for_all_inputs() -> None:
    model = tiny_models()["cohere"]()
    root = np.array(readout_roots(model, model.hidden(TOKENS)))
    embedding = np.array(model.module.model.embed_tokens.weight)
    assert np.allclose(root @ root, embedding.T @ embedding / 16, atol=1e-5)  # 1/4 its logits


class _Twice(nn.Module):
    """Layers of which the second reads again what the first one read."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, 8)
        self.layers = [nn.Linear(8, 8) for _ in range(3)]
        self.lm_head = nn.Linear(8, VOCABULARY, bias=False)

    def __call__(self, tokens: mx.array) -> mx.array:
        first = self.embedding(tokens)
        hidden = first
        for layer in self.layers:
            hidden = hidden + layer(hidden) + first
        return self.lm_head(hidden)


def test_a_model_whose_later_layers_read_earlier_values_is_refused() -> None:
    model = prepared(_Twice())
    with pytest.raises(InputError, match=r"layer 1 of .*test_survey cannot be cut"):
        layer_function(model, 1, ["weight"], None)
