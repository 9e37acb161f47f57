"""Damaged and hostile files of every kind; the slow test tries twenty thousand."""

import pytest

from tests.faults.damages import BROKEN
from tests.faults.fuzz import TARGETS, case, fuzz

# Of the slow test.
SEEDS = (0, 7)


def test_damaged_files_are_refused_and_never_crash() -> None:
    found = fuzz(cases=80, seed=1)

    assert found["failures"] == []
    assert found["cases"] == 80


def test_every_file_and_damage_comes_up() -> None:
    cases = [case(number, seed) for seed in SEEDS for number in range(10_000)]

    drawn = {(target.file, target.use, damage) for target, damage, _ in cases}
    assert drawn == {(t.file, t.use, damage) for t in TARGETS for damage in t.damages}
    assert {damage for _, damage, _ in cases} > set(BROKEN)


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_ten_thousand_damaged_files_are_refused_and_never_crash(seed: int) -> None:
    found = fuzz(cases=10_000, seed=seed)

    assert found["failures"] == []
    assert found["cases"] == 10_000
