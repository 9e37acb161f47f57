"""Records come back from JSON as they were, or are refused with the key that is wrong."""

from dataclasses import dataclass

import numpy as np
import pytest

from mlx_entk import InputError
from mlx_entk._records import from_json, to_json


@dataclass(frozen=True)
class Inner:
    modes: tuple[int, int]
    rank: float | None


@dataclass(frozen=True)
class Outer:
    name: str
    rows: list[Inner]
    by_name: dict[str, float]


RECORD = Outer("a", [Inner((1, 56), None), Inner((2, 3), 0.5)], {"x": 1.0})


def test_a_record_comes_back_as_it_was() -> None:
    plain = to_json(RECORD)

    assert plain["rows"] == [{"modes": [1, 56], "rank": None}, {"modes": [2, 3], "rank": 0.5}]
    assert from_json(Outer, plain, "results.json") == RECORD


def test_numbers_of_numpy_are_plain_ones() -> None:
    assert to_json(Inner((int(np.int64(1)), 2), np.float64(0.5))) == {"modes": [1, 2], "rank": 0.5}


def test_numbers_that_json_lacks_are_refused() -> None:
    with pytest.raises(ValueError, match="Out of range"):
        to_json(Inner((0, 0), float("nan")))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": 3}, r"results.json is damaged: Expected `str`, got `int` - at `\$.name`"),
        ({"rows": [{"modes": [1], "rank": 0}]}, r"length 2, got 1 - at `\$.rows\[0\].modes`"),
        ({"rows": [{"modes": [1, 2.5], "rank": 0}]}, r"got `float` - at `\$.rows\[0\].modes\[1\]`"),
        ({"by_name": {"x": None}}, r"Expected `float`, got `null` - at `\$.by_name\[...\]`"),
    ],
)
def test_altered_values_are_refused_by_their_key(change: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        from_json(Outer, to_json(RECORD) | change, "results.json")


def test_a_missing_key_is_refused_and_an_unknown_one_ignored() -> None:
    plain = to_json(RECORD)

    assert from_json(Outer, {**plain, "later": 1}, "results.json") == RECORD
    del plain["rows"]
    with pytest.raises(InputError, match="missing required field `rows`"):
        from_json(Outer, plain, "results.json")
