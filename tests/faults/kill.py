r"""Kill commands with SIGKILL at random moments, start them again, and look at what they leave.

    python -m tests.faults.kill --kills 104

Each command runs once without being disturbed, which gives its duration and its folder. After
that it is killed, as an operating system that runs out of memory would, after a random part of
that duration, started again at once, killed again, and so on a few times in the same folder. Then
it may end. What it leaves has to equal the undisturbed folder bit by bit, and file by file.
"""

import argparse
import contextlib
import json
import math
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from examples import small_language_model, sparse_parity

# Before the command may end, a folder sees at most so many kills.
MOST_IN_A_FOLDER = 6

# Files that say when or by which process they were written, or to which matplotlib gives names
# at random. Every figure is there as PNG too.
_UNLIKE = ("*/.lock", "*/provenance.json", "*/report.html", "*.svg")

# What results.json has that depends on the clock: durations, and the digest of a graph whose
# metadata say when it was written.
_TIMES = {"forward_seconds", "product_seconds", "graph"}

# For the model of examples/, which the commands import.
_ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}

_SMALL_LM = small_language_model.Settings(
    vocabulary=400, width=16, layers=2, heads=2, window=16, batch=4, steps=30
)


@dataclass(frozen=True)
class Victim:
    """A command that is killed.

    Attributes
    ----------
    name
        For people.
    share
        Of the kills. Commands that take long get fewer of them.
    arguments
        Gives the arguments of mlx-entk once a folder for inputs is there.
    """

    name: str
    share: int
    arguments: Callable[[Path], tuple[object, ...]]


@dataclass(frozen=True)
class Tally:
    """What came of killing a command.

    Attributes
    ----------
    kills
        Those that hit a living process.
    folders
        In which they did.
    whole_seconds
        Of the undisturbed run.
    seconds
        Of everything.
    differences
        What was not as in the undisturbed run, a line each.
    """

    command: str
    kills: int
    folders: int
    whole_seconds: float
    seconds: float
    differences: list[str]


_OUT = ("--out", "run")


def _kernel(inputs: Path) -> tuple[object, ...]:
    x = inputs / "x.npy"
    np.save(x, sparse_parity.all_strings()[::4])
    # 64 inputs in 36 tiles
    return ("kernel", "--model", "examples.sparse_parity:make_model", "--inputs", x, "--by-layer",
            "--memory-limit", "100kB", *_OUT)  # fmt: skip


def _language_model(inputs: Path) -> tuple[object, ...]:
    model, contexts = inputs / "model", inputs / "contexts.jsonl"
    with contextlib.redirect_stdout(sys.stderr):  # which has no JSON
        small_language_model.main(model, _SMALL_LM)
    build = ("lm", "contexts", "--model", model, "--texts", model / "held-out.txt",
             "--count", "240", "--window", "12", "--out", contexts)  # fmt: skip
    _require(_start(build, inputs).wait() == 0, "contexts could not be built")
    return ("lm", "--model", model, "--contexts", contexts, "--modes", "3", "--memory-limit", "1GB",
            *_OUT)  # fmt: skip


_TMS = ("tms", "--n", "5", "--m", "2", "--rows", "30", "--steps", "60")
VICTIMS = [
    Victim("kernel --by-layer, in tiles", 24, _kernel),
    Victim("sweep --jobs 2", 14, lambda _: ("sweep", *_OUT, "--seeds", "0-1", "--jobs", "2",
                                            *_TMS)),
    Victim("tms", 20, lambda _: (*_TMS, *_OUT)),
    Victim("modular mlp", 18, lambda _: ("modular", "mlp", "--p", "5", "--width", "16",
                                         "--epochs", "60", *_OUT)),
    Victim("modular transformer", 12, lambda _: ("modular", "transformer", "--p", "5",
                                                 "--epochs", "40", "--d-model", "8",
                                                 "--d-mlp", "8", "--heads", "1",
                                                 "--batch-size", "8", *_OUT)),
    Victim("lm", 14, _language_model),
]  # fmt: skip


