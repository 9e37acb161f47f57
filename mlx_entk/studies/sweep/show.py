"""How a sweep is shown."""

from collections.abc import Sequence

import numpy as np

from mlx_entk.plotting import CaptionedFigure, Drawing
from mlx_entk.plotting.drawing import require_drawable
from mlx_entk.plotting.style import COLORS, MUTED, new_figure, styled
from mlx_entk.report import Table, number_cell
from mlx_entk.runs import Run
from mlx_entk.studies.base import Figures, Show, study_of
from mlx_entk.studies.results import OfSeed
from mlx_entk.studies.sweep.study import SweepResults, folder_of_seed


def _summary(results: SweepResults) -> tuple[str, str]:
    of_seeds = {name: row for name, row in results.spread.items() if row.count}
    seeds = len(results.seeds)
    command = (
        f"`mlx-entk {' '.join(results.config.command)}` was run with "
        f"{'1 seed' if seeds == 1 else f'{seeds} seeds'}."
    )
    if not of_seeds:
        return command, "No seed has a headline number."
    name, row = next(iter(of_seeds.items()))
    in_all = [name for name, row in of_seeds.items() if row.count == seeds]
    return command, (
        f"The {name} lies between {row.smallest:.4g} and {row.largest:.4g}; {len(in_all)} of "
        f"{len(results.spread)} headline numbers exist for every seed."
    )


def _tables(results: SweepResults) -> list[Table]:
    of_seeds = Table(
        f"`mlx-entk {' '.join(results.config.command)}` by seed",
        ("", *(f"seed {row.seed}" for row in results.seeds)),
        [
            (name, *(number_cell(row.figures[name]) for row in results.seeds))
            for name in results.spread
        ],
    )
    spread = Table(
        "Spread over the seeds",
        ("", "mean", "deviation", "smallest", "largest", "seeds"),
        [
            (
                name,
                *map(number_cell, (row.mean, row.deviation, row.smallest, row.largest)),
                str(row.count),
            )
            for name, row in results.spread.items()
        ],
        "Deviation is the sample standard deviation. Seeds is how many seeds have the number.",
    )
    return [of_seeds, spread]


def _figures(results: SweepResults, run: Run) -> Figures:
    if results.spread:
        yield CaptionedFigure(
            "sweep",
            _numbers(results.seeds),
            "The headline numbers of all seeds. Each dot is a seed; the dotted line is their mean.",
        )
    runs = {row.seed: Run.load(folder_of_seed(run.path, row.seed)) for row in results.seeds}
    study = study_of(next(iter(runs.values())))
    yield from study.show.over_seeds({s: study.results_of(of_seed) for s, of_seed in runs.items()})


@styled
def _numbers(rows: Sequence[OfSeed]) -> Drawing:
    """Each headline number by seed, on a scale of its own."""
    names = list(rows[0].figures)
    require_drawable(len(names) * len(rows), 20_000)
    columns = 4
    lines = -(-len(names) // columns)
    figure, axes = new_figure(2.6 * columns, 1.7 * lines, lines, columns)
    for axis in axes[len(names) :]:
        axis.remove()
    ticks = range(len(rows))
    for axis, name in zip(axes, names, strict=False):
        values = [row.figures[name] for row in rows]
        points = [(i, value) for i, value in enumerate(values) if value is not None]
        if points:
            mean = float(np.mean([value for _, value in points]))
            axis.axhline(mean, color=MUTED, linestyle=":")
            axis.plot(*zip(*points, strict=True), "o", color=COLORS[0], markersize=4)
        axis.set_title(name, fontsize=9)
        axis.set_xticks(ticks, [str(row.seed) for row in rows])
        axis.margins(y=0.15)
    figure.supxlabel("seed", fontsize=9.5)
    return figure


SHOW = Show(summary=_summary, tables=_tables, figures=_figures)
