"""``python -m tests.zoo [NAME …]``: the table of every architecture of mlx-lm, in Markdown.

Architectures run in processes of their own, several after another in each, so that what ends a
process costs one row.
"""

import collections
import sys
import time
from dataclasses import replace
from multiprocessing import get_context
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess

from tests.zoo.architectures import names
from tests.zoo.checks import Outcome, Verdict, serve

WORKERS = 2
LIMIT = 300.0  # seconds for one architecture


def main() -> None:
    """Print the table and counts; the exit code is 1 where something is wrong or crashed."""
    outcomes = run(sys.argv[1:] or names())
    print(table(outcomes))
    print()
    print(counts(outcomes))
    sys.exit(not all(outcome.fine for outcome in outcomes))


def run(wanted: list[str]) -> list[Outcome]:
    """Outcomes of architectures, in their order."""
    waiting = collections.deque(wanted)
    found: dict[str, Outcome] = {}
    workers: list[_Worker] = []
    while waiting or workers:
        while waiting and len(workers) < WORKERS:
            workers.append(_Worker(waiting.popleft()))
        wait([worker.pipe for worker in workers], timeout=1)
        for worker in list(workers):
            outcome = worker.outcome()
            if outcome is None:
                continue
            found[outcome.name] = outcome
            print(f"{len(found)}/{len(wanted)} {outcome.name}", file=sys.stderr, flush=True)
            if worker.alive and waiting:
                worker.start(waiting.popleft())
            else:
                worker.stop()
                workers.remove(worker)
    return [found[name] for name in wanted]


class _Worker:
    """A process that examines one architecture after another."""

    def __init__(self, name: str):
        context = get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self._process: BaseProcess = context.Process(target=serve, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()
        self.start(name)

    def start(self, name: str) -> None:
        self._name, self._stage = name, "building"
        self._since, self.alive = time.monotonic(), True
        self.pipe.send(name)

    def outcome(self) -> Outcome | None:
        """The outcome, once there is one."""
        try:
            while self.pipe.poll():
                told: Outcome | str = self.pipe.recv()
                if isinstance(told, Outcome):
                    return told
                self._stage = told
        except (EOFError, ConnectionResetError):
            self._process.join()
            return self._lost(f"the process ended with code {self._process.exitcode}")
        if time.monotonic() - self._since > LIMIT:
            return self._lost(f"no answer within {LIMIT:.0f} seconds")
        return None

    def _lost(self, why: str) -> Outcome:
        self.alive = False
        outcome = Outcome(self._name, seconds=time.monotonic() - self._since)
        if self._stage == "building":
            return replace(outcome, not_built=why)
        verdict = Verdict("crashed", note=why)
        return replace(outcome, **{self._stage: verdict})  # type: ignore[arg-type]

    def stop(self) -> None:
        self._process.kill()
        self._process.join()


def table(outcomes: list[Outcome]) -> str:
    """A Markdown table, a row for each architecture."""
    rows = ["| architecture | kernel | operator | central differences | seconds | note |"]
    rows.append("| --- | --- | --- | --- | --- | --- |")
    for outcome in outcomes:
        verdicts = f"{outcome.kernel} | {outcome.operator} | {outcome.differences}"
        note = "; ".join(outcome.notes).replace("|", "\\|")
        rows.append(f"| {outcome.name} | {verdicts} | {outcome.seconds:.1f} | {note} |")
    return "\n".join(rows)


def counts(outcomes: list[Outcome]) -> str:
    """How many architectures were built, and what came of each comparison."""
    built = [outcome for outcome in outcomes if not outcome.not_built]
    lines = [f"{len(built)} of {len(outcomes)} architectures built"]
    for title in ("kernel", "operator", "differences"):
        tally = collections.Counter(getattr(outcome, title).status for outcome in built)
        lines.append(f"{title}: " + ", ".join(f"{n} {status}" for status, n in tally.most_common()))
    return "\n".join(lines)


if __name__ == "__main__":
    main()
