"""The run folder: configuration, checkpoints, metrics, results, figures, provenance.

Files appear whole or not at all: each is written under a temporary name and renamed. The results
are written last, so a folder without ``results.json`` is unfinished, and the same command goes on
from its last checkpoint.

A run folder may come from anyone. What is in it is data: nothing in it is run, names a module, or
leads out of the folder by a link.
"""

import fcntl
import json
import os
import re
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import IO, Any, NoReturn, Protocol, Self

import mlx.core as mx

from mlx_entk._files import (
    Arrays,
    Json,
    append_line,
    digest,
    digest_of_file,
    folders_with,
    inside,
    parse_json,
    read_arrays,
    read_json,
    read_tensors,
    read_text,
    require_own,
    write_arrays,
    write_atomically,
    write_json,
    write_tensors,
    write_text,
)
from mlx_entk._provenance import Session, this_session
from mlx_entk._records import from_json, to_json
from mlx_entk.errors import InputError

# The key under which results.json keeps the digest of spectra.npz.
_ARRAYS_DIGEST = "spectra_sha256"
# The key under which a row of metrics keeps its checksum.
_CHECKSUM = "crc32"
# What a checkpoint is called.
_EPOCH = re.compile(r"[0-9]{6,18}")
# Raised by one whenever the run folders of earlier versions can no longer be read.
FORMAT = 1


class Picture(Protocol):
    """A figure; all that a run needs to know about it is how to write it."""

    def write_png(self, path: Path, /) -> None:
        """Write the figure as PNG."""

    def write_svg(self, path: Path, /) -> None:
        """Write the figure as SVG."""