def kill_at_random(victim: Victim, kills: int, seed: int, place: Path) -> Tally:
    """Kill a command at random moments until so many kills have hit it."""
    begin = time.perf_counter()
    rng = random.Random(f"{seed} {victim.name}")
    inputs, whole = place / "inputs", place / "whole"
    inputs.mkdir(parents=True)
    arguments = victim.arguments(inputs)
    start = time.perf_counter()
    _finish(arguments, whole)
    whole_seconds = time.perf_counter() - start
    struck, folders, found = 0, 0, list[str]()
    while struck < kills:
        folder = place / f"killed-{folders}"
        folders += 1
        for _kill in range(rng.randint(2, MOST_IN_A_FOLDER)):
            if struck == kills or not _strike(arguments, folder, rng.uniform(0, whole_seconds)):
                break
            struck += 1
        _finish(arguments, folder)
        found += [f"{folder.name}: {line}" for line in differences(folder / "run", whole / "run")]
    return Tally(victim.name, struck, folders, whole_seconds, time.perf_counter() - begin, found)


def _start(arguments: tuple[object, ...], place: Path) -> "subprocess.Popen[bytes]":
    """Start a command in a folder, where errors.txt has what it says."""
    place.mkdir(exist_ok=True)
    command = [sys.executable, "-c", "from mlx_entk_cli.main import main; main()"]
    # Not a pipe, which a child that outlives the command would keep open.
    with (place / "errors.txt").open("wb") as errors:
        return subprocess.Popen(
            [*command, *map(str, arguments)], cwd=place, env=_ENVIRONMENT,
            stdout=subprocess.DEVNULL, stderr=errors,
        )  # fmt: skip


def _strike(arguments: tuple[object, ...], place: Path, seconds: float) -> bool:
    """Start a command and kill it, but not its children; false if it had ended by then."""
    process = _start(arguments, place)
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    _require(process.returncode in (0, -signal.SIGKILL), (place / "errors.txt").read_text())
    return process.returncode != 0


def _finish(arguments: tuple[object, ...], place: Path) -> None:
    code = _start(arguments, place).wait()
    _require(code == 0, (place / "errors.txt").read_text())


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise AssertionError(message)


# What is compared


def differences(folder: Path, whole: Path) -> list[str]:
    """What a run folder has that another one has not, lacks, or has otherwise; a line each."""
    here, there = _files(folder), _files(whole)
    lines = [f"{name} is left over" for name in sorted(here - there)]
    lines += [f"{name} is missing" for name in sorted(there - here)]
    return lines + [
        f"{name} differs"
        for name in sorted(here & there)
        if not any((whole / name).match(pattern) for pattern in _UNLIKE)
        and _content(folder / name) != _content(whole / name)
    ]


def _files(folder: Path) -> set[str]:
    """Files and folders below a folder, relative to it."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def _content(path: Path) -> object:
    """What a file says, apart from when it was written."""
    if path.is_dir():
        return None
    data = path.read_bytes()
    if path.name == "results.json":
        results = json.loads(data)
        timeless = _without_times(results)
        if timeless != results:
            del timeless["sha256"]  # of all the rest
        return timeless
    if path.suffix == ".onnx":
        model = onnx.load_model_from_string(data)
        kept = [entry for entry in model.metadata_props if entry.key != "provenance"]
        del model.metadata_props[:]
        model.metadata_props.extend(kept)
        return model.SerializeToString(deterministic=True)
    return data


def _without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_times(item) for key, item in value.items() if key not in _TIMES}
    if isinstance(value, list):
        return [_without_times(item) for item in value]
    return value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=sum(victim.share for victim in VICTIMS))
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    scale = given.kills / sum(victim.share for victim in VICTIMS)
    with tempfile.TemporaryDirectory() as name:
        for number, victim in enumerate(VICTIMS):
            kills = math.ceil(scale * victim.share)
            tally = kill_at_random(victim, kills, given.seed, Path(name) / str(number))
            print(json.dumps(asdict(tally)), flush=True)


if __name__ == "__main__":
    main()
