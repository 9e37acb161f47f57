"""Files that appear whole or not at all, and are refused if they were damaged.

A file is written under a temporary name in the same folder, flushed to the disk, and renamed. A
file that is read may have been truncated, altered or made by someone else: every function that
reads one raises ``mlx_entk.errors.InputError`` if it is damaged, if it is anything but a regular
file, or if it would fill the memory; and none loads a pickle. What a file calls itself never
becomes a path; see ``file_names`` and ``inside``.
"""

import errno
import hashlib
import json
import math
import os
import re
import shutil
import stat
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from mlx_entk._memory import default_limit, format_bytes
from mlx_entk.errors import InputError

Arrays = dict[str, NDArray[Any]]
Json = dict[str, Any]

# The temporary names that ``write_atomically`` and ``temporary_folder`` give.
_TEMPORARY_FILE = re.compile(r"\..*\.\d+\.tmp(\.\w+)?", re.DOTALL)

# JSON takes up to this many times its size once it is read: lists of short lists are the worst.
_JSON_GROWTH = 40

# The most folders that lie within one another.
_DEEPEST = 100

# How JSON may write half of a surrogate pair, which is no text.
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")

# Names that are file names as they stand, on every file system.
_PLAIN = re.compile(r"\w[\w.\-]{0,99}", re.ASCII)

# The key under which a JSON file keeps the digest of everything else in it.
_DIGEST = "sha256"


# Names and places


def file_names(names: Iterable[str]) -> dict[str, str]:
    """Names for files, without a suffix, that are different on every file system.

    A name that can be one stays as it is. Any other (a path, a hidden or an overlong name, one that
    differs from another in its case alone) becomes a slug with a digest.
    """
    names = list(names)
    folded = [name.casefold() for name in names]
    return {
        name: name if _PLAIN.fullmatch(name) and folded.count(fold) == 1 else _slug(name)
        for name, fold in zip(names, folded, strict=True)
    }


def _slug(name: str) -> str:
    readable = re.sub(r"[^\w.\-]+", "_", name, flags=re.ASCII)[:80].lstrip(".-")
    digest = hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()
    return f"{readable or '_'}~{digest[:12]}"  # no plain name has a ~


def inside(folder: Path, *parts: str) -> Path:
    """A path below a folder.

    Raises
    ------
    InputError
        If it leads out of the folder, by a link for example.
    """
    path = folder.joinpath(*parts)
    try:
        if path.resolve().is_relative_to(folder.resolve()):
            return path
    except (OSError, RuntimeError, ValueError) as error:  # a circle of links, a null byte
        raise InputError(f"{path} cannot be used: {error}") from error
    raise InputError(f"{path} leads out of {folder}: remove the link")


def require_own(folder: Path) -> None:
    """Remove temporary files that a kill left in a folder, and refuse links that leave it.

    Folders inside that have a config.json of their own are left alone.

    Raises
    ------
    InputError
        For a link that leaves the folder, or a file that is neither regular nor a folder.
    """
    for path in _below(folder):
        if path.is_symlink():
            inside(folder, *path.relative_to(folder).parts)
        elif _TEMPORARY_FILE.fullmatch(path.name):
            path.unlink(missing_ok=True)
        else:
            _require_regular(path)


def _below(folder: Path) -> Iterator[Path]:
    """Files and links below a folder, links to folders among them, but not what they lead to."""
    waiting = [(folder, 0)]
    while waiting:
        place, depth = waiting.pop()
        if depth > _DEEPEST:
            raise InputError(f"{folder} has more than {_DEEPEST} folders within one another")
        for path in _entries(place):
            if path.is_symlink() or not path.is_dir():
                yield path
            elif not (path / "config.json").exists():
                waiting.append((path, depth + 1))


def folders_with(root: Path, name: str) -> list[Path]:
    """Every folder from ``root`` down that holds a file, but not through links, sorted.

    Folders that lie too deep, or cannot be read, are left out.
    """
    found, waiting = [], [(root, 0)]
    while waiting:
        place, depth = waiting.pop()
        if (place / name).exists():
            found.append(place)
        if depth < _DEEPEST:
            waiting += [
                (path, depth + 1)
                for path in _entries(place)
                if not path.is_symlink() and path.is_dir()
            ]
    return sorted(found)


def _entries(folder: Path) -> list[Path]:
    """What lies in a folder; nothing if it cannot be read."""
    try:
        with os.scandir(folder) as entries:
            return [Path(entry.path) for entry in entries]
    except OSError:
        return []


def _require_regular(path: Path) -> int:
    """The size of a file; InputError if it cannot be read, or reading it could wait for ever."""
    try:
        status = path.stat()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    except ValueError as error:  # a null byte
        raise InputError(f"cannot read {str(path)!r}: {error}") from error
    if stat.S_ISDIR(status.st_mode):
        raise InputError(f"cannot read {path}: it is a folder")
    if not stat.S_ISREG(status.st_mode):
        raise InputError(f"cannot read {path}: it is not a regular file")
    return status.st_size


