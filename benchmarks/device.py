"""Times on each device that MLX has here: ``python -m benchmarks.device [FILE.md]``.

All problems of ``benchmarks.problems`` in each reduction, products with kernels, a projection, and
a product with the kernel of a language model's layer, on a GPU if MLX has one and on the CPU beside
it. Medians of five computations after one that warms up, in one process. The table goes to the
terminal and, with the names of the devices, into a file, by default ``device.md`` in the working
folder. Where PyTorch has CUDA, ``torch.func`` forms the first kernel as well.
"""

from mlx_entk import eigendecompose, entk, entk_operator, intervention  # isort: skip  (BLAS first)
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from benchmarks.contestants import CONTESTANTS
from benchmarks.problems import PROBLEMS
from mlx_entk._provenance import device, git_revision, installed_version
from mlx_entk.data import modular_addition
from mlx_entk.models import QuadraticMLP

P, WIDTH = 29, 512
ROUNDS = 5
REDUCTIONS = ("trace", "sum-of-logits", "full")
# Windows and the layer of the language model.
WINDOWS, LAYER = 32, 16

Case = tuple[str, Callable[[], object]]
# Seconds by case and device.
Times = dict[str, dict[str, float]]


def cases() -> Iterator[Case]:
    """What is timed, made on MLX's default device."""
    for make in PROBLEMS.values():
        problem = make()
        for reduction in REDUCTIONS:
            x = problem.x[: problem.full] if reduction == "full" else problem.x
            title = f"{problem.title}: {reduction}, N = {len(x)}"
            yield title, CONTESTANTS["mlx-entk"](problem, x, reduction)
    yield from _products()
    yield from _language_model()


def _products() -> Iterator[Case]:
    """A product with a kernel that is not formed, and a projection on its modes."""
    model, x = QuadraticMLP(P, WIDTH), mx.array(modular_addition(P, 0.7, 0).x)
    operator = entk_operator(model, x, reduction="trace")
    ones = np.ones(operator.shape[0])
    yield "modular MLP: product with the trace kernel, N = 841", lambda: operator @ ones
    spectrum = eigendecompose(entk(model, x, reduction="trace"))
    span = intervention.ModeSpan(operator, spectrum.modes(57, 112))
    yield (
        "modular MLP: projection on modes 57–112",
        lambda: mx.eval(intervention.removal(span)),
    )


def _language_model() -> Iterator[Case]:
    """A product with the kernel of one layer; nothing without mlx-lm."""
    if installed_version("mlx-lm") is None:
        return
    from benchmarks.language_model import LIMIT, make_model, make_tokens
    from mlx_entk.lm.model import SELECTION, hidden_before, layer_function

    model = make_model()
    hidden = hidden_before(model, make_tokens(WINDOWS), LAYER, WINDOWS)
    function = layer_function(model, LAYER, SELECTION, None)
    operator = entk_operator(function, hidden, memory_limit=LIMIT)
    vector = np.random.default_rng(0).standard_normal(operator.shape[0])
    yield (
        f"language model of Gemma-3-270M's shape: product of layer {LAYER}, {WINDOWS} windows",
        lambda: operator @ vector,
    )


def seconds(compute: Callable[[], object]) -> float:
    """Median of some computations after one that warms up."""
    compute()
    times = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        compute()
        times.append(time.perf_counter() - start)
    return median(times)


def measure(
    made: Callable[[], Iterator[Case]] = cases,
    tell: Callable[[str], object] = print,
) -> tuple[list[str], Times]:
    """The names of the devices, a GPU first, and the seconds of each case on each of them."""
    before = mx.default_device()
    names: list[str] = []
    times: Times = {}
    try:
        for kind in (mx.gpu, mx.cpu):
            if not mx.is_available(mx.Device(kind)):
                continue
            mx.set_default_device(mx.Device(kind))
            names.append(device())
            for case, compute in made():
                taken = times.setdefault(case, {})[names[-1]] = seconds(compute)
                tell(f"{names[-1]}: {case}: {1e3 * taken:.3g} ms")
    finally:
        mx.set_default_device(before)
    return names, times


def table(names: list[str], times: Times) -> str:
    """The times in Markdown, with the ratio to the CPU if there is a GPU."""
    both = len(names) > 1
    head = ["", *names, *(["GPU faster by"] if both else [])]
    lines = [f"| {' | '.join(head)} |", f"| {' | '.join(['---'] * len(head))} |"]
    for case, taken in times.items():
        cells = [f"{1e3 * taken[name]:.3g} ms" for name in names]
        if both:
            cells.append(f"{taken[names[1]] / taken[names[0]]:.3g} ×")
        lines.append(f"| {case} | {' | '.join(cells)} |")
    return "\n".join(lines)


def page(names: list[str], times: Times) -> str:
    """The table with what it was measured on."""
    where = "" if len(names) > 1 else " MLX finds no GPU here, so these are times of the CPU alone."
    return (
        f"{table(names, times)}\n\nMLX {installed_version('mlx')}, mlx-entk "
        f"{git_revision() or installed_version('mlx-entk')}; medians of {ROUNDS} computations "
        f"after one that warms up.{where}\n"
    )


def torch_on_cuda() -> Callable[[], NDArray[np.float32]] | None:
    """The trace kernel of the modular MLP by ``torch.func`` on CUDA; None without it."""
    try:
        import torch
    except ImportError:
        return None
    if not torch.cuda.is_available():
        return None
    model = QuadraticMLP(P, WIDTH)
    weights = tuple(
        torch.tensor(np.array(layer.weight)).cuda() for layer in (model.hidden, model.readout)
    )
    x = torch.tensor(modular_addition(P, 0.7, 0).x).cuda()

    def outputs(params: Any, row: Any) -> Any:
        hidden = row @ params[0].T / (2 * P) ** 0.5
        return hidden**2 @ params[1].T / WIDTH

    def kernel() -> NDArray[np.float32]:
        rows = torch.func.vmap(torch.func.jacrev(outputs), (None, 0))(weights, x)
        flat = [of_weight.flatten(2) for of_weight in rows]
        total: Any = sum(torch.einsum("ncp,mcp->nm", of_weight, of_weight) for of_weight in flat)
        return np.asarray((total / P).cpu().numpy())

    return kernel


def torch_rows() -> str:
    """What ``torch.func`` takes for the first kernel on CUDA, and how far ours is from it."""
    peer = torch_on_cuda()
    if peer is None:
        return ""
    x = mx.array(modular_addition(P, 0.7, 0).x)
    ours, theirs = entk(QuadraticMLP(P, WIDTH), x, reduction="trace"), peer()
    difference = np.abs(ours - theirs).max() / np.abs(theirs).max()
    return (
        f"\ntorch.func on CUDA, modular MLP, trace, N = {len(ours)}: {1e3 * seconds(peer):.3g} ms; "
        f"the kernels differ by {difference:.1e} of the largest entry.\n"
    )


def main(file: str = "device.md") -> None:
    """Measure, print the table and write it."""
    written = page(*measure()) + torch_rows()
    Path(file).write_text(written, encoding="utf-8")
    print(written, f"Written to {file}.", sep="\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
