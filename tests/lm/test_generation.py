"""How texts begin for a model, how it goes on, and how well it predicts them."""

from dataclasses import replace
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from mlx_entk import InputError
from mlx_entk.lm import LanguageModel
from mlx_entk.lm.generation import adds_bos, beginning, encoder, greedy, perplexities
from tests.lm.survey import VOCABULARY, tiny_models

TOKENS = np.random.default_rng(0).integers(3, VOCABULARY, (5, 9))


class Numbers:
    """A tokenizer of numbers, with or without a token that begins a text."""

    def __init__(self, bos: int | None, adds: bool):
        self.bos_token_id, self._adds = bos, adds

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        numbers = [int(word) for word in text.split() if word.isdigit()]
        return [self.bos_token_id or 0, *numbers] if add_special_tokens and self._adds else numbers

    def decode(self, tokens: list[int]) -> str:
        return "".join(f" {token}" for token in tokens)


def with_tokenizer(name: str, tokenizer: Any) -> LanguageModel:
    return replace(tiny_models()[name](), tokenizer=tokenizer)


def test_texts_begin_as_the_tokenizer_has_it_unless_told_otherwise() -> None:
    adds = with_tokenizer("llama", Numbers(2, adds=True))
    adds_none = with_tokenizer("llama", Numbers(2, adds=False))
    has_none = with_tokenizer("llama", Numbers(None, adds=False))

    assert [beginning(adds, bos) for bos in ("auto", "yes", "no")] == [(2,), (2,), ()]
    assert [beginning(adds_none, bos) for bos in ("auto", "yes", "no")] == [(), (2,), ()]
    assert (adds_bos(adds), adds_bos(adds_none), adds_bos(has_none)) == (True, False, False)
    assert beginning(has_none, "auto") == ()
    with pytest.raises(InputError, match="has no token that begins a text: pass --bos no"):
        beginning(has_none, "yes")
    assert encoder(adds)("7 8") == [7, 8]


@pytest.mark.parametrize("name", ["llama", "gemma3_text", "gemma2", "mixtral"])
def test_a_model_goes_on_with_its_most_likely_tokens(name: str) -> None:
    model = with_tokenizer(name, Numbers(2, adds=True))
    windows = [tuple(map(int, row)) for row in TOKENS]

    texts = greedy(model, (2,))(windows)

    for window, text in zip(windows, texts, strict=True):
        tokens = [2, *window]
        for following in map(int, text.split()):
            logits = np.array(model.module(mx.array([tokens]))[0, -1])
            assert logits[following] >= logits.max() - 1e-4
            tokens.append(following)
        assert len(tokens) == 1 + len(window) + 6


@pytest.mark.parametrize("name", ["llama", "gemma2", "cohere"])
@pytest.mark.parametrize("ahead", [0, 1])
def test_perplexity_is_that_of_the_logits(name: str, ahead: int) -> None:
    model = tiny_models()[name]()
    tokens = mx.array(TOKENS)

    found = perplexities(model, tokens, ahead, batch=2)

    logits = np.array(model.module(tokens), dtype=np.float64)
    shifted = logits - logits.max(axis=-1, keepdims=True)
    logs = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    # Without a token ahead the first one of the window is not predicted by anything.
    losses = [[-logs[n, t - 1, TOKENS[n, t]] for t in range(1, 9)] for n in range(5)]
    np.testing.assert_allclose(found, np.exp(np.mean(losses, axis=1)), rtol=1e-3)
