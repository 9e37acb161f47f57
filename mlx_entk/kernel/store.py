"""Where a kernel is put together: in memory, or in .npy files with resume."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import unquote

import mlx.core as mx
import numpy as np

from mlx_entk._files import map_array, read_json, reserve, write_json
from mlx_entk._linalg import FloatArray
from mlx_entk.distributed import Group, barrier, is_first, sum_over
from mlx_entk.errors import InputError
from mlx_entk.kernel.tiling import Tile

Blocks = dict[str, FloatArray]

# What a file's name cannot hold, or would take for a folder or an escape.
_RESERVED = re.compile(r"[/\\%:\x00-\x1f]|^\.")


def file_of_name(folder: Path, name: str, suffix: str) -> Path:
    """Where an array is kept; characters that no file's name may hold are written as %2F is."""
    safe = _RESERVED.sub(lambda match: f"%{ord(match[0]):02X}", name)
    return folder / f"{safe}{suffix}"


def name_of_file(path: Path) -> str:
    """The name that ``file_of_name`` made a file's name of."""
    return unquote(path.stem)


class Store(Protocol):
    """Takes the tiles of one or several kernels of the same shape."""

    def has(self, tile: Tile) -> bool:
        """Whether a tile is there already."""

    def put(self, tile: Tile, blocks: Blocks, symmetric: bool) -> None:
        """Keep a tile of each kernel, and if that is symmetric its mirror image."""

    def finish(self) -> Blocks:
        """The kernels, once every tile is there."""


class MemoryStore:
    """Kernels as arrays in memory, on every rank."""

    def __init__(self, names: Sequence[str], shape: tuple[int, ...], group: Group | None):
        self._group = group
        make = np.empty if group is None else np.zeros  # those of other ranks are added
        self._kernels = {name: make(shape, np.float32) for name in names}

    def has(self, tile: Tile) -> bool:
        """Nothing is there at first."""
        return False

    def put(self, tile: Tile, blocks: Blocks, symmetric: bool) -> None:
        """Copy the blocks into place."""
        for name, block in blocks.items():
            _place(self._kernels[name], tile, block, symmetric)

    def finish(self) -> Blocks:
        """The arrays."""
        if self._group is not None:
            for name, kernel in self._kernels.items():
                self._kernels[name] = np.array(sum_over([mx.array(kernel)], self._group)[0])
        return self._kernels


class FileStore:
    """Kernels as ``NAME.npy`` in a folder, mapped into memory for one tile at a time.

    Unfinished kernels are called ``NAME.part``; ``tiles.json`` names the tiles that they hold
    and what they are kernels of, so that the same call goes on after an interruption, on as many
    ranks as it likes. Ranks beyond the first write ``tiles-RANK.json``.

    Parameters
    ----------
    folder
        Made if it is not there.
    names, shape
        Of the kernels.
    identity
        What tells these kernels from others, ready for JSON.

    Raises
    ------
    InputError
        If the folder holds kernels already, or tiles of others.
    """

    def __init__(
        self,
        folder: Path,
        names: Sequence[str],
        shape: tuple[int, ...],
        identity: dict[str, Any],
        group: Group | None,
    ):
        self._folder, self._names, self._group = folder, names, group
        rank = 0 if group is None else group.rank()
        self._record = folder / (f"tiles-{rank}.json" if rank else "tiles.json")
        self._identity = json.loads(json.dumps(identity))
        self._own: list[list[int]] = []
        if is_first(group) and not self._record.exists():
            self._begin(shape)
        barrier(group)
        self._done = [key for record in self._records() for key in self._read(record)]
        if self._record.exists():
            self._own = self._read(self._record)

    def _records(self) -> list[Path]:
        return sorted(self._folder.glob("tiles*.json"))

    def _read(self, record: Path) -> list[list[int]]:
        stored = read_json(record)
        if stored.get("identity") != self._identity:
            raise InputError(f"{self._folder} holds tiles of another kernel: choose another folder")
        tiles: list[list[int]] = stored["tiles"]
        return tiles

    def _begin(self, shape: tuple[int, ...]) -> None:
        """Empty files for the kernels."""
        folder, names = self._folder, self._names
        for name in names:
            if self._path(name, ".npy").exists():
                raise InputError(f"{self._path(name, '.npy')} exists: choose another folder")
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"cannot write to {folder}: {error.strerror or error}") from error
        for name in names:
            path = self._path(name, ".part")
            np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
            reserve(path, path.stat().st_size)
        self._save()

    def has(self, tile: Tile) -> bool:
        """Whether an earlier call has put it."""
        return tile.key in self._done

    def put(self, tile: Tile, blocks: Blocks, symmetric: bool) -> None:
        """Write the blocks, then note that they are there."""
        for name, block in blocks.items():
            # Mapped anew for every tile, so that the pages written do not stay resident.
            kernel = np.lib.format.open_memmap(self._path(name, ".part"), mode="r+")
            _place(kernel, tile, block, symmetric)
            kernel.flush()
        self._own.append(tile.key)
        self._save()

    def finish(self) -> Blocks:
        """The kernels, mapped from their finished files, read-only."""
        barrier(self._group)
        if is_first(self._group):
            for name in self._names:
                if self._path(name, ".part").exists():  # a kill may have come between two renames
                    self._path(name, ".part").replace(self._path(name, ".npy"))
            for record in self._records():  # tiles.json, which says that there are any, last
                record.unlink()
        barrier(self._group)
        return {name: map_array(self._path(name, ".npy")) for name in self._names}

    def _path(self, name: str, suffix: str) -> Path:
        return file_of_name(self._folder, name, suffix)

    def _save(self) -> None:
        write_json(self._record, {"identity": self._identity, "tiles": self._own})


def _place(kernel: FloatArray, tile: Tile, block: FloatArray, symmetric: bool) -> None:
    """K[n, m, c, d], and K[m, n, d, c] = K[n, m, c, d] on the other side of the diagonal."""
    classes = (tile.left, tile.right) if kernel.ndim == 4 else ()
    kernel[(tile.rows, tile.columns, *classes)] = block
    if symmetric and not tile.diagonal:
        mirrored = block.swapaxes(0, 1)
        mirrored = mirrored.swapaxes(2, 3) if classes else mirrored
        kernel[(tile.columns, tile.rows, *classes[::-1])] = mirrored
