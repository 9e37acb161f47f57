"""Word classes of English from a small set of rules, for use without a tagger.

Closed classes come from lists, open ones from endings; a word that neither covers is left out. The
names are those of Universal Dependencies. The rules make mistakes (``-ing`` may be a noun):
``spacy_tagger`` is a trained one, and any function of a text will do that yields the same as
``tag``.
"""

import re
from collections.abc import Iterator

from mlx_entk.errors import InputError
from mlx_entk.lm.contexts import Labels, Tagger

_CLOSED: dict[str, str] = {
    "DET": "a an the this that these those each every any some no another such",
    "ADP": "of in on at by for with from into onto over under between through during against "
    "about above below within without across along among beyond per via upon toward towards",
    "PRON": "i you he she it we they me him her us them itself themselves himself herself one "
    "who whom whose which what",
    "AUX": "is are was were be been being am has have had do does did will would can could may "
    "might must shall should cannot",
    "CCONJ": "and or but nor",
    "SCONJ": "if because although while whereas unless since though whether when where",
    "PART": "to not n't",
    "NUM": "two three four five six seven eight nine ten hundred thousand",
    "ADV": "also only then there here now often always never usually already however otherwise "
    "therefore instead still just even too very more most less",
}
_CLASS_OF = {word: name for name, words in _CLOSED.items() for word in words.split()}
_PLURAL_PRONOUNS = frozenset(["we", "they", "us", "them", "themselves", "these", "those"])

# Endings that usually show the class; the first match counts, after at least three letters.
_ENDINGS: tuple[tuple[str, Labels], ...] = (
    ("ly", {"upos": "ADV"}),
    ("ing", {"upos": "VERB", "VerbForm": "Ger"}),
    ("ed", {"upos": "VERB", "VerbForm": "Part"}),
    *(
        (ending + plural, {"upos": "NOUN", "Number": "Plur" if plural else "Sing"})
        for ending in ("tion", "sion", "ment", "ness", "ity", "ance", "ence", "ship", "ism",
                       "ure", "or", "er", "string", "object", "class", "file", "name", "method")
        for plural in ("s", "")
    ),
    *((e, {"upos": "ADJ"}) for e in ("able", "ible", "ous", "ive", "ful", "less", "ical", "al")),
)  # fmt: skip

# Characters that a pipeline of spaCy reads at a time: it refuses a million, and its memory
# grows with them.
_PIECE = 20_000

_WORD = re.compile(r"[A-Za-z]+(?:n't)?|\d+(?:\.\d+)?|[.,;:!?()]")


def tag(text: str) -> Iterator[tuple[int, int, Labels]]:
    """Yield the labelled words of a text, as (first character, end, labels)."""
    for match in _WORD.finditer(text):
        labels = labels_of(match[0])
        if labels:
            yield match.start(), match.end(), labels


def labels_of(word: str) -> Labels:
    """Return the labels of a word on its own; empty if no rule covers it."""
    lower = word.lower()
    if not word[0].isalpha():
        return {"upos": "NUM" if word[0].isdigit() else "PUNCT"}
    if lower in _CLASS_OF:
        labels = {"upos": _CLASS_OF[lower]}
        if labels["upos"] in ("PRON", "DET") and lower in _PLURAL_PRONOUNS:
            labels["Number"] = "Plur"
        return labels
    for ending, of_ending in _ENDINGS:
        if lower.endswith(ending) and len(lower) >= len(ending) + 3:
            return dict(of_ending)
    return {}


def spacy_tagger(pipeline: str) -> Tagger:
    """Return a tagger by a pipeline of spaCy, with word classes and morphology.

    Parameters
    ----------
    pipeline
        Name of an installed package, such as ``en_core_web_sm``.

    Raises
    ------
    InputError
        If spaCy or the pipeline is missing, or spaCy cannot load it.
    """
    try:
        import spacy
    except ImportError as error:
        raise InputError("tagging by spaCy needs it: pip install spacy") from error
    if not spacy.util.is_package(pipeline):
        raise InputError(
            f"spaCy has no installed pipeline {pipeline}: python -m spacy download {pipeline}"
        )
    try:
        # The parser stays: by it the English pipelines tell a main verb from an auxiliary.
        tagged = spacy.load(pipeline, disable=["ner", "lemmatizer"])
    except Exception as error:  # of the package's own code, which has no common base
        raise InputError(f"spaCy cannot load {pipeline}: {error}") from error

    def by_spacy(text: str) -> Iterator[tuple[int, int, Labels]]:
        for start, end in _pieces(text):
            for token in tagged(text[start:end]):
                if token.pos_ not in ("", "SPACE"):
                    first = start + token.idx
                    labels = {"upos": token.pos_, **token.morph.to_dict()}
                    yield first, first + len(token), labels

    return by_spacy


def _pieces(text: str) -> Iterator[tuple[int, int]]:
    """Where a text may be cut into pieces: after a line if possible, or after a word."""
    start = 0
    while start < len(text):
        end = min(start + _PIECE, len(text))
        if end < len(text):
            ends = (text.rfind(mark, start, end) + len(mark) for mark in ("\n", ". ", " "))
            end = next((cut for cut in ends if cut > start + _PIECE // 2), end)
        yield start, end
        start = end
