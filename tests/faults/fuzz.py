r"""Damage every kind of file that mlx-entk reads, in thousands of ways, and read it.

    python -m tests.faults.fuzz --cases 10000

A case is a kind of file, a damage, and a seed. What may come of it is success or one of our own
errors; a traceback of anything else, a crash of the process and a hang are failures. Cases run in
processes of their own, a few hundred each, so that a crash costs one case. Pickles inside the
files write a marker when they are loaded: none may appear.
"""

import mlx_entk  # isort: skip, before mlx
import argparse
import json
import pickle
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import traceback
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import numpy as np
from click import ClickException

from mlx_entk._files import Json, read_arrays, write_arrays
from mlx_entk._memory import parse_bytes
from mlx_entk.lm.contexts import Context, read_contexts, write_contexts
from mlx_entk.onnx import export
from mlx_entk.onnx.files import read_model
from mlx_entk.runs import Run, run_folders
from mlx_entk.studies import kernel, modular_mlp
from mlx_entk.studies.base import network_of
from mlx_entk.studies.kernel.finished import models, stored_inputs
from mlx_entk.studies.kernel.sources import import_graph, load_model, stored_weights
from mlx_entk.studies.kernel.study import KernelConfig, prepare
from mlx_entk.studies.reporting import tables
from mlx_entk.studies.running import run_study
from mlx_entk_cli.inputs import load_inputs
from tests.models import MLP

LIMIT_SECONDS = 60
MEMORY = parse_bytes("24GB")  # of address space: a size out of a damaged header must not be taken
MODEL = "tests.faults.fuzz:make_model"
CONFIG = modular_mlp.MLPConfig(p=5, width=8, epochs=20)


def make_model() -> MLP:
    return MLP([3, 5, 2])


