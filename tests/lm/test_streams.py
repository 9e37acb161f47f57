"""What passes through a model at the last position, and directions of sparse autoencoders."""

from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from mlx_entk import InputError
from mlx_entk.lm.model import hidden_before
from mlx_entk.lm.sae import read_autoencoder
from mlx_entk.lm.streams import last_streams
from tests.lm.survey import VOCABULARY, WIDTH, tiny_models

TOKENS = mx.array(np.random.default_rng(0).integers(0, VOCABULARY, (5, 9)))


@pytest.mark.parametrize(
    ("name", "weight"),
    [
        ("llama", "mlp.down_proj.weight"),
        ("gemma3_text", "mlp.down_proj.weight"),
        ("qwen2", "mlp.down_proj.weight"),
        ("cohere", "mlp.down_proj.weight"),
        ("mixtral", "self_attn.o_proj.weight"),
    ],
)
def test_streams_are_what_the_layers_read_and_write(name: str, weight: str) -> None:
    model = tiny_models()[name]()
    before = list(model.layers)

    streams = last_streams(model, TOKENS, [0, 2], [weight], batch=2)

    read = np.array(hidden_before(model, TOKENS, 1, batch=5))[:, -1]
    np.testing.assert_allclose(streams.outputs[0], read, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(streams.final, model.hidden(TOKENS), rtol=1e-4, atol=1e-5)
    assert streams.outputs[2].shape == (5, WIDTH)
    assert set(streams.inputs) == {0, 2}
    assert all(a is b for a, b in zip(before, model.layers, strict=True))
    assert np.isfinite(model.hidden(TOKENS)).all()


def test_the_input_of_a_weight_is_what_it_multiplies(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_models()["llama"]()
    linear = model.layers[1]["mlp"]["down_proj"]
    read: list[mx.array] = []
    call = nn.Linear.__call__

    def spy(self: nn.Linear, x: mx.array) -> mx.array:
        if self is linear:
            read.append(x[:, -1])
        return call(self, x)

    streams = last_streams(model, TOKENS, [1], ["mlp.down_proj.weight"], batch=5)
    monkeypatch.setattr(nn.Linear, "__call__", spy)
    model.hidden(TOKENS)

    np.testing.assert_allclose(streams.inputs[1], read[0], rtol=1e-5, atol=1e-6)


def test_weights_without_a_linear_module_have_no_input() -> None:
    model = tiny_models()["llama"]()

    streams = last_streams(model, TOKENS, [1], ["input_layernorm.weight"], batch=5)

    assert not streams.inputs


@pytest.mark.parametrize("jump", [True, False])
def test_latents_of_a_sparse_autoencoder_are_directions(tmp_path: Path, jump: bool) -> None:
    generator = np.random.default_rng(0)
    weight, bias = generator.standard_normal((6, 20)), generator.standard_normal(20) - 1
    centre, threshold = generator.standard_normal(6), np.abs(generator.standard_normal(20))
    bias[3] = -100  # never fires
    arrays = {"W_enc": weight, "b_enc": bias, "b_dec": centre}
    if jump:
        arrays["threshold"] = threshold
    path = tmp_path / "sae.safetensors"
    mx.save_safetensors(str(path), {k: mx.array(v.astype(np.float32)) for k, v in arrays.items()})
    activations = generator.standard_normal((300, 6))

    latents = read_autoencoder(path, 6).scores(activations)

    # Gemma Scope's encoder reads the stream as it is, SAELens' standard one less b_dec.
    plain = (activations if jump else activations - centre) @ weight + bias
    fired = np.where(plain > (threshold if jump else 0), plain, 0).clip(min=0)
    active = (fired > 0).mean(axis=0)
    expected = fired[:, np.argsort(-active, kind="stable")][:, : (active >= 0.01).sum()]
    assert latents.shape == expected.shape
    assert latents.shape[1] < 20
    np.testing.assert_allclose(latents, expected, atol=1e-4)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"w": mx.zeros((6, 4))}, r"has no w_enc and no b_enc: it has w$"),
        ({"W_enc": mx.zeros((5, 4)), "b_enc": mx.zeros(4)}, r"w_enc has shape \(5, 4\)"),
        ({"W_enc": mx.zeros((6, 4)), "b_enc": mx.zeros(3)}, r"w_enc has shape \(6, 4\)"),
        ({"W_enc": mx.array(1.0), "b_enc": mx.zeros(4)}, r"w_enc has shape \(\)"),
        ({"W_enc": mx.zeros((6, 4)), "b_enc": mx.zeros((4, 1))}, r"b_enc has shape \(4, 1\)"),
        ({"W_enc": mx.zeros((6, 4, 2)), "b_enc": mx.zeros(4)}, r"w_enc has shape \(6, 4, 2\)"),
    ],
)
def test_other_files_are_no_sparse_autoencoder(
    tmp_path: Path, arrays: dict[str, mx.array], message: str
) -> None:
    mx.save_safetensors(str(tmp_path / "a.safetensors"), arrays)

    with pytest.raises(InputError, match=message):
        read_autoencoder(tmp_path / "a.safetensors", 6)
    (tmp_path / "b.safetensors").write_bytes(b"nothing of the kind")
    with pytest.raises(InputError, match=r"is not a \.safetensors"):
        read_autoencoder(tmp_path / "b.safetensors", 6)
