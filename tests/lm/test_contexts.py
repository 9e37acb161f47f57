"""Contexts: read, built from text, and which of their labels count."""

import gzip
import json
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mlx_entk import InputError
from mlx_entk.lm.contexts import (
    Context,
    LabelRule,
    Labels,
    Quotas,
    build_contexts,
    documents_of,
    in_every_half,
    indicators,
    read_contexts,
    splits,
    tokens_of,
    write_contexts,
)
from mlx_entk.lm.tagging import labels_of, spacy_tagger, tag
from mlx_entk.lm.texts import read_texts

TEXT = " ".join(f"the number of words is {i} and the methods are counted slowly" for i in range(90))


def encode(text: str) -> list[int]:
    """A token a word."""
    return [sum(map(ord, word)) % 97 for word in text.split()]


def test_what_is_written_is_read(tmp_path: Path) -> None:
    contexts = [
        Context((i, i + 1), "über  the\nend", "word", {"upos": "NOUN"}, i, "other")
        for i in range(4)
    ]

    write_contexts(tmp_path / "c.jsonl", contexts)

    assert read_contexts(tmp_path / "c.jsonl") == contexts
    assert tokens_of(contexts).tolist() == [[0, 1], [1, 2], [2, 3], [3, 4]]
    assert tokens_of(contexts, (7,)).tolist() == [[7, 0, 1], [7, 1, 2], [7, 2, 3], [7, 3, 4]]


GOOD = {"tokens": [1, 2], "text": "a", "word": "b", "labels": {"upos": "X"}}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 3 is not JSON"),
        ("[1]", "line 3 is not a JSON object"),
        (json.dumps(GOOD | {"tokens": "ab"}), "line 3: tokens is not a list of token numbers"),
        (json.dumps(GOOD | {"tokens": [1, -2]}), "line 3: tokens is not a list of token numbers"),
        (json.dumps(GOOD | {"tokens": [True, 2]}), "line 3: tokens is not a list of token numbers"),
        (json.dumps(GOOD | {"tokens": []}), "line 3: tokens is empty"),
        (
            json.dumps(GOOD | {"labels": ["NOUN"]}),
            "line 3: labels is not an object with text values",
        ),
        (
            json.dumps(GOOD | {"labels": {"a": 1}}),
            "line 3: labels is not an object with text values",
        ),
        (json.dumps(GOOD | {"word": 7}), "line 3: text, word and text_word must be text"),
        (json.dumps(GOOD | {"document": -1}), "line 3: document is not a number from 0"),
        (json.dumps(GOOD | {"document": "a"}), "line 3: document is not a number from 0"),
        (json.dumps(GOOD | {"tokens": [1]}), "windows of 1 to 2 tokens: cut them to one length"),
    ],
)
def test_a_line_that_is_no_context_is_named(tmp_path: Path, line: str, message: str) -> None:
    lines = [json.dumps(GOOD), json.dumps(GOOD), line, json.dumps(GOOD)]
    (tmp_path / "c.jsonl").write_text("\n".join(lines))

    with pytest.raises(InputError, match=r"c\.jsonl") as refused:
        read_contexts(tmp_path / "c.jsonl")

    assert message in str(refused.value)


def test_files_without_contexts_are_refused(tmp_path: Path) -> None:
    (tmp_path / "few.jsonl").write_text(json.dumps(GOOD))
    (tmp_path / "binary.jsonl").write_bytes(b"\xff\xfe\x00")
    for name, message in {
        "few.jsonl": "has 1 contexts: at least 4 are needed",
        "binary.jsonl": "is not text",
        "none.jsonl": "cannot read",
    }.items():
        with pytest.raises(InputError, match=message):
            read_contexts(tmp_path / name)


def test_windows_end_before_labelled_words_and_none_comes_twice() -> None:
    contexts = build_contexts([TEXT], encode, tag, count=80, window=6, seed=1)
    again = build_contexts([TEXT], encode, tag, count=80, window=6, seed=1)

    assert contexts == again
    assert len({context.tokens for context in contexts}) == 80
    for context in contexts:
        assert context.labels == labels_of(context.word)
        assert context.tokens == tuple(encode(context.text)[-6:])
        assert f"{context.text} {context.word}" in TEXT


