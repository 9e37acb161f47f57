"""Contexts with labels for the next word: reading ``contexts.jsonl``, and making it from text.

A row is ``{"tokens": [...], "text": "...", "word": "...", "labels": {"upos": "NOUN"}}``: the
tokens that a model reads, the end of them as text, the word that follows, and that word's labels.
It may say which document it comes from (``"document": 12``) and, if the word is the model's own,
the one that follows in the text (``"text_word": "…"``).
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
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
# From windows of tokens to the text with which a model goes on after each of them.
Continue = Callable[[Sequence[tuple[int, ...]]], Sequence[str]]

# A generous limit on the average characters per token: so much text is encoded for each token of a
# window.
_CHARACTERS = 12
# Characters before a model's own word with which it is tagged.
_TAGGED = 4_000
# Windows that a model continues at a time.
_AT_A_TIME = 64
# A text with a larger share of the windows is taken as passages, which share no text.
_LONG = 0.1
# What the Universal Dependencies call what is no word.
_NO_WORDS = frozenset({"PUNCT", "SPACE", "SYM", "X"})


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
    document
        Number of the text that the window comes from, or of the passage of a long text; None if
        it is unknown.
    text_word
        The word that follows in the text, if ``word`` is the one that a model follows with.
    """

    tokens: tuple[int, ...]
    text: str
    word: str
    labels: Labels
    document: int | None = None
    text_word: str = ""


@dataclass(frozen=True)
class Quotas:
    """As many windows of each value of a label.

    Attributes
    ----------
    label
        Such as ``upos``.
    each
        Windows of each value.
    values
        How many values: the most frequent ones, other than punctuation, that have so many windows.
    """

    label: str
    each: int
    values: int

    @property
    def count(self) -> int:
        """Windows in all."""
        return self.each * self.values


