"""Contexts with labels of the next word: ``contexts.jsonl``, and how to make it from text.

A row is ``{"tokens": [...], "text": "...", "word": "...", "labels": {"upos": "NOUN"}}``: the
tokens that a model reads, their end as text, the word that follows, and what is known of it.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from mlx_entk._files import write_atomically
from mlx_entk.errors import InputError
from mlx_entk.progress import Progress, silent

Labels = dict[str, str]
# Of a text, words with labels as (first character, end, labels), in order.
Tagger = Callable[[str], Iterable[tuple[int, int, Labels]]]
Encode = Callable[[str], Sequence[int]]

# Characters that a token has at most on average, generously: what is encoded for one window.
_CHARACTERS = 12


@dataclass(frozen=True)
class Context:
    """A window of tokens and what is known of the word after it.

    Attributes
    ----------
    tokens
        What the model reads.
    text
        The end of the same as text.
    word
        The word that follows; empty where that is not known.
    labels
        Of that word, such as ``{"upos": "NOUN"}``.
    """

    tokens: tuple[int, ...]
    text: str
    word: str
    labels: Labels


@dataclass(frozen=True)
class LabelRule:
    """Which labels are scored.

    Attributes
    ----------
    support
        Contexts that a label has to have in each half at least.
    largest_share
        Of the contexts, that a label may have at most.
    redundancy
        A label is left out where its Jaccard similarity with one of more contexts exceeds this.
    largest_word
        Share of a label's contexts that one word may have: above it, the label is that word.
    """

    support: int = 10
    largest_share: float = 0.6
    redundancy: float = 0.9
    largest_word: float = 0.5

    def __str__(self) -> str:
        """The rule in words."""
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
        For a line that is no context, or windows of different lengths; the message names the
        line.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {path}: {error}") from error
    contexts = [_parse(f"{path}, line {i}", line) for i, line in enumerate(lines, 1) if line]
    if len(contexts) < 4:
        raise InputError(f"{path} has {len(contexts)} contexts: there have to be at least 4")
    lengths = Counter(len(context.tokens) for context in contexts)
    if len(lengths) > 1:
        raise InputError(
            f"{path} has windows of {min(lengths)} to {max(lengths)} tokens: cut them to one length"
        )
    return contexts


def _parse(where: str, line: str) -> Context:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where} is no JSON: {error}") from error
    if not isinstance(row, dict):
        raise InputError(f"{where} is no JSON object")
    tokens, labels = row.get("tokens"), row.get("labels")
    if not isinstance(tokens, list) or not all(type(t) is int and t >= 0 for t in tokens):
        raise InputError(f"{where}: tokens is no list of token numbers")
    if not tokens:
        raise InputError(f"{where}: tokens is empty")
    if not isinstance(labels, dict) or not all(isinstance(v, str) for v in labels.values()):
        raise InputError(f"{where}: labels is no object of text")
    text, word = row.get("text", ""), row.get("word", "")
    if not isinstance(text, str) or not isinstance(word, str):
        raise InputError(f"{where}: text and word have to be text")
    return Context(tuple(tokens), text, word, labels)


def write_contexts(path: Path, contexts: Sequence[Context]) -> None:
    """Write ``contexts.jsonl`` atomically."""
    lines = [json.dumps(asdict(context), ensure_ascii=False) + "\n" for context in contexts]
    write_atomically(path, lambda temporary: temporary.write_text("".join(lines), encoding="utf-8"))


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
    """Draw windows that end before a word with labels, none twice.

    Parameters
    ----------
    encode
        Tokens of a text, without marks of beginning and end.
    tagger
        Labels of words; what it leaves out does not follow a window.
    count, window
        How many, of how many tokens.

    Raises
    ------
    InputError
        Where the texts have fewer.
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
            f"{count} were asked for: give more text"
        )
    return contexts


def tokens_of(contexts: Sequence[Context]) -> mx.array:
    """The windows, shape (N, T)."""
    return mx.array(np.array([context.tokens for context in contexts], dtype=np.int32))


def halves(count: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Numbers of the contexts to choose modes on, and of those to report on."""
    first, second = np.array_split(np.random.default_rng(seed).permutation(count), 2)
    return np.sort(first), np.sort(second)


def indicators(
    contexts: Sequence[Context], train: NDArray[np.int64], test: NDArray[np.int64], rule: LabelRule
) -> dict[str, NDArray[np.bool_]]:
    """Which contexts have each label that the rule lets pass, as ``name=value``, frequent first."""
    found: dict[str, NDArray[np.bool_]] = {}
    for label, mask in sorted(_masks(contexts), key=lambda item: (-item[1].sum(), item[0])):
        if min(mask[train].sum(), mask[test].sum()) < rule.support:
            continue
        if mask.mean() > rule.largest_share:
            continue
        words = Counter(contexts[int(i)].word.lower() for i in np.flatnonzero(mask))
        if "" not in words and max(words.values()) > rule.largest_word * mask.sum():
            continue
        if any(_jaccard(mask, other) > rule.redundancy for other in found.values()):
            continue
        found[label] = mask
    return found


def _masks(contexts: Sequence[Context]) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    pairs = sorted({pair for context in contexts for pair in context.labels.items()})
    for name, value in pairs:
        mask = np.array([context.labels.get(name) == value for context in contexts])
        yield f"{name}={value}", mask


def _jaccard(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    return float((a & b).sum() / (a | b).sum())