def test_too_little_text_is_said() -> None:
    with pytest.raises(
        InputError, match="before a labelled word, but 5000 were asked for: give more"
    ):
        build_contexts([TEXT], encode, tag, count=5000, window=6)


def test_a_tagger_of_the_users_own_is_used() -> None:
    def numbers(text: str) -> Iterator[tuple[int, int, Labels]]:
        for start, end, labels in tag(text):
            if labels["upos"] == "NUM":
                yield start, end, {"kind": "number"}

    contexts = build_contexts([TEXT], encode, numbers, count=20, window=14)

    assert all(context.word.isdigit() for context in contexts)
    assert {tuple(context.labels.items()) for context in contexts} == {(("kind", "number"),)}


@pytest.mark.parametrize(
    ("word", "labels"),
    [
        ("the", {"upos": "DET"}),
        ("They", {"upos": "PRON", "Number": "Plur"}),
        ("slowly", {"upos": "ADV"}),
        ("counting", {"upos": "VERB", "VerbForm": "Ger"}),
        ("functions", {"upos": "NOUN", "Number": "Plur"}),
        ("collection", {"upos": "NOUN", "Number": "Sing"}),
        ("iterable", {"upos": "ADJ"}),
        ("42", {"upos": "NUM"}),
        (",", {"upos": "PUNCT"}),
        ("spam", {}),
    ],
)
def test_rules_for_english(word: str, labels: Labels) -> None:
    assert labels_of(word) == labels


def labelled(rows: list[tuple[str, Labels]]) -> list[Context]:
    return [Context((i,), "", word, labels) for i, (word, labels) in enumerate(rows)]


def test_labels_that_the_rule_leaves_out() -> None:
    everything: list[tuple[str, Labels]] = []
    for i in range(200):
        labels: dict[str, Any] = {"all": "x"}
        if i % 4 == 0:
            labels |= {"kept": "a", "copy": "b", "upos": "N"}  # the same contexts, as two families
        if i % 5 == 0:
            labels["word"] = "c"  # one word alone
        if i < 6:
            labels["rare"] = "d"
        if 50 <= i < 90:
            labels["few"] = "e"
        if i % 3 == 0:
            labels["upos"] = "DET"  # of one word, but a class
        word = "same" if i % 5 == 0 or i % 3 == 0 else f"few{i % 9}" if 50 <= i < 90 else f"word{i}"
        everything.append((word, labels))

    masks = indicators(labelled(everything), LabelRule())

    assert list(masks) == ["upos=DET", "copy=b", "upos=N"]
    assert masks["copy=b"].tolist() == [i % 4 == 0 for i in range(200)]


def test_without_words_only_their_number_counts() -> None:
    contexts = labelled([("", {"a": "x" if i % 2 else "y"}) for i in range(100)])

    assert list(indicators(contexts, LabelRule())) == ["a=x", "a=y"]
    assert not indicators(contexts, LabelRule(windows=51))


