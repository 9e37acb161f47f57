"""Where a kernel is put together: in memory, or in .npy files with resume."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import mlx.core as mx
import numpy as np

from mlx_entk._files import file_names, inside, map_array, read_json, reserve, write_json
from mlx_entk._linalg import FloatArray
from mlx_entk._records import from_json, to_json
from mlx_entk.distributed import Group, barrier, is_first, sum_over
from mlx_entk.errors import InputError
from mlx_entk.kernel.tiling import Tile, Tiling

Blocks = dict[str, FloatArray]

# The record of the first rank; a folder of unfinished kernels has it.
_RECORD = "tiles.json"


def load_kernels(folder: Path, names: Sequence[str], shape: tuple[int, ...]) -> Blocks:
    """Finished kernels of a ``FileStore``, mapped from their files, read-only.

    Raises
    ------
    InputError
        If a file is missing or damaged, or holds an array of another shape or type.
    """
    files = file_names(names)
    return {name: _mapped(inside(folder, f"{files[name]}.npy"), shape) for name in names}


def _mapped(path: Path, shape: tuple[int, ...]) -> FloatArray:
    array = map_array(path)
    if array.shape != shape or array.dtype != np.float32:
        raise InputError(
            f"{path} is damaged: it holds {array.dtype} of shape {array.shape}, not float32 of "
            f"shape {shape}"
        )
    return array


def kernels_are_whole(folder: Path, names: Sequence[str]) -> bool:
    """Whether a ``FileStore`` has finished these kernels in a folder."""
    made = [inside(folder, f"{file}.npy").exists() for file in file_names(names).values()]
    return all(made) and not (folder / _RECORD).exists()


class Store(Protocol):
    """Takes the tiles of one or several kernels of the same shape.

    Attributes
    ----------
    tiling
        How the kernels are cut.
    """

    tiling: Tiling

    def has(self, tile: Tile) -> bool:
        """Whether a tile is there already."""

    def put(self, piece: Tile, blocks: Blocks, symmetric: bool) -> None:
        """Keep a piece of a tile of each kernel, and if that is symmetric its mirror image."""

    def note(self, tile: Tile) -> None:
        """Remember that every piece of a tile is there."""

    def finish(self) -> Blocks:
        """The kernels, once every tile is there."""


class MemoryStore:
    """Kernels as arrays in memory, on every rank."""

    def __init__(
        self, names: Sequence[str], shape: tuple[int, ...], tiling: Tiling, group: Group | None
    ):
        self.tiling, self._group = tiling, group
        make = np.empty if group is None else np.zeros  # those of other ranks are added
        self._kernels = {name: make(shape, np.float32) for name in names}

    def has(self, tile: Tile) -> bool:
        """Nothing is there at first."""
        return False

    def put(self, piece: Tile, blocks: Blocks, symmetric: bool) -> None:
        """Copy the blocks into place."""
        for name, block in blocks.items():
            _place(self._kernels[name], piece, block, symmetric)

    def note(self, tile: Tile) -> None:
        """Nothing is asked of it later."""

    def finish(self) -> Blocks:
        """The arrays."""
        if self._group is not None:
            for name, kernel in self._kernels.items():
                self._kernels[name] = np.array(sum_over([mx.array(kernel)], self._group)[0])
        return self._kernels


class FileStore:
    """Kernels as .npy files in a folder, mapped into memory for one tile at a time.

    A file is called as ``mlx_entk._files.file_names`` says: ``NAME.npy`` if the name can be one.

    Unfinished kernels end in ``.part``; ``tiles.json`` says what they are kernels of, how they are
    cut and which tiles they hold, so that the same call goes on after an interruption, on as many
    ranks and with as much memory as it likes. Ranks beyond the first write ``tiles-RANK.json``.

    Parameters
    ----------
    folder
        Made if it is not there.
    names, shape
        Of the kernels.
    identity
        What tells these kernels from others, ready for JSON.
    tiling
        How to cut them, unless they were begun with another tiling: ``tiling`` is then that one.

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
        tiling: Tiling,
        group: Group | None,
    ):
        self._folder, self._names, self._group = folder, names, group
        self._shape, self._files = shape, file_names(names)
        rank = 0 if group is None else group.rank()
        self._record = folder / (f"tiles-{rank}.json" if rank else _RECORD)
        self._identity = json.loads(json.dumps(identity))
        self.tiling = tiling
        self._own: list[list[int]] = []
        if is_first(group):
            if self._record.exists():
                self._require_begun()
            else:
                self._begin()
        barrier(group)
        # Every rank takes the tiling of the first record, which the first rank has written.
        self.tiling, _ = self._read(folder / _RECORD)
        self._done = self._tiles()
        if self._record.exists():
            _, self._own = self._read(self._record)

    def _records(self) -> list[Path]:
        return sorted(self._folder.glob("tiles*.json"))

    def _tiles(self) -> list[list[int]]:
        """The tiles that all ranks have put so far."""
        return [key for record in self._records() for key in self._read(record)[1]]

    def _read(self, record: Path) -> tuple[Tiling, list[list[int]]]:
        stored = read_json(record)
        if stored.get("identity") != self._identity:
            raise InputError(f"{self._folder} holds tiles of another kernel: choose another folder")
        tiling = from_json(Tiling, stored.get("tiling"), f"{record}")
        if min(tiling.inputs, tiling.cotangents) < 1:
            raise InputError(f"{record} is damaged: its tiles are empty")
        return tiling, from_json(list[list[int]], stored.get("tiles"), f"{record}")

    def _require_begun(self) -> None:
        """Raise InputError if the files that hold the tiles are not what was begun."""
        for name in self._names:
            begun = self._path(name, ".part")
            _mapped(begun if begun.exists() else self._path(name, ".npy"), self._shape)

    def _begin(self) -> None:
        """Empty files for the kernels."""
        folder, names = self._folder, self._names
        for name in names:
            if self._path(name, ".npy").exists():
                raise InputError(f"{self._path(name, '.npy')} exists: choose another folder")
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"cannot write to {folder}: {error.strerror or error}") from error
        for record in self._records():  # of tiles that the new files will not hold
            record.unlink()
        for name in names:
            path = self._path(name, ".part")
            np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=self._shape)
            reserve(path, path.stat().st_size)
        self._save()

    def has(self, tile: Tile) -> bool:
        """Whether an earlier call has put it."""
        return tile.key in self._done

    def put(self, piece: Tile, blocks: Blocks, symmetric: bool) -> None:
        """Write the blocks."""
        for name, block in blocks.items():
            # Mapped anew for every piece, so that the pages written do not stay resident.
            kernel = np.lib.format.open_memmap(self._path(name, ".part"), mode="r+")
            _place(kernel, piece, block, symmetric)
            kernel.flush()

    def note(self, tile: Tile) -> None:
        """Write down that a tile is there."""
        self._own.append(tile.key)
        self._save()

    def finish(self) -> Blocks:
        """The kernels, mapped from their finished files, read-only."""
        barrier(self._group)
        if is_first(self._group):
            # A kill may come between any two of these steps. Until the last one, tiles.json says
            # that the kernels hold every tile, whichever rank put it.
            self._own = self._tiles()
            self._save()
            for name in self._names:
                if self._path(name, ".part").exists():
                    self._path(name, ".part").replace(self._path(name, ".npy"))
            for record in self._records():  # tiles.json last, by its name
                record.unlink()
        barrier(self._group)
        return load_kernels(self._folder, self._names, self._shape)

    def _path(self, name: str, suffix: str) -> Path:
        return inside(self._folder, f"{self._files[name]}{suffix}")

    def _save(self) -> None:
        record = {"identity": self._identity, "tiling": to_json(self.tiling), "tiles": self._own}
        write_json(self._record, record)


def _place(kernel: FloatArray, tile: Tile, block: FloatArray, symmetric: bool) -> None:
    """K[n, m, c, d], and K[m, n, d, c] = K[n, m, c, d] on the other side of the diagonal."""
    classes = (tile.left, tile.right) if kernel.ndim == 4 else ()
    kernel[(tile.rows, tile.columns, *classes)] = block
    if symmetric and not tile.diagonal:
        mirrored = block.swapaxes(0, 1)
        mirrored = mirrored.swapaxes(2, 3) if classes else mirrored
        kernel[(tile.columns, tile.rows, *classes[::-1])] = mirrored
