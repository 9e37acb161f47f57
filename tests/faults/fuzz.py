r"""Damage every kind of file that mlx-entk reads, in thousands of ways, and read it.

    python -m tests.faults.fuzz --cases 10000 --seed 0

A case is a kind of file, a damage, and a seed. What may come of it is success or one of our own
errors; a traceback of anything else, a crash of the process and a hang are failures, and so is
anything that is written outside the case's folder. Cases run in processes of their own, a few
hundred each, so that a crash costs one case. Pickles inside the files, and modules that lie where
a run folder could name them, write a marker when they are loaded: none may appear.
"""

import mlx_entk  # isort: skip, before mlx
import argparse
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx
import numpy as np
from click import ClickException

from mlx_entk import _memory
from mlx_entk._files import Json, read_arrays, write_arrays
from mlx_entk._memory import parse_bytes
from mlx_entk._records import to_json
from mlx_entk.lm.contexts import Context, read_contexts, write_contexts
from mlx_entk.onnx import export
from mlx_entk.onnx.files import read_model
from mlx_entk.runs import Run, run_folders
from mlx_entk.studies import kernel, modular_mlp, modular_transformer, sweep, toy_models
from mlx_entk.studies.base import headline_of, intervention_problem_of, network_of
from mlx_entk.studies.compare import compare, comparison_table
from mlx_entk.studies.intervention.intervene import intervene, intervention_of
from mlx_entk.studies.kernel.sources import import_graph, load_model, stored_weights
from mlx_entk.studies.kernel.study import KernelConfig, prepare
from mlx_entk.studies.reporting import figures, summary, tables, write_report
from mlx_entk.studies.running import run_study
from mlx_entk_cli.inputs import load_inputs
from tests.faults.damages import (
    BROKEN,
    Damage,
    bomb,
    edit_onnx,
    link,
    rename,
    reseal,
)
from tests.models import MLP

LIMIT_SECONDS = 60
MEMORY = parse_bytes("24GB")  # of address space, a backstop
# What a case may think is free: a bomb has to be refused, and not be had because there is room.
AVAILABLE = parse_bytes("2GB")
MODEL = "tests.faults.fuzz:make_model"
CONFIG = modular_mlp.MLPConfig(p=5, width=8, epochs=20)
TRANSFORMER = modular_transformer.TransformerConfig(
    p=5, d_model=8, heads=1, d_mlp=8, epochs=40, batch_size=8
)
TOY = toy_models.TMSConfig(n=4, m=2, rows=8, steps=20)


def make_model() -> MLP:
    return MLP([3, 5, 2])


# Whole files, made once


def make_whole(folder: Path) -> None:
    """One of each kind of file."""
    run_study(modular_mlp.STUDY, CONFIG, folder / "run")
    run_study(modular_transformer.STUDY, TRANSFORMER, folder / "transformer")
    seeds = sweep.SweepConfig(("tms",))
    swept = Run.create(folder / "sweep", sweep.STUDY.name, to_json(seeds))
    one = run_study(toy_models.TOY_MODEL, TOY, sweep.folder_of_seed(swept.path, 0))
    with swept.session():
        sweep.STUDY.complete(seeds, swept, runs={0: one})
    for run in (Run.load(folder / "run"), one):
        found, arrays = intervene(intervention_problem_of(run))
        run.save_intervention(to_json(found), arrays)
    model, x = make_model(), mx.random.normal((6, 3), key=mx.random.key(0))
    mine = folder / "mine"
    mine.mkdir()
    weights = stored_weights(model)
    mx.save_safetensors(str(mine / "weights.safetensors"), weights)
    write_arrays(mine / "weights.npz", {name: np.array(v) for name, v in weights.items()})
    np.savez(mine / "inputs.npz", x=np.array(x))
    np.savez(mine / "features.npz", a=np.array(x[:, :1]), b=np.array(x[:, 1:]))
    export(model, [x], mine / "model.onnx")
    config = prepare(KernelConfig(MODEL), model, x, {})
    run_study(kernel.STUDY, config, folder / "kernel", model=model, x=x, features={})
    contexts = [Context((1, 2, i), f"text {i}", "word", {"pos": "noun"}) for i in range(6)]
    write_contexts(mine / "contexts.jsonl", contexts)


