"""Files that appear whole or not at all, and are refused if they were damaged.

A file is written under a temporary name in the same folder, flushed to the disk, and renamed. A
file that is read may have been truncated, altered or made by someone else: every function that
reads one raises ``mlx_entk.errors.InputError`` if it is damaged, and none loads a pickle.
"""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from mlx_entk._memory import format_bytes
from mlx_entk.errors import InputError

Arrays = dict[str, NDArray[Any]]
Json = dict[str, Any]

# Matches the temporary names of files that are being written.
TEMPORARY = ".*.tmp*"

# The key under which a JSON file keeps the digest of everything else in it.
_DIGEST = "sha256"


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a temporary file next to ``path``, then rename it to ``path``.

    Raises
    ------
    InputError
        If the file cannot be written or the disk is full; nothing is left behind.
    """
    temporary = path.with_name(f".{path.stem[:100]}.{os.getpid()}.tmp{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            write(temporary)
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from error


def append_line(path: Path, line: str) -> None:
    """Append a line to a text file; raises InputError if that fails."""
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(f"{line}\n")
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from error


def reserve(path: Path, size: int) -> None:
    """Reserve disk space for a file that will be written through a memory map.

    If the disk fills up while a mapped file is written, a bus error ends the process, so the
    space is reserved first.

    Raises
    ------
    InputError
        If there is not enough space.
    """
    try:
        free = shutil.disk_usage(path.parent).free
        if free < size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        with path.open("r+b") as file:
            if hasattr(os, "posix_fallocate"):  # macOS lacks it
                os.posix_fallocate(file.fileno(), 0, size)
    except OSError as error:
        raise InputError(
            f"cannot write {path}, which takes {format_bytes(size)}: {error.strerror or error}"
        ) from error


# JSON


def write_json(path: Path, value: Json) -> None:
    """Write a JSON object atomically, with a digest of the rest as a key; NaN is refused."""
    plain = json.loads(json.dumps(value, allow_nan=False))  # as it will be read back
    sealed = {**plain, _DIGEST: _digest_of_json(plain)}
    text = json.dumps(sealed, indent=1, ensure_ascii=False) + "\n"
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def read_json(path: Path) -> Json:
    """Read back what ``write_json`` wrote, without the digest.

    Raises
    ------
    InputError
        If the file is missing, is not a JSON object, or was altered.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is damaged: {error}") from error
    if not isinstance(value, dict):
        raise InputError(f"{path} is damaged: it does not hold a JSON object")
    if _DIGEST not in value:
        raise InputError(
            f"{path} is damaged: it has no digest, so it was altered, or an earlier version of "
            "mlx-entk wrote it"
        )
    stored = value.pop(_DIGEST)
    if stored != _digest_of_json(value):
        raise InputError(f"{path} is damaged: it is not what mlx-entk wrote there")
    return value


def _digest_of_json(value: Json) -> str:
    text = json.dumps(value, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


# Arrays


def write_arrays(path: Path, arrays: Arrays) -> None:
    """Write an .npz atomically."""

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **arrays)

    write_atomically(path, write)


def read_arrays(path: Path) -> Arrays:
    """The arrays of an .npz from any source; pickles are refused.

    Raises
    ------
    InputError
        If the file is missing or damaged, or holds anything but arrays.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    except Exception as error:  # a damaged file makes zipfile and NumPy raise almost anything
        raise InputError(f"{path} is not an .npz of arrays: {error}") from error
    for name, array in arrays.items():
        if not isinstance(array, np.ndarray):  # any other file in the archive comes as bytes
            raise InputError(f"{path} is not an .npz of arrays: {name} is not an array")
    return arrays


def map_array(path: Path) -> NDArray[Any]:
    """The array of an .npy, mapped read-only.

    Raises
    ------
    InputError
        If the file is missing or damaged.
    """
    try:
        return np.asanyarray(np.load(path, mmap_mode="r", allow_pickle=False))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    except Exception as error:  # see read_arrays
        raise InputError(f"{path} is not an .npy of an array: {error}") from error


def write_tensors(path: Path, arrays: dict[str, mx.array], metadata: dict[str, str]) -> None:
    """Write a .safetensors atomically."""

    def write(temporary: Path) -> None:
        try:
            mx.save_safetensors(str(temporary), arrays, metadata)
        except RuntimeError as error:  # MLX raises it if the disk is full or the file not writable
            raise OSError(errno.EIO, f"{error} ({format_bytes(_free(path))} free)") from error

    write_atomically(path, write)


def _free(path: Path) -> int:
    return shutil.disk_usage(path.parent).free


def read_tensors(path: Path) -> tuple[dict[str, mx.array], dict[str, str]]:
    """The arrays of a .safetensors and its metadata.

    Raises
    ------
    InputError
        If the file is missing or damaged.
    """
    try:
        stored: Any = mx.load(str(path), return_metadata=True)
        return stored[0], stored[1]
    except (RuntimeError, ValueError, OSError) as error:
        raise InputError(f"{path} is not a .safetensors, or is damaged: {error}") from error


def digest(arrays: dict[str, mx.array]) -> str:
    """SHA-256 of the names, types, shapes and contents of arrays."""
    hash_ = hashlib.sha256()
    for name in sorted(arrays):
        array = arrays[name]
        hash_.update(f"{name} {array.dtype} {array.shape}".encode())
        hash_.update(np.asarray(array.reshape(-1).view(mx.uint8)).tobytes())
    return hash_.hexdigest()


def digest_of_file(path: Path) -> str:
    """SHA-256 of a file's contents.

    Raises
    ------
    InputError
        If the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
