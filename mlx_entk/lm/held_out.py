"""What the effect of an edit is measured by: the words of labels, and text that no window holds."""

from collections.abc import Iterable, Sequence

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from mlx_entk.errors import InputError
from mlx_entk.lm.contexts import Context, Encode
from mlx_entk.lm.generation import encoder
from mlx_entk.lm.model import LanguageModel

# Tokens in a row that other text may not share with a window.
_SHARED = 12
# A piece of text gives one window; so many characters are enough for a token.
_CHARACTERS = 12
_AT_A_TIME = 32


def first_tokens(
    model: LanguageModel, contexts: Sequence[Context], states: mx.array
) -> list[int | None]:
    """The token with which the next word of each window begins.

    A word begins with another token after a space than without: of the two, the one that the
    model finds likelier after the window counts.

    Parameters
    ----------
    model
        The model, with its tokenizer.
    contexts
        The windows.
    states
        What the unembedding reads at the last position of each of them, shape (N, d).

    Returns
    -------
    list of int
        None for a window of which the next word is unknown.
    """
    encode, decode = encoder(model), model.tokenizer.decode
    either: list[list[int]] = []
    for context in contexts:
        forms = (f" {context.word}", context.word) if context.word else ()
        starts = [int(token) for form in forms for token in encode(form)[:1]]
        either.append([token for token in starts if decode([token]).strip()])
    found: list[int | None] = []
    for begin in range(0, len(contexts), _AT_A_TIME):
        logits = model.logits(states[begin : begin + _AT_A_TIME])
        for row, starts in zip(logits, either[begin : begin + _AT_A_TIME], strict=True):
            values = np.array(row[mx.array(starts)]) if starts else np.zeros(0)
            found.append(starts[int(values.argmax())] if starts else None)
    return found


def words_of(first: Sequence[int | None], mask: NDArray[np.bool_]) -> list[int]:
    """The tokens with which words of a label begin: those of the windows of a mask."""
    tokens = (token for token, has in zip(first, mask, strict=True) if has)
    return sorted({token for token in tokens if token is not None})


def other_windows(
    texts: Iterable[str],
    encode: Encode,
    contexts: Sequence[Context],
    ahead: Sequence[int],
    count: int,
    seed: int,
) -> mx.array:
    """Draw windows of text that share no passage with some contexts.

    Parameters
    ----------
    texts
        The text to draw from; what contexts were drawn from may be in it.
    encode
        Returns the tokens of a text, without special tokens.
    contexts
        Windows that the drawn ones may not share a dozen tokens in a row with.
    ahead
        Tokens to put before each window.
    count
        How many.
    seed
        Seed of the drawing.

    Returns
    -------
    mx.array
        Shape (count, T) with the contexts' number of tokens and what is put ahead, int32.

    Raises
    ------
    InputError
        If the text has fewer.
    """
    T = len(contexts[0].tokens)
    run = min(_SHARED, T)
    used = {part for context in contexts for part in _runs(context.tokens, run)}
    size = _CHARACTERS * T
    pieces = [text[i : i + size] for text in texts for i in range(0, len(text), size)]
    drawn: list[tuple[int, ...]] = []
    for number in np.random.default_rng(seed).permutation(len(pieces)):
        whole = pieces[int(number)].split(None, 1)  # the first word may be cut
        tokens = tuple(int(token) for token in encode(whole[-1])[:T]) if whole else ()
        if len(tokens) == T and used.isdisjoint(_runs(tokens, run)):
            drawn.append((*ahead, *tokens))
        if len(drawn) == count:
            return mx.array(np.array(drawn, dtype=np.int32))
    raise InputError(
        f"the texts have {len(drawn)} windows of {T} tokens that share nothing with those of the "
        f"run, but {count} are needed: give more text"
    )


def _runs(tokens: tuple[int, ...], length: int) -> Iterable[tuple[int, ...]]:
    return (tokens[i : i + length] for i in range(len(tokens) - length + 1))
