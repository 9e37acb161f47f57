"""Shares of positions against gradients that PyTorch takes in double precision."""

from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
import torch

from mlx_entk import InputError
from mlx_entk._parameters import flatten_tree
from mlx_entk.lm import LanguageModel
from mlx_entk.lm.model import hidden_before, layer_function, square_root_of_readout
from mlx_entk.lm.positions import mode_tangent, position_shares
from mlx_entk.lm.scoring import mode_scores
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

N, LAYER = 6, 1
TOKENS = np.random.default_rng(0).integers(0, VOCABULARY, (N, LENGTH))
# Linear modules in front of the attention, in it and behind it, by architecture.
BIASED = {"gpt2": ["attn.c_attn.weight", "attn.c_attn.bias", "mlp.c_proj.bias"]}
OTHERS = BIASED | {
    name: ["self_attn.k_proj.weight", "self_attn.o_proj.weight", "mlp.up_proj.weight"]
    for name in ("llama", "gemma3")
}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_shares_are_what_pytorch_gets_by_moving_the_weight_at_one_position(
    name: str, tmp_path: Path
) -> None:
    reference = make(name, trained=True)
    model = in_mlx(reference, tmp_path)
    selection = ARCHITECTURES[name]
    key, transposed = weight_in_torch(reference, selection, LAYER)
    reference = reference.double()
    weight = dict(reference.named_parameters())[key].detach()
    tokens = torch.from_numpy(TOKENS)
    J = torch.func.jacrev(lambda w: last_hidden(reference, {key: w}, tokens))(weight)
    U = reference.get_output_embeddings().weight.detach().numpy()
    values, vectors = np.linalg.eigh(U.T @ U)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    rows = np.einsum("nip,ij->jnp", J.detach().flatten(2).numpy(), root).reshape(-1, weight.numel())
    eigenvalues, eigenvectors = np.linalg.eigh(rows @ rows.T)
    value, v = eigenvalues[-2], eigenvectors[:, -2]
    w = (v @ rows / value).reshape(weight.shape)
    direction = np.linalg.svd(v.reshape(-1, N).T)[2][0]
    # One position at a time: a hook adds w a_t to the output of the module there.
    module = reference.get_submodule(key.removesuffix(".weight"))
    change = torch.from_numpy(w if transposed else w.T)
    expected = np.empty((N, LENGTH))
    for t in range(LENGTH):

        def at_step(step: torch.Tensor, t: int = t) -> torch.Tensor:
            def add(_: object, inputs: tuple[torch.Tensor], output: torch.Tensor) -> torch.Tensor:
                here = torch.arange(LENGTH)[:, None] == t
                return output + step * here * (inputs[0] @ change)

            hook = module.register_forward_hook(add)
            states = last_hidden(reference, {}, tokens)
            hook.remove()
            return states

        one = torch.ones((), dtype=torch.float64)
        derivative = torch.autograd.functional.jacobian(at_step, 0 * one)
        expected[:, t] = derivative.detach().numpy() @ root @ direction

    hidden = hidden_before(model, mx.array(TOKENS), LAYER, batch=N)
    readout = square_root_of_readout(model.unembedding)
    function = layer_function(model, LAYER, [selection], readout)
    tangent = mode_tangent(function, hidden, v, value, batch=4)
    shares = position_shares(
        model, LAYER, [selection], hidden, readout, mx.array(direction.astype(np.float32)),
        tangent, batch=4,
    )  # fmt: skip

    assert relative_error(np.array(tangent[0]), w.T if transposed else w) < 1e-4
    assert relative_error(np.array(shares), expected) < 1e-4
    scores = mode_scores(v, N).scores
    summed = np.array(shares).sum(axis=1)
    assert min(relative_error(summed, scores), relative_error(-summed, scores)) < 1e-4


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_shares_of_several_weights_add_up_to_the_product_with_all(
    name: str, tmp_path: Path
) -> None:
    model = in_mlx(make(name, trained=True), tmp_path)
    hidden = hidden_before(model, mx.array(TOKENS), LAYER, batch=N)
    function = layer_function(model, LAYER, OTHERS[name], None)
    random = np.random.default_rng(2)
    tangent = [
        mx.array(random.standard_normal(p.shape).astype(np.float32))
        for p in function.params.values()
    ]
    direction = mx.array(random.standard_normal(16).astype(np.float32))
    before = flatten_tree(model.module.parameters())
    modules = model.layers[LAYER].modules()

    shares = position_shares(model, LAYER, OTHERS[name], hidden, None, direction, tangent, N)

    names = list(function.params)
    (moved,) = mx.jvp(
        lambda *p: function.apply(dict(zip(names, p, strict=True)), hidden),
        list(function.params.values()), tangent,
    )[1]  # fmt: skip
    assert relative_error(np.array(shares).sum(axis=1), np.array(moved @ direction)) < 1e-4
    after = flatten_tree(model.module.parameters())
    assert list(after) == list(before)
    assert all(mx.array_equal(after[key], value) for key, value in before.items())
    again = model.layers[LAYER].modules()
    assert all(a is b for a, b in zip(again, modules, strict=True))


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    return in_mlx(make("llama", trained=False), tmp_path_factory.mktemp("llama"))


def test_weights_that_are_not_used_position_by_position_are_refused(llama: LanguageModel) -> None:
    hidden = mx.zeros((2, LENGTH, 16))

    def split(name: str, tangent: list[mx.array]) -> mx.array:
        return position_shares(llama, LAYER, [name], hidden, None, mx.ones(16), tangent, 2)

    with pytest.raises(InputError, match=r"input_layernorm is no nn\.Linear but RMSNorm"):
        split("input_layernorm.weight", [mx.ones(16)])
    with pytest.raises(InputError, match="one array of the shape of each selected weight"):
        split("mlp.down_proj.weight", [mx.ones((24, 16))])

    llama.layers[LAYER]["gain"] = mx.ones(3)
    try:
        with pytest.raises(InputError, match=r"the layer is no nn\.Linear but TransformerBlock"):
            split("gain", [mx.ones(3)])
    finally:
        del llama.layers[LAYER]["gain"]

    mlp = llama.layers[LAYER]["mlp"]
    linear = mlp["down_proj"]

    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.down_proj = linear

        def __call__(self, x: mx.array) -> mx.array:
            written: mx.array = self.down_proj(mx.zeros((x.shape[0] * x.shape[1], 24)))
            return written.reshape(x.shape)

    class Bare(Flat):
        def __call__(self, x: mx.array) -> mx.array:
            weight: mx.array = self.down_proj.weight
            return mx.zeros((*x.shape[:2], 24)) @ weight.T

    for stand_in, message in ((Flat(), "does not run once for each"), (Bare(), "without calling")):
        llama.layers[LAYER]["mlp"] = stand_in
        try:
            with pytest.raises(InputError, match=message):
                split("mlp.down_proj.weight", [mx.ones((16, 24))])
        finally:
            llama.layers[LAYER]["mlp"] = mlp
        assert stand_in["down_proj"] is linear


def test_modes_that_do_not_fit_are_refused(llama: LanguageModel) -> None:
    function = layer_function(llama, LAYER, ["mlp.down_proj.weight"], None)
    hidden = mx.zeros((3, LENGTH, 16))
    with pytest.raises(InputError, match="a mode over 3 windows has d·3 entries"):
        mode_tangent(function, hidden, np.ones(47), 1.0, 3)
    with pytest.raises(InputError, match="only a positive one"):
        mode_tangent(function, hidden, np.ones(48), 0.0, 3)
