"""What is said of steps along modes, how they compare with random ones, and doses at a price."""

import math
from dataclasses import replace

import numpy as np
import pytest

from mlx_entk.studies.language_model.step_charts import at_prices
from mlx_entk.studies.language_model.step_show import at_price, step_summary, step_tables
from mlx_entk.studies.language_model.steps import (
    Change,
    Direction,
    LabelSteps,
    Step,
    StepResults,
    StepSettings,
    _at_price,
)

LABEL = "upos=VERB"


def direction(
    name: str, kind: str, mode: int | None, sense: int, up: float, down: float
) -> Direction:
    """A direction whose step at the price with sign + changes the label's words by ``up``."""
    steps = {
        sign: Step(dose, 0.05, {LABEL: Change(change, change / 2, 0.1 * change, 0.0)})
        for sign, dose, change in (("+", 0.2, up), ("-", -0.4, down))
    }
    return Direction(
        name, kind, mode, {LABEL: sense}, {LABEL: 1.0}, list(steps.values()), steps  # type: ignore[arg-type]
    )  # fmt: skip


def results(own: Direction, random: list[Direction]) -> StepResults:
    label = LabelSteps(LABEL, [" is", " was"], 3, 1, 0.5, 10, 30, 0.4, 0.1, [])
    return StepResults(
        StepSettings(layer=2, doses=(0.2, 0.4)), "", "mlp.down_proj.weight", 40, 40, 12.0,
        [label], [own, direction("mode 0", "mode", 0, 1, 0.1, -0.1), *random],
    )  # fmt: skip


def test_a_mode_is_compared_with_random_directions_in_their_own_sense() -> None:
    raised = np.linspace(-0.1, 0.3, 20)
    # Every second direction has its sense turned round: its sign − is the one that is to raise.
    random = [
        direction(f"random {i}", "random", None, 1, value, -value)
        if i % 2
        else direction(f"random {i}", "random", None, -1, -value, value)
        for i, value in enumerate(raised)
    ]
    taken = results(direction("mode 3", "mode", 3, -1, -0.2, 0.5), random)
    (label,) = taken.labels

    up = at_price(taken, label, 1, lambda change: change.log_mass)
    down = at_price(taken, label, -1, lambda change: change.log_mass)

    assert up is not None
    assert up.interval is not None
    assert down is not None
    assert down.interval is not None
    assert (up.value, down.value) == (0.5, -0.2)
    assert up.mean == pytest.approx(raised.mean())
    np.testing.assert_allclose(up.interval, np.quantile(raised, [0.05, 0.95]))
    np.testing.assert_allclose(down.interval, np.quantile(-raised, [0.05, 0.95]))
    assert (up.place, down.place) == (1, 0)
    assert "in 1 of 1 that are to raise them and 0 of 1 that are to lower them" in step_summary(
        taken
    )
    effects, controls, words = step_tables(taken)
    assert effects.rows[0][:6] == (LABEL, "raise", "3", "−0.400", "5.0%", "+0.50")
    assert effects.rows[0][-1] == "0.400 → 0.450"
    assert controls.rows[0][3:7] == ("–", "+0.10 to +0.10", "+0.25", "+0.25")
    assert words.rows[0][-1] == "2: is was"


def test_what_never_costs_the_price_is_left_out() -> None:
    random = [direction(f"random {i}", "random", None, 1, 0.1, -0.1) for i in range(20)]
    cheap = [replace(other, at_price={}) for other in random]
    own = direction("mode 3", "mode", 3, 1, 0.5, -0.2)
    few = results(own, [*random[:9], *cheap[9:]])

    found = at_price(few, few.labels[0], 1, lambda change: change.log_mass)

    assert found is not None
    assert (found.interval, found.random, found.place) == (None, 9, 0)
    assert "0 of 0 that are to raise them" in step_summary(few)
    assert step_tables(few)[0].rows[0][6] == "too few"
    none = results(replace(own, at_price={"-": own.at_price["-"]}), random)
    assert [row[1] for row in step_tables(none)[0].rows] == ["lower"]


def test_changes_are_read_off_where_a_price_is_first_paid() -> None:
    def step(price: float, change: float) -> Step:
        return Step(1.0, price, {LABEL: Change(change, 0.0, 0.0, 0.0)})

    path = [step(-0.02, 0.1), step(0.1, 1.0), step(0.05, 5.0), step(0.2, 3.0)]

    found = at_prices(path, LABEL, np.array([0.05, 0.1, 0.15, 0.3]))

    np.testing.assert_allclose(found[:3], [0.5, 1.0, 2.0])
    assert math.isnan(found[3])


@pytest.mark.parametrize(
    "price",
    [
        lambda dose: dose,
        lambda dose: 3 * dose**2,
        lambda dose: math.expm1(40 * dose**2) - 0.3 * dose,  # at first it pays
        lambda dose: 0.0 if dose < 0.1 else 8 * (dose - 0.1),
        lambda dose: 0.9 * min(1.0, (dose / 0.3) ** 9),
    ],
)
def test_the_dose_at_a_price_is_the_first_that_costs_it(price: object) -> None:
    assert callable(price)
    doses = [0.01, 0.03, 0.1, 0.3, 1.0]
    path = [(0.0, 0.0), *((dose, float(price(dose))) for dose in doses)]
    asked: list[float] = []

    def told(dose: float) -> float:
        asked.append(dose)
        return float(price(dose))

    found = _at_price(told, path, 0.05)

    assert found is not None
    assert found[1] == pytest.approx(0.05, rel=0.1)
    assert found[1] == price(found[0])
    before = np.linspace(0, found[0], 200)[:-1]
    assert max(price(dose) for dose in before) <= 0.0551
    assert len(asked) <= 8
    assert _at_price(told, path[:2], 2.0) is None
