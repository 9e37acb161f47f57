"""``mlx-entk sweep``: run one experiment over several seeds."""

import contextlib
import fcntl
import hashlib
import io
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import click

from mlx_entk._files import inside
from mlx_entk._records import to_json
from mlx_entk.errors import InputError, MlxEntkError, RunFailedError
from mlx_entk.progress import Progress
from mlx_entk.runs import Run
from mlx_entk.studies.estimate import Stage
from mlx_entk.studies.reporting import write_report
from mlx_entk.studies.sweep import STUDY
from mlx_entk.studies.sweep.study import SweepConfig, compute, folder_of_seed, require_headline

from .base import Command, device_options, dry_run_option
from .display import finish, progress, show_estimate, state_of_folder
from .inputs import parse_numbers

# The variables from which linear algebra libraries take their number of threads.
_THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")


def _parse_seeds(context: click.Context, parameter: click.Parameter, text: str) -> list[int]:
    """The seeds that a text lists: 0, 1, 2, 7 for ``0-2,7``."""
    try:
        seeds = parse_numbers(text)
    except ValueError as error:
        raise click.BadParameter(f"{text!r} is not a list of seeds: write 0-7 or 0,2,5") from error
    if not seeds:
        raise click.BadParameter(f"{text!r} names no seed: write 0-7 or 0,2,5")
    return seeds


# Runs a command of mlx-entk in this process; a module-level function, so that the process of a
# seed can import it.
Invoke = Callable[[list[str], Progress | None], Any]


def sweep_command(invoke: Invoke) -> click.Command:
    """The command ``mlx-entk sweep``, which runs other commands by ``invoke``."""

    @click.command(
        "sweep",
        cls=Command,
        short_help="Run an experiment over several seeds.",
        context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
        examples=["mlx-entk sweep --seeds 0-7 --jobs 2 modular transformer --epochs 20000"],
    )
    @click.option(
        "--seeds",
        callback=_parse_seeds,
        default="0-4",
        show_default=True,
        help="Seeds to run, such as 0-7 or 0,2,5; more can be added later.",
    )
    @click.option(
        "--jobs",
        type=click.IntRange(min=1),
        default=1,
        show_default=True,
        help="Number of seeds to run at the same time, each in a process of its own. They share "
        "the cores.",
    )
    @click.option(
        "--out",
        type=click.Path(file_okay=False, path_type=Path),
        help="Folder to write, with a run folder for each seed inside; by default one below runs/.",
    )
    @dry_run_option
    @click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
    def sweep(
        seeds: list[int], jobs: int, out: Path | None, dry_run: bool, command: tuple[str, ...]
    ) -> None:
        """Run COMMAND, an experiment of mlx-entk with its options, once for each seed.

        Writes a run folder for each seed, and results.json, figures/ and report.html with the
        headline numbers of every seed and their spread. Finished seeds are not run again, so run
        the same command again to continue after an interruption.
        """
        for name in ("--seed", "--out"):
            if any(word == name or word.startswith(f"{name}=") for word in command):
                raise InputError(f"{name} is set by the sweep: leave it out of the command")
        if "--dry-run" in command:
            raise InputError("--dry-run: write it before the command, for the whole sweep")
        path = out or _default_folder(command)
        folders = {seed: folder_of_seed(path, seed) for seed in seeds}
        config = SweepConfig(command)
        if dry_run:
            state = state_of_folder(STUDY, config, path)
            done = len(folders) - len(_unfinished(folders))
            if done:  # the folder is one of this sweep, whose seeds are what counts
                state = f"has finished {done} of {len(folders)} seeds"
            show_estimate(path, state, _estimate(invoke, command, folders))
            return
        run = Run.create(path, STUDY.name, to_json(config))
        with run.session():
            with progress() as update:
                _run_all(invoke, command, folders, jobs, update)
            runs = {seed: Run.load(folder) for seed, folder in folders.items()}
            # Not complete(), which leaves a finished sweep as it is: it may have new seeds.
            STUDY.save(config, run, *compute(config, run, runs=runs))
            write_report(run)
        finish(run)

    return sweep


def _estimate(invoke: Invoke, command: Sequence[str], folders: dict[int, Path]) -> list[Stage]:
    """What the unfinished seeds would take one after another, estimated for the first of them."""
    waiting = _unfinished(folders)
    if not waiting:
        return [Stage("nothing is left to run", 0, 0.0, 0)]
    first = waiting[0]
    arguments = [*command, "--seed", str(first), "--out", str(folders[first]), "--dry-run", "-q"]
    return [
        replace(
            stage, name=f"{stage.name}; seeds: {len(waiting)}", seconds=len(waiting) * stage.seconds
        )
        for stage in invoke(arguments, None)
    ]


