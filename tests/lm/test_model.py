"""The operator of a layer against a dense Jacobian by PyTorch in double precision."""

from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
import torch

from mlx_entk import InputError
from mlx_entk._parameters import flatten_tree
from mlx_entk.eigensolvers import top_modes
from mlx_entk.kernel import entk_operator
from mlx_entk.lm import load_model, prepared
from mlx_entk.lm.model import (
    hidden_after,
    hidden_before,
    initialised,
    layer_function,
    square_root_of_readout,
)
from tests.lm.architectures import (
    ARCHITECTURES,
    LENGTH,
    VOCABULARY,
    in_mlx,
    last_hidden,
    make,
    weight_in_torch,
)
from tests.reference import relative_error

pytestmark = pytest.mark.filterwarnings("ignore")  # of transformers, about itself

TOKENS = np.random.default_rng(0).integers(0, VOCABULARY, (7, LENGTH))


@pytest.mark.parametrize("trained", [False, True], ids=["drawn", "trained"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_products_and_modes_are_those_of_the_dense_kernel(
    name: str, trained: bool, tmp_path: Path
) -> None:
    reference = make(name, trained)
    model = in_mlx(reference, tmp_path)
    selection, layer = ARCHITECTURES[name], 1
    key, transposed = weight_in_torch(reference, selection, layer)

    reference = reference.double()
    weight = dict(reference.named_parameters())[key].detach()
    tokens = torch.from_numpy(TOKENS)
    J = torch.func.jacrev(lambda w: last_hidden(reference, {key: w}, tokens))(weight)
    U = reference.get_output_embeddings().weight.detach().numpy()
    values, vectors = np.linalg.eigh(U.T @ U)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    rows = np.einsum("nip,ij->jnp", J.detach().flatten(2).numpy(), root).reshape(-1, weight.numel())
    dense = rows @ rows.T  # channel-major

    hidden = hidden_before(model, mx.array(TOKENS), layer, batch=3)
    readout = square_root_of_readout(model.unembedding)
    function = layer_function(model, layer, [selection], readout)
    operator = entk_operator(function, hidden, batch=4)

    (stored,) = function.params.values()
    assert np.allclose(np.array(stored), weight.numpy().T if transposed else weight.numpy())
    v = np.random.default_rng(1).standard_normal(operator.shape[0])
    assert relative_error(operator @ v, dense @ v) < 1e-4
    spectrum = top_modes(operator, 5).spectrum
    exact_values, exact_vectors = np.linalg.eigh(dense)
    assert relative_error(spectrum.values, exact_values[::-1][:5]) < 1e-4
    overlap = np.abs((spectrum.vectors * exact_vectors[:, ::-1][:, :5]).sum(axis=0))
    assert overlap.min() > 1 - 1e-4


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_what_is_cut_off_is_given_back(name: str, tmp_path: Path) -> None:
    model = in_mlx(make(name, trained=False), tmp_path)
    tokens, layers = mx.array(TOKENS), list(model.layers)
    before = flatten_tree(model.module.parameters())

    last = len(layers) - 1
    hidden = hidden_before(model, tokens, last, batch=4)
    function = layer_function(model, last, [ARCHITECTURES[name]], None)

    assert np.allclose(np.array(function.apply({}, hidden)), np.array(model.hidden(tokens)))
    assert hidden_after(model, hidden, last).shape == (7, 16)
    first = hidden_before(model, tokens, 1, batch=7)
    second = hidden_before(model, tokens, 2, batch=7)
    assert np.allclose(np.array(hidden_after(model, first, 1)), np.array(second[:, -1]))
    after = flatten_tree(model.module.parameters())
    assert all(a is b for a, b in zip(layers, model.layers, strict=True))
    assert all(mx.array_equal(after[key], value) for key, value in before.items())


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_model_drawn_anew_has_the_same_architecture(name: str, tmp_path: Path) -> None:
    model = in_mlx(make(name, trained=True), tmp_path)

    fresh, again = initialised(model, seed=3), initialised(model, seed=3)

    shapes = {k: v.shape for k, v in flatten_tree(model.module.parameters()).items()}
    drawn = flatten_tree(fresh.module.parameters())
    assert {k: v.shape for k, v in drawn.items()} == shapes
    same = flatten_tree(again.module.parameters())
    assert all(mx.array_equal(drawn[key], same[key]) for key in drawn)
    tokens = mx.array(TOKENS)
    assert not mx.allclose(fresh.hidden(tokens), model.hidden(tokens), atol=0.1)


class Curved(nn.Module):
    """Logits that are not a linear function of the last hidden state."""

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Sequential(nn.Embedding(5, 3))
        self.lm_head = nn.Linear(3, 5, bias=False)

    def __call__(self, tokens: mx.array) -> mx.array:
        return mx.sin(self.lm_head(self.model(tokens)))


def test_what_is_no_language_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="are not a linear function of its last hidden state"):
        prepared(Curved())
    with pytest.raises(InputError, match="gives no last hidden state"):
        prepared(nn.Sequential(nn.Embedding(5, 3)))
    with pytest.raises(InputError, match="is not a model folder"):
        load_model(str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InputError, match="mlx-lm cannot load"):
        load_model(str(tmp_path))


def test_layers_and_weights_that_are_not_there(tmp_path: Path) -> None:
    model = in_mlx(make("llama", trained=False), tmp_path)
    with pytest.raises(InputError, match="the model has layers 0 to 2, not 3"):
        layer_function(model, 3, ["mlp.down_proj.weight"], None)
    with pytest.raises(InputError, match=r"layer 0 has no mlp\.w: it has self_attn\.q_proj"):
        layer_function(model, 0, ["mlp.w"], None)
