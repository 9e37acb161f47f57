"""Contexts: read, built from text, and which of their labels count."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlx_entk import InputError
from mlx_entk.lm.contexts import (
    Context,
    LabelRule,
    Labels,
    build_contexts,
    halves,
    indicators,
    read_contexts,
    tokens_of,
    write_contexts,
)
from mlx_entk.lm.tagging import labels_of, tag

TEXT = " ".join(f"the number of words is {i} and the methods are counted slowly" for i in range(90))


def encode(text: str) -> list[int]:
    """A token a word."""
    return [sum(map(ord, word)) % 97 for word in text.split()]


def test_what_is_written_is_read(tmp_path: Path) -> None:
    contexts = [Context((i, i + 1), "über  the\nend", "word", {"upos": "NOUN"}) for i in range(4)]

    write_contexts(tmp_path / "c.jsonl", contexts)

    assert read_contexts(tmp_path / "c.jsonl") == contexts
    assert tokens_of(contexts).tolist() == [[0, 1], [1, 2], [2, 3], [3, 4]]


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
        (json.dumps(GOOD | {"word": 7}), "line 3: text and word must be text"),
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
            labels |= {"kept": "a", "copy": "b"}  # the same contexts twice
        if i % 5 == 0:
            labels["word"] = "c"  # one word alone
        if i < 6:
            labels["rare"] = "d"
        everything.append(("same" if i % 5 == 0 else f"word{i}", labels))
    contexts = labelled(everything)
    train, test = halves(200, seed=0)

    masks = indicators(contexts, train, test, LabelRule())

    assert list(masks) == ["copy=b"]
    assert masks["copy=b"].tolist() == [i % 4 == 0 for i in range(200)]
    assert set(train) | set(test) == set(range(200))
    assert not set(train) & set(test)
    assert np.all(np.diff(train) > 0)