def of_documents(generator: np.random.Generator, N: int) -> list[Context]:
    """Contexts of which some share a document, and of some of which it is unknown."""
    classes = generator.choice(["NOUN", "VERB", "ADJ"], N, p=[0.6, 0.3, 0.1])
    return [
        Context((i,), "", "w", {"upos": str(c)}, None if i % 7 == 0 else int(d))
        for i, (c, d) in enumerate(zip(classes, generator.integers(0, N // 3, N), strict=True))
    ]


def test_halves_share_no_document_and_have_alike_classes() -> None:
    contexts = of_documents(np.random.default_rng(0), 300)

    halves = splits(contexts, 5, seed=3)

    for train, test in halves:
        assert sorted([*train, *test]) == list(range(300))
        documents = [{contexts[i].document for i in half} - {None} for half in (train, test)]
        assert not documents[0] & documents[1]
        counts = [Counter(contexts[i].labels["upos"] for i in half) for half in (train, test)]
        assert all(abs(counts[0][c] - counts[1][c]) <= 6 for c in ("NOUN", "VERB", "ADJ"))
    assert len({tuple(train) for train, _ in halves}) == 5
    again = splits(contexts, 5, seed=3)
    assert all(np.array_equal(a[0], b[0]) for a, b in zip(halves, again, strict=True))


def test_unknown_documents_are_documents_of_their_own() -> None:
    contexts = [Context((i,), "", "", {}, d) for i, d in enumerate([5, None, 5, None, 2])]

    numbers = documents_of(contexts)

    assert numbers[0] == numbers[2]
    assert sorted(set(numbers)) == [0, 1, 2, 3]


TEXTS = [
    " ".join(f"the number of words is {i} and they count {words} slowly" for i in range(n, n + 8))
    for n, words in enumerate(["files", "methods", "classes"] * 20)
]


def test_quotas_give_as_many_of_each_class_from_different_documents() -> None:
    quotas = Quotas("upos", 5, 4)

    contexts = build_contexts(
        TEXTS, encode, tag, count=quotas, window=6, one_a_document=True, seed=2
    )

    assert set(Counter(c.labels["upos"] for c in contexts).values()) == {5}
    assert len({c.labels["upos"] for c in contexts}) == 4
    assert len({c.document for c in contexts}) == 20
    for context in contexts:
        assert context.document is not None
        assert f"{context.text} {context.word}" in TEXTS[context.document]


def test_a_class_without_enough_windows_gives_way_to_the_next() -> None:
    text = TEXTS[0] + " . the file " * 3

    contexts = build_contexts([text], encode, tag, count=Quotas("upos", 6, 3), window=6)

    assert set(Counter(c.labels["upos"] for c in contexts).values()) == {6}
    with pytest.raises(InputError, match="values of upos have 400 windows of 6 tokens, but 3 were"):
        build_contexts([text], encode, tag, count=Quotas("upos", 400, 3), window=6)


def test_only_windows_on_whose_class_a_model_agrees_are_drawn() -> None:
    asked: list[tuple[int, ...]] = []

    def continued(windows: Sequence[tuple[int, ...]]) -> list[str]:
        asked.extend(windows)
        return [" functions and" if i % 3 else " slow" for i in range(len(windows))]

    contexts = build_contexts(
        TEXTS, encode, tag, count=20, window=8, continued=continued, one_a_document=True
    )

    # " slow" may be the beginning of a word: nothing follows it.
    assert {context.word for context in contexts} == {"functions"}
    assert {tuple(context.labels.items()) for context in contexts} == {
        (("upos", "NOUN"), ("Number", "Plur"))
    }
    assert all(labels_of(context.text_word)["upos"] == "NOUN" for context in contexts)
    assert "number" in {context.text_word for context in contexts}
    assert len(asked) > len(contexts)


def test_a_model_is_not_asked_for_a_class_that_cannot_fill_its_quota() -> None:
    asked: list[str] = []

    def continued(windows: Sequence[tuple[int, ...]]) -> list[str]:
        asked.extend(" " for _ in windows)
        return [" functions and" for _ in windows]

    with pytest.raises(InputError, match="0 values of upos have 61 windows"):
        build_contexts(
            TEXTS, encode, tag, count=Quotas("upos", 61, 2), window=6, continued=continued,
            one_a_document=True,
        )  # fmt: skip

    assert not asked


def test_a_models_word_is_tagged_with_what_is_near_it() -> None:
    text = " ".join(TEXTS)
    lengths: list[int] = []

    def noted(read: str) -> Iterator[tuple[int, int, Labels]]:
        lengths.append(len(read))
        return tag(read)

    contexts = build_contexts(
        [text], encode, noted, count=20, window=8, continued=lambda w: [" functions and"] * len(w)
    )

    assert {context.word for context in contexts} == {"functions"}
    assert lengths[0] == len(text) > 20_000
    assert max(lengths[1:]) < 5_000


def test_windows_of_one_long_text_are_of_passages_that_share_none_of_it() -> None:
    contexts = build_contexts([TEXT], encode, tag, count=60, window=6, seed=1)

    words = TEXT.split()
    places: dict[int, set[int]] = {}
    for context in contexts:
        at = TEXT.index(f"{context.text} {context.word}") + len(context.text)
        end = len(TEXT[:at].split())
        assert context.document is not None
        places.setdefault(context.document, set()).update(range(end - 6, end))
        assert encode(" ".join(words[end - 6 : end])) == list(context.tokens)
    passages = list(places.values())
    assert 15 < len(passages) < 60
    assert sum(map(len, passages)) == len(set().union(*passages))
    labels = {"few": np.arange(60) < 1, "half": np.arange(60) % 2 == 0}
    halves = splits(contexts, 3, seed=0)
    assert list(in_every_half(labels, halves)) == ["half"]


def test_texts_are_read_by_document(tmp_path: Path) -> None:
    with gzip.open(tmp_path / "b.txt.gz", "wt", encoding="utf-8") as file:
        file.write("erste\n<|endoftext|>\nzweite ü\n<|endoftext|>\n")
    (tmp_path / "a.md").write_text("one")
    (tmp_path / "no.rst").write_text("not read")

    assert [text.strip() for text in read_texts([tmp_path])] == ["one", "erste", "zweite ü"]
    (tmp_path / "c.txt.gz").write_bytes(b"no gzip")
    with pytest.raises(InputError, match=r"cannot read .*c\.txt\.gz"):
        read_texts([tmp_path / "c.txt.gz"])
    damaged = bytearray((tmp_path / "b.txt.gz").read_bytes())
    damaged[10:25] = b"\xff" * 15
    (tmp_path / "d.txt.gz").write_bytes(bytes(damaged))
    with pytest.raises(InputError, match=r"cannot read .*d\.txt\.gz"):
        read_texts([tmp_path / "d.txt.gz"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"no \.txt, \.md or \.txt\.gz file below"):
        read_texts([tmp_path / "empty"])


def test_without_spacy_or_its_pipeline_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "spacy", None)
    with pytest.raises(InputError, match="tagging by spaCy needs it: pip install spacy"):
        spacy_tagger("en_core_web_sm")
    missing = SimpleNamespace(util=SimpleNamespace(is_package=lambda name: False))
    monkeypatch.setitem(sys.modules, "spacy", missing)
    with pytest.raises(InputError, match="spaCy has no installed pipeline en_core_web_sm"):
        spacy_tagger("en_core_web_sm")


class SpaCy:
    """Stands in for spaCy: every word is a noun, and a text may have 30,000 characters."""

    def __init__(self) -> None:
        self.util = SimpleNamespace(is_package=lambda name: True)
        self.disabled: list[str] = []

    def load(self, name: str, disable: list[str]) -> "SpaCy":
        if name == "numpy":
            raise TypeError("load() got an unexpected keyword argument")
        self.disabled = disable
        return self

    def __call__(self, text: str) -> Iterator[Any]:
        assert len(text) <= 30_000
        for match in re.finditer(r"\w+", text):
            yield Token(match)


class Token:
    def __init__(self, match: "re.Match[str]") -> None:
        self.idx, self._length = match.start(), len(match[0])
        self.pos_ = "SPACE" if match[0] == "blank" else "NOUN"
        self.morph = SimpleNamespace(to_dict=lambda: {"Number": "Sing"})

    def __len__(self) -> int:
        return self._length


def test_spacy_reads_a_long_text_in_pieces_that_cut_no_word(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spacy = SpaCy()
    monkeypatch.setitem(sys.modules, "spacy", spacy)
    text = "some words. and a blank " * 4_000

    found = list(spacy_tagger("a_pipeline")(text))

    words = [match.span() for match in re.finditer(r"\w+", text) if match[0] != "blank"]
    assert [(start, end) for start, end, _ in found] == words
    assert all(labels == {"upos": "NOUN", "Number": "Sing"} for _, _, labels in found)
    assert "parser" not in spacy.disabled  # word classes depend on it
    with pytest.raises(InputError, match="spaCy cannot load numpy: load"):
        spacy_tagger("numpy")
