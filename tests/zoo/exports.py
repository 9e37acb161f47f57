"""``python -m tests.zoo.exports [NAME …]``: the ONNX graphs of every architecture of mlx-lm.

The network and every derivative of a tiny model are exported, so onnxruntime runs them at two
sizes of the batch. Each architecture has a process of its own, so that one that ends costs a row.
"""

import collections
import sys
import tempfile
import warnings
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import get_args

from mlx_entk.errors import InputError
from mlx_entk.onnx import derivative, export
from mlx_entk.onnx.derivatives import What
from mlx_entk.tracing.functions import ParametricFunction, as_parametric
from tests.zoo.architectures import NotBuilt, build, names
from tests.zoo.checks import LastLogits, inputs

GRAPHS: tuple[What, ...] = get_args(What)
ANY = "any size"
LIMIT = 600  # seconds for one architecture


def exported(name: str) -> dict[What, str]:
    """What comes of each graph: ``ANY``, ``fixed`` and why, or ``refused`` and why.

    Empty for an architecture that cannot be built.
    """
    warnings.simplefilter("ignore")
    try:
        function = as_parametric(LastLogits(build(name)))
    except NotBuilt:
        return {}
    return {what: _outcome(function, what) for what in GRAPHS}


def _outcome(function: ParametricFunction, what: What) -> str:
    with tempfile.TemporaryDirectory() as folder:
        try:
            graph = derivative(function, inputs()[:2], what)
            model = export(
                graph.function, list(graph.inputs.values()), Path(folder) / "graph.onnx",
                params=function.params, input_names=list(graph.inputs), batches=graph.batches,
            )  # fmt: skip
        except InputError as error:
            return f"refused: {error}"
    said = {entry.key: entry.value for entry in model.metadata_props}
    assert "agrees with MLX" in said["onnxruntime"]
    return ANY if said["batch"] == "dynamic" else said["batch"]


def every(wanted: list[str]) -> Iterator[tuple[str, dict[What, str]]]:
    """Architectures and what comes of their graphs; ``crashed`` for a process that ended."""
    for name in wanted:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            try:
                yield name, pool.submit(exported, name).result(timeout=LIMIT)
            except Exception as error:
                yield name, dict.fromkeys(GRAPHS, f"crashed: {type(error).__name__}: {error}")


def main() -> None:
    """Print a row for each architecture, and counts; the exit code is 1 if one crashed."""
    counts: dict[What, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    for name, outcomes in every(sys.argv[1:] or names()):
        whole = set(outcomes.values()) == {ANY}
        print(name, "all at any size" if whole else outcomes or "not built", flush=True)
        for what, outcome in outcomes.items():
            counts[what][outcome.partition(":")[0]] += 1
    for what, count in counts.items():
        print(f"{what}: {', '.join(f'{n} {kind}' for kind, n in count.most_common())}")
    sys.exit(any("crashed" in count for count in counts.values()))


if __name__ == "__main__":
    main()
