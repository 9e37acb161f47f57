"""The run folder: configuration, checkpoints, metrics, results, figures, provenance.

Files appear whole or not at all: each is written under a temporary name and renamed. The
results come last, so a folder without ``results.json`` is unfinished, and the same command
goes on from its last checkpoint.
"""

import fcntl
import hashlib
import json
import os
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from zipfile import BadZipFile

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from mlx_entk.errors import InputError
from mlx_entk.provenance import provenance

if TYPE_CHECKING:  # importing matplotlib takes longer than the rest together
    from matplotlib.figure import Figure

Arrays = dict[str, NDArray[Any]]
Json = dict[str, Any]

_TEMPORARY = ".*.tmp*"


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a temporary file beside ``path``, then rename it into place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")
    try:
        write(temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: object) -> None:
    """Write JSON atomically, with NaN refused."""
    text = json.dumps(value, indent=1, allow_nan=False, ensure_ascii=False) + "\n"
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def read_json(path: Path) -> Json:
    """Read a JSON object of a run folder.

    Raises
    ------
    InputError
        Where the file is missing or is no JSON object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise InputError(f"{path} is damaged: {error}") from error
    if not isinstance(value, dict):
        raise InputError(f"{path} is damaged: it holds no JSON object")
    return value


class Run:
    """One experiment on disk.

    Make one with :meth:`create` (a new or unfinished run) or :meth:`load` (to read).
    """

    def __init__(self, path: Path, study: str, config: Json):
        self.path = path
        self.study = study
        self.config = config

    @classmethod
    def create(cls, path: Path, study: str, config: Json) -> Self:
        """Open a folder for writing: a new one, or one that the same configuration began.

        Raises
        ------
        InputError
            Where the folder holds something else, another configuration, or cannot be written.
        """
        run = cls(path, study, config)
        if run._config_file.exists():
            run._refuse_other(cls.load(path))
            return run
        try:
            path.mkdir(parents=True, exist_ok=True)
            foreign = [item.name for item in path.iterdir() if not item.name.startswith(".")]
        except OSError as error:
            raise InputError(f"cannot write to {path}: {error.strerror or error}") from error
        if foreign:
            raise InputError(
                f"{path} is no run folder (it holds {foreign[0]}): choose another --out"
            )
        write_json(run._config_file, {"study": study, "config": config})
        return run

    @classmethod
    def load(cls, path: Path) -> Self:
        """Open an existing run folder for reading.

        Raises
        ------
        InputError
            Where there is none.
        """
        if not path.is_dir():
            raise InputError(f"{path} is no folder: `mlx-entk runs` lists the runs there are")
        if not (path / "config.json").exists():
            raise InputError(f"{path} is no run folder: it has no config.json")
        stored = read_json(path / "config.json")
        if not isinstance(stored.get("study"), str) or not isinstance(stored.get("config"), dict):
            raise InputError(f"{path / 'config.json'} is damaged: study or config is missing")
        return cls(path, stored["study"], stored["config"])

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
        """Hold the folder while writing to it, and keep account of it in provenance.json.

        Raises
        ------
        InputError
            Where another process holds the folder.
        """
        with (self.path / ".lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise InputError(
                    f"another process is writing to {self.path}: wait for it"
                ) from error
            for left_over in self.path.rglob(_TEMPORARY):
                left_over.unlink(missing_ok=True)
            record: Json = {"seed": self.config.get("seed"), "sessions": []}
            if self._provenance_file.exists():
                record = read_json(self._provenance_file)
            session: Json = provenance()
            record["sessions"].append(session)
            write_json(self._provenance_file, record)
            start = time.perf_counter()
            yield
            session["wall_seconds"] = round(time.perf_counter() - start, 3)
            write_json(self._provenance_file, record)

    @property
    def sessions(self) -> list[Json]:
        """What each process that wrote to the folder was, in order; see :meth:`session`."""
        sessions: list[Json] = read_json(self._provenance_file)["sessions"]
        return sessions

    # Checkpoints

    @property
    def checkpoints(self) -> list[int]:
        """Epochs that have a checkpoint, in order."""
        return sorted(int(path.stem) for path in self._checkpoint_folder.glob("[0-9]*.safetensors"))

    def save_checkpoint(self, epoch: int, arrays: dict[str, mx.array]) -> None:
        """Store arrays for an epoch, with their checksum."""
        metadata = {"epoch": str(epoch), "sha256": digest(arrays)}
        write_atomically(
            self._checkpoint_file(epoch),
            lambda temporary: mx.save_safetensors(str(temporary), arrays, metadata),
        )

    def load_checkpoint(self, epoch: int) -> dict[str, mx.array]:
        """Read back what :meth:`save_checkpoint` stored.

        Raises
        ------
        InputError
            Where the file is missing, truncated or altered.
        """
        path = self._checkpoint_file(epoch)
        try:
            loaded: Any = mx.load(str(path), return_metadata=True)
            arrays: dict[str, mx.array] = loaded[0]
            intact = loaded[1].get("sha256") == digest(arrays)
        except (RuntimeError, ValueError, OSError):
            intact = False
        if not intact:
            raise InputError(
                f"checkpoint {path} is damaged: delete it and the later ones, "
                "and run the same command to go on from the one before"
            )
        return arrays

    # The model and its inputs, where the run did not train it

    def save_model(self, parameters: dict[str, mx.array], inputs: Arrays) -> None:
        """Store model.safetensors and inputs.npz."""
        write_atomically(
            self.model_file,
            lambda temporary: mx.save_safetensors(str(temporary), parameters),
        )
        write_arrays(self.inputs_file, inputs)

    @property
    def model_file(self) -> Path:
        """Where :meth:`save_model` puts the parameters."""
        return self.path / "model.safetensors"

    @property
    def inputs_file(self) -> Path:
        """Where :meth:`save_model` puts the inputs."""
        return self.path / "inputs.npz"

    # Metrics

    @property
    def metrics(self) -> list[Json]:
        """Rows of metrics.jsonl; a last line cut off by a kill does not count."""
        rows = []
        if self._metrics_file.exists():
            for line in self._metrics_file.read_text(encoding="utf-8").splitlines():
                try:
                    rows.append(json.loads(line))
                except ValueError:
                    break
        return rows

    def append_metrics(self, row: Json) -> None:
        """Add a row to metrics.jsonl."""
        with self._metrics_file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row, allow_nan=False) + "\n")

    def cut_metrics(self, epoch: int) -> None:
        """Drop the rows after an epoch, which a resumed run makes again."""
        kept = [row for row in self.metrics if row["epoch"] <= epoch]
        text = "".join(json.dumps(row) + "\n" for row in kept)
        write_atomically(self._metrics_file, lambda temporary: temporary.write_text(text))

    # Results

    @property
    def finished(self) -> bool:
        """Whether the results are there."""
        return self._results_file.exists()

    def save_results(self, results: Json, arrays: Arrays) -> None:
        """Write spectra.npz, then results.json, whose presence says that all is there."""
        write_arrays(self._arrays_file, arrays)
        write_json(self._results_file, results)

    def save_regression(self, regression: Json) -> None:
        """Write regression.json, which comes after the results."""
        write_json(self.path / "regression.json", regression)

    @property
    def regression(self) -> Json | None:
        """What :meth:`save_regression` wrote, None where nothing did."""
        path = self.path / "regression.json"
        return read_json(path) if path.exists() else None

    def save_verification(self, verification: Json) -> None:
        """Write verification.json, which comes after the results."""
        write_json(self.path / "verification.json", verification)

    @property
    def verification(self) -> Json | None:
        """What :meth:`save_verification` wrote, None where nothing did."""
        path = self.path / "verification.json"
        return read_json(path) if path.exists() else None

    def graph_file(self, name: str) -> Path:
        """Where the ONNX graph of a name belongs."""
        return self.path / "onnx" / f"{name}.onnx"

    def require_finished(self) -> None:
        """Raise InputError for an unfinished run."""
        if not self.finished:
            raise InputError(f"{self.path} is unfinished: run the command that made it again")

    @property
    def results(self) -> Json:
        """The results of a finished run."""
        self.require_finished()
        return read_json(self._results_file)

    @property
    def arrays(self) -> Arrays:
        """The arrays of a finished run, from spectra.npz."""
        return read_arrays(self._arrays_file)

    def save_figure(self, name: str, figure: "Figure") -> None:
        """Write figures/NAME.png and .svg."""
        for suffix in ("png", "svg"):
            write_atomically(self.path / "figures" / f"{name}.{suffix}", figure.savefig)

    @property
    def figures(self) -> list[Path]:
        """The PNG figures, in order of name."""
        return sorted((self.path / "figures").glob("[!.]*.png"))

    @property
    def _config_file(self) -> Path:
        return self.path / "config.json"

    @property
    def _provenance_file(self) -> Path:
        return self.path / "provenance.json"

    @property
    def _metrics_file(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def _results_file(self) -> Path:
        return self.path / "results.json"

    @property
    def _arrays_file(self) -> Path:
        return self.path / "spectra.npz"

    @property
    def _checkpoint_folder(self) -> Path:
        return self.path / "checkpoints"

    def _checkpoint_file(self, epoch: int) -> Path:
        return self._checkpoint_folder / f"{epoch:06d}.safetensors"


def write_arrays(path: Path, arrays: Arrays) -> None:
    """Write an .npz atomically."""

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **arrays)

    write_atomically(path, write)


def read_arrays(path: Path) -> Arrays:
    """The arrays of an .npz.

    Raises
    ------
    InputError
        Where the file is missing, damaged, or holds something else than arrays.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    except (
        ValueError,
        TypeError,
        AttributeError,
        KeyError,
        EOFError,
        BadZipFile,
        zlib.error,
    ) as error:
        raise InputError(f"{path} is no .npz of arrays: {error}") from error


def list_runs(root: Path) -> list[Run]:
    """Every run folder below ``root``, by path; not the parts that a run keeps inside itself."""
    folders = sorted(path.parent for path in root.glob("**/config.json"))
    outermost = [path for path in folders if not any(parent in folders for parent in path.parents)]
    return [Run.load(path) for path in outermost]


def arrays_below(arrays: Arrays, prefix: str) -> Arrays:
    """The arrays whose name begins with a prefix, by the rest of their name."""
    return {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}


def digest(arrays: dict[str, mx.array]) -> str:
    """SHA-256 of names, types, shapes and contents."""
    hash_ = hashlib.sha256()
    for name in sorted(arrays):
        array = arrays[name]
        hash_.update(f"{name} {array.dtype} {array.shape}".encode())
        hash_.update(np.asarray(array.reshape(-1).view(mx.uint8)).tobytes())
    return hash_.hexdigest()