class Run:
    """One experiment on disk.

    Use ``create`` for a new or unfinished run, and ``load`` to read one.
    """

    def __init__(self, path: Path, study: str, config: Json):
        self.path = path
        self.study = study
        self.config = config

    @classmethod
    def create(cls, path: Path, study: str, config: Json) -> Self:
        """Open a folder for writing: a new one, or one that has the same configuration.

        Raises
        ------
        InputError
            If the folder holds something else or another configuration, or cannot be written.
        """
        run = cls(path, study, config)
        _require_text(path, "choose another --out")
        try:
            if run._config_file.exists():
                run._refuse_other(cls.load(path))
                return run
            path.mkdir(parents=True, exist_ok=True)
            foreign = [item.name for item in path.iterdir() if not item.name.startswith(".")]
        except OSError as error:
            raise InputError(f"cannot write to {path}: {error.strerror or error}") from error
        if foreign:
            raise InputError(
                f"{path} is not a run folder (it holds {foreign[0]}): choose another --out"
            )
        write_json(run._config_file, {"format": FORMAT, "study": study, "config": config})
        return run

    @classmethod
    def load(cls, path: Path) -> Self:
        """Open an existing run folder for reading.

        Raises
        ------
        InputError
            If the path is not a run folder, or another version wrote it in another format.
        """
        try:
            is_folder, is_run = path.is_dir(), inside(path, "config.json").exists()
        except (OSError, ValueError) as error:  # a name that is too long, or holds a null byte
            raise InputError(f"{str(path)[:80]!r} is not a folder: {error}") from error
        if not is_folder:
            raise InputError(f"{path} is not a folder: `mlx-entk runs` lists the existing runs")
        if not is_run:
            raise InputError(f"{path} is not a run folder: it has no config.json")
        stored = read_json(path / "config.json")
        if stored.get("format") != FORMAT:
            raise InputError(
                f"{path} was made by another version of mlx-entk (format {stored.get('format')}, "
                f"this one reads {FORMAT}): run its command again with another --out"
            )
        study, config = stored.get("study"), stored.get("config")
        if not isinstance(study, str) or not isinstance(config, dict):
            raise InputError(f"{path / 'config.json'} is damaged: it has no study or no settings")
        return cls(path, study, config)

    def _refuse_other(self, stored: "Run") -> None:
        if stored.study != self.study:
            raise InputError(f"{self.path} belongs to a {stored.study} run: choose another --out")
        keys = sorted(self.config.keys() | stored.config.keys())
        changes = [
            f"{key} {stored.config.get(key)} there, {self.config.get(key)} here"
            for key in keys
            if stored.config.get(key) != self.config.get(key)
        ]
        if changes:
            raise InputError(
                f"{self.path} belongs to another configuration ({'; '.join(changes)}): "
                "choose another --out"
            )

    @contextmanager
    def session(self) -> Iterator[None]:
        """Hold the folder while writing to it, and record the session in provenance.json.

        An interruption, such as KeyboardInterrupt, gets a note with the folder's path.

        Raises
        ------
        InputError
            If another process holds the folder.
        """
        with self._locked():
            require_own(self.path)
            earlier = self.sessions if self._provenance_file.exists() else []
            session = this_session()
            self._save_sessions([*earlier, session])
            start = time.perf_counter()
            try:
                yield
            except BaseException as error:
                if not isinstance(error, Exception):  # an interruption, which main reports
                    error.add_note(str(self.path))
                raise
            seconds = round(time.perf_counter() - start, 3)
            self._save_sessions([*earlier, replace(session, wall_seconds=seconds)])

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Keep other processes out; the lock is released however the process ends."""
        try:
            lock = self.file(".lock").open("a+")
        except OSError as error:
            raise InputError(f"cannot write to {self.path}: {error.strerror or error}") from error
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise InputError(
                    f"another process{_holder(lock)} is writing to {self.path}: wait for it"
                ) from error
            except OSError as error:
                raise InputError(
                    f"{self.path} cannot be locked: {error.strerror or error}"
                ) from error
            with suppress(OSError):  # if the disk is full, the lock holds without the number
                lock.truncate(0)
                lock.write(str(os.getpid()))
                lock.flush()
            yield

    @property
    def sessions(self) -> list[Session]:
        """A record of each process that wrote to the folder, in order; see ``session``.

        Raises
        ------
        InputError
            If the file is missing or damaged.
        """
        stored = read_json(self._provenance_file).get("sessions")
        return from_json(list[Session], stored, f"{self._provenance_file}")

    def _save_sessions(self, sessions: list[Session]) -> None:
        record = {"seed": self.config.get("seed"), "sessions": to_json(sessions)}
        write_json(self._provenance_file, record)

    def file(self, *parts: str) -> Path:
        """The path of a file or folder of the run.

        Raises
        ------
        InputError
            If a link in the folder leads out of it.
        """
        return inside(self.path, *parts)

    # Checkpoints

    @property
    def checkpoints(self) -> list[int]:
        """Epochs that have a checkpoint, in order."""
        stored = self.file("checkpoints").glob("*.safetensors")
        return sorted(int(path.stem) for path in stored if _EPOCH.fullmatch(path.stem))

    @property
    def last_checkpoint(self) -> int:
        """The last epoch that has a checkpoint.

        Raises
        ------
        InputError
            If there is none.
        """
        if not self.checkpoints:
            raise InputError(
                f"{self.path} has no checkpoints, which hold the weights: run the command that "
                "made it again with another --out"
            )
        return self.checkpoints[-1]

    def save_checkpoint(self, epoch: int, arrays: dict[str, mx.array]) -> None:
        """Store arrays for an epoch, with their checksum."""
        metadata = {"epoch": str(epoch), "sha256": digest(arrays)}
        write_tensors(self._checkpoint_file(epoch), arrays, metadata)

    def load_checkpoint(self, epoch: int) -> dict[str, mx.array]:
        """Read back what ``save_checkpoint`` stored.

        Raises
        ------
        InputError
            If the file is missing, truncated or altered.
        """
        path = self._checkpoint_file(epoch)
        _require_text(path, "rename the folder")
        try:
            arrays, metadata = read_tensors(path)
            intact = metadata.get("sha256") == digest(arrays)
        except InputError:
            intact = False
        if not intact:
            raise InputError(
                f"checkpoint {path} is damaged: delete it and the later ones, "
                "and run the same command to go on from the one before"
            )
        return arrays

    # The model and its inputs, if the run did not train it

    def save_model(self, parameters: dict[str, mx.array], inputs: Arrays) -> None:
        """Store model.safetensors and inputs.npz."""
        write_tensors(self.model_file, parameters, {})
        write_arrays(self.inputs_file, inputs)

    @property
    def model_file(self) -> Path:
        """Where ``save_model`` puts the parameters."""
        return self.file("model.safetensors")

    @property
    def inputs_file(self) -> Path:
        """Where ``save_model`` puts the inputs."""
        return self.file("inputs.npz")

    # Metrics

    @property
    def metrics(self) -> list[Json]:
        """Rows of metrics.jsonl, without a last line that a kill cut off.

        Raises
        ------
        InputError
            If another line is damaged, or the file cannot be read.
        """
        if not self._metrics_file.exists():
            return []
        lines = read_text(self._metrics_file).split("\n")[:-1]
        rows = [_unsealed(line) for line in lines]
        intact = [row for row in rows if row is not None]
        if len(intact) < len(rows):
            raise InputError(
                f"{self._metrics_file} is damaged at line {rows.index(None) + 1}: run the same "
                "command with another --out"
            )
        return [_Row(row, self._metrics_file) for row in intact]

    def append_metrics(self, row: Json) -> None:
        """Add a row to metrics.jsonl, with its checksum."""
        append_line(self._metrics_file, _sealed(row))

    def cut_metrics(self, epoch: int) -> None:
        """Drop the rows after an epoch, which a resumed run writes again."""
        kept = [row for row in self.metrics if row["epoch"] <= epoch]
        write_text(self._metrics_file, "".join(f"{_sealed(row)}\n" for row in kept))

    # Results

    @property
    def finished(self) -> bool:
        """Whether the results were written."""
        return self._results_file.exists()

    def save_results(self, results: Json, arrays: Arrays) -> None:
        """Write spectra.npz, then results.json, whose presence means that the run is complete."""
        write_arrays(self._arrays_file, arrays)
        sealed = {**results, _ARRAYS_DIGEST: digest_of_file(self._arrays_file)}
        write_json(self._results_file, sealed)

    def save_regression(self, regression: Json) -> None:
        """Write regression.json, which is added after the results."""
        write_json(self.file("regression.json"), regression)

    @property
    def regression(self) -> Json | None:
        """What ``save_regression`` wrote, or None if it was not called."""
        path = self.file("regression.json")
        return read_json(path) if path.exists() else None

    def save_intervention(self, intervention: Json, arrays: Arrays) -> None:
        """Write intervention.npz and intervention.json, which are added after the results."""
        write_arrays(self._intervention_file, arrays)
        sealed = {**intervention, _ARRAYS_DIGEST: digest_of_file(self._intervention_file)}
        write_json(self.file("intervention.json"), sealed)

    @property
    def intervention(self) -> Json | None:
        """What ``save_intervention`` wrote, or None if it was not called."""
        path = self.file("intervention.json")
        return read_json(path) if path.exists() else None

    @property
    def intervention_arrays(self) -> Arrays:
        """The arrays that ``save_intervention`` wrote.

        Raises
        ------
        InputError
            If the file is missing, or is not the one that was written with the record.
        """
        stored = self.intervention or {}
        if digest_of_file(self._intervention_file) != stored.get(_ARRAYS_DIGEST):
            raise InputError(
                f"{self._intervention_file} is damaged: run `mlx-entk intervene` again"
            )
        return read_arrays(self._intervention_file)

    def save_verification(self, verification: Json) -> None:
        """Write verification.json, which is added after the results."""
        write_json(self.file("verification.json"), verification)

    @property
    def verification(self) -> Json | None:
        """What ``save_verification`` wrote, or None if it was not called."""
        path = self.file("verification.json")
        return read_json(path) if path.exists() else None

    def graph_file(self, name: str) -> Path:
        """Where the ONNX graph of this name belongs."""
        return self.file("onnx", f"{name}.onnx")

    def require_finished(self) -> None:
        """Raise InputError for an unfinished run."""
        if not self.finished:
            raise InputError(f"{self.path} is unfinished: run the command that made it again")

    @property
    def results(self) -> Json:
        """The results of a finished run."""
        self.require_finished()
        results = read_json(self._results_file)
        results.pop(_ARRAYS_DIGEST, None)
        return results

    @property
    def arrays(self) -> Arrays:
        """The arrays of a finished run, from spectra.npz.

        Raises
        ------
        InputError
            If the file is missing, or is not the one that was written with the results.
        """
        self.require_finished()
        if digest_of_file(self._arrays_file) != read_json(self._results_file).get(_ARRAYS_DIGEST):
            raise InputError(
                f"{self._arrays_file} is damaged: it was not written with these results"
            )
        return read_arrays(self._arrays_file)

    def save_figure(self, name: str, figure: Picture) -> None:
        """Write figures/NAME.png and .svg."""
        write_atomically(self.file("figures", f"{name}.png"), figure.write_png)
        write_atomically(self.file("figures", f"{name}.svg"), figure.write_svg)

    @property
    def figures(self) -> list[Path]:
        """The PNG figures, sorted by name."""
        return sorted(self.file("figures").glob("[!.]*.png"))

    @property
    def _config_file(self) -> Path:
        return self.file("config.json")

    @property
    def _provenance_file(self) -> Path:
        return self.file("provenance.json")

    @property
    def _metrics_file(self) -> Path:
        return self.file("metrics.jsonl")

    @property
    def _results_file(self) -> Path:
        return self.file("results.json")

    @property
    def _arrays_file(self) -> Path:
        return self.file("spectra.npz")

    @property
    def _intervention_file(self) -> Path:
        return self.file("intervention.npz")

    def _checkpoint_file(self, epoch: int) -> Path:
        return self.file("checkpoints", f"{epoch:06d}.safetensors")


class _Row(dict[str, Any]):
    """A row of metrics; what it does not have is an error of the file."""

    def __init__(self, row: Json, file: Path):
        super().__init__(row)
        self._file = file

    def __missing__(self, name: str) -> NoReturn:
        raise InputError(f"{self._file} is damaged: a row has no {name}")


def _sealed(row: Json) -> str:
    """A row of metrics as a line of JSON, with its checksum."""
    plain = json.dumps(row, allow_nan=False)
    return json.dumps({**row, _CHECKSUM: zlib.crc32(plain.encode())})


def _unsealed(line: str) -> Json | None:
    """Turn a line back into a row of metrics; None if the line was altered."""
    try:
        row = parse_json(line)
        checksum = row.pop(_CHECKSUM)
        intact = zlib.crc32(json.dumps(row).encode()) == checksum
    except (ValueError, AttributeError, KeyError, TypeError):
        return None
    numbers = all(type(value) in (int, float) for value in row.values())
    return row if intact and numbers and type(row.get("epoch")) is int else None


def _require_text(path: Path, instead: str) -> None:
    """Raise InputError for a path that is not UTF-8: MLX reads and writes no others."""
    try:
        str(path.absolute()).encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{path} has a name that is not UTF-8: {instead}") from error


def _holder(lock: IO[str]) -> str:
    """The number of the process that holds a lock, in brackets, or nothing if it is unknown."""
    lock.seek(0)
    number = lock.read(20).strip()
    return f" ({number})" if number.isdigit() else ""


def run_folders(root: Path) -> list[Path]:
    """Every run folder below ``root``, sorted, without those inside another run.

    Raises
    ------
    InputError
        If there is no such folder.
    """
    try:
        exists = root.exists()
        folders = folders_with(root, "config.json")
    except (OSError, ValueError) as error:  # a name that is too long, or holds a null byte
        raise InputError(f"{root} cannot be read: {error}") from error
    if not exists:
        raise InputError(f"{root} does not exist")
    found = set(folders)
    return [path for path in folders if found.isdisjoint(path.parents)]


def arrays_below(arrays: Arrays, prefix: str) -> Arrays:
    """The arrays whose names begin with a prefix, by the rest of their names."""
    return {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}
