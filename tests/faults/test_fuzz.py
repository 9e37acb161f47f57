"""Damaged files of every kind; the slow test tries ten thousand."""

import pytest

from tests.faults.fuzz import TARGETS, fuzz


def test_damaged_files_are_refused_and_never_crash() -> None:
    found = fuzz(cases=400, seed=1)

    assert found["failures"] == []
    assert found["cases"] == 400
    assert set(found["by_file"]) == {file for file, *_ in TARGETS}


@pytest.mark.slow
def test_ten_thousand_damaged_files_are_refused_and_never_crash() -> None:
    found = fuzz(cases=10_000)

    assert found["failures"] == []
    assert found["cases"] == 10_000