# What is done with a damaged file; each works in a copy of the whole ones


RUNS = ("run", "transformer", "kernel", "sweep", "sweep/seed-0")


def look(folder: Path) -> None:
    for run in _runs(folder):
        summary(run)
        tables(run)
        headline_of(run)
        comparison_table(compare([run, run]))
        _ = run.arrays, run.metrics, run.sessions, run.regression, run.verification
        if run.intervention is not None:
            _ = intervention_of(run), run.intervention_arrays
    run_folders(folder)


def draw(folder: Path) -> None:
    for run in _runs(folder):
        for _figure in figures(run):
            pass


def report(folder: Path) -> None:
    for run in _runs(folder):
        with run.session():
            write_report(run)


def _runs(folder: Path) -> list[Run]:
    return [Run.load(folder / name) for name in RUNS if (folder / name).exists()]


def resume(folder: Path) -> None:
    (folder / "run" / "results.json").unlink(missing_ok=True)
    run_study(modular_mlp.STUDY, CONFIG, folder / "run")
    run_study(modular_transformer.STUDY, TRANSFORMER, folder / "transformer")
    seeds = sweep.SweepConfig(("tms",))
    swept = Run.create(folder / "sweep", sweep.STUDY.name, to_json(seeds))
    one = run_study(toy_models.TOY_MODEL, TOY, sweep.folder_of_seed(swept.path, 0))
    with swept.session():
        sweep.STUDY.complete(seeds, swept, runs={0: one})


def verify(folder: Path) -> None:
    network_of(Run.load(folder / "run"))


def verify_kernel(folder: Path) -> None:
    network_of(Run.load(folder / "kernel"))


def form_kernel(folder: Path) -> None:
    mine = folder / "mine"
    for weights in ("weights.safetensors", "weights.npz"):
        model = load_model(MODEL, mine / weights)
        x = load_inputs([str(mine / "inputs.npz")])
        bank = read_arrays(mine / "features.npz")
        config = prepare(KernelConfig(MODEL), model, x, bank)
        out = folder / f"out-{weights}"
        run_study(kernel.STUDY, config, out, model=model, x=x, features=bank)


def form_kernel_of_graph(folder: Path) -> None:
    graph = read_model(folder / "mine" / "model.onnx")
    model = import_graph(graph, "", "")
    x = mx.random.normal((6, 3), key=mx.random.key(0))
    config = prepare(KernelConfig("onnx", by_layer=True), model, x, {})
    run_study(kernel.STUDY, config, folder / "out", model=model, x=x, features={})


def form_kernel_again(folder: Path) -> None:
    model = load_model(MODEL, folder / "mine" / "weights.npz")
    x = load_inputs([str(folder / "mine" / "inputs.npz")])
    config = prepare(KernelConfig(MODEL), model, x, {})
    (folder / "kernel" / "results.json").unlink(missing_ok=True)
    run_study(kernel.STUDY, config, folder / "kernel", model=model, x=x, features={})


def contexts(folder: Path) -> None:
    read_contexts(folder / "mine" / "contexts.jsonl")


@dataclass(frozen=True)
class Target:
    """A file, what is done with it once it is damaged, how, and its share of the cases."""

    file: str
    use: Callable[[Path], None]
    damages: Sequence[Damage]
    share: float