@dataclass(frozen=True)
class LabelRule:
    """The rule for which labels are scored.

    Attributes
    ----------
    windows
        The fewest windows that a label may have.
    words
        The fewest distinct words that it may have, if it is not a word class: a closed class has
        few by nature.
    largest_word
        The largest share of a label's windows that may come from a single word, likewise; above
        it, the label only stands for that word.
    largest_share
        The largest share of all windows that a label may have.
    redundancy
        The largest Jaccard similarity that a label may have with a more frequent one of its
        family: word classes (``upos``), or all others.
    """

    windows: int = 30
    words: int = 12
    largest_word: float = 0.5
    largest_share: float = 0.6
    redundancy: float = 0.9

    def __str__(self) -> str:
        """Describe the rule in words."""
        return (
            f"at least {self.windows} windows and at most {self.largest_share:.0%} of all, "
            f"Jaccard similarity with a more frequent label of its family at most "
            f"{self.redundancy:g}; other than word classes, at least {self.words} distinct words, "
            f"no single one in more than {self.largest_word:.0%} of the windows"
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
    texts = [row.get(name, "") for name in ("text", "word", "text_word")]
    if not all(isinstance(text, str) for text in texts):
        raise InputError(f"{where}: text, word and text_word must be text")
    document = row.get("document")
    if document is not None and not (type(document) is int and 0 <= document < 2**31):
        raise InputError(f"{where}: document is not a number from 0")
    return Context(tuple(tokens), texts[0], texts[1], labels, document, texts[2])


def write_contexts(path: Path, contexts: Sequence[Context]) -> None:
    """Write ``contexts.jsonl`` atomically."""
    lines = [json.dumps(asdict(context), ensure_ascii=False) + "\n" for context in contexts]
    write_text(path, "".join(lines))


def build_contexts(
    texts: Sequence[str],
    encode: Encode,
    tagger: Tagger,
    *,
    count: int | Quotas,
    window: int,
    one_a_document: bool = False,
    continued: Continue | None = None,
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
    count
        How many windows to draw; or quotas, by which as many are drawn of each value of a label,
        the rarest first.
    window
        How many tokens each of them has.
    one_a_document
        Whether to draw no more than one from each text.
    continued
        How a model goes on after windows. The labels are then those of the model's own next word,
        tagged in its context, and only windows are drawn of which the text's next word is of the
        same class (``upos``). That is the protocol of Lin, arXiv 2510.00468v4.
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
        _Place(i, start, end, labels)
        for i, text in enumerate(texts)
        for start, end, labels in tagger(text)
        if labels and start > 2 * window
    ]
    order = np.random.default_rng(seed).permutation(len(places))
    drawing = _Drawing(texts, encode, tagger, window, one_a_document, continued)
    drawn = [places[int(number)] for number in order]
    if isinstance(count, Quotas):
        return drawing.with_passages(_by_quotas(drawing, drawn, count, progress))
    contexts = []
    for context in drawing.draw(drawn):
        contexts.append(context)
        progress("contexts", len(contexts), count)
        if len(contexts) == count:
            return drawing.with_passages(contexts)
    raise InputError(
        f"the texts have {len(contexts)} windows of {window} tokens before a labelled word, "
        f"but {count} were asked for: give more text"
    )


@dataclass(frozen=True)
class _Place:
    """A labelled word of a text."""

    document: int
    start: int
    end: int
    labels: Labels


@dataclass
class _Drawing:
    """Windows before places, each set of tokens once."""

    texts: Sequence[str]
    encode: Encode
    tagger: Tagger
    window: int
    one_a_document: bool
    continued: Continue | None
    seen: set[tuple[int, ...]] = field(default_factory=set)
    documents: set[int] = field(default_factory=set)
    ends: dict[tuple[int, ...], int] = field(default_factory=dict)

    def draw(self, places: Iterable[_Place]) -> Iterator[Context]:
        """The windows before places that can be drawn, in order."""
        waiting: list[tuple[_Place, Context]] = []
        for place in places:
            context = self._before(place)
            if context is None:
                continue
            if self.continued is None:
                if self._take(context):
                    yield context
                continue
            waiting.append((place, context))
            if len(waiting) == _AT_A_TIME:
                yield from self._agreed(waiting)
                waiting = []
        yield from self._agreed(waiting)

    def _before(self, place: _Place) -> Context | None:
        if self.one_a_document and place.document in self.documents:
            return None
        text = self.texts[place.document]
        before = text[max(0, place.start - _CHARACTERS * self.window) : place.start].rstrip()
        tokens = tuple(int(token) for token in self.encode(before)[-self.window :])
        if len(tokens) < self.window or tokens in self.seen:
            return None
        word = text[place.start : place.end]
        self.ends[tokens] = place.start
        return Context(tokens, before[-200:], word, dict(place.labels), place.document)

    def _take(self, context: Context) -> bool:
        """Whether a window is still free; if so, it is taken."""
        assert context.document is not None
        taken = self.one_a_document and context.document in self.documents
        if taken or context.tokens in self.seen:
            return False
        self.seen.add(context.tokens)
        self.documents.add(context.document)
        return True

    def with_passages(self, contexts: Sequence[Context]) -> list[Context]:
        """The windows with documents of which none is so long that it cannot be in one half.

        In place of a long document each window has the passage that it belongs to: windows with
        text in common are of one passage.
        """
        windows = Counter(context.document for context in contexts)
        long = {d for d, number in windows.items() if number > _LONG * len(contexts)}
        passages: dict[tuple[int, ...], int] = {}
        latest, reached = len(self.texts) - 1, (-1, 0)  # the last window's document and end
        ordered = sorted(
            (context.document, self.ends[context.tokens], context.tokens)
            for context in contexts
            if context.document is not None and context.document in long
        )
        for document, end, tokens in ordered:
            if (document, self._start(document, end)) >= reached:
                latest += 1
            passages[tokens] = latest
            reached = (document, end)
        return [replace(c, document=passages.get(c.tokens, c.document)) for c in contexts]

    def _start(self, document: int, end: int) -> int:
        """The first character of a window that ends at a place of a document."""
        text = self.texts[document]
        least, most = max(0, end - _CHARACTERS * self.window), end
        while most - least > 1:  # the shortest text with so many tokens
            middle = (least + most) // 2
            if len(self.encode(text[middle:end].rstrip())) >= self.window:
                least = middle
            else:
                most = middle
        return least

    def _agreed(self, waiting: Sequence[tuple[_Place, Context]]) -> Iterator[Context]:
        """Those whose class is that of the word with which the model goes on."""
        if not waiting or self.continued is None:
            return
        going_on = self.continued([context.tokens for _, context in waiting])
        for (place, context), continuation in zip(waiting, going_on, strict=True):
            text = self.texts[place.document]
            before = text[max(0, place.start - _TAGGED) : place.start].rstrip()
            found = _first_word(before, continuation, self.tagger)
            if found is None or found[1].get("upos") != context.labels.get("upos"):
                continue
            if self._take(context):
                yield replace(context, word=found[0], labels=found[1], text_word=context.word)


def _first_word(before: str, continuation: str, tagger: Tagger) -> tuple[str, Labels] | None:
    """The word that a continuation begins with, and its labels; None if it is cut or unlabelled."""
    whole = before + continuation
    for start, end, labels in tagger(whole):
        if start >= len(before):
            complete = end < len(whole) and not whole[len(before) : start].strip()
            return (whole[start:end], dict(labels)) if complete else None
    return None


def _by_quotas(
    drawing: _Drawing, places: Sequence[_Place], quotas: Quotas, progress: Progress
) -> list[Context]:
    """As many windows of each value, of the rarest value first."""
    by_value: dict[str, list[_Place]] = {}
    for place in places:
        value = place.labels.get(quotas.label)
        if value is not None and value not in _NO_WORDS:
            by_value.setdefault(value, []).append(place)
    # A value with too few places is not tried: a model would go on after each of them in vain.
    enough = [
        value
        for value, found in by_value.items()
        if len({p.document for p in found} if drawing.one_a_document else found) >= quotas.each
    ]
    frequent = sorted(enough, key=lambda value: (-len(by_value[value]), value))
    chosen, others = frequent[: quotas.values][::-1], frequent[quotas.values :]
    full: dict[str, list[Context]] = {}
    while chosen:
        value = chosen.pop(0)
        drawn: list[Context] = []
        for context in drawing.draw(by_value[value]):
            # The model's own word may have another value of a label other than its class.
            if context.labels.get(quotas.label) == value:
                drawn.append(context)
            if len(drawn) == quotas.each:
                full[value] = drawn
                break
            progress("contexts", sum(map(len, full.values())) + len(drawn), quotas.count)
        else:
            drawing.documents -= {c.document for c in drawn if c.document is not None}
            drawing.seen -= {context.tokens for context in drawn}
            chosen += others[:1]
            others = others[1:]
    if len(full) < quotas.values:
        raise InputError(
            f"{len(full)} values of {quotas.label} have {quotas.each} windows of "
            f"{drawing.window} tokens, but {quotas.values} were asked for: give more text, or ask "
            "for fewer"
        )
    progress("contexts", quotas.count, quotas.count)
    return [context for value in full for context in full[value]]


def tokens_of(contexts: Sequence[Context], ahead: Sequence[int] = ()) -> mx.array:
    """Return the tokens of the windows, int32 of shape (N, T), with some ahead of each."""
    return mx.array(np.array([(*ahead, *context.tokens) for context in contexts], dtype=np.int32))


def documents_of(contexts: Sequence[Context]) -> NDArray[np.int64]:
    """Return a number for the document of each window; an unknown one is a document of its own."""
    first = 1 + max((c.document for c in contexts if c.document is not None), default=-1)
    numbers = [first + i if c.document is None else c.document for i, c in enumerate(contexts)]
    return np.unique(numbers, return_inverse=True)[1].astype(np.int64)


def splits(
    contexts: Sequence[Context], count: int, seed: int, stratify: str = "upos"
) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Split the numbers of the contexts in halves: to choose modes on, and to report on.

    All windows of a document are in one half, and each value of a label is in both halves as
    evenly as documents allow.

    Parameters
    ----------
    contexts
        The contexts.
    count
        How many splits to draw.
    seed
        Seed of the drawing.
    stratify
        Name of the label.
    """
    documents = documents_of(contexts)
    values = [context.labels.get(stratify, "") for context in contexts]
    members: dict[int, list[int]] = {}
    for i, document in enumerate(documents):
        members.setdefault(int(document), []).append(i)
    drawn = []
    for generator in np.random.default_rng(seed).spawn(count):
        halves: tuple[list[int], list[int]] = ([], [])
        counts = (Counter[str](), Counter[str]())
        for document in generator.permutation(len(members)):
            windows = members[int(document)]
            # Where it makes the values more even; by the sizes of the halves, or chance, if equal.
            lacks = [
                (sum(side[values[i]] for i in windows), len(half), generator.random())
                for side, half in zip(counts, halves, strict=True)
            ]
            at = int(lacks[1] < lacks[0])
            halves[at].extend(windows)
            counts[at].update(values[i] for i in windows)
        drawn.append(
            (np.sort(np.array(halves[0], np.int64)), np.sort(np.array(halves[1], np.int64)))
        )
    return drawn


def indicators(contexts: Sequence[Context], rule: LabelRule) -> dict[str, NDArray[np.bool_]]:
    """Return which contexts have each label that the rule keeps, the most frequent label first.

    Parameters
    ----------
    contexts
        N contexts. If the words of some are unknown, the rule's conditions on words do not count.
    rule
        The rule.

    Returns
    -------
    dict
        A mask of shape (N,) for each label, under ``name=value``.
    """
    known = all(context.word for context in contexts)
    masks: dict[str, NDArray[np.bool_]] = {}
    for label, mask in sorted(_masks(contexts), key=lambda item: (-item[1].sum(), item[0])):
        if mask.sum() < rule.windows or mask.mean() > rule.largest_share:
            continue
        is_class = label.startswith("upos=")
        words = Counter(contexts[int(i)].word.lower() for i in np.flatnonzero(mask))
        stands_for_few = len(words) < rule.words or max(words.values()) > (
            rule.largest_word * mask.sum()
        )
        if known and not is_class and stands_for_few:
            continue
        if any(
            _jaccard(mask, other) > rule.redundancy
            for name, other in masks.items()
            if name.startswith("upos=") == is_class
        ):
            continue
        masks[label] = mask
    return masks


def in_every_half(
    labels: Mapping[str, NDArray[np.bool_]],
    halves: Iterable[tuple[NDArray[np.int64], NDArray[np.int64]]],
) -> dict[str, NDArray[np.bool_]]:
    """Return the labels that some windows of every half have, and some have not."""
    sides = [half for split in halves for half in split]
    return {
        label: mask
        for label, mask in labels.items()
        if all(0 < mask[s].sum() < len(s) for s in sides)
    }


def _masks(contexts: Sequence[Context]) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    pairs = sorted({pair for context in contexts for pair in context.labels.items()})
    for name, value in pairs:
        mask = np.array([context.labels.get(name) == value for context in contexts])
        yield f"{name}={value}", mask


def _jaccard(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    return float((a & b).sum() / (a | b).sum())
