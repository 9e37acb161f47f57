"""How models begin and go on, against PyTorch in double precision without a cache."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import mlx.core as mx
import numpy as np
import pytest
import torch

from mlx_entk import InputError
from mlx_entk.lm import LanguageModel
from mlx_entk.lm.generation import Bos, adds_bos, beginning, encoder, greedy, perplexities
from tests.lm.architectures import ARCHITECTURES, LENGTH, VOCABULARY, in_mlx, make
from tests.lm.survey import VOCABULARY as SURVEYED
from tests.lm.survey import tiny_models

pytestmark = pytest.mark.filterwarnings("ignore")  # of transformers, about itself

WINDOWS = np.random.default_rng(0).integers(1, VOCABULARY, (5, LENGTH))


class Letters:
    """A tokenizer of a letter for each token, which may begin texts with a token of its own."""

    def __init__(self, bos: int | None, adds: bool) -> None:
        self.bos_token_id, self._adds = bos, adds

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        ahead = [self.bos_token_id] if self._adds and add_special_tokens else []
        return [*ahead, *(ord(letter) - 64 for letter in text)]  # type: ignore[list-item]

    def decode(self, tokens: Sequence[int]) -> str:
        return "".join(chr(64 + token) for token in tokens)


def with_tokenizer(bos: int | None = 0, adds: bool = False) -> LanguageModel:
    """A model of which only the tokenizer counts."""
    model: Any = SimpleNamespace(tokenizer=Letters(bos, adds))
    return cast(LanguageModel, model)


@pytest.mark.parametrize("ahead", [(), (3, 17)])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_model_goes_on_with_its_most_likely_tokens(
    name: str, ahead: tuple[int, ...], tmp_path: Path
) -> None:
    reference = make(name, trained=False)  # a trained one looks at the last token only
    model = replace(in_mlx(reference, tmp_path), tokenizer=Letters(0, adds=False))

    continued = greedy(model, ahead)([tuple(map(int, window)) for window in WINDOWS])

    reference = reference.double()
    for window, text in zip(WINDOWS.tolist(), continued, strict=True):
        tokens = [*ahead, *window]
        for _ in text:
            with torch.no_grad():
                tokens.append(int(reference(torch.tensor([tokens])).logits[0, -1].argmax()))
        assert text == Letters(0, adds=False).decode(tokens[len(ahead) + LENGTH :])
        assert len(text) > 1


@pytest.mark.parametrize("ahead", [(), (3,)])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_perplexities_are_of_the_windows_tokens(
    name: str, ahead: tuple[int, ...], tmp_path: Path
) -> None:
    reference = make(name, trained=True)
    model = in_mlx(reference, tmp_path)
    tokens = np.array([[*ahead, *window] for window in WINDOWS])

    found = perplexities(model, mx.array(tokens), len(ahead), batch=2)

    with torch.no_grad():
        likely = reference.double()(torch.tensor(tokens)).logits.log_softmax(-1).numpy()
    counted = range(max(1, len(ahead)), tokens.shape[1])
    for row, perplexity in enumerate(found):
        losses = [-likely[row, at - 1, tokens[row, at]] for at in counted]
        assert len(losses) == LENGTH - (not ahead)
        assert perplexity == pytest.approx(np.exp(np.mean(losses)), rel=1e-4)


@pytest.mark.parametrize(
    ("bos", "adds", "ahead"),
    [
        ("auto", True, (5,)),
        ("auto", False, ()),
        ("yes", False, (5,)),
        ("yes", True, (5,)),
        ("no", True, ()),
    ],
)
def test_what_stands_before_a_window(bos: Bos, adds: bool, ahead: tuple[int, ...]) -> None:
    model = with_tokenizer(bos=5, adds=adds)

    assert beginning(model, bos) == ahead
    assert adds_bos(model) == adds
    assert encoder(model)("AB") == [1, 2]  # never a part of the window itself


def test_a_beginning_that_is_not_there_is_refused() -> None:
    model = with_tokenizer(bos=None)

    assert beginning(model, "auto") == ()
    with pytest.raises(InputError, match="no token that begins a text: pass --bos no"):
        beginning(model, "yes")
    with pytest.raises(InputError, match="bos is 'maybe': pass auto, yes, no"):
        beginning(model, "maybe")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["gemma2", "cohere"])
def test_capped_and_scaled_logits_have_their_own_perplexity(name: str) -> None:
    model = tiny_models()[name]()
    tokens = np.random.default_rng(0).integers(3, SURVEYED, (5, 9))

    found = perplexities(model, mx.array(tokens), 0, batch=2)

    logits = np.array(model.module(mx.array(tokens)), dtype=np.float64)
    logs = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    losses = [[-logs[n, t - 1, tokens[n, t]] for t in range(1, 9)] for n in range(5)]
    np.testing.assert_allclose(found, np.exp(np.mean(losses, axis=1)), rtol=1e-3)
