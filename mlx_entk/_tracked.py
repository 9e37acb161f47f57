"""The rows of a ``KernelTracker`` as a page to look at while the training runs."""

import math
import time
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any, Literal

from mlx_entk.plotting.style import kernel_label, modes_label
from mlx_entk.report import Table, number_cell
from mlx_entk.report.live import (
    MOST_KERNELS,
    MOST_OF_LINE,
    Chart,
    Line,
    LiveKernel,
    LivePage,
    metric_charts,
)

# Leading eigenvalues of the page: those at doubling ranks, so that a few lines show a spectrum.
_RANKS = (0, 1, 2, 4, 9, 19, 49, 99)
# Families of the page for each group of modes: those that hold most in the last row.
_FAMILIES = 5


State = Literal["Training", "Done", "Stopped by an error"]


def page_of(rows: Sequence[Mapping[str, Any]], skipped: int, state: State) -> LivePage:
    """A live page of the rows, of which there is at least one."""
    first, last = rows[0], rows[-1]
    measured = [(row["step"], row.get("metrics", {}) | _after_kernel(row)) for row in rows]
    thinned = _thinned(rows)
    notes = []
    if skipped:
        notes.append(
            f"{skipped} rows that were due were left out, since rows took more than max_share of "
            "the time: pass a larger every or max_share."
        )
    names = list(last["kernels"])
    if len(names) > MOST_KERNELS:
        notes.append(
            f"The page has {MOST_KERNELS} of the {len(names)} kernels; tracker.rows has all."
        )
    spent = math.fsum(row["seconds"] for row in rows)
    began = "before training" if first["step"] == 0 else f"at step {first['step']}"
    return LivePage(
        title="Kernels over training",
        state=(
            f"{state}: step {last['step']}. {len(rows)} "
            f"{'row' if len(rows) == 1 else 'rows'}, which took {spent:.3g} s; the first is "
            f"{began}."
        ),
        written=round(time.time(), 1),
        running=state == "Training",
        notes=notes,
        charts=metric_charts(measured),
        kernels=[_kernel(name, thinned, first, last, began) for name in names[:MOST_KERNELS]],
    )


def _after_kernel(row: Mapping[str, Any]) -> dict[str, float | None]:
    return {f"kernel regression, {name}": v for name, v in row.get("after_kernel", {}).items()}


def _thinned(rows: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    if len(rows) <= MOST_OF_LINE:
        return rows
    last = len(rows) - 1
    return [rows[round(i * last / (MOST_OF_LINE - 1))] for i in range(MOST_OF_LINE)]


def _kernel(
    name: str,
    rows: Sequence[Mapping[str, Any]],
    first: Mapping[str, Any],
    last: Mapping[str, Any],
    began: str,
) -> LiveKernel:
    steps = [row["step"] for row in rows]
    of_rows = [row["kernels"][name] for row in rows]
    before, now = first["kernels"][name], last["kernels"][name]

    def line(label: str, key: str, color: int = 0) -> Line:
        return Line(label, steps, [row[key] for row in of_rows], color=color)

    charts = [
        Chart(
            "Leading eigenvalues",
            [
                *(
                    Line(f"mode {i}", steps, [row["values"][i] for row in of_rows], color=color)
                    for color, i in enumerate(i for i in _RANKS if i < len(now["values"]))
                ),
                Line("noise floor", steps, [row["noise_floor"] for row in of_rows], True, 6),
            ],
            logarithmic=True,
        ),
        Chart(
            "Cliffs: the mode before which each lies",
            _cliff_lines(steps, of_rows),
            empty="no row has a cliff",
        ),
        *_alignment_charts(steps, of_rows, before, now, began),
        Chart("Effective rank", [line("effective rank", "effective_rank")]),
        Chart(
            "Distance of the kernel",
            [
                line("from the first row", "distance_from_first"),
                line("from the row before", "distance_from_last", 1),
            ],
        ),
    ]
    if "with_targets" in now:
        charts.append(
            Chart("Alignment with the targets", [line("centred alignment", "with_targets")])
        )
    return LiveKernel(kernel_label(name), charts, _numbers(before, now, began))


def _cliff_lines(steps: Sequence[float], rows: Sequence[Mapping[str, Any]]) -> list[Line]:
    """The first cliff of each row, the second and so on, up to five."""
    places = [[cliff["modes"][1] + 1 for cliff in islice(row["cliffs"], 5)] for row in rows]
    return [
        Line(
            f"cliff {number + 1}",
            steps,
            [of_row[number] if number < len(of_row) else None for of_row in places],
            color=number,
        )
        for number in range(max(map(len, places)))
    ]


def _percent(row: Mapping[str, Any]) -> float:
    return 100.0 * float(row["overlap"]) / float(row["dimension"])


def _alignment_charts(
    steps: Sequence[float],
    rows: Sequence[Mapping[str, Any]],
    before: Mapping[str, Any],
    now: Mapping[str, Any],
    began: str,
) -> list[Chart]:
    groups: dict[tuple[int, int], list[int]] = {}
    for place, entry in enumerate(now["alignment"]):
        groups.setdefault((entry["modes"][0], entry["modes"][1]), []).append(place)
    charts = []
    for modes, places in groups.items():
        lines = []
        leading = sorted(places, key=lambda place: -_percent(now["alignment"][place]))[:_FAMILIES]
        for color, place in enumerate(leading):
            family = now["alignment"][place]["family"]
            of_family = [_percent(row["alignment"][place]) for row in rows]
            level = _percent(before["alignment"][place])
            lines += [
                Line(family, steps, of_family, color=color),
                Line(f"{family}, {began}", [steps[0], steps[-1]], [level, level], True, color),
            ]
        charts.append(Chart(f"Alignment of {modes_label(modes)}, %", lines))
    return charts


def _numbers(before: Mapping[str, Any], now: Mapping[str, Any], began: str) -> Table | None:
    """What each group holds of each family now, before training, and by chance."""
    rows = [
        (
            modes_label((entry["modes"][0], entry["modes"][1])),
            entry["family"],
            number_cell(_percent(entry)),
            number_cell(_percent(old)),
            number_cell(100 * entry["chance"] / entry["dimension"]),
        )
        for entry, old in zip(now["alignment"], before["alignment"], strict=True)
    ]
    if not rows:
        return None
    return Table(
        "Overlap with families of features, in per cent",
        ("modes", "family", "now", began, "chance"),
        rows,
    )
