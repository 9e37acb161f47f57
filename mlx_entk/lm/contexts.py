"""Contexts with labels for the next word: reading ``contexts.jsonl``, and making it from text.

A row is ``{"tokens": [...], "text": "...", "word": "...", "labels": {"upos": "NOUN"}}``: the
tokens that a model reads, the end of them as text, the word that follows, and that word's labels.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from mlx_entk._files import parse_json, read_text, write_text
from mlx_entk.errors import InputError
from mlx_entk.progress import Progress, silent

Labels = dict[str, str]
# From a text to its labelled words in order, each as (first character, end, labels).
Tagger = Callable[[str], Iterable[tuple[int, int, Labels]]]
Encode = Callable[[str], Sequence[int]]

# A generous limit on the average characters per token: so much text is encoded for each token of a
# window.
_CHARACTERS = 12


@dataclass(frozen=True)
class Context:
    """A window of tokens, and the labels of the word after it.

    Attributes
    ----------
    tokens
        The tokens that the model reads.
    text
        The end of the window as text.
    word
        The word that follows; empty if it is unknown.
    labels
        Labels of that word, such as ``{"upos": "NOUN"}``.
    """

    tokens: tuple[int, ...]
    text: str
    word: str
    labels: Labels


@dataclass(frozen=True)
class LabelRule:
    """The rule for which labels are scored.

    Attributes
    ----------
    support
        The fewest contexts that a label may have in each half.
    largest_share
        The largest share of all contexts that a label may have.
    redundancy
        The largest Jaccard similarity that a label may have with a more frequent one.
    largest_word
        The largest share of a label's contexts that may come from a single word; above it, the
        label only stands for that word.
    """

    support: int = 10
    largest_share: float = 0.6
    redundancy: float = 0.9
    largest_word: float = 0.5

    def __str__(self) -> str:
        """Describe the rule in words."""
        return (
            f"at least {self.support} contexts in each half and at most "
            f"{self.largest_share:.0%} of all, Jaccard similarity with a more frequent label at "
            f"most {self.redundancy:g}, no single word more than {self.largest_word:.0%} of them"
        )


def read_contexts(path: Path) -> list[Context]:
    """Read ``contexts.jsonl``.

    Raises
    ------
    InputError
        If the file cannot be read, has fewer than 4 contexts, has a line that is not a context
        (the message names the line), or has windows of different lengths.
    """
    lines = read_text(path).split("\n")
    contexts = [_parse(f"{path}, line {i}", line) for i, line in enumerate(lines, 1) if line]
    if len(contexts) < 4:
        raise InputError(f"{path} has {len(contexts)} contexts: at least 4 are needed")
    lengths = Counter(len(context.tokens) for context in contexts)
    if len(lengths) > 1:
        raise InputError(
            f"{path} has windows of {min(lengths)} to {max(lengths)} tokens: cut them to one length"
        )
    return contexts


def _parse(where: str, line: str) -> Context:
    try:
        row = parse_json(line)
    except ValueError as error:
        raise InputError(f"{where} is not JSON: {error}") from error
    if not isinstance(row, dict):
        raise InputError(f"{where} is not a JSON object")
    tokens, labels = row.get("tokens"), row.get("labels")
    if not isinstance(tokens, list) or not all(type(t) is int and 0 <= t < 2**31 for t in tokens):
        raise InputError(f"{where}: tokens is not a list of token numbers")
    if not tokens:
        raise InputError(f"{where}: tokens is empty")
    if not isinstance(labels, dict) or not all(isinstance(v, str) for v in labels.values()):
        raise InputError(f"{where}: labels is not an object with text values")
    text, word = row.get("text", ""), row.get("word", "")
    if not isinstance(text, str) or not isinstance(word, str):
        raise InputError(f"{where}: text and word must be text")
    return Context(tuple(tokens), text, word, labels)


def write_contexts(path: Path, contexts: Sequence[Context]) -> None:
    """Write ``contexts.jsonl`` atomically."""
    lines = [json.dumps(asdict(context), ensure_ascii=False) + "\n" for context in contexts]
    write_text(path, "".join(lines))


def build_contexts(
    texts: Sequence[str],
    encode: Encode,
    tagger: Tagger,
    *,
    count: int,
    window: int,
    seed: int = 0,
    progress: Progress = silent,
) -> list[Context]:
    """Draw windows that end before a labelled word, without repeats.

    Parameters
    ----------
    texts
        The texts to draw from.
    encode
        Returns the tokens of a text, without special tokens at its beginning and end.
    tagger
        Labels words; a word that it leaves out does not follow a window.
    count, window
        How many windows to draw, and how many tokens each of them has.
    seed
        Seed of the drawing.
    progress
        Told after each window.

    Returns
    -------
    list of Context
        In the order in which they were drawn.

    Raises
    ------
    InputError
        If the texts have fewer such windows.
    """
    places = [
        (i, start, end, labels)
        for i, text in enumerate(texts)
        for start, end, labels in tagger(text)
        if labels and start > 2 * window
    ]
    order = np.random.default_rng(seed).permutation(len(places))
    contexts: list[Context] = []
    seen: set[tuple[int, ...]] = set()
    for number in order:
        if len(contexts) == count:
            break
        i, start, end, labels = places[int(number)]
        before = texts[i][max(0, start - _CHARACTERS * window) : start].rstrip()
        tokens = tuple(int(token) for token in encode(before)[-window:])
        if len(tokens) < window or tokens in seen:
            continue
        seen.add(tokens)
        contexts.append(Context(tokens, before[-200:], texts[i][start:end], dict(labels)))
        progress("contexts", len(contexts), count)
    if len(contexts) < count:
        raise InputError(
            f"the texts have {len(contexts)} windows of {window} tokens before a labelled word, "
            f"but {count} were asked for: give more text"
        )
    return contexts


def tokens_of(contexts: Sequence[Context]) -> mx.array:
    """Return the tokens of the windows, int32 of shape (N, T)."""
    return mx.array(np.array([context.tokens for context in contexts], dtype=np.int32))


def halves(count: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Split the numbers of the contexts at random: half to choose modes on, half to report on."""
    first, second = np.array_split(np.random.default_rng(seed).permutation(count), 2)
    return np.sort(first), np.sort(second)


def indicators(
    contexts: Sequence[Context], train: NDArray[np.int64], test: NDArray[np.int64], rule: LabelRule
) -> dict[str, NDArray[np.bool_]]:
    """Return which contexts have each label that the rule keeps, the most frequent label first.

    Parameters
    ----------
    contexts
        N contexts.
    train, test
        Numbers of the contexts in each half.
    rule
        The rule.

    Returns
    -------
    dict
        A mask of shape (N,) for each label, under ``name=value``.
    """
    masks: dict[str, NDArray[np.bool_]] = {}
    for label, mask in sorted(_masks(contexts), key=lambda item: (-item[1].sum(), item[0])):
        if min(mask[train].sum(), mask[test].sum()) < rule.support:
            continue
        if mask.mean() > rule.largest_share:
            continue
        words = Counter(contexts[int(i)].word.lower() for i in np.flatnonzero(mask))
        if "" not in words and max(words.values()) > rule.largest_word * mask.sum():
            continue
        if any(_jaccard(mask, other) > rule.redundancy for other in masks.values()):
            continue
        masks[label] = mask
    return masks


def _masks(contexts: Sequence[Context]) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    pairs = sorted({pair for context in contexts for pair in context.labels.items()})
    for name, value in pairs:
        mask = np.array([context.labels.get(name) == value for context in contexts])
        yield f"{name}={value}", mask


def _jaccard(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    return float((a & b).sum() / (a | b).sum())