def _require_room(path: Path, size: int) -> None:
    limit = default_limit()
    if size > limit:
        raise InputError(
            f"{path} would take {format_bytes(size)} of memory, more than half of what is "
            f"available ({format_bytes(limit)})"
        )


# Writing


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
        temporary.unlink(missing_ok=True)  # a link of this name would be written through
        try:
            write(temporary)
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from error


def write_text(path: Path, text: str) -> None:
    """Write text atomically, in UTF-8; InputError for half of a surrogate pair, which has none."""
    try:
        encoded = text.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"cannot write {path}: a name in it is not Unicode") from error
    write_atomically(path, lambda temporary: temporary.write_bytes(encoded))


def append_line(path: Path, line: str) -> None:
    """Append a line to a text file; raises InputError if that fails."""
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(f"{line}\n")
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from error


def read_text(path: Path) -> str:
    """The text of a file in UTF-8.

    Raises
    ------
    InputError
        If the file is missing, is not text, or is too large to be read as JSON.
    """
    _require_room(path, _JSON_GROWTH * _require_regular(path))
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise InputError(f"{path} is not text in UTF-8: {error}") from error


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
    write_text(path, json.dumps(sealed, indent=1, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Json:
    """Read back what ``write_json`` wrote, without the digest.

    Raises
    ------
    InputError
        If the file is missing, is not a JSON object, or was altered.
    """
    text = read_text(path)
    try:
        value = parse_json(text)
    except ValueError as error:
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


def parse_json(text: str) -> Any:
    """Parse JSON.

    Raises
    ------
    ValueError
        If it is damaged, and for NaN, infinite numbers, half of a surrogate pair, and nesting
        beyond all measure.
    """
    try:
        value = json.loads(text, parse_constant=_finite, parse_float=_finite, parse_int=_whole)
        if _SURROGATE.search(text):
            json.dumps(value, ensure_ascii=False).encode()  # fails unless they come in pairs
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    return value


def _whole(text: str) -> int:
    """An integer of 64 bits: larger ones are no numbers that anything here writes."""
    if len(text) > 20 or not -(2**63) <= (number := int(text)) < 2**63:
        raise ValueError(f"it holds the integer {text[:20]}…")
    return number


def _finite(text: str) -> float:
    if not math.isfinite(number := float(text)):
        raise ValueError(f"it holds {text}")
    return number


def _digest_of_json(value: Json) -> str:
    text = json.dumps(value, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


# Arrays


def write_arrays(path: Path, arrays: Arrays) -> None:
    """Write an .npz atomically."""

    def write(temporary: Path) -> None:
        # Not savez, which takes an array called "file" for its argument.
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, array in arrays.items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, np.asanyarray(array), allow_pickle=False)

    write_atomically(path, write)


def read_arrays(path: Path) -> Arrays:
    """The arrays of an .npz from any source; pickles are refused.

    Raises
    ------
    InputError
        If the file is missing or damaged, holds anything but arrays, or would fill the memory.
    """
    _require_regular(path)
    try:
        with path.open("rb") as file:
            with zipfile.ZipFile(file) as archive:
                members = archive.infolist()
                for member in members:
                    _require_whole(archive, member)
            _require_room(path, sum(member.file_size for member in members))
            file.seek(0)
            with np.load(file, allow_pickle=False) as stored:
                arrays = {name: stored[name] for name in stored.files}
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    except Exception as error:  # a damaged file makes zipfile and NumPy raise almost anything
        raise InputError(f"{path} is not an .npz of arrays: {error}") from error
    return arrays


def _require_whole(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> None:
    """Raise ValueError for what is no array, or claims more than the archive holds of it.

    NumPy would take the memory that the array claims before it finds that out.
    """
    with archive.open(member) as file:
        try:
            old = np.lib.format.read_magic(file) == (1, 0)
            read_header = getattr(np.lib.format, f"read_array_header_{1 if old else 2}_0")
            shape, _, dtype = read_header(file)
        except ValueError as error:
            raise ValueError(f"{member.filename} is not an array: {error}") from error
    claimed = math.prod(shape) * dtype.itemsize
    if claimed > member.file_size:
        raise ValueError(f"{member.filename} has {member.file_size} bytes, not {claimed}")


def map_array(path: Path) -> NDArray[Any]:
    """The array of an .npy, mapped read-only.

    Raises
    ------
    InputError
        If the file is missing or damaged.
    """
    _require_regular(path)
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
    _require_room(path, _require_regular(path))
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


def digest_of_texts(texts: Sequence[str]) -> str:
    """A digest of texts in order."""
    found = hashlib.sha256()
    for text in texts:
        encoded = text.encode()
        found.update(len(encoded).to_bytes(8, "little") + encoded)
    return found.hexdigest()[:16]


def digest_of_file(path: Path) -> str:
    """SHA-256 of a file's contents.

    Raises
    ------
    InputError
        If the file cannot be read.
    """
    _require_room(path, _require_regular(path))
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