def _default_folder(command: Sequence[str]) -> Path:
    digest = hashlib.sha256("\0".join(command).encode()).hexdigest()[:6]
    words = [word for word in command if word.isalnum() and not word.isdigit()]
    return Path("runs") / "-".join(["sweep", *words, digest])


@dataclass
class _Job:
    """A seed that runs in a process of its own."""

    seed: int
    process: BaseProcess
    messages: Connection


def _run_all(
    invoke: Invoke,
    command: Sequence[str],
    folders: dict[int, Path],
    jobs: int,
    update: Progress,
) -> None:
    """Run the unfinished seeds, ``jobs`` at a time; stop all of them if one fails.

    Raises
    ------
    InputError
        If the first seed shows that the command has nothing that a sweep could collect.
    """
    waiting = _unfinished(folders)
    total, running = len(folders), list[_Job]()
    threads = max(1, (os.cpu_count() or 1) // jobs)
    environment = {name: str(threads) for name in _THREADS} if jobs > 1 else {}
    for name, value in environment.items():
        os.environ.setdefault(name, value)
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                seed = waiting.pop(0)
                running.append(_start(invoke, command, seed, folders[seed]))
            update("seeds", total - len(waiting) - len(running), total)
            for ready in wait([job.messages for job in running]):
                job = next(job for job in running if job.messages is ready)
                if not _read(job, update):
                    running.remove(job)
                    # Better now than after the other seeds.
                    require_headline(Run.load(folders[job.seed]))
    finally:
        for job in running:
            job.process.terminate()
    update("seeds", total, total)


def _unfinished(folders: dict[int, Path]) -> list[int]:
    return [seed for seed, folder in folders.items() if not _ended(folder)]


def _ended(folder: Path) -> bool:
    """Whether nothing is left to do for a seed, not even to clean up after a kill."""
    if not (folder / "report.html").exists():
        return False
    run = Run.load(folder)
    return run.finished and all(session.wall_seconds is not None for session in run.sessions[-1:])


def _start(invoke: Invoke, command: Sequence[str], seed: int, folder: Path) -> _Job:
    # A new interpreter: MLX's threads and a GPU's queue do not survive a fork.
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    arguments = [*command, "--seed", str(seed), "--out", str(folder), *device_options()]
    process = context.Process(target=_work, args=(invoke, arguments, folder, sender), daemon=True)
    # Ctrl-C reaches every process of the terminal; only the sweep handles it, and stops its jobs.
    answer = signal.signal(signal.SIGINT, signal.SIG_IGN)
    process.start()
    signal.signal(signal.SIGINT, answer)
    sender.close()  # now only the child keeps it open, so reading ends if the child dies
    return _Job(seed, process, receiver)


def _read(job: _Job, update: Progress) -> bool:
    """Pass on a message from a job; false once the job is done.

    Raises
    ------
    MlxEntkError
        If the job failed.
    """
    try:
        message = job.messages.recv()
    except EOFError:
        job.process.join()
        if job.process.exitcode:
            raise RunFailedError(
                f"seed {job.seed} ended with exit code {job.process.exitcode}: "
                "run the same command again to continue from its last checkpoint"
            ) from None
        return False
    if isinstance(message, MlxEntkError):
        raise type(message)(f"seed {job.seed}: {message}")
    stage, done, total, note = message
    update(f"seed {job.seed}", done, total, f"{stage}  {note}")
    return True


def _work(invoke: Invoke, arguments: list[str], folder: Path, messages: Connection) -> None:
    """Run the command in the process of a seed, and report its progress to the sweep."""

    def tell(stage: str, done: int, total: int, note: str = "") -> None:
        messages.send((stage, done, total, note))

    _end_with_the_sweep()
    sys.argv = ["mlx-entk", *arguments]  # for the provenance of the run
    try:
        _wait_for_orphan(folder, tell)
        with contextlib.redirect_stdout(io.StringIO()):
            invoke(arguments, tell)
    except MlxEntkError as error:
        messages.send(error)
    except click.ClickException as error:
        messages.send(InputError(error.format_message()))


def _end_with_the_sweep() -> None:
    """End this process at once when the sweep dies, even by a kill, which it cannot pass on."""
    sweep = multiprocessing.parent_process()
    assert sweep is not None

    def watch() -> None:
        wait([sweep.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _wait_for_orphan(folder: Path, tell: Progress) -> None:
    """Wait until no other process holds the folder of a seed.

    The processes of a sweep that was killed may live a little longer: ``scipy.linalg.eigh`` lets no
    other thread run until it is done, nor does a process end that has a lot of memory to free.
    """
    try:
        lock = inside(folder, ".lock").open("r+b")
    except OSError:  # there is none yet, or the command will say what is wrong
        return
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            stage = "waiting for the process that holds the folder"
            tell(stage, 0, 1)
            fcntl.flock(lock, fcntl.LOCK_EX)
            tell(stage, 1, 1)
        except OSError:  # a file system without locks, of which the command will tell
            return
