"""One experiment over several seeds: its headline figures, and their spread."""

from collections.abc import Callable, Mapping

import numpy as np

from mlx_entk._files import Json
from mlx_entk.errors import InputError
from mlx_entk.runs import Run
from mlx_entk.studies import kernel, lm, mlp, tms, transformer

STUDY = "sweep"

Headline = dict[str, float | None]

HEADLINES: dict[str, Callable[[Json], Headline]] = {
    kernel.STUDY: kernel.headline,
    lm.STUDY: lm.headline,
    mlp.STUDY: mlp.headline,
    tms.STUDY: tms.headline,
    transformer.STUDY: transformer.headline,
}


def summarise(runs: Mapping[int, Run], command: list[str]) -> Json:
    """The headline figures of finished runs by seed, with their spread.

    Parameters
    ----------
    runs
        By seed, of one study and one configuration but for the seed.
    command
        What was run for each seed.

    Returns
    -------
    dict
        For ``results.json``: ``seeds``, a row of figures each, None where a seed has none, and
        ``spread``: mean, sample standard deviation, smallest, largest and number of seeds.

    Raises
    ------
    InputError
        For a study without headline figures.
    """
    rows: list[Json] = []
    for seed, run in sorted(runs.items()):
        if run.study not in HEADLINES:
            raise InputError(
                f"runs of {run.study} have no headline figures to sum up: sweep one of "
                f"{', '.join(HEADLINES)}"
            )
        rows.append({"seed": seed, "figures": HEADLINES[run.study](run.results)})
    names = rows[0]["figures"]
    return {
        "study": STUDY,
        "config": {"command": command},
        "of": next(iter(runs.values())).study,
        "seeds": rows,
        "spread": {name: _spread([row["figures"][name] for row in rows]) for name in names},
    }


def _spread(values: list[float | None]) -> Json:
    there = np.array([value for value in values if value is not None], dtype=np.float64)
    if there.size == 0:
        return {"count": 0, "mean": None, "deviation": None, "smallest": None, "largest": None}
    return {
        "count": int(there.size),
        "mean": float(there.mean()),
        "deviation": float(there.std(ddof=1)) if there.size > 1 else None,
        "smallest": float(there.min()),
        "largest": float(there.max()),
    }