def _targets() -> list[Target]:
    rows: list[tuple[str, Callable[[Path], None], Sequence[Damage], float]] = [
        ("run/checkpoints/000020.safetensors", verify, (*BROKEN, bomb), 8),
        ("run/checkpoints/000020.safetensors", resume, BROKEN, 1),
        ("run/checkpoints/000000.safetensors", resume, (*BROKEN, link), 1),
        ("run/config.json", resume, (*BROKEN, reseal, link), 1),
        ("run/metrics.jsonl", resume, (*BROKEN, reseal, reseal, link, bomb), 2),
        ("run/provenance.json", resume, (*BROKEN, reseal), 1),
        ("run/.lock", resume, (link,), 1),
        ("mine/weights.safetensors", form_kernel, (*BROKEN, bomb), 4),
        ("mine/weights.npz", form_kernel, (*BROKEN, rename, bomb), 4),
        ("mine/inputs.npz", form_kernel, (*BROKEN, rename, bomb), 4),
        ("mine/features.npz", form_kernel, (*BROKEN, rename, rename, bomb), 5),
        ("mine/model.onnx", form_kernel_of_graph, BROKEN, 8),
        ("mine/model.onnx", form_kernel_of_graph, (edit_onnx,), 16),
        ("mine/model.onnx", form_kernel_of_graph, (bomb,), 2),
        ("mine/contexts.jsonl", contexts, (*BROKEN, rename, rename, bomb), 5),
        ("kernel/onnx/traced.onnx", verify_kernel, (*BROKEN, edit_onnx, link), 3),
        ("kernel/inputs.npz", verify_kernel, (*BROKEN, rename, bomb, link), 3),
        ("kernel/config.json", verify_kernel, (*BROKEN, reseal, reseal, reseal), 3),
        ("kernel/results.json", verify_kernel, (reseal,), 2),
        ("kernel/kernels/kernel.npy", form_kernel_again, (*BROKEN, bomb, link), 3),
    ]
    for run in ("run", "transformer", "kernel", "sweep/seed-0", "sweep"):
        share = 1 if run == "run" else 0.5
        rows += [
            (f"{run}/config.json", look, (*BROKEN, *[reseal] * 6, link), 3 * share),
            (f"{run}/results.json", look, (*BROKEN, *[reseal] * 12, bomb, link), 8 * share),
            (f"{run}/results.json", draw, (reseal,), 3 * share),
            (f"{run}/results.json", report, (reseal,), 0.1 * share),
            (f"{run}/provenance.json", look, (*BROKEN, *[reseal] * 6, link), 2 * share),
            (f"{run}/spectra.npz", look, (*BROKEN, rename, bomb, link), 3 * share),
        ]
    for run in ("run", "transformer", "sweep/seed-0"):
        rows.append((f"{run}/metrics.jsonl", draw, (*BROKEN, *[reseal] * 6, bomb, link), 1))
    for run in ("run", "sweep/seed-0"):
        rows += [
            (f"{run}/intervention.json", look, (*BROKEN, *[reseal] * 6, bomb, link), 1),
            (f"{run}/intervention.json", draw, (reseal,), 1),
            (f"{run}/intervention.npz", look, (*BROKEN, rename, bomb, link), 1),
        ]
    rows.append(("run/figures/spectra.png", report, (link,), 0.1))
    return [Target(*row) for row in rows]


TARGETS = _targets()


# Running cases


def case(number: int, seed: int) -> tuple[Target, Damage, int]:
    """File and use, damage, and seed of a case."""
    rng = random.Random(f"{seed} {number}")
    (target,) = rng.choices(TARGETS, [target.share for target in TARGETS])
    return target, rng.choice(target.damages), rng.randrange(2**32)


class _HangError(Exception):
    pass


def _hang(*_: object) -> None:
    raise _HangError


