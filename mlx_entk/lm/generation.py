"""How a model begins its inputs, and how it goes on after them."""

from collections.abc import Sequence
from typing import Literal, get_args

import mlx.core as mx
import numpy as np

from mlx_entk._linalg import Float64Array
from mlx_entk.errors import InputError
from mlx_entk.lm.contexts import Continue, Encode
from mlx_entk.lm.model import LanguageModel

Bos = Literal["auto", "yes", "no"]
# Tokens that a model goes on with: enough for a word, and for the beginning of the next.
_TOKENS = 6


def beginning(model: LanguageModel, bos: Bos) -> tuple[int, ...]:
    """Return the tokens that stand before each window.

    Parameters
    ----------
    model
        The model, with its tokenizer.
    bos
        ``"yes"`` for the token that begins a text, ``"no"`` for none, and ``"auto"`` for what the
        tokenizer itself adds.

    Raises
    ------
    InputError
        If the tokenizer has no such token, or ``bos`` is something else.
    """
    if bos not in get_args(Bos):
        raise InputError(f"bos is {bos!r}: pass {', '.join(get_args(Bos))}")
    if bos == "no" or (bos == "auto" and not adds_bos(model)):
        return ()
    token = getattr(model.tokenizer, "bos_token_id", None)
    if token is None:
        raise InputError("the tokenizer has no token that begins a text: pass --bos no")
    return (int(token),)


def adds_bos(model: LanguageModel) -> bool:
    """Whether the tokenizer begins a text with a token of its own."""
    token = getattr(model.tokenizer, "bos_token_id", None)
    return token is not None and list(model.tokenizer.encode("a"))[:1] == [token]


def encoder(model: LanguageModel) -> Encode:
    """Return a function from a text to its tokens, without special ones."""

    def encode(text: str) -> list[int]:
        tokens: list[int] = model.tokenizer.encode(text, add_special_tokens=False)
        return tokens

    return encode


def greedy(model: LanguageModel, ahead: tuple[int, ...]) -> Continue:
    """Return how a model goes on after windows, by the most likely token each time.

    Parameters
    ----------
    model
        The model, with its tokenizer.
    ahead
        Tokens that stand before each window.
    """
    from mlx_lm.models.cache import make_prompt_cache

    def continued(windows: Sequence[tuple[int, ...]]) -> list[str]:
        cache = make_prompt_cache(model.module)
        tokens = mx.array([[*ahead, *window] for window in windows])
        new: list[mx.array] = []
        for _ in range(_TOKENS):
            state = model.states(tokens, cache=cache)[:, -1]
            tokens = mx.argmax(model.logits(state), axis=-1, keepdims=True)
            mx.eval(tokens)
            new.append(tokens)
        decode = model.tokenizer.decode
        texts = []
        for window, following in zip(windows, np.array(mx.concatenate(new, axis=1)), strict=True):
            before = decode(list(window))
            texts.append(decode([*window, *map(int, following)])[len(before) :])
        return texts

    return continued


def perplexities(
    model: LanguageModel, tokens: mx.array, ahead: int, batch: int = 4
) -> Float64Array:
    """Compute the perplexity of each window.

    Parameters
    ----------
    model
        The model.
    tokens
        Shape (N, T).
    ahead
        How many of the tokens stand before the window, which are not counted.
    batch
        Windows at a time.

    Returns
    -------
    Float64Array
        Shape (N,): exp of the mean negative log-likelihood of each window's tokens, the first one
        left out if nothing stands before it.
    """
    found = []
    first = max(1, ahead)
    for start in range(0, tokens.shape[0], batch):
        rows = tokens[start : start + batch]
        logits = model.logits(model.states(rows)[:, first - 1 : -1])
        chosen = mx.take_along_axis(logits, rows[:, first:, None], axis=-1).squeeze(-1)
        losses = (mx.logsumexp(logits, axis=-1) - chosen).mean(axis=-1)
        found.append(np.array(mx.exp(losses), dtype=np.float64))
    return np.concatenate(found)