class Marker:
    """A pickle that tells when somebody loads it."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str, str]]:
        return exec, (f"open({str(self.path)!r}, 'w').close()", "")


# Whole files, made once


def make_whole(folder: Path) -> None:
    """One of each kind of file."""
    run_study(modular_mlp.STUDY, CONFIG, folder / "run")
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


def look(folder: Path) -> None:
    run = Run.load(folder / "run")
    tables(run)
    run_folders(folder)
    _ = run.arrays, run.metrics, run.sessions, run.regression, run.verification


def resume(folder: Path) -> None:
    (folder / "run" / "results.json").unlink(missing_ok=True)
    run_study(modular_mlp.STUDY, CONFIG, folder / "run")


def verify(folder: Path) -> None:
    network_of(Run.load(folder / "run"))


def form_kernel(folder: Path) -> None:
    mine = folder / "mine"
    for weights in ("weights.safetensors", "weights.npz"):
        model = load_model(MODEL, mine / weights)
        x = mx.array(load_inputs(mine / "inputs.npz"))
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


def stored_kernel(folder: Path) -> None:
    run = Run.load(folder / "kernel")
    config = kernel.STUDY.config_of(run)
    model, _ = models(run, config)
    x = stored_inputs(run, config)
    config = prepare(KernelConfig(MODEL), model, x, {})
    (run.path / "results.json").unlink(missing_ok=True)
    kernel.STUDY.complete(config, run, model=model, x=x, features={})


def contexts(folder: Path) -> None:
    read_contexts(folder / "mine" / "contexts.jsonl")


# File, what is done with it, and its share of the cases
TARGETS: list[tuple[str, Callable[[Path], None], int]] = [
    ("run/config.json", look, 8),
    ("run/results.json", look, 8),
    ("run/provenance.json", look, 8),
    ("run/metrics.jsonl", look, 8),
    ("run/spectra.npz", look, 8),
    ("run/checkpoints/000020.safetensors", verify, 10),
    ("run/checkpoints/000020.safetensors", resume, 2),
    ("run/checkpoints/000000.safetensors", resume, 2),
    ("run/config.json", resume, 2),
    ("run/metrics.jsonl", resume, 2),
    ("run/provenance.json", resume, 1),
    ("mine/weights.safetensors", form_kernel, 6),
    ("mine/weights.npz", form_kernel, 6),
    ("mine/inputs.npz", form_kernel, 6),
    ("mine/features.npz", form_kernel, 6),
    ("mine/model.onnx", form_kernel_of_graph, 24),
    ("mine/contexts.jsonl", contexts, 8),
    ("kernel/model.safetensors", stored_kernel, 4),
    ("kernel/inputs.npz", stored_kernel, 4),
    ("kernel/config.json", stored_kernel, 2),
    ("kernel/kernels/kernel.npy", stored_kernel, 6),
]


# Damages


def truncate(data: bytes, rng: random.Random, _: Path) -> bytes:
    return data[: rng.randrange(len(data))]


def flip(data: bytes, rng: random.Random, _: Path) -> bytes:
    damaged = bytearray(data)
    for _bit in range(rng.choice((1, 1, 1, 2, 8))):
        damaged[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(damaged)


def overwrite(data: bytes, rng: random.Random, _: Path) -> bytes:
    """A run of bytes near the beginning, where formats keep their sizes, or anywhere."""
    end = min(len(data), 400) if rng.random() < 0.5 else len(data)
    at, length = rng.randrange(end), rng.choice((1, 4, 8, 64))
    filler = rng.choice((b"\x00", b"\xff", b"9", b"{", bytes([rng.randrange(256)])))
    return data[:at] + filler * length + data[at + length :]


def splice(data: bytes, rng: random.Random, _: Path) -> bytes:
    """A part again, or left out."""
    i, j = sorted(rng.randrange(len(data)) for _part in range(2))
    return data[:j] + data[i:] if rng.random() < 0.5 else data[:i] + data[j:]


def replaced(data: bytes, rng: random.Random, marker: Path) -> bytes:
    """Something else under this name: nothing, a pickle, an archive with a pickle, other text."""
    payload = pickle.dumps(Marker(marker))
    kind = rng.randrange(6)
    if kind == 0:
        return b""
    if kind == 1:
        return payload
    if kind == 2:
        return rng.choice((b"[]", b"{}", b"null", b"NaN", b'{"a": 1e999}', b"[" * 50_000))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.npz"
        if kind == 3:
            objects = np.empty(1, dtype=object)
            objects[0] = Marker(marker)
            np.savez(path, x=objects, w=objects, a=objects)
        elif kind == 4:
            with zipfile.ZipFile(path, "w") as archive:
                archive.writestr("x.npy", payload)
        else:
            objects = np.empty(1, dtype=object)
            objects[0] = Marker(marker)
            with path.open("wb") as file:
                np.save(file, objects, allow_pickle=True)
        return path.read_bytes()


DAMAGES = (truncate, truncate, flip, flip, flip, overwrite, overwrite, splice, replaced)


# Running cases


def case(number: int, seed: int) -> tuple[str, Callable[[Path], None], Callable[..., bytes], int]:
    """File, use, damage and seed of a case."""
    rng = random.Random(f"{seed} {number}")
    file, use, _ = rng.choices(TARGETS, [share for *_, share in TARGETS])[0]
    return file, use, rng.choice(DAMAGES), rng.randrange(2**32)


class _HangError(Exception):
    pass


def _hang(*_: object) -> None:
    raise _HangError


def run_case(number: int, seed: int, whole: Path) -> str:
    """``ok``, ``refused``, or what went wrong."""
    file, use, damage, own = case(number, seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part in {file.split("/")[0], "mine"}:
            shutil.copytree(whole / part, folder / part)
        marker, path = folder / "pickle-loaded", folder / file
        path.write_bytes(damage(path.read_bytes(), random.Random(own), marker))
        signal.signal(signal.SIGALRM, _hang)
        signal.alarm(LIMIT_SECONDS)
        try:
            use(folder)
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
        return "a pickle was loaded" if marker.exists() else outcome


def work(first: int, last: int, seed: int, whole: Path) -> None:
    """Print the outcome of each case as a line of JSON, its number before it runs."""
    if sys.platform == "linux":  # macOS has no such limit
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    for number in range(first, last):
        print(json.dumps({"begin": number}), flush=True)
        print(json.dumps({"number": number, "outcome": run_case(number, seed, whole)}), flush=True)


def fuzz(cases: int, seed: int = 0, per_process: int = 500) -> Json:
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
    by_file: dict[str, Counter[str]] = {}
    for number, outcome in outcomes.items():
        kind = outcome if outcome in ("ok", "refused") else "failed"
        by_file.setdefault(case(number, seed)[0], Counter())[kind] += 1
    failures = [
        {"case": number, "file": case(number, seed)[0], "use": case(number, seed)[1].__name__,
         "damage": case(number, seed)[2].__name__, "outcome": outcome}
        for number, outcome in sorted(outcomes.items())
        if outcome not in ("ok", "refused")
    ]  # fmt: skip
    return {
        "cases": len(outcomes),
        "by_file": {file: dict(counts) for file, counts in sorted(by_file.items())},
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