def _content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def run_case(number: int, seed: int, whole: Path) -> str:
    """``ok``, ``refused``, or what went wrong."""
    target, damage, own = case(number, seed)
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        outside, folder, marker = place / "outside", place / "case", place / "was-loaded"
        folder.mkdir()
        outside.mkdir()
        (outside / "config.json").write_text("mine")
        (outside / "results.json").write_text("mine")
        (folder / "payload.py").write_text(f"open({str(marker)!r}, 'w').close()")
        for part in {target.file.split("/")[0], "mine"}:
            shutil.copytree(whole / part, folder / part)
        before = _content(outside)
        damage(folder / target.file, random.Random(own), marker)
        os.chdir(folder)
        signal.signal(signal.SIGALRM, _hang)
        signal.alarm(LIMIT_SECONDS)
        try:
            target.use(folder)
            outcome = "ok"
        except (mlx_entk.MlxEntkError, ClickException) as error:
            outcome = "refused" if str(error).strip() else "an error without a message"
        except _HangError:
            outcome = "hang"
        except Exception as error:
            last = traceback.extract_tb(error.__traceback__)[-1]
            message = str(error)[:120]
            outcome = f"{type(error).__name__} at {last.name}, {last.lineno}: {message}"
        finally:
            signal.alarm(0)
            os.chdir(place)
        if marker.exists():
            return "code was run"
        if _content(outside) != before or {p.name for p in place.iterdir()} != {"outside", "case"}:
            return "something was written outside"
        return outcome


def work(first: int, last: int, seed: int, whole: Path) -> None:
    """Print the outcome of each case as a line of JSON, its number before it runs."""
    warnings.simplefilter("ignore")
    _memory.available_bytes = lambda: AVAILABLE
    if sys.platform == "linux":  # macOS has no such limit
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    for number in range(first, last):
        print(json.dumps({"begin": number}), flush=True)
        print(json.dumps({"number": number, "outcome": run_case(number, seed, whole)}), flush=True)


def fuzz(cases: int, seed: int = 0, per_process: int = 250) -> Json:
    """Run cases; their number by outcome, by file, and the failures."""
    outcomes: dict[int, str] = {}
    with tempfile.TemporaryDirectory() as name:
        whole = Path(name)
        make_whole(whole)
        first = 0
        while first < cases:
            last = min(cases, first + per_process)
            command = [sys.executable, "-m", __spec__.name, "--work", f"{first},{last}"]
            done = subprocess.run(
                [*command, "--seed", str(seed), "--whole", str(whole)],
                capture_output=True, text=True, check=False, timeout=LIMIT_SECONDS * per_process,
            )  # fmt: skip
            begun = first
            for line in done.stdout.splitlines():
                row = json.loads(line) if line.startswith("{") else {}
                begun = row.get("begin", begun)
                if "outcome" in row:
                    outcomes[row["number"]] = row["outcome"]
            if done.returncode == 0:
                first = last
            else:
                outcomes[begun] = f"the process ended with {done.returncode}: {done.stderr[-300:]}"
                first = begun + 1
            print(f"{len(outcomes):,} of {cases:,} cases", file=sys.stderr, flush=True)
    by_damage: dict[str, Counter[str]] = {}
    failures = []
    for number, outcome in sorted(outcomes.items()):
        target, damage, _ = case(number, seed)
        kind = outcome if outcome in ("ok", "refused") else "failed"
        name = "broken bytes" if damage in BROKEN else damage.__name__
        by_damage.setdefault(f"{target.file}: {name}", Counter())[kind] += 1
        if kind == "failed":
            failures.append(
                {"case": number, "file": target.file, "use": target.use.__name__,
                 "damage": damage.__name__, "outcome": outcome}
            )  # fmt: skip
    return {
        "cases": len(outcomes),
        "by_damage": {key: dict(counts) for key, counts in sorted(by_damage.items())},
        "failures": failures,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", help=argparse.SUPPRESS)
    parser.add_argument("--whole", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.work:
        first, last = map(int, given.work.split(","))
        work(first, last, given.seed, given.whole)
        return
    print(json.dumps(fuzz(given.cases, given.seed), indent=1))


if __name__ == "__main__":
    main()
